"""Images, labels and their order are a function of (seed, position); every kind of source."""

import dataclasses
import hashlib
import itertools
import os
import re
import sys
import threading
import time

import ml_collections
import numpy as np
import pytest
from scipy import stats

from bigjax import data
from bigjax.algorithms.base import configs
from bigjax.core import errors
from bigjax.data.reading import random_access, tfrecord
from bigjax.evaluation import image_sets

from pictures import pairs

NUM = 37  # images; no multiple of 10, so that most epochs end inside a step
BATCH = (2, 5)
ALL = np.arange(5)


@pytest.fixture(scope='module')
def counted():
  """A source in which image i has the label i."""
  labels = np.arange(NUM, dtype=np.int32)
  images = np.broadcast_to(labels[:, None, None, None], (NUM, 4, 4, 3)).astype(np.uint8)
  return data.in_memory((images, labels), (images, labels), tuple(map(str, labels)), 'none')


COUNTS = np.tile([1, 2, 3, 5], 40)  # labels of each image


@pytest.fixture(scope='module')
def several():
  """A source in which image i has the labels 10 i, 10 i + 1, ...: COUNTS[i] of them."""
  images = np.arange(160, dtype=np.uint8)[:, None, None, None]
  labels = np.arange(160, dtype=np.int32)[:, None] * 10 + np.arange(5, dtype=np.int32)
  labels = np.where(np.arange(5) < COUNTS[:, None], labels, -1)
  return data.in_memory((images, labels), (images, labels), (), 'none')


@pytest.fixture(scope='module')
def source():
  return data.load(configs.read('digits').data)


def config(**changes):
  """A config for two classes of grey 4 x 4 images, but for the changes."""
  plain = {
    'data_dir': '',
    'resolution': 4,
    'channels': 1,
    'frames': 0,
    'num_classes': 2,
    'held_out': 0.25,
    'fraction': 1.0,
    'per_class': 0,
    'imbalance': 1.0,
    'crop': 'center',
    'flip': False,
  }
  return ml_collections.ConfigDict({**plain, **changes})


def labels(source, num_steps, seed=0, position=0, rows=ALL):
  """The labels of the next steps: [num_steps, 2, rows]."""
  stream = data.stream(source, seed, position, BATCH, rows)
  return np.stack([batch['label'] for batch in itertools.islice(stream, num_steps)])


# The last starts at an epoch above 2**31, and 3.7e10 images are ten 32-bit counters' worth.
def test_further_sizes_are_means_of_the_same_images(source):
  """As `shrunk` makes them of what the run sees at full size; a size need not be there itself."""
  batches = lambda **asked: next(data.stream(source, 3, 10, BATCH, ALL, True, **asked))
  whole, sized = batches(), batches(sizes={'image': 8, 'small': 4, 'large': 16})
  assert set(sized) == {'image', 'small', 'large', 'label'}
  np.testing.assert_array_equal(sized['large'], whole['image'])
  np.testing.assert_array_equal(sized['label'], whole['label'])
  for name, side in (('image', 8), ('small', 4)):
    assert sized[name].shape == (2, 5, side, side, 1) and sized[name].dtype == np.uint8
    np.testing.assert_array_equal(sized[name], data.shrunk(whole['image'], side))
  clips = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4, 1)
  want = clips.reshape(2, 3, 2, 2, 2, 2).astype(float).mean((3, 5))[..., None]
  np.testing.assert_array_equal(data.shrunk(clips, 2), np.rint(want))


@pytest.mark.parametrize('wanted', [3, 32])
def test_a_size_that_is_no_mean_is_refused(wanted):
  data.check_size(16, 8, 'a stage')
  with pytest.raises(errors.UserError, match=f'a stage has {wanted} px.*a multiple of {wanted}'):
    data.check_size(16, wanted, 'a stage')


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
  everything = np.zeros((num, 1, 1, 1), np.uint8), label
  source = data.in_memory(everything, everything, (), 'none')
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


@pytest.mark.parametrize('kind', ['counted', 'several'])
@pytest.mark.parametrize('position', [10, 40, 380, 3_000_000_000 * 10])
def test_resuming_goes_on_where_the_stream_was(request, kind, position):
  source = request.getfixturevalue(kind)
  whole = labels(source, 8, position=position - 10)
  np.testing.assert_array_equal(whole[1:], labels(source, 7, position=position))


@pytest.mark.parametrize('kind', ['counted', 'several'])
@pytest.mark.parametrize('split', [[[0, 1, 2], [3, 4]], [[0, 2, 4], [1, 3]], [[4], [0, 1, 2, 3]]])
def test_hosts_together_see_what_one_sees(request, kind, split):
  source = request.getfixturevalue(kind)
  whole = labels(source, 9)
  for rows in split:
    np.testing.assert_array_equal(labels(source, 9, rows=np.array(rows)), whole[:, :, rows])


@pytest.fixture(scope='module')
def visits(several):
  """(image, which of its labels) of 300 epochs in their order, from a distant position."""
  stream = data.stream(several, 1, 160 * 2**33, (6, 4000), np.arange(4000))
  batches = list(itertools.islice(stream, 2))
  image = np.concatenate([batch['image'].reshape(-1) for batch in batches]).astype(int)
  drawn = np.concatenate([batch['label'].reshape(-1) for batch in batches])
  np.testing.assert_array_equal(drawn // 10, image)  # a label of its own image, never -1
  return image, drawn % 10


@pytest.mark.parametrize('count', [1, 2, 3, 5])
def test_each_label_of_an_image_is_drawn_equally_often(visits, count):
  """In 300 visits of each of 40 images, and whatever was drawn in the epoch before."""
  image, drawn = visits
  drawn = np.stack([drawn[image == i] for i in np.flatnonzero(count == COUNTS)])
  assert drawn.shape == (40, 300) and drawn.max() == count - 1
  if count > 1:
    of_image = np.stack([np.bincount(row, minlength=count) for row in drawn])
    square = ((of_image - 300 / count) ** 2).sum() / (300 / count)
    assert 1e-3 < stats.chi2.sf(square, 40 * (count - 1)) < 1 - 1e-3
    assert stats.chisquare(of_image.sum(0)).pvalue > 1e-3
    after = np.bincount((drawn[:, :-1] * count + drawn[:, 1:]).reshape(-1), minlength=count**2)
    assert stats.chisquare(after).pvalue > 1e-3


@pytest.mark.parametrize('lag', [1, 2, 8])
def test_draws_of_neighbours_are_independent(visits, lag):
  """Of images with two labels: what one is given says nothing about those after it."""
  drawn = np.where(COUNTS[visits[0]] == 2, visits[1], -1)
  before, after = drawn[:-lag], drawn[lag:]
  both = (before >= 0) & (after >= 0)
  table = np.bincount(2 * before[both] + after[both], minlength=4)
  assert table.sum() > 1000
  assert stats.chisquare(table).pvalue > 1e-3


def test_another_seed_draws_other_labels():
  """Of images that come in the same order, there being one only."""
  one = (np.zeros((1, 1, 1, 1), np.uint8), np.array([[0, 1, 2]], np.int32))
  drawn = [labels(data.in_memory(one, one, (), ''), 9, seed=seed).reshape(-1) for seed in (0, 1)]
  assert 0.15 < (drawn[0] == drawn[1]).mean() < 0.55  # 1/3 by chance


def test_padding_may_stand_anywhere():
  one = (np.zeros((1, 1, 1, 1), np.uint8), np.array([[-1, 3, -1, 7]], np.int32))
  drawn = labels(data.in_memory(one, one, (), ''), 30)
  assert drawn.dtype == np.int32 and set(drawn.reshape(-1)) == {3, 7}


def test_one_label():
  given = np.array([[4, 2, -1], [-1, 7, 6], [0, -1, -1]], np.int32)
  np.testing.assert_array_equal(data.one_label(given), [4, 7, 0])
  np.testing.assert_array_equal(data.one_label(given[:, 0]), given[:, 0])


@pytest.mark.parametrize('given', [[0, -1, 1], [[0, 2], [-1, -1], [1, -1]]])
@pytest.mark.parametrize('what', ['training', 'held-out'])
def test_an_image_without_a_label_is_refused(given, what):
  images, bad = np.zeros((3, 2, 2, 1), np.uint8), np.array(given, np.int32)
  good = np.zeros(3, np.int32)
  with pytest.raises(errors.UserError, match=f'1 of the 3 {what} images .* number 1'):
    data.in_memory(
      (images, bad if what == 'training' else good), (images, bad if what != 'training' else good),
      (), '',
    )  # fmt: skip


def test_no_images_are_refused():
  images, none = np.zeros((3, 2, 2, 1), np.uint8), np.zeros(3, np.int32)
  with pytest.raises(errors.UserError, match='no held-out images'):
    data.in_memory((images, none), (images[:0], none[:0]), (), '')


def test_arrays_are_no_constants_of_the_graph(counted):
  """Which TensorFlow limits to 2 GiB."""
  tf = data.tensorflow()
  indices = tf.TensorSpec([None], tf.int64)
  traced = tf.function(lambda i: counted.lookup(tf, i, None)).get_concrete_function(indices)
  assert traced.graph.as_graph_def().ByteSize() < counted.train()[0].nbytes
  np.testing.assert_array_equal(traced(tf.constant([5, 3], tf.int64))[1], [5, 3])


def test_the_number_of_classes_may_be_left_to_the_data():
  given = configs.read('digits').data
  given.num_classes = None
  assert len(data.load(given).class_names) == 10


@pytest.fixture(scope='module')
def pointing():
  """A source in which image i is i to the left and 100 + i to the right."""
  labels = np.arange(NUM, dtype=np.int32)
  sides = np.stack([labels, labels + 100], axis=-1)[:, None, :, None].astype(np.uint8)
  return data.in_memory((sides, labels), (sides, labels), tuple(map(str, labels)), 'none')


def mirrored(source, num_steps, seed=0, position=0, rows=ALL):
  """Which of the images of the next steps are mirrored: [num_steps, 2, rows], and their labels."""
  stream = data.stream(source, seed, position, BATCH, rows, flip=True)
  batches = list(itertools.islice(stream, num_steps))
  images, labels = (np.stack([batch[key] for batch in batches]) for key in ('image', 'label'))
  sides = images[..., 0, :, 0].astype(int)
  np.testing.assert_array_equal(sides.min(-1), labels)
  np.testing.assert_array_equal(sides.max(-1), labels + 100)
  return sides[..., 0] >= 100, labels


def test_half_of_the_images_are_mirrored(pointing):
  """Each image in about half of 60 epochs, whatever was drawn in the epoch before."""
  drawn, labels = (a.reshape(-1) for a in mirrored(pointing, 6 * NUM))
  assert stats.binomtest(int(drawn.sum()), len(drawn)).pvalue > 1e-3
  of_image = np.stack([drawn[labels == i] for i in range(NUM)])
  assert of_image.shape == (NUM, 60)
  square = ((of_image.sum(1) - 30) ** 2).sum() / 15
  assert 1e-3 < stats.chi2.sf(square, NUM) < 1 - 1e-3
  same = (of_image[:, 1:] == of_image[:, :-1]).sum()
  assert stats.binomtest(int(same), NUM * 59).pvalue > 1e-3
  other = mirrored(pointing, 6 * NUM, seed=1)[0].reshape(-1)
  assert 0.4 < (other == drawn).mean() < 0.6


@pytest.mark.parametrize('position', [10, 3_000_000_000 * 10])
def test_mirrors_resume_and_are_the_same_on_all_hosts(pointing, position):
  whole, _ = mirrored(pointing, 6, position=position - 10)
  np.testing.assert_array_equal(mirrored(pointing, 5, position=position)[0], whole[1:])
  rows = np.array([1, 4])
  of_rows, _ = mirrored(pointing, 6, position=position - 10, rows=rows)
  np.testing.assert_array_equal(of_rows, whole[:, :, rows])


def test_nothing_is_mirrored_unless_asked(pointing):
  batch = next(data.stream(pointing, 0, 0, (1, NUM), np.arange(NUM)))
  assert batch['image'][..., 0, 0].max() < 100


def test_types_and_shapes(counted):
  batch = next(data.stream(counted, 0, 0, BATCH, np.array([1, 3])))
  assert set(batch) == {'image', 'label'}
  assert batch['image'].shape == (2, 2, 4, 4, 3) and batch['image'].dtype == np.uint8
  assert batch['label'].shape == (2, 2) and batch['label'].dtype == np.int32
  np.testing.assert_array_equal(batch['image'][..., 0, 0, 0], batch['label'])


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
  given = configs.read('digits').data
  given.resolution = 8
  source = data.load(given)
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
  mask = data.held_out_mask(np.arange(40) % 4, 0.25)
  assert np.flatnonzero(mask).tolist() == [4, 10, 11, 15, 20, 22, 25, 29]
  given = configs.read('digits').data
  given.resolution = 8  # the raw pixels
  digest = hashlib.sha256(data.load(given).held_out()[0].tobytes()).hexdigest()
  assert digest.startswith('5bec934df6366431')


def test_held_out_has_some_of_every_class_but_never_all():
  given = np.repeat(np.arange(4), [1, 2, 2, 10])
  few, most = data.held_out_mask(given, 0.01), data.held_out_mask(given, 0.99)
  assert np.bincount(given[few], minlength=4).tolist() == [0, 1, 1, 1]
  assert np.bincount(given[most], minlength=4).tolist() == [0, 1, 1, 9]
  several = np.stack([given, given[::-1]], axis=1)  # the first of several labels decides
  np.testing.assert_array_equal(data.held_out_mask(several, 0.01), few)


# A share of the training images.


@pytest.fixture(scope='module')
def uneven():
  """A source in which image i has the shade i; 100, 40, 9 and 1 of four classes, interleaved."""
  labels = np.random.RandomState(0).permutation(np.repeat(np.arange(4), [100, 40, 9, 1]))
  labels = labels.astype(np.int32)
  images = np.arange(150, dtype=np.uint8)[:, None, None, None]
  return data.in_memory((images, labels), (images[:3], labels[:3]), tuple('abcd'), 'none')


def chosen(source):
  """The numbers of the training images, as `uneven` numbers them."""
  return set(source.train()[0].reshape(-1).tolist())


@pytest.mark.parametrize(
  ('fraction', 'per_class', 'counts'),
  [
    (0.1, 0, [10, 4, 1, 1]),
    (0.5, 0, [50, 20, 4, 1]),
    (0.001, 0, [1, 1, 1, 1]),
    (1.0, 7, [7, 7, 7, 1]),
    (0.1, 7, [7, 4, 1, 1]),
    (1.0, 1000, [100, 40, 9, 1]),
  ],
)
def test_a_share_of_every_class(uneven, fraction, per_class, counts):
  """Each class has one at least, labels stay with their images, and held-out images stay."""
  some = data.limit(uneven, config(fraction=fraction, per_class=per_class))
  assert some.num_train == sum(counts) and np.bincount(some.labels()).tolist() == counts
  images, labels = some.train()
  numbers = images.reshape(-1)
  assert len(set(numbers.tolist())) == len(numbers)
  np.testing.assert_array_equal(labels, uneven.labels()[numbers])
  np.testing.assert_array_equal(some.labels(), labels)
  for ours, theirs in zip(some.held_out(), uneven.held_out(), strict=True):
    np.testing.assert_array_equal(ours, theirs)
  batch = next(data.stream(some, 0, 0, (1, len(numbers)), np.arange(len(numbers))))
  assert pairs(batch['image'][0], batch['label'][0]) == pairs(images, labels)
  assert len(some.train(3)[0]) == 3


@pytest.mark.parametrize('shares', [[{'fraction': f} for f in (0.01, 0.1, 0.2, 0.7)],
                                    [{'per_class': n} for n in (1, 2, 30)]])  # fmt: skip
def test_shares_are_nested_and_always_the_same(uneven, shares):
  sources = [data.limit(uneven, config(**share)) for share in shares]
  sets = [chosen(source) for source in [*sources, uneven]]
  assert all(few < many for few, many in itertools.pairwise(sets))
  assert len({source.digest for source in [*sources, uneven]}) == len(sources) + 1
  for share, source in zip(shares, sources, strict=True):
    again = data.limit(uneven, config(**share))
    np.testing.assert_array_equal(again.train()[0], source.train()[0])
    assert again.digest == source.digest


def test_a_share_is_not_what_comes_first(uneven):
  labels = uneven.labels()
  tenth = data.limit(uneven, config(fraction=0.1))
  of_first = sorted(i for i in chosen(tenth) if labels[i] == 0)
  places = np.searchsorted(np.flatnonzero(labels == 0), of_first)
  assert len(places) == 10 and 30 < places.mean() < 70 and places.max() > 70


def test_a_share_is_the_same_in_every_process():
  """A run resumed on another machine must train on the same: this is the first run's."""
  labels = np.arange(40, dtype=np.int32) % 4
  images = np.arange(40, dtype=np.uint8)[:, None, None, None]
  source = data.in_memory((images, labels), (images, labels), tuple('abcd'), '')
  assert sorted(chosen(data.limit(source, config(fraction=0.2)))) == [4, 10, 11, 15, 20, 22, 25, 29]


def test_all_is_the_source_itself(uneven):
  assert data.limit(uneven, config()) is uneven


def test_digits_by_share():
  given = configs.read('digits').data
  whole = data.load(given)
  given.fraction = 0.1
  some = data.load(given)
  expected = [round(0.1 * count) for count in np.bincount(whole.labels()).tolist()]
  assert np.bincount(some.labels()).tolist() == expected
  np.testing.assert_array_equal(some.held_out()[0], whole.held_out()[0])
  assert not pairs(*some.train()) - pairs(*whole.train())


def test_one_label_in_all_images_is_refused():
  """Where there should be several classes."""
  images, same = np.zeros((9, 2, 2, 1), np.uint8), np.full(9, 1, np.int32)
  given = config(source='some:where')
  source = data.in_memory((images, same), (images, same), ('cat', 'dog'), '')
  with pytest.raises(errors.UserError, match=r'2 classes, but all 9 .* label 1 \(dog\)'):
    data.refuse_one_label(source, given)
  data.refuse_one_label(data.in_memory((images, same * 0), (images, same * 0), ('cat',), ''), given)


def test_a_rare_class_is_none_too_few():
  """However few of the images are not of the largest class."""
  labels = np.zeros(1000, np.int32)
  labels[[1, 998]] = 1
  images = np.zeros((1000, 1, 1, 1), np.uint8)
  source = data.in_memory((images, labels), (images, labels), ('cat', 'dog'), '')
  data.refuse_one_label(source, config(source='some:where'))


def test_of_one_class_labels_are_not_looked_at():
  given = configs.read('digits').data
  labelled = data.load(given)
  given.num_classes = 1
  source = data.load(given)
  assert source.class_names == ('all',) and source.class_counts() == [source.num_train]
  assert source.digest != labelled.digest
  for ours, theirs in (
    (source.train(5), labelled.train(5)),
    (source.held_out(), labelled.held_out()),
  ):
    np.testing.assert_array_equal(ours[0], theirs[0])
    assert not ours[1].any()
  batch = next(data.stream(source, 0, 0, (1, 8), np.arange(8)))
  assert not batch['label'].any()


def test_spread():
  assert data.subset(10, None).tolist() == data.subset(10, 99).tolist() == list(range(10))
  assert data.subset(10, 3).tolist() == [2, 4, 8]  # as in every process and session
  assert data.subset(10, 0).tolist() == []


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'source': 'digit'}, ["data.source is 'digit'", 'did you mean digits?']),
    ({'source': 'no_such:thing'}, ["'no_such:thing'", 'expected one of: ', 'digits']),
    ({'source': 'digits:5'}, ['takes no argument', "'5'"]),
    ({'num_classes': 7}, ['data.num_classes is 7', '10 classes']),
    ({'split': 'test'}, ["data.split is 'test'", 'only sets of tfds']),
    ({'channels': 3}, ['data.channels is 3', 'use 1']),
    ({'channels': 2}, ['data.channels is 2', '1 (grey) or 3 (colour)']),
    ({'crop': 'centre'}, ["data.crop is 'centre'", 'did you mean center?']),
    ({'fraction': 0.0}, ['data.fraction is 0', 'more than 0']),
    ({'fraction': 1.01}, ['data.fraction is 1.01', 'at most 1']),
    ({'per_class': -1}, ['data.per_class is -1', 'at least 0']),
  ],
)
def test_errors_say_what_is_wrong(change, words):
  given = configs.read('digits').data
  given.update(change)
  with pytest.raises(errors.UserError) as error:
    data.load(given)
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
  with pytest.raises(errors.UserError, match=r"not installed; run: pip install 'bigjax\[train\]'"):
    call()


def test_synthetic_is_the_same_everywhere():
  source = data.load(config(source='synthetic:6', resolution=8, channels=3))
  images = np.concatenate([source.train()[0], source.held_out()[0]])
  assert images.shape == (6, 8, 8, 3) and images.dtype == np.uint8
  assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == 'c5249165b7d81480'


@pytest.mark.parametrize(('num_classes', 'resolution', 'channels'), [(10, 16, 3), (128, 4, 1)])
def test_synthetic_classes_are_what_their_images_show(num_classes, resolution, channels):
  source = data.load(
    config(source='synthetic', resolution=resolution, channels=channels, num_classes=num_classes)
  )
  (images, numbers), (unseen, unseen_numbers) = source.train(), source.held_out()
  assert source.num_train == len(images) and len(images) + len(unseen) == 256
  assert set(numbers) == set(unseen_numbers) == set(range(num_classes))
  assert source.class_names[-1] == f'class {num_classes - 1}'
  assert len(pairs(images, numbers) + pairs(unseen, unseen_numbers)) == 256  # all differ
  means = np.stack([images[numbers == i].astype(float).mean(0) for i in range(num_classes)])
  gaps = ((unseen[:, None].astype(float) - means[None]) ** 2).sum((2, 3, 4))
  assert (gaps.argmin(1) == unseen_numbers).mean() > 0.9


def test_synthetic_has_ten_classes_where_none_are_asked_for():
  assert len(data.load(config(source='synthetic', num_classes=None)).class_names) == 10


def test_what_a_run_was_scored_on_has_its_classes():
  known = {'num_classes': 4, 'held_out': 0.5}
  splits = image_sets.open_source('synthetic:16', (8, 8, 3), '', known)
  assert splits['test'].num_classes == 4 and splits['test'].num == 8


def test_synthetic_images_are_smooth():
  """From one of four knots to the next, a quarter of the side or more, is at most 255."""
  images = data.load(config(source='synthetic', resolution=31)).train()[0].astype(int)
  assert images.std() > 20
  for axis in (1, 2):
    assert abs(np.diff(images, axis=axis)).max() <= 255 / 10 + 1


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'source': 'synthetic:many'}, ["'synthetic:many'", 'as in synthetic:256']),
    ({'source': 'synthetic:-9'}, ["'synthetic:-9'", 'as in synthetic:256']),
    ({'source': 'synthetic:3'}, ['makes 3 images', '2 classes', 'at least synthetic:4']),
    ({'source': 'synthetic', 'num_classes': 1000}, ['makes 256 images', 'synthetic:2000']),
    ({'source': 'synthetic:300000000'}, ['300,000,000 images', 'at most 4 GiB']),
  ],
)
def test_errors_of_synthetic_say_what_is_wrong(change, words):
  with pytest.raises(errors.UserError) as error:
    data.load(config(**change))
  assert all(word in str(error.value) for word in words), str(error.value)


def test_some_of_many_hold_every_class():
  """Also where classes alternate, which evenly spaced images would miss."""
  picked = data.subset(8000, 4000)
  assert len(set(picked)) == 4000 and (np.diff(picked) > 0).all()
  counts = np.bincount(picked % 10, minlength=10)
  assert (abs(counts - 400) < 5 * (400 * 0.9 * 0.5) ** 0.5).all()
  np.testing.assert_array_equal(picked, data.subset(8000, 4000))


# Under load.


def stalling(gate, asked, num=8):
  """A source whose images come only once a gate is open."""
  images = np.arange(num, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 4, 4, 1), np.uint8)
  labels = np.arange(num, dtype=np.int32) % 2
  whole = data.in_memory((images, labels), (images, labels), ('a', 'b'), 'none')

  def lookup(tf, indices, chance):
    def wait(number):
      asked.set()
      gate.wait(60)
      return number

    indices = tf.ensure_shape(tf.numpy_function(wait, [indices], tf.int64), indices.shape)
    return whole.lookup(tf, indices, chance)

  return dataclasses.replace(whole, lookup=lookup, name='nfs:/slow')


def test_a_source_that_stalls_is_waited_for_and_named(monkeypatch, capfd):
  """Training waits as long as it takes, saying so after a minute, then two, four, ...; then it
  goes on with the image that was due. (The log shows the share of time spent waiting.)"""
  monkeypatch.setattr(random_access, 'PATIENCE', 0.2)
  gate, asked, got = threading.Event(), threading.Event(), []
  stream = data.stream(stalling(gate, asked), 0, 0, (1, 4), np.arange(4))
  thread = threading.Thread(target=lambda: got.append(next(stream)))
  thread.start()
  assert asked.wait(60)
  time.sleep(1.2)
  gate.set()
  thread.join(60)
  lines = [line for line in capfd.readouterr().err.splitlines() if 'waiting' in line]
  assert 2 <= len(lines) <= 4 and re.fullmatch(
    r'waiting for data since [0-9]+s: nfs:/slow', lines[0]
  )
  expected = next(data.stream(stalling(gate, asked), 0, 0, (1, 4), np.arange(4)))
  np.testing.assert_array_equal(got[0]['image'], expected['image'])


def test_what_comes_in_time_is_not_waited_for(monkeypatch, counted, capfd):
  """However long the trainer takes between two steps; and no thread is left behind."""
  monkeypatch.setattr(random_access, 'PATIENCE', 0.2)
  others = set(threading.enumerate())  # of streams that tests before it still hold
  stream = random_access.watched(iter([1, 2]), 'x')
  assert next(stream) == 1
  time.sleep(0.5)
  assert list(stream) == [2] and 'waiting' not in capfd.readouterr().err
  watched = random_access.watched(iter([1, 2]), 'x')
  next(watched)
  del watched
  left = lambda: [one for one in {*threading.enumerate()} - others if one.name == 'data-watch']
  until = time.monotonic() + 30
  while left() and time.monotonic() < until:
    time.sleep(0.05)
  assert not left()


def test_a_source_knows_its_name(source):
  assert source.name == 'digits'


def test_a_batch_of_several_epochs():
  """Where an epoch is smaller than a global batch, the batch holds several, each a permutation of
  all images: none is seen more than once more often than another, and a last batch is never cut."""
  images, labels = np.arange(3, dtype=np.uint8), np.arange(3, dtype=np.int32)
  arrays = images[:, None, None, None], labels
  few = data.in_memory(arrays, arrays, ('a', 'b', 'c'), 'none')
  stream = data.stream(few, 5, 0, (2, 4), np.arange(4))
  seen = np.stack([next(stream)['label'] for _ in range(30)])
  assert seen.shape == (30, 2, 4)
  epochs = seen.reshape(-1, 3)
  np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(3), (80, 1)))
  assert len({tuple(epoch) for epoch in epochs}) == 6
  of_one_host = next(data.stream(few, 5, 8 * 7, (2, 4), np.array([1, 3])))
  np.testing.assert_array_equal(of_one_host['label'], seen[7][:, [1, 3]])


def test_a_digest_is_of_contents():
  """Another byte, label or order is another."""

  def digest(given, labels):
    picture = lambda tf, i: (tf.constant(given)[i], tf.constant(1), tf.constant(labels)[i])
    return data.pictures_digest(picture, len(given), str)

  first = digest([b'ab', b'c'], [0, 1])
  others = [([b'ab', b'd'], [0, 1]), ([b'ab', b'c'], [0, 0]), ([b'c', b'ab'], [0, 1])]
  others += [([b'a', b'bc'], [0, 1]), ([b'ab', b'c', b''], [0, 1, 0])]
  assert digest([b'ab', b'c'], [0, 1]) == first
  assert len({first, *(digest(*other) for other in others)}) == 6


def test_a_file_that_is_replaced_is_another(tmp_path):
  """Of the same name, size and time of change, written in place or put in its place."""
  path, found = tmp_path / 'x', []
  for i, content in enumerate((b'one', b'two', b'six')):
    target = tmp_path / 'y' if i == 2 else path
    target.write_bytes(content)
    os.utime(target, ns=(0, 0))
    os.replace(target, path)
    found.append(tfrecord.fingerprint([str(path)]))
  assert len(set(found)) == 3
