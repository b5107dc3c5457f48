"""Distances by kernels: KID (Binkowski et al. 2018) and CMMD (Jayasumana et al. 2024).

KID is the unbiased squared MMD of the kernel (x y / d + 1)^3, the mean over random subsets, which
torch-fidelity draws as we do; it computes in the features' float32, we in float64. CMMD is of
CLIP's unit embeddings and a Gaussian kernel of sigma 10, a thousand times the biased estimate,
which is never negative; of other features it is called `mmd_rbf`. Its authors' code is in float32,
too.
"""

from collections.abc import Iterable

import numpy as np

from bigjax.core import errors

SUBSETS = 100
SUBSET = 1000
ROWS = 2048  # of a block of the kernel's matrix
SIGMA = 10.0  # of the Gaussian kernel
SCALE = 1000.0


def polynomial(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Return the kernel's matrix [n, m] between rows [n, d] and [m, d]."""
  return (x @ y.T / x.shape[1] + 1) ** 3


def mmd(samples: np.ndarray, real: np.ndarray, rows: int = ROWS) -> float:
  """Return the unbiased squared MMD of all samples [n, d] and real features [m, d].

  The kernel's matrix is summed in blocks of `rows` squared. It can be negative.
  Raises:
    UserError: fewer than 2 on either side, or features are of different lengths.
  """
  _check(samples, real, 2, 'an MMD', 'give 2 or more')
  samples, real = samples.astype(np.float64), real.astype(np.float64)
  n, m = len(samples), len(real)

  def total(x, y):
    blocks = [(x[i : i + rows], y) for i in range(0, len(x), rows)]
    return sum(
      polynomial(some, y[j : j + rows]).sum() for some, y in blocks for j in range(0, len(y), rows)
    )

  def others(x):  # without each row's kernel with itself
    of_itself = ((x * x).sum(1) / x.shape[1] + 1) ** 3
    return (total(x, x) - of_itself.sum()) / (len(x) * (len(x) - 1))

  return float(others(samples) + others(real) - 2 * total(samples, real) / (n * m))


def kid(
  samples: np.ndarray,
  real: np.ndarray,
  *,
  subsets: int = SUBSETS,
  subset: int = SUBSET,
  seed: int = 0,
) -> tuple[float, float]:
  """Return (mean, standard deviation over subsets) of the unbiased squared MMD.

  Args:
    samples, real: features [n, d] and [m, d].
    subsets: how many are drawn, each without replacement.
    subset: size of each, of samples and of real images.
    seed: of the draw. torch-fidelity's is 2020 unless it is told otherwise.

  Raises:
    UserError: fewer than a subset on either side, or features are of different lengths.
  """
  need = max(subset, 2)
  _check(samples, real, need, f'KID over subsets of {subset}', f'give {need} or a smaller subset')
  rng = np.random.RandomState(seed)
  found = []
  for _ in range(subsets):
    x, y = [rows[rng.choice(len(rows), subset, replace=False)] for rows in (samples, real)]
    found.append(mmd(x, y))
  return float(np.mean(found)), float(np.std(found))


def _starts(x: np.ndarray) -> range:
  return range(0, len(x), ROWS)


def _mean(x: np.ndarray, y: np.ndarray, pairs: Iterable[tuple[int, int, int]], gamma: float):
  """The mean of k - 1, from the blocks that begin at (i, j), each counted so many times."""
  total = 0.0
  for i, j, times in pairs:
    a, b = x[i : i + ROWS], y[j : j + ROWS]
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * a @ b.T
    total += times * np.expm1(-gamma * np.maximum(squared, 0)).sum()  # next to 0, digits are kept
  return total / (len(x) * len(y))


def mmd_rbf(
  samples: np.ndarray, real: np.ndarray, sigma: float = SIGMA, scale: float = SCALE
) -> float:
  """`scale` times the squared MMD of samples [n, d] and real features [m, d], biased.

  The kernel is exp(-|x - y|^2 / (2 sigma^2)); a set's pairs of an element with itself count.
  Raises:
    UserError: there is nothing on a side, or features are of different lengths.
  """
  _check(samples, real, 1, 'an MMD', 'give some')
  x, y, gamma = samples.astype(np.float64), real.astype(np.float64), 1 / (2 * sigma**2)
  within = lambda x: ((i, j, 1 + (i < j)) for i in _starts(x) for j in _starts(x) if i <= j)
  across = ((i, j, 1) for i in _starts(x) for j in _starts(y))
  of_x, of_y = (_mean(one, one, within(one), gamma) for one in (x, y))
  return float(scale * (of_x + of_y - 2 * _mean(x, y, across, gamma)))


def _check(samples, real, need, what, remedy):
  if samples.shape[1:] != real.shape[1:]:
    raise errors.UserError(
      f'{what} was asked for between features of {samples.shape[1]} and of {real.shape[1]} '
      'dimensions; compare what one network sees.'
    )
  if min(len(samples), len(real)) < need:
    raise errors.UserError(
      f'{what} was asked for with {len(samples)} samples and {len(real)} real images; '
      f'{remedy} of both.'
    )
