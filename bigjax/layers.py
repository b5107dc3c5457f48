"""Blocks that two networks share: convolution with resampling, BatchNorm, attention.

Parameters are float32; `dtype` is the compute dtype. BatchNorm moments, softmax and scores are
float32.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from bigjax import parallel, utils

Array = jax.Array
orthogonal = nn.initializers.orthogonal()
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


def max_pool(x: Array) -> Array:
  """2x2 max pooling: [B, H, W, C] -> [B, H/2, W/2, C]."""
  b, h, w, c = x.shape
  return x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))


LITE = ('TPU v5 lite', 'TPU v6 lite', 'TPU7x')  # where other forms win than on v3, v4 and v5p
_PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))


def interleave(phases: Sequence[Array]) -> Array:
  """Return y with y[:, 2i+p, 2j+q] = phases[2p+q][:, i, j]: four [B, H, W, C] -> [B, 2H, 2W, C].

  On v3, v4 and v5p TPUs each is written where it belongs: rows and columns are the outer axes of an
  image there, so that a convolution can write its phase into the whole. Stacking them costs two
  more passes there, and fewer than writing in place on the others.
  """
  b, h, w, c = phases[0].shape
  if parallel.on_tpu() and parallel.device_kind() not in LITE:
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

  num, positions = len(x), stride * dy.shape[1] * dy.shape[2]
  if parallel.device_kind() != 'cpu' or min(kernel.shape[-2:]) <= FEW:
    return of_part(x, dy)
  fits = (n for n in range(1, num) if num % n == 0 and num // n * positions <= CHUNK)
  chunks = next(fits, num)
  return sum(map(of_part, jnp.split(x, chunks), jnp.split(dy, chunks)))


CHUNK = 2048  # pixels
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

  XLA derives its gradient with respect to x as a convolution of an image full of zeros, three in
  four; here it is four 2x2 convolutions, one for each position within 2x2 pixels.
  """
  return conv(x, kernel, stride=2, padding=((1, 1), (1, 1)))


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


def attend_plain(queries: Array, keys: Array, values: Array) -> Array:
  """Softmax attention without scaling: [B, Q, d], [B, K, d], [B, K, c] -> [B, Q, c].

  Queries and keys may be bfloat16, their products and the softmax are not.
  """
  logits = _logits(queries, keys)
  beta = jax.nn.softmax(logits, axis=-1).astype(values.dtype)
  return jnp.einsum('bqk,bkc->bqc', beta, values)


def _logits(queries: Array, keys: Array) -> Array:
  wide = jnp.float64 if queries.dtype == jnp.float64 else jnp.float32
  return jnp.einsum('bqc,bkc->bqk', queries, keys, preferred_element_type=wide)


@jax.custom_vjp
def attend_lean(queries: Array, keys: Array, values: Array) -> Array:
  """The same as `attend_plain`; of its [B, Q, K] maps, one is kept: exp(logits - max), rounded.

  The maximum is found from logits that are computed twice rather than stored. The softmax's sum is
  one more column of values, so that no map is read to normalise it, forward or backward.
  """
  return _attend_forward(queries, keys, values)[0]


def _attend_forward(queries: Array, keys: Array, values: Array) -> tuple[Array, tuple]:
  again = lax.optimization_barrier((queries, keys))  # or the logits would be stored
  largest = _logits(*again).max(-1, keepdims=True)
  weights = jnp.exp(_logits(queries, keys) - largest).astype(values.dtype)
  more = jnp.concatenate([values, jnp.ones_like(values[..., :1])], -1)
  out = jnp.einsum('bqk,bkc->bqc', weights, more, preferred_element_type=largest.dtype)
  out, total = out[..., :-1] / out[..., -1:], out[..., -1:]
  return out.astype(values.dtype), (queries, keys, values, weights, out, total)


def _attend_backward(saved: tuple, d_out: Array) -> tuple[Array, Array, Array]:
  queries, keys, values, weights, out, total = saved
  d_out = d_out.astype(total.dtype) / total
  across = (d_out * out).sum(-1, keepdims=True)  # what the softmax's sum takes back
  d_out = d_out.astype(values.dtype)
  d_weights = jnp.einsum('bqc,bkc->bqk', d_out, values, preferred_element_type=total.dtype)
  d_logits = ((d_weights - across) * weights.astype(total.dtype)).astype(values.dtype)
  return (
    jnp.einsum('bqk,bkc->bqc', d_logits, keys),
    jnp.einsum('bqk,bqc->bkc', d_logits, queries),
    jnp.einsum('bqk,bqc->bkc', weights, d_out),
  )


attend_lean.defvjp(_attend_forward, _attend_backward)


def _cudnn(queries: Array, keys: Array, values: Array) -> Array:
  c = values.shape[-1]
  width = -(-max(c, queries.shape[-1]) // 8) * 8
  q, k, v = (
    jnp.pad(x, ((0, 0), (0, 0), (0, width - x.shape[-1])))[:, :, None]  # one head
    for x in (queries, keys, values)
  )
  return jax.nn.dot_product_attention(q, k, v, scale=1.0, implementation='cudnn')[:, :, 0, :c]


def _lean_grads(queries: Array, keys: Array, values: Array, d_out: Array) -> tuple[Array, ...]:
  return jax.vjp(attend_lean, queries, keys, values)[1](d_out)


def _with_derivatives_of(twin: Callable[..., Any], fn: Callable[..., Any]) -> Callable[..., Any]:
  """Return `fn` where it is computed, and its equal `twin` where it is differentiated."""
  fn = jax.custom_vjp(fn)
  fn.defvjp(lambda *args: jax.vjp(twin, *args), lambda pullback, d: pullback(d))
  return fn


# Both contain cuDNN's forward pass, as the same operations: XLA runs it once.
_fused_out = _with_derivatives_of(attend_lean, lambda *args: jax.vjp(_cudnn, *args)[0])
_fused_grads = _with_derivatives_of(
  _lean_grads, lambda *args: jax.vjp(_cudnn, *args[:3])[1](args[3])
)


@jax.custom_vjp
def attend_fused(queries: Array, keys: Array, values: Array) -> Array:
  """The same as `attend_plain`, by cuDNN: none of its [B, Q, K] maps is ever in memory.

  For bfloat16 on NVIDIA's Ampere and later. cuDNN wants queries, keys and values of one width:
  zeros are appended, and change no product. cuDNN's gradient cannot be differentiated; where that
  is asked for, it is that of `attend_lean`.
  """
  return _cudnn(queries, keys, values)


attend_fused.defvjp(
  lambda *args: (_fused_out(*args), args), lambda args, d_out: _fused_grads(*args, d_out)
)

WIDEST = 128  # columns of values that cuDNN's fused attention takes on all GPUs that have it
SMALL = 4  # pixels a side up to which TPUs are faster with more multiplications in fewer operations


def conv_fast(x: Array, kernel: Array, stride: int = 1, padding: Any = 'SAME') -> Array:
  """`conv`, `conv_chunked`, `conv_columns` or `conv_blocks`, whichever is faster."""
  kernel = kernel.astype(x.dtype)
  usual = stride == 1 and padding == 'SAME'
  if parallel.device_kind() == 'cpu':
    few = usual and x.shape[-1] <= FEW
    return conv_columns(x, kernel) if few else conv_chunked(x, kernel, stride, padding)
  blocks = usual and kernel.shape[:2] == (3, 3) and x.shape[1] % BLOCK == x.shape[2] % BLOCK == 0
  few = parallel.on_tpu() and kernel.shape[-1] <= FEW
  return conv_blocks(x, kernel) if blocks and few else conv(x, kernel, stride, padding)


def up_conv(x: Array, kernel: Array) -> Array:
  """`up_conv_plain` or `up_conv_phases`, whichever is faster."""
  small = parallel.on_tpu() and x.shape[1] <= SMALL
  return up_conv_plain(x, kernel) if small else up_conv_phases(x, kernel, conv_fast)


def down_conv(x: Array, kernel: Array) -> Array:
  """`down_conv_plain` or `down_conv_strided`, whichever is faster."""
  most = (4 if parallel.device_kind() in LITE else 2) * SMALL
  small = parallel.on_tpu() and x.shape[1] <= most
  return down_conv_plain(x, kernel) if small else down_conv_strided(x, kernel)


def attend(queries: Array, keys: Array, values: Array) -> Array:
  """`attend_plain`, `attend_lean` or `attend_fused`, whichever is faster."""
  if parallel.device_kind() in ('cpu', parallel.ANY):
    return attend_plain(queries, keys, values)
  fused = parallel.has_fused_attention() and values.dtype == jnp.bfloat16
  fused = fused and values.shape[-1] <= WIDEST
  return (attend_fused if fused else attend_lean)(queries, keys, values)


@dataclasses.dataclass(frozen=True)
class Forms:
  """Which of several equal formulas a network computes: exact algebra, chosen by measurement.

  benchmarks/README.md has the measurements. Derivatives are in reverse mode, of any order; PLAIN
  alone has them in forward mode (jax.jvp) too.
  """

  conv: Callable[[Array, Array], Array]
  up: Callable[[Array, Array], Array]  # 3x3 convolution of an upsampled image
  down: Callable[[Array, Array], Array]  # 3x3 convolution, then mean-pooling
  attend: Callable[[Array, Array, Array], Array]


PLAIN = Forms(conv, up_conv_plain, down_conv_plain, attend_plain)
FEWEST = Forms(conv, up_conv_phases, down_conv_strided, attend_plain)  # multiplications
FAST = Forms(conv_fast, up_conv, down_conv, attend)
FORMS = {'fast': FAST, 'plain': PLAIN, 'fewest': FEWEST}


class Conv(nn.Module):
  """3x3 or 1x1 convolution, SAME padding, optionally after upsampling or before mean-pooling.

  A 1x1 convolution commutes with both and runs at the low resolution.
  """

  features: int
  size: int = 3
  resample: str = 'none'  # none | up | down
  use_bias: bool = True
  forms: Forms = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = self.param('kernel', orthogonal, shape, jnp.float32)
    x = x.astype(self.dtype)
    if self.size == 1:
      x = mean_pool(x) if self.resample == 'down' else x
      x = self.forms.conv(x, kernel)
      x = upsample(x) if self.resample == 'up' else x
    else:
      x = {'none': self.forms.conv, 'up': self.forms.up, 'down': self.forms.down}[self.resample](
        x, kernel
      )
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
      x = x + bias.astype(self.dtype)[None, None, None]
    return x


class Dense(nn.Module):
  """Linear layer on [B, in] with orthogonal initialisation and zero bias."""

  features: int
  use_bias: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    kernel = self.param('kernel', orthogonal, (x.shape[-1], self.features), jnp.float32)
    x = x.astype(self.dtype) @ kernel.astype(self.dtype)
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
      x = x + bias.astype(self.dtype)[None]
    return x


class Embed(nn.Module):
  """Class table: y int32 [B] -> rows [B, features]; float32 weights [B, classes] mix the rows."""

  num_classes: int
  features: int

  @nn.compact
  def __call__(self, y: Array) -> Array:
    table = self.param('embedding', orthogonal, (self.num_classes, self.features), jnp.float32)
    return table[y] if y.ndim == 1 else jnp.matmul(y, table, precision=lax.Precision.HIGHEST)


class Moments(nn.Module):
  """Mean and variance for batch normalisation: cross-replica in training, standing ones after.

  In training the moments are those of the global batch, or of each group of `group` examples, and
  are sown into the collection `moments` for whoever accumulates standing statistics. Otherwise they
  are read from the collection `stats`: there are no running averages.
  """

  group: int | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Return (mean, variance) stacked, [1 or B, 2, C], of x [B, H, W, C]."""
    if not train:
      if not self.has_variable('stats', 'mean'):
        raise ValueError('sampling needs standing statistics: calibrate the generator first.')
      both = [self.get_variable('stats', name) for name in ('mean', 'var')]
      return jnp.stack(both)[None]
    x = utils.at_least_float32(x)
    per_example = jnp.stack([x.mean((1, 2)), jnp.square(x).mean((1, 2))], 1)  # [B, 2, C]
    mean, square = jnp.moveaxis(parallel.group_mean(per_example, self.group), 1, 0)
    var = jnp.maximum(square - jnp.square(mean), 0)
    keep_last = {'init_fn': lambda: None, 'reduce_fn': lambda _, new: new}
    self.sow('moments', 'mean', mean.mean(0), **keep_last)
    self.sow('moments', 'var', var.mean(0), **keep_last)
    return checkpoint_name(jnp.stack([mean, var], 1), 'moments')


def standardize(x: Array, moments: Array, eps: float, dtype: Any) -> Array:
  """Return (x - mean) / sqrt(variance + eps), computed in at least float32, as `dtype`."""
  mean, var = moments[:, 0, None, None], moments[:, 1, None, None]
  return ((utils.at_least_float32(x) - mean) * lax.rsqrt(var + eps)).astype(dtype)


class BatchNorm(nn.Module):
  """BatchNorm with a learned gain and bias per channel.

  Moments and what is done with them are two calls, so that a network may run the second, and what
  follows, on a part of the batch at a time (`in_minibatches`).
  """

  features: int
  group: int | None = None
  eps: float = 1e-4
  dtype: Any = jnp.float32

  def setup(self):
    self.norm = Moments(self.group)
    self.gain = self.param('gain', nn.initializers.ones, (self.features,), jnp.float32)
    self.bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)

  def moments(self, x: Array, train: bool) -> Array:
    return self.norm(x, train)

  def __call__(self, x: Array, moments: Array) -> Array:
    x = standardize(x, moments, self.eps, self.dtype)
    gain, bias = self.gain.astype(self.dtype), self.bias.astype(self.dtype)
    return x * gain[None, None, None] + bias[None, None, None]


class ConditionalBatchNorm(nn.Module):
  """BatchNorm whose gain, 1 + Wg c, and bias, Wb c, are linear in a condition c [B, dim].

  With `num_classes` the condition is the class itself (labels, or weights over classes), and Wg and
  Wb are tables with a row per class.
  """

  features: int
  num_classes: int | None = None
  group: int | None = None
  eps: float = 1e-4
  dtype: Any = jnp.float32

  def setup(self):
    self.norm = Moments(self.group)
    if self.num_classes is None:
      linear = functools.partial(Dense, use_bias=False, dtype=self.dtype)
    else:
      linear = functools.partial(Embed, self.num_classes)
    self.gain, self.bias = linear(self.features), linear(self.features)

  def moments(self, x: Array, train: bool) -> Array:
    return self.norm(x, train)

  def __call__(self, x: Array, c: Array, moments: Array) -> Array:
    gain, bias = (projection(c).astype(self.dtype) for projection in (self.gain, self.bias))
    x = standardize(x, moments, self.eps, self.dtype)
    return x * (1 + gain[:, None, None]) + bias[:, None, None]


def remat(block: type[nn.Module], on: bool, static: tuple[int, ...] = ()) -> type[nn.Module]:
  """Return a block that keeps of itself, for the backward pass, its input and BatchNorm's moments.

  The rest is computed again; the moments' all-reduces are not.

  Args:
    block: a module class.
    on: False returns the block as it is.
    static: indices of arguments that are no arrays, counting self.
  """
  if not on:
    return block
  policy = jax.checkpoint_policies.save_only_these_names('moments')
  return nn.remat(block, policy=policy, static_argnums=static)


def in_minibatches(num: int, module: nn.Module, method: Callable[..., Array], *xs: Array) -> Array:
  """Run `method(module, *xs)` on `num` equal parts of the batch, one after the other.

  Between two BatchNorms no example sees another, so this changes nothing but the memory: of a part,
  only inputs and output are kept, and the backward pass computes the rest again. Arguments with one
  row serve all parts. For modules that have their parameters already.
  """
  if num == 1:
    return method(module, *xs)
  unbound, variables = module.unbind()
  xs = [parallel.own(x) for x in xs]  # else each part would sum the moments' gradients
  size = max(x.shape[0] for x in xs)
  whole = [x.shape[0] != size for x in xs]

  def run(parts):
    parts = iter(parts)
    args = [x if one else next(parts) for x, one in zip(xs, whole, strict=True)]
    return unbound.apply(variables, *args, method=method)

  parts = [x for x, one in zip(xs, whole, strict=True) if not one]
  return parallel.in_parts(run, num, parts)


class Kernel(nn.Module):
  """The kernel of a 1x1 convolution, for whoever convolves with several at once."""

  in_features: int
  features: int

  @nn.compact
  def __call__(self) -> Array:
    return self.param('kernel', orthogonal, (1, 1, self.in_features, self.features), jnp.float32)


class Attention(nn.Module):
  """Non-local block of SA-GAN as its released code has it: x + gamma o; the identity at init.

  Keys and values are max-pooled 2x2 and there is no 1/sqrt(d), unlike in the SA-GAN paper.
  """

  forms: Forms = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    b, h, w, c = x.shape
    widths = {'theta': c // 8, 'phi': c // 8, 'g': c // 2}
    kernels = [Kernel(c, width, name=name)() for name, width in widths.items()]
    all_three = self.forms.conv(x.astype(self.dtype), jnp.concatenate(kernels, -1))
    theta, phi_g = jnp.split(all_three, [c // 8], axis=-1)
    phi, g = jnp.split(max_pool(phi_g).reshape(b, h * w // 4, -1), [c // 8], axis=-1)
    o = self.forms.attend(theta.reshape(b, h * w, -1), phi, g).reshape(b, h, w, c // 2)
    gamma = self.param('gamma', nn.initializers.zeros, (), jnp.float32).astype(self.dtype)
    return x + gamma * Conv(c, 1, use_bias=False, forms=self.forms, dtype=self.dtype, name='o')(o)


class ImageOutput(nn.Module):
  """The last layers of a generator: BatchNorm, ReLU, 3x3 convolution, tanh -> float32 in [-1, 1].

  Of `filters` convolved, the first `channels` are the image: TF-Hub's BigGAN-deep computes 128.
  """

  in_features: int
  filters: int
  channels: int
  bn_group: int | None = None
  bn_eps: float = 1e-4
  minibatches: int = 1
  forms: Forms = FAST
  dtype: Any = jnp.float32

  def setup(self):
    self.bn = BatchNorm(self.in_features, self.bn_group, self.bn_eps, self.dtype)
    self.conv = Conv(self.filters, forms=self.forms, dtype=self.dtype)

  def image(self, h: Array, moments: Array) -> Array:
    h = self.conv(nn.relu(self.bn(h, moments)))[..., : self.channels]
    return jnp.tanh(utils.at_least_float32(h))

  def __call__(self, h: Array, train: bool) -> Array:
    moments = self.bn.moments(h, train)
    return in_minibatches(self.minibatches, self, ImageOutput.image, h, moments)


def projection_score(h: Array, y: Array, num_classes: int, mask: Array | None) -> Array:
  """Score feature maps [B, H, W, C]: linear plus class projection of their ReLU's sum, [B] float32.

  A part of the module that calls it, whose parameters `linear` and `embed` become. `mask` [B, C]
  multiplies the summed features.
  """
  h = utils.at_least_float32(nn.relu(h)).sum((1, 2))  # a sum, not a mean
  h = h if mask is None else h * mask
  embedding = Embed(num_classes, h.shape[-1], name='embed')(y).astype(h.dtype)
  return Dense(1, dtype=h.dtype, name='linear')(h)[:, 0] + (embedding * h).sum(1)
