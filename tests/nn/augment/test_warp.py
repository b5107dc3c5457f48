"""Affine warps: known maps give known images, and both forms of the samples are equal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import device
from bigjax.nn.augment import warp

from keyed import distance, images

warped = jax.jit(warp.warp)


def maps(*rows):
  return np.array([[row[:3], row[3:]] for row in rows], np.float32)


IDENTITY = (1, 0, 0, 0, 1, 0)
QUARTER = (0, -1, 0, 1, 0, 0)  # of the pixel at (x, y): (-y, x)


def wave(x, y):
  return np.sin(0.3 * x + 0.2 * y)


def smooth(side, num=1):
  y, x = np.mgrid[:side, :side]
  return np.broadcast_to(wave(x, y)[None, :, :, None], (num, side, side, 1)).astype(np.float32)


def test_whole_moves_are_exact():
  # Whatever sym6 does on the way up it undoes on the way down, and margins mirror.
  x = images(2, 8, 8, 3)
  y = warped(x, maps(IDENTITY, (1, 0, 3, 0, 1, -2)))
  np.testing.assert_allclose(y[0], x[0], atol=1e-5)
  mirrored = np.pad(x[1], ((2, 0), (0, 3), (0, 0)), mode='reflect')
  np.testing.assert_allclose(y[1], mirrored[:8, 3:], atol=1e-5)


def test_smooth_images_are_moved_mirrored_and_turned():
  # sym6 is not symmetric: what is turned or mirrored moves by a twentieth of a pixel besides.
  x, inside = smooth(32, 3), slice(6, 26)
  y = np.asarray(warped(x, maps((1, 0, 0.37, 0, 1, -0.2), (-1, 0, 0, 0, 1, 0), QUARTER)))[..., 0]
  rows, columns = np.mgrid[:32, :32]
  for found, want in zip(
    y,
    (wave(columns + 0.37, rows - 0.2), wave(31 - columns, rows), wave(31 - rows, columns)),
    strict=True,
  ):
    np.testing.assert_allclose(found[inside, inside], want[inside, inside], atol=0.04)


def test_an_image_wider_than_high():
  x = images(1, 8, 12, 2)
  np.testing.assert_allclose(warped(x, maps(IDENTITY)), x, atol=1e-5)


ODD = maps(
  (0.8, 0.5, 1.3, -0.4, 1.1, 2.2), (9.0, 0.5, 30.0, 2.0, 9.0, 0.0), (-0.3, 2, 0, 2, 0.3, 5)
)


def run(form):
  def loss(x, cotangent):
    h, w = x.shape[1:3]
    margins = warp.widest(h, w)
    up = warp._up(h, *margins[0]), warp._up(w, *margins[1])
    y = form(x, up, *warp._positions(ODD, h, w, margins))
    return (jnp.sin(y) * cotangent[:, : y.shape[1], : y.shape[2]]).sum(), y

  x, cotangent = images(3, 12, 10, 3), images(3, 40, 40, 3)
  (_, y), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(x, cotangent)
  return y, grad


def test_both_forms_of_the_samples_are_equal():
  """Far outside the image too, where both are 0, and within rounding of a pixel's edge."""
  (y, grad), (want, want_grad) = run(warp.sample_by_products), run(warp.sample_by_indices)
  assert (np.asarray(want[1]) == 0).any() and (np.asarray(want[1]) != 0).any()
  assert distance(y, want) < 1e-5 and distance(grad, want_grad) < 1e-5


@pytest.mark.parametrize(('side', 'indexed'), [(32, False), (128, True)])
def test_no_index_is_looked_up_on_tpus_where_a_product_serves(monkeypatch, side, indexed):
  monkeypatch.setattr(device, 'on_tpu', lambda: True)
  x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  program = jax.make_jaxpr(jax.grad(lambda x: warp.warp(x, ODD[:1]).sum()))(x)
  assert ('gather' in str(program) or 'scatter' in str(program)) == indexed
