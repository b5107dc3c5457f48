"""Path lengths and separability against closed forms; names; by the verb; refusals."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import linear_styles
import numpy as np
import pytest

from bigjax.algorithms.base import configs
from bigjax.core import errors
from bigjax.evaluation import after_training
from bigjax.evaluation.metrics import path_length, separability
from bigjax.evaluation.metrics.registry import OF_GENERATOR, FeatureStats
from bigjax.evaluation.of_networks import generator_scores
from bigjax.evaluation.of_networks.generator_scores import Measure
from bigjax.evaluation.reference import no_network
from bigjax.models.pretrained import taps
from bigjax.sampling.loaded import Loaded
from bigjax.training.program import make_program

SQUARES = lambda a, b: jnp.square(a - b).sum(1)


def measured(name, loaded, num=64, crop=False, distance=None):
  """The one score of a generator, and its name."""
  measure = Measure(distance or taps.pixels(), crop, no_network(), 32)
  ((name, value),) = measure.scored([name], loaded, loaded.spec(), None, num, 0).items()
  return name, value


# --- Path lengths


@pytest.mark.usefixtures('x64')
def test_the_length_in_w_of_a_linear_generator_is_that_of_its_step():
  rng = np.random.RandomState(0)
  a, b, weights = rng.randn(6, 4), rng.randn(6, 4), rng.randn(4, 30)
  at = lambda t: jnp.matmul(path_length.lerp(jnp.asarray(a), jnp.asarray(b), t), weights)
  found = path_length.lengths(at, SQUARES, jnp.asarray(rng.uniform(size=6)))
  np.testing.assert_allclose(found, np.square((b - a) @ weights).sum(1), rtol=1e-6)


@pytest.mark.usefixtures('x64')
def test_the_length_on_an_arc_is_its_angle():
  rng = np.random.RandomState(0)
  a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.randn(2, 6, 9))
  at = lambda t: path_length.slerp(jnp.asarray(a), jnp.asarray(b), t)
  angle = np.arccos((a * b).sum(1))
  for t in (0.0, 0.3):
    found = path_length.lengths(at, SQUARES, jnp.full(6, t))
    np.testing.assert_allclose(found, angle**2, rtol=1e-6)
  np.testing.assert_allclose(at(jnp.zeros(6)), a, atol=1e-12)
  np.testing.assert_allclose(at(jnp.ones(6)), b, atol=1e-12)
  long = path_length.slerp(jnp.asarray(2 * a), jnp.asarray(4 * b), jnp.full(6, 0.5))
  np.testing.assert_allclose(np.linalg.norm(long, axis=1), 3)


def test_what_lies_outside_the_percentiles_does_not_count():
  found = np.arange(1000.0)
  found[0], found[-1] = -1e9, 1e9
  assert path_length.expected(np.random.RandomState(0).permutation(found)) == pytest.approx(499.5)


def test_a_face_is_where_the_official_crop_has_it():
  rows, columns = np.mgrid[:16, :16]
  image = np.stack([rows, columns], -1)[None]
  face = path_length.cropped(jnp.asarray(image))
  assert face.shape == (1, 8, 8, 2)
  assert face[0, 0, 0].tolist() == [6, 4] and face[0, -1, -1].tolist() == [13, 11]


@pytest.mark.parametrize('devices', [1, 2])
def test_of_a_generator_in_w(devices):
  loaded = linear_styles.loaded(devices=devices)
  z = loaded.sampler.latents(0, 128, loaded.spec())
  w = loaded.sampler.mapped(loaded.gen, z, np.zeros(128, np.int32))
  steps = np.einsum('nw,lwp->np', w[1::2] - w[0::2], np.asarray(loaded.gen['layers']))
  want = path_length.expected(np.square(steps).mean(1))
  for name in ('ppl_w_full', 'ppl_w_end'):
    full, value = measured(name, loaded)
    assert full == f'{name}64_pixels'
    assert value == pytest.approx(want, rel=0.02)
  # Noise is the same for both images: however strong, it adds no length.
  noisy = linear_styles.loaded(strength=1.0, devices=devices)
  assert measured('ppl_w_full', noisy)[1] == pytest.approx(want, rel=0.2)


def test_of_a_generator_in_z_with_styles_and_without():
  loaded = linear_styles.loaded()
  plain = dataclasses.replace(loaded.sampler, generator=WithoutStyles())
  plain = Loaded(plain, loaded.gen, loaded.card)
  values = [measured('ppl_z_end', one)[1] for one in (loaded, plain)]
  assert values[0] == pytest.approx(values[1], rel=0.02) and values[0] > 0
  # Nor does noise add length in z, whether there are styles or not.
  noisy = linear_styles.loaded(strength=1.0)
  other = Loaded(plain.sampler, noisy.gen, noisy.card)
  for one in (noisy, other):
    assert measured('ppl_z_end', one)[1] == pytest.approx(values[0], rel=0.2)
  with pytest.raises(errors.UserError, match='--metrics=ppl_w_full needs a generator with styles'):
    generator_scores.refuse(['ppl_z_end', 'ppl_w_full'], plain)


class WithoutStyles(linear_styles.LinearStyles):
  """The same generator, of which nothing else is known."""

  styles = None


def test_names_say_the_network_its_size_and_the_crop():
  distance = taps.image_distance('efficientnet_lite0_random')
  name, value = measured('ppl_w_end', linear_styles.loaded(), 32, True, distance)
  assert name == 'ppl_w_end32_perceptual_efficientnet_lite0_random_at32px_crop' and value > 0


# --- Separability


def test_a_plane_parts_what_it_defines_and_nothing_else():
  rng = np.random.RandomState(0)
  w, v = rng.randn(2000, 5), rng.randn(5, 2)
  assert separability.separability(w, w @ v) == pytest.approx(1.0, abs=0.02)
  coin = rng.randn(2000, 1)
  assert separability.separability(w, coin) == pytest.approx(2.0, abs=0.05)
  assert separability.separability(w, np.abs(coin)) == 1  # always yes: nothing is unknown
  curved = (np.square(w[:, :1]) - 0.45) * np.ones((1, 2))
  one = separability.separability(w, curved[:, :1])
  assert separability.separability(w, curved) == pytest.approx(one**2)


def test_the_surer_half_counts():
  rng = np.random.RandomState(0)
  w, v = rng.randn(2000, 5), rng.randn(5)
  sure = np.where(np.arange(2000) % 2, 10 * np.sign(w @ v), 0.1 * rng.randn(2000))
  assert separability.separability(w, sure[:, None]) == pytest.approx(1.0, abs=0.1)


def test_entropy_and_margins_are_the_formulas():
  x, y = np.array([0, 0, 0, 0, 1, 1], bool), np.array([0, 0, 0, 1, 1, 1], bool)
  want = -4 / 6 * (0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
  assert separability.conditional_entropy(x, y) == pytest.approx(want)
  logits = np.array([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
  assert separability.margins(logits).tolist() == [[1, -2, -1], [-5, 4, -4]]


def test_separability_of_a_generator():
  """Attributes that are signs of w are parted in w; where w is an angle of z, in z they are not."""
  loaded = linear_styles.loaded()
  z = loaded.sampler.latents(0, 500, loaded.spec())
  w = loaded.sampler.mapped(loaded.gen, z, np.zeros(500, np.int32))
  logits = np.stack([w[:, 0], -w[:, 0]], 1)
  samples = FeatureStats(500, None, logits=logits)
  network = dataclasses.replace(no_network(), name='signs', num_logits=2)
  measure = Measure(None, False, network, 100)
  found = measure.scored(['ls_w', 'ls_z'], loaded, loaded.spec(), samples, 500, 0)
  assert found == {
    'ls_w500_signs_2attributes': pytest.approx(1, abs=0.1),
    'ls_z500_signs_2attributes': pytest.approx(1, abs=0.1),
  }
  with pytest.raises(errors.UserError, match=r'--metrics=ls_w takes the outputs .* none has 0'):
    generator_scores.refuse_network(['ppl_w_end', 'ls_w'], no_network())


# --- The verb


def test_by_the_verb(bigjax, tmp_path, monkeypatch):
  monkeypatch.setattr(
    after_training, 'load', lambda path, classifier: linear_styles.loaded(devices=8)
  )
  words = ['evaluate', '--params=x.npz', f'--out={tmp_path}', '--num=64', '--batch=32']
  status, out, err = bigjax(
    *words, '--metrics=ppl_w_full,ppl_z_end', '--distance=pixels', '--seeds=0,1'
  )
  assert status == 0, err
  assert '| ppl_w_full64_pixels | ' in out and ' ± ' in out and 'ppl_z_end64_pixels' in out
  (row,) = [json.loads(line) for line in (tmp_path / 'scores.jsonl').read_text().splitlines()]
  assert row['protocol']['distance'] == 'pixels' and row['protocol']['epsilon'] == 1e-4
  assert row['protocol']['network'] == 'none' and row['floor'] == {}
  refused = lambda *more: bigjax(*words, *more)[2]
  assert "'ppl_w'" in refused('--metrics=ppl_w') and 'ppl_w_full' in refused('--metrics=ppl_w')
  assert '--distance is of path lengths' in refused('--metrics=fid', '--distance=pixels')
  assert '--crop is of path lengths' in refused('--metrics=ls_w', '--crop')


def test_what_is_refused():
  program = make_program(configs.read('digits:tiny'), jax.devices()[:1])
  loaded = Loaded(program.sampler(program.stage(0)), {}, {})
  for name, metric in OF_GENERATOR.items():
    with pytest.raises(errors.UserError, match='is a score of a generator, not of images'):
      generator_scores.refuse([name], None)
    if metric.space == 'w':
      with pytest.raises(errors.UserError, match=f'--metrics={name} needs a generator with styles'):
        generator_scores.refuse([name], loaded)
