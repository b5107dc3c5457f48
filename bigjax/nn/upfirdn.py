"""Upsampling, filtering and downsampling of images, each axis by one matrix or by shifted sums.

An FIR filter with its zero insertion, padding and decimation is linear along an axis, so that all
of it, and what comes before it (mirrored margins), is one matrix [out, in], made in NumPy at trace
time. A product with it has a product as its gradient, of any order, and is what TPUs do best.
`resample` computes the same as a sum of shifted images, which on other devices, for a filter of
four taps, costs no more than reading and writing them.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bigjax.core import trees


def fir(
  size: int,
  taps: Sequence[float],
  up: int = 1,
  down: int = 1,
  pad: tuple[int, int] = (0, 0),
  flip: bool = False,
) -> np.ndarray:
  """The matrix [out, size] of upsampling by zeros, padding by zeros, convolving, decimating.

  Args:
    size: samples along the axis.
    taps: the filter [K]; times `up`, so that upsampling keeps the level of a signal.
    up: samples that each becomes, itself and `up - 1` zeros after it.
    down: every `down`-th result is kept.
    pad: zeros before and after the upsampled samples; negative: samples cut off.
    flip: correlate instead of convolving.
  """
  taps = up * np.asarray(taps, np.float64)[:: 1 if flip else -1]
  before, after = pad
  rows = np.arange(0, size * up + before + after - len(taps) + 1, down)
  offsets = np.arange(size)[None] * up + before - rows[:, None]  # of a sample in a result's window
  inside = (offsets >= 0) & (offsets < len(taps))
  return np.where(inside, taps[np.clip(offsets, 0, len(taps) - 1)], 0)


def mirror(size: int, before: int, after: int) -> np.ndarray:
  """The matrix [before + size + after, size] of margins that mirror at the outermost samples.

  Margins wider than the samples are mirrored again and again.
  """
  period = max(2 * size - 2, 1)
  at = np.abs((np.arange(-before, size + after) + size - 1) % period - (size - 1))
  return np.eye(size)[at]


def along_axes(rows: np.ndarray, columns: np.ndarray, images: jax.Array) -> jax.Array:
  """Apply a matrix to the rows and one to the columns: [B, H, W, C] -> [B, h, w, C].

  Args:
    rows: [h, H], or [B, h, H]: one per example.
    columns: [w, W], or [B, w, W].
  """
  for matrix, axes in ((rows, 'bhwc->brwc'), (columns, 'bwhc->bwrc')):
    matrix = jnp.asarray(matrix, images.dtype)
    left = 'brh' if matrix.ndim == 3 else 'rh'
    images = jnp.einsum(f'{left},{axes}', matrix, images, precision='highest')
  return images


def resample(
  images: jax.Array,
  taps: Sequence[float],
  up: int = 1,
  down: int = 1,
  pad: tuple[int, int] = (0, 0),
) -> jax.Array:
  """The same filter along rows and columns: [B, H, W, C] -> [B, h, w, C], summed in float32.

  Equal to `along_axes` with two matrices of `fir`, whose arguments these are; `up` or `down` is 1.
  """
  x = trees.at_least_float32(images)
  for axis in (1, 2):
    x = _shifted_sums(x, axis, up * np.asarray(taps, np.float64)[::-1], up, down, pad)
  return x.astype(images.dtype)


def _shifted_sums(x, axis, taps, up, down, pad):
  """`resample` along one axis: each of the `up` phases of the result, then these in turn."""
  before, after = pad
  num = (x.shape[axis] * up + before + after - len(taps)) // down + 1
  each = -(-num // up)  # results of a phase
  # Tap k of result r meets sample (r * down + k - before) / up, if that is whole.
  meets = [
    [(k, (p + k - before) // up) for k in range(len(taps)) if (p + k - before) % up == 0]
    for p in range(up)
  ]
  starts = [start for phase in meets for _, start in phase]
  low = max(0, -min(starts))
  high = max(0, max(starts) + down * (each - 1) + 1 - x.shape[axis])
  width = [(0, 0)] * x.ndim
  width[axis] = (low, high)
  padded = jnp.pad(x, width)

  def seen(start):
    first = start + low
    return lax.slice_in_dim(padded, first, first + down * (each - 1) + 1, down, axis)

  phases = [sum(taps[k].item() * seen(start) for k, start in phase) for phase in meets]
  if up == 1:
    return phases[0]
  shape = list(x.shape)
  shape[axis] = each * up
  return lax.slice_in_dim(jnp.stack(phases, axis + 1).reshape(shape), 0, num, axis=axis)
