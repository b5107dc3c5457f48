"""BigGAN's generator and discriminator (Brock et al. 2019, Appendix B, Tables 4-6 and Fig. 15).

Table 4 prints the discriminator's first block as ch -> 2ch; the published 88.0M parameters need
3 -> ch, as here. Blocks at 16 px are ours (digits), 32 px is BigGAN-PyTorch's CIFAR-10 layout.
Parameters carry BigGAN-PyTorch's names.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax import utils
from bigjax.layers import Attention, BatchNorm, ConditionalBatchNorm, Conv, Dense, Embed

Array = jax.Array

# Channel multipliers: the width at 4x4, then after each block; a block doubles the resolution.
GEN_WIDTHS = {
  16: (4, 4, 2),
  32: (4, 4, 4, 4),
  64: (16, 16, 8, 4, 2),
  128: (16, 16, 8, 4, 2, 1),
  256: (16, 16, 8, 8, 4, 2, 1),
  512: (16, 16, 8, 8, 4, 2, 1, 1),
}
# The width after each block, and how many of the blocks, from the first, halve the resolution.
DISC_WIDTHS = {
  16: ((1, 2, 4), 2),
  32: ((4, 4, 4, 4), 2),
  64: ((1, 2, 4, 8, 16), 4),
  128: ((1, 2, 4, 8, 16, 16), 5),
  256: ((1, 2, 4, 8, 8, 16, 16), 6),
  512: ((1, 1, 2, 4, 8, 8, 16, 16), 7),
}


def num_chunks(resolution: int) -> int:
  """Return into how many parts z is split: one for the first layer and one for each block."""
  return len(GEN_WIDTHS[resolution])


def gen_maps(resolution: int) -> dict[int, int]:
  """Return the width multiplier after each block of the generator by resolution."""
  return {4 * 2**i: width for i, width in enumerate(GEN_WIDTHS[resolution]) if i > 0}


def disc_maps(resolution: int) -> dict[int, int]:
  """Return the width multiplier after each halving block of the discriminator by resolution."""
  widths, num_down = DISC_WIDTHS[resolution]
  return {resolution >> (i + 1): width for i, width in enumerate(widths[:num_down])}


class GenBlock(nn.Module):
  """Residual block of the generator that doubles the resolution (Fig. 15b)."""

  features: int
  bn_group: int | None
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, c: Array, train: bool) -> Array:
    norm = lambda name: ConditionalBatchNorm(self.bn_group, dtype=self.dtype, name=name)
    h = nn.relu(norm('bn1')(x, c, train))
    h = Conv(self.features, resample='up', dtype=self.dtype, name='conv1')(h)
    h = nn.relu(norm('bn2')(h, c, train))
    h = Conv(self.features, dtype=self.dtype, name='conv2')(h)
    return h + Conv(self.features, 1, resample='up', dtype=self.dtype, name='conv_sc')(x)


class DiscBlock(nn.Module):
  """Residual block of the discriminator (Fig. 15c); the first one sees the image without a ReLU."""

  features: int
  down: bool
  first: bool
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    resample = 'down' if self.down else 'none'
    h = x if self.first else nn.relu(x)  # the shortcut below needs x before the ReLU
    h = Conv(self.features, dtype=self.dtype, name='conv1')(h)
    h = Conv(self.features, resample=resample, dtype=self.dtype, name='conv2')(nn.relu(h))
    if self.down or x.shape[-1] != self.features:
      x = Conv(self.features, 1, resample=resample, dtype=self.dtype, name='conv_sc')(x)
    return h + x


class Generator(nn.Module):
  """(z [B, z_dim], y [B] or weights [B, classes]) -> images [B, H, W, channels] in [-1, 1].

  z is split into equal chunks: the first feeds the 4x4 layer, the others, each with the shared
  class embedding, condition the BatchNorms of one block (skip-z). `attention` lists the resolutions
  that end with a non-local block. `bn_group` is the number of examples that share BatchNorm
  moments; None is the global batch.
  """

  resolution: int
  num_classes: int
  ch: int = 96
  z_dim: int = 120
  shared_dim: int = 128
  attention: tuple[int, ...] = (64,)
  channels: int = 3
  bn_group: int | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: Array, y: Array, train: bool) -> Array:
    first, *widths = [width * self.ch for width in GEN_WIDTHS[self.resolution]]
    z_first, *z_blocks = jnp.split(z, len(widths) + 1, axis=1)
    shared = Embed(self.num_classes, self.shared_dim, name='shared')(y)
    h = Dense(4 * 4 * first, dtype=self.dtype, name='linear')(z_first)
    h = h.reshape(-1, 4, 4, first)
    for i, (z_block, width) in enumerate(zip(z_blocks, widths, strict=True)):
      c = jnp.concatenate([shared, z_block], axis=1)
      h = GenBlock(width, self.bn_group, self.dtype, name=f'blocks_{i}')(h, c, train)
      if h.shape[1] in self.attention:
        h = Attention(self.dtype, name=f'attention_{i}')(h)
    h = nn.relu(BatchNorm(self.bn_group, self.dtype, name='output_bn')(h, train))
    h = Conv(self.channels, dtype=self.dtype, name='output_conv')(h)
    return jnp.tanh(utils.at_least_float32(h))


class Discriminator(nn.Module):
  """(images [B, H, W, channels], y [B]) -> logits [B]: linear plus class projection, float32.

  Features are summed over the last map, not averaged. `attention` as in the generator.
  """

  resolution: int
  num_classes: int
  ch: int = 96
  attention: tuple[int, ...] = (64,)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, y: Array) -> Array:
    widths, num_down = DISC_WIDTHS[self.resolution]
    h = x.astype(self.dtype)
    for i, width in enumerate(widths):
      h = DiscBlock(width * self.ch, i < num_down, i == 0, self.dtype, name=f'blocks_{i}')(h)
      if i < num_down and h.shape[1] in self.attention:
        h = Attention(self.dtype, name=f'attention_{i}')(h)
    h = utils.at_least_float32(nn.relu(h)).sum((1, 2))  # [B, widths[-1] * ch]
    embedding = Embed(self.num_classes, h.shape[-1], name='embed')(y)
    return Dense(1, name='linear')(h)[:, 0] + (embedding * h).sum(1)
