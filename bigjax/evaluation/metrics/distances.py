"""Distances between all rows of two sets of features, at full float32 precision."""

import jax
import jax.numpy as jnp

from bigjax.nn import linalg


def squared_distances(a: jax.Array, b: jax.Array) -> jax.Array:
  """Squared Euclidean distances [n, m], not below 0, between rows float32 [n, d] and [m, d].

  By |a|^2 + |b|^2 - 2 a b, which loses digits where rows are far from 0 and near to one another:
  take a mean from both first where that matters.
  """
  lengths = (a * a).sum(1)[:, None] + (b * b).sum(1)[None]
  return jnp.maximum(lengths - 2 * linalg.dot(a, b.T), 0)
