"""Names of TPU slices, and the model of their interconnect."""

import math

import pytest

from bigjax.core import errors
from bigjax.preflight import tpu_slices


@pytest.mark.parametrize(
  ('name', 'topology', 'devices'),
  [
    ('v2-8', 'v2:2x2', 8),
    ('v3-8', 'v3:2x2', 8),
    ('v3-32', 'v3:4x4', 32),
    ('v3-128', 'v3:8x8', 128),
    ('v3-256', 'v3:8x16', 256),
    ('v3-512', 'v3:16x16', 512),
    ('v3-2048', 'v3:32x32', 2048),
    ('v4-8', 'v4:2x2x1', 4),
    ('v4-16', 'v4:2x2x2', 8),
    ('v4-128', 'v4:4x4x4', 64),
    ('v5p-128', 'v5p:4x4x4', 64),
    ('v5litepod-1', 'v5e:1x1', 1),
    ('v5litepod-256', 'v5e:16x16', 256),
    ('v5e-8', 'v5e:2x4', 8),
    ('v6e-64', 'v6e:8x8', 64),
    ('V6E-256', 'v6e:16x16', 256),
    ('tpu7x-8', 'tpu7x:2x2x1', 8),
    ('tpu7x-128', 'tpu7x:4x4x4', 128),
    ('v5p:4x4x8', 'v5p:4x4x8', 128),
  ],
)
def test_names_people_use(name, topology, devices):
  found = tpu_slices.find(name)
  assert (found.topology, found.num_devices) == (topology, devices)


@pytest.mark.parametrize(
  'name', ['v3-100', 'v9-8', 'v3', 'v3-', '', 'v3-4096', 'gpu-8', 'v3:2x2x2', 'v5litepod-512']
)
def test_unknown_slices_are_refused_with_the_known(name):
  with pytest.raises(errors.UserError, match=r'v3|numbers of chips|v5litepod'):
    tpu_slices.find(name)


def test_every_listed_name_is_found():
  names = tpu_slices.names()
  assert len(names) > 40 and {'v3-128', 'v5litepod-256', 'v6e-64', 'tpu7x-8'} <= set(names)
  for name in names:
    assert tpu_slices.find(name).num_chips <= tpu_slices.find(name).generation.largest


def test_published_peaks_are_the_matrix_units_times_the_clock():
  """Per chip: cores x matrix units x side^2 x 2 x clock; v6e has 256 x 256 units."""
  units = {'v2': 2 * 1, 'v3': 2 * 2, 'v4': 2 * 4, 'v5e': 4, 'v5p': 2 * 4}
  for name, num in units.items():
    chip = tpu_slices.GENERATIONS[name]
    assert math.isclose(num * 128 * 128 * 2 * chip.clock, chip.peak, rel_tol=0.02), name


def test_a_ring_moves_all_but_one_share_twice():
  ring = tpu_slices.find('v5litepod-256')  # 16 x 16, both axes wrap
  num_bytes = 10**9
  want = 2 * num_bytes * (1 - 1 / 256) / (4 * ring.generation.link)
  assert math.isclose(
    tpu_slices.collective_seconds('all-reduce', num_bytes, ring, 0),
    want + tpu_slices.LAUNCH,
    rel_tol=1e-6,
  )
  line = tpu_slices.find('v5litepod-64')  # 8 x 8, no axis wraps
  slower = tpu_slices.collective_seconds('all-reduce', num_bytes, line, 0)
  assert 1.9 < slower / want < 2.1


def test_small_collectives_cost_their_latency_and_one_device_none():
  pod = tpu_slices.find('v3-2048')
  assert (
    tpu_slices.collective_seconds('all-reduce', 4, pod, 0)
    >= tpu_slices.LAUNCH + 2 * 32 * tpu_slices.HOP
  )
  assert tpu_slices.collective_seconds('all-reduce', 10**9, tpu_slices.find('v5litepod-1'), 0) == 0
