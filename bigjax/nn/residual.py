"""Residual blocks of GANs, and the generator whose BatchNorms have a table per class.

One pair of blocks serves WGAN-GP (Gulrajani et al. 2017), SN-GAN (Miyato et al. 2018), SA-GAN and
BigGAN: they differ in norms, in the width between two convolutions and in how they begin.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.layers import (
  Attention,
  BatchNorm,
  ConditionalBatchNorm,
  Conv,
  Dense,
  ImageOutput,
  Initializer,
  glorot,
  in_microbatches,
  orthogonal,
  remat,
)

Array = jax.Array
Norm = Callable[..., nn.Module]  # (features) -> BatchNorm or ConditionalBatchNorm

# --- tables of widths, in multiples of ch, by resolution -----------------------------------------

Widths = dict[int, tuple[int, ...]]  # of a generator: of the first map, then after each block
# Of a discriminator: after each block, and how many of these, from the first, halve the resolution.
DownWidths = dict[int, tuple[tuple[int, ...], int]]


def gen_maps(table: Widths, resolution: int) -> dict[int, int]:
  """The width after each block of a generator, by the resolution that it ends at."""
  widths = table[resolution][1:]
  return {resolution >> (len(widths) - i): width for i, width in enumerate(widths, 1)}


def disc_maps(table: DownWidths, resolution: int, widths: tuple[int, ...] = ()) -> dict[int, int]:
  """The width after each halving block of a discriminator; `widths` are for the table's."""
  published, num_down = table[resolution]
  return {resolution >> (i + 1): w for i, w in enumerate((widths or published)[:num_down])}


def num_disc_widths(table: DownWidths, resolution: int) -> int:
  """How many entries a discriminator's `widths` has."""
  return len(table[resolution][0])


def no_options(options: dict[str, Any], z_dim: int, resolution: int) -> None:
  """The check of a generator without options of its own: nothing can contradict."""
  del options, z_dim, resolution


def no_disc_options(options: dict[str, Any], num_classes: int) -> None:
  """The check of a discriminator without options of its own."""
  del options, num_classes


# --- blocks --------------------------------------------------------------------------------------


class GenBlock(nn.Module):
  """Residual block of a generator that doubles the resolution (BigGAN's Fig. 15b).

  `initializer` is of the 3x3 convolutions, `initializer_sc` of the shortcut; without `bias1`, the
  first convolution has none. Where the norms take no condition, c is None. Without `up`, the
  resolution stays, and the shortcut is x itself where the width stays, too.
  """

  in_features: int
  features: int
  norm: Norm
  microbatches: int
  kernels: Kernels
  dtype: Any
  initializer: Initializer = orthogonal
  initializer_sc: Initializer = orthogonal
  bias1: bool = True
  up: bool = True

  def setup(self):
    self.bn1, self.bn2 = self.norm(self.in_features), self.norm(self.features)
    resample = 'up' if self.up else 'none'
    conv = functools.partial(Conv, self.features, kernels=self.kernels, dtype=self.dtype)
    self.conv1 = conv(resample=resample, use_bias=self.bias1, initializer=self.initializer)
    self.conv2 = conv(initializer=self.initializer)
    if self.up or self.in_features != self.features:
      self.conv_sc = conv(size=1, resample=resample, initializer=self.initializer_sc)
    else:
      self.conv_sc = lambda x: x

  def first(self, x: Array, *c_and_moments: Array) -> Array:
    return self.conv1(nn.relu(self.bn1(x, *c_and_moments)))

  def second(self, h: Array, x: Array, *c_and_moments: Array) -> Array:
    return self.conv2(nn.relu(self.bn2(h, *c_and_moments))) + self.conv_sc(x)

  def __call__(self, x: Array, c: Array | None, train: bool) -> Array:
    cs = () if c is None else (c,)
    moments = self.bn1.moments(x, train)
    h = in_microbatches(self.microbatches, self, GenBlock.first, x, *cs, moments)
    moments = self.bn2.moments(h, train)
    return in_microbatches(self.microbatches, self, GenBlock.second, h, x, *cs, moments)


class DiscBlock(nn.Module):
  """Residual block of a discriminator (BigGAN's Fig. 15c), with mean-pooling where `down`.

  The first one sees the image, without a ReLU. Between the convolutions there are `hidden`
  channels, or `features` where it is None. `norm` () is of the input and of what lies between, None
  for none; other fields as in GenBlock.
  """

  features: int
  down: bool
  first: bool
  kernels: Kernels
  dtype: Any
  hidden: int | None = None
  norm: Norm | None = None
  initializer: Initializer = orthogonal
  initializer_sc: Initializer = orthogonal
  bias1: bool = True

  @nn.compact
  def __call__(self, x: Array) -> Array:
    resample = 'down' if self.down else 'none'
    conv = functools.partial(Conv, kernels=self.kernels, dtype=self.dtype)
    norm = lambda h, name: h if self.norm is None else self.norm(name=name)(h)
    h = x if self.first else nn.relu(norm(x, 'norm1'))  # the shortcut needs x before the ReLU
    h = conv(
      self.hidden or self.features, use_bias=self.bias1, initializer=self.initializer, name='conv1'
    )(h)
    h = nn.relu(norm(h, 'norm2'))
    h = conv(self.features, resample=resample, initializer=self.initializer, name='conv2')(h)
    if self.down or x.shape[-1] != self.features:
      x = conv(self.features, 1, resample, initializer=self.initializer_sc, name='conv_sc')(x)
    return h + x


def trunk(
  x: Array,
  widths: Sequence[int],
  num_down: int,
  attention: Sequence[int],
  recompute: bool,
  kernels: Kernels,
  dtype: Any,
) -> Array:
  """The maps [B, H, W, C] of a discriminator's blocks, of images, before they are scored.

  A part of the module that calls it, of which its blocks become submodules.

  Args:
    x: [B, H, W, channels].
    widths: channels after each block.
    num_down: how many of them, from the first, halve the resolution.
    attention: resolutions of halving blocks that end with a non-local block.
    recompute: see `layers.remat`.
    kernels, dtype: of the layers.
  """
  block, attend = remat(DiscBlock, recompute), remat(Attention, recompute)
  h = x.astype(dtype)
  for i, width in enumerate(widths):
    h = block(width, i < num_down, i == 0, kernels, dtype, name=f'blocks_{i}')(h)
    if i < num_down and h.shape[1] in attention:
      h = attend(kernels, dtype, name=f'attention_{i}')(h)
  return h


def table_norm(num_classes: int, group: int | None, eps: float, dtype: Any) -> Norm:
  """BatchNorm with a gain and a bias per class; of one class, the unconditional one.

  The gain is 1 plus its table: both tables are 0 at initialisation.
  """
  how = {'group': group, 'eps': eps, 'dtype': dtype}
  if num_classes == 1:
    return functools.partial(BatchNorm, **how)
  zeros = nn.initializers.zeros
  return functools.partial(ConditionalBatchNorm, num_classes=num_classes, initializer=zeros, **how)


class TableGenerator(nn.Module):
  """(z [B, z_dim], y [B] or weights [B, classes]) -> images [B, H, W, channels] in [-1, 1].

  z enters at the first layer; every conditional BatchNorm has a gain and a bias per class. Of one
  class it is unconditional, and blind to y. The gain is 1 plus its table, which is 0 at
  initialisation as the biases are. Other fields as in `models.biggan.Generator`.
  """

  resolution: int
  num_classes: int
  ch: int = 64
  z_dim: int = 128
  attention: tuple[int, ...] = ()
  channels: int = 3
  bn_group: int | None = None
  bn_eps: float = 1e-5
  microbatches: int = 1
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  # What a family says beside defaults of its own.
  WIDTHS: ClassVar[Widths]
  BLOCK: ClassVar[Initializer] = staticmethod(glorot(2.0))  # of the blocks' 3x3 convolutions

  @property
  def bias1(self) -> bool:
    """Whether the blocks' first convolutions have a bias."""
    return True

  @property
  def last(self) -> Initializer:
    """The initializer of the last convolution."""
    return glorot()

  def kernels_of_z(self, params: Mapping[str, Any]) -> dict[str, Array]:
    """The one layer that is linear in z, {'linear': [z_dim, outputs]}, of parameters as used."""
    return {'linear': params['linear']['kernel']}

  @nn.compact
  def __call__(self, z: Array, y: Array, train: bool) -> Array:
    first, *widths = [width * self.ch for width in self.WIDTHS[self.resolution]]
    side = self.resolution >> len(widths)
    block, attend = remat(GenBlock, self.remat, static=(3,)), remat(Attention, self.remat)
    output = remat(ImageOutput, self.remat, static=(2,))
    norm = table_norm(self.num_classes, self.bn_group, self.bn_eps, self.dtype)
    c = y if self.num_classes > 1 else None
    how = (self.microbatches, self.kernels, self.dtype)
    h = Dense(side * side * first, dtype=self.dtype, initializer=glorot(), name='linear')(z)
    h = h.reshape(-1, side, side, first)
    for i, width in enumerate(widths):
      inits = (self.BLOCK, glorot(), self.bias1)
      h = block(h.shape[-1], width, norm, *how, *inits, name=f'blocks_{i}')(h, c, train)
      if h.shape[1] in self.attention:
        attention = attend(self.kernels, self.dtype, glorot(), name=f'attention_{i}')
        h = in_microbatches(self.microbatches, attention, type(attention).__call__, h)
    norms = (self.bn_group, self.bn_eps)
    output = output(
      h.shape[-1], self.channels, self.channels, *norms, *how, self.last, name='output'
    )
    return output(h, train)
