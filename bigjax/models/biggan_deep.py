"""BigGAN-deep's generator and discriminator (Brock et al. 2019, Appendix B, Tables 7-9, Fig. 16).

Against BigGAN: bottleneck blocks, two per resolution, shortcuts that drop or add channels instead
of convolving, and z whole, joined to the class embedding, everywhere. 64 px is BigGAN-PyTorch's
layout. Parameters carry BigGAN-PyTorch's names.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.core import errors
from bigjax.nn import residual
from bigjax.nn.convolution import mean_pool, upsample
from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.layers import (
  Attention,
  ConditionalBatchNorm,
  Conv,
  Dense,
  Embed,
  ImageOutput,
  in_microbatches,
  projection_score,
  remat,
)

Array = jax.Array

# Channel multipliers: the width at 4x4, then after each pair of blocks; the second of a pair
# doubles the resolution.
GEN_WIDTHS = {
  64: (16, 16, 8, 4, 2),
  128: (16, 16, 8, 4, 2, 1),
  256: (16, 16, 8, 8, 4, 2, 1),
  512: (16, 16, 8, 8, 4, 2, 1, 1),
}
# The stem's width, then that of each pair of blocks; the first of a pair halves the resolution.
DISC_WIDTHS = {
  64: (1, 2, 4, 8, 16),
  128: (1, 2, 4, 8, 16, 16),
  256: (1, 2, 4, 8, 8, 16, 16),
  512: (1, 1, 2, 4, 8, 8, 16, 16),
}
OPTIONS = ('shared_dim', 'rgb_filters')  # the generator's fields that only this network has
DISC_OPTIONS = ()  # the discriminator's


check_disc_options = residual.no_disc_options
gen_maps = functools.partial(residual.gen_maps, GEN_WIDTHS)


def disc_maps(resolution: int, widths: tuple[int, ...] = ()) -> dict[int, int]:
  """Return the width multiplier after each pair of blocks of the discriminator by resolution."""
  widths = widths or DISC_WIDTHS[resolution]
  return {resolution >> i: width for i, width in enumerate(widths) if i > 0}


def num_disc_widths(resolution: int) -> int:
  """Return how many entries a discriminator's `widths` has."""
  return len(DISC_WIDTHS[resolution])


def check_options(options: dict[str, Any], z_dim: int, resolution: int) -> None:
  """Refuse generator fields that do not fit together.

  Raises:
    UserError: there is no class embedding, or fewer filters than an image has channels.
  """
  del z_dim, resolution
  if not options['shared_dim']:
    raise errors.UserError(
      'model.shared_dim is 0, but biggan_deep has no form without a shared class embedding; '
      'the paper uses 128.'
    )
  if options['rgb_filters'] and options['rgb_filters'] < 3:
    raise errors.UserError(
      f'model.rgb_filters is {options["rgb_filters"]}; give 0 (as many as channels), or 128 as '
      'TF-Hub.'
    )


class GenBlock(nn.Module):
  """Bottleneck block of the generator (Fig. 16b): the shortcut drops the last channels."""

  in_features: int
  features: int
  up: bool
  bn_group: int | None
  bn_eps: float
  microbatches: int
  kernels: Kernels
  dtype: Any

  def setup(self):
    hidden = self.in_features // 4
    norm = lambda n: ConditionalBatchNorm(n, None, self.bn_group, self.bn_eps, self.dtype)
    self.bn1, self.bn2, self.bn3, self.bn4 = (
      norm(n) for n in (self.in_features, hidden, hidden, hidden)
    )
    conv = functools.partial(Conv, kernels=self.kernels, dtype=self.dtype)
    self.conv1 = conv(hidden, 1)
    self.conv2 = conv(hidden, resample='up' if self.up else 'none')
    self.conv3 = conv(hidden)
    self.conv4 = conv(self.features, 1)

  def first(self, x: Array, c: Array, moments: Array) -> Array:
    return self.conv1(nn.relu(self.bn1(x, c, moments)))

  def second(self, h: Array, c: Array, moments: Array) -> Array:
    return self.conv2(nn.relu(self.bn2(h, c, moments)))

  def third(self, h: Array, c: Array, moments: Array) -> Array:
    return self.conv3(nn.relu(self.bn3(h, c, moments)))

  def fourth(self, h: Array, x: Array, c: Array, moments: Array) -> Array:
    x = x[..., : self.features]
    return self.conv4(nn.relu(self.bn4(h, c, moments))) + (upsample(x) if self.up else x)

  def __call__(self, x: Array, c: Array, train: bool) -> Array:
    num = self.microbatches
    h = in_microbatches(num, self, GenBlock.first, x, c, self.bn1.moments(x, train))
    h = in_microbatches(num, self, GenBlock.second, h, c, self.bn2.moments(h, train))
    h = in_microbatches(num, self, GenBlock.third, h, c, self.bn3.moments(h, train))
    return in_microbatches(num, self, GenBlock.fourth, h, x, c, self.bn4.moments(h, train))


class DiscBlock(nn.Module):
  """Bottleneck block of the discriminator (Fig. 16c): the shortcut adds channels by convolution."""

  features: int
  down: bool
  kernels: Kernels
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    hidden = self.features // 4
    conv = functools.partial(Conv, kernels=self.kernels, dtype=self.dtype)
    h = conv(hidden, 1, name='conv1')(nn.relu(x))
    h = conv(hidden, name='conv2')(nn.relu(h))
    h = nn.relu(conv(hidden, name='conv3')(nn.relu(h)))
    if self.down:  # after the ReLU, before the last convolution
      h, x = mean_pool(h), mean_pool(x)
    h = conv(self.features, 1, name='conv4')(h)
    if x.shape[-1] < self.features:
      more = conv(self.features - x.shape[-1], 1, name='conv_sc')(x)
      x = jnp.concatenate([x, more], axis=-1)
    return h + x


class Generator(nn.Module):
  """(z [B, z_dim], y [B] or weights [B, classes]) -> images [B, H, W, channels] in [-1, 1].

  The class embedding of `shared_dim`, joined to z, feeds the 4x4 layer and every conditional
  BatchNorm. `rgb_filters` is how many filters the last convolution has, 0 for as many as channels;
  TF-Hub's networks have 128, of which an image takes the first three. Other fields as in
  `biggan.Generator`.
  """

  resolution: int
  num_classes: int
  ch: int = 128
  z_dim: int = 128
  shared_dim: int = 128
  rgb_filters: int = 0
  attention: tuple[int, ...] = (64,)
  channels: int = 3
  bn_group: int | None = None
  bn_eps: float = 1e-4
  microbatches: int = 1
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  def kernels_of_z(self, params: Mapping[str, Any]) -> dict[str, Array]:
    """The layers that are linear in z, {layer: [z_dim, outputs]}, of parameters as they are used.

    The first layer, and of each block what makes gains and biases of all of z.
    """
    found = {'linear': params['linear']['kernel']}
    for i in range(2 * len(GEN_WIDTHS[self.resolution]) - 2):
      block = params[f'blocks_{i}']
      made = [block[f'bn{j}'][to]['kernel'] for j in (1, 2, 3, 4) for to in ('gain', 'bias')]
      found[f'blocks_{i}'] = jnp.concatenate(made, axis=1)
    return {name: kernel[self.shared_dim :] for name, kernel in found.items()}

  @nn.compact
  def __call__(self, z: Array, y: Array, train: bool) -> Array:
    first, *widths = [width * self.ch for width in GEN_WIDTHS[self.resolution]]
    block, attend = remat(GenBlock, self.remat, static=(3,)), remat(Attention, self.remat)
    output = remat(ImageOutput, self.remat, static=(2,))
    c = Embed(self.num_classes, self.shared_dim, name='shared')(y)
    c = jnp.concatenate([c, z], axis=1)
    h = Dense(4 * 4 * first, dtype=self.dtype, name='linear')(c).reshape(-1, 4, 4, first)
    how = (self.bn_group, self.bn_eps, self.microbatches, self.kernels, self.dtype)
    for i, width in enumerate(widths):
      same = h.shape[-1]
      h = block(same, same, False, *how, name=f'blocks_{2 * i}')(h, c, train)
      h = block(same, width, True, *how, name=f'blocks_{2 * i + 1}')(h, c, train)
      if h.shape[1] in self.attention:
        attention = attend(self.kernels, self.dtype, name=f'attention_{2 * i + 1}')
        h = in_microbatches(self.microbatches, attention, type(attention).__call__, h)
    filters = self.rgb_filters or self.channels
    return output(h.shape[-1], filters, self.channels, *how, name='output')(h, train)


class Discriminator(nn.Module):
  """(images [B, H, W, channels], y [B]) -> logits [B]: linear plus class projection, float32.

  `widths` replaces the table's multipliers: the stem's, then one per pair of blocks. Other fields,
  and `mask`, as in `biggan.Discriminator`.
  """

  resolution: int
  num_classes: int
  ch: int = 128
  widths: tuple[int, ...] = ()
  attention: tuple[int, ...] = (64,)
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @property
  def num_features(self) -> int:
    """The width of the summed features."""
    return (self.widths or DISC_WIDTHS[self.resolution])[-1] * self.ch

  @nn.compact
  def __call__(self, x: Array, y: Array, mask: Array | None = None) -> Array:
    block, attend = remat(DiscBlock, self.remat), remat(Attention, self.remat)
    how = (self.kernels, self.dtype)
    stem, *widths = [width * self.ch for width in self.widths or DISC_WIDTHS[self.resolution]]
    h = Conv(stem, kernels=self.kernels, dtype=self.dtype, name='input_conv')(x.astype(self.dtype))
    for i, width in enumerate(widths):
      h = block(width, True, *how, name=f'blocks_{i}_0')(h)
      h = block(width, False, *how, name=f'blocks_{i}_1')(h)
      if h.shape[1] in self.attention:
        h = attend(*how, name=f'attention_{i}_2')(h)
    return projection_score(h, y, self.num_classes, mask)
