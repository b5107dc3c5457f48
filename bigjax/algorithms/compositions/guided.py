"""A walk from noise to images, guided by a classifier of noisy ones (Dhariwal & Nichol 2021).

Both are trained apart, along the same process. The tree holds `generator` and `classifier`; a walk
that knows no labels becomes one with the classifier's classes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bigjax.algorithms import generator_of
from bigjax.algorithms.base import contract
from bigjax.algorithms.base.contract import GUIDANCE, Gen
from bigjax.algorithms.base.generators import parts
from bigjax.algorithms.base.noising.guided import Guided
from bigjax.algorithms.compositions import check_names, origins
from bigjax.core import errors

ASKED = '--classifier'
PART = ('algorithm', 'architecture', 'sampling')  # what the card says of each
Card = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class GuidedGenerator(Guided):
  """The generator of this composition; gen is {generator, classifier}."""

  def split(self, gen: Gen) -> tuple[Gen, Gen]:
    return gen['generator'], gen['classifier']

  def weights(self, gen: Gen) -> Any:
    return self.walker.weights(gen['generator'])


def compose(
  generator: tuple[Gen, Card], classifier: tuple[Gen, Card], scale: float | None = None
) -> tuple[Gen, Card]:
  """(gen, card) of a generator that a classifier guides; whatever else its card says is kept.

  Args:
    generator: of something steerable, with its card.
    classifier: of noisy images, with its card.
    scale: of the guidance unless told otherwise; None: that of the classifier's card.
  Raises:
    UserError: one of them is not that, or they do not fit together.
  """
  (gen, card), (weights, of_classifier) = generator, classifier
  cards = {
    name: {key: one[key] for key in PART}
    for name, one in (('generator', card), ('classifier', of_classifier))
  }
  made = make_generator(cards)
  contract.check_sampling(of_classifier['sampling'], {GUIDANCE: float})
  scale = of_classifier['sampling'][GUIDANCE] if scale is None else scale
  names = of_classifier['class_names']
  if made.walker.num_classes > 1:
    check_names(card['class_names'], names, ('the generator', f'its {ASKED}'))
    names = card['class_names']
  return {'generator': gen, 'classifier': weights}, {
    **card,
    'algorithm': 'guided',
    'architecture': cards,
    'parts': origins([card, of_classifier]),
    'class_names': names,
    'sampling': {**card['sampling'], GUIDANCE: float(scale)},
  }


def make_generator(architecture: Mapping[str, Any]) -> GuidedGenerator:
  """Build the guided generator of the parts' cards.

  Raises:
    UserError: they do not fit together.
  """
  walker = generator_of(architecture['generator'])
  steerable = parts.steerable_of(walker, ASKED)
  tells = parts.classifier_of(generator_of(architecture['classifier']), ASKED)
  check(walker, steerable, tells)
  return GuidedGenerator(walker, tells)


def check(walker: contract.Generator, steerable: parts.Steerable, tells: parts.Classifier) -> None:
  """Refuse a classifier of other images, classes or noise than the walk's.

  Raises:
    UserError: says which.
  """
  size = lambda shape: f'{shape[0]}x{shape[1]} px with {shape[2]} channels'
  rows = [
    ('images', size(walker.shape), size(tells.shape)),
    ('noise', str(steerable.noising), str(tells.noising)),
  ]
  if walker.num_classes > 1:
    rows.insert(1, ('classes', f'{walker.num_classes:,}', f'{tells.num_classes:,}'))
  for what, ours, theirs in rows:
    if ours != theirs:
      raise errors.UserError(
        f'the {what} of the generator and of its classifier differ: {ours}, and {theirs}; give a '
        f'{ASKED} that was trained on what the generator makes, along the same process.'
      )
