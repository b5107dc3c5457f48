"""The vectors of spectral norm that stored ones of another code stand for."""

import jax.numpy as jnp

from bigjax.core import trees
from bigjax.nn import spectral_norm


def vectors_in(params, us):
  """State of spectral norm that belongs to weights and stored vectors u, by path."""
  ws = trees.flat(params)
  vs = {
    p: spectral_norm.left(spectral_norm.kernel(p, jnp.asarray(ws[p])), jnp.asarray(u))
    for p, u in us.items()
  }
  return spectral_norm.SpectralState(trees.nest(us), trees.nest(vs))
