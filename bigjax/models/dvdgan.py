"""Networks of DVD-GAN (Clark et al. 2019) and TrIVD-GAN (Luc et al. 2020): clips [B, T, H, W, C].

BigGAN's blocks with a recurrent unit before them at each resolution; every frame goes through the
blocks as an image of its own. BatchNorm's moments are of each frame alone, so that no frame tells
of a later one. Given frames of a clip, the units begin with what another network makes of these.

Neither code is public. What the papers state is as they have it; widths at 16 and 32 px, one hidden
layer of the warp's network and pooling over pairs of frames in blocks that convolve over time are
ours. The class enters as in BigGAN; of one class, critics do not look at it.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.core import trees
from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.layers import (
  ConditionalBatchNorm,
  Conv,
  Dense,
  Embed,
  ImageOutput,
  in_microbatches,
  projection_score,
  remat,
)
from bigjax.nn.residual import DiscBlock, GenBlock, trunk
from bigjax.nn.video import recurrent
from bigjax.nn.video.blocks import DiscBlock3D
from bigjax.nn.video.frames import each, fold, unfold
from bigjax.nn.video.views import View

Array = jax.Array

# Channel multipliers: the width at 4x4, then after each pair of blocks, which doubles the sides.
GEN_WIDTHS = {
  8: (4, 4),
  16: (8, 4, 2),
  32: (8, 8, 4, 2),
  64: (8, 8, 8, 4, 2),
  128: (8, 8, 8, 4, 2, 1),
  256: (8, 8, 8, 4, 4, 2, 1),
}
# The width after each block, and how many of the blocks, from the first, halve the resolution.
DISC_WIDTHS = {
  8: ((2, 4), 1),
  16: ((1, 2, 4), 2),
  32: ((1, 2, 4, 4), 3),
  64: ((1, 2, 4, 8, 16), 4),
  128: ((1, 2, 4, 8, 16, 16), 5),
  256: ((1, 2, 4, 8, 8, 16, 16), 6),
}
NUM_3D = 2  # first blocks of a critic of clips that convolve over time


class Conditioner(nn.Module):
  """Given frames [B, P, H, W, C] -> {side: what the unit there begins with [B, side, side, width]}.

  Each frame goes through a discriminator's blocks by itself; at each of their resolutions, maps of
  all frames side by side make the beginning.
  """

  resolution: int
  widths: tuple[int, ...]  # of the units, from 4x4 on
  ch: int
  remat: bool
  kernels: Kernels
  dtype: Any

  @nn.compact
  def __call__(self, given: Array) -> dict[int, Array]:
    block = remat(DiscBlock, self.remat)
    published, num_down = DISC_WIDTHS[self.resolution]
    h, starts = fold(given).astype(self.dtype), {}
    for i, width in enumerate(published[:num_down]):
      h = block(width * self.ch, True, i == 0, self.kernels, self.dtype, name=f'blocks_{i}')(h)
      b, p, side = *given.shape[:2], h.shape[1]
      beside = jnp.moveaxis(unfold(h, p), 1, 3).reshape(b, side, side, -1)
      own = self.widths[num_down - 1 - i]
      conv = Conv(own, kernels=self.kernels, dtype=self.dtype, name=f'start_{side}')
      starts[side] = nn.relu(conv(beside))
    return starts


class Generator(nn.Module):
  """(z [B, z_dim], y [B] or weights [B, classes]) -> clips [B, frames, H, W, channels] in [-1, 1].

  z and the embedded class feed the 4x4 maps, the same for every frame, and all BatchNorms. Of
  `num_given` frames [B, num_given, H, W, channels], in [-1, 1], it makes those that follow.
  `unit` is one of recurrent.UNITS; `warp_size` and `mix_warped` are TSRU's. Other fields as in
  `models.biggan.Generator`; `remat` also recomputes the units' gates, one frame after the other.
  """

  resolution: int
  num_classes: int
  frames: int
  num_given: int = 0
  ch: int = 128
  z_dim: int = 120
  shared_dim: int = 120
  channels: int = 3
  unit: str = 'gru'
  warp_size: int = 3
  mix_warped: bool = True
  bn_group: int | None = None
  bn_eps: float = 1e-4
  microbatches: int = 1
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: Array, y: Array, train: bool, given: Array | None = None) -> Array:
    first, *widths = [width * self.ch for width in GEN_WIDTHS[self.resolution]]
    warps = {'size': self.warp_size, 'mix_warped': self.mix_warped} if self.unit != 'gru' else {}
    ways = {'recompute': self.remat, 'kernels': self.kernels, 'dtype': self.dtype}
    unit = functools.partial(recurrent.unit(self.unit), **warps, **ways)
    block, output = remat(GenBlock, self.remat, (3,)), remat(ImageOutput, self.remat, (2,))
    norm = functools.partial(
      ConditionalBatchNorm, frames=self.frames, group=self.bn_group, eps=self.bn_eps,
      dtype=self.dtype,
    )  # fmt: skip
    how = (self.microbatches, self.kernels, self.dtype)

    starts = {}
    if self.num_given:
      fields = self.resolution, (first, *widths), self.ch, self.remat, *how[1:]
      starts = Conditioner(*fields, name='given')(given)
    c = jnp.concatenate([z, Embed(self.num_classes, self.shared_dim, name='shared')(y)], 1)
    h = Dense(4 * 4 * first, dtype=self.dtype, name='linear')(c).reshape(-1, 1, 4, 4, first)
    c = jnp.repeat(c, self.frames, 0)
    for i, width in enumerate(widths):
      # A unit over all frames, then two blocks of each by itself, of which the second is larger.
      b, _, side, _, features = h.shape
      start = starts.get(side, jnp.zeros((b, side, side, features), self.dtype))
      units = unit(features, self.frames, name=f'units_{i}')
      h = fold(in_microbatches(self.microbatches, units, type(units).__call__, start, h))
      h = block(features, features, norm, *how, up=False, name=f'blocks_{i}_0')(h, c, train)
      h = block(features, width, norm, *how, name=f'blocks_{i}_1')(h, c, train)
      h = unfold(h, self.frames)
    h = fold(h)
    of_norm = self.bn_group, self.bn_eps
    output = output(
      h.shape[-1], self.channels, self.channels, *of_norm, *how, frames=self.frames, name='output'
    )
    return unfold(output(h, train), self.frames)


class FrameCritic(nn.Module):
  """Frames [B, t, H, W, C], each judged as an image, y [B] -> sums of their scores [B]."""

  num_classes: int
  ch: int
  remat: bool
  kernels: Kernels
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, y: Array) -> Array:
    widths, num_down = DISC_WIDTHS[x.shape[2]]
    widths = [width * self.ch for width in widths]
    h = trunk(fold(x), widths, num_down, (), self.remat, self.kernels, self.dtype)
    return summed_score(h, y, x.shape[1], self.num_classes)


class ClipCritic(nn.Module):
  """Clips [B, t, H, W, C], y [B] -> scores [B]: summed over what is left of their frames.

  The first NUM_3D blocks convolve over time, the rest frame by frame.
  """

  num_classes: int
  ch: int
  remat: bool
  kernels: Kernels
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, y: Array) -> Array:
    widths, num_down = DISC_WIDTHS[x.shape[2]]
    flat, over_time = remat(DiscBlock, self.remat), remat(DiscBlock3D, self.remat)
    h = x.astype(self.dtype)
    for i, width in enumerate(widths):
      kind = over_time if i < NUM_3D else flat
      one = kind(
        width * self.ch, i < num_down, i == 0, self.kernels, self.dtype, name=f'blocks_{i}'
      )
      h = one(h) if i < NUM_3D else each(one, h)
    return summed_score(fold(h), y, h.shape[1], self.num_classes)


def summed_score(h: Array, y: Array, frames: int, num_classes: int) -> Array:
  """Scores [B] of maps [B frames, H, W, C]: `projection_score`, summed over the frames."""
  y = jnp.repeat(y, frames, 0)
  scores = projection_score(h, y, num_classes if num_classes > 1 else 0, None)
  return unfold(scores, frames).sum(1)


class Critics(nn.Module):
  """(clips [B, T, H, W, C] in [-1, 1], y [B], keys [B]) -> a score [B] of each view, float32.

  Every view has a critic of its own; keys are of what it sees.
  """

  views: tuple[View, ...]
  num_classes: int
  ch: int = 128
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, clips: Array, y: Array, keys: Array) -> tuple[Array, ...]:
    scores = []
    for i, view in enumerate(self.views):
      critic = FrameCritic if view.single else ClipCritic
      fields = self.num_classes, self.ch, self.remat, self.kernels, self.dtype
      seen = view(jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys), clips)
      score = critic(*fields, name=f'critics_{i}')(seen, y)
      scores.append(trees.at_least_float32(score))
    return tuple(scores)
