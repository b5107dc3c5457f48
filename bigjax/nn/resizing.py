"""Resizing as other programs do it, each axis by one constant matrix: no gathers.

Scores in a network's features depend on which of these its images went through.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array


def _tf1(out: np.ndarray, side: int, new: int) -> np.ndarray:
  return out * out.dtype.type(side / new)


def _torch(out: np.ndarray, side: int, new: int) -> np.ndarray:
  kind = out.dtype.type
  half = kind(0.5)  # a pixel's centre
  return np.maximum((out + half) * kind(side / new) - half, kind(0))


def _torch_corners(out: np.ndarray, side: int, new: int) -> np.ndarray:
  return out * out.dtype.type((side - 1) / max(new - 1, 1))


BILINEAR = {  # where in the old image the new one's pixels lie; all interpolate between two pixels
  'tf1_bilinear': _tf1,  # tf.compat.v1.image.resize_bilinear(align_corners=False)
  'torch_bilinear': _torch,  # F.interpolate(mode='bilinear', align_corners=False), no antialias
  'torch_bilinear_corners': _torch_corners,  # the same with align_corners=True
}


def cubic(distance: np.ndarray, a: float) -> np.ndarray:
  """Keys' kernel (1981) of the distance between two pixels, with slope `a` at 1; 0 from 2 on."""
  x = np.abs(distance)
  near = ((a + 2) * x - (a + 3)) * x * x + 1
  far = (((x - 5) * x + 8) * x - 4) * a
  return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _pil_bicubic(side: int, new: int) -> np.ndarray:
  """Image.resize(resample=BICUBIC): where the image becomes smaller, the kernel widens with it.

  What of it lies beyond the edge does not count: the weights within sum to 1.
  """
  step = side / new
  centres = (np.arange(new) + 0.5) * step
  distance = (np.arange(side)[None] + 0.5 - centres[:, None]) / max(step, 1.0)
  weights = cubic(distance, -0.5)
  return weights / weights.sum(1, keepdims=True)


FILTERS = {'pil_bicubic': _pil_bicubic}  # (old side, new side) -> matrix, in float64
RESIZERS = (*BILINEAR, *FILTERS)


def interpolation(resizer: str, side: int, new: int, dtype: np.dtype = np.float32) -> np.ndarray:
  """Return the matrix [new, side] that resizes one axis; smaller too, where BILINEAR skips pixels.

  It is computed in `dtype` where those programs do so in float32.
  """
  if resizer in FILTERS:
    return FILTERS[resizer](side, new).astype(dtype)
  out = np.arange(new, dtype=dtype)
  at = BILINEAR[resizer](out, side, new)
  low = np.minimum(at.astype(np.int32), side - 1)
  high = np.minimum(low + 1, side - 1)
  part = at - low.astype(dtype)
  matrix = np.zeros((new, side), dtype)
  rows = np.arange(new)
  matrix[rows, low] = 1 - part
  matrix[rows, high] += part  # the same pixel at the far edge
  return matrix


def resize(
  images: Array, side: int, resizer: str, precision: lax.Precision | None = lax.Precision.HIGHEST
) -> Array:
  """Resize images [B, H, W, C] of any size to [B, side, side, C], in float32 or float64.

  Args:
    resizer: one of RESIZERS.
    precision: of the products.
  """
  _, h, w, _ = images.shape
  if h != side:
    rows = jnp.asarray(interpolation(resizer, h, side, images.dtype))
    images = jnp.einsum('yh,bhwc->bywc', rows, images, precision=precision)
  if w != side:
    columns = jnp.asarray(interpolation(resizer, w, side, images.dtype))
    images = jnp.einsum('xw,bywc->byxc', columns, images, precision=precision)
  return images


def resize_uint8(
  images: Array, side: int, resizer: str, precision: lax.Precision | None = lax.Precision.HIGHEST
) -> Array:
  """Resize images [B, H, W, C] in 0..255 as Pillow does those of uint8: rounded after each axis.

  Along the width first, as Pillow does but for images that are higher than wide, for which its
  version 13 begins with the height. Gradients pass the rounding as if there were none.
  """

  def rounded(x):
    return x + lax.stop_gradient(jnp.clip(jnp.floor(x + 0.5), 0, 255) - x)

  _, h, w, _ = images.shape
  if w != side:
    columns = jnp.asarray(interpolation(resizer, w, side, images.dtype))
    images = rounded(jnp.einsum('xw,bhwc->bhxc', columns, images, precision=precision))
  if h != side:
    rows = jnp.asarray(interpolation(resizer, h, side, images.dtype))
    images = rounded(jnp.einsum('yh,bhxc->byxc', rows, images, precision=precision))
  return images
