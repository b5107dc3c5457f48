"""Arrays of PGGAN's golden files, which have the official code's names, as our parameters."""

import jax.numpy as jnp
import numpy as np

from bigjax.core import trees


def params_in(arrays, dtype=jnp.float64):
  """{'16x16.Conv0_up.weight': OIHW, '4x4.Dense0.weight': [out, in], ...} as a tree of ours."""
  return trees.nest(dict(_one(name, np.asarray(a), dtype) for name, a in arrays.items()))


def _one(name, a, dtype):
  *modules, leaf = name.replace('Conv0_up', 'Conv0').replace('Conv1_down', 'Conv1').split('.')
  if a.ndim == 4:
    a = a.transpose(2, 3, 1, 0)
  elif modules == ['4x4', 'Dense'] and leaf == 'weight':  # [(c, h, w), in]
    a = a.reshape(-1, 4, 4, a.shape[1]).transpose(3, 1, 2, 0).reshape(a.shape[1], -1)
  elif modules == ['4x4', 'Dense0'] and leaf == 'weight':  # [out, (c, h, w)]
    a = a.reshape(a.shape[0], -1, 4, 4).transpose(2, 3, 1, 0).reshape(-1, a.shape[0])
  elif a.ndim == 2:
    a = a.T
  return '/'.join([*modules, leaf.replace('weight', 'kernel')]), jnp.asarray(a, dtype)
