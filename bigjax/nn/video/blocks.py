"""Residual blocks of critics that convolve over time, too (Clark et al. 2019, 2.2)."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.layers import Conv, Initializer, orthogonal
from bigjax.nn.video.frames import each, pool_time

Array = jax.Array


class Conv3D(nn.Module):
  """3x3x3 convolution of clips [B, T, H, W, C], SAME padding, optionally before mean-pooling.

  A frame beside the two that are next to it are the channels of one image, and the convolution is
  one of images: exact algebra, which CPUs and TPUs have fast kernels for. `down` pools pixels and
  pairs of frames.
  """

  features: int
  down: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32
  initializer: Initializer = orthogonal

  @nn.compact
  def __call__(self, x: Array) -> Array:
    inputs = x.shape[-1]
    kernel = self.param('kernel', self.initializer, (3, 3, 3, inputs, self.features), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
    # [t, h, w, in, out] with t among the channels: of the frame before, the frame, the one after.
    of_images = kernel.transpose(1, 2, 0, 3, 4).reshape(3, 3, 3 * inputs, self.features)
    padded = jnp.pad(x.astype(self.dtype), ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
    three = jnp.concatenate([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], -1)
    convolve = self.kernels.down if self.down else self.kernels.conv
    x = each(lambda images: convolve(images, of_images), three)
    x = pool_time(x) if self.down else x
    return x + bias.astype(self.dtype)[None, None, None, None]


class DiscBlock3D(nn.Module):
  """`nn.residual.DiscBlock` with 3x3x3 convolutions, of clips [B, T, H, W, C]."""

  features: int
  down: bool
  first: bool
  kernels: Kernels
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    conv = functools.partial(Conv3D, kernels=self.kernels, dtype=self.dtype)
    h = x if self.first else nn.relu(x)  # the shortcut needs x before the ReLU
    h = nn.relu(conv(self.features, name='conv1')(h))
    h = conv(self.features, self.down, name='conv2')(h)
    if self.down or x.shape[-1] != self.features:
      resample = 'down' if self.down else 'none'
      how = {'kernels': self.kernels, 'dtype': self.dtype, 'name': 'conv_sc'}
      x = each(Conv(self.features, 1, resample, **how), x)
      x = pool_time(x) if self.down else x
    return h + x
