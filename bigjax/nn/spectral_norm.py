"""Spectral normalisation (Miyato et al. 2018) as a function on the parameter tree.

Networks know nothing of it. `track` is an optax transformation, last in a player's chain, that
carries the singular vectors in the optimizer state and refines them once per update; `normalize`
divides the kernels by their estimated norm inside the loss, so that one power iteration serves any
number of forward passes. Reference codes iterate on every forward (three times per generator
update) and keep the vectors beside BatchNorm's averages.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bigjax.core import trees
from bigjax.nn import linalg

Spec = Callable[[str, Any], bool]  # (path, leaf) -> is this leaf normalised


class SpectralState(NamedTuple):
  """Unit singular vectors of the current weights M [in, out], by parameter path.

  sn_u [out]: as the reference codes store it before a forward pass; sn_v [in]: M u, normalised.
  """

  sn_u: dict[str, Any]
  sn_v: dict[str, Any]


def spec(embeddings: bool = False) -> Spec:
  """Return the rule which tensors are normalised: every kernel, and embedding tables where asked.

  BigGAN normalises the discriminator's class embedding but not the generator's shared one; biases,
  BatchNorm affines and attention's gamma never are.
  """
  names = ('kernel', 'embedding') if embeddings else ('kernel',)
  return lambda path, leaf: path.rsplit('/', 1)[-1] in names


def kernel(path: str, w: Any) -> Any:
  """Return a tensor as the kernel [..., out] that is normalised, seen as M [in, out].

  The rows of a class table are its outputs, as in PyTorch.
  """
  return w.T if trees.is_table(path) else w


def _unit(x: jax.Array, eps: float) -> jax.Array:
  return x / jnp.maximum(jnp.linalg.norm(x), eps)


def left(w: jax.Array, u: jax.Array, eps: float = 1e-4) -> jax.Array:
  """Return v = M u / max(|M u|, eps) [in] for a kernel: the first half of a power iteration."""
  return _unit((w * u.reshape(*[1] * (w.ndim - 1), -1)).sum(-1).reshape(-1), eps)


def _image(w: jax.Array, v: jax.Array) -> jax.Array:
  """Return v M [out]; not as a matrix product, which would have slices of `w` gathered first."""
  return (w * v.reshape(*w.shape[:-1], 1)).sum(tuple(range(w.ndim - 1)))


def right(w: jax.Array, v: jax.Array, eps: float = 1e-4) -> jax.Array:
  """Return u = v M / max(|v M|, eps) [out]: the second half."""
  return _unit(_image(w, v), eps)


def sigma(w: jax.Array, v: jax.Array) -> jax.Array:
  """Return |v M|, the estimate v M u of the largest singular value with u = v M / |v M|.

  Gradient flows through M only; that of the norm, v u^T, is what it is with u held constant.
  """
  return jnp.linalg.norm(_image(w, lax.stop_gradient(v)))


def track(which: Spec, eps: float = 1e-4) -> optax.GradientTransformation:
  """Carry the singular vectors of a player's normalised tensors through its updates.

  Put it last in the chain: it leaves the updates alone and runs one power iteration, whose second
  half ends on the old weights, where the reference's forward pass stored its vector, and whose
  first half begins on `params + updates`, the weights that the next forward pass will use.

  Args:
    which: the tensors to track (see `spec`).
    eps: floor of the norm in the power iteration (the paper uses 1e-4).
  """

  def init(params):
    us, vs = {}, {}
    for path, w in trees.flat(params).items():
      if which(path, w):
        m = kernel(path, w)
        key = jax.random.fold_in(jax.random.key(0), trees.stable_hash(path))
        us[path] = _unit(jax.random.normal(key, m.shape[-1:], m.dtype), eps)
        vs[path] = left(m, us[path], eps)
    return SpectralState(trees.nest(us), trees.nest(vs))

  def update(updates, state, params=None):
    if params is None:
      raise ValueError('spectral.track needs the parameters: call tx.update(grads, state, params).')
    old, new = trees.flat(params), trees.flat(optax.apply_updates(params, updates))
    us = {
      path: right(kernel(path, old[path]), v, eps) for path, v in trees.flat(state.sn_v).items()
    }
    vs = {path: left(kernel(path, new[path]), u, eps) for path, u in us.items()}
    return updates, SpectralState(trees.nest(us), trees.nest(vs))

  return optax.GradientTransformation(init, jax.named_call(update, name='spectral_norm'))


def vectors(opt_state: Any) -> SpectralState:
  """Return the SpectralState inside an optimizer state.

  Raises:
    ValueError: the optimizer chain has no `track`.
  """
  return trees.only(opt_state, SpectralState, 'spectral.track')


@functools.partial(jax.named_call, name='spectral_norm')
def normalize(params: Any, state: SpectralState) -> Any:
  """Return the parameters with every tracked tensor W replaced by W / sigma."""
  vs = trees.flat(state.sn_v)

  def scaled(path, w):
    if path not in vs:
      return w
    v = lax.stop_gradient(vs[path])
    image = _image(kernel(path, lax.stop_gradient(w)), v)
    sigma = jnp.linalg.norm(image)
    u = image / jnp.maximum(sigma, jnp.finfo(sigma.dtype).tiny)
    if trees.is_table(path):
      return _quotient(w, u[:, None], v[None], sigma)
    across = u.reshape(*[1] * (w.ndim - 1), -1)
    return _quotient(w, v.reshape(*w.shape[:-1], 1), across, sigma)

  return trees.map_paths(scaled, params)


@jax.custom_vjp
def _quotient(w: jax.Array, left: jax.Array, right: jax.Array, sigma: jax.Array) -> jax.Array:
  """Return w / sigma, where sigma is the sum of w left right and its gradient is left right.

  `left` and `right` broadcast to the shape of w: its gradient is then one loop over the elements,
  where autodiff would write the outer product of the singular vectors to memory.
  """
  return w / sigma


def _quotient_forward(w, left, right, sigma):
  return w / sigma, (w, left, right, sigma)


def _quotient_backward(saved, dy):
  w, left, right, sigma = saved
  along = (dy * w).sum() / sigma
  d_w = (dy - along * (left * right)) / sigma
  return d_w, jnp.zeros_like(left), jnp.zeros_like(right), jnp.zeros_like(sigma)


_quotient.defvjp(_quotient_forward, _quotient_backward)


def sigmas(params: Any, state: SpectralState) -> dict[str, jax.Array]:
  """Return the estimated norm of every tracked tensor by path."""
  ws = trees.flat(params)
  return {path: sigma(kernel(path, ws[path]), v) for path, v in trees.flat(state.sn_v).items()}


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
  return trees.map_paths(
    lambda path, w: w / jnp.maximum(norm(w), 1e-12) if which(path, w) else w, params
  )
