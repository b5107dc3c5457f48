"""Scores of features and logits against SciPy, scikit-learn, torch-fidelity and closed forms."""

import jax
import numpy as np
import pytest
import scipy.linalg
import scipy.special
import scipy.stats
import sklearn.metrics.pairwise

from bigjax.core import errors, parallel
from bigjax.evaluation import quick
from bigjax.evaluation.metrics import frechet, inception_score, intra_fid, kid


def features(seed, num, d, move=0.3):
  """Return float32 rows such as a network's last average pooling gives: correlated, not below 0."""
  mix = np.random.RandomState(99).normal(size=(d, d)) / np.sqrt(d)
  rows = np.random.RandomState(seed).normal(size=(num, d)) @ mix + move
  return np.maximum(rows, 0).astype(np.float32)


@pytest.fixture(scope='session')
def fidelity():
  """torch-fidelity and torch; 0.4 is what these tests were written against."""
  pytest.importorskip('torch_fidelity', minversion='0.4.0')
  import torch_fidelity as package
  from torch_fidelity import metric_fid, metric_isc, metric_kid

  print(f'torch-fidelity {package.__version__}')
  return metric_fid, metric_kid, metric_isc, pytest.importorskip('torch').from_numpy


def test_scores_are_no_evaluator():
  with pytest.raises(errors.UserError, match=r'expected one of: classifier, none, pixels, pred'):
    quick.load('scores', None, None)


# Moments.


def in_batches(rows, shift, size=32):
  """Return the moments of rows that come in batches, the last filled up with what is no number."""
  moments = frechet.Moments(rows.shape[1])
  sums = jax.jit(frechet.batch_sums)
  for i in range(0, len(rows), size):
    batch = rows[i : i + size]
    missing = size - len(batch)
    mask = (np.arange(size) < len(batch)).astype(np.float32)
    full = np.pad(batch, ((0, missing), (0, 0)), constant_values=np.nan)
    moments.add(sums(full, mask, shift), shift)
  return moments


def far_rows():
  """Means 1000 times the deviations: 1,000 rows that float32 still holds to 6e-5 of these."""
  rng = np.random.RandomState(0)
  mix = rng.normal(size=(8, 8))
  return (rng.normal(size=(1000, 8)) @ mix + rng.uniform(-2000, 2000, 8)).astype(np.float32)


def of_covariance(moments, rows):
  """Return the error of a covariance, relative to its largest element."""
  expected = np.cov(rows.astype(np.float64), rowvar=False)
  return np.abs(moments.cov - expected).max() / np.abs(expected).max()


def test_sums_of_batches_keep_a_covariance_far_from_0():
  rows = far_rows()
  moments = in_batches(rows, rows[:32].mean(0))
  assert moments.num == 1000
  np.testing.assert_allclose(moments.mean, rows.astype(np.float64).mean(0), rtol=1e-8)
  assert of_covariance(moments, rows) < 1e-6


def test_without_a_shift_float32_sums_lose_it():
  """What the test above is worth."""
  rows = far_rows()
  assert of_covariance(in_batches(rows, np.zeros(8, np.float32)), rows) > 1e-3


def test_the_shift_may_change_between_batches():
  rows = far_rows()
  sums, moments = jax.jit(frechet.batch_sums), frechet.Moments(8)
  for i in range(0, 1000, 50):
    shift = rows[i : i + 50].mean(0)
    moments.add(sums(rows[i : i + 50], np.ones(50, np.float32), shift), shift)
  np.testing.assert_allclose(moments.mean, rows.astype(np.float64).mean(0), rtol=1e-8)
  assert of_covariance(moments, rows) < 1e-6


def test_sums_over_devices():
  rows, mesh = features(0, 64, 6), parallel.make_mesh()
  mask = (np.arange(64) < 50).astype(np.float32)
  placed = jax.device_put((rows, mask), parallel.batched(mesh))
  sums = jax.jit(frechet.batch_sums, out_shardings=parallel.replicated(mesh))
  moments = frechet.Moments(6)
  moments.add(sums(*placed, rows[0]), rows[0])
  assert len(placed[0].sharding.device_set) == 8 and moments.num == 50
  assert of_covariance(moments, rows[:50]) < 1e-6


def test_products_of_sums_are_of_float32():
  shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in ((4, 3), (4,), (3,))]
  text = jax.jit(frechet.batch_sums).lower(*shapes).as_text()
  assert text.count('dot_general') == text.count('precision = [HIGHEST, HIGHEST]') == 1


def test_moments_of_rows_and_of_moments(monkeypatch):
  monkeypatch.setattr(frechet, 'ROWS', 7)  # blocks
  rows = far_rows()[:40]
  whole, half = frechet.Moments.of_rows(rows), frechet.Moments.of_rows(rows[:15])
  assert of_covariance(whole, rows) < 1e-12 and whole.num == 40
  again = frechet.Moments.of(half.num, half.mean, half.cov)
  rest = rows[15:].astype(np.float64)
  again.add(frechet.Sums(25, rest.sum(0), rest.T @ rest), np.zeros(8))  # float64: as good about 0
  assert of_covariance(again, rows) < 1e-8 and again.num == 40
  np.testing.assert_array_equal(frechet.Moments.of_rows(rows[:1]).cov, 0)


# Frechet distance.


def as_printed(a, b):
  """Heusel et al. 2017, Eq. 6, with SciPy's matrix root."""
  means = [rows.astype(np.float64).mean(0) for rows in (a, b)]
  s_a, s_b = [np.atleast_2d(np.cov(rows.astype(np.float64), rowvar=False)) for rows in (a, b)]
  root = np.real(scipy.linalg.sqrtm(s_a @ s_b))
  return ((means[0] - means[1]) ** 2).sum() + np.trace(s_a + s_b - 2 * root)


def distance(a, b):
  return frechet.frechet(frechet.Moments.of_rows(a), frechet.Moments.of_rows(b))


@pytest.mark.parametrize('d', [1, 6, 64])
def test_frechet_against_scipy(d):
  a, b = features(1, 300, d), features(2, 200, d, 0.4)
  expected = as_printed(a, b)
  for measure in (distance, frechet.frechet_of_rows):
    assert measure(a, b) == pytest.approx(expected, rel=1e-9)
    assert measure(b, a) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_frechet_against_torch_fidelity(fidelity, dtype):
  metric_fid, _, _, tensor = fidelity
  a, b = features(1, 1000, 64).astype(dtype), features(2, 800, 64, 0.4).astype(dtype)
  statistics = [metric_fid.fid_features_to_statistics(tensor(rows)) for rows in (a, b)]
  (expected,) = metric_fid.fid_statistics_to_metric(*statistics, False).values()
  tolerance = 1e-6 if dtype == np.float32 else 1e-9  # it takes the mean in float32
  assert distance(a, b) == pytest.approx(expected, rel=tolerance)


def test_frechet_of_covariances_that_commute():
  """Then it is |m_a - m_b|^2 + sum (sqrt s_a - sqrt s_b)^2, also where some are 0."""
  rng = np.random.RandomState(0)
  axes, _ = np.linalg.qr(rng.normal(size=(30, 30)))
  s_a, s_b = rng.uniform(0, 9, (2, 30))
  s_a[:12], s_b[6:18] = 0, 0
  gap = rng.normal(size=30)
  a = frechet.Gaussian(np.zeros(30), axes * s_a @ axes.T)
  b = frechet.Gaussian(gap, axes * s_b @ axes.T)
  expected = gap @ gap + ((np.sqrt(s_a) - np.sqrt(s_b)) ** 2).sum()
  assert frechet.frechet(a, b) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(('num', 'd', 'scale'), [(400, 64, 1), (400, 64, 1e3), (40, 300, 1e2)])
def test_frechet_of_a_set_and_itself_is_0(num, d, scale):
  rows = scale * features(0, num, d)
  assert 0 <= distance(rows, rows) < 1e-9 * scale**2
  assert 0 <= distance(rows, rows[::-1]) < 1e-9 * scale**2
  assert 0 <= frechet.frechet_of_rows(rows, rows) < 1e-9 * scale**2


@pytest.mark.parametrize('num', [2, 10, 40])
def test_frechet_where_rows_are_fewer_than_dimensions(num):
  """Gaussians within a subspace are as far apart as they are in its own coordinates."""
  rng = np.random.RandomState(num)
  basis, _ = np.linalg.qr(rng.normal(size=(200, 5)))
  low = [rng.normal(size=(num, 5)) * [1, 5, 0.1, 2, 3] + shift for shift in (0, 1)]
  expected = distance(*low)
  high = [rows @ basis.T for rows in low]
  assert expected > 0.1
  assert distance(*high) == pytest.approx(expected, rel=1e-9)
  assert frechet.frechet_of_rows(*high) == pytest.approx(expected, rel=1e-9)


def test_frechet_warns_of_few_samples():
  assert '2,048 samples are too few for a covariance of 2,048' in frechet.warning(2048, 2048)
  assert frechet.warning(2049, 2048) == ''
  assert frechet.warning(5, 64, 'real images').startswith('5 real images are too few')


@pytest.mark.parametrize('num', [0, 1])
def test_frechet_needs_two(num):
  rows = features(0, 5, 3)
  for measure in (distance, frechet.frechet_of_rows):
    with pytest.raises(errors.UserError, match=rf'with {num} images? on one side; give 2 or more'):
      measure(rows, rows[:num])


def test_frechet_needs_equal_features():
  with pytest.raises(errors.UserError, match='features of 3 and of 4 dimensions'):
    distance(features(0, 9, 3), features(0, 9, 4))


# Intra-class.


def classes(num):
  return np.arange(num) % 3


@pytest.mark.parametrize(('num', 'd'), [(90, 5), (30, 40)])  # with and without full rank
def test_intra_fid_against_scipy(num, d):
  a, b = features(1, num, d), features(2, 2 * num, d, 0.5)
  given = a, classes(num) + 7, b, classes(2 * num) + 7
  expected = {c + 7: distance(a[classes(num) == c], b[classes(2 * num) == c]) for c in range(3)}
  assert intra_fid.class_fids(*given) == pytest.approx(expected, rel=1e-8)
  if d == 5:
    found = [as_printed(a[classes(num) == c], b[classes(2 * num) == c]) for c in range(3)]
    assert intra_fid.intra_fid(*given) == pytest.approx(np.mean(found), rel=1e-8)


def test_intra_fid_sees_swapped_classes():
  """Which the distance of all images together cannot."""
  labels = classes(300)
  rows = features(0, 300, 4) + labels[:, None].astype(np.float32)
  swapped = (labels + 1) % 3
  assert distance(rows, rows) < 1e-9
  assert intra_fid.intra_fid(rows, labels, rows, labels) < 1e-9
  assert intra_fid.intra_fid(rows, swapped, rows, labels) > 3


def test_intra_fid_warns_and_refuses():
  rows = features(0, 12, 4)
  warning = intra_fid.warning(classes(12), classes(30), 4)
  assert warning.startswith('3 of 3 classes have few samples (at least 4) for covariances of 4')
  assert intra_fid.warning(classes(15), classes(30), 4) == ''
  some = np.where(classes(12) == 2, 0, classes(12))
  with pytest.raises(errors.UserError, match=r'0 samples and 4 real images of class 2 \(1 of 3 '):
    intra_fid.intra_fid(rows, some, rows, classes(12))
  with pytest.raises(errors.UserError, match='4 samples and 0 real images of class 2'):
    intra_fid.intra_fid(rows, classes(12), rows, some)


# Kernel distance.


def unbiased(x, y, diagonal=False):
  """Binkowski et al. 2018, Eq. 4, with scikit-learn's kernel."""
  x, y = x.astype(np.float64), y.astype(np.float64)
  k = lambda a, b: sklearn.metrics.pairwise.polynomial_kernel(a, b, degree=3, coef0=1)
  n, m = len(x), len(y)
  if diagonal:
    return k(x, x).mean() + k(y, y).mean() - 2 * k(x, y).mean()
  others = lambda a, num: (k(a, a).sum() - np.trace(k(a, a))) / (num * (num - 1))
  return others(x, n) + others(y, m) - 2 * k(x, y).mean()


@pytest.mark.parametrize('rows', [1, 7, 64, 2048])
def test_mmd_against_scikit_learn(rows):
  x, y = features(1, 90, 32), features(2, 70, 32, 0.4)
  expected, biased = unbiased(x, y), unbiased(x, y, diagonal=True)
  assert abs(biased / expected - 1) > 0.1  # the formula that this must not be
  assert kid.mmd(x, y, rows) == pytest.approx(expected, rel=1e-10)


def test_mmd_is_unbiased():
  """Sets of one distribution have 0 on average, so some are below it."""
  found = [kid.mmd(features(2 * i, 20, 4), features(2 * i + 1, 20, 4)) for i in range(200)]
  assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(200)
  assert min(found) < 0


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_kid_against_torch_fidelity(fidelity, dtype):
  _, metric_kid, _, tensor = fidelity
  x, y = features(1, 300, 64).astype(dtype), features(2, 250, 64, 0.4).astype(dtype)
  expected = metric_kid.kid_features_to_metric(
    tensor(x), tensor(y), kid_subsets=20, kid_subset_size=100, rng_seed=2020, verbose=False
  )
  found = kid.kid(x, y, subsets=20, subset=100, seed=2020)
  tolerance = 1e-4 if dtype == np.float32 else 1e-9  # it computes in the features' type
  assert found == pytest.approx(tuple(expected.values()), rel=tolerance)


def test_kid_draws_by_its_seed():
  x, y = features(1, 60, 8), features(2, 50, 8)
  draw = lambda **given: kid.kid(x, y, subsets=5, subset=20, **given)
  assert draw() == draw(seed=0) != draw(seed=1)
  mean, std = kid.kid(x[:50], y, subsets=3, subset=50)  # no choice is left
  assert mean == pytest.approx(unbiased(x[:50], y), rel=1e-10) and std < 1e-12


def test_kid_refuses():
  x, y = features(1, 30, 8), features(2, 1500, 8)
  with pytest.raises(
    errors.UserError, match=r'KID .* 1000 .* 30 samples and 1500 real .*give 1000'
  ):
    kid.kid(x, y)
  with pytest.raises(errors.UserError, match='1 samples and 30 real images; give 2 or more'):
    kid.mmd(x[:1], x)
  with pytest.raises(errors.UserError, match='features of 8 and of 7 dimensions'):
    kid.mmd(x, x[:, 1:])


# Inception score.


def logits(seed, num, k=10):
  return (3 * np.random.RandomState(seed).normal(size=(num, k))).astype(np.float32)


def slow_inception_score(rows, splits):
  """Salimans et al. 2016, Section 4, with SciPy's softmax and relative entropy."""
  p = scipy.special.softmax(rows.astype(np.float64), 1)
  parts = [p[i * len(p) // splits : (i + 1) * len(p) // splits] for i in range(splits)]
  found = [np.exp(scipy.stats.entropy(part.T, part.mean(0)[:, None]).mean()) for part in parts]
  return np.mean(found), np.std(found)


@pytest.mark.parametrize(('num', 'splits'), [(100, 10), (103, 10), (57, 1)])
def test_inception_score_against_scipy(num, splits):
  rows = logits(num, num)
  found = inception_score.inception_score(rows, splits=splits)
  assert found == pytest.approx(slow_inception_score(rows, splits), rel=1e-10)


@pytest.mark.parametrize('seed', [None, 2020])
def test_inception_score_against_torch_fidelity(fidelity, seed):
  _, _, metric_isc, tensor = fidelity
  rows = logits(0, 513, 1008)
  expected = metric_isc.isc_features_to_metric(tensor(rows), 10, shuffle=seed is not None)
  found = inception_score.inception_score(rows, seed=seed)
  assert found == pytest.approx(tuple(expected.values()), rel=1e-10)
  other = inception_score.inception_score(rows, seed=1)
  assert other != pytest.approx(found, rel=1e-4)


def test_inception_score_by_hand():
  """Sure of k classes in turn: k. Sure of one, or of none: 1. Whole classes in each split: 1."""
  sure = 1e4 * np.eye(5, dtype=np.float32)[np.arange(100) % 5]
  assert inception_score.inception_score(sure) == pytest.approx((5, 0), rel=1e-12)
  assert inception_score.inception_score(np.tile(sure[:1], (40, 1))) == pytest.approx((1, 0))
  assert inception_score.inception_score(np.zeros((40, 5))) == pytest.approx((1, 0))
  by_class = sure[np.argsort(np.arange(100) % 5)]
  assert inception_score.inception_score(by_class) == pytest.approx((1, 0))
  assert inception_score.inception_score(by_class, seed=0)[0] > 3


def test_inception_score_refuses():
  with pytest.raises(errors.UserError, match='of 10 splits was asked for with 19 samples; give 20'):
    inception_score.inception_score(logits(0, 19))
  inception_score.inception_score(logits(0, 20))
