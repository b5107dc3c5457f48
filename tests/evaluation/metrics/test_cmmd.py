"""MMD with a Gaussian kernel against the reference's formula and closed forms."""

import numpy as np
import pytest

from bigjax.core import errors
from bigjax.evaluation.metrics import kid


def brute(x, y, sigma=10.0):
  """As google-research's cmmd/distance.py has it, in float64, pair by pair."""
  kernel = lambda a, b: np.exp(-np.square(a[:, None] - b[None]).sum(-1) / (2 * sigma**2)).mean()
  x, y = x.astype(np.float64), y.astype(np.float64)
  return 1000 * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))


def units(seed, num, move):
  x = np.random.RandomState(seed).normal(size=(num, 16)) + move
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize('rows', [7, 2048])
def test_it_is_the_references(rows, monkeypatch):
  monkeypatch.setattr(kid, 'ROWS', rows)
  x, y = units(0, 40, 0.0), units(1, 55, 0.5)
  want = brute(x, y)
  assert kid.mmd_rbf(x, y) == pytest.approx(want, rel=1e-9) and want > 0.1
  assert kid.mmd_rbf(30 * x, 30 * y, sigma=3.0) == pytest.approx(brute(30 * x, 30 * y, 3.0))
  assert brute(x, y, sigma=9.0) != pytest.approx(want, rel=0.1)


def test_closed_forms():
  a, b = np.zeros((3, 4)), np.full((5, 4), 2.0)  # two points, at a distance of 4
  assert kid.mmd_rbf(a, b) == pytest.approx(1000 * (2 - 2 * np.exp(-16 / 200)))
  assert kid.mmd_rbf(b, b) == pytest.approx(0, abs=1e-9)
  rng = np.random.RandomState(0)  # two Gaussians: E k = (1 + 2 s^2 / sigma^2)^(-d/2) exp(...)
  x, y = rng.normal(size=(2000, 2)), rng.normal(size=(2000, 2)) + np.array([3.0, 0.0])
  within = 1 / (1 + 2 / 100)
  across = within * np.exp(-9 / (2 * (100 + 2)))
  bias = 1000 * 2 * (1 - within) / 2000  # an element's pair with itself counts
  assert kid.mmd_rbf(x, y) == pytest.approx(1000 * 2 * (within - across) + bias, rel=0.05)


def test_what_makes_no_sense_is_refused():
  with pytest.raises(errors.UserError, match='of 3 and of 4'):
    kid.mmd_rbf(np.zeros((2, 3)), np.zeros((2, 4)))
  with pytest.raises(errors.UserError, match='0 samples'):
    kid.mmd_rbf(np.zeros((0, 3)), np.zeros((2, 3)))
