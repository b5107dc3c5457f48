"""PConv (Park et al. 2022): random perturbations of what enters a discriminator's convolutions.

The paper's formula is not public: these are our reading of its abstract ("not only a convolution
operation but also a dropout one"), and so are the amounts and which convolutions have one: all of
`layers.Conv`, so not attention's products and the strided ones of WGAN-GP's 101 layers. Real
images, fakes and the generator's step have draws of their own; a gradient by the image (GraN,
gradient penalties) takes the keys of the pass that it belongs to; sampling and vital signs have
none. Parameters are those of plain convolutions.
"""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.core import trees
from bigjax.nn.layers import Conv

Perturbation = Callable[[jax.Array, jax.Array], jax.Array]  # (keys [B], x [B, ...]) -> x


def none(keys: jax.Array, x: jax.Array) -> jax.Array:
  """The perturbation that is none."""
  del keys
  return x


def _normal(keys: jax.Array, x: jax.Array) -> jax.Array:
  draw = lambda key: jax.random.normal(key, x.shape[1:], jnp.float32)
  return jax.vmap(draw)(keys).astype(x.dtype)


def gauss_mult(amount: float = 0.1) -> Perturbation:
  """Gaussian dropout, x (1 + amount n): each element keeps its mean."""
  return lambda keys, x: x * (1 + amount * _normal(keys, x))


def gauss_add(amount: float = 0.1) -> Perturbation:
  """Noise in units of each example's own standard deviation: x + amount std(x) n."""

  def perturb(keys, x):
    wide = jax.lax.stop_gradient(trees.at_least_float32(x))
    std = wide.std(tuple(range(1, x.ndim)), keepdims=True).astype(x.dtype)
    return x + amount * std * _normal(keys, x)

  return perturb


def kept(keys: jax.Array, shape: tuple[int, ...], rate: float) -> jax.Array:
  """Factors [B, *shape] of dropout from a key per example: 0 at `rate`, else 1 / (1 - rate)."""
  keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, shape))(keys)
  return keep.astype(jnp.float32) / (1 - rate)


def dropout(amount: float = 0.1) -> Perturbation:
  """Dropout of single elements: 0 at the rate `amount`, else x / (1 - amount)."""
  return lambda keys, x: x * kept(keys, x.shape[1:], amount).astype(x.dtype)


def spatial_dropout(amount: float = 0.1) -> Perturbation:
  """Dropout of whole channels of x [B, H, W, C]."""
  return lambda keys, x: x * kept(keys, x.shape[-1:], amount).astype(x.dtype)[:, None, None]


PERTURBATIONS: dict[str, Callable[[float], Perturbation]] = {
  'none': lambda amount: none,
  'gauss_mult': gauss_mult,
  'gauss_add': gauss_add,
  'dropout': dropout,
  'spatial_dropout': spatial_dropout,
}


def perturbing(perturb: Perturbation, keys: jax.Array) -> AbstractContextManager:
  """Within it, what enters each convolution of a network that is applied is perturbed.

  Args:
    perturb: `none` leaves the program as it is.
    keys: [B], of the examples; every layer has its own draws of them.
  """
  if perturb is none:
    return contextlib.nullcontext()

  def call(next_call: Callable, args: tuple, kwargs: dict, context: Any):
    if not isinstance(context.module, Conv) or context.method_name != '__call__':
      return next_call(*args, **kwargs)
    layer = trees.stable_hash('/'.join(context.module.path))
    of_layer = jax.vmap(lambda key: jax.random.fold_in(key, layer))(keys)
    return next_call(perturb(of_layer, args[0]), *args[1:], **kwargs)

  return nn.intercept_methods(call)
