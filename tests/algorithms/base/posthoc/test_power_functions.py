"""Power-function averages: closed forms against numbers, and averages made of others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.algorithms.base.posthoc import power_functions

STDS = (0.05, 0.1)  # those that are tracked in Karras et al. 2024
STEPS, EVERY = 2000, 40


@pytest.mark.parametrize(('std', 'gamma'), [(0.05, 16.97), (0.1, 6.94), (12**-0.5, 0.0)])
def test_widths_are_those_of_the_paper(std, gamma):
  """Section 3.1: gamma = 16.97 and 6.94 of 5 % and 10 %; of a plain mean, 1/sqrt(12)."""
  assert power_functions.exponent(std) == pytest.approx(gamma, abs=5e-3)


@pytest.mark.parametrize('std', [0.01, 0.05, 0.1, 0.25, 0.288])
def test_a_width_is_the_profiles_deviation(std):
  gamma = power_functions.exponent(std)
  assert power_functions.deviation(gamma) == pytest.approx(std, rel=1e-9)
  t = (np.arange(200_000) + 0.5) / 200_000  # and by numbers
  p = t**gamma / (t**gamma).sum()
  assert np.sqrt((p * t**2).sum() - (p * t).sum() ** 2) == pytest.approx(std, rel=1e-5)


def test_inner_products_are_integrals():
  ends, stds = np.array([30.0, 100.0, 100.0]), np.array([0.1, 0.05, 0.2])
  t = (np.arange(400_000) + 0.5) * 100 / 400_000
  profiles = []
  for end, std in zip(ends, stds, strict=True):
    gamma = power_functions.exponent(std)
    profiles.append(np.where(t <= end, (gamma + 1) / end * (t / end) ** gamma, 0))
  want = np.einsum('it,jt->ij', profiles, profiles) * 100 / 400_000
  np.testing.assert_allclose(power_functions.inner(ends, stds, ends, stds), want, rtol=1e-4)


def tracked(weights, stds):
  """{std: the average after every step [steps, n]} by the update that training does."""

  def one(averages, x):
    step, params = x
    new = {std: power_functions.updated(averages[std], params, step, std) for std in stds}
    return new, new

  start = {std: jnp.full(weights.shape[1:], 7.0) for std in stds}  # which counts for nothing
  steps = jnp.arange(len(weights), dtype=jnp.int32)
  return jax.device_get(jax.jit(lambda w: jax.lax.scan(one, start, (steps, w))[1])(weights))


@pytest.fixture(scope='module')
def walk():
  """A random walk of weights that come from far away: {std: average after every step}."""
  rng = np.random.default_rng(0)
  away = 3 * np.exp(-np.arange(STEPS) / 300)[:, None] * rng.standard_normal((1, 64))
  steps = 0.02 * rng.standard_normal((STEPS, 64))
  weights = (1 + away + np.cumsum(steps, 0)).astype(np.float32)
  return weights, tracked(weights, (*STDS, 0.03, 0.08, 0.15))


def test_an_average_is_the_profiles_integral(walk):
  weights, averages = walk
  t = np.arange(STEPS + 1) / STEPS
  for std, found in averages.items():
    power = power_functions.exponent(std) + 1
    np.testing.assert_allclose(found[-1], np.diff(t**power) @ weights, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(averages[0.05][0], weights[0], atol=1e-6)


def rebuilt(averages, std, every, stds=STDS):
  ends = np.repeat(np.arange(every, STEPS + 1, every), len(stds)).astype(float)
  widths = np.tile(stds, STEPS // every)
  found, error = power_functions.coefficients(ends, widths, float(STEPS), std)
  rows = np.stack([averages[w][int(end) - 1] for end, w in zip(ends, widths, strict=True)])
  return found @ rows.astype(np.float64), error


def apart(found, want):
  return np.linalg.norm(found - want) / np.linalg.norm(want)


@pytest.mark.parametrize('std', [0.03, 0.05, 0.08, 0.1, 0.15])
def test_an_average_made_of_others_is_the_one_that_was_tracked(walk, std):
  _, averages = walk
  found, error = rebuilt(averages, std, EVERY)
  assert apart(found, averages[std][-1]) < 1e-3 and error < 0.02
  wrong, _ = rebuilt(averages, 1.15 * std, EVERY)  # the bar tells widths apart
  assert apart(wrong, averages[std][-1]) > 2e-3


def test_too_few_averages_are_told_by_the_profiles_error(walk):
  _, averages = walk
  found, error = rebuilt(averages, 0.03, STEPS // 2)
  assert apart(found, averages[0.03][-1]) > 1e-3 and error > 0.1
  _, error = rebuilt(averages, 0.03, STEPS // 2, stds=(0.1,))
  assert error > 0.3
