"""Blur, pyramid and fade, against values by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.nn.style import resampling

IMAGES = jnp.arange(2 * 8 * 8 * 3, dtype=jnp.float32).reshape(2, 8, 8, 3) ** 1.5


def test_blur():
  point = np.zeros((1, 4, 4, 1), np.float32)
  point[0, 1, 2, 0] = 16
  blur = jax.jit(resampling.blur)
  want = [[0, 1, 2, 1], [0, 2, 4, 2], [0, 1, 2, 1], [0, 0, 0, 0]]
  assert np.asarray(blur(point))[0, :, :, 0].tolist() == want
  ones = np.asarray(blur(np.ones((1, 5, 5, 2), np.float32)))[0, :, :, 0]
  assert (ones[0, 0], ones[0, 2], ones[2, 2]) == (0.75**2, 0.75, 1)  # zeros beyond the border


def test_pyramid_goes_from_low_to_high():
  levels = resampling.pyramid(IMAGES, 3)
  assert [level.shape for level in levels] == [(2, 2, 2, 3), (2, 4, 4, 3), (2, 8, 8, 3)]
  assert levels[-1] is IMAGES
  boxes = np.asarray(IMAGES).reshape(2, 2, 4, 2, 4, 3).mean((2, 4))
  np.testing.assert_allclose(levels[0], boxes, rtol=1e-6)


@pytest.mark.parametrize('alpha', [0.0, 0.3, 1.0])
def test_faded_images(alpha):
  coarse = np.asarray(IMAGES).reshape(2, 4, 2, 4, 2, 3).mean((2, 4)).repeat(2, 1).repeat(2, 2)
  found = jax.jit(resampling.faded)(IMAGES, alpha)
  np.testing.assert_allclose(found, (1 - alpha) * coarse + alpha * IMAGES, rtol=1e-6)
  if alpha in (0, 1):  # nothing is left of the other one, not even its rounding
    np.testing.assert_array_equal(found, resampling.faded(IMAGES, int(alpha)))
    low, high = jax.grad(lambda both: resampling.fade(*both, alpha).sum())((IMAGES, IMAGES))
    assert not np.any(low if alpha else high) and np.all((high if alpha else low) == 1)
