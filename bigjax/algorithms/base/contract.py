"""The contract between an algorithm and everything that is blind to families.

A family is one module, `algorithms/NAME.py`, with

  KEYS, TINY, DIGITS          its config keys and patches (core/config.py)
  make(config, class_counts)   -> Algorithm: the game; class_counts() are the data's, or it is None
  make_generator(architecture) -> Generator: what is left of it after training

State is nested dicts with these keys, and shared code reads nothing deeper:

  step     int32 scalar: updates done
  key      PRNG key; the keys of a step are fold_in(key, step)
  players  {name: {params, opt}}
  ema      averaged weights of whatever is sampled
  aux      {skipped: {player: int32 [refused in a row, in all]}, ...what else training needs}
  frozen   weights that no one trains: `init` makes the same whatever its key, and no checkpoint
           has them, but their digest

No value of a hyper-parameter changes the tree, and no stage does, but for the copies of weights
that `ema.posthoc` adds to `aux`. The generator that is sampled, exported and kept in
checkpoints is one tree, too, which only its Generator looks into.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from bigjax.core import errors

Array = jax.Array
State = dict[str, Any]
Gen = Any
OwnSpec = Any  # the Spec that the same generator's `spec` makes, which only it looks into
Metrics = dict[str, Array]
Batch = Mapping[str, Array]
Due = frozenset[str]
# {'<player>' or 'ema': {path: array}}: weights to begin with in place of freshly drawn ones.
Given = Mapping[str, Mapping[str, Array]]
NOTHING: Given = {}
NONE_DUE: Due = frozenset()
GUIDANCE = 'guidance'  # the sampling option of what a classifier guides


@dataclasses.dataclass(frozen=True)
class Input:
  """One array of a batch: the shape and dtype that an example has.

  The input `image` is the data's images [H, W, C], or clips [T, H, W, C], `label` its class
  numbers. Any other input is the same images at another size: [H', W', C] or [T, H', W', C].
  """

  shape: tuple[int, ...]
  dtype: str = 'uint8'


def image_inputs(
  resolution: int, channels: int, frames: int = 0, **others: int
) -> tuple[tuple[str, Input], ...]:
  """Inputs of a step that takes labelled images, or clips where there are frames.

  Args:
    resolution: pixels a side.
    channels: 1 or 3.
    frames: of a clip; 0: still images.
    others: {name: resolution} of the same images at further sizes.
  """
  time = (frames,) if frames else ()
  sized = {'image': resolution, **others}
  images = tuple((name, Input((*time, side, side, channels))) for name, side in sized.items())
  return (*images, ('label', Input((), 'int32')))


@dataclasses.dataclass(frozen=True)
class Stage:
  """A period of a run in which all steps take arrays of the same shapes; a family may add fields.

  Static in a jitted step: there is one program per stage and set of due terms.

  Attributes:
    minibatches: real minibatches that a step consumes.
    examples: in each of them, over all devices.
    inputs: (name, Input) of every array of a batch.
  """

  minibatches: int
  examples: int
  inputs: tuple[tuple[str, Input], ...]

  @property
  def num_images(self) -> int:
    """Real images that a step consumes."""
    return self.minibatches * self.examples

  @property
  def image(self) -> tuple[int, ...]:
    """Shape of an image, (H, W, C), or of a clip, (T, H, W, C)."""
    return dict(self.inputs)['image'].shape

  def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a global batch: [minibatches, examples, ...]."""
    lead = self.minibatches, self.examples
    return {
      name: jax.ShapeDtypeStruct((*lead, *one.shape), jnp.dtype(one.dtype))
      for name, one in self.inputs
    }

  def __str__(self) -> str:
    *time, height, width, _ = self.image
    size = f'{height} px' if height == width else f'{height}x{width} px'
    what = f'{self.minibatches} x {self.examples} {"clips" if time else "images"} each'
    return f'{size}, {time[0]} frames, {what}' if time else f'{size}, {what}'


Stages = Sequence[tuple[int, Stage]]  # (first step, stage), ascending, the first at step 0


def stage_at(stages: Stages, step: int) -> Stage:
  """The stage that a step belongs to; the last one goes on for ever."""
  return [stage for first, stage in stages if first <= step][-1]


def position_at(stages: Stages, step: int) -> int:
  """Number of real images consumed before `step` (may exceed 32 bits)."""
  ends = [*(first for first, _ in stages[1:]), step]
  return sum(
    (min(step, end) - first) * stage.num_images
    for (first, stage), end in zip(stages, ends, strict=True)
    if first < step
  )


def due_at(periods: Mapping[str, int], step: int) -> Due:
  """Terms that are due in a step: each every so many steps, from step 0 on."""
  return frozenset(name for name, every in periods.items() if step % every == 0)


def dues_between(periods: Mapping[str, int], first: int, last: int) -> dict[Due, int]:
  """{terms due together: in how many of the steps `first` to `last` - 1}, as they come up."""
  cycle = math.lcm(*periods.values())
  counts: dict[Due, int] = {}
  for i in range(min(last - first, cycle)):
    due = due_at(periods, first + i)
    counts[due] = counts.get(due, 0) + len(range(first + i, last, cycle))
  return counts


class Loss(Protocol):
  """A player's loss as a function of its parameters: what `Player.loss` makes.

  Attributes:
    scale_free: paths of the tensors whose scale makes no difference to it, because the player's
      reparametrisation divides it out.
  """

  @property
  def scale_free(self) -> frozenset[str]: ...

  def __call__(self, params: Any) -> tuple[Array, Metrics]:
    """(The loss, metrics), means over the global batch."""


class Algorithm(Protocol):
  """The game. Methods that take a state are pure; training/program.py jits them.

  One whose frozen weights come from a file also has `frozen_shapes() -> shapes of all that is
  frozen`, which `init` takes as given['frozen'], so that shapes can be had where the file is not;
  and `frozen_card() -> what the card's architecture says of it`, which reads it, or refuses.

  Attributes:
    periods: {lazy term: every so many steps}; {} where nothing is lazy.
    sampled: the player whose averaged weights are sampled.
    remedies: what helps when a run collapses, in words, naming config keys.
  """

  periods: Mapping[str, int]
  sampled: str
  remedies: str

  def stages(self, num_steps: int) -> Stages:
    """The stages of a run; those before a step do not depend on `num_steps`. Plain Python."""

  def init(self, key: Array, given: Given = NOTHING) -> State:
    """State at step 0, its parameters drawn from the key where none are given."""

  def losses(self, state: State, batch: Batch, stage: Stage) -> dict[str, Loss]:
    """Each player's loss in this step's first minibatch, as a function of its parameters.

    What `step` differentiates; for initialisers, probes and tests. Lazy terms are left out. The
    stage may be one of the run's with another number of minibatches.
    """

  def step(
    self, state: State, batch: Batch, stage: Stage, due: Due = NONE_DUE
  ) -> tuple[State, Metrics]:
    """Advance by one update of every player.

    Args:
      state: see above; donated.
      batch: arrays as `stage.shapes()`.
      stage: static.
      due: lazy terms that run in this step; static.
    Returns:
      (state, metrics by the names of `base/metrics.py`, `skipped` and `refused` among them).
    """

  def probe(self, state: State, batch: Batch, held_out: Batch, stage: Stage) -> Metrics:
    """Vital signs on a training batch and on a held-out one; changes nothing."""

  def generator(self, state: State, stage: Stage) -> Gen:
    """The generator as sampled: averaged, normalisation folded in, nothing prepared."""

  def architecture(self, stage: Stage) -> dict[str, Any]:
    """The JSON-able values from which `make_generator` builds the sampled network."""

  def sampling(self) -> dict[str, Any]:
    """How its generator is sampled unless told otherwise, as JSON-able values, for the card."""


class Spec(Protocol):
  """Sampling settings of one family: hashable, a pytree where a leaf may be traced."""

  def __str__(self) -> str:
    """In words: 'untruncated', '0.5 (resample)', '25 steps'."""

  def described(self) -> dict[str, Any]:
    """JSON-able values for whoever wants the same samples again."""


class Generator(Protocol):
  """Everything after training: sample, evaluate, export and plan see only this.

  Some also have parts, such as an encoder (`generators/parts.py`). One whose samples have a noise
  that follows from their latents also has `with_noise_of(gen, z, y, spec, others)`: samples of z
  with the noise of others, which are latents as well (`draws.with_noise_of`).

  Attributes:
    shape: of a sample, (H, W, C) or (T, H, W, C).
    latent_shape: of one sample's latents, of any rank.
    num_classes: that it was trained with; 1 where it is not conditional.
    options: {name: help} of the sampling options that it understands.
    inputs: {field of its Spec: what it is} of numbers that `generate` may take traced, and that an
      exported program therefore takes as inputs.
  """

  @property
  def shape(self) -> tuple[int, ...]: ...

  @property
  def latent_shape(self) -> tuple[int, ...]: ...

  @property
  def num_classes(self) -> int: ...

  @property
  def options(self) -> Mapping[str, str]: ...

  @property
  def inputs(self) -> Mapping[str, str]: ...

  def spec(self, sampling: Mapping[str, Any], given: Mapping[str, str] | None = None) -> Spec:
    """Settings from a card's `sampling` and the words {option: value} given by a user.

    Raises:
      UserError: an option that is unknown, or a value that means nothing (`check_options`).
    """

  def prepared(self, sampling: Mapping[str, Any]) -> Sequence[Spec]:
    """The settings that an export is prepared for."""

  def latents(self, key: Array, num: int, spec: OwnSpec, start: Array | int = 0) -> Array:
    """Latents [num, ...] of samples `start` and on; each follows from its number alone."""

  def generate(self, gen: Gen, z: Array, y: Array, spec: OwnSpec) -> Array:
    """Samples [B, ...] in [-1, 1]; y is int32 [B] or float32 [B, classes] weights."""

  def prepare(self, gen: Gen, key: Array, spec: OwnSpec) -> Gen:
    """`gen` with whatever these settings need measured; itself where they need nothing."""

  def bare(self, gen: Gen) -> Gen:
    """`gen` with nothing prepared."""

  def provenance(self, gen: Gen, spec: OwnSpec, sampling: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether `gen` is ready for these settings, and what is to be said: '' for nothing."""

  def weights(self, gen: Gen) -> Any:
    """The parameters that another run's sampled player can begin with (`init_from`).

    A run that begins with them, and averages nothing yet, samples as `gen` does.
    """

  def recipe(self, spec: OwnSpec) -> str | None:
    """Python source, for jax alone, whose latents(seed, num) are ours; None where there is none."""


def state_shapes(algorithm: Algorithm, init: Callable[..., State] | None = None) -> State:
  """The shapes of an algorithm's state; nothing is computed, no file of weights is read.

  Args:
    algorithm: the game.
    init: its `init`, from who will jit that same object: JAX traces it once for both.
  """
  key, given = jax.eval_shape(lambda: jax.random.key(0)), {}
  if hasattr(algorithm, 'frozen_shapes'):
    given = {'frozen': algorithm.frozen_shapes()}
  return jax.eval_shape(init or algorithm.init, key, given)


def frozen_card(algorithm: Algorithm) -> dict[str, Any]:
  """What a card's architecture says of weights that come from a file, which is read for that.

  Raises:
    UserError: they cannot be had.
  """
  return algorithm.frozen_card() if hasattr(algorithm, 'frozen_card') else {}


@dataclasses.dataclass(frozen=True)
class NoChoice:
  """The Spec of a generator whose samples have no settings."""

  def __str__(self) -> str:
    return 'as trained'

  def described(self) -> dict[str, Any]:
    return {}


jax.tree_util.register_static(NoChoice)


NORMAL_RECIPE = """\
import jax
import jax.numpy as jnp


def latents(seed, num):  # the z of bigjax sample, float32 [num, *{shape}]
  def one(i):
    return jax.random.normal(jax.random.fold_in(jax.random.key(seed), i), {shape})

  return jax.jit(jax.vmap(one))(jnp.arange(num))
"""


class OfNetwork:
  """What its network says of a generator of images: one with the fields that are read here.

  Attributes:
    net: has resolution, channels, z_dim and num_classes.
  """

  net: Any

  @property
  def shape(self) -> tuple[int, ...]:
    return self.net.resolution, self.net.resolution, self.net.channels

  @property
  def latent_shape(self) -> tuple[int, ...]:
    return (self.net.z_dim,)

  @property
  def num_classes(self) -> int:
    return self.net.num_classes


@dataclasses.dataclass(frozen=True)
class PlainGenerator:
  """A generator that needs no preparing, with N(0, I) latents of `latent_shape`.

  A family adds fields and `generate`; one whose latents have another law, `latents` and `recipe`;
  one that takes many steps from latents to a sample is not `searchable`.
  """

  @property
  def latent_shape(self) -> tuple[int, ...]:
    raise NotImplementedError

  @property
  def searchable(self) -> 'PlainGenerator | None':
    return self

  @property
  def options(self) -> Mapping[str, str]:
    return {}

  @property
  def inputs(self) -> Mapping[str, str]:
    return {}

  def spec(self, sampling: Mapping[str, Any], given: Mapping[str, str] | None = None) -> Spec:
    del sampling
    check_options(given, self.options)
    return NoChoice()

  def prepared(self, sampling: Mapping[str, Any]) -> Sequence[Spec]:
    del sampling
    return ()

  def latents(self, key: Array, num: int, spec: OwnSpec, start: Array | int = 0) -> Array:
    del spec
    return normal_latents(key, num, self.latent_shape, start)

  def prepare(self, gen: Gen, key: Array, spec: OwnSpec) -> Gen:
    del key, spec
    return gen

  def bare(self, gen: Gen) -> Gen:
    return gen

  def provenance(self, gen: Gen, spec: OwnSpec, sampling: Mapping[str, Any]) -> tuple[bool, str]:
    del gen, spec, sampling
    return True, ''

  def weights(self, gen: Gen) -> Any:
    return gen

  def recipe(self, spec: OwnSpec) -> str | None:
    del spec
    return NORMAL_RECIPE.format(shape=tuple(self.latent_shape))


def check_options(given: Mapping[str, str] | None, known: Iterable[str]) -> None:
  """Refuse sampling options that a generator does not understand.

  Raises:
    UserError: names the first, and those there are.
  """
  known = list(known)
  for name in given or {}:
    if name == GUIDANCE and name not in known:
      raise errors.UserError(
        f'this generator has no sampling option {name!r}, which is how strongly a classifier '
        'guides it: give one with --classifier, in Python classifier=.'
      )
    if name not in known:
      raise errors.UserError(
        f'this generator has no sampling option {name!r}{errors.did_you_mean(name, known)}; '
        f'it has {", ".join(known) or "none"}.'
      )


def check_sampling(sampling: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
  """Refuse values of a card's `sampling` that are missing or of another type: it may be anybody's.

  Args:
    sampling: of the card.
    kinds: {name: type}.
  Raises:
    UserError: names the first.
  """
  for name, kind in kinds.items():
    if not isinstance(sampling.get(name), kind):
      raise errors.UserError(
        f"the card's sampling.{name} is {ascii(sampling.get(name))[:80]}; expected a "
        f'{kind.__name__}: export the generator again.'
      )


def sample_keys(key: Array, num: int, start: Array | int = 0) -> Array:
  """PRNG keys [num] of samples `start` and on, each a function of its number."""
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(num) + start)


def normal_latents(key: Array, num: int, shape: tuple[int, ...], start: Array | int = 0) -> Array:
  """N(0, I) latents [num, *shape] of samples `start` and on, by `sample_keys`."""
  keys = sample_keys(key, num, start)
  return jax.vmap(lambda one: jax.random.normal(one, shape))(keys)
