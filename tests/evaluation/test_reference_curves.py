"""Published learning curves: the tables, what lies between their points, and the alarm."""

import itertools
import math

import pytest

from bigjax.core import errors
from bigjax.evaluation import reference_curves

FID = 'fid50k_train_inception'
ALL = list(reference_curves.CURVES.values())
LOG = reference_curves.get('imagenet128_256x8_biggan_pytorch')


@pytest.mark.parametrize('curve', ALL, ids=lambda curve: curve.name)
def test_the_tables_are_learning_curves(curve):
  assert reference_curves.get(curve.name) is curve
  assert curve.source and curve.protocol
  assert set(curve.metrics) == {'fid', 'is'}
  for kind, points in curve.metrics.items():
    steps, values = zip(*points, strict=True)
    assert list(steps) == sorted(set(steps)) and steps[0] > 0
    assert min(values) > 0
    # Better and better, but for noise; a slip of a digit would stand out.
    for before, after in itertools.pairwise(values):
      assert after < 1.02 * before if kind == 'fid' else after > 0.98 * before
      assert 0.55 < after / before < 1.8


@pytest.mark.parametrize(
  ('name', 'kind', 'step', 'value'),
  # Lines of the logs themselves, to their last digit.
  [
    ('imagenet128_256x8_biggan_pytorch', 'fid', 2_000, 173.76),
    ('imagenet128_256x8_biggan_pytorch', 'is', 138_000, 93.09),
    ('imagenet128_256x8_biggan_pytorch', 'fid', 64_000, 16.24),  # not in the table
    ('imagenet128_batch2048_studiogan', 'fid', 50_000, 18.72),
    ('imagenet128_batch2048_studiogan', 'is', 90_000, 59.78),  # not in the table
    ('cifar10_studiogan', 'fid', 90_000, 8.05),
    ('cifar10_studiogan', 'fid', 20_000, 14.89),  # not in the table
  ],
)
def test_values_of_the_logs(name, kind, step, value):
  assert reference_curves.at(reference_curves.get(name).metrics[kind], step) == pytest.approx(
    value, rel=0.05
  )


def test_get():
  assert reference_curves.get('') is None
  with pytest.raises(errors.UserError, match=r'eval\.published.*did you mean cifar10_studiogan'):
    reference_curves.get('cifar10_studogan')


def test_between_points_a_power_law_is_exact():
  points = tuple((step, 1000 / math.sqrt(step)) for step in (10, 100, 5_000))
  for step in (10, 11, 99, 100, 101, 700, 5_000):
    assert reference_curves.at(points, step) == pytest.approx(1000 / math.sqrt(step))
  for step in (0, 1, 9, 5_001):
    assert reference_curves.at(points, step) is None
  assert reference_curves.at((), 10) is None


@pytest.mark.parametrize(
  ('name', 'kind'),
  [
    (FID, 'fid'), ('fid', 'fid'), ('is50k_10_splits', 'is'), ('is_inception', 'is'),
    ('fidelity', ''), ('isotropy', ''), ('fd10k_test_cifar_resnet56', ''), ('agreement', ''),
    ('precision', ''), ('best_fid', ''),
  ],
)  # fmt: skip
def test_kind(name, kind):
  assert reference_curves.kind(name) == kind


@pytest.mark.parametrize(
  ('name', 'value', 'alarm'),
  # The log has FID 83.6 and IS 10.4 at step 10,000.
  [
    (FID, 83.6, False), (FID, 167.0, False), (FID, 167.4, True), (FID, 5.0, False),
    ('is50k', 10.4, False), ('is50k', 5.3, False), ('is50k', 5.1, True), ('is50k', 0.0, True),
    ('is50k', 300.0, False), ('fidelity', 1e9, False), ('fd10k_test_cifar_resnet56', 1e9, False),
    ('agreement', 0.0, False), (FID, math.nan, False),
  ],
)  # fmt: skip
def test_alarm_on_both_sides_of_the_factor(name, value, alarm):
  assert bool(reference_curves.far_off(LOG, 10_000, {'agreement': 0.1, name: value})) == alarm


def test_the_alarm_says_both_numbers_the_step_and_the_source():
  words = reference_curves.far_off(LOG, 10_000, {FID: 300.0, 'is50k': 1.5, 'agreement': 0.0})
  for said in (FID, '300.0', '83.6', 'is50k', '1.5', '10.4', '10,000', LOG.source, 'factor'):
    assert said in words
  assert 'agreement' not in words and '\n' not in words


@pytest.mark.parametrize(
  ('step', 'alarm'),
  [(0, False), (1_999, False), (2_000, True), (138_000, True), (138_001, False)],
)
def test_no_alarm_before_the_first_point_nor_after_the_last(step, alarm):
  assert bool(reference_curves.far_off(LOG, step, {FID: 1e4, 'is50k': 0.1})) == alarm


def test_no_curve_no_alarm():
  assert reference_curves.far_off(None, 10_000, {FID: 1e9}) == ''
  half = reference_curves.Curve('x', 'y', 'z', {'fid': ((1, 10.0), (9, 5.0))})
  assert reference_curves.far_off(half, 5, {'is50k': 0.0}) == ''
