"""StyleGAN2's convolutions (Karras et al. 2020, 2.2): a style scales the weights, by example.

A kernel w of an example is w s, with a scale s for each input, and is then demodulated: divided by
the norm of each output's weights, as if inputs were of unit variance. Neither needs a kernel per
example: what multiplies an input's weights may multiply the input instead, and what divides an
output's weights, the output (Eq. 1, 3). All examples then share one convolution, which is what
TPUs are fast at, where the official code has as many groups as examples. Its prescaling against
overflow of float16 has no use in bfloat16.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from bigjax.core import trees
from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.style import fir
from bigjax.nn.style.blocks import NORMAL, leaky_relu

Array = jax.Array
ROOT_HALF = 0.5**0.5  # gain of both branches of a residual block


def activated(x: Array, gain: float = 1.0) -> Array:
  """Leaky ReLU times sqrt 2, which keeps a variance of 1; StyleGAN's kernels have that instead."""
  return leaky_relu(x) * (2**0.5 * gain)


def modulated_conv(
  x: Array,
  kernel: Array,
  style: Array,
  demodulate: bool = True,
  up: bool = False,
  kernels: Kernels = FAST,
) -> Array:
  """A convolution of which each example has a kernel of its own: [B, H, W, C] -> [B, h, w, N].

  Args:
    x: its dtype is that of the convolution.
    kernel: [k, k, C, N].
    style: [B, C], what the kernel's inputs are scaled by.
    demodulate: whether each output's weights are brought to norm 1; then neither a factor of the
      kernel nor one of the style changes anything.
    up: convolve the map at twice its resolution, k = 3.
    kernels: how to convolve.
  """
  x = x * style.astype(x.dtype)[:, None, None]
  y = fir.up_conv(x, kernel, kernels) if up else kernels.conv(x, kernel)
  if not demodulate:
    return y
  wide, style = trees.at_least_float32(kernel), trees.at_least_float32(style)
  power = jnp.square(wide).sum((0, 1))  # [C, N]
  power = jnp.matmul(jnp.square(style), power, precision='highest')
  return y * lax.rsqrt(power + 1e-8).astype(x.dtype)[:, None, None]


class Affine(nn.Module):
  """A layer's style: w [B, w_dim] -> [B, features], 1 on average at the start."""

  features: int

  @nn.compact
  def __call__(self, w: Array) -> Array:
    kernel = self.param('kernel', NORMAL, (w.shape[-1], self.features), jnp.float32)
    bias = self.param('bias', nn.initializers.ones, (self.features,), jnp.float32)
    return jnp.matmul(w, kernel, precision='highest') + bias[None]


class StyledConv(nn.Module):
  """A 3x3 modulated convolution, noise, bias, activation.

  (x [B, H, W, C], w [B, w_dim], noise [B or 1, h, w, 1] or None) -> [B, h, w, features], twice as
  high and wide as x with `up`. One strength of the noise serves all maps.
  """

  features: int
  up: bool = False
  gain: float = 1.0
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, w: Array, noise: Array | None) -> Array:
    style = Affine(x.shape[-1], name='affine')(w)
    kernel = self.param('kernel', NORMAL, (3, 3, x.shape[-1], self.features), jnp.float32)
    strength = self.param('noise_strength', nn.initializers.zeros, (), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
    x = modulated_conv(x.astype(self.dtype), kernel, style, up=self.up, kernels=self.kernels)
    if noise is not None:
      x = x + noise.astype(x.dtype) * strength.astype(x.dtype)
    return activated(x + bias.astype(x.dtype)[None, None, None], self.gain)


class ToRGB(nn.Module):
  """An image of maps, by a 1x1 convolution that is modulated but not demodulated, and a bias."""

  channels: int = 3
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, w: Array) -> Array:
    style = Affine(x.shape[-1], name='affine')(w)
    kernel = self.param('kernel', NORMAL, (1, 1, x.shape[-1], self.channels), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (self.channels,), jnp.float32)
    x = modulated_conv(x.astype(self.dtype), kernel, style, False, kernels=self.kernels)
    return trees.at_least_float32(x + bias.astype(x.dtype)[None, None, None])
