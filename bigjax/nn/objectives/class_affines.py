"""gSR (Rangwani et al. 2022): the spectral norm of what BatchNorm does to each class, penalised.

On a long tail, gains and biases of the rare classes blow up before their images collapse. Each
class's gains of a layer, and its biases, are reshaped to a matrix whose largest singular value is
penalised, the more the fewer images the class has. The official code iterates for the biases with
the gains' vector, and so sees a fraction of their norm; here each has its own. Its vectors also die
where a table starts at zero; here they wait.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bigjax.core import errors, parallel, trees

Array = jax.Array
Affines = dict[str, Array]  # by path, .../gain and .../bias: [classes, channels]; gains without + 1
State = dict[str, Any]  # left singular vectors by path, nested: [classes, a]


def groups(channels: int) -> tuple[int, int]:
  """(a, b) with a b = channels and a the largest divisor up to the root; (1, n) of a prime."""
  a = max(i for i in range(1, math.isqrt(channels) + 1) if channels % i == 0)
  return a, channels // a


def class_weights(counts: Sequence[int], weight: float = 0.5, beta: float = 0.99) -> np.ndarray:
  """Lambda of each class, falling with its effective number of images (Cui et al. 2019).

  Args:
    counts: training images of each class.
    weight: the mean of lambda; the paper's 0.5 for CIFAR and LSUN, 0.01 for iNaturalist.
    beta: how soon further images of a class stop counting: 0.99 or 0.999.

  Raises:
    UserError: a class has no image.
  """
  counts = np.asarray(counts, np.float64)
  if (counts < 1).any():
    raise errors.UserError(
      f'class {int(np.argmin(counts))} has no training image, so that gSR has no weight for it; '
      'give data with images of every class, or turn gSR off.'
    )
  effective = (1 - beta**counts) / (1 - beta)
  return weight * len(counts) / (1 / effective).sum() / effective


def affines(weights: Any) -> Affines:
  """Gains and biases of each class in every conditional BatchNorm of a generator.

  Of gains that are linear in the shared embedding joined to z, the embedding's part.

  Args:
    weights: the generator's, as the network uses them (after spectral norm).

  Raises:
    UserError: it has no BatchNorm that knows the class.
  """
  flat, found = trees.flat(weights), {}
  for path, w in flat.items():
    table, leaf = path.rsplit('/', 1) if '/' in path else ('', path)
    if table.rsplit('/', 1)[-1] not in ('gain', 'bias'):
      continue
    if leaf == 'embedding':
      found[table] = w
    elif leaf == 'kernel':
      embedding = flat['shared/embedding']
      found[table] = _dot('yd,dc->yc', embedding, w[: embedding.shape[1]])  # c = [embedding, z]
  if not found:
    raise errors.UserError(
      'gSR penalises what BatchNorm does to each class, but this generator has no BatchNorm with '
      'gains and biases by class; take a conditional one, or turn gSR off.'
    )
  return found


def _dot(equation: str, *operands: Array) -> Array:
  """An einsum in full float32: TPUs default to bfloat16."""
  return jnp.einsum(equation, *operands, precision=lax.Precision.HIGHEST)


def _matrices(table: Array) -> Array:
  """[classes, channels] as [classes, a, b]; the order of the channels matters."""
  return table.reshape(-1, *groups(table.shape[-1]))


def _unit(x: Array, otherwise: Array) -> Array:
  """Vectors [classes, n] over their norms; `otherwise` of those that are zero."""
  norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
  return jnp.where(norm > 0, x / jnp.where(norm > 0, norm, 1), otherwise)


def _right(m: Array, u: Array) -> Array:
  x = _dot('yab,ya->yb', m, u)
  return _unit(x, jnp.zeros_like(x))


def start(tables: Affines, key: Array, iterations: int = 40) -> State:
  """The vectors before the first step: random ones after ten times a step's iterations."""
  us = {}
  for path, table in tables.items():
    of_path = jax.random.fold_in(key, trees.stable_hash(path))
    shape = table.shape[0], groups(table.shape[1])[0]
    us[path] = jax.random.normal(of_path, shape, table.dtype)
  return advance(tables, trees.nest(us), iterations)


def advance(tables: Affines, state: State, iterations: int = 4) -> State:
  """The vectors after so many power iterations on the present tables."""
  matrices = {path: lax.stop_gradient(_matrices(table)) for path, table in tables.items()}

  def refined(_, us):
    again = lambda m, u: _unit(_dot('yab,yb->ya', m, _right(m, u)), u)
    return {path: again(m, us[path]) for path, m in matrices.items()}

  us = {path: parallel.to_varying(u) for path, u in trees.flat(state).items()}
  return trees.nest(lax.fori_loop(0, iterations, refined, us))


def sigmas(tables: Affines, state: State) -> Affines:
  """Estimates of the largest singular values by path, [classes]; gradients flow to the tables."""
  us = trees.flat(lax.stop_gradient(state))

  def one(table, u):
    m = _matrices(table)
    return _dot('ya,yab,yb->y', u, m, _right(lax.stop_gradient(m), u))

  return {path: one(table, us[path]) for path, table in tables.items()}


def exact_sigmas(tables: Affines) -> Affines:
  """The largest singular values by decomposition, by path, [classes]: for logs and tests."""
  return {
    path: jnp.linalg.svd(_matrices(table), compute_uv=False)[:, 0] for path, table in tables.items()
  }


def penalty(values: Mapping[str, Array], lambdas: Array) -> Array:
  """Means over layers and classes of lambda_y (sigma(gain)^2 + sigma(bias)^2); a scalar.

  Args:
    values: of `sigmas` or `exact_sigmas`.
    lambdas: of `class_weights`, [classes].
  """
  each = jnp.stack([(lambdas * jnp.square(value)).mean() for value in values.values()])
  return 2 * each.mean()  # a layer has two of them


def gsr(lambdas: Array | np.ndarray, iterations: int = 4) -> Any:
  """The term of a generator's step.

  Args:
    lambdas: of `class_weights`, [classes].
    iterations: per step.
  Returns:
    (state, tables) -> (penalty, new state).
  """
  lambdas = jnp.asarray(lambdas, jnp.float32)

  def term(state, tables):
    state = advance(tables, state, iterations)
    return penalty(sigmas(tables, state), lambdas), state

  return term
