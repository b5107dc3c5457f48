"""Which images are held out and trained on, as numbers: functions of the labels alone.

Nothing is drawn but from one fixed permutation, so that every host, process and session chooses the
same images, and a smaller share of them is part of a larger one.
"""

import math

import numpy as np

from bigjax.core import errors


def one_label(labels: np.ndarray) -> np.ndarray:
  """Return the first label of each image, [n], of labels [n] or [n, m] padded with -1.

  For what needs one and the same label per image: held-out batches, evaluators, splits.
  """
  if labels.ndim == 1:
    return labels
  return labels[np.arange(len(labels)), (labels >= 0).argmax(1)]


def by_class(labels: np.ndarray, order: np.ndarray | None = None) -> list[np.ndarray]:
  """Return the examples of each class in turn, in a fixed order (by default a random one)."""
  order = np.random.RandomState(0).permutation(len(labels)) if order is None else order
  order = order[np.argsort(labels[order], kind='stable')]
  return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def held_out_mask(labels: np.ndarray, share: float, order: np.ndarray | None = None) -> np.ndarray:
  """Return which examples are held out: the same share of every class, the same in every run.

  A class of two or more has at least one on either side; a single example is trained on.

  Args:
    labels: of all examples.
    share: of each class.
    order: in which examples are chosen; by default a fixed permutation. One that follows from each
      example's own name keeps the split of the others where some are added.
  """
  labels = one_label(labels)
  mask = np.zeros(len(labels), bool)
  for of_class in by_class(labels, order):
    num = min(max(round(share * len(of_class)), 1), len(of_class) - 1)
    mask[of_class[:num]] = True
  return mask


def subset(num: int, most: int | None) -> np.ndarray:
  """Return `most` of the numbers below `num` (all for None), ascending, always the same ones.

  Chosen at random: evenly spaced ones would miss classes that alternate.
  """
  if most is None or most >= num:
    return np.arange(num)
  return np.sort(np.random.RandomState(0).permutation(num)[:most])


def of_each(labels: np.ndarray, num_classes: int, fraction: float, per_class: int) -> np.ndarray:
  """Images of each class in a share: int [classes], one at least of a class that has any.

  Args:
    labels: of all images, [n].
    num_classes: labels are below it.
    fraction: of each class.
    per_class: at most; 0: all.
  """
  counts = np.bincount(labels, minlength=num_classes)
  nums = [count and max(round(fraction * count), 1) for count in counts.tolist()]
  return np.minimum(nums, per_class or counts)


def long_tail(nums: np.ndarray, imbalance: float, source: str) -> np.ndarray:
  """Images of each class in a long tail: class y of C has n R^(-y / (C - 1)), rounded down.

  n is the number of the largest class; where a class has fewer than it should, it keeps them all.

  Args:
    nums: int [C], images of each class that there are.
    imbalance: R.
    source: of the images, for errors.
  Raises:
    UserError: there is one class, or the last would have no image.
  """
  most, last = int(nums.max()), len(nums) - 1
  if not last:
    raise errors.UserError(
      f'data.imbalance is {imbalance:g}, but {source!r} has one class; a long tail needs two or '
      'more: set data.imbalance=1.'
    )
  # The same on every machine: a whole number may come out of `pow` as the float below it.
  tail = [math.floor(round(most * imbalance ** (-y / last), 6)) for y in range(last + 1)]
  if not tail[-1]:
    raise errors.UserError(
      f'data.imbalance is {imbalance:g}, but the largest class of {source!r} has {most:,} training '
      f'images: {tail.count(0):,} of {last + 1:,} classes would have none; '
      f'give {most} at most, or more images.'
    )
  return np.minimum(tail, nums)


def first(labels: np.ndarray, nums: np.ndarray) -> np.ndarray:
  """The numbers, ascending, of the first nums[c] images of each class in `by_class`'s order."""
  keep = [of_class[: nums[labels[of_class[0]]]] for of_class in by_class(labels)]
  return np.sort(np.concatenate(keep))
