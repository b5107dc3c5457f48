"""Intra-class FID (Miyato & Koyama 2018): the Frechet distance within each class, and their mean.

It sees what FID does not: classes that are drawn as each other, or all alike. The paper takes 5,000
samples of each class; with fewer than dimensions it depends on the number even more than FID does.
"""

import numpy as np

from bigjax.core import errors
from bigjax.evaluation.metrics import frechet


def class_fids(
  samples: np.ndarray, labels: np.ndarray, real: np.ndarray, real_labels: np.ndarray
) -> dict[int, float]:
  """Return the Frechet distance of every class of either side, by its label.

  Args:
    samples, real: features [n, d] and [m, d].
    labels, real_labels: int [n] and [m].

  Raises:
    UserError: a class has fewer than 2 samples or 2 real images.
  """
  classes = np.union1d(labels, real_labels)
  count = lambda given: np.bincount(np.searchsorted(classes, given), minlength=len(classes))
  of_samples, of_real = count(labels), count(real_labels)
  few = np.flatnonzero(np.minimum(of_samples, of_real) < 2)
  if len(few) or not len(classes):
    found = [
      f'{of_samples[i]} samples and {of_real[i]} real images of class {classes[i]}' for i in few[:1]
    ]
    raise errors.UserError(
      f'an intra-class FID was asked for with {found[0] if found else "no images at all"} '
      f'({len(few)} of {len(classes)} classes have too few); give 2 or more of both in every class.'
    )
  return {
    int(c): frechet.frechet_of_rows(samples[labels == c], real[real_labels == c]) for c in classes
  }


def intra_fid(
  samples: np.ndarray, labels: np.ndarray, real: np.ndarray, real_labels: np.ndarray
) -> float:
  """Return the mean over classes of the Frechet distance within one; see `class_fids`."""
  return float(np.mean(list(class_fids(samples, labels, real, real_labels).values())))


def warning(labels: np.ndarray, real_labels: np.ndarray, dimensions: int) -> str:
  """Warning about classes with fewer images than dimensions, or ''."""
  told = []
  for given, what in ((labels, 'samples'), (real_labels, 'real images')):
    counts = np.unique(given, return_counts=True)[1]
    few = int((counts <= dimensions).sum())
    if few:
      told.append(f'{few:,} of {len(counts):,} classes have few {what} (at least {counts.min():,})')
  if not told:
    return ''
  return (
    f'{" and ".join(told)} for covariances of {dimensions:,} dimensions: compare this intra-class '
    'FID at the same numbers only.'
  )
