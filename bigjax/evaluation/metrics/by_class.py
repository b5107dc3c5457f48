"""Scores of each class by itself: what a mean over all of them hides where some are rare.

Precision falls with fewer real images, coverage with fewer samples, and a Frechet distance rises
with either: so all classes are compared at the same numbers.
"""

from collections.abc import Sequence

import numpy as np

from bigjax.evaluation.metrics import frechet, precision_recall

LEAST = 50  # images of a class that are not cut down to the number of a smaller one
K_PRECISION, K_COVERAGE = 3, 5  # neighbours, as in the scores of all classes together
GROUPS = ('rare', 'frequent')
Groups = Sequence[tuple[str, np.ndarray]]  # (name, its classes)


def thirds(counts: Sequence[int]) -> Groups:
  """The third of the classes that has the fewest training images, and that which has the most.

  Args:
    counts: training images of each class. Of two with as many, the later one counts as the rarer.
  """
  order = np.argsort(-np.asarray(counts), kind='stable')
  num = max(len(order) // 3, 1)
  return tuple(zip(GROUPS, (np.sort(order[-num:]), np.sort(order[:num])), strict=True))


def common_number(labels: np.ndarray) -> int:
  """How many images of each class are compared: those of the smallest class, LEAST at least."""
  return max(int(np.unique(labels, return_counts=True)[1].min()), LEAST)


def by_class(
  samples: np.ndarray,
  labels: np.ndarray,
  real: np.ndarray,
  real_labels: np.ndarray,
  num: int,
  predicted: np.ndarray | None = None,
) -> dict[int, dict[str, float]]:
  """Scores of every class of either side, by its label; those that it has too few images for lack.

  `fid` is the Frechet distance within the class, `agreement` the share of its samples that are
  predicted to be of it.

  Args:
    samples, real: features [n, d] and [m, d].
    labels, real_labels: int [n] and [m].
    num: samples of each class that are looked at, the first; of real images, `common_number`.
    predicted: int [n], labels that a classifier gives the samples; None where there is none.
  """
  most, found = common_number(real_labels), {}
  for c in np.union1d(labels, real_labels).tolist():
    of, of_real = np.flatnonzero(labels == c)[:num], np.flatnonzero(real_labels == c)[:most]
    found[c] = of_class(samples[of], real[of_real])
    if predicted is not None and len(of):
      found[c]['agreement'] = float((predicted[of] == c).mean())
  return found


def of_class(samples: np.ndarray, real: np.ndarray) -> dict[str, float]:
  """The scores of one class that its features [n, d] and [m, d] are enough for."""
  found = {}
  if min(len(samples), len(real)) > 1:
    found['fid'] = frechet.frechet_of_rows(samples, real)
  if len(samples) and len(real) > K_PRECISION:
    found['precision'], _ = precision_recall.precision_coverage(samples, real, k=K_PRECISION)
  if len(samples) and len(real) > K_COVERAGE:
    _, found['coverage'] = precision_recall.precision_coverage(samples, real, k=K_COVERAGE)
  return found
