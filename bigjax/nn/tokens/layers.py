"""Layers of Transformers on maps of tokens [B, H, W, C], but for attention: norms, MLP, resampling.

They are Swin Transformer's (Liu et al. 2021), with its epsilon and the names of its authors' code,
but for the bilinear enlargement, which that has no use for.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from bigjax.core import trees
from bigjax.nn.layers import Initializer, glorot

Array = jax.Array
EPS = 1e-5  # of all norms of tokens, Swin's


def normalized(x: Array, axes: int | tuple[int, ...], dtype: Any) -> Array:
  """Less its mean and over its deviation along `axes`, in at least float32, as `dtype`."""
  wide = trees.at_least_float32(x)
  centred = wide - wide.mean(axes, keepdims=True)
  var = jnp.square(centred).mean(axes, keepdims=True)
  return (centred * lax.rsqrt(var + EPS)).astype(dtype)


class TokenNorm(nn.Module):
  """LayerNorm of each token [..., C] over its channels alone, with a gain and a bias of each."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    channels = x.shape[-1:]
    gain = self.param('gain', nn.initializers.ones, channels, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, channels, jnp.float32)
    each = lambda v: v.astype(self.dtype).reshape(*[1] * (x.ndim - 1), -1)
    return normalized(x, -1, self.dtype) * each(gain) + each(bias)


@jax.custom_jvp
def erf(x: Array) -> Array:
  """lax.erf with its derivative spelled out: jax 0.12 traces its own in no shard_map."""
  return lax.erf(x)


erf.defjvps(lambda tangent, _, x: tangent * (2 / math.pi**0.5) * jnp.exp(-jnp.square(x)))


def gelu(x: Array) -> Array:
  """x times the normal distribution function at x (Hendrycks and Gimpel 2016), by erf."""
  return 0.5 * x * (1 + erf(x * 0.5**0.5))


class Mlp(nn.Module):
  """Two linear layers of each token with a GELU between: [..., C] -> [..., C]."""

  ratio: int = 4  # of the hidden width to C
  dtype: Any = jnp.float32
  initializer: Initializer = glorot()

  @nn.compact
  def __call__(self, x: Array) -> Array:
    c = x.shape[-1]
    dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=self.initializer)
    h = gelu(dense(self.ratio * c, name='fc1')(x))
    return dense(c, name='fc2')(h)


class PatchMerging(nn.Module):
  """Makes a token of each 2x2: joined, normalised, and projected to `features`, without a bias."""

  features: int
  dtype: Any = jnp.float32
  initializer: Initializer = glorot()

  @nn.compact
  def __call__(self, x: Array) -> Array:
    b, h, w, c = x.shape
    x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 4, 2, 5)  # columns before rows
    x = TokenNorm(self.dtype, name='norm')(x.reshape(b, h // 2, w // 2, 4 * c))
    dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=self.initializer)
    return dense(self.features, use_bias=False, name='reduction')(x)


def bilinear(x: Array) -> Array:
  """Bilinear enlargement by 2: [B, H, W, C] -> [B, 2 H, 2 W, C]; beyond the edges is the edge."""
  for axis in (1, 2):
    size = x.shape[axis]
    part = functools.partial(lax.slice_in_dim, x, axis=axis)
    before = jnp.concatenate([part(0, 1), part(0, size - 1)], axis)
    after = jnp.concatenate([part(1, size), part(size - 1, size)], axis)
    both = [0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after]
    shape = (*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
    x = jnp.stack(both, axis + 1).reshape(shape)
  return x
