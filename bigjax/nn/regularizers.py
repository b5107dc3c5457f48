"""Penalties on weights and critics: value functions, for losses, logs and tests."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bigjax.core import trees
from bigjax.nn import linalg


def orthogonal(w: jax.Array) -> jax.Array:
  """Return |W^T W * (1 - I)|_F^2 of a kernel [..., out]: BigGAN's Eq. 3 without beta.

  Uses |W^T W|_F = |W W^T|_F, so that the 20 x 24576 first layer never builds a 24576^2 matrix. Its
  gradient, in closed form, is `optim.orthogonal_grad`.
  """
  m = linalg.matrix(w)
  norms = jnp.square(m).sum(0)
  return jnp.square(linalg.small_gram(m)).sum() - jnp.square(norms).sum()


def total(
  value: Callable[[jax.Array], jax.Array], params: Any, mask: Callable[[str, Any], bool]
) -> jax.Array:
  """Return the sum of `value` over the tensors that `mask(path, leaf)` picks."""
  terms = [value(w) for path, w in trees.flat(params).items() if mask(path, w)]
  return jnp.sum(jnp.stack(terms)) if terms else jnp.float32(0)


def r1(critic: Callable[[jax.Array], jax.Array], images: jax.Array) -> jax.Array:
  """Return |grad D(x)|^2 / 2 of each image [B, H, W, C]: R1 without gamma (BigGAN Eq. 5), [B].

  Args:
    critic: images -> scores [B], each a function of its own image alone.
    images: real ones.
  """
  grads = jax.grad(lambda x: critic(x).sum())(images)
  return jnp.square(grads).sum((1, 2, 3)) / 2


def no_r1(critic: Callable[[jax.Array], jax.Array], images: jax.Array) -> jax.Array:
  """Return the penalty that is none, [B]."""
  del critic
  return jnp.zeros(images.shape[:1], images.dtype)


def dropout_mask(keys: jax.Array, features: int, rate: float) -> jax.Array:
  """Return factors [B, features] from a key per example: 0 at `rate`, else 1 / (1 - rate)."""
  keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, (features,)))(keys)
  return keep.astype(jnp.float32) / (1 - rate)
