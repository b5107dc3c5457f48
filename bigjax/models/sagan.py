"""SA-GAN's networks (Zhang et al. 2019): residual, with self-attention in both.

As the authors' code has them at 128 px, where the first row of BigGAN's Table 1 differs from them
in initialisation, BatchNorm's epsilon and the place of attention. Both networks are to be trained
under spectral norm, of which they know nothing. 64 px leaves out the widest block, 32 px (CIFAR-10)
is SN-GAN's with attention, 16 px (digits) is ours. Parameters carry the names of `models.biggan`.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.nn import residual
from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.layers import Attention, glorot, projection_score, remat
from bigjax.nn.residual import DiscBlock, TableGenerator

Array = jax.Array

# Channel multipliers: the width at 4x4, then after each block; a block doubles the resolution.
GEN_WIDTHS = {
  16: (4, 4, 2),
  32: (4, 4, 4, 4),
  64: (16, 8, 4, 2, 1),
  128: (16, 16, 8, 4, 2, 1),
}
# The width after each block, and how many of the blocks, from the first, halve the resolution.
DISC_WIDTHS = {
  16: ((1, 2, 4), 2),
  32: ((2, 2, 2, 2), 2),
  64: ((1, 2, 4, 8, 16), 4),
  128: ((1, 2, 4, 8, 16, 16), 5),
}
OPTIONS = ()  # the generator's fields that only this network has
DISC_OPTIONS = ()  # the discriminator's

gen_maps = functools.partial(residual.gen_maps, GEN_WIDTHS)
disc_maps = functools.partial(residual.disc_maps, DISC_WIDTHS)
num_disc_widths = functools.partial(residual.num_disc_widths, DISC_WIDTHS)
check_options = residual.no_options
check_disc_options = residual.no_disc_options


class Generator(TableGenerator):
  """SA-GAN's generator. `attention`: 32 in the authors' code and best FID, 64 in its best IS."""

  attention: tuple[int, ...] = (32,)
  bn_eps: float = 1e-5
  WIDTHS = GEN_WIDTHS
  BLOCK = staticmethod(glorot())


class Discriminator(nn.Module):
  """(images [B, H, W, channels], y [B]) -> logits [B]: linear plus class projection, float32.

  Of one class, without the projection. Fields and `mask` as in `models.biggan.Discriminator`.
  """

  resolution: int
  num_classes: int
  ch: int = 64
  widths: tuple[int, ...] = ()
  attention: tuple[int, ...] = (32,)
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @property
  def num_features(self) -> int:
    """The width of the summed features."""
    return (self.widths or DISC_WIDTHS[self.resolution][0])[-1] * self.ch

  @nn.compact
  def __call__(self, x: Array, y: Array, mask: Array | None = None) -> Array:
    widths, num_down = DISC_WIDTHS[self.resolution]
    how = (self.kernels, self.dtype)
    attend = remat(Attention, self.remat)
    block = functools.partial(
      remat(DiscBlock, self.remat), initializer=glorot(), initializer_sc=glorot()
    )
    h = x.astype(self.dtype)
    for i, width in enumerate(self.widths or widths):
      h = block(width * self.ch, i < num_down, i == 0, *how, name=f'blocks_{i}')(h)
      if i < num_down and h.shape[1] in self.attention:
        h = attend(*how, glorot(), name=f'attention_{i}')(h)
    num_classes = 0 if self.num_classes == 1 else self.num_classes
    return projection_score(h, y, num_classes, mask, init=glorot())
