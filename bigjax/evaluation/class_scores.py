"""Scores of each class: what `bigjax evaluate --by_class` prints, writes and draws.

All classes are compared with as many real images, whatever number of them was trained on; which is
shown beside, so that a long tail can be read off from its head to its end.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigjax.core import errors
from bigjax.evaluation.image_sets import ImageSet
from bigjax.evaluation.metrics import by_class, registry
from bigjax.evaluation.metrics.registry import METRICS, FeatureStats, Metric
from bigjax.evaluation.protocol import cell, over_seeds
from bigjax.evaluation.reference import Reference
from bigjax.models.pretrained.registry import FeatureNetwork

KEEPS = frozenset({'features', 'logits', 'labels'})
LISTED = 15  # classes on either end of a table; all of them in the file
PROTOCOLS = {  # whose names the scores of a class have
  'fid': METRICS['fid'],
  'precision': METRICS['pr'],
  'coverage': METRICS['dc'],
  'agreement': Metric(lambda *_: {}, compares=False),
}
WORDS = {'frequent': 'most frequent', 'rare': 'rarest'}
Record = Mapping[str, Any]  # a class of a generator: what, class, name, train_images, scores, real


def refuse(num_classes: int, reference: ImageSet | None) -> None:
  """Refuse scores by class where there are no classes, or not the reference's.

  Args:
    num_classes: of the samples, 0 where they have no labels.
    reference: real images; None where there are none.
  Raises:
    UserError: says what is missing.
  """
  if reference is None:
    raise errors.UserError(
      '--by_class compares with real images of each class; give --reference, such as '
      'tfds:cifar10/train.'
    )
  if num_classes < 2 or num_classes != reference.num_classes:
    raise errors.UserError(
      f'--by_class compares class by class, but the samples have {num_classes or "no"} '
      f'class{"" if num_classes == 1 else "es"} and {reference.name} has {reference.num_classes}; '
      'give labelled images of the same classes, two or more.'
    )


def per_class(num: int, num_classes: int, floor: FeatureStats | None) -> int:
  """Samples of each class that are looked at: of `num` in all, and no more than real images."""
  num = max(num // num_classes, 1)
  return num if floor is None else min(num, by_class.common_number(floor.labels))


def counts_in(card: Mapping[str, Any], num_classes: int) -> list[int] | None:
  """Training images of each class, where a card (anybody's) tells them."""
  counts = card.get('class_counts')
  known = isinstance(counts, list) and len(counts) == num_classes
  return counts if known and all(type(count) is int for count in counts) else None


@dataclasses.dataclass(frozen=True)
class ByClass:
  """Scores samples class by class.

  Attributes:
    reference: real images, with features and labels.
    names: of the classes, as the reference has them.
    network: whose features these are; its outputs give the agreement where they are these classes.
    counts: training images of each class; None where they are not known.
    num: samples of each class that are looked at.
    floor: real images that are not in the reference, with features and labels; None for none.
  """

  reference: Reference
  names: tuple[str, ...]
  network: FeatureNetwork
  counts: Sequence[int] | None
  num: int
  floor: FeatureStats | None

  def __call__(self, seen: FeatureStats) -> dict[int, dict[str, float]]:
    """{class: {full name: value}} of images with features, logits and labels."""
    real, split = self.reference.seen, self.reference.split
    full = lambda name: registry.full_name(
      name, PROTOCOLS[name], self.num, split, self.network.name
    )
    found = by_class.by_class(
      seen.features, seen.labels, real.features, real.labels, self.num, self._predicted(seen)
    )
    return {c: {full(name): v for name, v in scores.items()} for c, scores in found.items()}

  @functools.cached_property
  def _real(self) -> dict[int, dict[str, float]]:
    return {} if self.floor is None else self(self.floor)

  def _predicted(self, seen: FeatureStats) -> np.ndarray | None:
    """The classes that the network sees; None where it does not know just these."""
    known = self.network.class_names
    if sorted(known) != sorted(self.names) or len({*known}) < len(known):
      return None
    labels = np.array([self.names.index(name) for name in known])
    return labels[seen.logits[:, : len(labels)].argmax(1)]

  def records(self, what: str, seeds: Sequence[Mapping[int, Mapping[str, float]]]) -> list[Record]:
    """The scores of one generator, most frequent class first.

    Args:
      what: generator it is.
      seeds: what this object's call found of its samples, for each seed.
    """
    counts = self.counts or [None] * len(self.names)
    return [
      {
        'what': what,
        'class': c,
        'name': self.names[c],
        'train_images': counts[c],
        'scores': over_seeds([scores[c] for scores in seeds]),
        'real': self._real.get(c, {}),
      }
      for c in sorted(seeds[0], key=lambda c: -(counts[c] or 0))
    ]

  def groups(self, records: Sequence[Record]) -> list[Record]:
    """The means of the most frequent and of the rarest third; none where counts are not known."""
    if self.counts is None:
      return []
    return [
      mean_of(f'the {len(classes)} {WORDS[group]}', [r for r in records if r['class'] in classes])
      for group, classes in reversed(by_class.thirds(self.counts))
    ]


def mean_of(name: str, records: Sequence[Record]) -> Record:
  """The mean over classes of each score that all of them have."""
  common = [n for n in records[0]['scores'] if all(n in record['scores'] for record in records)]
  each = [[record['scores'][n]['each'] for record in records] for n in common]
  seeds = [dict(zip(common, values, strict=True)) for values in np.mean(each, 1).T.tolist()]
  real = {n: [r['real'][n] for r in records if n in r['real']] for n in common}
  return {
    'what': records[0]['what'],
    'name': name,
    'train_images': sum(record['train_images'] for record in records),
    'scores': over_seeds(seeds),
    'real': {n: float(np.mean(values)) for n, values in real.items() if values},
  }


def table(records: Sequence[Record], groups: Sequence[Record]) -> str:
  """A Markdown table: a row per class, real images in brackets; the middle of many is left out."""
  names = list(dict.fromkeys(name for record in records for name in record['scores']))
  lines = ['| ' + ' | '.join(['class', 'training images', *names]) + ' |']
  lines.append('|---' * (2 + len(names)) + '|')
  rows = [line(record, names) for record in records]
  if len(rows) > 2 * LISTED:
    left_out = f'| ... {len(rows) - 2 * LISTED:,} more |' + ' |' * (1 + len(names))
    rows = [*rows[:LISTED], left_out, *rows[-LISTED:]]
  return '\n'.join([*lines, *rows, *(line(group, names) for group in groups)])


def line(record: Record, names: Sequence[str]) -> str:
  """A row of the table."""
  count = record['train_images']
  cells = [record['name'].replace('|', '/'), '' if count is None else f'{count:,}']
  for name in names:
    real = f' ({record["real"][name]:.4g})' if name in record['real'] else ''
    cells.append(cell(record['scores'][name]) + real if name in record['scores'] else '')
  return '| ' + ' | '.join(cells) + ' |'
