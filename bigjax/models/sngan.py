"""SN-GAN's residual networks (Miyato et al. 2018; with projection, Miyato and Koyama 2018).

Widths, initialisations and BatchNorm's epsilon are those of the authors' code for 32, 64, 128 and
256 px, and the first paper's for 48 px (STL-10); 16 px (digits) is ours, BigGAN's widths. Of one
class both networks are unconditional. Parameters carry the names of `models.biggan`, so that what
speaks of them (importers, freezing) serves both; `sampling/importers/sngan_chainer.py` has the
authors'.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.core import errors
from bigjax.nn import residual
from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.layers import Attention, Embed, glorot, projection_score, remat
from bigjax.nn.residual import DiscBlock, TableGenerator

Array = jax.Array

# Channel multipliers: the width of the first map (4x4; 6x6 at 48 px), then after each block.
GEN_WIDTHS = {
  16: (4, 4, 2),
  32: (2, 2, 2, 2),
  48: (8, 4, 2, 1),
  64: (16, 8, 4, 2, 1),
  128: (16, 16, 8, 4, 2, 1),
  256: (16, 16, 8, 8, 4, 2, 1),
}
# The width after each block, and how many of the blocks, from the first, halve the resolution.
DISC_WIDTHS = {
  16: ((1, 2, 4), 2),
  32: ((1, 1, 1, 1), 2),
  48: ((1, 2, 4, 8, 16), 4),
  64: ((1, 2, 4, 8, 16), 5),
  128: ((1, 2, 4, 8, 16, 16), 5),
  256: ((1, 2, 4, 8, 8, 16, 16), 6),
}
OPTIONS = ()  # the generator's fields that only this network has
DISC_OPTIONS = ('class_input', 'class_dim')  # the discriminator's
CLASS_INPUTS = ('projection', 'concat')
CONCAT_AFTER = 3  # blocks; at 128 px, at 16 x 16
BIASED = (48, 64, 128, 256)  # resolutions at which the last linear layer has a bias

gen_maps = functools.partial(residual.gen_maps, GEN_WIDTHS)
disc_maps = functools.partial(residual.disc_maps, DISC_WIDTHS)
num_disc_widths = functools.partial(residual.num_disc_widths, DISC_WIDTHS)
check_options = residual.no_options


def check_disc_options(options: dict[str, Any], num_classes: int) -> None:
  """Refuse discriminator fields that do not fit together.

  Raises:
    UserError: there is no such way in for the class, or no class to let in.
  """
  given, wide = options['class_input'], options['class_dim']
  errors.pick(given, dict.fromkeys(CLASS_INPUTS), 'model.class_input')
  if given == 'concat' and num_classes < 2:
    raise errors.UserError(
      "model.class_input is 'concat', but the networks are unconditional (of one class); give "
      "'projection', which is then left out."
    )
  if given == 'concat' and wide < 1:
    raise errors.UserError(f'model.class_dim is {wide}; give the width of an embedding, 1 or more.')


class Generator(TableGenerator):
  """SN-GAN's generator: no spectral norm, BatchNorms with a table per class."""

  ch: int = 64  # 128 at 32 px
  bn_eps: float = 2e-5
  WIDTHS = GEN_WIDTHS


class Discriminator(nn.Module):
  """(images [B, H, W, channels], y [B]) -> logits [B], float32.

  The class enters by projection, or, with `class_input='concat'`, as an embedding of `class_dim`
  joined to every pixel of the map after three blocks (before the last one, where there are no
  more). `widths` replaces the table's multipliers; `attention`, `remat`, `kernels` and `mask` as in
  `models.biggan.Discriminator`.
  """

  resolution: int
  num_classes: int
  ch: int = 64  # 128 at 32 px
  widths: tuple[int, ...] = ()
  attention: tuple[int, ...] = ()
  class_input: str = 'projection'
  class_dim: int = 128
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @property
  def num_features(self) -> int:
    """The width of the summed features."""
    return (self.widths or DISC_WIDTHS[self.resolution][0])[-1] * self.ch

  @nn.compact
  def __call__(self, x: Array, y: Array, mask: Array | None = None) -> Array:
    published, num_down = DISC_WIDTHS[self.resolution]
    widths = self.widths or published
    attend = remat(Attention, self.remat)
    block = functools.partial(
      remat(DiscBlock, self.remat),
      kernels=self.kernels,
      dtype=self.dtype,
      initializer=glorot(2.0),
      initializer_sc=glorot(),
    )
    concat = self.class_input == 'concat'
    joined = min(CONCAT_AFTER, len(widths) - 1) if concat else None
    h = x.astype(self.dtype)
    for i, width in enumerate(widths):
      if i == joined:
        c = Embed(self.num_classes, self.class_dim, glorot(), name='embed')(y).astype(self.dtype)
        c = jnp.broadcast_to(c[:, None, None], (*h.shape[:-1], self.class_dim))
        h = jnp.concatenate([h, c], axis=-1)
      hidden = None if i == 0 else h.shape[-1]  # BigGAN widens in the first convolution, not here
      h = block(width * self.ch, i < num_down, i == 0, hidden=hidden, name=f'blocks_{i}')(h)
      if i < num_down and h.shape[1] in self.attention:
        h = attend(self.kernels, self.dtype, glorot(), name=f'attention_{i}')(h)
    projected = 0 if concat or self.num_classes == 1 else self.num_classes
    return projection_score(h, y, projected, mask, self.resolution in BIASED, glorot())
