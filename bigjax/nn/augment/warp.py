"""Affine warps of images as ADA resamples them (Karras et al. 2020, appendix B).

Margins that mirror the image, upsampling by 2 with the wavelet sym6, bilinear samples of the
result, and back down with sym6: no aliasing, and no edge comes into view. Where we differ: the
official margins are as wide as the widest that any image of the device's batch needs, at most
`side - 1`; here they have that greatest width always. An image then does not depend on its
neighbours in the batch, and shapes are static.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bigjax.core import device
from bigjax.nn import upfirdn

SYM6 = np.array([
  0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
  0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
  -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
])  # fmt: skip
TAPS = SYM6 / SYM6.sum()
_PAD = len(TAPS) // 4  # pixels that the downsampling filter needs beyond the image, on each side

MOST_BY_PRODUCTS = 64  # px

Margins = tuple[tuple[int, int], tuple[int, int]]  # ((top, bottom), (left, right)), pixels


def affine(rows: list[list[jax.Array | float]]) -> jax.Array:
  """Stack entries, [B] each or one number for all, into matrices [B, len(rows), len(rows[0])]."""
  like = next(entry for row in rows for entry in row if isinstance(entry, jax.Array))
  full = lambda entry: jnp.broadcast_to(jnp.asarray(entry, like.dtype), like.shape)
  return jnp.stack([jnp.stack([full(entry) for entry in row], -1) for row in rows], -2)


def translate(x: jax.Array, y: jax.Array) -> jax.Array:
  return affine([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def scale(x: jax.Array, y: jax.Array | float) -> jax.Array:
  return affine([[x, 0.0, 0.0], [0.0, y, 0.0], [0.0, 0.0, 1.0]])


def rotate(angle: jax.Array) -> jax.Array:
  """From the x axis towards the y axis, which points down: clockwise as one sees it."""
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return affine([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def times(a: jax.Array, b: jax.Array) -> jax.Array:
  """Products of small matrices [B, n, m] and [B, m, k], exact on every device."""
  return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)


def widest(height: int, width: int) -> Margins:
  return (height - 1, height - 1), (width - 1, width - 1)


def warp(images: jax.Array, inverse: jax.Array, margins: Margins | None = None) -> jax.Array:
  """Warp each image by its own affine map.

  Args:
    images: [B, H, W, C], float32 or wider.
    inverse: [B, 3, 3] or [B, 2, 3]: where each pixel of the result lies in the image, (x, y, 1) in
      pixels from the image's centre.
    margins: mirrored pixels around the image; beyond them it is 0. The widest by default.
  """
  h, w = images.shape[1:3]
  vertical, horizontal = margins or widest(h, w)
  up = _up(h, *vertical), _up(w, *horizontal)
  at = _positions(inverse, h, w, (vertical, horizontal))
  by_products = device.on_tpu() and max(h, w) <= MOST_BY_PRODUCTS
  sampled = (sample_by_products if by_products else sample_by_indices)(images, up, *at)
  return upfirdn.along_axes(_down(h), _down(w), sampled)


def _up(size: int, before: int, after: int) -> np.ndarray:
  """The matrix [2 (before + size + after), size] of mirrored margins, then upsampling."""
  half = len(TAPS) // 2
  pad = (half, half - 1)  # the filter is heaviest where pixel k becomes pixel 2 k
  margins = upfirdn.mirror(size, before, after)
  return upfirdn.fir(len(margins), TAPS, up=2, pad=pad) @ margins


def _down(size: int) -> np.ndarray:
  """The matrix [size, 2 (size + 2 _PAD)] of downsampling without the border."""
  cut = len(TAPS) // 2 - 1 - 2 * _PAD
  return upfirdn.fir(2 * (size + 2 * _PAD), TAPS, down=2, pad=(cut, cut), flip=True)


def _positions(inverse: jax.Array, h: int, w: int, margins: Margins) -> tuple[jax.Array, jax.Array]:
  """Rows and columns [B, 2 (H + 2 _PAD), 2 (W + 2 _PAD)] of the upsampled image to be sampled.

  Pixel k of an image of n lies at k - (n - 1) / 2 from its centre, and becomes pixel 2 k.
  """
  from_centre = lambda n: (np.arange(2 * n) - (n - 1)) / 2
  y, x = np.meshgrid(from_centre(h + 2 * _PAD), from_centre(w + 2 * _PAD), indexing='ij')
  m = inverse[:, :2, :, None, None]
  source = m[:, :, 0] * x[None, None].astype(inverse.dtype)
  source += m[:, :, 1] * y[None, None].astype(inverse.dtype) + m[:, :, 2]  # [B, 2, rows, columns]
  (top, _), (left, _) = margins
  return 2 * (source[:, 1] + top) + (h - 1), 2 * (source[:, 0] + left) + (w - 1)


# Two equal forms of the bilinear samples [B, h, w, C], at `rows` and `columns` [B, h, w], of the
# images [B, H, W, C] enlarged by the matrices `up` [2M, H] and [2N, W]; outside they are 0.


def sample_by_indices(
  images: jax.Array, up: tuple[np.ndarray, np.ndarray], rows: jax.Array, columns: jax.Array
) -> jax.Array:
  """Enlarge the image, with a ring of zeros, and look its pixels up, four for each sample.

  Each pixel is looked up together with where it lies, of which its weight is made: XLA computes a
  position in several places and rounds it as each suits, and near an edge between pixels an index
  of one and a weight of another would be a pixel apart.
  """
  images = upfirdn.along_axes(*(np.pad(matrix, ((1, 1), (0, 0))) for matrix in up), images)
  b, h, w, c = images.shape
  place = np.stack(np.meshgrid(np.arange(h) - 1, np.arange(w) - 1, indexing='ij'), -1)
  place = jnp.broadcast_to(jnp.asarray(place, images.dtype)[None], (b, h, w, 2))
  table = jnp.concatenate([images, place], -1).reshape(b, h * w, c + 2)
  rows, columns = rows.astype(images.dtype), columns.astype(images.dtype)
  above, left = jnp.floor(rows), jnp.floor(columns)
  tent = lambda away: jnp.maximum(1 - jnp.abs(away), 0)
  total = jnp.zeros((*rows.shape, c), images.dtype)
  for row in (above, above + 1):
    for column in (left, left + 1):
      at = (jnp.clip(row, -1, h - 2) + 1) * w + jnp.clip(column, -1, w - 2) + 1
      at = at.astype(jnp.int32).reshape(b, -1, 1)
      found = jnp.take_along_axis(table, at, 1).reshape(*rows.shape, c + 2)
      place = lax.stop_gradient(found[..., c:])
      weight = tent(rows - place[..., 0]) * tent(columns - place[..., 1])
      total += weight[..., None] * found[..., :c]
  return total


def sample_by_products(
  images: jax.Array, up: tuple[np.ndarray, np.ndarray], rows: jax.Array, columns: jax.Array
) -> jax.Array:
  """The same as products of matrices: the weights of a sample are those of its row and column.

  TPUs look indices up one by one, and add gradients to indices one by one. The work grows with the
  fourth power of the side.
  """

  def weights(at, num):  # [B, P] -> [B, P, num]
    away = jnp.abs(at[:, :, None] - jnp.arange(num, dtype=at.dtype)[None, None])
    return jnp.maximum(1 - away, 0).astype(images.dtype)

  b, c = len(images), images.shape[3]
  up_rows, up_columns = up
  cast = lambda matrix: jnp.asarray(matrix, images.dtype)
  # 16 bits of a weight are more than a float32 position is good for.
  product = functools.partial(jnp.einsum, precision='high')
  by_row = product('bps,sh->bph', weights(rows.reshape(b, -1), len(up_rows)), cast(up_rows))
  wide = jnp.einsum('sw,bhwc->bshc', cast(up_columns), images, precision='highest')
  by_column = product('bps,bshc->bphc', weights(columns.reshape(b, -1), len(up_columns)), wide)
  return (by_row[..., None] * by_column).sum(2).reshape(*rows.shape, c)
