"""Scores in pixel space, for small labelled sets.

agreement, worst_class: a classifier fitted on real training images gives the requested label.
std_ratio: per-class pixel standard deviation over the real one's (a collapsed class is near 0).
precision (Kynkaanniemi et al. 2019), coverage (Naeem et al. 2020): k = 3, against held-out images.
nearest_ratio: median distance of samples to their nearest training image, over that of held-out
images (memorised images are near 0). Pixels are compared as floats in [0, 1]. Of larger sets, MOST
real images of each split, evenly chosen, stand for all.
"""

from collections.abc import Callable

import numpy as np

from bigjax.core import errors
from bigjax.data import Labelled
from bigjax.evaluation.metrics.distances import squared_distances
from bigjax.evaluation.metrics.precision_recall import precision_coverage
from bigjax.evaluation.quick import NEIGHBOURS, Groups, RealImages, Scores, of_groups

MOST = 4000
SCORES = ('agreement', 'worst_class', 'std_ratio', 'precision', 'coverage', 'nearest_ratio')


def flatten(images: np.ndarray) -> np.ndarray:
  """Return uint8 images [n, H, W, C] as float32 rows in [0, 1]."""
  return images.reshape(len(images), -1).astype(np.float32) / 255


def nearest(a: np.ndarray, b: np.ndarray) -> float:
  """The median Euclidean distance of rows of a to the nearest row of b."""
  squares = np.asarray(squared_distances(a, b))
  return float(np.median(np.sqrt(squares.min(1))))


def class_std(rows: np.ndarray, labels: np.ndarray) -> float:
  """Return the mean over classes of the pixel standard deviation (rms over pixels) within one."""
  return float(np.mean([np.sqrt(rows[labels == c].var(0).mean()) for c in np.unique(labels)]))


def make(
  train: RealImages, held_out: RealImages, groups: Groups = ()
) -> tuple[Callable[[Labelled], Scores], Scores]:
  """Return (score, floor): `score((images, labels))`, and what real images get.

  The floor's precision and coverage are those of the training images; for `nearest_ratio`, the
  held-out images themselves (so it is 1), and for `agreement` the held-out images too.
  Raises:
    UserError: scikit-learn is not installed.
  """
  try:
    from sklearn.svm import SVC
  except ImportError:
    raise errors.UserError(
      "eval.name=pixels needs scikit-learn; run: pip install 'bigjax[train]'"
    ) from None
  # What is known of real images: a classifier, distances, deviations.
  images, real_labels = train(MOST)
  unseen_images, unseen_labels = held_out(MOST)
  real, unseen = flatten(images), flatten(unseen_images)
  if len(unseen) <= NEIGHBOURS:
    raise errors.UserError(
      f'eval.name=pixels needs {NEIGHBOURS + 1} held-out images at least, there are {len(unseen)}; '
      'give more images, a larger data.held_out, or eval.name=none.'
    )
  if len(np.unique(real_labels)) > 1:
    predict = SVC(C=10.0, gamma='scale').fit(real, real_labels).predict
  else:
    predict = lambda rows: np.repeat(real_labels[:1], len(rows))
  nearest_real = nearest(unseen, real)
  real_std = class_std(real, real_labels)

  def of_labels(rows, labels):
    hits = predict(rows) == labels

    def of_some(of):
      own = np.isin(real_labels, labels[of])
      spread = class_std(real[own], real_labels[own]) if own.any() else real_std
      return {'agreement': hits[of].mean(), 'std_ratio': class_std(rows[of], labels[of]) / spread}

    return {
      'agreement': float(hits.mean()),
      'worst_class': float(min(hits[labels == c].mean() for c in np.unique(labels))),
      'std_ratio': class_std(rows, labels) / real_std,
      **of_groups(groups, labels, of_some),
    }

  def score(samples: Labelled) -> Scores:
    rows, labels = flatten(samples[0]), samples[1]
    precision, coverage = precision_coverage(rows, unseen, k=NEIGHBOURS)
    return {
      **of_labels(rows, labels),
      'precision': precision,
      'coverage': coverage,
      'nearest_ratio': nearest(rows, real) / nearest_real,
    }

  # What real images get.
  precision, coverage = precision_coverage(real, unseen, k=NEIGHBOURS)
  floor = {
    **of_labels(unseen, unseen_labels),
    'precision': precision,
    'coverage': coverage,
    'nearest_ratio': 1.0,
  }
  return score, floor
