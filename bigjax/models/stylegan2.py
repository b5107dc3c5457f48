"""StyleGAN2's networks (Karras et al. 2020), as their PyTorch code of ADA has them.

The generator is a mapping network and convolutions that it modulates; both players have one of
three shapes: `orig`, StyleGAN's; `skip`, with an image made or seen at every resolution; `resnet`,
with residual blocks. Parameters are raw, for the equalised learning rate (`GEN_GAINS`,
`DISC_GAINS`), and named as in that code: its weights become ours by renaming, transposing, and
turning those of the `conv0` that upsample (nn/style/fir.py); its buffers, the average w and the
constant noise, are not among them. Networks of one class do not look at labels.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.core import errors, trees
from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.layers import Conv, Dense, Embed, pixel_norm, remat
from bigjax.nn.style import equalized, fir, minibatch
from bigjax.nn.style.blocks import FIRST, NORMAL, level_of, num_maps, resolutions
from bigjax.nn.style.modulated import ROOT_HALF, StyledConv, ToRGB, activated

Array = jax.Array

ARCHITECTURES = ('orig', 'skip', 'resnet')
LRMUL = 0.01  # mapping networks learn that much slower
_MAPPING = {'lrmul': {'mapping/fc*': LRMUL}}
_EMBED = {'mapping/embed/embedding': 1.0}
# What the equalised learning rate multiplies kernels by, over sqrt(fan in): 1, as the activations
# have the gain. Demodulation undoes any factor of a kernel, and so those have none.
GEN_GAINS = equalized.gains(1.0, {'synthesis/*/conv[01]/kernel': None, **_EMBED}, **_MAPPING)
DISC_GAINS = equalized.gains(1.0, _EMBED, **_MAPPING)


class Mapping(nn.Module):
  """(z [B, z_dim] or None, y [B]) -> w [B, w_dim].

  Latents and a class embedding are normalised, each on its own, and joined. Discriminators map the
  class alone. Without layers, w is the normalised embedding.
  """

  w_dim: int = 512
  num_layers: int = 8
  num_classes: int = 1

  @nn.compact
  def __call__(self, z: Array | None, y: Array) -> Array:
    parts = [] if z is None else [pixel_norm(z)]
    if self.num_classes > 1:
      embedding = Embed(self.num_classes, self.w_dim, NORMAL, name='embed')(y)
      bias = self.param('embed_bias', nn.initializers.zeros, (self.w_dim,), jnp.float32)
      parts.append(pixel_norm(embedding + bias[None]))
    h, slow = jnp.concatenate(parts, 1), nn.initializers.normal(1 / LRMUL)
    with jax.default_matmul_precision('highest'):  # eight layers of rounding would add up
      for i in range(self.num_layers):
        h = activated(Dense(self.w_dim, dtype=h.dtype, initializer=slow, name=f'fc{i}')(h))
    return h


class SynthesisBlock(nn.Module):
  """The layers of one resolution: (maps or None, image or None, ws, noise) -> (maps, image).

  `ws` are [B, 1, w_dim] for the layer of the 4x4 block, whose maps begin with a learned constant,
  or [B, 2, w_dim], and one more for the image; `noise` is a map for each layer.
  """

  features: int
  channels: int
  architecture: str
  last: bool
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Array | None, image: Array | None, ws: Array, noise: Sequence[Array | None]
  ) -> tuple[Array, Array | None]:
    how = {'kernels': self.kernels, 'dtype': self.dtype}
    conv = functools.partial(StyledConv, self.features, **how)
    if x is None:
      const = self.param('const', NORMAL, (4, 4, self.features), jnp.float32)
      x = jnp.broadcast_to(const[None], (ws.shape[0], *const.shape))
      x = conv(name='conv1')(x, ws[:, 0], noise[0])
    elif self.architecture == 'resnet':
      past = Conv(self.features, 1, 'none', False, **how, initializer=NORMAL, name='skip')(x)
      x = conv(up=True, name='conv0')(x, ws[:, 0], noise[0])
      x = conv(gain=ROOT_HALF, name='conv1')(x, ws[:, 1], noise[1])
      x = x + ROOT_HALF * fir.upsample(past)
    else:
      x = conv(up=True, name='conv0')(x, ws[:, 0], noise[0])
      x = conv(name='conv1')(x, ws[:, 1], noise[1])
    if self.architecture == 'skip' or self.last:
      new = ToRGB(self.channels, **how, name='torgb')(x, ws[:, len(noise)])
      image = new if image is None else fir.upsample(image) + new
    return x, image


class Synthesis(nn.Module):
  """(ws [B, num_ws, w_dim], noise) -> images [B, r, r, channels], float32 without bounds.

  `noise` is one map [B or 1, r, r, 1] for each convolution (`noise_sizes`), or None: none at all.
  The image of a resolution has the style of the next layer's.
  """

  resolution: int
  fmap_base: int = 16384
  fmap_max: int = 512
  channels: int = 3
  architecture: str = 'skip'
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, ws: Array, noise: Sequence[Array] | None = None) -> Array:
    errors.pick(self.architecture, dict.fromkeys(ARCHITECTURES), 'model.gen_architecture')
    noise = (None,) * len(noise_sizes(self.resolution)) if noise is None else noise
    how = {'kernels': self.kernels, 'dtype': self.dtype}
    block, top = remat(SynthesisBlock, self.remat), level_of(self.resolution)
    x, image, first = None, None, 0
    for level in range(FIRST, top + 1):
      num = 1 if level == FIRST else 2
      maps = num_maps(level, self.fmap_base, self.fmap_max)
      made = block(maps, self.channels, self.architecture, level == top, **how, name=f'b{2**level}')
      x, image = made(x, image, ws[:, first : first + num + 1], tuple(noise[first : first + num]))
      first += num
    return image


def noise_sizes(resolution: int) -> list[int]:
  """Pixels a side of the noise of each convolution: one layer at 4 px, two at each one further."""
  return [size for size in resolutions(resolution) for _ in range(2)][1:]


def num_ws(resolution: int) -> int:
  """How many styles a generator takes: one for each convolution, and one for the last image."""
  return len(noise_sizes(resolution)) + 1


class Generator(nn.Module):
  """(z [B, z_dim], y [B], noise) -> images [B, r, r, channels], float32 without bounds.

  `mapping` and `synthesis` are there for whoever needs w. `noise`: see `Synthesis`. `fmap_base` and
  `fmap_max` as in `blocks.num_maps`: 16384 is the paper's config F, half of it the others.
  """

  resolution: int
  num_classes: int = 1
  z_dim: int = 512
  w_dim: int = 512
  mapping_layers: int = 8
  fmap_base: int = 16384
  fmap_max: int = 512
  channels: int = 3
  architecture: str = 'skip'
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  def setup(self):
    self.mapping = Mapping(self.w_dim, self.mapping_layers, self.num_classes)
    self.synthesis = Synthesis(
      self.resolution,
      self.fmap_base,
      self.fmap_max,
      self.channels,
      self.architecture,
      self.remat,
      self.kernels,
      self.dtype,
    )

  @property
  def num_ws(self) -> int:
    return num_ws(self.resolution)

  def __call__(self, z: Array, y: Array, noise: Sequence[Array] | None = None) -> Array:
    w = self.mapping(z, y)
    return self.synthesis(jnp.repeat(w[:, None], self.num_ws, axis=1), noise)


def rgb_images(
  net: Generator, params: Any, ws: Array, noise: Sequence[Array] | None
) -> dict[int, Array]:
  """What each resolution adds to the image of a skip generator: {r: [B, r, r, channels]}."""
  run = lambda net, *given: net.synthesis(*given)
  seen = {'capture_intermediates': lambda module, _: isinstance(module, ToRGB)}
  _, found = net.apply({'params': params}, ws, noise, method=run, mutable=['intermediates'], **seen)
  found = found['intermediates']['synthesis']
  return {size: found[f'b{size}']['torgb']['__call__'][0] for size in resolutions(net.resolution)}


class DiscBlock(nn.Module):
  """Two convolutions, the second to half the resolution: (maps or None, image) -> the same."""

  features: int
  wider: int  # maps after it
  architecture: str
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array | None, image: Array) -> tuple[Array, Array]:
    how = {'kernels': self.kernels, 'dtype': self.dtype}
    if x is None or self.architecture == 'skip':
      x = _with_image(x, image, self.features, how)
    if self.architecture == 'skip':
      image = fir.downsample(image)
    h = activated(Conv(self.features, 3, **how, initializer=NORMAL, name='conv0')(x))
    h = fir.DownConv(self.wider, **how, name='conv1')(h)
    if self.architecture != 'resnet':
      return activated(h), image
    past = fir.DownConv(self.wider, 1, False, **how, name='skip')(x)
    return activated(h, ROOT_HALF) + ROOT_HALF * past, image


def _with_image(x: Array | None, image: Array, features: int, how: dict[str, Any]) -> Array:
  """Maps made of an image, on top of those that came down; a part of the module that calls it."""
  new = activated(Conv(features, 1, **how, initializer=NORMAL, name='fromrgb')(image))
  return new if x is None else x + new


class DiscEpilogue(nn.Module):
  """The last block: (maps [B, 4, 4, C] or None, image) -> [B, num_outputs], float32."""

  features: int
  num_outputs: int
  architecture: str
  stddev_group: int | None = 4
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array | None, image: Array) -> Array:
    how = {'kernels': self.kernels, 'dtype': self.dtype}
    if x is None or self.architecture == 'skip':
      x = _with_image(x, image, self.features, how)
    x = minibatch.stddev(x, self.stddev_group)
    x = activated(Conv(self.features, 3, **how, initializer=NORMAL, name='conv')(x))
    x = trees.at_least_float32(x).reshape(len(x), -1)
    dense = functools.partial(Dense, dtype=x.dtype, initializer=NORMAL)
    return dense(self.num_outputs, name='out')(activated(dense(self.features, name='fc')(x)))


class Discriminator(nn.Module):
  """(images [B, r, r, channels], y [B]) -> scores [B], float32.

  With classes, the last layer's outputs are projected on what a mapping network makes of the class,
  over the root of their number. `stddev_group` as in `minibatch.stddev`, among the global batch.
  """

  resolution: int
  num_classes: int = 1
  fmap_base: int = 16384
  fmap_max: int = 512
  architecture: str = 'resnet'
  mapping_layers: int = 8
  stddev_group: int | None = 4
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  def maps(self, level: int) -> int:
    return num_maps(level, self.fmap_base, self.fmap_max)

  @nn.compact
  def __call__(self, images: Array, y: Array) -> Array:
    errors.pick(self.architecture, dict.fromkeys(ARCHITECTURES), 'model.disc_architecture')
    how = {'kernels': self.kernels, 'dtype': self.dtype}
    block, x = remat(DiscBlock, self.remat), None
    for level in range(level_of(self.resolution), FIRST, -1):
      maps = self.maps(level), self.maps(level - 1)
      x, images = block(*maps, self.architecture, **how, name=f'b{2**level}')(x, images)
    width, conditional = self.maps(FIRST), self.num_classes > 1
    last = DiscEpilogue(
      width, width if conditional else 1, self.architecture, self.stddev_group, **how, name='b4'
    )
    out = last(x, images)
    if not conditional:
      return out[:, 0]
    mapping = Mapping(width, self.mapping_layers, self.num_classes, name='mapping')
    return (out * mapping(None, y).astype(out.dtype)).sum(1) / width**0.5
