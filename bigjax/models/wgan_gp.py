"""WGAN-GP's residual networks (Gulrajani et al. 2017), as the authors' code has them.

32 px: its CIFAR-10 ResNet, a critic without any normalisation and, if asked, an ACGAN's class head.
64 px: its GoodGenerator and GoodDiscriminator, whose critic has LayerNorm. 16 px (digits) is ours,
BigGAN's widths. The character-level language model of the paper is not here. Of one class the
generator is unconditional; the critic never sees a label. Blocks carry the names of
`models.biggan`.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.core import errors, trees
from bigjax.nn import residual
from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.layers import Attention, Conv, Dense, LayerNorm, glorot, pooled, remat
from bigjax.nn.residual import DiscBlock, TableGenerator

Array = jax.Array

# Channel multipliers: the width at 4x4, then after each block; a block doubles the resolution.
GEN_WIDTHS = {16: (4, 4, 2), 32: (1, 1, 1, 1), 64: (8, 8, 4, 2, 1)}
# The width after each block, and how many of the blocks, from the first, halve the resolution; at
# 64 px, the first entry is the width of a convolution before them.
DISC_WIDTHS = {16: ((1, 2, 4), 2), 32: ((1, 1, 1, 1), 2), 64: ((1, 2, 4, 8, 8), 4)}
STEM = (64,)  # resolutions with that convolution, LayerNorm, and no pooling at the end
OPTIONS = ()  # the generator's fields that only this network has
DISC_OPTIONS = ('class_head',)  # the critic's

gen_maps = functools.partial(residual.gen_maps, GEN_WIDTHS)
num_disc_widths = functools.partial(residual.num_disc_widths, DISC_WIDTHS)
check_options = residual.no_options


def disc_maps(resolution: int, widths: tuple[int, ...] = ()) -> dict[int, int]:
  """The width after each halving block of the critic, by the resolution that it ends at."""
  published, num_down = DISC_WIDTHS[resolution]
  widths = (widths or published)[int(resolution in STEM) :]
  return residual.disc_maps({resolution: (widths, num_down)}, resolution)


def check_disc_options(options: dict[str, Any], num_classes: int) -> None:
  """Refuse critic fields that do not fit together.

  Raises:
    UserError: there are no classes for a head to tell apart.
  """
  if options.get('class_head') and num_classes < 2:
    raise errors.UserError(
      'model.class_head is True, but the networks are unconditional (of one class): there is '
      'nothing for an ACGAN to tell apart; set it to False.'
    )


class Generator(TableGenerator):
  """WGAN-GP's generator, with BatchNorm."""

  ch: int = 128  # 64 at 64 px
  bn_eps: float = 1e-5
  WIDTHS = GEN_WIDTHS

  @property
  def bias1(self):
    return self.resolution not in STEM

  @property
  def last(self):
    return glorot(2.0 if self.resolution in STEM else 1.0)


class Discriminator(nn.Module):
  """Critic: (images [B, H, W, channels], y [B]) -> scores [B] float32; y is not looked at.

  With `class_head`, (scores, logits [B, num_classes] of the classes) for an ACGAN. At 32 px the
  features are averaged over the last map; at 64 px there is a feature for each pixel and channel of
  it. Fields and `mask` [B, num_features] otherwise as in `models.biggan.Discriminator`.
  """

  resolution: int
  num_classes: int
  ch: int = 128  # 64 at 64 px
  widths: tuple[int, ...] = ()
  attention: tuple[int, ...] = ()
  class_head: bool = False
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @property
  def num_features(self) -> int:
    """How many features the last layer sees."""
    last = (self.widths or DISC_WIDTHS[self.resolution][0])[-1] * self.ch
    return 4 * 4 * last if self.resolution in STEM else last

  def blocks(self, h: Array, widths: tuple[int, ...], norm: Any) -> Array:
    """The residual blocks; the first one sees the image where there is no stem before it."""
    num_down, stem = DISC_WIDTHS[self.resolution][1], self.resolution in STEM
    block = functools.partial(
      remat(DiscBlock, self.remat),
      kernels=self.kernels,
      dtype=self.dtype,
      norm=norm,
      initializer=glorot(2.0),
      initializer_sc=glorot(),
      bias1=not stem,
    )
    attend = remat(Attention, self.remat)
    for i, width in enumerate(widths):
      down, first = i < num_down, i == 0 and not stem
      hidden = h.shape[-1] if down and not first else None
      h = block(width * self.ch, down, first, hidden=hidden, name=f'blocks_{i}')(h)
      if down and h.shape[1] in self.attention:
        h = attend(self.kernels, self.dtype, glorot(), name=f'attention_{i}')(h)
    return h

  @nn.compact
  def __call__(self, x: Array, y: Array, mask: Array | None = None) -> Array | tuple[Array, Array]:
    del y
    first, *others = self.widths or DISC_WIDTHS[self.resolution][0]
    h = x.astype(self.dtype)
    if self.resolution in STEM:
      stem = Conv(
        first * self.ch, kernels=self.kernels, dtype=self.dtype, initializer=glorot(), name='stem'
      )
      h = self.blocks(stem(h), others, functools.partial(LayerNorm, dtype=self.dtype))
      features = trees.at_least_float32(h).reshape(len(h), -1)
      features = features if mask is None else features * mask
    else:
      h = self.blocks(h, (first, *others), None)
      features = pooled(h, mask) / (h.shape[1] * h.shape[2])  # a mean, unlike SN-GAN's sum
    head = functools.partial(Dense, dtype=features.dtype, initializer=glorot())
    score = head(1, name='linear')(features)[:, 0]
    return (score, head(self.num_classes, name='classes')(features)) if self.class_head else score
