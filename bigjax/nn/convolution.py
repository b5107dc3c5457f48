"""Convolution with resampling, and attention: equal formulas, of which the fastest is chosen.

NHWC images, HWIO kernels, in the dtype of what is given; attention's logits and softmax are at
least float32. Which form is faster depends on shape and device: benchmarks/README.md has the
measurements.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bigjax.core import device, trees

Array = jax.Array
_NHWC = ('NHWC', 'HWIO', 'NHWC')


def upsample(x: Array) -> Array:
  """Nearest-neighbour upsampling by 2: [B, H, W, C] -> [B, 2H, 2W, C]."""
  b, h, w, c = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
  return x.reshape(b, 2 * h, 2 * w, c)


def mean_pool(x: Array) -> Array:
  """2x2 average pooling: [B, H, W, C] -> [B, H/2, W/2, C]."""
  b, h, w, c = x.shape
  return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def max_pool_plain(x: Array) -> Array:
  """2x2 max pooling: [B, H, W, C] -> [B, H/2, W/2, C]; equal pixels share the gradient."""
  b, h, w, c = x.shape
  return x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))


_WINDOWS = (1, 2, 2, 1), (1, 2, 2, 1), 'VALID'


@jax.custom_vjp
def max_pool_windows(x: Array) -> Array:
  """The same as `max_pool_plain`, and so is its gradient, without an array of six axes.

  What XLA derives as the gradient of a maximum over windows has no estimate on TPUs, and gives all
  to the first of equal pixels.
  """
  return lax.reduce_window(x, -jnp.inf, lax.max, *_WINDOWS)


def _pool_forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
  y = max_pool_windows(x)
  return y, (x, y)


def _pool_backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array]:
  x, y = saved
  zero = np.zeros((), dy.dtype)  # known while tracing: else JAX has no gradient of the sums

  def repeated(y: Array) -> Array:  # upsample(y): zeros between pixels, then sums of windows
    apart = lax.pad(y, zero, ((0, 0, 0), (0, 1, 1), (0, 1, 1), (0, 0, 0)))
    pads = (0, 0), (1, 0), (1, 0), (0, 0)
    return lax.reduce_window(apart, zero, lax.add, (1, 2, 2, 1), (1, 1, 1, 1), pads)

  largest = x == repeated(y)
  num = lax.reduce_window(largest.astype(dy.dtype), zero, lax.add, *_WINDOWS)
  return (jnp.where(largest, repeated(dy / num), zero),)


max_pool_windows.defvjp(_pool_forward, _pool_backward)


def max_pool(x: Array) -> Array:
  """`max_pool_plain` or `max_pool_windows`, whichever is faster."""
  return (max_pool_windows if device.on_tpu() else max_pool_plain)(x)


LITE = ('TPU v5 lite', 'TPU v6 lite', 'TPU7x')  # where other forms win than on v3, v4 and v5p
# Pixels a side up to which a TPU is faster with a strided convolution as four of stride 1.
FOUR = {'TPU v3': 32, 'TPU v4': 64, 'TPU v5': 64, 'TPU v5 lite': 64, 'TPU v6 lite': 64}
_PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))


def interleave(phases: Sequence[Array]) -> Array:
  """Return y with y[:, 2i+p, 2j+q] = phases[2p+q][:, i, j]: four [B, H, W, C] -> [B, 2H, 2W, C].

  On v3, v4 and v5p TPUs each is written where it belongs: rows and columns are the outer axes of an
  image there, so that a convolution can write its phase into the whole. Stacking them costs two
  more passes there, and fewer than writing in place on the others.
  """
  b, h, w, c = phases[0].shape
  if device.on_tpu() and device.device_kind() not in LITE:
    y = lax.empty((b, h, 2, w, 2, c), phases[0].dtype)
    for (p, q), phase in zip(_PHASES, phases, strict=True):
      y = lax.dynamic_update_slice(y, phase[:, :, None, :, None], (0, 0, p, 0, q, 0))
  else:
    y = jnp.stack(phases, 3).reshape(b, h, w, 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
  return y.reshape(b, 2 * h, 2 * w, c)


def conv(x: Array, kernel: Array, stride: int = 1, padding: Any = 'SAME') -> Array:
  """NHWC convolution with an HWIO kernel, in the dtype of x."""
  kernel = kernel.astype(x.dtype)
  return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=_NHWC)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_chunked(x: Array, kernel: Array, stride: int = 1, padding: Any = 'SAME') -> Array:
  """The same as `conv`; the gradient of the kernel is summed over chunks of the batch.

  XLA on CPUs takes a convolution over all pixels of all examples for it, and three times as long.
  """
  return conv(x, kernel, stride, padding)


def _chunked_forward(x, kernel, stride, padding):
  return conv(x, kernel, stride, padding), (x, kernel)


def _chunked_backward(stride, padding, saved, dy):
  x, kernel = saved
  of_x = lambda x: conv(x, kernel, stride, padding)
  (dx,) = jax.linear_transpose(of_x, x)(dy)
  return dx, kernel_grad(x, kernel, dy, stride, padding)


conv_chunked.defvjp(_chunked_forward, _chunked_backward)


def kernel_grad(x: Array, kernel: Array, dy: Array, stride: int, padding: Any) -> Array:
  """Return the gradient of `conv` with respect to its kernel: on CPUs, summed over chunks."""

  def of_part(x, dy):
    return jax.linear_transpose(lambda k: conv(x, k, stride, padding), kernel)(dy)[0]

  num, positions = x.shape[0], stride * dy.shape[1] * dy.shape[2]
  is_symbolic = not isinstance(num, int)  # of a program that wants the gradient of x alone
  if device.device_kind() != 'cpu' or min(kernel.shape[-2:]) <= FEW or is_symbolic:
    return of_part(x, dy)
  divisors = [n for n in range(1, num + 1) if num % n == 0]
  fits = next((n for n in divisors if num // n * positions <= CHUNK), num)
  chunks = next(n for n in divisors if n >= min(fits, MANY_CHUNKS))
  return sum(map(of_part, jnp.split(x, chunks), jnp.split(dy, chunks)))


CHUNK = 2048  # pixels
MANY_CHUNKS = 16  # each is compiled by itself, in a tenth of a second; more of them gain little
FEW = 8  # channels up to which other forms win
BLOCK = 4  # pixels a side


def conv_columns(x: Array, kernel: Array) -> Array:
  """The same as `conv` with stride 1, as one matrix product of all windows: for few channels."""
  b, h, w, _ = x.shape
  kh, kw, _, features = kernel.shape
  low, high = (kh - 1) // 2, kh // 2
  padded = jnp.pad(x, ((0, 0), (low, high), ((kw - 1) // 2, kw // 2), (0, 0)))
  columns = [padded[:, i : i + h, j : j + w] for i in range(kh) for j in range(kw)]
  columns = jnp.concatenate(columns, -1).reshape(b * h * w, -1)
  return (columns @ kernel.reshape(-1, features)).reshape(b, h, w, features)


def conv_blocks(x: Array, kernel: Array) -> Array:
  """The same as `conv` with a 3x3 kernel: for few outputs, which fill no row of a matrix unit.

  The pixels of each block of the output are channels of one convolution with a stride: a pixel at
  (p, q) in its block sees the kernel that far from the corner of a larger one.
  """
  b, h, w, _ = x.shape
  features, last = kernel.shape[-1], BLOCK - 1
  kernels = [
    jnp.pad(kernel, ((p, last - p), (q, last - q), (0, 0), (0, 0)))
    for p in range(BLOCK)
    for q in range(BLOCK)
  ]
  y = conv(x, jnp.concatenate(kernels, -1), BLOCK, ((1, 1), (1, 1)))
  y = y.reshape(b, h // BLOCK, w // BLOCK, BLOCK, BLOCK, features)
  return y.transpose(0, 1, 3, 2, 4, 5).reshape(b, h, w, features)


def conv_biased(x: Array, kernel: Array, bias: Array, conv: Callable[..., Array] = conv) -> Array:
  """A convolution of stride 1 plus a bias [N]."""
  return conv(x, kernel) + bias.astype(x.dtype)[None, None, None]


def conv_constant(x: Array, kernel: Array, bias: Array) -> Array:
  """The same as `conv_biased`: the bias is the middle tap of one more channel, which is one.

  For a few channels, which leave a matrix unit room: the gradient of the bias comes with the
  kernel's, where it would be another pass over the map's.
  """
  (kh, kw), row = kernel.shape[:2], bias.astype(kernel.dtype)[None, None, None]
  pads = ((kh - 1) // 2, kh // 2), ((kw - 1) // 2, kw // 2), (0, 0), (0, 0)
  x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], -1)
  return conv(x, jnp.concatenate([kernel, jnp.pad(row, pads)], 2))


def depthwise_plain(x: Array, kernel: Array, stride: int = 1, padding: Any = 'SAME') -> Array:
  """NHWC convolution of each channel by itself, with a kernel [kh, kw, 1, C], in the dtype of x."""
  kernel, num = kernel.astype(x.dtype), x.shape[-1]
  return lax.conv_general_dilated(
    x, kernel, (stride, stride), padding, dimension_numbers=_NHWC, feature_group_count=num
  )


def depthwise_sums(x: Array, kernel: Array, stride: int = 1, padding: Any = 'SAME') -> Array:
  """The same as `depthwise_plain`, as a sum of shifted maps, a factor per channel for each tap.

  No matrix unit is of use to it, and XLA on CPUs takes twenty times as long for a convolution in as
  many groups as channels.
  """
  if isinstance(padding, str):
    strides = stride, stride
    padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
  wide = trees.at_least_float32(x)
  return _taps(wide, kernel.astype(wide.dtype), stride, tuple(padding)).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _taps(x: Array, kernel: Array, stride: int, padding: tuple[tuple[int, int], ...]) -> Array:
  """`depthwise_sums` of one dtype.

  What XLA derives as its gradient by x adds up padded maps, which takes five times as long as the
  same sums with the kernel turned round.
  """
  return _shifted_sums(x, kernel, stride, padding)


def _shifted_sums(x, kernel, stride, padding):
  (b, *_, c), sides, taps = x.shape, kernel.shape[:2], kernel[None, None]
  padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  rows, columns = (stride * ((padded.shape[1 + a] - sides[a]) // stride) + 1 for a in (0, 1))

  def met(i, j):
    last = b, i + rows, j + columns, c
    return lax.slice(padded, (0, i, j, 0), last, (1, stride, stride, 1))

  return sum(met(i, j) * taps[:, :, i, j] for i, j in np.ndindex(*sides))


def _taps_forward(x, kernel, stride, padding):
  return _taps(x, kernel, stride, padding), (x, kernel)


def _taps_backward(stride, padding, saved, dy):
  x, kernel = saved
  of_kernel = lambda kernel: _shifted_sums(x, kernel, stride, padding)
  (d_kernel,) = jax.linear_transpose(of_kernel, kernel)(dy)
  # A pixel is met by as many results as there are taps, in the reverse order.
  margins = []
  for axis, (low, high) in enumerate(padding):
    size, side, num = x.shape[1 + axis], kernel.shape[axis], dy.shape[1 + axis]
    unused = size + low + high - (stride * (num - 1) + side)  # at the end, where none begins
    margins.append((side - 1 - low, side - 1 - high + unused, stride - 1))
  apart = lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0), *margins, (0, 0, 0)))
  return _taps(apart, kernel[::-1, ::-1], 1, ((0, 0), (0, 0))), d_kernel


_taps.defvjp(_taps_forward, _taps_backward)


def up_conv_plain(x: Array, kernel: Array) -> Array:
  """Upsample by 2, then convolve 3x3."""
  return conv(upsample(x), kernel)


def up_conv_phases(x: Array, kernel: Array, conv: Callable[..., Array] = conv) -> Array:
  """The same as `up_conv_plain` with 2.25 times fewer multiplications.

  Output pixel 2i+p sees only two input rows: i-1 and i with taps (k0, k1+k2) for p = 0, i and i+1
  with taps (k0+k1, k2) for p = 1; likewise for columns. So four 2x2 convolutions, interleaved.
  """
  rows = (
    jnp.stack([kernel[0], kernel[1] + kernel[2]]),
    jnp.stack([kernel[0] + kernel[1], kernel[2]]),
  )
  phases = []
  for p, q in _PHASES:
    row = rows[p]
    columns = (
      jnp.stack([row[:, 0], row[:, 1] + row[:, 2]], 1),
      jnp.stack([row[:, 0] + row[:, 1], row[:, 2]], 1),
    )
    phases.append(conv(x, columns[q], padding=((1 - p, p), (1 - q, q))))
  return interleave(phases)


def down_conv_plain(x: Array, kernel: Array) -> Array:
  """Convolve 3x3, then average 2x2."""
  return mean_pool(conv(x, kernel))


def down_conv_strided(x: Array, kernel: Array) -> Array:
  """The same as `down_conv_plain`, as one 4x4 convolution of stride 2: 2.25 times cheaper."""
  k = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
  k = k + jnp.pad(kernel, ((1, 0), (0, 1), (0, 0), (0, 0)))
  k = k + jnp.pad(kernel, ((0, 1), (1, 0), (0, 0), (0, 0)))
  k = k + jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
  return _strided((k / 4).astype(x.dtype), x)


@jax.custom_vjp
def _strided(kernel: Array, x: Array) -> Array:
  """4x4 convolution of stride 2: [B, H, W, C] -> [B, H/2, W/2, N].

  Some TPUs are faster with four 2x2 convolutions, one of each position within 2x2 pixels. XLA
  derives its gradient with respect to x as a convolution of an image full of zeros, three in four;
  here that is four convolutions, too.
  """
  if x.shape[1] > FOUR.get(device.device_kind(), 0):
    return conv(x, kernel, stride=2, padding=((1, 1), (1, 1)))
  # Taps 1 and 3 of output i see pixels 2i and 2i+2, taps 0 and 2 see 2i-1 and 2i+1.
  of_phase = lambda p, q: lax.conv_general_dilated(
    x[:, p::2, q::2], kernel[1 - p :: 2, 1 - q :: 2], (1, 1), ((p, 1 - p), (q, 1 - q)),
    dimension_numbers=_NHWC, preferred_element_type=trees.wide_dtype(x),
  )  # fmt: skip
  return sum(of_phase(p, q) for p, q in _PHASES).astype(x.dtype)


def _strided_forward(kernel: Array, x: Array) -> tuple[Array, tuple[Array, Array]]:
  return _strided(kernel, x), (kernel, x)


def _strided_backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
  kernel, x = saved
  d_kernel = kernel_grad(x, kernel, dy, 2, ((1, 1), (1, 1)))
  # Tap 3 of output i-1 and tap 1 of i see pixel 2i; tap 2 of i and tap 0 of i+1 see 2i+1.
  swapped = kernel.swapaxes(2, 3)  # outputs become inputs
  phases = [
    conv(dy, swapped[3 - p :: -2, 3 - q :: -2], padding=((1 - p, p), (1 - q, q)))
    for p, q in _PHASES
  ]
  return d_kernel, interleave(phases)


_strided.defvjp(_strided_forward, _strided_backward)
SMALL = 4  # pixels a side up to which TPUs are faster with more multiplications in fewer operations


def conv_fast(x: Array, kernel: Array, stride: int = 1, padding: Any = 'SAME') -> Array:
  """`conv`, `conv_chunked`, `conv_columns` or `conv_blocks`, whichever is faster."""
  kernel = kernel.astype(x.dtype)
  usual = stride == 1 and padding == 'SAME'
  if device.device_kind() == 'cpu':
    few = usual and x.shape[-1] <= FEW
    return conv_columns(x, kernel) if few else conv_chunked(x, kernel, stride, padding)
  blocks = usual and kernel.shape[:2] == (3, 3) and x.shape[1] % BLOCK == x.shape[2] % BLOCK == 0
  few = device.on_tpu() and kernel.shape[-1] <= FEW
  return conv_blocks(x, kernel) if blocks and few else conv(x, kernel, stride, padding)


def conv_biased_fast(x: Array, kernel: Array, bias: Array) -> Array:
  """`conv_biased` or `conv_constant`, whichever is faster, by the fastest convolution."""
  if device.on_tpu() and x.shape[-1] < FEW and kernel.shape[0] > 1:
    return conv_constant(x, kernel, bias)
  return conv_biased(x, kernel, bias, conv_fast)


def up_conv(x: Array, kernel: Array) -> Array:
  """`up_conv_plain` or `up_conv_phases`, whichever is faster."""
  small = device.on_tpu() and x.shape[1] <= SMALL
  return up_conv_plain(x, kernel) if small else up_conv_phases(x, kernel, conv_fast)


def down_conv(x: Array, kernel: Array) -> Array:
  """`down_conv_plain` or `down_conv_strided`, whichever is faster."""
  most = (4 if device.device_kind() in LITE else 2) * SMALL
  small = device.on_tpu() and x.shape[1] <= most
  return down_conv_plain(x, kernel) if small else down_conv_strided(x, kernel)


def depthwise_conv(x: Array, kernel: Array, stride: int = 1, padding: Any = 'SAME') -> Array:
  """`depthwise_plain` or `depthwise_sums`, whichever is faster."""
  sums = device.device_kind() == 'cpu'
  return (depthwise_sums if sums else depthwise_plain)(x, kernel, stride, padding)
