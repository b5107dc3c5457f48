"""Penalties on weights and critics: value functions, for losses, logs and tests."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bigjax import utils


def gram(w: jax.Array) -> tuple[jax.Array, bool]:
  """Return the Gram matrix on the small side of W [prod, out]; is that the filters' side?"""
  m = w.reshape(-1, w.shape[-1])
  rows, columns = m.shape
  if columns <= rows:
    return jnp.matmul(m.T, m, precision=lax.Precision.HIGHEST), True
  return jnp.matmul(m, m.T, precision=lax.Precision.HIGHEST), False


def orthogonal(w: jax.Array) -> jax.Array:
  """Return |W^T W * (1 - I)|_F^2 of a kernel [..., out]: BigGAN's Eq. 3 without beta.

  Uses |W^T W|_F = |W W^T|_F, so that the 20 x 24576 first layer never builds a 24576^2 matrix.
  """
  h, _ = gram(w)
  norms = jnp.square(w).reshape(-1, w.shape[-1]).sum(0)
  return jnp.square(h).sum() - jnp.square(norms).sum()


def orthogonal_grad(w: jax.Array) -> jax.Array:
  """Return the gradient of `orthogonal`: 4 (W W^T W - W diag(n)), n_j the squared filter norms."""
  m = w.reshape(-1, w.shape[-1])
  h, filters = gram(w)
  product = (
    jnp.matmul(m, h, precision=lax.Precision.HIGHEST)
    if filters
    else (jnp.matmul(h, m, precision=lax.Precision.HIGHEST))
  )
  return (4 * (product - m * jnp.square(m).sum(0, keepdims=True))).reshape(w.shape)


def total(
  value: Callable[[jax.Array], jax.Array], params: Any, mask: Callable[[str, Any], bool]
) -> jax.Array:
  """Return the sum of `value` over the tensors that `mask(path, leaf)` picks."""
  terms = [value(w) for path, w in utils.flat(params).items() if mask(path, w)]
  return jnp.sum(jnp.stack(terms)) if terms else jnp.float32(0)
