"""What growing and multi-scale networks do to images between resolutions.

They go up by nearest neighbours and down by 2x2 boxes: `upsample` and `mean_pool` of
nn/convolution.py. Longer filters are matrices: nn/upfirdn.py.
"""

import jax
import jax.numpy as jnp

from bigjax.nn.convolution import mean_pool, upsample

Array = jax.Array


def blur(x: Array) -> Array:
  """[1, 2, 1] / 4 along rows and columns, with zeros beyond the border: [B, H, W, C], the same."""
  for axis in (1, 2):
    pad = [(0, 0)] * x.ndim
    pad[axis] = (1, 1)
    padded, size = jnp.pad(x, pad), x.shape[axis]
    before, here, after = (jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(3))
    x = (before + 2 * here + after) / 4
  return x


def pyramid(images: Array, num: int) -> list[Array]:
  """An image batch at `num` resolutions, each half the next: the lowest first, itself last."""
  levels = [images]
  for _ in range(num - 1):
    levels.append(mean_pool(levels[-1]))
  return levels[::-1]


def fade(old: Array, new: Array, alpha: Array | float) -> Array:
  """alpha of the way from `old` to `new`, exactly `old` at 0 and exactly `new` at 1.

  Args:
    alpha: scalar in [0, 1], may be traced.
  """
  alpha = jnp.asarray(alpha, old.dtype)
  return (1 - alpha) * old + alpha * new


def faded(images: Array, alpha: Array | float) -> Array:
  """Real images as growing networks see them while their newest block fades in.

  At alpha 0 they show no more than half their resolution does, at 1 they are what they are.
  """
  return fade(upsample(mean_pool(images)), images, alpha)
