"""A discriminator that grows (Karras et al. 2018), of PGGAN and, with blurred maps, StyleGAN.

All blocks have their parameters from the start; a call says how many of them are there (`level`,
static: images of 2^level px) and how far the newest one has faded in (`alpha`, traced).
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.nn.convolution import mean_pool
from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.layers import Conv, remat
from bigjax.nn.style import minibatch
from bigjax.nn.style.blocks import (
  FIRST,
  NORMAL,
  DiscBlock,
  DiscOutput,
  leaky_relu,
  level_of,
  num_maps,
)
from bigjax.nn.style.resampling import fade

Array = jax.Array


def is_complete(alpha: Array | float) -> bool:
  """Whether a newest block is known to have faded in, so that the one before it is not asked."""
  return isinstance(alpha, int | float) and alpha == 1


class Discriminator(nn.Module):
  """Images [B, 2^level, 2^level, channels] -> `outputs` [B, num_outputs], float32.

  A network adds what it makes of the outputs.

  Attributes:
    resolution: of the full network.
    fmap_base, fmap_max: see blocks.num_maps.
    norm: 'none' or 'layer'.
    order: of activation and averaging: see blocks.ORDERS.
    blurred: whether maps are blurred before they are halved.
    stddev_features, stddev_group, stddev_block: of the minibatch standard deviation: see
      minibatch.stddev; of 0 features, there is none.
    discrimination: kernels of minibatch discrimination (Salimans et al. 2016); PGGAN's paper: 100.
    remat: see layers.remat.
  """

  resolution: int
  num_classes: int = 1
  fmap_base: int = 8192
  fmap_max: int = 512
  norm: str = 'none'
  order: str = 'theano'
  blurred: bool = False
  stddev_features: int = 1
  stddev_group: int | None = 4
  stddev_block: int | None = None
  discrimination: int = 0
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @property
  def num_outputs(self) -> int:
    """One for each class."""
    return self.num_classes

  @nn.compact
  def outputs(self, images: Array, level: int, alpha: Array | float = 1.0) -> Array:
    if self.is_initializing():
      return self.create(images)
    if images.shape[1:3] != (2**level, 2**level):
      raise ValueError(f'images of {2**level} px at level {level}, not of shape {images.shape}.')
    x = self.from_rgb(images, level)
    if level > FIRST:
      x = self.block(level)(x)
      if not is_complete(alpha):
        x = fade(self.from_rgb(mean_pool(images), level - 1), x, alpha)
    for at in range(level - 1, FIRST, -1):
      x = self.block(at)(x)
    return self.output()(x)

  def create(self, images: Array) -> Array:
    """Makes the parameters of all levels, on small maps; returns no outputs but their shape."""
    small = lambda size, channels: jnp.zeros((1, size, size, channels), jnp.float32)
    for at in range(level_of(self.resolution), FIRST, -1):
      self.from_rgb(small(2, images.shape[-1]), at)
      self.block(at)(small(2, self.maps(at)))
    self.from_rgb(small(2, images.shape[-1]), FIRST)
    out = self.output()(small(4, self.maps(FIRST)))
    return jnp.zeros((len(images), out.shape[-1]), jnp.float32)

  def maps(self, level: int) -> int:
    return num_maps(level, self.fmap_base, self.fmap_max)

  def from_rgb(self, images: Array, level: int) -> Array:
    """The maps in which images are seen at a level; no norm, in any row."""
    lod = level_of(self.resolution) - level
    conv = Conv(
      self.maps(level), 1, 'none', True, self.kernels, self.dtype, NORMAL, name=f'FromRGB_lod{lod}'
    )
    return leaky_relu(conv(images))

  def block(self, level: int) -> nn.Module:
    return remat(DiscBlock, self.remat)(
      self.maps(level), self.maps(level - 1), self.norm, self.order, self.blurred, self.kernels,
      self.dtype, name=f'{2**level}x{2**level}',
    )  # fmt: skip

  def output(self) -> nn.Module:
    stddev = functools.partial(
      minibatch.stddev, group=self.stddev_group, features=self.stddev_features,
      block=self.stddev_block,
    )  # fmt: skip
    return DiscOutput(  # small, and what it gathers is not gathered twice
      self.maps(FIRST), self.maps(1), self.num_outputs, self.norm,
      stddev if self.stddev_features else None, self.discrimination, self.kernels, self.dtype,
      name='4x4',
    )  # fmt: skip
