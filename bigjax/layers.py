"""Blocks that two networks share: convolution with resampling, BatchNorm, attention.

Parameters are float32; `dtype` is the compute dtype. BatchNorm moments, softmax and scores are
float32.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

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


def conv(x: Array, kernel: Array, stride: int = 1, padding: Any = 'SAME') -> Array:
  """NHWC convolution with an HWIO kernel, in the dtype of x."""
  kernel = kernel.astype(x.dtype)
  return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=_NHWC)


def up_conv_plain(x: Array, kernel: Array) -> Array:
  """Upsample by 2, then convolve 3x3."""
  return conv(upsample(x), kernel)


def up_conv_phases(x: Array, kernel: Array) -> Array:
  """The same as `up_conv_plain` with 2.25 times fewer multiplications.

  Output pixel 2i+p sees only two input rows: i-1 and i with taps (k0, k1+k2) for p = 0, i and i+1
  with taps (k0+k1, k2) for p = 1; likewise for columns. So four 2x2 convolutions, interleaved.
  """
  b, h, w, _ = x.shape
  c = kernel.shape[-1]
  rows = (
    jnp.stack([kernel[0], kernel[1] + kernel[2]]),
    jnp.stack([kernel[0] + kernel[1], kernel[2]]),
  )
  phases = []
  for p, row in enumerate(rows):
    columns = (
      jnp.stack([row[:, 0], row[:, 1] + row[:, 2]], 1),
      jnp.stack([row[:, 0] + row[:, 1], row[:, 2]], 1),
    )
    for q, phase in enumerate(columns):
      phases.append(conv(x, phase, padding=((1 - p, p), (1 - q, q))))
  y = jnp.stack(phases, 3).reshape(b, h, w, 2, 2, c)
  return y.transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, c)


def down_conv_plain(x: Array, kernel: Array) -> Array:
  """Convolve 3x3, then average 2x2."""
  return mean_pool(conv(x, kernel))


def down_conv_strided(x: Array, kernel: Array) -> Array:
  """The same as `down_conv_plain`, as one 4x4 convolution of stride 2: 2.25 times cheaper."""
  k = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
  k = k + jnp.pad(kernel, ((1, 0), (0, 1), (0, 0), (0, 0)))
  k = k + jnp.pad(kernel, ((0, 1), (1, 0), (0, 0), (0, 0)))
  k = k + jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
  return conv(x, k / 4, stride=2, padding=((1, 1), (1, 1)))


class Conv(nn.Module):
  """3x3 or 1x1 convolution, SAME padding, optionally after upsampling or before mean-pooling.

  A 1x1 convolution commutes with both and runs at the low resolution.
  """

  features: int
  size: int = 3
  resample: str = 'none'  # none | up | down
  use_bias: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = self.param('kernel', orthogonal, shape, jnp.float32)
    x = x.astype(self.dtype)
    if self.size == 1:
      x = mean_pool(x) if self.resample == 'down' else x
      x = conv(x, kernel)
      x = upsample(x) if self.resample == 'up' else x
    else:
      x = {'none': conv, 'up': up_conv_phases, 'down': down_conv_strided}[self.resample](x, kernel)
    if self.use_bias:
      x = (
        x
        + self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32).astype(
          self.dtype
        )[None, None, None]
      )
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
      x = (
        x
        + self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32).astype(
          self.dtype
        )[None]
      )
    return x


class Embed(nn.Module):
  """Class table: y int32 [B] -> rows [B, features]; float32 weights [B, classes] mix the rows."""

  num_classes: int
  features: int

  @nn.compact
  def __call__(self, y: Array) -> Array:
    table = self.param('embedding', orthogonal, (self.num_classes, self.features), jnp.float32)
    return table[y] if y.ndim == 1 else jnp.matmul(y, table, precision=lax.Precision.HIGHEST)


class Normalize(nn.Module):
  """Batch normalisation without its affine: cross-replica moments in training, standing ones after.

  In training the moments are those of the global batch, or of each group of `group` examples, and
  are sown into the collection `moments` for whoever accumulates standing statistics. Otherwise they
  are read from the collection `stats`: there are no running averages.
  """

  group: int | None = None
  eps: float = 1e-4
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    x32 = utils.at_least_float32(x)
    if train:
      per_example = jnp.stack([x32.mean((1, 2)), jnp.square(x32).mean((1, 2))], 1)  # [B, 2, C]
      moments = parallel.group_mean(per_example, self.group)  # [1 or B, 2, C]
      mean, var = moments[:, 0], jnp.maximum(moments[:, 1] - jnp.square(moments[:, 0]), 0)
      keep_last = {'init_fn': lambda: None, 'reduce_fn': lambda _, new: new}
      self.sow('moments', 'mean', mean.mean(0), **keep_last)
      self.sow('moments', 'var', var.mean(0), **keep_last)
    else:
      if not self.has_variable('stats', 'mean'):
        raise ValueError('sampling needs standing statistics: calibrate the generator first.')
      mean = self.get_variable('stats', 'mean')[None]
      var = self.get_variable('stats', 'var')[None]
    xhat = (x32 - mean[:, None, None]) * lax.rsqrt(var + self.eps)[:, None, None]
    return xhat.astype(self.dtype)


class BatchNorm(nn.Module):
  """BatchNorm with a learned gain and bias per channel."""

  group: int | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    c = x.shape[-1]
    gain = self.param('gain', nn.initializers.ones, (c,), jnp.float32).astype(self.dtype)
    bias = self.param('bias', nn.initializers.zeros, (c,), jnp.float32).astype(self.dtype)
    x = Normalize(self.group, dtype=self.dtype, name='norm')(x, train)
    return x * gain[None, None, None] + bias[None, None, None]


class ConditionalBatchNorm(nn.Module):
  """BatchNorm whose gain, 1 + Wg c, and bias, Wb c, are linear in a condition c [B, dim]."""

  group: int | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, c: Array, train: bool) -> Array:
    features = x.shape[-1]
    gain = 1 + Dense(features, use_bias=False, dtype=self.dtype, name='gain')(c)
    bias = Dense(features, use_bias=False, dtype=self.dtype, name='bias')(c)
    x = Normalize(self.group, dtype=self.dtype, name='norm')(x, train)
    return x * gain[:, None, None] + bias[:, None, None]


class Attention(nn.Module):
  """Non-local block of SA-GAN as its released code has it: x + gamma o; the identity at init.

  Keys and values are max-pooled 2x2 and there is no 1/sqrt(d), unlike in the SA-GAN paper.
  """

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    b, h, w, c = x.shape
    conv1 = lambda features, name: Conv(features, 1, use_bias=False, dtype=self.dtype, name=name)
    theta = conv1(c // 8, 'theta')(x).reshape(b, h * w, c // 8)
    phi = max_pool(conv1(c // 8, 'phi')(x)).reshape(b, h * w // 4, c // 8)
    g = max_pool(conv1(c // 2, 'g')(x)).reshape(b, h * w // 4, c // 2)
    # Keys and queries may be bfloat16, their products are not.
    wide = jnp.float64 if theta.dtype == jnp.float64 else jnp.float32
    logits = jnp.einsum('bqc,bkc->bqk', theta, phi, preferred_element_type=wide)
    beta = jax.nn.softmax(logits, axis=-1).astype(self.dtype)  # over the HW/4 keys
    o = jnp.einsum('bqk,bkc->bqc', beta, g).reshape(b, h, w, c // 2)
    gamma = self.param('gamma', nn.initializers.zeros, (), jnp.float32).astype(self.dtype)
    return x + gamma * conv1(c, 'o')(o)
