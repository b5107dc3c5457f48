"""PGGAN's networks (Karras et al. 2018, Table 2), which grow from 4 px to their full resolution.

All blocks have their parameters from the start; a call says how many of them are there (`level`,
static: images of 2^level px) and how far the newest one has faded in (`alpha`, traced). Blocks and
layers carry the names of the official TensorFlow code, but that what it calls Conv0_up and
Conv1_down is Conv0 and Conv1 here. The options are what the paper's Table 1 switches, and where its
two official codes differ. Kernels are N(0, 1): see nn/style/equalized.py for what becomes of them.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.core import trees
from bigjax.nn.convolution import upsample
from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.layers import BatchNorm, Conv, pixel_norm, remat
from bigjax.nn.style import equalized, growing, minibatch
from bigjax.nn.style.blocks import (
  FIRST,
  NORM_EPS,
  NORMAL,
  DenseTo4x4,
  leaky_relu,
  level_of,
  num_maps,
  one_hot,
)
from bigjax.nn.style.resampling import fade

Array = jax.Array

GEN_NORMS = ('pixel', 'batch', 'none')
DISC_NORMS = ('layer', 'none')
ACTIVATIONS = {'lrelu': leaky_relu, 'relu': nn.relu}

# The first layer's gain counts 16 times its fan in: the paper's code saw a convolution in it.
GEN_GAINS = equalized.gains(
  others={'4x4/Dense/kernel': equalized.RELU_GAIN / 4, 'ToRGB_*/kernel': 1.0},
)
DISC_GAINS = equalized.gains(others={'4x4/Dense1/kernel': 1.0})


class GenBlock(nn.Module):
  """Two layers at one resolution, each with activation and norm.

  The first is a convolution of what came twice enlarged; at 4 px, linear, of the latents.
  """

  features: int
  norm: str = 'pixel'
  activation: str = 'lrelu'
  bn_group: int | None = None
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    bias = self.norm != 'batch'  # which has one itself
    conv = functools.partial(
      Conv, self.features, use_bias=bias, kernels=self.kernels, dtype=self.dtype, initializer=NORMAL
    )
    if x.ndim == 2:
      x = DenseTo4x4(self.features, bias, self.dtype, name='Dense')(x)
      second = conv(name='Conv')
    else:
      x = conv(resample='up', name='Conv0')(x)
      second = conv(name='Conv1')
    return self.finished(second(self.finished(x, 'BN0', train)), 'BN1', train)

  def finished(self, x: Array, name: str, train: bool) -> Array:
    """BatchNorm precedes the activation, pixel norm follows it."""
    activate = ACTIVATIONS[self.activation]
    if self.norm == 'batch':
      bn = BatchNorm(self.features, self.bn_group, NORM_EPS, self.dtype, name=name)
      return activate(bn(x, bn.moments(x, train)))
    return pixel_norm(activate(x)) if self.norm == 'pixel' else activate(x)


class Generator(nn.Module):
  """(z [B, z_dim], y [B] or [B, classes]) -> images [B, 2^level, 2^level, channels], float32.

  Table 1's rows (a) to (c) have norm 'batch', activation 'relu', `tanh` and latents as they are;
  (d) to (f) norm 'none'; (g) on, the defaults.

  Attributes:
    resolution: of the full network.
    num_classes: of 1, the network is unconditional; else the label joins z as a vector.
    fmap_base, fmap_max: there are fmap_base / 2^(level - 1) feature maps, at most fmap_max.
    z_dim: None is as many as the maps of a level below 4 px: min(fmap_base, fmap_max).
    normalize_latents: whether z has its pixel norm taken.
    normalize_labels: whether the label joins z before that, as in the TensorFlow code, or after it,
      as in the paper's.
    tanh: whether images end in it; else they are linear, and may leave [-1, 1].
    bn_group: examples of a group of BatchNorm; None: the global batch.
    remat: see layers.remat.
  """

  resolution: int
  num_classes: int = 1
  fmap_base: int = 8192
  fmap_max: int = 512
  z_dim: int | None = None
  channels: int = 3
  norm: str = 'pixel'
  activation: str = 'lrelu'
  tanh: bool = False
  normalize_latents: bool = True
  normalize_labels: bool = False
  bn_group: int | None = None
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @property
  def num_latents(self) -> int:
    """The size of z."""
    return num_maps(1, self.fmap_base, self.fmap_max) if self.z_dim is None else self.z_dim

  def inputs(self, z: Array, y: Array) -> Array:
    """What the first layer sees: latents, and the label where there are classes."""
    z, label = trees.at_least_float32(z), ()
    if self.num_classes > 1:
      label = (one_hot(y, self.num_classes).astype(z.dtype),)
    normed = pixel_norm if self.normalize_latents else lambda x: x
    if self.normalize_labels:
      return normed(jnp.concatenate([z, *label], -1))
    return jnp.concatenate([normed(z), *label], -1)

  @nn.compact
  def __call__(
    self, z: Array, y: Array, level: int, alpha: Array | float = 1.0, train: bool = True
  ) -> Array:
    x = self.inputs(z, y)
    if self.is_initializing():
      return self.create(x, level)
    top, before = level_of(self.resolution), x
    for at in range(FIRST, level + 1):
      before, x = x, self.block(at)(x, train)
    image = self.image(x, top - level)
    if level == FIRST or growing.is_complete(alpha):
      return image
    return fade(upsample(self.image(before, top - level + 1)), image, alpha)

  def create(self, x: Array, level: int) -> Array:
    """Makes the parameters of all levels, on small maps; returns no images but their shape."""
    top = level_of(self.resolution)
    for at in range(FIRST, top + 1):
      self.block(at)(x[:1], True)
      x = jnp.zeros((len(x), 2, 2, self.maps(at)), x.dtype)
      self.image(x[:1], top - at)
    return jnp.zeros((len(x), 2**level, 2**level, self.channels), jnp.float32)

  def maps(self, level: int) -> int:
    return num_maps(level, self.fmap_base, self.fmap_max)

  def block(self, level: int) -> nn.Module:
    return remat(GenBlock, self.remat, static=(2,))(
      self.maps(level), self.norm, self.activation, self.bn_group, self.kernels, self.dtype,
      name=f'{2**level}x{2**level}',
    )  # fmt: skip

  def image(self, x: Array, lod: int) -> Array:
    """The image that maps show, `lod` levels below the full resolution."""
    to_rgb = Conv(
      self.channels, 1, 'none', True, self.kernels, self.dtype, NORMAL, name=f'ToRGB_lod{lod}'
    )
    image = trees.at_least_float32(to_rgb(x))
    return jnp.tanh(image) if self.tanh else image


class Discriminator(growing.Discriminator):
  """Images [B, 2^level, 2^level, channels] -> (scores [B], logits [B, classes] or None), float32.

  Of several classes there are logits, for an AC-GAN. Table 1's rows (a) to (c) have norm 'layer',
  (e*) `discrimination`, (a) to (d) and (e*) no `stddev_features`. The paper's `stddev_group` is the
  whole batch, None.
  """

  @property
  def num_outputs(self) -> int:
    return 1 if self.num_classes == 1 else 1 + self.num_classes

  def __call__(
    self, images: Array, level: int, alpha: Array | float = 1.0
  ) -> tuple[Array, Array | None]:
    out = self.outputs(images, level, alpha)
    return out[:, 0], out[:, 1:] if self.num_classes > 1 else None


def fitted(
  disc: Discriminator, weights: Any, images: Array, level: int, alpha: Array | float = 1.0
) -> dict[str, Array]:
  """Parameters of the minibatch discrimination as real images initialise them, by path.

  Args:
    disc: with `discrimination`.
    weights: as it uses them.
    images: [B, ...] of the level; the paper's code takes 500.
  """
  _, seen = disc.apply({'params': weights}, images, level, alpha, mutable=['features'])
  (features,) = seen['features']['4x4']['of']
  layer = minibatch.MinibatchDiscrimination(disc.discrimination)
  own = minibatch.fitted(layer, weights['4x4']['Discrimination'], features)
  return {f'4x4/Discrimination/{name}': value for name, value in own.items()}
