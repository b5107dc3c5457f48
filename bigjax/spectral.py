"""Spectral normalisation (Miyato et al. 2018) as a function on the parameter tree.

Networks know nothing of it. `track` is an optax transformation, last in a player's chain, that
carries the singular vectors in the optimizer state and refines them once per update; `normalize`
divides the kernels by their estimated norm inside the loss, so that one power iteration serves any
number of forward passes. Reference codes iterate on every forward (three times per generator
update) and keep the vectors beside BatchNorm's averages.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bigjax import linalg, utils

Spec = Callable[[str, Any], bool]  # (path, leaf) -> is this leaf normalised


class SpectralState(NamedTuple):
  """Unit singular vectors by parameter path: sn_u [out], sn_v [prod(in)]."""

  sn_u: dict[str, Any]
  sn_v: dict[str, Any]


def spec(embeddings: bool = False) -> Spec:
  """Return the rule which tensors are normalised: every kernel, and embedding tables where asked.

  BigGAN normalises the discriminator's class embedding but not the generator's shared one; biases,
  BatchNorm affines and attention's gamma never are.
  """
  names = ('kernel', 'embedding') if embeddings else ('kernel',)
  return lambda path, leaf: path.rsplit('/', 1)[-1] in names


def _unit(x: jax.Array, eps: float) -> jax.Array:
  return x / jnp.maximum(jnp.linalg.norm(x), eps)


def iterate(w: jax.Array, u: jax.Array, eps: float = 1e-4) -> tuple[jax.Array, jax.Array]:
  """One power iteration on the matrix [prod, out] of `w`: u [out] -> (u, v)."""
  m = linalg.matrix(w)
  v = _unit(linalg.dot(m, u), eps)
  return _unit(linalg.dot(v, m), eps), v


def sigma(w: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
  """Return the estimate v^T W u of the largest singular value; gradient flows through W only."""
  u, v = lax.stop_gradient((u, v))
  return linalg.dot(v, linalg.dot(linalg.matrix(w), u))


def track(which: Spec, eps: float = 1e-4) -> optax.GradientTransformation:
  """Carry the singular vectors of a player's normalised tensors through its updates.

  Put it last in the chain: it leaves the updates alone and runs one power iteration on
  `params + updates`, the weights that the next forward pass will use.

  Args:
    which: the tensors to track (see `spec`).
    eps: floor of the norm in the power iteration (the paper uses 1e-4).
  """

  def init(params):
    us, vs = {}, {}
    for path, w in utils.flat(params).items():
      if which(path, w):
        key = jax.random.fold_in(jax.random.key(0), utils.stable_hash(path))
        us[path], vs[path] = iterate(w, _unit(jax.random.normal(key, w.shape[-1:]), eps), eps)
    return SpectralState(utils.nest(us), utils.nest(vs))

  def update(updates, state, params=None):
    if params is None:
      raise ValueError('spectral.track needs the parameters: call tx.update(grads, state, params).')
    weights, us = utils.flat(optax.apply_updates(params, updates)), utils.flat(state.sn_u)
    pairs = {path: iterate(weights[path], u, eps) for path, u in us.items()}
    return updates, SpectralState(
      utils.nest({p: u for p, (u, _) in pairs.items()}),
      utils.nest({p: v for p, (_, v) in pairs.items()}),
    )

  return optax.GradientTransformation(init, update)


def vectors(opt_state: Any) -> SpectralState:
  """Return the SpectralState inside an optimizer state.

  Raises:
    ValueError: the optimizer chain has no `track`.
  """
  is_ours = lambda x: isinstance(x, SpectralState)
  found = [s for s in jax.tree.leaves(opt_state, is_leaf=is_ours) if is_ours(s)]
  if len(found) != 1:
    raise ValueError(f'expected one spectral.track in the optimizer chain, found {len(found)}.')
  return found[0]


def normalize(params: Any, state: SpectralState) -> Any:
  """Return the parameters with every tracked kernel W replaced by W / sigma."""
  us, vs = utils.flat(state.sn_u), utils.flat(state.sn_v)

  def scaled(path, w):
    return w / sigma(w, us[path], vs[path]) if path in us else w

  return utils.map_paths(scaled, params)


def sigmas(params: Any, state: SpectralState) -> dict[str, jax.Array]:
  """Return the estimated norm of every tracked kernel by path."""
  us, vs, ws = utils.flat(state.sn_u), utils.flat(state.sn_v), utils.flat(params)
  return {path: sigma(ws[path], us[path], vs[path]) for path in us}


def norm(w: jax.Array, squarings: int = 16) -> jax.Array:
  """Return the largest singular value of a kernel [..., out], to 1e-4 whatever its spectrum.

  Power iteration by repeated squaring of the Gram matrix G on the small side: after N = 2^squarings
  steps P ~ G^N, and sigma^2 = tr(P G) / tr(P) errs by at most ln(n) / N, also where singular values
  nearly coincide. No start vector can miss the first direction, as a stored one may.
  """
  gram = linalg.small_gram(linalg.matrix(w))
  power = gram / jnp.maximum(jnp.trace(gram), 1e-30)

  def square(_, power):
    power = linalg.dot(power, power)
    return power / jnp.maximum(jnp.trace(power), 1e-30)

  power = lax.fori_loop(0, squarings, square, power)
  return jnp.sqrt(jnp.sum(power * gram))


def fold(params: Any, which: Spec) -> Any:
  """Divide every normalised kernel by its own largest singular value.

  For weights that were not trained with the tracked vectors, such as an average over time: an
  averaged unit vector is no unit vector, and a stored one belongs to other weights.
  """
  return utils.map_paths(
    lambda path, w: w / jnp.maximum(norm(w), 1e-12) if which(path, w) else w, params
  )
