"""Precision, recall, density and coverage against the printed formulas and other codes."""

import tracemalloc

import numpy as np
import pytest
import sklearn.neighbors

from bigjax.core import errors
from bigjax.evaluation.metrics import distances, precision_recall


def rows(seed, num, d=6, move=0.0, far=0.0):
  return (np.random.RandomState(seed).normal(size=(num, d)) + move + far).astype(np.float32)


def both(samples, real, k):
  return (
    *precision_recall.precision_recall(samples, real, k=k),
    *precision_recall.density_coverage(samples, real, k=k),
  )


def as_printed(samples, real, k):
  """Kynkaanniemi et al. 2019, Eq. 1-3; Naeem et al. 2020, Eq. 4-5; radii by scikit-learn."""

  def inside(x, centres):  # [n, m]: whether x_i lies in the ball around centre j
    search = sklearn.neighbors.NearestNeighbors(n_neighbors=k + 1, algorithm='brute').fit(centres)
    radii = search.kneighbors(centres)[0][:, k]  # the first neighbour is itself
    return np.linalg.norm(x[:, None] - centres[None], axis=-1) <= radii[None]

  samples, real = samples.astype(np.float64), real.astype(np.float64)
  of_real, of_samples = inside(samples, real), inside(real, samples)
  density = of_real.sum() / (k * len(samples))
  return of_real.any(1).mean(), of_samples.any(1).mean(), density, of_real.any(0).mean()


@pytest.fixture
def small_blocks(monkeypatch):
  monkeypatch.setattr(precision_recall, 'ROWS', 16)
  monkeypatch.setattr(precision_recall, 'COLUMNS', 40)


@pytest.mark.parametrize('k', [1, 3, 5])
@pytest.mark.parametrize(('num', 'of_real'), [(60, 60), (95, 130)])
def test_against_the_printed_formulas(num, of_real, k, small_blocks):
  samples, real = rows(1, num, move=0.7), rows(2, of_real)
  expected = as_printed(samples, real, k)
  assert all(0.1 < share < 1 for share in expected)
  np.testing.assert_allclose(both(samples, real, k), expected, rtol=1e-12)
  for wrong in (k - 1, k + 1):  # the test would tell
    if wrong:
      assert (np.abs(np.subtract(both(samples, real, wrong), expected)) > 1e-3).sum() >= 3


def test_squared_distances():
  rng = np.random.RandomState(0)
  a, b = rng.rand(7, 5).astype(np.float32), rng.rand(4, 5).astype(np.float32)
  b[0] = a[0]
  expected = ((a[:, None] - b[None]) ** 2).sum(-1)
  found = np.asarray(distances.squared_distances(a, b))
  np.testing.assert_allclose(found, expected, atol=1e-6)
  assert found.min() >= 0


@pytest.mark.parametrize('num', [1, 60])
def test_precision_and_coverage_of_few_samples(num, small_blocks):
  samples, real = rows(1, num, move=0.7), rows(2, 130)
  found = precision_recall.precision_coverage(samples, real)
  if num > 3:
    assert found == (both(samples, real, 3)[0], both(samples, real, 3)[3])
  else:
    inside = as_printed(np.repeat(samples, 4, axis=0), real, 3)
    assert found == (inside[0], inside[3])


def test_far_from_0(small_blocks):
  """|a|^2 + |b|^2 - 2 a b would lose all digits of these distances but for the shift."""
  samples, real = rows(1, 60, move=0.4, far=3e3), rows(2, 70, far=3e3)
  np.testing.assert_allclose(both(samples, real, 3), as_printed(samples, real, 3), rtol=1e-12)


@pytest.mark.parametrize('k', [3, 5])
def test_against_torch_fidelity(k):
  """Its `input1` are samples; 0.3 named precision and recall the other way round."""
  package = pytest.importorskip('torch_fidelity', minversion='0.4.0')
  from torch_fidelity import metric_prc

  print(f'torch-fidelity {package.__version__}')
  tensor = pytest.importorskip('torch').from_numpy
  samples, real = rows(1, 400, 8, move=0.4), rows(2, 500, 8)
  given = {'prc_neighborhood': k, 'prc_batch_size': 100, 'verbose': False}
  found = metric_prc.prc_features_to_metric(tensor(samples), tensor(real), **given)
  expected = found['precision'], found['recall']
  np.testing.assert_allclose(
    precision_recall.precision_recall(samples, real, k=k), expected, rtol=1e-6
  )
  assert abs(expected[0] - expected[1]) > 0.01


@pytest.mark.parametrize('k', [3, 5])
def test_against_the_second_papers_code(k):
  prdc = pytest.importorskip('prdc')  # 0.2
  samples, real = rows(1, 300, 8, move=0.4), rows(2, 400, 8)
  found = prdc.compute_prdc(real.astype(float), samples.astype(float), nearest_k=k)
  expected = [found[name] for name in ('precision', 'recall', 'density', 'coverage')]
  np.testing.assert_allclose(both(samples, real, k), expected, rtol=1e-12)


# Around 0, 1, 2, 3 the third nearest other point is 3, 2, 2, 3 away.
@pytest.mark.parametrize(
  ('samples', 'precision', 'density', 'coverage'),
  [
    ([1.5], 1, 4 / 3, 1),
    ([7], 0, 0, 0),
    ([-1.5], 1, 1 / 3, 1 / 4),  # in the ball around 0 only
    ([-3], 1, 1 / 3, 1 / 4),  # on its surface
    ([-1.5, 7], 1 / 2, 1 / 6, 1 / 4),
  ],
)
def test_by_hand(samples, precision, density, coverage):
  line = lambda points: np.array(points, np.float32)[:, None]
  real = line([0, 1, 2, 3])
  np.testing.assert_array_equal(precision_recall.radii(real, 3), [9, 4, 4, 9])
  assert precision_recall.density_coverage(line(samples), real, k=3) == pytest.approx(
    (density, coverage)
  )
  more = line([*samples, 100, 200, 300, 400])
  found, _ = precision_recall.precision_recall(more, real)
  assert found == pytest.approx(precision * len(samples) / len(more))


def test_a_set_and_itself():
  real = rows(0, 50)
  assert precision_recall.precision_recall(real, real) == (1, 1)
  density, coverage = precision_recall.density_coverage(real, real)
  assert coverage == 1 and density > 1  # each holds itself and k more, on its surface too


def test_a_collapse():
  """One good image again and again: all of it is precise, and hardly anything is recalled."""
  real = rows(0, 200)
  same = np.repeat(real[:1] * np.float32(0.1), 200, axis=0)
  precision, recall = precision_recall.precision_recall(same, real)
  assert precision == 1 and recall == 0
  assert precision_recall.density_coverage(same, real)[1] < 0.6


def test_memory_does_not_grow_with_both_numbers(monkeypatch):
  """4,000 x 4,000 distances would be 64 MB: at no time are there more than 500 x 1,000."""
  monkeypatch.setattr(precision_recall, 'ROWS', 500)
  monkeypatch.setattr(precision_recall, 'COLUMNS', 1000)
  squares, shapes = precision_recall.squared_distances, []

  def seen(a, b):
    found = squares(a, b)
    shapes.append(found.shape)
    return found

  monkeypatch.setattr(precision_recall, 'squared_distances', seen)
  samples, real = rows(1, 3900, 64, move=0.1), rows(2, 4000, 64)
  tracemalloc.start()
  found = precision_recall.precision_recall(samples, real)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert set(shapes) == {(500, 1000)}  # two programs, traced once each
  assert peak < 8 * 2**20
  monkeypatch.setattr(precision_recall, 'ROWS', 1300)
  assert precision_recall.precision_recall(samples, real) == found


def test_products_are_of_float32():
  some, others = rows(0, 4), rows(1, 5)
  nearest = np.zeros((4, 2), np.float32)
  texts = [
    precision_recall._nearest.lower(nearest, some, others, np.int32(0), np.int32(5)).as_text(),
    precision_recall._balls.lower(some, others, others[:, 0], np.int32(4)).as_text(),
  ]
  for text in texts:
    assert text.count('dot_general') == text.count('precision = [HIGHEST, HIGHEST]') == 1


def test_too_few():
  three, four = rows(0, 3), rows(0, 4)
  precision_recall.precision_recall(four, four)
  for given in ((three, four), (four, three)):
    with pytest.raises(
      errors.UserError, match=r'k = 3 .*give 4 or more samples and 4 or more real'
    ):
      precision_recall.precision_recall(*given)
  precision_recall.density_coverage(four[:1], rows(1, 6))
  with pytest.raises(errors.UserError, match=r'k = 5 .*4 samples and 4 real images; give 1 or'):
    precision_recall.density_coverage(four, four)
  with pytest.raises(errors.UserError, match='features of 6 and of 5 dimensions'):
    precision_recall.precision_recall(four, four[:, 1:])
