"""The vectors of spectral norm that stored ones of another code stand for."""

import jax.numpy as jnp
import numpy as np

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


def exact_vectors(params, which):
  """State of spectral norm with the leading singular vectors of the tensors that `which` picks."""
  us, vs = {}, {}
  for path, w in trees.flat(params).items():
    if which(path, w):
      m = spectral_norm.kernel(path, w)
      left, _, right = np.linalg.svd(np.asarray(m).reshape(-1, m.shape[-1]), full_matrices=False)
      us[path], vs[path] = jnp.asarray(right[0]), jnp.asarray(left[:, 0])
  return spectral_norm.SpectralState(trees.nest(us), trees.nest(vs))
