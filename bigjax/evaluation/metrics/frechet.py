"""Frechet distance of Gaussians fitted to features (Heusel et al. 2017), and their moments.

In the FID Inception's features this is FID. It equals the reference codes' where they are exact.
They take the root of the product of covariances, or its eigenvalues, which loses half of the digits
where covariances have not full rank: there we sum singular values instead.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.core import errors, trees
from bigjax.nn import linalg

ROWS = 4096  # of features that are held in float64 at a time


class Sums(NamedTuple):
  """Sums of a batch that Moments accumulates, relative to a shift; those of one shift add up.

  Attributes:
    num: float32 [], how many rows count.
    first: float32 [d], the sum of rows.
    second: float32 [d, d], the sum of their outer products.
  """

  num: jax.Array
  first: jax.Array
  second: jax.Array


def batch_sums(features: jax.Array, mask: jax.Array, shift: jax.Array) -> Sums:
  """Return the sums of a batch of features, float32 at HIGHEST. To be jitted.

  Args:
    features: [b, d].
    mask: [b], 0 for rows that only fill up the batch (they may hold anything), else 1.
    shift: float32 [d], about the features' mean (such as that of the first batch): without it,
      float32 loses the covariance wherever means are far above deviations.
  """
  counts = mask > 0
  centred = jnp.where(counts[:, None], trees.at_least_float32(features) - shift[None], 0)
  return Sums(counts.sum(dtype=jnp.float32), centred.sum(0), linalg.dot(centred.T, centred))


class Gaussian(NamedTuple):
  """A mean [d] and covariance [d, d] of who knows how many rows, such as a file holds."""

  mean: np.ndarray
  cov: np.ndarray


class Moments:
  """Mean and covariance of rows that come in batches; totals are float64 on the host.

  Attributes:
    num: rows so far.
  """

  def __init__(self, dimensions: int):
    self.num = 0
    self._shift = np.zeros(dimensions)
    self._first = np.zeros(dimensions)  # the sum of rows - shift
    self._second = np.zeros((dimensions, dimensions))  # that of their outer products

  @classmethod
  def of(cls, num: int, mean: np.ndarray, cov: np.ndarray) -> 'Moments':
    """Moments with this mean [d] and covariance [d, d] of `num` rows."""
    moments = cls(len(mean))
    moments.add(Sums(num, np.zeros(len(mean)), np.asarray(cov, np.float64) * (num - 1)), mean)
    return moments

  @classmethod
  def of_rows(cls, features: np.ndarray) -> 'Moments':
    """Return the moments of rows [n, d], in float64 from the start, ROWS at a time."""
    moments = cls(features.shape[1])
    for i in range(0, len(features), ROWS):
      some = features[i : i + ROWS].astype(np.float64)
      shift = moments._shift if i else some.mean(0)
      some -= shift
      moments.add(Sums(len(some), some.sum(0), some.T @ some), shift)
    return moments

  def add(self, sums: Sums, shift: np.ndarray) -> None:
    """Add the sums of rows about a shift [d]; it is fastest where that is the one before."""
    move = self._shift - shift
    if move.any():
      self._second += np.outer(move, self._first)
      self._first += self.num * move
      self._second += np.outer(self._first, move)
      self._shift = np.array(shift, np.float64)
    self.num += round(float(sums.num))
    self._first += np.asarray(sums.first)
    self._second += np.asarray(sums.second)

  @property
  def mean(self) -> np.ndarray:
    """float64 [d]."""
    return self._shift + self._first / max(self.num, 1)

  @property
  def cov(self) -> np.ndarray:
    """float64 [d, d], over n - 1; of one row it is 0."""
    centred = self._second - np.outer(self._first, self._first / max(self.num, 1))
    return centred / max(self.num - 1, 1)


def frechet(a: Gaussian | Moments, b: Gaussian | Moments) -> float:
  """Return |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^1/2) of two Gaussians (Heusel et al., Eq. 6).

  Raises:
    UserError: fewer than 2 rows were counted, or features are of different lengths.
  """
  for side in (a, b):
    if isinstance(side, Moments):
      _enough(side.num)
  _comparable(a.mean, b.mean)
  cov_a, cov_b = [np.asarray(side.cov, np.float64) for side in (a, b)]
  gap, traces = a.mean - b.mean, np.trace(cov_a) + np.trace(cov_b)
  return float(max(gap @ gap + traces - 2 * root_trace(cov_a, cov_b), 0))


def frechet_of_rows(a: np.ndarray, b: np.ndarray) -> float:
  """Return the Frechet distance of the Gaussians fitted to rows [n, d] and [m, d].

  Where rows are fewer than dimensions they are factors of their covariances themselves, so that
  small sets, such as those of one class, are compared without any [d, d].
  Raises:
    UserError: fewer than 2 rows, or features are of different lengths.
  """
  for rows in (a, b):
    _enough(len(rows))
  _comparable(a[0], b[0])
  if min(len(a), len(b)) > a.shape[1]:
    return frechet(Moments.of_rows(a), Moments.of_rows(b))
  means = [rows.mean(0, dtype=np.float64) for rows in (a, b)]
  f_a, f_b = [
    (rows - mean).T / np.sqrt(len(rows) - 1)
    if len(rows) <= rows.shape[1]
    else factor(Moments.of_rows(rows).cov)
    for rows, mean in zip((a, b), means, strict=True)
  ]
  gap, shared = means[0] - means[1], np.linalg.svd(f_a.T @ f_b, compute_uv=False).sum()
  return float(max(gap @ gap + (f_a**2).sum() + (f_b**2).sum() - 2 * shared, 0))


def root_trace(cov_a: np.ndarray, cov_b: np.ndarray) -> float:
  """Return tr (S_a S_b)^1/2 of covariances [d, d], float64.

  With S = F F^T, it is the sum of the singular values of F_a^T F_b, the squares of which are the
  eigenvalues of F_a^T S_b F_a: several times faster, where none of them is about 0.
  """
  f_a = factor(cov_a)
  squares = np.linalg.eigvalsh(f_a.T @ cov_b @ f_a) if f_a.size else np.ones(0)
  roots = np.sqrt(squares.clip(np.finfo(np.float64).tiny))
  # All eigenvalues are off by some eps of the largest, and their roots by that over twice the root.
  error = 10 * np.finfo(np.float64).eps * squares.max(initial=0) * (0.5 / roots).sum()
  if error < 1e-8 * np.sqrt(np.trace(cov_a) * np.trace(cov_b)):
    return roots.sum()
  return np.linalg.svd(f_a.T @ factor(cov_b), compute_uv=False).sum()


def factor(cov: np.ndarray) -> np.ndarray:
  """Return F [d, r] with F F^T the covariance [d, d] of numerical rank r, from its eigenvectors."""
  values, vectors = np.linalg.eigh(cov)
  # Eigenvalues that are 0 come out as some eps of the largest, and their roots as 1e-8 of its root.
  kept = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0)
  return vectors[:, kept] * np.sqrt(values[kept])


def _comparable(a, b):
  if a.shape != b.shape:
    raise errors.UserError(
      f'a Frechet distance was asked for between features of {a.size} and of {b.size} '
      'dimensions; compare what one network sees.'
    )


def _enough(num):
  if num < 2:
    raise errors.UserError(
      f'a Frechet distance was asked for with {num} image{"" if num == 1 else "s"} on one side; '
      'give 2 or more on both.'
    )


def warning(num: int, dimensions: int, what: str = 'samples') -> str:
  """Warning about a covariance that cannot have full rank, or '' where it can.

  Args:
    num: images that it was estimated from.
    dimensions: of features.
    what: these images are.
  """
  if num > dimensions:
    return ''
  return (
    f'{num:,} {what} are too few for a covariance of {dimensions:,} dimensions: this Frechet '
    f'distance holds for exactly that many only; give more than {dimensions:,} (50,000 are usual).'
  )
