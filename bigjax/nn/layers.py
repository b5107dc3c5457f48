"""Blocks that two networks share: convolution with resampling, BatchNorm, attention.

Parameters are float32; `dtype` is the compute dtype. BatchNorm moments, softmax and scores are
float32. kernels.py has what the blocks compute convolution and attention with.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from bigjax.core import parallel, trees
from bigjax.nn import microbatches
from bigjax.nn.convolution import mean_pool, upsample
from bigjax.nn.kernels import FAST, Kernels

Array = jax.Array
Initializer = Callable[..., Array]  # (key, shape, dtype) -> array
orthogonal = nn.initializers.orthogonal()


def glorot(gain: float = 1.0, stride_in: int = 1, stride_out: int = 1) -> Initializer:
  """Uniform initialiser of variance 2 gain / (fan in + fan out) of kernels [..., in, out].

  SN-GAN and WGAN-GP have gain 2 before ReLUs and 1 elsewhere. A convolution with a stride has that
  much smaller a fan out, a transposed one that much smaller a fan in: WGAN-GP counts them so.
  """

  def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    window = math.prod(shape[:-2])
    fans = window * (shape[-2] / stride_in**2 + shape[-1] / stride_out**2)
    bound = math.sqrt(6 * gain / fans)
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


class Conv(nn.Module):
  """3x3 or 1x1 convolution, SAME padding, optionally after upsampling or before mean-pooling.

  A 1x1 convolution commutes with both and runs at the low resolution.
  """

  features: int
  size: int = 3
  resample: str = 'none'  # none | up | down
  use_bias: bool = True
  kernels: Kernels = FAST
  dtype: Any = jnp.float32
  initializer: Initializer = orthogonal
  bias_initializer: Initializer = nn.initializers.zeros

  @nn.compact
  def __call__(self, x: Array) -> Array:
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = self.param('kernel', self.initializer, shape, jnp.float32)
    bias = None
    if self.use_bias:
      bias = self.param('bias', self.bias_initializer, (self.features,), jnp.float32)
    x = x.astype(self.dtype)
    if self.size > 1 and self.resample == 'none' and bias is not None:
      return self.kernels.conv_biased(x, kernel, bias)
    if self.size == 1:
      x = mean_pool(x) if self.resample == 'down' else x
      x = self.kernels.conv(x, kernel)
      x = upsample(x) if self.resample == 'up' else x
    else:
      x = {'none': self.kernels.conv, 'up': self.kernels.up, 'down': self.kernels.down}[
        self.resample
      ](x, kernel)
    return x if bias is None else x + bias.astype(self.dtype)[None, None, None]


def torch_uniform(fan_in: int) -> Initializer:
  """U(-a, a) with a = fan_in^-1/2: how weights and biases of torch's layers begin."""
  bound = fan_in**-0.5
  return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


class TorchConv(nn.Module):
  """torch's convolution: any window, stride and padding, of all channels or of each alone.

  `padding` is VALID, SAME or pixels on all sides; weights and biases begin as there.
  """

  features: int
  size: int
  stride: int = 1
  padding: str | int = 'VALID'
  use_bias: bool = True
  depthwise: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    per_group = 1 if self.depthwise else x.shape[-1]
    init = torch_uniform(self.size**2 * per_group)
    shape = (self.size, self.size, per_group, self.features)
    kernel = self.param('kernel', init, shape, jnp.float32)
    x, one = x.astype(self.dtype), self.padding
    padding = one if isinstance(one, str) else ((one, one), (one, one))
    convolve = self.kernels.depthwise if self.depthwise else self.kernels.conv
    x = convolve(x, kernel, self.stride, padding)
    if self.use_bias:
      bias = self.param('bias', init, (self.features,), jnp.float32)
      x = x + bias.astype(self.dtype)[None, None, None]
    return x


class TorchDense(nn.Module):
  """torch's linear layer on [B, in]: weights and biases begin as there."""

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    init = torch_uniform(x.shape[-1])
    kernel = self.param('kernel', init, (x.shape[-1], self.features), jnp.float32)
    bias = self.param('bias', init, (self.features,), jnp.float32)
    return x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)[None]


class Dense(nn.Module):
  """Linear layer on [B, in]; the bias is zero at initialisation."""

  features: int
  use_bias: bool = True
  dtype: Any = jnp.float32
  initializer: Initializer = orthogonal

  @nn.compact
  def __call__(self, x: Array) -> Array:
    kernel = self.param('kernel', self.initializer, (x.shape[-1], self.features), jnp.float32)
    x = x.astype(self.dtype) @ kernel.astype(self.dtype)
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
      x = x + bias.astype(self.dtype)[None]
    return x


class Embed(nn.Module):
  """Class table: y int32 [B] -> rows [B, features]; float32 weights [B, classes] mix the rows."""

  num_classes: int
  features: int
  initializer: Initializer = orthogonal

  @nn.compact
  def __call__(self, y: Array) -> Array:
    table = self.param(
      'embedding', self.initializer, (self.num_classes, self.features), jnp.float32
    )
    return table[y] if y.ndim == 1 else jnp.matmul(y, table, precision=lax.Precision.HIGHEST)


class Moments(nn.Module):
  """Mean and variance for batch normalisation: cross-replica in training, standing ones after.

  In training the moments are those of the global batch, or of each group of `group` examples, and
  are sown into the collection `moments` for whoever accumulates standing statistics. Otherwise they
  are read from the collection `stats`: there are no running averages. With `frames`, B counts the
  frames of clips, so many side by side, and those that are first, second and so on in their clips
  have moments of their own.
  """

  group: int | None = None
  frames: int = 0

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Return (mean, variance) stacked, [1 or B, 2, C], of x [B, H, W, C]."""
    if not train:
      if not self.has_variable('stats', 'mean'):
        raise ValueError('sampling needs standing statistics: prepare the generator first.')
      both = [self.get_variable('stats', name) for name in ('mean', 'var')]
      return self.of_frames(jnp.stack(both, -2)[None], x)
    x = trees.at_least_float32(x)
    per_example = jnp.stack([x.mean((1, 2)), jnp.square(x).mean((1, 2))], 1)  # [B, 2, C]
    if self.frames:
      per_example = per_example.reshape(-1, self.frames, *per_example.shape[1:])
    of_groups = parallel.group_mean(per_example, self.group)
    mean, square = jnp.moveaxis(of_groups, -2, 0)
    var = jnp.maximum(square - jnp.square(mean), 0)
    keep_last = {'init_fn': lambda: None, 'reduce_fn': lambda _, new: new}
    self.sow('moments', 'mean', mean.mean(0), **keep_last)
    self.sow('moments', 'var', var.mean(0), **keep_last)
    moments = checkpoint_name(jnp.stack([mean, var], -2), 'moments')
    return self.of_frames(moments, x)

  def of_frames(self, moments: Array, x: Array) -> Array:
    """Moments [1 or clips, frames, 2, C] as those of each frame [B, 2, C]; others as they are."""
    if not self.frames:
      return moments
    of_clips = (x.shape[0] // self.frames, *moments.shape[1:])
    return jnp.broadcast_to(moments, of_clips).reshape(x.shape[0], *moments.shape[2:])


MIXING = (Moments,)  # layers in which examples of a batch see each other


def standardize(x: Array, moments: Array, eps: float, dtype: Any) -> Array:
  """Return (x - mean) / sqrt(variance + eps), computed in at least float32, as `dtype`."""
  mean, var = moments[:, 0, None, None], moments[:, 1, None, None]
  return ((trees.at_least_float32(x) - mean) * lax.rsqrt(var + eps)).astype(dtype)


class BatchNorm(nn.Module):
  """BatchNorm with a learned gain and bias per channel.

  Moments and what is done with them are two calls, so that a network may run the second, and what
  follows, on a part of the batch at a time (`in_microbatches`).
  """

  features: int
  group: int | None = None
  eps: float = 1e-4
  dtype: Any = jnp.float32
  frames: int = 0  # see Moments

  def setup(self):
    self.norm = Moments(self.group, self.frames)
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
  initializer: Initializer = orthogonal
  frames: int = 0  # see Moments

  def setup(self):
    self.norm = Moments(self.group, self.frames)
    if self.num_classes is None:
      linear = functools.partial(
        Dense, use_bias=False, dtype=self.dtype, initializer=self.initializer
      )
    else:
      linear = functools.partial(Embed, self.num_classes, initializer=self.initializer)
    self.gain, self.bias = linear(self.features), linear(self.features)

  def moments(self, x: Array, train: bool) -> Array:
    return self.norm(x, train)

  def __call__(self, x: Array, c: Array, moments: Array) -> Array:
    gain, bias = (projection(c).astype(self.dtype) for projection in (self.gain, self.bias))
    x = standardize(x, moments, self.eps, self.dtype)
    return x * (1 + gain[:, None, None]) + bias[:, None, None]


def pixel_norm(x: Array, eps: float = 1e-8) -> Array:
  """Each pixel's features [..., C] over their root mean square (Karras et al. 2018, 4.2)."""
  wide = trees.at_least_float32(x)
  return (wide * lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + eps)).astype(x.dtype)


class LayerNorm(nn.Module):
  """Normalises each example over all of its map [H, W, C], with a gain and bias per channel.

  WGAN-GP's critics have it for BatchNorm: no example sees another. Moments are float32. PGGAN's
  version of that critic has one gain for all channels.
  """

  eps: float = 1e-5
  dtype: Any = jnp.float32
  one_gain: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    channels = x.shape[-1:]
    gain = self.param('gain', nn.initializers.ones, () if self.one_gain else channels, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, channels, jnp.float32)
    wide = trees.at_least_float32(x)
    centred = wide - wide.mean((1, 2, 3), keepdims=True)
    var = jnp.square(centred).mean((1, 2, 3), keepdims=True)
    x = (centred * lax.rsqrt(var + self.eps)).astype(self.dtype)
    gain, bias = jnp.broadcast_to(gain, channels).astype(self.dtype), bias.astype(self.dtype)
    return x * gain[None, None, None] + bias[None, None, None]


def remat(block: Any, on: bool, static: tuple[int, ...] = ()) -> Any:
  """Return a block that keeps of itself, for the backward pass, its input and BatchNorm's moments.

  The rest is computed again; the moments' all-reduces are not.

  Args:
    block: a module class, or a function (module, x) of a part of one.
    on: False returns the block as it is.
    static: indices of arguments that are no arrays, counting self.
  """
  if not on:
    return block
  policy = jax.checkpoint_policies.save_only_these_names('moments')
  return nn.remat(block, policy=policy, static_argnums=static)


def in_microbatches(num: int, module: nn.Module, method: Callable[..., Array], *xs: Array) -> Array:
  """Run `method(module, *xs)` on `num` equal parts of the batch, one after the other.

  Between two BatchNorms no example sees another, so this changes nothing but the memory: of a part,
  only inputs and output are kept, and the backward pass computes the rest again. Arguments with one
  row serve all parts. For modules that have their parameters already.
  """
  if num == 1:
    return method(module, *xs)
  unbound, variables = module.unbind()
  xs = [parallel.to_varying(x) for x in xs]  # else each part would sum the moments' gradients
  size = max(x.shape[0] for x in xs)
  whole = [x.shape[0] != size for x in xs]

  def run(parts):
    parts = iter(parts)
    args = [x if one else next(parts) for x, one in zip(xs, whole, strict=True)]
    return unbound.apply(variables, *args, method=method)

  parts = [x for x, one in zip(xs, whole, strict=True) if not one]
  return microbatches.microbatched(run, num, parts)


class Kernel(nn.Module):
  """The kernel of a 1x1 convolution, for whoever convolves with several at once."""

  in_features: int
  features: int
  initializer: Initializer = orthogonal

  @nn.compact
  def __call__(self) -> Array:
    return self.param(
      'kernel', self.initializer, (1, 1, self.in_features, self.features), jnp.float32
    )


class Attention(nn.Module):
  """Non-local block of SA-GAN as its released code has it: x + gamma o; the identity at init.

  Keys and values are max-pooled 2x2 and there is no 1/sqrt(d), unlike in the SA-GAN paper.
  """

  kernels: Kernels = FAST
  dtype: Any = jnp.float32
  initializer: Initializer = orthogonal

  @nn.compact
  def __call__(self, x: Array) -> Array:
    b, h, w, c = x.shape
    widths = {'theta': c // 8, 'phi': c // 8, 'g': c // 2}
    kernels = [Kernel(c, width, self.initializer, name=name)() for name, width in widths.items()]
    all_three = self.kernels.conv(x.astype(self.dtype), jnp.concatenate(kernels, -1))
    theta, phi_g = jnp.split(all_three, [c // 8], axis=-1)
    phi, g = jnp.split(self.kernels.max_pool(phi_g).reshape(b, h * w // 4, -1), [c // 8], axis=-1)
    o = self.kernels.attend(theta.reshape(b, h * w, -1), phi, g).reshape(b, h, w, c // 2)
    gamma = self.param('gamma', nn.initializers.zeros, (), jnp.float32)
    # Gamma times the kernel, not the map: its gradient is a sum over the kernel's.
    return x + self.kernels.conv(o, gamma * Kernel(c // 2, c, self.initializer, name='o')())


class ImageOutput(nn.Module):
  """The last layers of a generator: BatchNorm, ReLU, 3x3 convolution, tanh -> float32 in [-1, 1].

  Of `filters` convolved, the first `channels` are the image: TF-Hub's BigGAN-deep computes 128.
  """

  in_features: int
  filters: int
  channels: int
  bn_group: int | None = None
  bn_eps: float = 1e-4
  microbatches: int = 1
  kernels: Kernels = FAST
  dtype: Any = jnp.float32
  initializer: Initializer = orthogonal
  frames: int = 0  # see Moments

  def setup(self):
    self.bn = BatchNorm(
      self.in_features, self.bn_group, self.bn_eps, self.dtype, frames=self.frames
    )
    self.conv = Conv(
      self.filters, kernels=self.kernels, dtype=self.dtype, initializer=self.initializer
    )

  def image(self, h: Array, moments: Array) -> Array:
    h = self.conv(nn.relu(self.bn(h, moments)))[..., : self.channels]
    return jnp.tanh(trees.at_least_float32(h))

  def __call__(self, h: Array, train: bool) -> Array:
    moments = self.bn.moments(h, train)
    return in_microbatches(self.microbatches, self, ImageOutput.image, h, moments)


def pooled(h: Array, mask: Array | None) -> Array:
  """The sum over all pixels [B, C] of the ReLU of maps [B, H, W, C], in at least float32.

  `mask` [B, C] multiplies it: dropout, drawn by the caller.
  """
  h = trees.at_least_float32(nn.relu(h)).sum((1, 2))  # a sum, not a mean
  return h if mask is None else h * mask


def projection_score(
  h: Array,
  y: Array,
  num_classes: int,
  mask: Array | None,
  use_bias: bool = True,
  init: Initializer = orthogonal,
) -> Array:
  """Score feature maps [B, H, W, C]: linear plus class projection of `pooled` ones, [B] float32.

  A part of the module that calls it, whose parameters `linear` and `embed` become; of 0 classes,
  there is no projection.
  """
  h = pooled(h, mask)
  score = Dense(1, use_bias, h.dtype, init, name='linear')
  if not num_classes:
    return score(h)[:, 0]
  embedding = Embed(num_classes, h.shape[-1], init, name='embed')(y).astype(h.dtype)
  return score(h)[:, 0] + (embedding * h).sum(1)
