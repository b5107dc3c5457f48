"""What holds for every augmentation: of its own key and image alone, differentiable twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import errors
from bigjax.nn import augment

from keyed import images, keys

NAMES = [*augment.AUGMENTATIONS, 'color,translation,cutout', 'ada_bgc', 'ada_bgcfnc']


@pytest.mark.parametrize('name', NAMES)
def test_contract(name):
  """Shape and dtype stay, examples do not depend on each other, gradients reach the image."""
  fn = augment.find(name)
  x, p = images(4, 16, 16, 3), np.float32(0.7)

  @jax.jit
  def with_grad(x):
    y, back = jax.vjp(lambda x: fn(keys(4), x, p), x)
    return y, back(jnp.ones_like(y))[0]

  y, grad = with_grad(x)
  assert y.shape == x.shape and y.dtype == x.dtype
  np.testing.assert_allclose(jax.jit(fn)(keys(4)[1:3], x[1:3], p), y[1:3], rtol=1e-5, atol=1e-5)
  narrow = jax.eval_shape(fn, keys(4), x.astype(jnp.bfloat16), p)
  assert narrow.dtype == jnp.bfloat16
  assert (np.abs(grad).max((1, 2, 3)) > 0).all()


@pytest.mark.parametrize('name', ['color,translation,cutout', 'ada_bgcfnc'])
def test_penalties_of_gradients_differentiate_through(name, x64):
  """R1 through an augmentation has the derivative that finite differences give."""
  fn, x = augment.find(name), images(2, 16, 16, 3).astype(jnp.float64)

  def r1(theta):
    score = lambda x: jnp.tanh(theta * fn(keys(2), x, 0.9)).sum()
    return (jax.grad(score)(x) ** 2).sum()

  with_grad = jax.jit(jax.value_and_grad(r1))
  found = with_grad(0.5)[1]
  by_hand = (with_grad(0.5 + 1e-4)[0] - with_grad(0.5 - 1e-4)[0]) / 2e-4
  assert abs(found) > 1
  np.testing.assert_allclose(found, by_hand, rtol=1e-6)


def test_none_returns_the_images():
  x = images(2, 8, 8, 1)
  assert augment.none(keys(2), x, 1.0) is x


def test_equal_names_are_equal_augmentations():
  # What is jitted by a game that holds one is found again in the cache.
  for name in NAMES:
    assert augment.find(name) == augment.find(name)
    assert hash(augment.find(name)) == hash(augment.find(name))
  assert augment.find('ada_bgc') != augment.find('ada_bg')
  assert augment.find('ada_bg') == augment.find('ada_blit,geom')
  assert augment.find('translation') is augment.diffaugment.translation


@pytest.mark.parametrize(('name', 'said'), [('translate', 'translation'), ('ada_bgcnf', 'bgcf')])
def test_unknown_names_are_refused(name, said):
  with pytest.raises(errors.UserError, match=f'did you mean {said}'):
    augment.find(name)
