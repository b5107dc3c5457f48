"""StyleGAN's generator in parts (Karras et al. 2019): mapping network, styled layers, images.

Raw parameters under the official code's names; GAINS says what the equalised learning rate makes of
them. The options are what the paper's Table 1 switches: styles (AdaIN, in place of PGGAN's pixel
norm), a constant input, noise, blurred upsampling. From 128 px on the official code convolves while
it upsamples, by a kernel that lies the other way round there; here all layers convolve the
upsampled map.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from bigjax.core import trees
from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.layers import Conv, Dense, Embed, pixel_norm, remat
from bigjax.nn.style import equalized
from bigjax.nn.style.blocks import FIRST, NORMAL, leaky_relu, level_of, num_maps, resolutions
from bigjax.nn.style.resampling import blur

Array = jax.Array

LRMUL = 0.01  # the mapping network learns that much slower
GAINS = equalized.gains(
  others={
    '*/StyleMod/kernel': 1.0,
    '*/ToRGB_*/kernel': 1.0,
    '*/4x4/Dense/kernel': equalized.RELU_GAIN / 4,  # as PGGAN's
  },
  lrmul={'mapping/*': LRMUL},
)  # of a generator that has Mapping as `mapping` and Synthesis as `synthesis`


def instance_norm(x: Array, eps: float = 1e-8) -> Array:
  """Each map of each example [B, H, W, C] to mean 0 and variance 1, computed in float32."""
  wide = trees.at_least_float32(x)
  wide = wide - wide.mean((1, 2), keepdims=True)
  return (wide * lax.rsqrt(jnp.square(wide).mean((1, 2), keepdims=True) + eps)).astype(x.dtype)


class Mapping(nn.Module):
  """(z [B, z_dim], y [B]) -> w [B, w_dim]; of one class, y is not looked at.

  Latents are normalised, after a class embedding of their own width has joined them; without any
  layers, that is all, and w is as wide as they are.
  """

  w_dim: int = 512
  features: int = 512
  num_layers: int = 8
  num_classes: int = 1

  @nn.compact
  def __call__(self, z: Array, y: Array) -> Array:
    if self.num_classes > 1:
      embed = Embed(self.num_classes, z.shape[-1], NORMAL, name='LabelConcat')
      z = jnp.concatenate([z, embed(y).astype(z.dtype)], 1)
    h, slow = pixel_norm(z), nn.initializers.normal(1 / LRMUL)
    widths = [self.features] * (self.num_layers - 1) + [self.w_dim] * (self.num_layers > 0)
    with jax.default_matmul_precision('highest'):  # eight layers of rounding would add up
      for i, width in enumerate(widths):
        h = leaky_relu(Dense(width, dtype=h.dtype, initializer=slow, name=f'Dense{i}')(h))
    return h


class StyledLayer(nn.Module):
  """A convolution, or the first map, and what follows: noise, activation, norm, style.

  (x [B, H, W, C], or None for the first 4x4 map; w [B, w_dim]; noise [B or 1, H, W, 1], or None)
  -> [B, H, W, features], twice as high and wide with `up`. The other options are `Synthesis`'s.
  """

  features: int
  up: bool = False
  styled: bool = True
  constant: bool = True
  noisy: bool = True
  blurred: bool = True
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  def first(self, w: Array) -> Array:
    """The map [B, 4, 4, features] that all begins with: a learned constant, or linear in w."""
    if self.constant:
      x = self.param('const', nn.initializers.ones, (4, 4, self.features), jnp.float32)
      return jnp.broadcast_to(x[None], (w.shape[0], *x.shape)).astype(self.dtype)
    kernel = self.param('kernel', NORMAL, (w.shape[-1], 16 * self.features), jnp.float32)
    x = w.astype(self.dtype) @ kernel.astype(self.dtype)
    return x.reshape(-1, 4, 4, self.features)

  def convolved(self, x: Array) -> Array:
    kernel = self.param('kernel', NORMAL, (3, 3, x.shape[-1], self.features), jnp.float32)
    x = x.astype(self.dtype)
    if not self.up:
      return self.kernels.conv(x, kernel)
    x = self.kernels.up(x, kernel)
    return blur(x) if self.blurred else x

  @nn.compact
  def __call__(self, x: Array | None, w: Array, noise: Array | None) -> Array:
    x = self.first(w) if x is None else self.convolved(x)
    each = lambda name: self.param(name, nn.initializers.zeros, (self.features,), jnp.float32)
    if self.noisy:
      strength = each('Noise').astype(x.dtype)
      x = x if noise is None else x + noise.astype(x.dtype) * strength[None, None, None]
    x = leaky_relu(x + each('bias').astype(x.dtype)[None, None, None])
    if not self.styled:
      return pixel_norm(x)
    # AdaIN: gain and bias of every map, linear in w.
    style = Dense(2 * self.features, dtype=x.dtype, initializer=NORMAL, name='StyleMod')(w)
    gain, bias = jnp.split(style, 2, axis=1)
    return instance_norm(x) * (gain[:, None, None] + 1) + bias[:, None, None]


class Block(nn.Module):
  """The two layers of one resolution: (h or None, w [B, 2, w_dim], two noises) -> [B, r, r, C]."""

  names: tuple[str, str]
  features: int
  styled: bool = True
  constant: bool = True
  noisy: bool = True
  blurred: bool = True
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, h: Array | None, ws: Array, first: Array | None, second: Array | None):
    layer = functools.partial(
      StyledLayer, self.features, styled=self.styled, constant=self.constant, noisy=self.noisy,
      blurred=self.blurred, kernels=self.kernels, dtype=self.dtype,
    )  # fmt: skip
    h = layer(up=h is not None, name=self.names[0])(h, ws[:, 0], first)
    return layer(name=self.names[1])(h, ws[:, 1], second)


class Synthesis(nn.Module):
  """(ws [B, num_layers, w_dim], noise, level) -> images [B, r, r, channels] at r = 4, ... 2^level.

  Float32, the smallest first, each by a 1x1 convolution of its own of the features at its scale.
  `level` (static; None: the last) is where it ends; the parameters of all levels are there from the
  start. A game that wants the last image, or the last two, leaves the others: what is made for
  those alone is then no part of the program.

  `noise` is one map [B or 1, r, r, 1] for each layer (`noise_maps`), or None for none at all.

  Attributes:
    fmap_base, fmap_max: see blocks.num_maps.
    styled: whether w modulates what instance norm leaves, in every layer; else pixel norm follows.
    constant: whether the first map is a learned constant; else it is linear in w.
    noisy: whether layers have a noise.
    blurred: whether upsampled maps are blurred.
  """

  resolution: int
  fmap_base: int = 8192
  fmap_max: int = 512
  channels: int = 3
  styled: bool = True
  constant: bool = True
  noisy: bool = True
  blurred: bool = True
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @property
  def num_layers(self) -> int:
    """How many layers take a style: two for each resolution."""
    return num_layers(level_of(self.resolution))

  @nn.compact
  def __call__(
    self, ws: Array, noise: Sequence[Array] | None = None, level: int | None = None
  ) -> tuple[Array, ...]:
    noise = (None,) * self.num_layers if noise is None else noise
    how = {'kernels': self.kernels, 'dtype': self.dtype}
    block = functools.partial(
      remat(Block, self.remat), styled=self.styled, constant=self.constant, noisy=self.noisy,
      blurred=self.blurred, **how,
    )  # fmt: skip
    top = level_of(self.resolution)
    last = top if level is None or self.is_initializing() else level
    images, h = [], None
    for at in range(FIRST, last + 1):
      names = ('Const' if self.constant else 'Dense', 'Conv')
      names = names if at == FIRST else ('Conv0_up', 'Conv1')
      maps, size = num_maps(at, self.fmap_base, self.fmap_max), 2**at
      both = slice(num_layers(at - 1), num_layers(at))
      h = block(names, maps, name=f'{size}x{size}')(h, ws[:, both], *noise[both])
      name = f'ToRGB_lod{top - at}'
      image = Conv(self.channels, 1, **how, initializer=NORMAL, name=name)(h)
      images.append(trees.at_least_float32(image))
    return tuple(images)


class StyleGenerator(nn.Module):
  """What generators with styles have in common: `mapping`, `synthesis`, and the sizes of both."""

  resolution: int
  num_classes: int = 1
  z_dim: int = 512
  w_dim: int = 512
  mapping_layers: int = 8
  mapping_features: int = 512
  fmap_base: int = 8192
  fmap_max: int = 512
  channels: int = 3
  styled: bool = True
  constant: bool = True
  noisy: bool = True
  blurred: bool = True
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  def setup(self):
    self.mapping = Mapping(self.w_dim, self.mapping_features, self.mapping_layers, self.num_classes)
    self.synthesis = Synthesis(
      self.resolution, self.fmap_base, self.fmap_max, self.channels, self.styled, self.constant,
      self.noisy, self.blurred, self.remat, self.kernels, self.dtype,
    )  # fmt: skip

  @property
  def w_size(self) -> int:
    """Dimensions of w: where nothing is mapped, those of z and its label."""
    return self.w_dim if self.mapping_layers else self.z_dim * min(self.num_classes, 2)

  def w(self, z: Array, y: Array) -> Array:
    """w [B, w_size] of latents [B, z_dim] and labels [B]."""
    return self.mapping(z, y)


def num_layers(level: int) -> int:
  """Layers of a generator up to 2^level px: two for each resolution, from 4 px on."""
  return 2 * (level - FIRST + 1)


def noise_maps(keys: Array, resolution: int) -> tuple[Array, ...]:
  """Normal noise for each layer of `Synthesis`, [B, r, r, 1], a key for each example.

  Of one key [1], it is a noise that all examples share.
  """
  sizes = [size for size in resolutions(resolution) for _ in range(2)]

  def of_layer(i, size):
    draw = lambda key: jax.random.normal(jax.random.fold_in(key, i), (size, size, 1))
    return jax.vmap(draw)(keys)

  return tuple(of_layer(i, size) for i, size in enumerate(sizes))


def broadcast(w: Array, num_layers: int) -> Array:
  """One w [B, w_dim] for all layers: [B, num_layers, w_dim]."""
  return jnp.repeat(w[:, None], num_layers, axis=1)


def mixing_cutoffs(key: Array, shape: tuple[int, ...], num_layers: int, share: float) -> Array:
  """Where styles change hands under mixing regularisation, int32, one number of each minibatch.

  Args:
    shape: of the result.
    num_layers: of the generator as far as it is in use; at least 2.
    share: how often there is a change at all: in 1 to num_layers - 1, each as likely; otherwise it
      is at num_layers, after the last.
  """
  key_whether, key_where = jax.random.split(key)
  where = jax.random.randint(key_where, shape, 1, num_layers, jnp.int32)
  return jnp.where(jax.random.uniform(key_whether, shape) < share, where, jnp.int32(num_layers))


def mixed(ws: Array, others: Array, cutoffs: Array) -> Array:
  """Styles [B, num_layers, w_dim], from layer `cutoffs` [B] on those of `others` [B, w_dim]."""
  own = jnp.arange(ws.shape[1], dtype=jnp.int32)[None] < cutoffs[:, None]
  return jnp.where(own[..., None], ws, others[:, None])


def truncate(ws: Array, w_avg: Array, psi: Array | float, cutoff: int | None = None) -> Array:
  """The truncation trick in w: each layer's style psi of the way from the average to its own.

  Args:
    ws: [B, num_layers, w_dim].
    w_avg: [w_dim], the average of the mapping network's outputs.
    psi: 1 leaves everything as it is, 0 makes all images one; may be traced.
    cutoff: how many of the first layers are truncated; None is all of them.
  """
  centre = w_avg.astype(ws.dtype)[None, None]
  moved = centre + jnp.asarray(psi, ws.dtype) * (ws - centre)
  within = jnp.arange(ws.shape[1]) < (ws.shape[1] if cutoff is None else cutoff)
  return jnp.where(within[None, :, None], moved, ws)
