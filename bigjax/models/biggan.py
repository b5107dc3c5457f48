"""BigGAN's generator and discriminator (Brock et al. 2019, Appendix B, Tables 4-6 and Fig. 15).

Table 4 prints the discriminator's first block as ch -> 2ch; the published 88.0M parameters need
3 -> ch, as here. 16 px (digits) and 1024 px (one more block 1 -> 1) are ours; 32 and 64 px are
BigGAN-PyTorch's layouts. Parameters carry BigGAN-PyTorch's names.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.core import errors
from bigjax.nn import residual
from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.layers import (
  Attention,
  ConditionalBatchNorm,
  Dense,
  Embed,
  ImageOutput,
  in_microbatches,
  projection_score,
  remat,
)
from bigjax.nn.residual import GenBlock

Array = jax.Array

# Channel multipliers: the width at 4x4, then after each block; a block doubles the resolution.
GEN_WIDTHS = {
  16: (4, 4, 2),
  32: (4, 4, 4, 4),
  64: (16, 16, 8, 4, 2),
  128: (16, 16, 8, 4, 2, 1),
  256: (16, 16, 8, 8, 4, 2, 1),
  512: (16, 16, 8, 8, 4, 2, 1, 1),
  1024: (16, 16, 8, 8, 4, 2, 1, 1, 1),
}
# The width after each block, and how many of the blocks, from the first, halve the resolution.
DISC_WIDTHS = {
  16: ((1, 2, 4), 2),
  32: ((4, 4, 4, 4), 2),
  64: ((1, 2, 4, 8, 16), 4),
  128: ((1, 2, 4, 8, 16, 16), 5),
  256: ((1, 2, 4, 8, 8, 16, 16), 6),
  512: ((1, 1, 2, 4, 8, 8, 16, 16), 7),
  1024: ((1, 1, 1, 2, 4, 8, 8, 16, 16), 8),
}
OPTIONS = ('shared_dim', 'skip_z')  # the generator's fields that only this network has
DISC_OPTIONS = ()  # the discriminator's
# What a block of the generator is conditioned by.
NORMS, AFFINE = ('bn1', 'bn2'), ('gain', 'bias')


def num_chunks(resolution: int, skip_z: bool = True) -> int:
  """Return into how many parts z is split: one for the first layer and one for each block."""
  return len(GEN_WIDTHS[resolution]) if skip_z else 1


check_disc_options = residual.no_disc_options
gen_maps = functools.partial(residual.gen_maps, GEN_WIDTHS)
disc_maps = functools.partial(residual.disc_maps, DISC_WIDTHS)
num_disc_widths = functools.partial(residual.num_disc_widths, DISC_WIDTHS)


def check_options(options: dict[str, Any], z_dim: int, resolution: int) -> None:
  """Refuse generator fields that do not fit together.

  Raises:
    UserError: z cannot be split, or there is nothing to join its parts to.
  """
  if options['skip_z'] and not options['shared_dim']:
    raise errors.UserError(
      'model.skip_z joins parts of z to the shared class embedding, but model.shared_dim is 0 '
      '(no shared embedding); set model.skip_z=False or a model.shared_dim such as 128.'
    )
  chunks = num_chunks(resolution, options['skip_z'])
  if z_dim % chunks:  # BigGAN-PyTorch floors in silence
    raise errors.UserError(
      f'model.z_dim is {z_dim}, but at {resolution} px z is split into {chunks} equal chunks; '
      f'use a multiple of {chunks}, for example {chunks * 20}.'
    )


class Generator(nn.Module):
  """(z [B, z_dim], y [B] or weights [B, classes]) -> images [B, H, W, channels] in [-1, 1].

  The class enters through a shared embedding of `shared_dim`, to which every conditional
  BatchNorm is linear; 0 gives each BatchNorm a table of its own (Table 1, rows 1-5). With `skip_z`,
  z is split into equal chunks: the first feeds the 4x4 layer, the others join the embedding, one
  per block (rows 7-9). `attention` lists the resolutions that end with a non-local block.
  `bn_group` is the number of examples that share BatchNorm moments, None the global batch; `bn_eps`
  is added to their variance.
  `microbatches` and `remat` change memory and nothing else: see `layers.in_microbatches`; `remat`
  keeps of a block only its input for the backward pass. `forms` changes speed and nothing else.
  """

  resolution: int
  num_classes: int
  ch: int = 96
  z_dim: int = 120
  shared_dim: int = 128
  skip_z: bool = True
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

    The first layer, and of each block that is given a part of z, what makes gains and biases of it.
    """
    num = num_chunks(self.resolution, self.skip_z)
    size, found = self.z_dim // num, {'linear': params['linear']['kernel']}
    for i in range(num - 1):
      made = [params[f'blocks_{i}'][norm][to]['kernel'] for norm in NORMS for to in AFFINE]
      found[f'blocks_{i}'] = jnp.concatenate(made, axis=1)[self.shared_dim :]
    pad = lambda i, kernel: jnp.pad(kernel, ((i * size, self.z_dim - (i + 1) * size), (0, 0)))
    return {name: pad(i, kernel) for i, (name, kernel) in enumerate(found.items())}

  @nn.compact
  def __call__(self, z: Array, y: Array, train: bool) -> Array:
    first, *widths = [width * self.ch for width in GEN_WIDTHS[self.resolution]]
    block, attend = remat(GenBlock, self.remat, static=(3,)), remat(Attention, self.remat)
    output = remat(ImageOutput, self.remat, static=(2,))
    c = Embed(self.num_classes, self.shared_dim, name='shared')(y) if self.shared_dim else y
    z, *z_blocks = jnp.split(z, num_chunks(self.resolution, self.skip_z), axis=1)
    conditions = [jnp.concatenate([c, z_block], axis=1) for z_block in z_blocks] or [c] * len(
      widths
    )
    h = Dense(4 * 4 * first, dtype=self.dtype, name='linear')(z).reshape(-1, 4, 4, first)
    norm = functools.partial(
      ConditionalBatchNorm,
      num_classes=None if self.shared_dim else self.num_classes,
      group=self.bn_group,
      eps=self.bn_eps,
      dtype=self.dtype,
    )
    how = (self.microbatches, self.kernels, self.dtype)
    for i, (c, width) in enumerate(zip(conditions, widths, strict=True)):
      h = block(h.shape[-1], width, norm, *how, name=f'blocks_{i}')(h, c, train)
      if h.shape[1] in self.attention:
        attention = attend(self.kernels, self.dtype, name=f'attention_{i}')
        h = in_microbatches(self.microbatches, attention, type(attention).__call__, h)
    how = (self.bn_group, self.bn_eps, *how)
    return output(h.shape[-1], self.channels, self.channels, *how, name='output')(h, train)


class Discriminator(nn.Module):
  """(images [B, H, W, channels], y [B]) -> logits [B]: linear plus class projection, float32.

  Features are summed over the last map, not averaged. `widths` replaces the table's multipliers,
  one per block; `attention`, `remat` and `forms` as in the generator. `mask` [B, features]
  multiplies the summed features: dropout, drawn by the caller.
  """

  resolution: int
  num_classes: int
  ch: int = 96
  widths: tuple[int, ...] = ()
  attention: tuple[int, ...] = (64,)
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
    widths = [width * self.ch for width in self.widths or published]
    how = (self.attention, self.remat, self.kernels, self.dtype)
    h = residual.trunk(x, widths, num_down, *how)
    return projection_score(h, y, self.num_classes, mask)
