"""What benchmarks/papers.py measures of images, whoever made them, and when one beats another.

Half of the held-out digits are the reference, the other half are what real images score; then the
other way round, and the mean of both. Samples are scored in sets of as many images, of the same
labels, as the real half, and figures averaged over sets: all figures are of equal numbers.

Agreement, precision, coverage and the Frechet distance are in the features of the small classifier
that learnt the training images (evaluation/quick/classifier.py). The distance to training images is
in pixels (evaluation/quick/pixels.py): 1 for real images, 0 for copies.
"""

import dataclasses
import functools
import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np

from bigjax import data
from bigjax.core import errors
from bigjax.evaluation import quick

SETS = 8  # of samples, in each fold
FIRST_SEED = 1000  # of the samples' latents; lower ones are for looking at

Scores = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Figure:
  """A column of the table.

  Attributes:
    title: its heading.
    better: (a, b) -> whether a is clearly better than b.
    digits: shown behind the point.
  """

  title: str
  better: Callable[[float, float], bool]
  digits: int = 3


def _more(a: float, b: float) -> bool:
  return a - b > 0.1


def _less(a: float, b: float) -> bool:
  return 2 * a < b


def _nearer_to_one(a: float, b: float) -> bool:
  off = [abs(math.log(max(x, 1e-9))) for x in (a, b)]
  return off[1] - off[0] > math.log(1.25)


FIGURES = {
  'agreement': Figure('agreement', _more),
  'precision': Figure('precision', _more),
  'coverage': Figure('coverage', _more),
  'fd_held_out_classifier': Figure('Frechet distance', _less, 2),
  'nearest_ratio': Figure('distance to training images', _nearer_to_one, 2),
}


class Referee:
  """Scores any images of the digits by one protocol: see the top of this file.

  Attributes:
    train: the real training images and their labels.
    folds: two (score, real images and labels): those are the half that is not the reference.
  """

  def __init__(self, source: data.Source):
    self.train, (images, labels) = source.train(), source.held_out()
    by_class = np.argsort(labels, kind='stable')
    halves = [(images[by_class[i::2]], labels[by_class[i::2]]) for i in range(2)]
    whole = lambda labelled: lambda most: labelled
    nearest, _ = quick.load('pixels', whole(self.train), whole((images, labels)))
    self.folds = []
    for reference, real in (halves, halves[::-1]):
      judge, _ = quick.load('classifier', whole(self.train), whole(reference))
      self.folds.append((functools.partial(self._score, judge, nearest), real))

  @staticmethod
  def _score(judge: Callable, nearest: Callable, shown: data.Labelled) -> Scores:
    found = {**nearest(shown), **judge(shown)}  # of what both have, the classifier's counts
    return {name: float(found[name]) for name in FIGURES}

  def made_of(self, change: Callable[[np.ndarray, np.ndarray], np.ndarray] | None) -> Scores:
    """Scores real images, or what a corruption makes of them."""
    found = []
    for score, (images, labels) in self.folds:
      shown = images if change is None else change(images, self.train[0])
      found.append(score((shown, labels)))
    return mean_of(found)

  def samples(self, draw: Callable[[np.ndarray, int], np.ndarray], sets: int = SETS) -> Scores:
    """Scores sets of samples in each fold.

    Args:
      draw: (labels int32 [n], seed) -> uint8 [n, H, W, C].
      sets: how many, each of as many samples as a half has images.
    Raises:
      UserError: they are not shaped as the real images are.
    """
    found = []
    for score, (images, labels) in self.folds:
      for i in range(sets):
        drawn = draw(labels, FIRST_SEED + i)
        if drawn.shape != images.shape:
          raise errors.UserError(
            f'samples are {list(drawn.shape[1:])}, real images {list(images.shape[1:])}; the '
            'digits variant must train at that size.'
          )
        found.append(score((drawn, labels)))
    return mean_of(found)


def mean_of(found: Sequence[Scores]) -> Scores:
  """Averages figures one by one."""
  return {name: statistics.fmean(scores[name] for scores in found) for name in FIGURES}
