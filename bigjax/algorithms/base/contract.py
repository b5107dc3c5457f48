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
from collections.abc import Mapping
from typing import Any, Protocol

import jax

from bigjax.nn.latents import How

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
