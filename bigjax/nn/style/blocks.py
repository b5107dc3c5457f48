"""What the networks of PGGAN's family have in common: widths, the first map, the critics' blocks.

Kernels are N(0, 1): see equalized.py for what becomes of them.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.core import errors, trees
from bigjax.nn.convolution import mean_pool
from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.layers import Conv, Dense, LayerNorm
from bigjax.nn.style import minibatch
from bigjax.nn.style.resampling import blur

Array = jax.Array

FIRST = 2  # level of the images that all growth starts from: 4 px
NORMAL = nn.initializers.normal(1.0)
NORM_EPS = 1e-4  # of the BatchNorm and LayerNorm of Table 1's first rows
# What enters a halving block's activation: 'theano' (the paper's results) averages 2x2 activations,
# 'tf' activates 2x2 averages, which is cheaper.
ORDERS = ('theano', 'tf')


def leaky_relu(x: Array) -> Array:
  """The family's one: slope 0.2 below 0."""
  return nn.leaky_relu(x, 0.2)


def level_of(resolution: int) -> int:
  """log2 of a resolution.

  Raises:
    UserError: it is no power of two from 4 px on.
  """
  level = resolution.bit_length() - 1
  if level < FIRST or resolution != 2**level:
    raise errors.UserError(
      f'these networks have a resolution of 4, 8, 16 ... px, not {resolution}; take a power of 2.'
    )
  return level


def resolutions(last: int) -> tuple[int, ...]:
  """4, 8, ... px up to the last one; UserError as `level_of`."""
  return tuple(2**level for level in range(FIRST, level_of(last) + 1))


def num_maps(level: int, base: int, most: int) -> int:
  """Feature maps of the layers at 2^level px; at level 1, of the latents.

  Raises:
    UserError: nothing is left.
  """
  if min(base // 2 ** (level - 1), most) < 1:
    raise errors.UserError(
      f'model.fmap_base={base} and model.fmap_max={most} leave no feature maps at {2**level} px; '
      f'give at least {2 ** (level - 1)} and 1.'
    )
  return min(base // 2 ** (level - 1), most)


def one_hot(y: Array, num_classes: int) -> Array:
  """Labels int32 [B] as [B, classes]; weights over the classes float32 [B, classes] are that."""
  return jax.nn.one_hot(y, num_classes, dtype=jnp.float32) if y.ndim == 1 else y


class DenseTo4x4(nn.Module):
  """A linear layer to maps [B, 4, 4, features] with one bias per map, not per number."""

  features: int
  use_bias: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: Array) -> Array:
    kernel = self.param('kernel', NORMAL, (z.shape[-1], 16 * self.features), jnp.float32)
    x = z.astype(self.dtype) @ kernel.astype(self.dtype)
    x = x.reshape(-1, 4, 4, self.features)
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
      x = x + bias.astype(self.dtype)[None, None, None]
    return x


def _activated(x: Array, norm: str, dtype: Any, name: str) -> Array:
  """The rest of a discriminator's layer: LayerNorm, or none, and leaky ReLU.

  A part of the module that calls it.
  """
  if norm == 'layer':
    x = LayerNorm(NORM_EPS, dtype, one_gain=True, name=name)(x)
  return leaky_relu(x)


class DiscBlock(nn.Module):
  """Two convolutions at one resolution, then half of it; each with its norm and activation.

  StyleGAN's second one sees a blurred map.
  """

  features: int
  wider: int  # maps after it
  norm: str = 'none'
  order: str = 'theano'
  blurred: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    conv = functools.partial(
      Conv, use_bias=self.norm == 'none', kernels=self.kernels, dtype=self.dtype, initializer=NORMAL
    )
    activated = functools.partial(_activated, norm=self.norm, dtype=self.dtype)
    x = activated(conv(self.features, name='Conv0')(x), name='LN0')
    x = blur(x) if self.blurred else x
    if self.order == 'tf':
      return activated(conv(self.wider, resample='down', name='Conv1')(x), name='LN1')
    return mean_pool(activated(conv(self.wider, name='Conv1')(x), name='LN1'))


class DiscOutput(nn.Module):
  """The last block: maps [B, 4, 4, C] -> outputs [B, num_outputs], float32.

  What it knows of the batch (see nn/style/minibatch.py) enters before its convolution, as maps, or
  its last layer, as features.
  """

  features: int
  width: int  # of the features
  num_outputs: int
  norm: str = 'none'
  stddev: Callable[[Array], Array] | None = None
  discrimination: int = 0  # kernels
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    bias = self.norm == 'none'
    conv = Conv(self.features, 3, 'none', bias, self.kernels, self.dtype, NORMAL, name='Conv')
    x = _activated(conv(x if self.stddev is None else self.stddev(x)), self.norm, self.dtype, 'LN0')
    x = trees.at_least_float32(x).reshape(len(x), -1)
    dense = functools.partial(Dense, dtype=x.dtype, initializer=NORMAL)
    x = dense(self.width, use_bias=bias, name='Dense0')(x)
    x = _activated(x[:, None, None], self.norm, x.dtype, 'LN1')[:, 0, 0]
    if self.discrimination:
      self.sow('features', 'of', x)
      x = minibatch.MinibatchDiscrimination(self.discrimination, name='Discrimination')(x)
    return dense(self.num_outputs, name='Dense1')(x)
