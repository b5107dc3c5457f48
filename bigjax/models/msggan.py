"""MSG-GAN's networks (Karnewar & Wang 2020): images of every scale go from generator to critic.

MSG-ProGAN has PGGAN's blocks, as the authors' BMSG-GAN has them, MSG-StyleGAN those of StyleGAN.
A generator returns a tuple of images, 4 px first, and a discriminator takes one: at each scale it
joins the image to the features that came down there by one of three combine functions. Parameters
are raw, for the equalised learning rate (`GAINS`), and named as in the official codes of PGGAN and
StyleGAN; networks of one class, as all of the paper's, do not look at labels.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.core import errors, trees
from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.layers import Conv, pixel_norm, remat
from bigjax.nn.style import equalized, minibatch, stylegan
from bigjax.nn.style.blocks import (
  FIRST,
  NORMAL,
  DenseTo4x4,
  DiscBlock,
  DiscOutput,
  leaky_relu,
  level_of,
  num_maps,
  one_hot,
  resolutions,
)

Array = jax.Array

# phi of the image x and the features h: [x, h]; [half as many features made of x, h]; and features
# made of [x, h]. The paper's best with StyleGAN is the last, BMSG-GAN's the one between.
COMBINE = ('simple', 'lin_cat', 'cat_lin')
# Scales below the last that a discriminator is given, in pixels: the rows of the paper's ablation.
SCALES = {
  'none': (),
  'coarse': (4, 8),
  'middle': (16, 32),
  'fine': (64, 128, 256, 512),
  'all': (4, 8, 16, 32, 64, 128, 256, 512),
}
# What the equalised learning rate multiplies kernels by, over sqrt(fan in).
GAINS = {
  'progan': (equalized.gains(), equalized.gains()),  # sqrt 2, of the linear layers too
  'stylegan': (stylegan.GAINS, equalized.gains(others={'4x4/Dense1/kernel': 1.0})),
}


class ProGenBlock(nn.Module):
  """Two layers of one resolution: latents [B, z_dim] -> 4x4, or [B, r, r, C] -> [B, 2r, 2r, C'].

  BMSG-GAN has no pixel norm between the first two.
  """

  features: int
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, h: Array) -> Array:
    how = {'kernels': self.kernels, 'dtype': self.dtype, 'initializer': NORMAL}
    if h.ndim == 2:
      h = leaky_relu(DenseTo4x4(self.features, dtype=self.dtype, name='Dense')(h))
      return pixel_norm(leaky_relu(Conv(self.features, **how, name='Conv')(h)))
    up = Conv(self.features, resample='up', **how, name='Conv0')
    h = pixel_norm(leaky_relu(up(h)))
    return pixel_norm(leaky_relu(Conv(self.features, **how, name='Conv1')(h)))


class ProGenerator(nn.Module):
  """MSG-ProGAN's: (z [B, z_dim], y [B]) -> images [B, r, r, channels] at r = 4, 8, ... resolution.

  Float32 without bounds, the smallest first. Latents are brought to length sqrt(z_dim), unless they
  are there already (`normalize_latents`). `fmap_base` and `fmap_max` as in `blocks.num_maps`:
  BMSG-GAN of feature size F has 16 F and F. With classes, weights over them join the latents, as
  PGGAN's do.
  """

  resolution: int
  num_classes: int = 1
  z_dim: int = 512
  fmap_base: int = 8192
  fmap_max: int = 512
  channels: int = 3
  normalize_latents: bool = True
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: Array, y: Array) -> tuple[Array, ...]:
    if self.num_classes > 1:
      z = jnp.concatenate([z, one_hot(y, self.num_classes).astype(z.dtype)], 1)
    h = pixel_norm(z) if self.normalize_latents else z
    how = {'kernels': self.kernels, 'dtype': self.dtype}
    block, top = remat(ProGenBlock, self.remat), level_of(self.resolution)
    images = []
    for level in range(FIRST, top + 1):
      maps, size = num_maps(level, self.fmap_base, self.fmap_max), 2**level
      h = block(maps, **how, name=f'{size}x{size}')(h)
      name = f'ToRGB_lod{top - level}'
      image = Conv(self.channels, 1, **how, initializer=NORMAL, name=name)(h)
      images.append(trees.at_least_float32(image))
    return tuple(images)


class StyleGenerator(stylegan.StyleGenerator):
  """MSG-StyleGAN's: (z [B, z_dim], y [B], noise) -> images at r = 4, 8, ... resolution.

  StyleGAN's generator, of which every scale is wanted, and no styles are mixed. `noise`: see
  `stylegan.Synthesis`.
  """

  def __call__(self, z: Array, y: Array, noise: Sequence[Array] | None = None) -> tuple[Array, ...]:
    return self.synthesis(stylegan.broadcast(self.w(z, y), self.synthesis.num_layers), noise)


class Discriminator(nn.Module):
  """(images [B, r, r, channels] at r = 4, 8, ... resolution, y [B]) -> scores [B], float32.

  `combine` is one of COMBINE and `scales` of SCALES: images of other scales than these and the last
  are not looked at. The minibatch's standard deviation is seen by every block, or by the last one
  (`stddev_every`); `stddev_group` and `stddev_block` as in `minibatch.stddev`. `order` is one of
  `blocks.ORDERS`; `blurred`, with StyleGAN's blur. `rgb_activation` follows the layer that sees the
  last image, and nothing follows those of other scales. With classes there is a score for each, of
  which the image's own counts, as in StyleGAN.
  """

  resolution: int
  num_classes: int = 1
  fmap_base: int = 8192
  fmap_max: int = 512
  combine: str = 'cat_lin'
  scales: str = 'all'
  stddev_every: bool = True
  stddev_group: int | None = 4
  stddev_block: int | None = 4
  order: str = 'tf'
  blurred: bool = True
  rgb_activation: bool = True
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @property
  def looked_at(self) -> tuple[bool, ...]:
    """Which of the images it sees, the smallest first."""
    errors.pick(self.scales, SCALES, 'model.scales')
    given = (*SCALES[self.scales], self.resolution)
    return tuple(size in given for size in resolutions(self.resolution))

  def maps(self, level: int) -> int:
    return num_maps(level, self.fmap_base, self.fmap_max)

  def half(self, level: int) -> int:
    """Features that lin_cat makes of the image, and leaves to what came down."""
    return max(self.maps(level) // 2, 1)

  def from_rgb(self, level: int, features: int, use_bias: bool = True) -> Conv:
    """The 1x1 convolution that sees the image of this level."""
    name = f'FromRGB_lod{level_of(self.resolution) - level}'
    how = {'kernels': self.kernels, 'dtype': self.dtype, 'initializer': NORMAL, 'name': name}
    return Conv(features, 1, use_bias=use_bias, **how)

  def joined(self, level: int, image: Array, h: Array | None) -> Array:
    """What the block of a level sees: of the last image, or phi(image, features h [B, r, r, C])."""
    image = image.astype(self.dtype)
    if h is None:
      h = self.from_rgb(level, self.maps(level))(image)
      return leaky_relu(h) if self.rgb_activation else h
    if not self.looked_at[level - FIRST]:
      return h
    if self.combine == 'lin_cat':
      image = self.from_rgb(level, self.half(level))(image)
    h = jnp.concatenate([image, h], -1)
    return self.from_rgb(level, self.maps(level), False)(h) if self.combine == 'cat_lin' else h

  def left(self, level: int) -> int:
    """Features that come down to a level: lin_cat fills up to `maps` with what it makes of x."""
    half = self.combine == 'lin_cat' and self.looked_at[level - FIRST]
    return self.half(level) if half else self.maps(level)

  @nn.compact
  def __call__(self, images: Sequence[Array], y: Array) -> Array:
    errors.pick(self.combine, dict.fromkeys(COMBINE), 'model.combine')
    how = {'kernels': self.kernels, 'dtype': self.dtype}
    block = functools.partial(
      remat(DiscBlock, self.remat), order=self.order, blurred=self.blurred, **how
    )
    stddev = functools.partial(minibatch.stddev, group=self.stddev_group, block=self.stddev_block)
    levels, h = range(FIRST, level_of(self.resolution) + 1), None
    for level, image in reversed(list(zip(levels, images, strict=True))):
      h = self.joined(level, image, h)
      if level > FIRST:
        h = stddev(h) if self.stddev_every else h
        h = block(self.maps(level), self.left(level - 1), name=f'{2**level}x{2**level}')(h)
    last = DiscOutput(
      self.maps(FIRST), self.maps(FIRST - 1), self.num_classes, stddev=stddev, **how, name='4x4'
    )
    scores = last(h)
    if self.num_classes == 1:
      return scores[:, 0]
    return (scores * one_hot(y, self.num_classes).astype(scores.dtype)).sum(1)


# BMSG-GAN's discriminator; the class itself has MSG-StyleGAN's settings.
ProDiscriminator = functools.partial(
  Discriminator,
  combine='lin_cat',
  stddev_every=False,
  stddev_group=None,  # the whole batch
  stddev_block=None,
  order='theano',
  blurred=False,
  rgb_activation=False,
)
