"""Scores of each class: by hand, at equal numbers, and of classes with too few images."""

import numpy as np
import pytest

from bigjax.evaluation.metrics import by_class, frechet, precision_recall


def drawn(nums, shift=0.0, seed=0):
  """Features about 10 c of nums[c] images of each class c, and labels, shuffled."""
  rng = np.random.RandomState(seed)
  labels = rng.permutation(np.repeat(np.arange(len(nums)), nums))
  return (rng.normal(size=(len(labels), 3)) + 10 * labels[:, None] + shift).astype('f4'), labels


def test_each_class_has_the_scores_of_its_own_images():
  (samples, labels), (real, real_labels) = drawn([60, 60]), drawn([80, 80], 0.5, seed=1)
  found = by_class.by_class(samples, labels, real, real_labels, 60, predicted=1 - 0 * labels)
  for c in (0, 1):
    a, b = samples[labels == c], real[real_labels == c]
    assert found[c] == {
      'fid': frechet.frechet_of_rows(a, b),
      'precision': precision_recall.precision_recall(a, b, k=3)[0],
      'coverage': precision_recall.density_coverage(a, b, k=5)[1],
      'agreement': float(c == 1),
    }


def test_a_collapsed_class_is_seen_where_the_mean_hides_it():
  samples, labels = drawn([60] * 3)
  samples[labels == 2] = samples[labels == 2][0]
  found = by_class.by_class(samples, labels, *drawn([60] * 3, seed=1), 60)
  assert found[2]['coverage'] < 0.2 < 0.8 < min(found[0]['coverage'], found[1]['coverage'])
  assert 'agreement' not in found[0]


def test_classes_are_compared_at_equal_numbers():
  """Of real images as of samples: what there are more of in a class changes nothing."""
  few, many = drawn([70, 70], seed=1), drawn([70, 300], seed=1)
  most = [np.concatenate([few[i], many[i][many[1] == 1]]) for i in (0, 1)]
  samples, labels = drawn([60, 90])
  a = by_class.by_class(samples, labels, *few, 40)
  b = by_class.by_class(samples, labels, *most, 40)
  assert a == b
  cut = np.concatenate([np.flatnonzero(labels == c)[:40] for c in (0, 1)])
  assert a == by_class.by_class(samples[cut], labels[cut], *few, 40)


def test_what_a_class_is_too_small_for_is_left_out():
  found = by_class.by_class(*drawn([9, 9, 9, 9, 0]), *drawn([1, 4, 6, 0, 9], seed=1), 9)
  assert {c: set(scores) for c, scores in found.items()} == {
    0: set(), 1: {'fid', 'precision'}, 2: {'fid', 'precision', 'coverage'}, 3: set(), 4: set(),
  }  # fmt: skip
  assert by_class.common_number(np.repeat([0, 1], [3, 200])) == by_class.LEAST
  assert by_class.common_number(np.repeat([0, 1], [70, 200])) == 70


@pytest.mark.parametrize(
  ('counts', 'rare', 'frequent'),
  [
    ([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50], [7, 8, 9], [0, 1, 2]),
    ([3, 9, 1], [2], [1]),
    ([7, 2], [1], [0]),
    ([4, 4, 4, 4, 4, 4], [4, 5], [0, 1]),
  ],
)
def test_thirds(counts, rare, frequent):
  found = by_class.thirds(counts)
  assert [(name, classes.tolist()) for name, classes in found] == [
    ('rare', rare), ('frequent', frequent),
  ]  # fmt: skip
