"""Probes of features: what they tell apart, what they may look at, and how they normalise."""

import dataclasses

import numpy as np
import pytest

from bigjax.evaluation.metrics import probes

QUICK = dataclasses.replace(probes.RECIPE, steps=300, batch=64)


def blobs(num, seed, spread=0.3, classes=7):
  """Features of classes around centres that a plane parts from each other; labels in turn."""
  centres = np.random.default_rng(0).normal(size=(classes, 6))
  labels = np.arange(num) % classes
  noise = np.random.default_rng(seed).normal(size=(num, 6))
  return (centres[labels] + spread * noise).astype(np.float32), labels


def test_a_linear_classifier_tells_blobs_apart_and_noise_not():
  train, test = blobs(700, 1), blobs(140, 2)
  found = probes.linear(train, test, recipe=QUICK)
  assert found[1] > 0.9 and found[5] >= found[1]
  shuffled = train[0], np.random.default_rng(3).permutation(train[1])
  assert probes.linear(shuffled, test, recipe=QUICK)[1] < 0.4
  assert set(probes.linear(blobs(60, 1, classes=2), blobs(60, 2, classes=2), recipe=QUICK)) == {1}


def test_the_learning_rate_is_chosen_among_training_images(monkeypatch):
  """The labels of test images change the score, not the classifier."""
  seen = []
  monkeypatch.setattr(
    probes, 'right', lambda params, part, *_: seen.append(len(part[1])) or np.zeros(5)
  )
  probes.linear(blobs(700, 1), blobs(140, 2), recipe=QUICK)
  assert seen == [70, 140, 140]  # a tenth of the training images chooses, then the test is read


def test_of_small_features_the_best_held_out_rate_is_chosen():
  """Of 1e-3 the bias learns first, and tells the frequent class alone but at the highest rate."""
  rng = np.random.default_rng(0)
  labels = (np.arange(400) % 10 > 6).astype(np.int64)  # 70 and 30 %
  centres = rng.choice([-1.0, 1.0], 128)
  rows = np.where(labels, 1, -1)[:, None] * centres + rng.normal(size=(400, 128))
  rows = (1e-3 * rows).astype(np.float32)
  train, test = (rows[:300], labels[:300]), (rows[300:], labels[300:])
  found = lambda *rates: probes.linear(
    train, test, recipe=dataclasses.replace(probes.RECIPE, steps=100, rates=rates)
  )[1]
  rates = (1e-4, 1e-1, 1e-3)
  low, best, other = (found(rate) for rate in rates)
  assert max(low, other) < 0.8 < 0.95 < best == found(*rates)


def test_rates_are_chosen_where_a_class_does_not_occur():
  """Only classes that occur have labels to hold out."""
  rng = np.random.default_rng(0)
  labels = 2 * (np.arange(200) % 2)  # 0 and 2
  rows = (rng.normal(size=(200, 4)) + labels[:, None]).astype(np.float32)
  recipe = dataclasses.replace(probes.RECIPE, steps=20, alone=0.0, rates=(0.0, 1e-1))
  assert probes.linear((rows, labels), (rows, labels), recipe=recipe)[1] > 0.8


def test_of_few_labels_none_are_held_out():
  train = blobs(700, 1)
  pick = probes.few(train[1], 1, seed=0)
  assert len(pick) == 7 and set(train[1][pick]) == set(range(7))
  assert not np.array_equal(pick, probes.few(train[1], 1, seed=1))
  assert np.array_equal(probes.few(train[1], 0, seed=1), np.arange(700))
  known = train[0][pick], train[1][pick]
  faster = dataclasses.replace(QUICK, alone=1e-2)
  assert probes.linear(known, blobs(140, 2, 0.1), recipe=faster)[1] > 0.7


def test_bncrelu_is_normalised_by_training_images_alone():
  """Published: relu(BN(h)) beside relu(-BN(h)), without gain and bias."""
  train, test = (np.random.default_rng(i).normal(3, 2, (50, 4)).astype(np.float32) for i in (0, 1))
  found = probes.bncrelu(train)(test)
  normal = (test - train.mean(0)) / np.sqrt(train.var(0) + probes.EPS)
  np.testing.assert_allclose(found[:, :4] - found[:, 4:], normal, rtol=1e-4, atol=1e-5)
  assert (found >= 0).all() and (found[:, :4] * found[:, 4:] == 0).all()


@pytest.mark.parametrize('k', [1, 3, 100])
def test_neighbours_vote_as_a_loop_has_them(k):
  train, test = blobs(40, 1, 1.5), blobs(30, 2, 1.5)
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  near = unit(test[0]) @ unit(train[0]).T
  hits = 0
  for similar, wanted in zip(near, test[1], strict=True):
    best = np.argsort(-similar)[:k]
    votes = [(sum(train[1][best] == c), similar[best][train[1][best] == c].sum()) for c in range(7)]
    hits += max(range(7), key=votes.__getitem__) == wanted
  assert probes.neighbours(train, test, k) == pytest.approx(hits / 30)
