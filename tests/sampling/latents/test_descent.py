"""Descent: the official schedule, one program for all steps."""

import linear_latents
import linear_styles
import numpy as np
import pytest

from bigjax.models.pretrained import taps
from bigjax.sampling.latents import descent
from bigjax.sampling.latents.projection import Projector
from bigjax.sampling.latents.search import LatentSearch


def test_learning_rates_are_the_official_ones():
  steps = [0, 25, 50, 500, 750, 875, 999]
  rates = [float(descent.learning_rate(step, 1000)) for step in steps]
  np.testing.assert_allclose(rates, [0, 0.05, 0.1, 0.1, 0.1, 0.05, 4e-6], rtol=2e-2, atol=1e-9)
  assert rates[-1] == pytest.approx(0.1 * (0.5 - 0.5 * np.cos(np.pi * 0.004)), rel=1e-2)


def test_noise_fades_as_in_the_official_code():
  found = [float(descent.noise_scale(step, 1000)) for step in (0, 375, 750, 999)]
  np.testing.assert_allclose(found, [0.05, 0.05 / 4, 0, 0], atol=1e-8)


@pytest.mark.parametrize('kind', [Projector, LatentSearch])
@pytest.mark.parametrize('devices', [1, 2])
def test_steps_are_compiled_once(kind, devices):
  """Whatever parts the images come in: a step of a large generator takes a minute to compile."""
  toy = linear_styles if kind is Projector else linear_latents
  loaded = toy.loaded(devices=devices)
  search = kind(loaded, taps.pixels(), 3, 123, np.zeros(1, np.int32))
  found = search.in_parts(np.zeros((3, *loaded.shape), np.uint8), 2, 'given')
  assert type(found).__name__ in ('Projected', 'Found') and len(found.after) == 3
  assert search._step._cache_size() == 1
