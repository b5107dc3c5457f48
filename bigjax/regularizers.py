"""Penalties on weights and critics: value functions, for losses, logs and tests."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bigjax import linalg, utils


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
  terms = [value(w) for path, w in utils.flat(params).items() if mask(path, w)]
  return jnp.sum(jnp.stack(terms)) if terms else jnp.float32(0)
