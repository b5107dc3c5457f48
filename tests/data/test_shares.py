"""Long tails: the counts of the literature, the same everywhere, within shares, of every source."""

import hashlib
import json

import ml_collections
import numpy as np
import pytest

from bigjax import data
from bigjax.algorithms.base import configs
from bigjax.core import errors
from bigjax.data.reading import shares
from bigjax.evaluation import image_sets
from bigjax.training import ready

from pictures import pairs

# Totals of Cao et al. 2019 and Cui et al. 2019, and the counts per class of CIFAR-10-LT at 100.
PUBLISHED = {(5000, 10, 100): 12406, (5000, 10, 50): 13996, (5000, 10, 10): 20431,
             (500, 100, 100): 10847, (500, 100, 50): 12608, (500, 100, 10): 19573}  # fmt: skip
LT100 = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


def config(**changes):
  """The group `data` of grey 1 x 1 images, but for the changes."""
  plain = {'source': 'some:where', 'fraction': 1.0, 'per_class': 0, 'imbalance': 1.0}
  return ml_collections.ConfigDict({**plain, **changes})


def source_of(counts):
  """A source in which image i has the number i, of so many images of each class, interleaved."""
  labels = np.random.RandomState(0).permutation(np.repeat(np.arange(len(counts)), counts))
  labels = labels.astype(np.int32)
  images = np.arange(len(labels), dtype=np.uint32).view(np.uint8).reshape(-1, 1, 1, 4)
  names = tuple(map(str, range(len(counts))))
  return data.in_memory((images, labels), (images[:9], labels[:9]), names, 'none')


@pytest.fixture(scope='module')
def even():
  return source_of([200] * 5)


def chosen(source):
  return set(source.train()[0].view(np.uint32).ravel().tolist())


@pytest.mark.parametrize(('given', 'total'), PUBLISHED.items())
def test_counts_are_the_published_ones(given, total):
  most, classes, imbalance = given
  tail = shares.long_tail(np.full(classes, most), imbalance, 'cifar')
  assert tail.sum() == total and (tail[0], tail[-1]) == (most, most // imbalance)
  theirs = [int(most * (1 / imbalance) ** (y / (classes - 1.0))) for y in range(classes)]
  assert tail.tolist() == theirs
  assert tail.tolist() == LT100 or given != (5000, 10, 100)


def test_whole_numbers_are_not_rounded_down():
  """Where `pow` gives the float below: of 100,000 images at 100,000, 999 and 9 for 1,000 and 10."""
  for digits in range(1, 6):
    tail = shares.long_tail(np.full(digits + 1, 10**digits), 10.0**digits, '')
    assert tail.tolist() == [10**n for n in range(digits, -1, -1)]


def test_a_tail_is_cut_from_what_shares_leave(even):
  """First the fraction, then the number per class, then the tail of what is left."""
  some = data.limit(even, config(fraction=0.9, per_class=100, imbalance=100.0))
  assert some.class_counts() == [100, 31, 10, 3, 1] and some.num_train == 145
  assert some.class_counts() == np.bincount(some.train()[1]).tolist()
  balanced = data.limit(even, config(fraction=0.9, per_class=100))
  assert chosen(some) < chosen(balanced) < chosen(even)
  assert pairs(*some.reference()) == pairs(*balanced.train())
  assert some.digest != balanced.digest
  for ours, theirs in zip(some.held_out(), even.held_out(), strict=True):
    np.testing.assert_array_equal(ours, theirs)
  batch = next(data.stream(some, 0, 0, (1, 145), np.arange(145)))
  assert pairs(batch['image'][0], batch['label'][0]) == pairs(*some.train())


def test_longer_tails_are_part_of_shorter_ones(even):
  tails = [data.limit(even, config(imbalance=r)) for r in (100.0, 50.0, 10.0, 1.0)]
  sets = [chosen(tail) for tail in tails]
  assert sets[0] < sets[1] < sets[2] < sets[3]
  assert len({tail.digest for tail in tails}) == 4
  assert tails[-1] is even and even.reference is not even.train and even.even is None


def test_a_tail_is_the_same_in_every_process(even):
  """A run resumed on another machine must train on the same: this is the first run's."""
  told = json.dumps(sorted(chosen(data.limit(even, config(imbalance=10.0)))))
  assert hashlib.sha256(told.encode()).hexdigest().startswith('4e91d6ddf762097c')


def test_classes_with_less_keep_what_they_have():
  uneven = source_of([50, 100, 0, 5, 100])
  assert data.limit(uneven, config(imbalance=16.0)).class_counts() == [50, 50, 0, 5, 6]


@pytest.mark.parametrize(
  ('counts', 'change', 'words'),
  [
    ([20], {'imbalance': 10.0}, ['data.imbalance is 10', 'one class', 'data.imbalance=1']),
    ([20] * 4, {'imbalance': 21.0}, ['1 of 4 classes', 'none', 'give 20 at most']),
    ([20] * 4, {'imbalance': 21.0, 'per_class': 2}, ['3 of 4 classes', 'give 2 at most']),
  ],
)
def test_tails_that_mean_nothing_are_refused(counts, change, words):
  with pytest.raises(errors.UserError) as error:
    data.limit(source_of(counts), config(**change))
  assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
  ('given', 'words'), [(0.01, 'as 100 where'), (-1.0, 'at least 0'), (float('inf'), 'finite')]
)
def test_the_ratio_is_one_or_more(given, words, even):
  asked = configs.read('digits:tiny')
  asked.data.imbalance = given
  with pytest.raises(errors.UserError, match=rf'data\.imbalance is .*{words}'):
    ready.check(asked)
  asked.data.imbalance = 0.0
  ready.check(asked)
  assert data.limit(even, config(imbalance=0.0)) is even


def test_a_tail_of_one_class_is_refused_before_data_is_read():
  asked = configs.read('sngan:cifar10_uncond')
  asked.data.imbalance = 10.0
  with pytest.raises(errors.UserError, match=r'imbalance is 10, but data\.num_classes=1 makes one'):
    ready.check(asked)


def test_a_run_is_another_with_a_tail_and_the_same_without():
  asked, plain = configs.read('digits:tiny'), configs.read('digits:tiny')
  assert 'data.imbalance' not in configs.identity(plain)
  asked.data.imbalance = 10.0
  assert configs.config_hash(asked) != configs.config_hash(plain)


def test_digits_with_a_tail():
  given = configs.read('digits').data
  given.imbalance = 20.0
  counts = data.load(given).class_counts()
  assert counts == sorted(counts, reverse=True) and counts[0] >= 19 * counts[-1]
  assert data.load(given).name == 'digits'
  splits = image_sets.open_source('digits', (16, 16, 1), '', given)
  assert splits['train'].num == 1347  # scores compare with the images before the tail
