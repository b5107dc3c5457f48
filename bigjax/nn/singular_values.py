"""The largest singular values of raw weights, and the two cures of BigGAN's Section 4.1.

The paper watches sigma0, sigma1 and sigma2 of every weight matrix and tries to hold sigma0 of the
generator's down, by a clamp (Eq. 4) or a penalty. Neither prevents collapse; both are here to be
tried. Weights are kernels [..., out], seen as matrices M [in, out].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bigjax.nn import linalg

OVERSAMPLING = 5  # more directions than asked for, so that close singular values come apart


class Leading(NamedTuple):
  """The k largest singular values [k], descending, with their vectors [k, in] and [k, out]."""

  values: jax.Array
  left: jax.Array
  right: jax.Array


def leading(w: jax.Array, k: int = 3, iterations: int = 32) -> Leading:
  """Return the k largest singular values and vectors of a kernel, estimated from below.

  Block power iteration on k + 5 vectors from a fixed start, then the exact decomposition within the
  space they span. A relative error of about (s[k+5] / s[k-1])^(4 iterations) remains: 1e-3 or less
  on Gaussian matrices, next to nothing where a direction stands out.

  Args:
    w: [..., out].
    k: at most the smaller side of the matrix.
    iterations: multiplications with M^T M.
  """
  m = linalg.matrix(w)
  rows, columns = m.shape
  num = min(k + OVERSAMPLING, rows, columns)
  start = jax.random.normal(jax.random.key(0), (columns, num), m.dtype)
  step = lambda _, v: _orthonormal(linalg.dot(m.T, linalg.dot(m, v)))
  v = lax.fori_loop(0, iterations, step, _orthonormal(start))
  image = linalg.dot(m, v)  # [in, num]
  squares, rotation = jnp.linalg.eigh(linalg.dot(image.T, image))
  order = jnp.arange(num - 1, num - 1 - k, -1)
  values = jnp.sqrt(jnp.maximum(squares[order], 0))
  rotation = rotation[:, order]
  left = linalg.dot(image, rotation) / jnp.maximum(values, 1e-30)[None]
  return Leading(values, left.T, linalg.dot(v, rotation).T)


def at_most(w: jax.Array, k: int) -> int:
  """Return how many of k singular values a kernel has."""
  return min(k, *linalg.matrix(w).shape)


def _orthonormal(v: jax.Array) -> jax.Array:
  """Return orthonormal columns that span those of v: Gram-Schmidt.

  Twice is enough for independent columns; of a kernel of low rank, what the first pass leaves is
  rounding, which takes a third.
  """

  def column(i, v):
    others = jnp.where(jnp.arange(v.shape[1])[None] < i, v, 0)
    x = v[:, i]
    for _ in range(3):
      x = x - linalg.dot(others, linalg.dot(others.T, x))
    return v.at[:, i].set(x / jnp.maximum(jnp.linalg.norm(x), 1e-30))

  return lax.fori_loop(0, v.shape[1], column, v)


def bound(values: jax.Array, fixed: float, ratio: float) -> jax.Array:
  """Bound of sigma0: `fixed`, or if that is 0 `ratio` times sigma1 (a constant)."""
  return jnp.asarray(fixed, values.dtype) if fixed else ratio * lax.stop_gradient(values[1])


def clamp(w: jax.Array, fixed: float = 0.0, ratio: float = 1.0) -> jax.Array:
  """Return W - max(0, sigma0 - bound) v0 u0^T (Eq. 4): sigma0 comes down to the bound.

  Args:
    w: kernel [..., out].
    fixed, ratio: see `bound`.
  """
  top = leading(w, 2)
  excess = jnp.maximum(0, top.values[0] - bound(top.values, fixed, ratio))
  return w - (excess * jnp.outer(top.left[0], top.right[0])).reshape(w.shape)


def penalty(w: jax.Array, fixed: float = 0.0, ratio: float = 1.0) -> jax.Array:
  """Return (sigma0 - bound)^2; the paper does not print its form."""
  top = leading(w, 2)
  return jnp.square(top.values[0] - bound(top.values, fixed, ratio))


def penalty_grad(w: jax.Array, fixed: float = 0.0, ratio: float = 1.0) -> jax.Array:
  """Return the gradient of `penalty`: 2 (sigma0 - bound) v0 u0^T."""
  top = leading(w, 2)
  excess = top.values[0] - bound(top.values, fixed, ratio)
  return (2 * excess * jnp.outer(top.left[0], top.right[0])).reshape(w.shape)
