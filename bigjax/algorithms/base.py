"""The contract between an algorithm and everything that is blind to families.

State is nested dicts with these keys, and shared code reads nothing deeper:

  step     int32 scalar: updates done
  key      PRNG key; the keys of a step are fold_in(key, step)
  players  {name: {params, opt, stats}}
  ema      averaged weights of whatever is sampled
  aux      {skipped: {player: int32 consecutive updates refused for being non-finite}, ...}
  frozen   weights that no one trains

The generator that is sampled, exported and kept in checkpoints is one tree, too: params (averaged,
normalisation folded in), knots (ascending truncations [K] with statistics) and stats (those
statistics, [K, ...]; both without entries where there is no BatchNorm).

Among a step's metrics is `skipped`: the largest count of aux.skipped, on which the trainer stops.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from bigjax import optim, parallel, spectral, utils
from bigjax.latents import How

Array = jax.Array
State = dict[str, Any]
Gen = dict[str, Any]
Metrics = dict[str, Array]
# {'<player>' or 'ema': {path: array}}: weights to begin with in place of freshly drawn ones.
Given = Mapping[str, Mapping[str, Array]]
NOTHING: Given = {}


@dataclasses.dataclass(frozen=True)
class Stage:
  """What must be known before a step is traced: one compilation per distinct value."""

  resolution: int
  batch: tuple[int, int]  # (minibatches per step, examples per minibatch)
  due: frozenset[str] = frozenset()  # lazy regularisers that run in this step


@dataclasses.dataclass(frozen=True)
class Player:
  """One set of weights and how it moves.

  `tx` holds still what is not finite (optim.guard) and carries spectral vectors (spectral.track).
  """

  tx: optax.GradientTransformation
  dtype: Any = jnp.float32  # that the network rounds its convolutions' kernels to

  def init(self, params: Any) -> dict[str, Any]:
    """Return the player's state around freshly initialised parameters."""
    return {'params': params, 'opt': self.tx.init(params), 'stats': {}}

  def update(self, player: dict[str, Any], grads: Any, loss: Array) -> tuple[dict[str, Any], Array]:
    """Return the player's state after one optimizer update, and whether there was one.

    Where the loss or a gradient is not finite, the state stays as it is.
    """
    tx = optax.with_extra_args_support(self.tx)
    updates, opt = tx.update(grads, player['opt'], player['params'], loss=loss)
    finite = optim.was_finite(opt)
    with jax.named_scope('optimizer'):
      opt = utils.select(finite, opt, player['opt'])
      return {
        **player,
        'params': optax.apply_updates(player['params'], updates),
        'opt': opt,
      }, finite

  def pullback(self, player: dict[str, Any]) -> tuple[Any, Callable[[Any], Any]]:
    """Return the weights as the network uses them, and gradient of those -> gradient of params."""
    vectors = spectral.vectors(player['opt'])
    weights, back = jax.vjp(lambda p: spectral.normalize(p, vectors), player['params'])
    return parallel.whole(weights, self.dtype), lambda grads: back(grads)[0]

  def normalized(self, player: dict[str, Any]) -> Any:
    """Return the weights as the network uses them: spectrally normalised."""
    weights = spectral.normalize(player['params'], spectral.vectors(player['opt']))
    return parallel.whole(weights, self.dtype)


def replace(params: Any, given: Mapping[str, Array]) -> Any:
  """Return the parameters with those at the paths of `given` replaced."""
  return utils.map_paths(lambda path, fresh: given.get(path, fresh), params)


def count_skipped(skipped: Array, finite: Array) -> Array:
  """Return refused updates [in a row, in all], int32, after one more that was finite or not."""
  in_a_row, in_all = skipped
  return jnp.stack([jnp.where(finite, 0, in_a_row + 1), in_all + jnp.where(finite, 0, 1)])


def none_skipped() -> Array:
  """Return the count of no refused updates."""
  return jnp.zeros((2,), jnp.int32)


def skipped_metrics(skipped: dict[str, Array]) -> Metrics:
  """Return the most updates of a player refused in a row, up to now, and those of all in all."""
  counts = jnp.stack(list(skipped.values()))
  return {'skipped': counts[:, 0].max(), 'refused': counts[:, 1].sum()}


class Algorithm(Protocol):
  """Training. All methods but `stage` and `position` are pure and are jitted by build.py."""

  def init(self, key: Array, given: Given = NOTHING) -> State:
    """Return the state at step 0, its parameters drawn from the key where none are given."""

  def step(self, state: State, batch: Mapping[str, Array], stage: Stage) -> tuple[State, Metrics]:
    """Advance by one update of every player.

    Args:
      state: see above; donated.
      batch: {'image': uint8 [k, B, H, W, C], 'label': int32 [k, B]}, k and B as in `stage.batch`.
      stage: static.
    """

  def probe(
    self, state: State, batch: Mapping[str, Array], held_out: Mapping[str, Array]
  ) -> Metrics:
    """Return vital signs on a training batch and on a held-out one; changes nothing."""

  def stage(self, step: int) -> Stage:
    """Return what this step is compiled for: plain Python, a function of the step alone."""

  def position(self, step: int) -> int:
    """Return how many real images are consumed before `step` (may exceed 32 bits)."""

  def generator(self, state: State) -> Gen:
    """Return the generator as sampled: averaged, normalisation folded in, uncalibrated."""

  def architecture(self) -> dict[str, Any]:
    """Return what `make_generator` needs to build the sampled network, as JSON-able values."""


class Generator(Protocol):
  """Everything after training: sample, evaluate, export and convert see only this."""

  @property
  def dialects(self) -> tuple[str, ...]:
    """The truncation dialects that mean something for the latents (latents.DIALECTS)."""

  def latents(self, key: Array, num: int, how: How) -> Array:
    """Return z for `num` samples; the first n do not depend on `num`."""

  def generate(self, gen: Gen, z: Array, y: Array, how: How) -> Array:
    """Return images [B, H, W, C] in [-1, 1]; y is int32 [B] or float32 [B, classes] weights."""

  def calibrate(self, gen: Gen, key: Array, how: How) -> Gen:
    """Return `gen` with standing statistics for this truncation; the identity without BatchNorm."""
