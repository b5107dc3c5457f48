"""Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

Both lay a ball around each image, out to its k-th nearest neighbour of the same kind, itself not
counted. Balls hold their surface, as in the first paper (the second's code leaves it out: the same
but where distances tie). Distances are computed in blocks, so memory does not grow with n x m.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bigjax.core import errors
from bigjax.evaluation.metrics.distances import squared_distances

ROWS = 2048  # of a block of distances
COLUMNS = 8192  # the other way
STEP = 64  # of the sizes of smaller blocks


def precision_recall(samples: np.ndarray, real: np.ndarray, *, k: int = 3) -> tuple[float, float]:
  """Return (share of samples within a ball of a real image, share of real ones within a sample's).

  Args:
    samples, real: features [n, d] and [m, d]. Recall grows with n, precision with m: compare at
      equal numbers.
    k: which neighbour gives the radius.

  Raises:
    UserError: fewer than k + 1 on either side, or features are of different lengths.
  """
  samples, real = _prepared(samples, real, k, 'precision and recall')
  within_real, _ = balls(samples, real, radii(real, k))
  within_samples, _ = balls(real, samples, radii(samples, k))
  return float((within_real > 0).mean()), float((within_samples > 0).mean())


def density_coverage(samples: np.ndarray, real: np.ndarray, *, k: int = 5) -> tuple[float, float]:
  """Return (real balls that hold a sample on average, over k; share of real balls that hold any).

  Args:
    samples, real: features [n, d] and [m, d].
    k: which neighbour gives the radius.

  Raises:
    UserError: fewer than k + 1 real images, no samples, or features are of different lengths.
  """
  samples, real = _prepared(samples, real, k, 'density and coverage', of_samples=1)
  within, holds = balls(samples, real, radii(real, k))
  return float(within.mean() / k), float(holds.mean())


def precision_coverage(samples: np.ndarray, real: np.ndarray, *, k: int = 3) -> tuple[float, float]:
  """The two that need no ball around samples, of which there may be few: (precision, coverage).

  Args:
    samples, real: features [n, d] and [m, d].
    k: which neighbour gives the radius.

  Raises:
    UserError: fewer than k + 1 real images, no samples, or features are of different lengths.
  """
  samples, real = _prepared(samples, real, k, 'precision and coverage', of_samples=1)
  within, holds = balls(samples, real, radii(real, k))
  return float((within > 0).mean()), float(holds.mean())


def radii(x: np.ndarray, k: int) -> np.ndarray:
  """Return each row's squared distance to its k-th nearest other row, float32 [n]."""
  found = []
  for i, some in _blocks(x, ROWS):
    nearest = jnp.full((len(some), k), jnp.inf)
    for j, others in _blocks(x, COLUMNS):
      nearest = _nearest(nearest, some, others, np.int32(i - j), np.int32(len(x) - j))
    found.append(np.asarray(nearest[:, -1]))
  return np.concatenate(found)[: len(x)]


def balls(x: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Return (how many balls hold each row: int [n], whether each ball holds any: bool [m]).

  Args:
    x: float32 [n, d].
    centres: float32 [m, d].
    radii: float32 [m], squared.
  """
  within, holds = np.zeros(len(x), np.int64), np.zeros(len(centres), bool)
  for j, middle in _blocks(centres, COLUMNS):
    reach = np.full(len(middle), -1, np.float32)  # a ball of no point, for rows that only fill up
    reach[: len(radii) - j] = radii[j : j + COLUMNS]
    for i, some in _blocks(x, ROWS):
      counts, hit = _balls(some, middle, reach, np.int32(len(x) - i))
      within[i : i + ROWS] += np.asarray(counts)[: len(x) - i]
      holds[j : j + COLUMNS] |= np.asarray(hit)[: len(centres) - j]
  return within, holds


@jax.jit
def _nearest(nearest, some, others, same, num):
  """Return the k smallest [r, k] of those so far and of the distances to these others.

  Args:
    nearest: [r, k] ascending, so far.
    some, others: [r, d] and [c, d].
    same: row i of `some` is row i + same of `others`, which does not count.
    num: rows of `others` from here on do not count either.
  """
  rows, columns = jnp.arange(len(some))[:, None], jnp.arange(len(others))[None]
  left_out = (columns == rows + same) | (columns >= num)
  squares = jnp.where(left_out, jnp.inf, squared_distances(some, others))
  smallest, _ = lax.top_k(-jnp.concatenate([nearest, squares], 1), nearest.shape[1])
  return -smallest


@jax.jit
def _balls(some, middle, reach, num):
  """Return (balls that hold each row [r], whether each ball holds any of the first `num` [c])."""
  inside = (squared_distances(some, middle) <= reach[None]) & (jnp.arange(len(some)) < num)[:, None]
  return inside.sum(1, dtype=jnp.int32), inside.any(0)


def _blocks(x, most):
  """Yield (start, rows): the last filled up with 0, so that there is one program for all.

  Small sets fill up to whole steps, so that those of about one size, such as classes, share it.
  """
  size = min(most, -(-len(x) // STEP) * STEP)
  for i in range(0, len(x), size):
    some = x[i : i + size]
    yield i, np.pad(some, ((0, size - len(some)), (0, 0)))


def _prepared(samples, real, k, what, of_samples=None):
  """Return both as float32, about the real mean: |a|^2 + |b|^2 - 2 a b loses less so."""
  need = k + 1 if of_samples is None else of_samples
  if len(samples) < need or len(real) < k + 1:
    raise errors.UserError(
      f'{what} with k = {k} were asked for with {len(samples)} samples and {len(real)} real '
      f'images; give {need} or more samples and {k + 1} or more real images.'
    )
  if samples.shape[1] != real.shape[1]:
    raise errors.UserError(
      f'{what} were asked for between features of {samples.shape[1]} and of {real.shape[1]} '
      'dimensions; compare what one network sees.'
    )
  mean = real.mean(0, dtype=np.float64).astype(np.float32)
  return [rows.astype(np.float32) - mean for rows in (samples, real)]
