"""Optax chains from keyword arguments, and the orthogonal penalty as a link of a chain."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bigjax.core import errors, parallel, trees
from bigjax.nn import linalg, singular_values
from bigjax.nn.schedules import Schedule


def orthogonal_grad(w: jax.Array) -> jax.Array:
  """Return the gradient of `regularizers.orthogonal`: 4 (W W^T W - W diag(n)).

  n_j are the squared filter norms. Of a kernel [..., out] that is not sliced, the product goes
  through the Gram matrix of the small side.
  """

  def of_rows(part, total):
    m = linalg.matrix(part)
    if m.shape[0] < m.shape[1] and part.shape == w.shape:
      product = linalg.dot(linalg.dot(m, m.T), m)
    else:
      product = linalg.dot(m, total(linalg.dot(m.T, m)))
    norms = total(jnp.square(m).sum(0, keepdims=True))
    return (4 * (product - m * norms)).reshape(part.shape)

  return parallel.over_slices(of_rows, w)


def _per_tensor(
  name: str, mask: Callable[[str, Any], bool], change: Callable[[jax.Array, jax.Array], jax.Array]
) -> optax.GradientTransformation:
  """A link without state: `change(update, weights)` for the tensors at `mask(path, weights)`."""

  def update(updates, params):
    if params is None:
      raise ValueError(f'{name} needs the parameters: call tx.update(grads, state, params).')
    weights = trees.flat(params)
    one = lambda path, g: change(g, weights[path]) if mask(path, weights[path]) else g
    return trees.map_paths(one, updates)

  return optax.stateless(update)


def add_orthogonal_penalty(
  beta: float, mask: Callable[[str, Any], bool]
) -> optax.GradientTransformation:
  """Add the gradient of beta |W^T W * (1 - I)|_F^2 (BigGAN Eq. 3) to the updates; first in a chain.

  Args:
    beta: strength; the paper's 1e-4. BigGAN-PyTorch applies half of Eq. 3's gradient: its 1e-4 is
    5e-5.
    mask: (path, leaf) -> whether the tensor is penalised.
  """
  penalised = lambda g, w: g + beta * orthogonal_grad(w)
  return _per_tensor('add_orthogonal_penalty', mask, jax.named_call(penalised, name='penalty'))


def _with_two_values(mask: Callable[[str, Any], bool]) -> Callable[[str, Any], bool]:
  return lambda path, w: mask(path, w) and singular_values.at_most(w, 2) == 2


def clamp_sigma(
  mask: Callable[[str, Any], bool], fixed: float, ratio: float
) -> optax.GradientTransformation:
  """Clamp the largest singular value after the update (BigGAN Eq. 4); after the optimizer proper.

  Args:
    mask: (path, leaf) -> whether the tensor is clamped; those with one column or row never are.
    fixed, ratio: see `singular.bound`.
  """
  clamped = lambda delta, w: singular_values.clamp(w + delta, fixed, ratio) - w
  return _per_tensor('clamp_sigma', _with_two_values(mask), clamped)


def add_sigma_penalty(
  weight: float, mask: Callable[[str, Any], bool], fixed: float, ratio: float
) -> optax.GradientTransformation:
  """Add the gradient of weight (sigma0 - bound)^2 to the updates; before the optimizer proper.

  Args:
    weight: strength.
    mask: (path, leaf) -> whether the tensor is penalised; those with one column or row never are.
    fixed, ratio: see `singular.bound`.
  """
  penalised = lambda g, w: g + weight * singular_values.penalty_grad(w, fixed, ratio)
  return _per_tensor('add_sigma_penalty', _with_two_values(mask), penalised)


def freeze(mask: Callable[[str, Any], bool]) -> optax.GradientTransformation:
  """Hold the parameters at `mask(path, leaf)` where they are; after the optimizer proper."""
  still = lambda path, delta: jnp.zeros_like(delta) if mask(path, delta) else delta
  return optax.stateless(lambda updates, params: trees.map_paths(still, updates))


def scaled(mask: Callable[[str, Any], bool], times: float) -> optax.GradientTransformation:
  """Multiply the updates at `mask(path, leaf)`; after an optimizer proper, its learning rate."""
  faster = lambda path, delta: times * delta if mask(path, delta) else delta
  return optax.stateless(lambda updates, params: trees.map_paths(faster, updates))


def _standard_promotion(tx: optax.GradientTransformation) -> optax.GradientTransformation:
  """Let optax mix its int32 counts with floats where the program at large forbids it."""

  def update(updates, state, params=None):
    with jax.numpy_dtype_promotion('standard'), jax.named_scope('optimizer'):
      return tx.update(updates, state, params)

  return optax.GradientTransformation(tx.init, update)


def adam(lr: float | Schedule, b1: float, b2: float, eps: float) -> optax.GradientTransformation:
  """Adam (Kingma & Ba 2015) with both moments.

  A schedule reads Adam's own count of updates, so that the state is one tree with and without.
  """
  if not callable(lr):
    return _standard_promotion(optax.adam(lr, b1=b1, b2=b2, eps=eps))
  moments, plain = optax.scale_by_adam(b1=b1, b2=b2, eps=eps), optax.adam(0.0)

  def update(updates, state, params=None):
    rate = lr(state[0].count)
    updates, state_of_moments = moments.update(updates, state[0], params)
    return jax.tree.map(lambda u: -rate * u, updates), (state_of_moments, *state[1:])

  return _standard_promotion(optax.GradientTransformation(plain.init, update))


def adamw(
  lr: float | Schedule, b1: float, b2: float, eps: float, decay: float
) -> optax.GradientTransformation:
  """Adam with decoupled weight decay (Loshchilov & Hutter 2019): of 0, `adam` and its state."""
  moments = adam(1.0, b1, b2, eps)

  def update(updates, state, params=None):
    rate = lr(state[0].count) if callable(lr) else lr
    updates, state = moments.update(updates, state, params)
    return jax.tree.map(lambda u, p: rate * (u - decay * p), updates, params), state

  return _standard_promotion(optax.GradientTransformation(moments.init, update))


class GuardState(NamedTuple):
  """Whether the last updates were finite, and the state of what is guarded."""

  finite: jax.Array
  inner: Any


def guard(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
  """Let an optimizer move nothing where its updates, or the loss given with them, are not finite.

  Finite means that the sum of squares is: of an optimizer like Adam, whose state such a sum bounds,
  no state becomes non-finite otherwise. The flag is decided before the optimizer and not on its
  results, so that weights and moments are read and written once. What `inner` made of its own state
  meanwhile is the caller's to drop (base.Player does). Unlike `optax.apply_if_finite`, nothing gets
  through, however often in a row.
  """

  def init(params):
    return GuardState(jnp.array(True), inner.init(params))

  def update(updates, state, params=None, *, loss=0.0, **_):
    finite = jnp.isfinite(loss) & jnp.isfinite(squared_norm(updates))
    updates, opt = inner.update(updates, state.inner, params)
    with jax.named_scope('optimizer'):
      still = jax.tree.map(lambda u: jnp.where(finite, u, jnp.zeros_like(u)), updates)
    return still, GuardState(finite, opt)

  return optax.GradientTransformationExtraArgs(init, update)


@functools.partial(jax.named_call, name='optimizer')
def squared_norm(tree: Any) -> jax.Array:
  """Return the sum of squares of all elements."""
  return jnp.sum(jnp.stack([jnp.square(leaf).sum() for leaf in jax.tree.leaves(tree)]))


def was_finite(opt_state: Any) -> jax.Array:
  """Return the flag of the `guard` inside an optimizer state.

  Raises:
    ValueError: the optimizer chain has no `guard`.
  """
  return trees.only(opt_state, GuardState, 'optim.guard').finite


class SecondMomentState(NamedTuple):
  """Adam's state without its first moment: updates done, and squared gradients averaged."""

  count: jax.Array
  nu: Any


def adam_b1_0(
  lr: float | Schedule, b1: float, b2: float, eps: float
) -> optax.GradientTransformation:
  """Adam with b1 = 0 and no first moment: optax.adam's updates bit for bit, half the state.

  `optax.scale_by_rms` is nearly this, but multiplies by a reciprocal: another rounding.

  Raises:
    UserError: b1 is not 0.
  """
  if b1 != 0:
    raise errors.UserError(
      f'optim.b1 is {b1}, but optim.name=adam_b1_0 keeps no first moment; '
      'set optim.name=adam, or optim.b1=0.'
    )

  def init(params):
    return SecondMomentState(jnp.zeros((), jnp.int32), optax.tree.zeros_like(params))

  def update(updates, state, params=None):
    del params
    nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
    count = optax.safe_increment(state.count)
    nu_hat = optax.tree.bias_correction(nu, b2, count)
    rate = lr(state.count) if callable(lr) else lr
    updates = jax.tree.map(lambda g, v: -rate * (g / (jnp.sqrt(v) + eps)), updates, nu_hat)
    return updates, SecondMomentState(count, nu)

  return _standard_promotion(optax.GradientTransformation(init, update))


def rmsprop(lr: float | Schedule, b1: float, b2: float, eps: float) -> optax.GradientTransformation:
  """RMSprop (Tieleman & Hinton 2012): gradients over the root of their averaged squares.

  Without Adam's correction of the first steps; `b1` is Adam's alone.
  """
  del b1
  moments = optax.scale_by_rms(decay=b2, eps=eps, eps_in_sqrt=False)

  def init(params):
    return jnp.zeros((), jnp.int32), moments.init(params)

  def update(updates, state, params=None):
    count, state = state
    rate = lr(count) if callable(lr) else lr
    updates, state = moments.update(updates, state, params)
    return jax.tree.map(lambda u: -rate * u, updates), (count + 1, state)

  return _standard_promotion(optax.GradientTransformation(init, update))


OPTIMIZERS = {'adam': adam, 'adam_b1_0': adam_b1_0, 'rmsprop': rmsprop}


@functools.partial(jax.named_call, name='optimizer')
def ema(average: Any, params: Any, decay: float | jax.Array, started: jax.Array) -> Any:
  """Return the exponential moving average after an update; before `started`, the parameters.

  `decay` is a number, or what a law of nn/schedules.py says of a step.
  """

  def one(a, p):
    return jnp.where(started, decay * a + (1 - decay) * p, p)

  return jax.tree.map(one, average, params)
