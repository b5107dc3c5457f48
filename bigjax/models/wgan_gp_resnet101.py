"""WGAN-GP's networks of 101 layers for 64 px (Gulrajani et al. 2017, Section 5.1).

Bottleneck blocks x + 0.3 f(x) that normalise their output: with BatchNorm in the generator, with
LayerNorm in the critic. As the authors' code has them (of one class); where there are more, the
generator's BatchNorms have a table per class, as at 32 px.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from bigjax.core import trees
from bigjax.nn import residual
from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.layers import (
  Attention,
  Conv,
  Dense,
  LayerNorm,
  glorot,
  in_microbatches,
  remat,
)

Array = jax.Array

# Channel multipliers of ch = 32: at the first map, then after each change of resolution.
GEN_WIDTHS = {64: (16, 8, 4, 2, 1)}
DISC_WIDTHS = {64: ((1, 2, 4, 8, 16), 4)}
REPEATS = (6, 6, 6, 6, 5)  # blocks that keep the resolution, at 4, 8, 16, 32 and 64 px
RESIDUE = 0.3  # what a block's branch is multiplied with
LAST = 5.0  # what the last layer's output is divided by
OPTIONS = ()  # the generator's fields that only this network has
DISC_OPTIONS = ()  # the discriminator's

gen_maps = functools.partial(residual.gen_maps, GEN_WIDTHS)
num_disc_widths = functools.partial(residual.num_disc_widths, DISC_WIDTHS)
check_options = residual.no_options
check_disc_options = residual.no_disc_options


def disc_maps(resolution: int, widths: tuple[int, ...] = ()) -> dict[int, int]:
  """The width after each halving block of the critic, by the resolution that it ends at."""
  published, num_down = DISC_WIDTHS[resolution]
  return residual.disc_maps({resolution: ((widths or published)[1:], num_down)}, resolution)


def transposed(x: Array, kernel: Array) -> Array:
  """Transposed 3x3 convolution of stride 2: [B, H, W, C] -> [B, 2H, 2W, N], HWIO kernel."""
  return lax.conv_general_dilated(
    x,
    kernel[::-1, ::-1],
    (1, 1),
    ((2, 1), (2, 1)),
    lhs_dilation=(2, 2),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def depth_to_space(x: Array) -> Array:
  """Spread four parts of the channels over 2x2 pixels: [B, H, W, 4C] -> [B, 2H, 2W, C]."""
  b, h, w, c = x.shape
  x = x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, 2 * h, 2 * w, c // 4)


class StridedConv(nn.Module):
  """3x3 or 1x1 convolution with stride 2, or its transpose: sub-pixel where it is 1x1.

  A 1x1 one may also change the number of features alone.

  `gain` is glorot's, which counts the fans with the stride.
  """

  features: int
  size: int
  resample: str  # none | up | down
  gain: float
  kernels: Kernels
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    up, down = self.resample == 'up', self.resample == 'down'
    subpixel = up and self.size == 1
    filters = 4 * self.features if subpixel else self.features
    init = glorot(self.gain, 2 if up and not subpixel else 1, 2 if down else 1)
    kernel = self.param('kernel', init, (self.size, self.size, x.shape[-1], filters), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (filters,), jnp.float32)
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    if down and self.size == 1:
      x = self.kernels.conv(x[:, ::2, ::2], kernel)
    elif down:
      x = self.kernels.conv(x, kernel, 2)
    else:
      x = transposed(x, kernel) if up and not subpixel else self.kernels.conv(x, kernel)
    x = x + bias.astype(self.dtype)[None, None, None]
    return depth_to_space(x) if subpixel else x


class Bottleneck(nn.Module):
  """shortcut(x) + 0.3 norm(f(x)): 1x1, 3x3 and 1x1 convolutions, each after a ReLU.

  `norm` (features) is a BatchNorm, conditional or not, or None for LayerNorm.
  """

  in_features: int
  features: int
  resample: str
  norm: residual.Norm | None
  microbatches: int
  kernels: Kernels
  dtype: Any

  def setup(self):
    how = (self.kernels, self.dtype)
    self.conv1 = Conv(self.in_features // 2, 1, 'none', True, *how, glorot(2.0))
    between = self.features // 2
    self.conv1b = (
      Conv(between, 3, 'none', True, *how, glorot(2.0))
      if self.resample == 'none'
      else StridedConv(between, 3, self.resample, 2.0, *how)
    )
    self.conv2 = Conv(self.features, 1, 'none', False, *how, glorot(2.0))
    same = self.resample == 'none' and self.in_features == self.features
    self.conv_sc = None if same else StridedConv(self.features, 1, self.resample, 1.0, *how)
    self.bn = self.norm(self.features) if self.norm else LayerNorm(dtype=self.dtype)

  def branch(self, x: Array) -> Array:
    h = self.conv1(nn.relu(x))
    h = self.conv1b(nn.relu(h))
    return self.conv2(nn.relu(h))

  def join(self, h: Array, x: Array, *c_and_moments: Array) -> Array:
    x = self.conv_sc(x) if self.conv_sc else x
    return x + RESIDUE * self.bn(h, *c_and_moments)

  def __call__(self, x: Array, c: Array | None, train: bool) -> Array:
    h = in_microbatches(self.microbatches, self, Bottleneck.branch, x)
    if self.norm is None:
      return self.join(h, x)
    cs, moments = () if c is None else (c,), self.bn.moments(h, train)
    return in_microbatches(self.microbatches, self, Bottleneck.join, h, x, *cs, moments)


class Generator(nn.Module):
  """(z [B, z_dim], y [B] or weights [B, classes]) -> images [B, 64, 64, channels] in [-1, 1].

  Fields as in `residual.TableGenerator`; `attention` follows the last block of a resolution.
  """

  resolution: int
  num_classes: int
  ch: int = 32
  z_dim: int = 128
  attention: tuple[int, ...] = ()
  channels: int = 3
  bn_group: int | None = None
  bn_eps: float = 1e-5
  microbatches: int = 1
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: Array, y: Array, train: bool) -> Array:
    widths = [width * self.ch for width in GEN_WIDTHS[self.resolution]]
    block, attend = remat(Bottleneck, self.remat, static=(3,)), remat(Attention, self.remat)
    norm = residual.table_norm(self.num_classes, self.bn_group, self.bn_eps, self.dtype)
    c = y if self.num_classes > 1 else None
    how = (norm, self.microbatches, self.kernels, self.dtype)
    h = Dense(16 * widths[0], dtype=self.dtype, initializer=glorot(), name='linear')(z)
    h, i = h.reshape(-1, 4, 4, widths[0]), 0
    for stage, width in enumerate(widths):
      for k in range(REPEATS[stage] + (stage > 0)):
        resample = 'up' if stage > 0 and k == 0 else 'none'
        h = block(h.shape[-1], width, resample, *how, name=f'blocks_{i}')(h, c, train)
        i += 1
      if h.shape[1] in self.attention:
        attention = attend(self.kernels, self.dtype, glorot(), name=f'attention_{i - 1}')
        h = in_microbatches(self.microbatches, attention, type(attention).__call__, h)
    how = (self.kernels, self.dtype, glorot())
    h = Conv(self.channels, 1, 'none', True, *how, name='output')(h)
    return jnp.tanh(trees.at_least_float32(h) / LAST)


class Discriminator(nn.Module):
  """Critic: (images [B, 64, 64, channels], y [B]) -> scores [B] float32; y is not looked at.

  `widths` are the first convolution's, then one for each resolution below; other fields and `mask`
  [B, num_features] as in `models.biggan.Discriminator`.
  """

  resolution: int
  num_classes: int
  ch: int = 32
  widths: tuple[int, ...] = ()
  attention: tuple[int, ...] = ()
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @property
  def num_features(self) -> int:
    """How many features the last layer sees: one for each pixel and channel of the last map."""
    return 4 * 4 * (self.widths or DISC_WIDTHS[self.resolution][0])[-1] * self.ch

  @nn.compact
  def __call__(self, x: Array, y: Array, mask: Array | None = None) -> Array:
    del y
    widths = [width * self.ch for width in self.widths or DISC_WIDTHS[self.resolution][0]]
    block, attend = remat(Bottleneck, self.remat, static=(3,)), remat(Attention, self.remat)
    how = (self.kernels, self.dtype, glorot())
    h, i = Conv(widths[0], 1, 'none', True, *how, name='stem')(x.astype(self.dtype)), 0
    for stage, width in enumerate(widths):
      for k in range(REPEATS[-1 - stage] + (stage > 0)):
        resample = 'down' if stage > 0 and k == 0 else 'none'
        fields = (h.shape[-1], width, resample, None, 1, self.kernels, self.dtype)
        h = block(*fields, name=f'blocks_{i}')(h, None, True)
        i += 1
      if stage > 0 and h.shape[1] in self.attention:
        h = attend(self.kernels, self.dtype, glorot(), name=f'attention_{i - 1}')(h)
    features = trees.at_least_float32(h).reshape(len(h), -1)
    features = features if mask is None else features * mask
    score = Dense(1, dtype=features.dtype, initializer=glorot(), name='linear')
    return score(features)[:, 0] / LAST
