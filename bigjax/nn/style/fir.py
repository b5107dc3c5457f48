"""StyleGAN2's resampling (Karras et al. 2020, App. B): the filter [1, 3, 3, 1], and convolutions.

The filter is as wide beyond the border as a convolution that follows needs, so that only zeros are
out there. Convolutions correlate, as all others here; the official code's of upsampled maps do not,
and its kernels of those are ours turned by 180 degrees.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bigjax.core import device
from bigjax.nn import upfirdn
from bigjax.nn.convolution import interleave
from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.style.blocks import NORMAL

Array = jax.Array
TAPS = np.array([1.0, 3.0, 3.0, 1.0]) / 8


def filtered(x: Array, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)) -> Array:
  """The filter along rows and columns, in whichever form of nn/upfirdn.py is faster.

  Arguments are those of `upfirdn.resample`. TPUs take two products with matrices, whose values are
  exact in any dtype: half of the time that shifted sums take in bfloat16, and a quarter of the
  memory or less (benchmarks/style_forms.py).
  """
  if not device.on_tpu():
    return upfirdn.resample(x, TAPS, up, down, pad)
  for axis in (1, 2):
    x = _product(x, axis, matrix_of(x.shape[axis], up, down, pad, x.dtype))
  return x


def matrix_of(size: int, up: int, down: int, pad: tuple[int, int], dtype: Any) -> Array:
  """The matrix of `upfirdn.fir` with TAPS, computed where it is used.

  As constants, those of a network at 1024 px are most of its program.
  """
  num = (size * up + sum(pad) - len(TAPS)) // down + 1
  at = functools.partial(lax.broadcasted_iota, jnp.int32, (num, size))
  offset = at(1) * up + pad[0] - at(0) * down  # of a sample in a result's window
  taps = enumerate(up * TAPS[::-1])
  return sum(jnp.where(offset == k, jnp.asarray(tap, dtype), 0) for k, tap in taps)


def _product(x: Array, axis: int, matrix: Array) -> Array:
  """A matrix [out, in] of numbers that bfloat16 holds, along an axis.

  Only the map's digits need more passes than one: three, where 'highest' of both is six. The map is
  on the left, as its gradients then are: JAX gives these the precisions in the same order.
  """
  precision = (lax.Precision.HIGHEST, lax.Precision.DEFAULT)
  y = lax.dot_general(x, matrix, (((axis,), (1,)), ((), ())), precision=precision)
  return jnp.moveaxis(y, -1, axis)


def upsample(x: Array) -> Array:
  """Twice the resolution: [B, H, W, C] -> [B, 2H, 2W, C]."""
  return filtered(x, up=2, pad=(2, 1))


def downsample(x: Array) -> Array:
  """Half the resolution: [B, H, W, C] -> [B, H/2, W/2, C]."""
  return filtered(x, down=2, pad=(1, 1))


def up_conv_plain(x: Array, kernel: Array, kernels: Kernels = FAST) -> Array:
  """Upsample by 2, with one pixel more on each side, then convolve 3x3."""
  return kernels.conv(filtered(x, up=2, pad=(3, 2)), kernel, 1, 'VALID')


def _phases() -> np.ndarray:
  """What tap a of a 3x3 kernel weighs pixel i - 1 + m with in results 2i + p: [p, m, a]."""
  weights = np.zeros((2, 3, 3))
  for p, m, a in np.ndindex(weights.shape):
    k = 2 * m + 1 - p - a  # tap of the filter that lies between
    weights[p, m, a] = 2 * TAPS[k] if 0 <= k < len(TAPS) else 0
  return weights


def up_conv(x: Array, kernel: Array, kernels: Kernels = FAST) -> Array:
  """The same as `up_conv_plain`, as one 3x3 convolution of x: [B, H, W, C] -> [B, 2H, 2W, N].

  Filter and kernel are one of 6x6, and every second of its taps meets an inserted zero: each of the
  four phases of the result sees 3x3 pixels of x. As many multiplications, of four times as many
  outputs, and no filtered map in memory.
  """
  weights = jnp.asarray(_phases(), kernel.dtype)
  both = jnp.einsum('pia,qjb,abcd->ijcpqd', weights, weights, kernel, precision='highest')
  y = kernels.conv(x, both.reshape(*both.shape[:3], -1))
  return interleave(jnp.split(y, 4, axis=-1))


def down_conv(x: Array, kernel: Array, kernels: Kernels = FAST) -> Array:
  """Filter, then convolve 3x3 with stride 2: [B, H, W, C] -> [B, H/2, W/2, N]."""
  return kernels.conv(filtered(x, pad=(2, 2)), kernel, 2, 'VALID')


class DownConv(nn.Module):
  """3x3 or 1x1 convolution to half the resolution: [B, H, W, C] -> [B, H/2, W/2, features]."""

  features: int
  size: int = 3
  use_bias: bool = True
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel, x = self.param('kernel', NORMAL, shape, jnp.float32), x.astype(self.dtype)
    if self.size == 1:  # commutes with the filter, and is cheaper after it
      x = self.kernels.conv(downsample(x), kernel)
    else:
      x = down_conv(x, kernel, self.kernels)
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
      x = x + bias.astype(self.dtype)[None, None, None]
    return x
