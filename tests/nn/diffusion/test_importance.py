"""Draws of steps: the official stream of losses, and what draws add up to."""

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.nn.diffusion.importance import SecondMoment, Uniform

from golden_files import golden, under


def test_official_stream():
  arrays = under(golden('diffusion_tables'), 'resampler/')
  of = SecondMoment(20, int(arrays['history_per_term']), float(arrays['uniform_prob']))
  known = of.start()
  np.testing.assert_allclose(of.probabilities(known), 1 / 20, rtol=1e-6)
  t, losses = arrays['t'].astype(np.int32), arrays['loss'].astype(np.float32)
  known = jax.jit(of.learn)(known, t, losses)
  np.testing.assert_allclose(known['losses'], arrays['history_after'], rtol=1e-6)
  p = of.probabilities(known)
  want = arrays['weights_after']
  np.testing.assert_allclose(p, want / want.sum(), rtol=1e-5)
  np.testing.assert_allclose(1 / (20 * p), arrays['importance_after'], rtol=1e-5)


def test_draws_weigh_to_an_even_mean():
  """Losses of drawn steps, weighed, have the mean of all steps', however uneven the draws."""
  of = SecondMoment(10, history=2)
  losses = jnp.linspace(0.1, 5, 10)
  known = of.start()
  for _ in range(2):
    known = of.learn(known, jnp.arange(10), losses)
  keys = jax.random.split(jax.random.key(0), 40_000)
  t, weights = of.draw(keys, known)
  counts = np.bincount(np.asarray(t), minlength=10)
  np.testing.assert_allclose(counts / 40_000, of.probabilities(known), atol=0.01)
  assert counts[9] > 20 * counts[0]
  np.testing.assert_allclose((weights * losses[t]).mean(), losses.mean(), rtol=0.02)


def test_even_draws():
  of = Uniform(7)
  t, weights = of.draw(jax.random.split(jax.random.key(1), 7_000), of.start())
  assert set(np.asarray(t)) == set(range(7)) and (weights == 1).all() and t.dtype == jnp.int32
  assert np.abs(np.bincount(np.asarray(t)) / 1000 - 1).max() < 0.15


def test_a_step_that_was_never_seen_keeps_draws_even():
  of = SecondMoment(4, history=1)
  known = of.learn(of.start(), jnp.array([0, 1, 2], jnp.int32), jnp.array([1.0, 2.0, 3.0]))
  np.testing.assert_allclose(of.probabilities(known), 0.25, rtol=1e-6)
  known = of.learn(known, jnp.array([3], jnp.int32), jnp.array([0.0]))
  assert of.probabilities(known)[3] > 0 and of.probabilities(known)[2] > 0.4
