"""Kernels as matrices, at full float32 precision: what spectral norm and the penalties share."""

import jax
import jax.numpy as jnp
from jax import lax


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
  """Matrix product at HIGHEST precision: TPUs default to bfloat16."""
  return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def matrix(w: jax.Array) -> jax.Array:
  """Return a kernel [..., out] as the matrix [prod, out]: a column is a filter."""
  return w.reshape(-1, w.shape[-1])


def small_gram(m: jax.Array) -> jax.Array:
  """Return M^T M or M M^T of a matrix, whichever is smaller (M^T M of a square one)."""
  rows, columns = m.shape
  return dot(m.T, m) if columns <= rows else dot(m, m.T)
