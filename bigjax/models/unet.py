"""The U-Nets of Improved DDPM (Nichol & Dhariwal 2021) and ADM (Dhariwal & Nichol 2021).

Names of modules are those of OpenAI's codes, with _ for dots. Two papers, one network: ADM's halves
and doubles maps within residual blocks (`updown`), where IDDPM's does by convolutions of their own.
`Classifier` is its first half, which tells classes of noisy images. As there, the convolutions of
the torso are computed in `dtype`, norms and what is made of the step's number in float32. Dropout
is drawn of a key for each example, so that it does not depend on devices.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bigjax.core import errors, trees
from bigjax.nn import layers
from bigjax.nn.convolution import mean_pool, upsample
from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.objectives.perturbations import kept
from bigjax.nn.resizing import resize

Array = jax.Array

GROUPS = 32  # of a norm, whatever its channels
# Multiples of `ch` from the largest resolution on, by pixels a side; 512: ADM's.
WIDTHS = {
  512: (0.5, 1, 1, 2, 2, 4, 4),
  256: (1, 1, 2, 2, 4, 4),
  128: (1, 1, 2, 3, 4),
  64: (1, 2, 3, 4),
  32: (1, 2, 2, 2),
  16: (1, 2, 2),
  8: (1, 2),
}


def sinusoid(t: Array, width: int) -> Array:
  """[cos | sin] of numbers [B] times frequencies from 1 to nearly 1/10,000: [B, width].

  Angles are whole turns and a rest: of 999 radians float32 knows but four digits after the point.
  The first 12 bits of a frequency times a number of as many are exact.
  """
  t = t if jnp.issubdtype(t.dtype, jnp.floating) else t.astype(jnp.float32)
  t = trees.at_least_float32(t)[:, None]
  half = width // 2
  turns = np.exp(-math.log(10_000) * np.arange(half) / half)[None] / (2 * math.pi)
  exact = np.round(turns * 2**12) / 2**12
  rest = t * jnp.asarray(turns - exact, t.dtype)
  whole = t * jnp.asarray(exact, t.dtype)
  angles = 2 * math.pi * (whole - jnp.floor(whole) + rest)
  return jnp.pad(jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1), ((0, 0), (0, width % 2)))


class GroupNorm(nn.Module):
  """Normalises each example over GROUPS groups of its channels; with a gain and a bias."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    b, *sides, c = x.shape
    gain = self.param('scale', nn.initializers.ones, (c,), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (c,), jnp.float32)
    wide = trees.at_least_float32(x).reshape(b, -1, GROUPS, c // GROUPS)
    centred = wide - wide.mean((1, 3), keepdims=True)
    var = jnp.square(centred).mean((1, 3), keepdims=True)
    normed = (centred * jax.lax.rsqrt(var + 1e-5)).reshape(b, -1, c)
    normed = normed * gain.astype(wide.dtype)[None, None] + bias.astype(wide.dtype)[None, None]
    return normed.reshape(b, *sides, c).astype(self.dtype)


def heads_of(channels: int, heads: int, head_dim: int) -> int:
  """Heads of attention over so many channels: `heads`, or as many of `head_dim` as there are.

  Raises:
    UserError: they do not divide the channels.
  """
  num = channels // head_dim if head_dim else heads
  if not num or channels % num or (head_dim and channels % head_dim):
    what = f'model.head_dim={head_dim}' if head_dim else f'model.heads={heads}'
    raise errors.UserError(
      f'{what} does not divide {channels} channels of attention; give another.'
    )
  return num


def attend(qkv: Array, heads: int, kernels: Kernels, split_first: bool) -> Array:
  """Attention of tokens, [B, T, 3 C] -> [B, T, C].

  Args:
    qkv: queries, keys and values.
    heads: of attention.
    kernels: how it is computed.
    split_first: whether channels are queries, keys and values first, each of which is cut into
      heads ("new order"), or heads first: codes that share weights differ silently.
  """
  b, n, width = qkv.shape
  dim = width // (3 * heads)
  shape = (b, n, 3, heads, dim) if split_first else (b, n, heads, 3, dim)
  order = (2, 0, 3, 1, 4) if split_first else (3, 0, 2, 1, 4)
  q, k, v = qkv.reshape(shape).transpose(order).reshape(3, b * heads, n, dim)
  scale = jnp.asarray(dim**-0.25, qkv.dtype)  # of both, as low precision wants it
  out = kernels.attend(q * scale, k * scale, v)
  return out.reshape(b, heads, n, dim).transpose(0, 2, 1, 3).reshape(b, n, -1)


def torch_conv(
  x: Array, features: int, size: int, name: str, resample: str = 'none', **how: Any
) -> Array:
  """A convolution of a module that is compact, which begins as torch's does."""
  init = layers.torch_uniform(size**2 * x.shape[-1])
  conv = layers.Conv(
    features, size, resample, initializer=init, bias_initializer=init, name=name, **how
  )
  return conv(x)


def zero_conv(features: int, size: int, **how: Any) -> layers.Conv:
  """A convolution that begins as 0: the last of every branch."""
  zeros = nn.initializers.zeros
  return layers.Conv(features, size, initializer=zeros, bias_initializer=zeros, **how)


class UNetParts(nn.Module):
  """What the network and its classifier share; see `UNet` for the fields.

  Methods make modules, and are for those that are compact.
  """

  resolution: int
  channels: int
  num_classes: int
  ch: int
  widths: tuple[float, ...] = ()
  blocks: int = 2
  attention: tuple[int, ...] = (16, 8)
  heads: int = 1
  head_dim: int = 0
  split_first: bool = False
  scale_shift: bool = True
  updown: bool = False
  dropout: float = 0.0
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @property
  def multiples(self) -> tuple[float, ...]:
    return self.widths or WIDTHS[self.resolution]

  def embedded(self, t: Array, name: str) -> Array:
    """What numbers [B] are to the blocks, [B, 4 ch] float32, by the perceptron of this name."""
    h = layers.TorchDense(4 * self.ch, name=f'{name}_0')(sinusoid(t, self.ch))
    return layers.TorchDense(4 * self.ch, name=f'{name}_2')(nn.silu(h))

  def block(self, features: int, name: str, resample: str = 'none') -> Callable[..., Array]:
    of = layers.remat(ResBlock, self.remat)
    return of(
      features, resample, self.scale_shift, self.dropout, self.kernels, self.dtype, name=name
    )

  def attend(self, h: Array, name: str) -> Array:
    heads = heads_of(h.shape[-1], self.heads, self.head_dim)
    of = layers.remat(AttentionBlock, self.remat)
    return of(heads, self.split_first, self.kernels, self.dtype, name=name)(h)

  def descend(self, x: Array, emb: Array, keys: Array | None) -> tuple[Array, list[Array]]:
    """(The middle's maps, those of every block before it), of images [B, H, W, C]."""
    first = int(self.multiples[0] * self.ch)
    how = {'kernels': self.kernels, 'dtype': self.dtype}
    h = torch_conv(x, first, 3, 'input_blocks_0_0', **how)
    maps = [h]
    for level, multiple in enumerate(self.multiples):
      for _ in range(self.blocks):
        name = f'input_blocks_{len(maps)}'
        h = self.block(int(multiple * self.ch), f'{name}_0')(h, emb, keys)
        if h.shape[1] in self.attention:
          h = self.attend(h, f'{name}_1')
        maps.append(h)
      if level < len(self.multiples) - 1:
        h = self.smaller(h, emb, keys, f'input_blocks_{len(maps)}_0')
        maps.append(h)
    features = h.shape[-1]
    h = self.block(features, 'middle_block_0')(h, emb, keys)
    h = self.attend(h, 'middle_block_1')
    return self.block(features, 'middle_block_2')(h, emb, keys), maps

  def smaller(self, h: Array, emb: Array, keys: Array | None, name: str) -> Array:
    c = h.shape[-1]
    if self.updown:
      return self.block(c, name, 'down')(h, emb, keys)
    return Downsample(c, self.kernels, self.dtype, name=name)(h)

  def larger(self, h: Array, emb: Array, keys: Array | None, name: str) -> Array:
    c = h.shape[-1]
    if self.updown:
      return self.block(c, name, 'up')(h, emb, keys)
    return Upsample(c, self.kernels, self.dtype, name=name)(h)


class UNet(UNetParts):
  """x_t [B, H, W, C], t [B] -> what a process wants of it, [B, H, W, C or 2 C].

  Attributes:
    resolution, channels: of images.
    num_classes: 0 or 1: no labels.
    ch: channels, which `widths` are multiples of.
    widths: by resolution, from the largest on; (): WIDTHS.
    blocks: at each resolution; one more on the way up.
    attention: resolutions with attention after each block.
    heads, head_dim: heads of attention, or the channels of each.
    split_first: see `attend`.
    scale_shift: whether the step scales and shifts what is normalised, or is added before.
    updown: whether residual blocks change the resolution.
    dropout: in residual blocks.
    learned: whether there are channels for a learned variance.
    low_resolution: pixels a side of the image that it enlarges; 0: none.
    augmented: whether it is told how noisy that image is.
    remat: whether blocks are computed again in the backward pass.
  """

  learned: bool = True
  low_resolution: int = 0
  augmented: bool = False

  @nn.compact
  def __call__(
    self,
    x: Array,
    t: Array,
    y: Array | None = None,
    keys: Array | None = None,
    low: Array | None = None,
    level: Array | None = None,
  ) -> Array:
    """Denoise.

    Args:
      x: noisy images.
      t: steps of the whole process, which may be scaled.
      y: labels, int32 [B] or float32 [B, classes].
      keys: [B], of dropout; None: none.
      low: [B, h, w, C], with `low_resolution`.
      level: [B], with `augmented`.
    """
    emb = self.embedded(t, 'time_embed')
    if self.num_classes > 1:
      table = layers.Embed(
        self.num_classes, 4 * self.ch, nn.initializers.normal(1), name='label_emb'
      )
      emb = emb + table(y)
    if self.augmented:
      emb = emb + self.embedded(level, 'aug_embed')
    if self.low_resolution:
      x = jnp.concatenate([x, resize(low, self.resolution, 'torch_bilinear')], -1)
    h, maps = self.descend(x, emb, keys)
    index = 0
    for level_, multiple in reversed(list(enumerate(self.multiples))):
      for i in range(self.blocks + 1):
        name = f'output_blocks_{index}'
        h = jnp.concatenate([h, maps.pop()], -1)
        h = self.block(int(multiple * self.ch), f'{name}_0')(h, emb, keys)
        parts = 1
        if h.shape[1] in self.attention:
          h, parts = self.attend(h, f'{name}_1'), 2
        if level_ and i == self.blocks:
          h = self.larger(h, emb, keys, f'{name}_{parts}')
        index += 1
    h = nn.silu(GroupNorm(x.dtype, name='out_0')(h))
    out = self.channels * (2 if self.learned else 1)
    return zero_conv(out, 3, kernels=self.kernels, dtype=x.dtype, name='out_2')(h)


class Classifier(UNetParts):
  """x_t [B, H, W, C], t [B] -> logits [B, num_classes]: the first half, pooled by attention."""

  @nn.compact
  def __call__(self, x: Array, t: Array, keys: Array | None = None) -> Array:
    h, _ = self.descend(x, self.embedded(t, 'time_embed'), keys)
    h = nn.silu(GroupNorm(x.dtype, name='out_0')(h))
    heads = heads_of(h.shape[-1], self.heads, self.head_dim)
    return AttentionPool(self.num_classes, heads, self.kernels, name='out_2')(h)


class ResBlock(nn.Module):
  """Maps [B, H, W, C] and what the step is, [B, n] -> [B, H', W', features]."""

  features: int
  resample: str
  scale_shift: bool
  dropout: float
  kernels: Kernels
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, emb: Array, keys: Array | None) -> Array:
    c, f = x.shape[-1], self.features
    how = {'kernels': self.kernels, 'dtype': self.dtype}
    norm = lambda name: GroupNorm(self.dtype, name=name)

    h = nn.silu(norm('in_layers_0')(x))
    if self.resample == 'down':
      x, h = mean_pool(x), mean_pool(h)
    up = 'up' if self.resample == 'up' else 'none'
    x = upsample(x) if self.resample == 'up' else x
    h = torch_conv(h, f, 3, 'in_layers_2', up, **how)

    width = 2 * f if self.scale_shift else f
    said = layers.TorchDense(width, name='emb_layers_1')(nn.silu(emb))[:, None, None]
    if self.scale_shift:
      scale, shift = jnp.split(said.astype(self.dtype), 2, -1)
      h = norm('out_layers_0')(h) * (1 + scale) + shift
    else:
      h = norm('out_layers_0')(h + said.astype(self.dtype))
    h = nn.silu(h)
    if self.dropout and keys is not None:
      own = trees.stable_hash('/'.join(self.path))
      keys = jax.vmap(lambda key: jax.random.fold_in(key, own))(keys)
      h = h * kept(keys, h.shape[1:], self.dropout).astype(h.dtype)
    h = zero_conv(f, 3, name='out_layers_3', **how)(h)
    if c != f:
      x = torch_conv(x, f, 1, 'skip_connection', **how)
    return x.astype(self.dtype) + h


class AttentionBlock(nn.Module):
  """Attention over all pixels, beside a shortcut."""

  heads: int
  split_first: bool
  kernels: Kernels
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    b, h, w, c = x.shape
    how = {'kernels': self.kernels, 'dtype': self.dtype}
    qkv = torch_conv(GroupNorm(self.dtype, name='norm')(x), 3 * c, 1, 'qkv', **how)
    tokens = qkv.reshape(b, h * w, 3 * c)
    out = attend(tokens, self.heads, self.kernels, self.split_first).reshape(b, h, w, c)
    return x + zero_conv(c, 1, name='proj_out', **how)(out)


class Downsample(nn.Module):
  """A convolution with a stride of 2."""

  features: int
  kernels: Kernels
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return layers.TorchConv(
      self.features, 3, 2, 1, kernels=self.kernels, dtype=self.dtype, name='op'
    )(x)


class Upsample(nn.Module):
  """Each pixel four times, then a convolution."""

  features: int
  kernels: Kernels
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    how = {'kernels': self.kernels, 'dtype': self.dtype}
    return torch_conv(x, self.features, 3, 'conv', 'up', **how)


class AttentionPool(nn.Module):
  """Maps [B, H, W, C] -> [B, features]: what their mean attends to among the pixels (CLIP's)."""

  features: int
  heads: int
  kernels: Kernels

  @nn.compact
  def __call__(self, x: Array) -> Array:
    b, h, w, c = x.shape
    x = x.reshape(b, h * w, c)
    x = jnp.concatenate([x.mean(1, keepdims=True), x], 1)
    where = self.param(
      'positional_embedding', nn.initializers.normal(c**-0.5), (h * w + 1, c), jnp.float32
    )
    x = x + where.astype(x.dtype)[None]
    dense = lambda width, name: layers.TorchDense(width, x.dtype, name=name)
    qkv = dense(3 * c, 'qkv_proj')(x.reshape(-1, c)).reshape(b, -1, 3 * c)
    out = attend(qkv, self.heads, self.kernels, split_first=True)[:, 0]
    return dense(self.features, 'c_proj')(out)
