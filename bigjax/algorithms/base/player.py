"""A player: one set of weights, how it moves, and the bookkeeping that every game shares."""

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bigjax.algorithms.base.contract import Metrics, State
from bigjax.algorithms.base.metrics import singular_value
from bigjax.core import parallel, trees
from bigjax.nn import optim, singular_values, spectral_norm
from bigjax.nn.microbatches import scan
from bigjax.nn.style import equalized as equalized_rate

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Reparametrisation:
  """How the weights that a network uses follow from a player's parameters.

  Attributes:
    link: last in the player's optimizer chain; carries what `weights` needs.
    weights: (params, optimizer state) -> weights, differentiable in the first.
    fold: params -> weights, without the link's help: for averaged parameters.
    signs: (name of the player, its state, whole on every device) -> its vital signs.
    scale_free: params -> paths of the tensors that `weights` divides by a norm of their own.
  """

  link: optax.GradientTransformation
  weights: Callable[[Any, Any], Any]
  fold: Callable[[Any], Any]
  signs: Callable[[str, dict[str, Any]], Metrics]
  scale_free: Callable[[Any], frozenset[str]] = lambda params: frozenset()


def weight_norm(name: str, player: dict[str, Any]) -> Metrics:
  """The one vital sign that every player has."""
  return {f'weight_norm_{name}': optax.tree.norm(player['params'])}


IDENTITY = Reparametrisation(
  optax.identity(), lambda params, opt: params, lambda params: params, weight_norm
)


def spectral(which: spectral_norm.Spec, eps: float) -> Reparametrisation:
  """Spectral norm (Miyato et al. 2018): tensors over their largest singular value.

  Args:
    which: the tensors that are normalised; see spectral_norm.spec.
    eps: floor of the norms in the power iteration.
  """
  return Reparametrisation(
    spectral_norm.track(which, eps),
    lambda params, opt: spectral_norm.normalize(params, spectral_norm.vectors(opt)),
    lambda params: spectral_norm.fold(params, which),
    spectral_signs,
    lambda params: frozenset(path for path, w in trees.flat(params).items() if which(path, w)),
  )


def equalized(gains: equalized_rate.Gains) -> Reparametrisation:
  """Equalised learning rate (Karras et al. 2018): tensors times their gain over sqrt(fan in).

  Args:
    gains: of the tensors; see equalized.gains.
  """
  scale = lambda params: equalized_rate.scale(params, gains)
  return Reparametrisation(optax.identity(), lambda params, opt: scale(params), scale, weight_norm)


@dataclasses.dataclass(frozen=True)
class PlayerLoss:
  """A player's loss as a function of its parameters; see contract.Loss."""

  of_params: Callable[[Any], tuple[Array, Metrics]]
  scale_free: frozenset[str]

  def __call__(self, params: Any) -> tuple[Array, Metrics]:
    return self.of_params(params)


@dataclasses.dataclass(frozen=True)
class Player:
  """One set of weights and how it moves; an update that is not finite never enters it.

  Attributes:
    optimizer: what turns gradients into updates, Adam for example.
    before, after: links around it: on gradients (penalties), on updates (clamps, freezing).
    reparametrisation: of the parameters.
    dtype: that the network rounds its convolutions' kernels to.
  """

  optimizer: optax.GradientTransformation
  before: optax.GradientTransformation = dataclasses.field(default_factory=optax.identity)
  after: optax.GradientTransformation = dataclasses.field(default_factory=optax.identity)
  reparametrisation: Reparametrisation = IDENTITY
  dtype: Any = jnp.float32

  @property
  def tx(self) -> optax.GradientTransformationExtraArgs:
    """The whole chain. The optimizer is guarded here, so that no family can forget it."""
    chain = self.before, optim.guard(self.optimizer), self.after, self.reparametrisation.link
    return optax.with_extra_args_support(optax.chain(*chain))

  def init(self, params: Any) -> dict[str, Any]:
    """The player's state around freshly initialised parameters."""
    return {'params': params, 'opt': self.tx.init(params)}

  def update(self, player: dict[str, Any], grads: Any, loss: Array) -> tuple[dict[str, Any], Array]:
    """The player's state after one optimizer update, and whether there was one.

    Where the loss or a gradient is not finite, the state stays as it is.
    """
    updates, opt = self.tx.update(grads, player['opt'], player['params'], loss=loss)
    finite = optim.was_finite(opt)
    with jax.named_scope('optimizer'):
      opt = trees.select(finite, opt, player['opt'])
      params = optax.apply_updates(player['params'], updates)
      return {**player, 'params': params, 'opt': opt}, finite

  def weights(self, player: dict[str, Any]) -> Any:
    """The weights as the network uses them, whole on every device."""
    weights = self.reparametrisation.weights(player['params'], player['opt'])
    return parallel.all_gather_weights(weights, self.dtype)

  def pullback(self, player: dict[str, Any]) -> tuple[Any, Callable[[Any], Any]]:
    """(`weights`, gradient with respect to those -> gradient with respect to params)."""
    weights, back = jax.vjp(
      lambda params: self.reparametrisation.weights(params, player['opt']), player['params']
    )
    return parallel.all_gather_weights(weights, self.dtype), lambda grads: back(grads)[0]

  def descend(
    self,
    player: dict[str, Any],
    skipped: Array,
    loss: Callable[[Any, Any, Any], tuple[Array, Metrics]],
    shared: Any,
    examples: Any,
    grad_norm: str,
    pulled: tuple[Any, Callable[[Any], Any]] | None = None,
  ) -> tuple[dict[str, Any], Array, Array, Metrics]:
    """One update down the gradient of a loss over the global batch.

    Args:
      player: its state.
      skipped: its refused updates [in a row, in all].
      loss: (weights, shared, examples) -> (scalar, {name: scalar}): see parallel.value_and_grad.
      shared: what is not differentiated, such as other players' `weights`.
      examples: [B, ...].
      grad_norm: name of the gradient's norm among the metrics.
      pulled: `pullback(player)`, where that is at hand already.
    Returns:
      (player, skipped, whether there was an update, metrics).
    """
    weights, back = pulled or self.pullback(player)
    (value, metrics), grads = parallel.value_and_grad(loss)(weights, shared, examples)
    grads = back(grads)
    player, finite = self.update(player, grads, value)
    metrics |= {grad_norm: jnp.sqrt(optim.squared_norm(grads))}
    return player, count_skipped(skipped, finite), finite, metrics

  def descend_each(
    self,
    player: dict[str, Any],
    skipped: Array,
    loss: Callable[[Any, Any, Any], tuple[Array, Metrics]],
    shared: Any,
    minibatches: Any,
    grad_norm: str,
    state: Mapping[str, Any] = types.MappingProxyType({}),
  ) -> tuple[dict[str, Any], Array, Metrics, dict[str, Any]]:
    """`descend` on each of the minibatches [k, B, ...] in turn; the metrics are means over them.

    Args:
      state: what the loss carries from one minibatch to the next: joined to `shared`, renewed by
        the metrics of the same names where there was an update, and returned last.
    """

    def one(carry, examples):
      player, skipped, state = carry
      player, skipped, finite, metrics = self.descend(
        player, skipped, loss, {**shared, **state}, examples, grad_norm
      )
      new = {name: old | metrics.pop(name, {}) for name, old in state.items()}
      return (player, skipped, trees.select(finite, new, state)), metrics

    carry, metrics = scan(one, (player, skipped, dict(state)), minibatches)
    player, skipped, carried = carry
    return player, skipped, jax.tree.map(lambda x: x.mean(), metrics), carried

  def loss(
    self, player: dict[str, Any], fn: Callable[..., tuple[Array, Metrics]], *others: Any
  ) -> PlayerLoss:
    """`fn(weights, *others)`, as `parallel.value_and_grad` takes it, as a function of params."""

    def of_params(params):
      weights = parallel.all_gather_weights(
        self.reparametrisation.weights(params, player['opt']), self.dtype
      )
      return parallel.over_batch(fn)(weights, *others)

    return PlayerLoss(of_params, self.reparametrisation.scale_free(player['params']))


def initial_state(
  key: Array,
  players: Mapping[str, dict[str, Any]],
  ema: Any,
  aux: Mapping[str, Any] | None = None,
  frozen: Any = None,
) -> State:
  """The state at step 0: see contract.py.

  Args:
    key: of all steps.
    players: {name: Player.init(...)}.
    ema: averaged weights; copied, because the state is donated and may not alias itself.
    aux: what else training needs.
    frozen: weights that no one trains.
  """
  return {
    'step': jnp.int32(0),
    'key': key,
    'players': dict(players),
    'ema': jax.tree.map(jnp.copy, ema),
    'aux': {'skipped': {name: none_skipped() for name in players}, **(aux or {})},
    'frozen': {} if frozen is None else frozen,
  }


def advanced(
  state: State,
  players: Mapping[str, dict[str, Any]],
  ema: Any,
  skipped: Mapping[str, Array],
  aux: Mapping[str, Any] | None = None,
) -> tuple[State, Metrics]:
  """(The state after a step, metrics of refused updates)."""
  state = {
    'step': state['step'] + 1,
    'key': state['key'],
    'players': dict(players),
    'ema': ema,
    'aux': {**state['aux'], **(aux or {}), 'skipped': dict(skipped)},
    'frozen': state['frozen'],
  }
  return state, skipped_metrics(skipped)


def averaged(state: State, params: Any, decay: float | Array, start: int, finite: Array) -> Any:
  """The exponential moving average of params after a step; refused updates leave it as it is.

  Args:
    state: before the step.
    params: after it.
    decay: of the average.
    start: step before which it is a copy of params.
    finite: whether there was an update.
  """
  average = optim.ema(state['ema'], params, decay, state['step'] >= start)
  return trees.select(finite, average, state['ema'])


def replace(params: Any, given: Mapping[str, Array]) -> Any:
  """Parameters with those at the paths of `given` replaced."""
  return trees.map_paths(lambda path, fresh: given.get(path, fresh), params)


def count_skipped(skipped: Array, finite: Array) -> Array:
  """Refused updates [in a row, in all], int32, after one more that was finite or not."""
  in_a_row, in_all = skipped
  return jnp.stack([jnp.where(finite, 0, in_a_row + 1), in_all + jnp.where(finite, 0, 1)])


def none_skipped() -> Array:
  """The count of no refused updates."""
  return jnp.zeros((2,), jnp.int32)


def skipped_metrics(skipped: Mapping[str, Array]) -> Metrics:
  """The most updates of a player refused in a row, up to now, and those of all in all."""
  counts = jnp.stack(list(skipped.values()))
  return {'skipped': counts[:, 0].max(), 'refused': counts[:, 1].sum()}


def spectral_signs(name: str, player: dict[str, Any]) -> Metrics:
  """Vital signs of a player with spectral norm: singular values of raw kernels, norms.

  Args:
    name: of the player.
    player: its state, whole on every device.
  """
  params = player['params']
  estimates = spectral_norm.sigmas(params, spectral_norm.vectors(player['opt']))
  signs = {
    f'sigma_max_{name}': jnp.max(jnp.stack(list(estimates.values()))),
    **weight_norm(name, player),
  }
  kernels = trees.flat(params)
  for path in estimates:
    leading = singular_values.leading(
      kernels[path], singular_values.at_most(kernels[path], 3)
    ).values
    signs |= {singular_value(i, name, path): value for i, value in enumerate(leading)}
  return signs


def vital_signs(players: Mapping[str, Player], states: Mapping[str, dict[str, Any]]) -> Metrics:
  """What the players' reparametrisations say of their states, which are whole on every device."""
  signs: Metrics = {}
  for name, of in players.items():
    signs |= of.reparametrisation.signs(name, states[name])
  return signs


def accuracies(train: Array, held_out: Array, fake: Array) -> Metrics:
  """Shares of scores [B] on the right side of 0: of training, held-out and fake images."""
  share = lambda right: right.mean(dtype=jnp.float32)
  return {
    'probe_accuracy_train': share(train > 0),
    'probe_accuracy_held_out': share(held_out > 0),
    'probe_accuracy_fake': share(fake < 0),
  }


def to_float(image: Array) -> Array:
  """uint8 images in [0, 255] as float32 in [-1, 1]; floats are in [-1, 1] already."""
  return image.astype(jnp.float32) / 127.5 - 1 if image.dtype == jnp.uint8 else image
