"""Classification accuracy score (Ravuri & Vinyals 2019): train on samples, test on real images.

The paper trains a ResNet-50; we train the small network of the evaluator `classifier`, so it must
not be compared with published numbers, but with what real training images reach by that recipe.
"""

import dataclasses

import jax
import numpy as np

from bigjax.core import errors
from bigjax.data import Labelled
from bigjax.evaluation.quick import classifier


def accuracy(samples: Labelled, real: Labelled) -> float:
  """Return the share of real images whose class is found by a classifier trained on samples.

  Args:
    samples, real: (uint8 [n, H, H, C], int labels [n]), or clips [n, T, H, H, C]. Images of more
      than 64 px a side are averaged down.

  Raises:
    UserError: images of other shapes, fewer than 2 classes, or a real class without samples.
  """
  (images, labels), (unseen, unseen_labels) = samples, real
  if images.shape[1:] != unseen.shape[1:]:
    raise errors.UserError(
      f'a classification accuracy score was asked for with samples of shape {images.shape[1:]} '
      f'and real images of shape {unseen.shape[1:]}; give images of one shape.'
    )
  known = np.unique(labels)
  missing = np.setdiff1d(unseen_labels, known)
  if len(known) < 2 or not len(unseen_labels) or len(missing):
    raise errors.UserError(
      f'a classification accuracy score was asked for with samples of {len(known)} classes and '
      f'real images of {len(np.unique(unseen_labels))}, {len(missing)} of them without samples; '
      'give 2 classes or more, and samples of every real one.'
    )
  frames = classifier.frames_of(images.shape[1:])
  variables = classifier.fit(
    classifier.reduce(images),
    np.searchsorted(known, labels),
    len(known),
    what='samples',
    recipe=dataclasses.replace(classifier.recipe_of(frames), distorted=0.0),
    frames=frames,
  )
  predict = jax.jit(classifier.network(len(known), frames).apply, static_argnums=2)
  hits = 0
  for i in range(0, len(unseen), classifier.CHUNK):
    part = classifier.reduce(unseen[i : i + classifier.CHUNK])
    logits, _, _ = predict(variables, part, False)
    hits += (known[np.asarray(logits).argmax(1)] == unseen_labels[i : i + len(part)]).sum()
  return float(hits / len(unseen))
