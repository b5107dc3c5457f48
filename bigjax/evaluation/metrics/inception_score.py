"""Inception score (Salimans et al. 2016): how sure a classifier is, and of how many classes.

Splits follow each other in the given order, with the bounds of the original code, of BigGAN's and
of torch-fidelity's; the last shuffles first, with its seed 2020: give that seed to get its number.
In the FID Inception all 1008 logits count, as in the original code.
"""

import numpy as np

from bigjax.core import errors

SPLITS = 10


def inception_score(
  logits: np.ndarray, *, splits: int = SPLITS, seed: int | None = None
) -> tuple[float, float]:
  """Return (mean, standard deviation over splits) of exp E KL(p(y|x) || p(y)).

  Args:
    logits: [n, k].
    splits: of about equal size.
    seed: of a shuffle before the split; None keeps the order. Images that lie in order of class
      need one, or each split holds few classes and scores low.

  Raises:
    UserError: fewer than 2 images per split: the score of one is 1 whatever it shows.
  """
  num = len(logits)
  if num < 2 * splits:
    raise errors.UserError(
      f'an Inception score of {splits} splits was asked for with {num} samples; '
      f'give {2 * splits} or more, or fewer splits.'
    )
  order = np.arange(num) if seed is None else np.random.RandomState(seed).permutation(num)
  found = []
  for i in range(splits):
    log_p = log_softmax(logits[order[i * num // splits : (i + 1) * num // splits]])
    p = np.exp(log_p)
    # Where no image has any chance of a class (p = 0 in float64), it adds nothing.
    log_mean = np.log(np.maximum(p.mean(0), np.finfo(np.float64).tiny))
    found.append(np.exp((p * (log_p - log_mean)).sum(1).mean()))
  return float(np.mean(found)), float(np.std(found))


def log_softmax(logits: np.ndarray) -> np.ndarray:
  """Return log probabilities [n, k] in float64."""
  logits = logits.astype(np.float64)
  logits -= logits.max(1, keepdims=True)
  return logits - np.log(np.exp(logits).sum(1, keepdims=True))
