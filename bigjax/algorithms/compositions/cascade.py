"""Cascades (Ho et al. 2022, "Cascaded Diffusion Models"): a base's samples, enlarged in stages.

The base is any generator whose samples fit, a GAN as well; the stages after it are enlargers
(`parts.Enlarger`), trained apart. A sample's latents are those of all stages in a row, the
base's first: with the same seed the base alone makes the images that are enlarged. All stages are
given the same label. Stages are numbered from 0, as are their arrays, `0/` and on.

What a stage enlarges can be noised, where it was trained so (section 3): `augmentation=s` adds the
noise of level s to finished samples; with `conditioning=truncated` as well, the stage before leaves
that noise in (truncated conditioning augmentation), where it takes noise of the same process away.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bigjax.algorithms import generator_of
from bigjax.algorithms.base import contract, draws
from bigjax.algorithms.base.contract import Gen, Generator, Spec
from bigjax.algorithms.base.generators import parts
from bigjax.algorithms.compositions import check_names, origins
from bigjax.core import errors, trees

Array = jax.Array

CONDITIONING = {
  'noised': 'noise is added to finished samples',
  'truncated': 'the stage before leaves it in',
}
HELP = 'of augmentation: ' + ', '.join(f'{name} ({what})' for name, what in CONDITIONING.items())
TAG = trees.stable_hash('enlargers') & 0x7FFFFFFF  # folded into the key of their latents
RECIPE = """
base = latents  # of the first stage


def latents(seed, num):  # the z of bigjax sample, float32 [num, {size}]
  def one(i):
    key = jax.random.fold_in(jax.random.key(seed), {tag})
    return jax.random.normal(jax.random.fold_in(key, i), ({rest},))

  first = jnp.asarray(base(seed, num)).reshape(num, -1)
  return jnp.concatenate([first, jax.jit(jax.vmap(one))(jnp.arange(num))], 1)
"""


@functools.partial(jax.tree_util.register_dataclass, data_fields=['parts'], meta_fields=['left'])
@dataclasses.dataclass(frozen=True)
class CascadeSpec:
  """Settings of all stages.

  Attributes:
    parts: of each.
    left: level of the noise that each leaves in what it makes; 0: none.
  """

  parts: tuple[Spec, ...]
  left: tuple[int, ...]

  def __str__(self) -> str:
    words = [f'{part}' + (' (left in)' if cut else '') for part, cut in self._cuts()]
    return '; then '.join(words)

  def described(self) -> dict[str, Any]:
    how = lambda cut: {'conditioning': 'truncated'} if cut else {}
    return {str(i): part.described() | how(cut) for i, (part, cut) in enumerate(self._cuts())}

  def _cuts(self) -> list[tuple[Spec, int]]:
    """Each stage's settings, and what the one before leaves in."""
    return list(zip(self.parts, (0, *self.left[:-1]), strict=True))


@dataclasses.dataclass(frozen=True)
class Cascade(contract.PlainGenerator):
  """A base and enlargers as one generator; gen is {'0': the base's, '1': ...}."""

  stages: tuple[Generator, ...]
  searchable = None  # its stages draw noise

  @property
  def shape(self) -> tuple[int, ...]:
    return self.stages[-1].shape

  @property
  def num_classes(self) -> int:
    return self.stages[0].num_classes

  @property
  def sizes(self) -> list[int]:
    """Of each stage's latents."""
    return [math.prod(stage.latent_shape) for stage in self.stages]

  @property
  def latent_shape(self) -> tuple[int, ...]:
    return (sum(self.sizes),)

  # --- Options: NAME is of every stage that knows it, I.NAME of stage I alone

  @property
  def options(self) -> Mapping[str, str]:
    plain, own = {}, {}
    for i in range(len(self.stages)):
      for name, words in self.options_of(i).items():
        plain.setdefault(name, words)
        own[f'{i}.{name}'] = f'the same, of stage {i} alone'
    return plain | own

  def options_of(self, i: int) -> dict[str, str]:
    known = dict(self.stages[i].options)
    return known | ({'conditioning': HELP} if self.truncates(i) else {})

  def truncates(self, i: int) -> bool:
    """Whether the stage before can leave in the noise that stage i was trained with."""
    return i > 0 and self.stages[i].enlarger.takes_unfinished(self.stages[i - 1])

  def spec(
    self, sampling: Mapping[str, Any], given: Mapping[str, str] | None = None
  ) -> CascadeSpec:
    contract.check_options(given, self.options)
    contract.check_sampling(sampling, {'stages': list, 'options': dict})
    stored = {name: str(word) for name, word in sampling['options'].items()}
    contract.check_options(stored, self.options)
    if len(sampling['stages']) != len(self.stages):
      raise errors.UserError(
        f"the card's sampling.stages are of {len(sampling['stages'])} stages, and there are "
        f'{len(self.stages)}: export the cascade again.'
      )
    parts, left = [], []
    for i, (stage, own) in enumerate(zip(self.stages, sampling['stages'], strict=True)):
      words = {name: word for of in (stored, given or {}) for name, word in self.words(i, of)}
      how = words.pop('conditioning', 'noised')
      errors.pick(how, CONDITIONING, 'the conditioning')
      part = stage.spec(own, words)
      if how == 'truncated':
        level = self.stages[i - 1].reachable(parts[-1], stage.enlarger.level_of(part))
        part, left[-1] = stage.enlarger.at_level(part, level), level
      parts.append(part)
      left.append(0)
    return CascadeSpec(tuple(parts), tuple(left))

  def words(self, i: int, given: Mapping[str, str]) -> list[tuple[str, str]]:
    """Those of a user that are of stage i, its own last."""
    known = self.options_of(i)
    shared = [(name, word) for name, word in given.items() if name in known]
    own = [(name, given[f'{i}.{name}']) for name in known if f'{i}.{name}' in given]
    return shared + own

  # --- Samples

  def latents(self, key: Array, num: int, spec: CascadeSpec, start: Array | int = 0) -> Array:
    first = self.stages[0].latents(key, num, spec.parts[0], start).reshape(num, -1)
    shape = (sum(self.sizes[1:]),)
    rest = contract.normal_latents(jax.random.fold_in(key, TAG), num, shape, start)
    return jnp.concatenate([first, rest], 1)

  def recipe(self, spec: CascadeSpec) -> str | None:
    first, (_, *others) = self.stages[0].recipe(spec.parts[0]), self.sizes
    if first is None:
      return None
    return first + RECIPE.format(size=sum(self.sizes), tag=TAG, rest=sum(others))

  def split(self, z: Array) -> list[Array]:
    """The latents of each stage, of those in a row."""
    found, start = [], 0
    for stage, size in zip(self.stages, self.sizes, strict=True):
      part = jax.lax.slice_in_dim(z, start, start + size, axis=1)
      found.append(part.reshape(-1, *stage.latent_shape))
      start += size
    return found

  def generate(self, gen: Gen, z: Array, y: Array, spec: CascadeSpec) -> Array:
    return self.with_noise_of(gen, z, y, spec, z)

  def with_noise_of(self, gen: Gen, z: Array, y: Array, spec: CascadeSpec, others: Array) -> Array:
    base, noise, z = self.stages[0], self.split(others), self.split(z)
    first = gen['0'], z[0], y, spec.parts[0], noise[0]
    if spec.left[0]:
      images = base.unfinished(*first, spec.left[0])
    else:
      images = draws.with_noise_of(base, *first)
    for i in range(1, len(self.stages)):
      enlarge, noisy = self.stages[i].enlarger.enlarge, spec.left[i - 1] > 0
      images = enlarge(gen[str(i)], images, z[i], y, spec.parts[i], noise[i], noisy, spec.left[i])
    return images

  # --- What a base needs measured

  def prepared(self, sampling: Mapping[str, Any]) -> Sequence[CascadeSpec]:
    usual = self.spec(sampling)
    of_base = self.stages[0].prepared(sampling['stages'][0])
    return [dataclasses.replace(usual, parts=(one, *usual.parts[1:])) for one in of_base]

  def prepare(self, gen: Gen, key: Array, spec: CascadeSpec) -> Gen:
    return {**gen, '0': self.stages[0].prepare(gen['0'], key, spec.parts[0])}

  def bare(self, gen: Gen) -> Gen:
    return {**gen, '0': self.stages[0].bare(gen['0'])}

  def provenance(
    self, gen: Gen, spec: CascadeSpec, sampling: Mapping[str, Any]
  ) -> tuple[bool, str]:
    return self.stages[0].provenance(gen['0'], spec.parts[0], sampling['stages'][0])

  def weights(self, gen: Gen) -> Any:
    """Of the last stage: no run trains all of them."""
    return self.stages[-1].weights(gen[str(len(self.stages) - 1)])


def check(
  stages: Sequence[Generator], names: Sequence[str], classes: Sequence[Sequence[str]] = ()
) -> None:
  """Refuse stages that do not fit together.

  Args:
    stages: a base and enlargers.
    names: what the user calls each.
    classes: names of each one's classes, where they are known.
  Raises:
    UserError: says which, and why.
  """
  if len(stages) < 2:
    raise errors.UserError(
      f'a cascade is a base and at least one generator that enlarges; {names[0]} is alone.'
    )
  for i in range(1, len(stages)):
    before, low = tuple(stages[i - 1].shape), parts.enlarger_of(stages[i], names[i]).low_shape
    if before != tuple(low):
      raise errors.UserError(
        f'{names[i - 1]} makes samples {list(before)}, and {names[i]} enlarges {list(low)}; give '
        'stages whose sizes and channels chain, the smallest first.'
      )
    if stages[i].num_classes != stages[0].num_classes:
      raise errors.UserError(
        f'{names[0]} knows {stages[0].num_classes} classes, {names[i]} {stages[i].num_classes}; '
        'give stages that were trained with the same ones.'
      )
    if classes:
      check_names(classes[0], classes[i], (names[0], names[i]))


def compose(
  parts: Sequence[tuple[Gen, Mapping[str, Any]]],
  options: Mapping[str, str] | None = None,
  names: Sequence[str] = (),
) -> tuple[Gen, dict[str, Any]]:
  """(gen, card) of a cascade.

  Args:
    parts: (gen, card) of a base and of enlargers, in order.
    options: {sampling option: word} that are meant unless told otherwise.
    names: what each is called in errors; by default stage 0, stage 1 ...
  Raises:
    UserError: they do not fit together, or an option means nothing.
  """
  gens, cards = zip(*parts, strict=True)
  stages = tuple(generator_of(card) for card in cards)
  names = names or [f'stage {i}' for i in range(len(stages))]
  check(stages, names, [card['class_names'] for card in cards])
  gens = [gens[0], *(s.enlarger.enlarging(g) for s, g in zip(stages[1:], gens[1:], strict=True))]
  last = cards[-1]
  kept = ('format', 'class_names', 'class_numbers', 'player', 'data')
  card = {
    **{key: last[key] for key in kept if key in last},
    'algorithm': 'cascade',
    'architecture': {
      'stages': [{key: card[key] for key in ('algorithm', 'architecture')} for card in cards]
    },
    'parts': origins(cards),
    'sampling': {
      'stages': [card['sampling'] for card in cards], 'options': dict(options or {}),
    },
  }  # fmt: skip
  Cascade(stages).spec(card['sampling'])  # refuses options that mean nothing
  return {str(i): gen for i, gen in enumerate(gens)}, card


def make_generator(architecture: Mapping[str, Any]) -> Cascade:
  """Build a cascade from a card's `architecture`."""
  stages = tuple(generator_of(card) for card in architecture['stages'])
  check(stages, [f'stage {i}' for i in range(len(stages))])
  return Cascade(stages)
