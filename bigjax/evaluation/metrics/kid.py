"""Kernel Inception distance (Binkowski et al. 2018): unbiased squared MMD of cubic kernels.

The kernel is (x y / d + 1)^3. KID is the mean over random subsets, which torch-fidelity draws as we
do; it computes in the features' float32, we in float64.
"""

import numpy as np

from bigjax.core import errors

SUBSETS = 100
SUBSET = 1000
ROWS = 2048  # of a block of the kernel's matrix


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
