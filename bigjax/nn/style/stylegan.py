"""StyleGAN's generator in parts (Karras et al. 2019): mapping network, styled layers, images.

Raw parameters under the official code's names; GAINS says what the equalised learning rate makes of
them. From 128 px on that code convolves while it upsamples, by a kernel that lies the other way
round there; here all layers convolve the upsampled map.
"""

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
  others={'*/StyleMod/kernel': 1.0, '*/ToRGB_*/kernel': 1.0}, lrmul={'mapping/*': LRMUL}
)  # of a generator that has Mapping as `mapping` and Synthesis as `synthesis`


def instance_norm(x: Array, eps: float = 1e-8) -> Array:
  """Each map of each example [B, H, W, C] to mean 0 and variance 1, computed in float32."""
  wide = trees.at_least_float32(x)
  wide = wide - wide.mean((1, 2), keepdims=True)
  return (wide * lax.rsqrt(jnp.square(wide).mean((1, 2), keepdims=True) + eps)).astype(x.dtype)


class Mapping(nn.Module):
  """(z [B, z_dim], y [B]) -> w [B, w_dim]; of one class, y is not looked at.

  Latents are normalised, after a class embedding of their own width has joined them.
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
    widths = [self.features] * (self.num_layers - 1) + [self.w_dim]
    with jax.default_matmul_precision('highest'):  # eight layers of rounding would add up
      for i, width in enumerate(widths):
        h = leaky_relu(Dense(width, dtype=h.dtype, initializer=slow, name=f'Dense{i}')(h))
    return h


class StyledLayer(nn.Module):
  """A convolution, or the learned constant, and what follows: noise, activation, norm, style.

  (x [B, H, W, C], or None for the constant 4x4; w [B, w_dim]; noise [B or 1, H, W, 1], or None)
  -> [B, H, W, features], twice as high and wide with `up`.
  """

  features: int
  up: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array | None, w: Array, noise: Array | None) -> Array:
    if x is None:
      x = self.param('const', nn.initializers.ones, (4, 4, self.features), jnp.float32)
      x = jnp.broadcast_to(x[None], (w.shape[0], *x.shape)).astype(self.dtype)
    else:
      kernel = self.param('kernel', NORMAL, (3, 3, x.shape[-1], self.features), jnp.float32)
      x = x.astype(self.dtype)
      x = blur(self.kernels.up(x, kernel)) if self.up else self.kernels.conv(x, kernel)
    each = lambda name: self.param(name, nn.initializers.zeros, (self.features,), jnp.float32)
    strength, bias = each('Noise').astype(x.dtype), each('bias').astype(x.dtype)
    if noise is not None:
      x = x + noise.astype(x.dtype) * strength[None, None, None]
    x = instance_norm(leaky_relu(x + bias[None, None, None]))
    # AdaIN: gain and bias of every map, linear in w.
    style = Dense(2 * self.features, dtype=x.dtype, initializer=NORMAL, name='StyleMod')(w)
    gain, bias = jnp.split(style, 2, axis=1)
    return x * (gain[:, None, None] + 1) + bias[:, None, None]


class Block(nn.Module):
  """The two layers of one resolution: (h or None, w [B, 2, w_dim], two noises) -> [B, r, r, C]."""

  names: tuple[str, str]
  features: int
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, h: Array | None, ws: Array, first: Array | None, second: Array | None):
    how = {'kernels': self.kernels, 'dtype': self.dtype}
    h = StyledLayer(self.features, h is not None, **how, name=self.names[0])(h, ws[:, 0], first)
    return StyledLayer(self.features, **how, name=self.names[1])(h, ws[:, 1], second)


class Synthesis(nn.Module):
  """(ws [B, num_layers, w_dim], noise) -> images [B, r, r, channels] at r = 4, 8, ... resolution.

  Float32, the smallest first, each by a 1x1 convolution of its own of the features at its scale. A
  game that wants the last, or the last two of a lower resolution, leaves the others: what is made
  for those alone is then no part of the program.

  `noise` is one map [B or 1, r, r, 1] for each layer (`noise_maps`), or None for none at all.
  """

  resolution: int
  fmap_base: int = 8192
  fmap_max: int = 512
  channels: int = 3
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @property
  def num_layers(self) -> int:
    """How many layers take a style: two for each resolution."""
    return 2 * len(resolutions(self.resolution))

  @nn.compact
  def __call__(self, ws: Array, noise: Sequence[Array] | None = None) -> tuple[Array, ...]:
    noise = (None,) * self.num_layers if noise is None else noise
    how = {'kernels': self.kernels, 'dtype': self.dtype}
    block, top = remat(Block, self.remat), level_of(self.resolution)
    images, h = [], None
    for level in range(FIRST, top + 1):
      names = ('Const', 'Conv') if level == FIRST else ('Conv0_up', 'Conv1')
      maps, size = num_maps(level, self.fmap_base, self.fmap_max), 2**level
      both = slice(2 * (level - FIRST), 2 * (level - FIRST) + 2)
      h = block(names, maps, **how, name=f'{size}x{size}')(h, ws[:, both], *noise[both])
      name = f'ToRGB_lod{top - level}'
      image = Conv(self.channels, 1, **how, initializer=NORMAL, name=name)(h)
      images.append(trees.at_least_float32(image))
    return tuple(images)


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
