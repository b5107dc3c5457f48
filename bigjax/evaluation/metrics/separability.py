"""Linear separability (Karras et al. 2019, Section 4.2): do planes part attributes of latents?

For each attribute, a linear classifier of latents is fitted to what a network sees in their images;
H(Y|X) in bits is what is then still unknown of what it sees. The score is 2 to the power of the sum
over attributes, 1 where planes tell all. As in the paper, half of the samples count, those that the
network is surest of. Its 40 classifiers of CelebA are any network's outputs here.
"""

import numpy as np


def conditional_entropy(x: np.ndarray, y: np.ndarray) -> float:
  """H(Y|X) in bits of two arrays of booleans [n]."""
  total = 0.0
  for side in (False, True):
    of_side = y[x == side]
    for value in (False, True):
      share = (of_side == value).mean() if len(of_side) else 0.0
      total -= len(of_side) / len(x) * share * np.log2(share) if share else 0.0
  return float(total)


def margins(logits: np.ndarray) -> np.ndarray:
  """How sure a network is of each of its classes against the others, log odds [n, k]."""
  best = np.sort(logits, axis=1)
  # The largest of the others: the second where the class is the first.
  others = np.where(logits == best[:, -1:], best[:, -2:-1], best[:, -1:])
  return logits - others


def separability(latents: np.ndarray, sure: np.ndarray) -> float:
  """The score of latents [n, d], of which a network is `sure` [n, attributes]: above 0 for yes.

  Each attribute's classifier is a linear support vector machine with scikit-learn's defaults.
  """
  from sklearn.svm import LinearSVC

  entropies = []
  for attribute in sure.T:
    kept = np.argsort(-np.abs(attribute), kind='stable')[: (len(attribute) + 1) // 2]
    x, y = latents[kept], attribute[kept] > 0
    if y.all() or not y.any():  # nothing is unknown
      continue
    entropies.append(conditional_entropy(LinearSVC(random_state=0).fit(x, y).predict(x), y))
  return float(2 ** sum(entropies))
