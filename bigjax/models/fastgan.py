"""FastGAN's generator (Liu et al. 2021) as Projected GAN has it, and its lighter form.

Each block doubles the map, with a gate (GLU) behind every BatchNorm; maps of 4 to 32 px open and
shut the channels of those 16 times larger. `lite` has one convolution in a block and no noise. The
official code always builds all blocks up to 256 px and knows nothing below 128; here there are
blocks up to the resolution, which may be 8 to 64, too. With classes, BatchNorm's gain and bias are
linear in an embedding. All kernels have spectral norm, of which networks know nothing.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.core import errors, trees
from bigjax.nn.convolution import mean_pool
from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.layers import (
  Embed,
  Moments,
  TorchConv,
  TorchDense,
  pixel_norm,
  remat,
  standardize,
  torch_uniform,
)

Array = jax.Array
# Channels at a resolution, as multiples of ngf; at 2, those of the first map before its gate.
WIDTHS = {
  2: 16, 4: 16, 8: 8, 16: 4, 32: 2, 64: 2, 128: 1, 256: 0.5, 512: 0.25, 1024: 0.125,
}  # fmt: skip
RESOLUTIONS = tuple(size for size in WIDTHS if size >= 8)
GATED_BY = {64: 4, 128: 8, 256: 16, 512: 32}  # whose channels maps of which size gate
BN_EPS = 1e-5


def glu(x: Array) -> Array:
  """Half of the channels, each through a gate that the other half opens."""
  x, gate = jnp.split(x, 2, axis=-1)
  return x * nn.sigmoid(gate)


class Norm(nn.Module):
  """BatchNorm with a learned gain and bias per channel, or ones that are linear in c [B, dim]."""

  group: int | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, c: Array | None, train: bool) -> Array:
    features = x.shape[-1]
    x = standardize(x, Moments(self.group, name='norm')(x, train), BN_EPS, self.dtype)
    if c is None:
      gain = self.param('gain', nn.initializers.ones, (features,), jnp.float32)[None]
      bias = self.param('bias', nn.initializers.zeros, (features,), jnp.float32)[None]
    else:
      gain = 1 + TorchDense(features, self.dtype, name='gain')(c)
      bias = TorchDense(features, self.dtype, name='bias')(c)
    return x * gain.astype(self.dtype)[:, None, None] + bias.astype(self.dtype)[:, None, None]


class UpConv(nn.Module):
  """3x3 convolution without a bias of the map, or of the map enlarged to twice its size."""

  features: int
  up: bool
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    shape = (3, 3, x.shape[-1], self.features)
    kernel = self.param('kernel', torch_uniform(9 * x.shape[-1]), shape, jnp.float32)
    convolve = self.kernels.up if self.up else self.kernels.conv
    return convolve(x.astype(self.dtype), kernel)


class FirstMap(nn.Module):
  """Latents [B, z_dim] -> [B, 4, 4, features / 2]: a transposed convolution of one pixel, gated."""

  features: int
  group: int | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: Array, train: bool) -> Array:
    shape = (4, 4, z.shape[-1], self.features)
    # torch takes the outputs of a transposed convolution for its inputs.
    kernel = self.param('kernel', torch_uniform(16 * self.features), shape, jnp.float32)
    x = jnp.einsum('bz,hwzc->bhwc', z.astype(self.dtype), kernel.astype(self.dtype))
    return glu(Norm(self.group, self.dtype, name='bn')(x, None, train))


class UpBlock(nn.Module):
  """(x [B, H, W, C], c [B, dim] or None, noise) -> [B, 2H, 2W, features].

  `noise` has a map [B or 1, 2H, 2W, 1] for each of two convolutions, which it joins with a learned
  weight, one for both where there are classes; () is none. `lite` has one convolution, without.
  """

  features: int
  lite: bool = False
  group: int | None = None
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, c: Array | None, noise: Sequence[Array], train: bool) -> Array:
    strength = lambda name: self.param(name, nn.initializers.zeros, (), jnp.float32)
    num, strengths = 1 if self.lite else 2, ()
    if not self.lite:
      strengths = [strength('noise')] * 2 if c is not None else map(strength, ('noise1', 'noise2'))
    strengths = list(strengths)
    for i in range(num):
      name = f'conv{i + 1}'
      x = UpConv(2 * self.features, i == 0, self.kernels, self.dtype, name=name)(x)
      if noise:
        x = x + strengths[i].astype(self.dtype) * noise[i].astype(self.dtype)
      x = glu(Norm(self.group, self.dtype, name=f'bn{i + 1}')(x, c, train))
    return x


class Excitation(nn.Module):
  """What a small map opens of a large one's channels: [B, H, W, C] -> [B, 1, 1, features]."""

  features: int
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    while x.shape[1] > 4:
      x = mean_pool(x)
    plain = {'use_bias': False, 'kernels': self.kernels, 'dtype': self.dtype}
    x = nn.swish(TorchConv(self.features, 4, **plain, name='conv1')(x))
    return nn.sigmoid(TorchConv(self.features, 1, **plain, name='conv2')(x))


class Generator(nn.Module):
  """(z [B, z_dim], y [B] or [B, classes], train, noise) -> images [B, r, r, channels].

  Float32, without bounds. `noise` is that of `noise_maps`, or () for none.
  """

  resolution: int
  num_classes: int = 1
  z_dim: int = 256
  ngf: int = 128
  channels: int = 3
  lite: bool = False
  bn_group: int | None = None
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @property
  def sizes(self) -> tuple[int, ...]:
    """Resolutions of its blocks."""
    errors.pick(str(self.resolution), {str(size): size for size in RESOLUTIONS}, 'data.resolution')
    return tuple(size for size in RESOLUTIONS if size <= self.resolution)

  def width(self, size: int) -> int:
    """Channels at a resolution."""
    return max(int(WIDTHS[size] * self.ngf), 1)

  @nn.compact
  def __call__(
    self, z: Array, y: Array, train: bool, noise: Sequence[Sequence[Array]] = ()
  ) -> Array:
    how = {'kernels': self.kernels, 'dtype': self.dtype}
    c = None
    if self.num_classes > 1:
      c = Embed(self.num_classes, self.z_dim, nn.initializers.normal(1.0), name='embed')(y)
    block = remat(UpBlock, self.remat, static=(4,))
    x = FirstMap(2 * self.width(2), self.bn_group, self.dtype, name='init')(pixel_norm(z), train)
    maps = {4: x}
    for i, size in enumerate(self.sizes):
      up = block(self.width(size), self.lite, self.bn_group, **how, name=f'feat_{size}')
      x = up(x, c, noise[i] if noise else (), train)
      if size in GATED_BY:
        x = x * Excitation(self.width(size), **how, name=f'se_{size}')(maps[GATED_BY[size]])
      maps[size] = x
    x = TorchConv(self.channels, 3, padding='SAME', **how, name='to_big')(x)
    return trees.at_least_float32(x)


def noise_maps(net: Generator, keys: Array) -> tuple[tuple[Array, ...], ...]:
  """Normal noise of a network's blocks, two maps [B, r, r, 1] for each; () of a light one.

  Args:
    net: the network.
    keys: one for each example [B], or one for all [1].
  """
  if net.lite:
    return ()

  def one(size, i):
    draw = lambda key: jax.random.normal(jax.random.fold_in(key, size + i), (size, size, 1))
    return jax.vmap(draw)(keys)

  return tuple((one(size, 0), one(size, 1)) for size in net.sizes)
