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
from bigjax.nn.convolution import mean_pool
from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.layers import Conv, Dense, pixel_norm, remat
from bigjax.nn.style import equalized, stylegan
from bigjax.nn.style.minibatch import stddev
from bigjax.nn.style.resampling import blur
from bigjax.nn.style.stylegan import leaky_relu, normal, num_features, resolutions

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


def one_hot(y: Array, num_classes: int, dtype: Any) -> Array:
  """Classes y [B], or weights over them [B, classes], as weights."""
  return jax.nn.one_hot(y, num_classes, dtype=dtype) if y.ndim == 1 else y.astype(dtype)


class FirstMap(nn.Module):
  """A linear layer to a 4x4 map with a bias per feature: [B, in] -> [B, 4, 4, features]."""

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: Array) -> Array:
    kernel = self.param('kernel', normal, (z.shape[-1], 16 * self.features), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
    h = z.astype(self.dtype) @ kernel.astype(self.dtype)
    return h.reshape(-1, 4, 4, self.features) + bias.astype(self.dtype)[None, None, None]


class ProGenBlock(nn.Module):
  """Two layers of one resolution: latents [B, z_dim] -> 4x4, or [B, r, r, C] -> [B, 2r, 2r, C'].

  BMSG-GAN has no pixel norm between the first two.
  """

  features: int
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, h: Array) -> Array:
    how = {'kernels': self.kernels, 'dtype': self.dtype, 'initializer': normal}
    if h.ndim == 2:
      h = leaky_relu(FirstMap(self.features, self.dtype, name='Dense')(h))
    else:
      up = Conv(self.features, resample='up', **how, name='Conv0')
      h = pixel_norm(leaky_relu(up(h)))
    return pixel_norm(leaky_relu(Conv(self.features, **how, name='Conv1')(h)))


class ProGenerator(nn.Module):
  """MSG-ProGAN's: (z [B, z_dim], y [B]) -> images [B, r, r, channels] at r = 4, 8, ... resolution.

  Float32 without bounds, the smallest first. Latents are brought to length sqrt(z_dim), unless they
  are there already (`normalize_latents`). `fmap_base` and `fmap_max` as in
  `stylegan.num_features`; BMSG-GAN of feature size F has 16 F and F. With classes, weights over
  them join the latents, as PGGAN's do.
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
      z = jnp.concatenate([z, one_hot(y, self.num_classes, z.dtype)], 1)
    h = pixel_norm(z) if self.normalize_latents else z
    how = {'kernels': self.kernels, 'dtype': self.dtype}
    block, sizes = remat(ProGenBlock, self.remat), resolutions(self.resolution)
    images = []
    for i, size in enumerate(sizes):
      width = num_features(size, self.fmap_base, self.fmap_max)
      h = block(width, **how, name=f'{size}x{size}')(h)
      name = f'ToRGB_lod{len(sizes) - 1 - i}'
      image = Conv(self.channels, 1, **how, initializer=normal, name=name)(h)
      images.append(trees.at_least_float32(image))
    return tuple(images)


class StyleGenerator(nn.Module):
  """MSG-StyleGAN's: (z [B, z_dim], y [B], noise) -> images at r = 4, 8, ... resolution.

  StyleGAN's generator, of which every scale is wanted, and no styles are mixed. `mapping` and
  `synthesis` are there for whoever needs w. `noise`: see `stylegan.Synthesis`.
  """

  resolution: int
  num_classes: int = 1
  z_dim: int = 512
  w_dim: int = 512
  mapping_layers: int = 8
  mapping_features: int = 512
  fmap_base: int = 8192
  fmap_max: int = 512
  channels: int = 3
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  def setup(self):
    self.mapping = stylegan.Mapping(
      self.w_dim, self.mapping_features, self.mapping_layers, self.num_classes
    )
    self.synthesis = stylegan.Synthesis(
      self.resolution,
      self.fmap_base,
      self.fmap_max,
      self.channels,
      self.remat,
      self.kernels,
      self.dtype,
    )

  def __call__(self, z: Array, y: Array, noise: Sequence[Array] | None = None) -> tuple[Array, ...]:
    w = self.mapping(z, y)
    return self.synthesis(stylegan.broadcast(w, self.synthesis.num_layers), noise)


class DiscBlock(nn.Module):
  """Two convolutions, the second of which halves the resolution: [B, r, r, C] -> [B, r/2, r/2, C'].

  With `pool_first` the mean is taken before bias and activation, as in the official TensorFlow
  codes, else after them, as in PGGAN's paper; with `blurred`, the second sees a blurred map.
  """

  features: int
  out_features: int
  pool_first: bool
  blurred: bool
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, h: Array) -> Array:
    how = {'kernels': self.kernels, 'dtype': self.dtype, 'initializer': normal}
    h = leaky_relu(Conv(self.features, **how, name='Conv0')(h))
    h = blur(h) if self.blurred else h
    resample = 'down' if self.pool_first else 'none'
    h = leaky_relu(Conv(self.out_features, resample=resample, **how, name='Conv1_down')(h))
    return h if self.pool_first else mean_pool(h)


class LastBlock(nn.Module):
  """Maps [B, 4, 4, C] -> a score per class [B, num_classes], in at least float32."""

  features: int
  dense_features: int
  num_classes: int
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, h: Array) -> Array:
    conv = Conv(
      self.features, kernels=self.kernels, dtype=self.dtype, initializer=normal, name='Conv'
    )
    h = trees.at_least_float32(leaky_relu(conv(h)))
    dense = functools.partial(Dense, dtype=h.dtype, initializer=normal)
    h = leaky_relu(dense(self.dense_features, name='Dense0')(h.reshape(len(h), -1)))
    return dense(self.num_classes, name='Dense1')(h)


class Discriminator(nn.Module):
  """(images [B, r, r, channels] at r = 4, 8, ... resolution, y [B]) -> scores [B], float32.

  `combine` is one of COMBINE and `scales` of SCALES: images of other scales than these and the last
  are not looked at. The minibatch's standard deviation is seen by every block, or by the last one;
  `stddev_group` and `stddev_block` as in `minibatch.stddev`. `rgb_activation` follows the layer
  that sees the last image, and nothing follows those of other scales. With classes there is a score
  for each, of which the image's own counts, as in StyleGAN.
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
  pool_first: bool = True
  blurred: bool = True
  rgb_activation: bool = True
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @property
  def looked_at(self) -> tuple[bool, ...]:
    """Which of the images it sees: of as many scales as there are."""
    errors.pick(self.scales, SCALES, 'model.scales')
    given = (*SCALES[self.scales], self.resolution)
    return tuple(size in given for size in resolutions(self.resolution))

  def from_rgb(self, size: int, features: int, use_bias: bool = True) -> Conv:
    """The 1x1 convolution that sees the image of this size."""
    lod = (self.resolution // size).bit_length() - 1
    return Conv(
      features,
      1,
      use_bias=use_bias,
      kernels=self.kernels,
      dtype=self.dtype,
      initializer=normal,
      name=f'FromRGB_lod{lod}',
    )

  def combined(self, image: Array, h: Array, features: int) -> Array:
    """phi(image [B, r, r, channels], features [B, r, r, C]) -> [B, r, r, `features`, or so]."""
    size, image = image.shape[1], image.astype(self.dtype)
    if self.combine == 'lin_cat':
      image = self.from_rgb(size, max(features // 2, 1))(image)
    h = jnp.concatenate([image, h], -1)
    return self.from_rgb(size, features, False)(h) if self.combine == 'cat_lin' else h

  @nn.compact
  def __call__(self, images: Sequence[Array], y: Array) -> Array:
    errors.pick(self.combine, dict.fromkeys(COMBINE), 'model.combine')
    width = functools.partial(num_features, base=self.fmap_base, most=self.fmap_max)
    how = {'kernels': self.kernels, 'dtype': self.dtype}
    block = functools.partial(remat(DiscBlock, self.remat), **how)
    seen = dict(zip(resolutions(self.resolution), self.looked_at, strict=True))

    # What sees the last image; then, at each scale, the image there and the block.
    h = self.from_rgb(self.resolution, width(self.resolution))(images[-1].astype(self.dtype))
    h = leaky_relu(h) if self.rgb_activation else h
    for size, image in reversed(list(zip(seen, images, strict=True))):
      if seen[size] and size < self.resolution:
        h = self.combined(image, h, width(size))
      if self.stddev_every or size == 4:
        h = stddev(h, self.stddev_group, block=self.stddev_block)
      if size > 4:
        # lin_cat fills the next block's width up with features of the image there.
        half = self.combine == 'lin_cat' and seen[size // 2]
        out = max(width(size // 2) // 2, 1) if half else width(size // 2)
        h = block(width(size), out, self.pool_first, self.blurred, name=f'{size}x{size}')(h)
    scores = LastBlock(width(4), width(2), self.num_classes, **how, name='4x4')(h)
    if self.num_classes == 1:
      return scores[:, 0]
    return (scores * one_hot(y, self.num_classes, scores.dtype)).sum(1)


# BMSG-GAN's discriminator; the class itself has MSG-StyleGAN's settings.
ProDiscriminator = functools.partial(
  Discriminator,
  combine='lin_cat',
  stddev_every=False,
  stddev_group=None,  # the whole batch
  stddev_block=None,
  pool_first=False,
  blurred=False,
  rgb_activation=False,
)
