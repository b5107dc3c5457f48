"""Guidance by a classifier of noisy images (Dhariwal & Nichol 2021, section 4), of any walk.

The gradient of log p(y | x_t) at x_t, times a scale, moves every step. A scale of 0 is no guidance,
and no other program than that of the walk alone; any other is a number that a program takes.
"""

import abc
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bigjax.algorithms.base import contract, draws
from bigjax.algorithms.base.contract import GUIDANCE, Gen, Spec
from bigjax.algorithms.base.generators import parts
from bigjax.algorithms.base.generators.parts import Classifier, Noising
from bigjax.algorithms.base.noising import config
from bigjax.nn.diffusion import sampling

Array = jax.Array
WORDS = "how strongly the classifier's gradient moves each step: 1 as derived, 0 not at all"


@dataclasses.dataclass(frozen=True)
class GuidedSpec:
  """Sampling settings of a guided walk.

  Attributes:
    walk: those of the walk alone.
    guidance: scale of the gradient; 0: none. It may be traced.
  """

  walk: Spec
  guidance: float | Array

  @property
  def is_off(self) -> bool:
    """Whether there is no guidance, whatever a program is given."""
    return isinstance(self.guidance, int | float) and self.guidance == 0

  def __str__(self) -> str:
    return f'{self.walk}, guidance {self.guidance:g}'

  def described(self) -> dict[str, Any]:
    return {**self.walk.described(), GUIDANCE: self.guidance}


def _parts(spec: GuidedSpec) -> tuple[Sequence[Any], bool]:
  """Off is part of the structure, and with it of what a program is."""
  return ((spec.walk,), True) if spec.is_off else ((spec.walk, spec.guidance), False)


def _whole(is_off: bool, parts: Iterable[Any]) -> GuidedSpec:
  return GuidedSpec(*parts, *((0.0,) if is_off else ()))


jax.tree_util.register_pytree_node(GuidedSpec, _parts, _whole)


@dataclasses.dataclass(frozen=True)
class Guided(contract.PlainGenerator, abc.ABC):
  """A walk that a classifier guides; a parts.Classifier itself, of the same tree.

  A subclass says which part of the tree is whose.

  Attributes:
    walker: a generator that is steerable.
    tells: the classifier.
  """

  walker: contract.Generator
  tells: Classifier

  inputs = {GUIDANCE: WORDS}  # noqa: RUF012 - a constant, not a field
  searchable = None  # it takes many steps

  @abc.abstractmethod
  def split(self, gen: Gen) -> tuple[Gen, Gen]:
    """(The walker's part of the tree, the classifier's)."""

  @property
  def shape(self) -> tuple[int, ...]:
    return self.walker.shape

  @property
  def latent_shape(self) -> tuple[int, ...]:
    return self.walker.latent_shape

  @property
  def num_classes(self) -> int:
    return self.tells.num_classes

  @property
  def options(self) -> Mapping[str, str]:
    return {**self.walker.options, GUIDANCE: WORDS}

  def spec(self, sampling: Mapping[str, Any], given: Mapping[str, str] | None = None) -> GuidedSpec:
    contract.check_options(given, self.options)
    contract.check_sampling(sampling, {GUIDANCE: float})
    of_walk = {name: word for name, word in (given or {}).items() if name != GUIDANCE}
    scale = (given or {}).get(GUIDANCE, str(sampling[GUIDANCE]))
    scale = config.GUIDANCE.read(f'{GUIDANCE}=', scale)
    return GuidedSpec(self.walker.spec(sampling, of_walk), scale)

  def latents(self, key: Array, num: int, spec: GuidedSpec, start: Array | int = 0) -> Array:
    return self.walker.latents(key, num, spec.walk, start)

  def generate(self, gen: Gen, z: Array, y: Array, spec: GuidedSpec) -> Array:
    return self.with_noise_of(gen, z, y, spec, z)

  def with_noise_of(self, gen: Gen, z: Array, y: Array, spec: GuidedSpec, others: Array) -> Array:
    of_walk, of_classifier = self.split(gen)
    # A walk without labels is given none of them: they are the classifier's alone.
    label = y if self.walker.num_classes > 1 else jnp.zeros(z.shape[:1], jnp.int32)
    if spec.is_off:
      return draws.with_noise_of(self.walker, of_walk, z, label, spec.walk, others)
    log_p = lambda x, t: self.tells.log_probabilities(of_classifier, x, t)
    gradient = sampling.guidance(log_p, y, spec.guidance)
    walk = parts.steerable_of(self.walker, GUIDANCE)
    return walk.steered(of_walk, z, label, spec.walk, gradient, others)

  def recipe(self, spec: GuidedSpec) -> str | None:
    return self.walker.recipe(spec.walk)

  # --- As a classifier

  @property
  def classifier(self) -> Classifier:
    return self

  @property
  def noising(self) -> Noising:
    return self.tells.noising

  def log_probabilities(self, gen: Gen, x: Array, t: Array) -> Array:
    return self.tells.log_probabilities(self.split(gen)[1], x, t)
