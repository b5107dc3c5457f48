"""The order of images is a function of (seed, position); the built-in digits and their split."""

import collections
import hashlib
import itertools
import sys

import numpy as np
import pytest

from bigjax import config as configs
from bigjax import data, utils
from bigjax.data import digits

NUM = 37  # images; no multiple of 10, so that most epochs end inside a step
BATCH = (2, 5)
ALL = np.arange(5)


@pytest.fixture(scope='module')
def counted():
  """A source in which image i has the label i."""
  labels = np.arange(NUM, dtype=np.int32)
  images = np.broadcast_to(labels[:, None, None, None], (NUM, 4, 4, 3)).astype(np.uint8)
  return data.in_memory((images, labels), (images, labels), tuple(map(str, labels)), 'none')


@pytest.fixture(scope='module')
def source():
  return data.load(configs.read('digits').data)


def labels(source, num_steps, seed=0, position=0, rows=ALL):
  """The labels of the next steps: [num_steps, 2, rows]."""
  stream = data.stream(source, seed, position, BATCH, rows)
  return np.stack([batch['label'] for batch in itertools.islice(stream, num_steps)])


# The last starts at an epoch above 2**31, and 3.7e10 images are ten 32-bit counters' worth.
@pytest.mark.parametrize('position', [0, 10 * NUM, 10 * NUM * 10**8, 10 * NUM * 2**31])
def test_every_epoch_is_a_permutation(counted, position):
  epochs = labels(counted, NUM, position=position).reshape(10, NUM)
  np.testing.assert_array_equal(np.sort(epochs, 1), np.tile(np.arange(NUM), (10, 1)))
  assert len({tuple(epoch) for epoch in epochs}) == 10
  assert not (epochs == np.arange(NUM)).all(1).any()


def test_order_is_spread_out(counted):
  """Each image comes anywhere in an epoch: over 300 epochs its mean place is near the middle."""
  epochs = labels(counted, 30 * NUM).reshape(300, NUM)
  places = np.argsort(epochs, 1).mean(0)  # of each image; std of a mean is 10.7 / sqrt(300)
  np.testing.assert_allclose(places, (NUM - 1) / 2, atol=5 * 10.7 / 300**0.5)


def test_order_mixes_a_source_sorted_by_class():
  """A batch holds each class as often as drawing without replacement does, not in runs."""
  num, size = 1344, 64
  label = (np.arange(num) * 10 // num).astype(np.int32)
  source = data.in_memory((np.zeros((num, 1, 1, 1), np.uint8), label), None, (), 'none')
  stream = data.stream(source, 0, 0, (1, size), np.arange(size))
  batches = [next(stream)['label'][0] for _ in range(30 * num // size)]
  counts = np.stack([np.bincount(batch, minlength=10) for batch in batches])
  hypergeometric = size * 0.1 * 0.9 * (num - size) / (num - 1)
  np.testing.assert_allclose(counts.var() / hypergeometric, 1, atol=0.15)


def test_seeds_and_distant_epochs_differ(counted):
  first = labels(counted, 3)
  np.testing.assert_array_equal(first, labels(counted, 3))
  assert (first != labels(counted, 3, seed=1)).any()
  assert (first != labels(counted, 3, position=10 * NUM * 2**31)).any()


@pytest.mark.parametrize('position', [10, 40, 380, 3_000_000_000 * 10])
def test_resuming_goes_on_where_the_stream_was(counted, position):
  whole = labels(counted, 8, position=position - 10)
  np.testing.assert_array_equal(whole[1:], labels(counted, 7, position=position))


@pytest.mark.parametrize('split', [[[0, 1, 2], [3, 4]], [[0, 2, 4], [1, 3]], [[4], [0, 1, 2, 3]]])
def test_hosts_together_see_what_one_sees(counted, split):
  whole = labels(counted, 9)
  for rows in split:
    np.testing.assert_array_equal(labels(counted, 9, rows=np.array(rows)), whole[:, :, rows])


def test_types_and_shapes(counted):
  batch = next(data.stream(counted, 0, 0, BATCH, np.array([1, 3])))
  assert set(batch) == {'image', 'label'}
  assert batch['image'].shape == (2, 2, 4, 4, 3) and batch['image'].dtype == np.uint8
  assert batch['label'].shape == (2, 2) and batch['label'].dtype == np.int32
  np.testing.assert_array_equal(batch['image'][..., 0, 0, 0], batch['label'])


def pairs(images, labels):
  """How often each (image, label) occurs."""
  return collections.Counter(
    (image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)
  )


def test_streamed_digits_are_the_training_set(source):
  """One epoch, and its labels belong to its images."""
  stream = data.stream(source, 3, 0, (1, source.num_train), np.arange(source.num_train))
  batch = next(stream)
  assert batch['image'].shape == (1, source.num_train, 16, 16, 1)
  assert batch['image'].dtype == np.uint8 and batch['label'].dtype == np.int32
  assert pairs(batch['image'][0], batch['label'][0]) == pairs(*source.train())


def test_digits_are_the_real_ones():
  """Nothing is lost at their own size: all 1,797 of them, in 17 grey levels, once."""
  sklearn = pytest.importorskip('sklearn.datasets')
  raw, numbers = sklearn.load_digits(return_X_y=True)
  config = configs.read('digits').data
  config.resolution = 8
  source = data.load(config)
  assert source.class_names == tuple('0123456789')
  together = pairs(*source.train()) + pairs(*source.held_out())
  expected = np.rint(raw.reshape(-1, 8, 8, 1) / 16 * 255).astype(np.uint8)
  assert sum(together.values()) == 1797
  assert together == pairs(expected, numbers)


def test_held_out_is_a_stratified_share(source):
  train, held_out = source.train()[1], source.held_out()[1]
  assert len(train) == source.num_train
  for label in range(10):
    of_class = (train == label).sum(), (held_out == label).sum()
    assert abs(of_class[1] - 0.25 * sum(of_class)) <= 0.5
  # Disjoint: the data set has no two equal images.
  assert not pairs(*source.train()) & pairs(*source.held_out())


def test_held_out_is_the_same_in_every_process():
  """A run resumed on another machine must not train on them: this is the first run's split."""
  mask = digits.held_out_mask(np.arange(40) % 4, 0.25)
  assert np.flatnonzero(mask).tolist() == [4, 10, 11, 15, 20, 22, 25, 29]
  config = configs.read('digits').data
  config.resolution = 8  # the raw pixels
  digest = hashlib.sha256(data.load(config).held_out()[0].tobytes()).hexdigest()
  assert digest.startswith('5bec934df6366431')


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'source': 'digit'}, ["data.source is 'digit'", 'did you mean digits?']),
    ({'source': 'no_such:thing'}, ["'no_such:thing'", 'expected one of: ', 'digits']),
    ({'source': 'digits:5'}, ['takes no argument', "'5'"]),
    ({'num_classes': 7}, ['data.num_classes is 7', '10 classes']),
    ({'channels': 3}, ['data.channels is 3', 'use 1']),
  ],
)
def test_errors_say_what_is_wrong(change, words):
  config = configs.read('digits').data
  config.update(change)
  with pytest.raises(utils.UserError) as error:
    data.load(config)
  assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
  ('module', 'call'),
  [
    ('tensorflow', lambda: data.tensorflow()),
    ('sklearn.datasets', lambda: data.load(configs.read('digits').data)),
  ],
)
def test_a_missing_package_is_named_with_its_cure(monkeypatch, module, call):
  monkeypatch.setitem(sys.modules, module, None)  # importing it raises ImportError
  with pytest.raises(utils.UserError, match=r"not installed; run: pip install 'bigjax\[train\]'"):
    call()
