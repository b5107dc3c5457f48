"""Augmentations: what they may and may not change, image by image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.nn import augment


def keys(num, seed=0):
  return jax.random.split(jax.random.key(seed), num)


def images(*shape):
  return jnp.asarray(np.random.default_rng(0).uniform(0.1, 1, size=shape), jnp.float32)


def shifts(before, after):
  """The (dy, dx) with after[i, j] = before[i - dy, j - dx] and 0 outside; None if there is none."""
  h, w, _ = before.shape
  for dy in range(-h + 1, h):
    for dx in range(-w + 1, w):
      want = np.zeros_like(before)
      want[max(dy, 0) : h + min(dy, 0), max(dx, 0) : w + min(dx, 0)] = before[
        max(-dy, 0) : h + min(-dy, 0), max(-dx, 0) : w + min(-dx, 0)
      ]
      if np.array_equal(want, after):
        return dy, dx
  return None


@pytest.mark.parametrize('name', list(augment.AUGMENTATIONS))
def test_contract(name):
  """Shape and dtype stay, examples do not depend on each other, gradients reach the image."""
  fn = jax.jit(augment.AUGMENTATIONS[name])
  x = images(4, 16, 16, 3)
  y = fn(keys(4), x)
  assert y.shape == x.shape and y.dtype == x.dtype
  np.testing.assert_array_equal(fn(keys(4)[1:3], x[1:3]), y[1:3])
  assert fn(keys(4), x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
  grad = jax.jit(jax.grad(lambda x: fn(keys(4), x).sum()))(x)
  assert (np.abs(grad).max((1, 2, 3)) > 0).all()


def test_none_returns_the_images():
  x = images(2, 8, 8, 1)
  assert augment.none(keys(2), x) is x


def test_translation_shifts_up_to_an_eighth_and_fills_with_zero():
  # DiffAugment (Zhao et al. 2020): translation by up to 1/8 of each side; 16 x 8 px -> +-2, +-1.
  num = 300
  x = jnp.broadcast_to(images(1, 16, 8, 2), (num, 16, 8, 2))
  y = np.asarray(jax.jit(augment.translation)(keys(num), x))
  found = [shifts(np.asarray(x[0]), one) for one in y[:60]]
  assert None not in found  # each is a pure shift of the whole image
  assert {dy for dy, _ in found} == {-2, -1, 0, 1, 2}
  assert {dx for _, dx in found} == {-1, 0, 1}
  # 15 equally likely outcomes in 300 draws: 20 +- 4.3 each.
  counts = np.unique(y.reshape(num, -1), axis=0, return_counts=True)[1]
  assert len(counts) == 15 and counts.min() > 4 and counts.max() < 45


def test_translation_moves_real_and_fake_alike_under_one_key():
  real, fake = images(3, 16, 16, 1), 2 * images(3, 16, 16, 1)
  fn = jax.jit(augment.translation)
  np.testing.assert_array_equal(fn(keys(3), fake), 2 * fn(keys(3), real))


def test_translation_gradient_is_the_shift_backwards():
  # A pixel shifted out of the frame gets no gradient, every other one exactly 1.
  x = images(8, 16, 16, 1)
  y, vjp = jax.vjp(lambda x: augment.translation(keys(8), x), x)
  (grad,) = vjp(jnp.ones_like(y))
  assert set(np.unique(grad)) == {0.0, 1.0}
  np.testing.assert_allclose((np.asarray(grad) * x).sum((1, 2, 3)), np.sum(y, (1, 2, 3)), rtol=1e-5)
