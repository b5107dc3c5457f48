"""Penalties over several scales against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.nn.objectives import multiscale

W = np.random.default_rng(0).normal(size=(4, 4, 3)).astype(np.float32)
SQUARE = float((W**2).sum())
KEYS = jax.random.split(jax.random.key(0), 5)


def linear(*slopes):
  """A critic: the sum over the scales of slope times the product with W of their image's corner."""

  def score(images):
    pairs = zip(slopes, images, strict=True)
    return sum(a * (x[:, :4, :4] * W[None]).sum((1, 2, 3)) for a, x in pairs)

  return score


def pyramid(seed, *sizes):
  rng = np.random.default_rng(seed)
  return tuple(rng.normal(size=(5, s, s, 3)).astype(np.float32) for s in sizes)


def penalty_of(penalty, score, real, fake):
  return np.asarray(jax.jit(penalty, static_argnums=0)(score, real, fake, KEYS))


@pytest.mark.parametrize('sizes', [(4, 4), (4, 8)])
def test_r1_is_a_mean_over_scales(sizes):
  # weights 1 and 2: (1 + 4) / 2 |w|^2, and gamma / 2 of it, of real images
  real, fake = pyramid(0, *sizes), pyramid(1, *sizes)
  got = penalty_of(multiscale.r1_penalty(2.0), linear(1, 2), real, fake)
  np.testing.assert_allclose(got, np.full(5, 2.5 * SQUARE), rtol=1e-6)
  ten = penalty_of(multiscale.r1_penalty(), linear(1, 2), real, fake)
  np.testing.assert_allclose(ten, 5 * got, rtol=1e-6)
  each = jax.jit(lambda real: multiscale.squared_slopes(linear(1, 2), real))(real)
  np.testing.assert_allclose(each, [[SQUARE] * 5, [4 * SQUARE] * 5], rtol=1e-6)


def test_scales_that_are_not_looked_at_do_not_count():
  real, fake = pyramid(0, 4, 8, 16), pyramid(1, 4, 8, 16)
  score, looked_at = linear(1, 0, 2), (True, False, True)
  got = penalty_of(multiscale.r1_penalty(2.0, looked_at), score, real, fake)
  np.testing.assert_allclose(got, np.full(5, 2.5 * SQUARE), rtol=1e-6)
  # else a flat scale would cost the gradient penalty 1, whatever the critic does
  got = penalty_of(multiscale.gradient_penalty(1.0, 0.0, looked_at), score, real, fake)
  np.testing.assert_allclose(got, np.full(5, 2.5 * SQUARE), rtol=1e-6)


def test_gradient_penalty_of_a_linear_critic():
  root = SQUARE**0.5
  want = 10 * ((root - 1.5) ** 2 + (2 * root - 1.5) ** 2) / 2
  penalty = multiscale.gradient_penalty(10.0, 1.5)
  got = penalty_of(penalty, linear(1, 2), pyramid(0, 4, 8), pyramid(1, 4, 8))
  np.testing.assert_allclose(got, np.full(5, want), rtol=1e-6)


def test_all_scales_of_a_pair_lie_equally_far_between():
  # Slopes of a quadratic critic tell where it was asked: D = |x|^2 / 2 has the slope |x|.
  ones = lambda value: tuple(np.full((5, s, s, 3), value, np.float32) for s in (4, 8))
  quadratic = lambda images: sum(jnp.square(x).sum((1, 2, 3)) / 2 for x in images)
  seen = []

  def score(images):
    seen.append(images)
    return quadratic(images)

  penalty = multiscale.gradient_penalty(1.0, 0.0)
  got = penalty_of(penalty, score, ones(0.0), ones(1.0))
  alpha = np.asarray(jax.jit(jax.vmap(jax.random.uniform))(KEYS))
  np.testing.assert_allclose(got, alpha**2 * 3 * (16 + 64) / 2, rtol=1e-5)
  assert len(np.unique(got)) == 5 and len(seen) == 1


def test_gradient_at_a_flat_critic_is_finite():
  real, fake = pyramid(0, 4, 8), pyramid(1, 4, 8)
  value = lambda a: multiscale.gradient_penalty()(linear(a, 0), real, fake, KEYS).mean()
  assert np.isfinite(float(jax.jit(jax.grad(value))(0.0)))
