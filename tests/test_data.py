"""Images, labels and their order are a function of (seed, position); every kind of source."""

import ast
import collections
import hashlib
import itertools
import pathlib
import re
import sys

import ml_collections
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from bigjax import config as configs
from bigjax import data, utils

PREPARED = pathlib.Path(__file__).parents[2] / 'shared' / 'data' / 'tfds'
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
  plain = {'data_dir': '', 'resolution': 4, 'channels': 1, 'num_classes': 2, 'held_out': 0.25}
  return ml_collections.ConfigDict({**plain, **changes})


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
  with pytest.raises(utils.UserError, match=f'1 of the 3 {what} images .* number 1'):
    data.in_memory(
      (images, bad if what == 'training' else good), (images, bad if what != 'training' else good),
      (), '',
    )  # fmt: skip


def test_no_images_are_refused():
  images, none = np.zeros((3, 2, 2, 1), np.uint8), np.zeros(3, np.int32)
  with pytest.raises(utils.UserError, match='no held-out images'):
    data.in_memory((images, none), (images[:0], none[:0]), (), '')


def test_arrays_are_no_constants_of_the_graph(counted):
  """Which TensorFlow limits to 2 GiB."""
  tf = data.tensorflow()
  indices = tf.TensorSpec([None], tf.int64)
  traced = tf.function(lambda i: counted.lookup(tf, i)).get_concrete_function(indices)
  assert traced.graph.as_graph_def().ByteSize() < counted.train()[0].nbytes
  np.testing.assert_array_equal(traced(tf.constant([5, 3], tf.int64))[1], [5, 3])


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
  given = configs.read('digits').data
  given.update(change)
  with pytest.raises(utils.UserError) as error:
    data.load(given)
  assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
  ('module', 'call'),
  [
    ('tensorflow', lambda: data.tensorflow()),
    ('sklearn.datasets', lambda: data.load(configs.read('digits').data)),
    ('tensorflow_datasets', lambda: data.load(config(source='tfds:cifar10'))),
  ],
)
def test_a_missing_package_is_named_with_its_cure(monkeypatch, module, call):
  monkeypatch.setitem(sys.modules, module, None)  # importing it raises ImportError
  with pytest.raises(utils.UserError, match=r"not installed; run: pip install 'bigjax\[train\]'"):
    call()


def rng_image(*shape):
  return np.random.RandomState(sum(shape)).randint(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize(('size', 'resolution'), [(3, 2), (7, 5), (5, 1), (8, 4), (28, 16), (6, 6)])
def test_reducing_averages_the_area(size, resolution, channels):
  """Against the mean of a picture in which every pixel is resolution x resolution smaller ones."""
  image = rng_image(size, size, channels)
  fine = np.kron(image.astype(np.int64), np.ones((resolution, resolution, 1), np.int64))
  sums = fine.reshape(resolution, size, resolution, size, channels).sum((1, 3))
  expected = np.floor(sums / size**2 + 0.5)
  np.testing.assert_array_equal(data.fit(image, resolution, channels), expected)


def test_reducing_by_hand():
  """Of 0, 90, 30 the first half is 0 and half of 90, the other half of 90 and 30."""
  image = np.tile(np.array([0, 90, 30], np.uint8), (3, 1))[..., None]
  np.testing.assert_array_equal(data.fit(image, 2, 1)[..., 0], [[30, 50], [30, 50]])


def test_enlarging_is_bicubic():
  image = rng_image(5, 5, 3)
  expected = Image.fromarray(image).resize((9, 9), Image.Resampling.BICUBIC)
  np.testing.assert_array_equal(data.fit(image, 9, 3), np.asarray(expected))


@pytest.mark.parametrize('resolution', [2, 4, 8])
@pytest.mark.parametrize('shape', [(4, 8), (8, 4), (4, 7), (7, 4)])
def test_the_centre_square_is_kept(shape, resolution):
  """A bright square in the middle of the long edge fills the picture; nothing else is seen."""
  image = np.zeros((*shape, 1), np.uint8)
  top, left = (shape[0] - 4) // 2, (shape[1] - 4) // 2
  image[top : top + 4, left : left + 4] = 200
  np.testing.assert_array_equal(
    data.fit(image, resolution, 1), np.full((resolution,) * 2 + (1,), 200)
  )


def test_grey_and_colour():
  """The luma weights of ITU-R 601: 0.299, 0.587, 0.114."""
  colours = np.zeros((2, 2, 3), np.uint8)
  colours[0, 0, 0] = colours[0, 1, 1] = colours[1, 0, 2] = 255
  grey = data.fit(colours, 2, 1)
  np.testing.assert_array_equal(grey[..., 0], [[76, 150], [29, 0]])
  np.testing.assert_array_equal(data.fit(grey, 2, 3), np.repeat(grey, 3, axis=2))
  np.testing.assert_array_equal(data.fit(colours, 2, 3), colours)


def prepare(folder, name, shape, **splits):
  """Prepare a set in a folder as TFDS does; a split is images, labelled 0, 1, 0, ... in turn.

  Args:
    folder, name: of the set.
    shape: of the images, as TFDS is told it.
    splits: lists of images; a `label` that is False leaves the labels out.
  """
  import tensorflow_datasets as tfds

  tfds.disable_progress_bar()
  labelled = splits.pop('labelled', True)
  label = {'label': tfds.features.ClassLabel(names=['cat', 'dog'])} if labelled else {}
  features = {'image': tfds.features.Image(shape=shape), 'other': tfds.features.Text(), **label}

  def info(self):
    features_dict = tfds.features.FeaturesDict(features)
    return tfds.core.DatasetInfo(builder=self, features=features_dict, homepage='https://x.org/y')

  def examples(self, images):
    for i, image in enumerate(images):
      yield i, {'image': image, 'other': 'word', **({'label': i % 2} if labelled else {})}

  members = {
    'name': name,
    'VERSION': tfds.core.Version('1.2.3'),
    '_info': info,
    '_split_generators': lambda self, _: {k: self._generate_examples(v) for k, v in splits.items()},
    '_generate_examples': examples,
  }
  type(name, (tfds.core.GeneratorBasedBuilder,), members)(data_dir=folder).download_and_prepare()


GREY = [rng_image(4, 4, 1) // 2 + i for i in range(12)]  # all differ
COLOUR = [rng_image(5 + i % 3, 6 + i % 2, 3) // 2 + i for i in range(12)]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Small sets, prepared."""
  pytest.importorskip('tensorflow_datasets')
  data.tensorflow()
  folder = str(tmp_path_factory.mktemp('tfds'))
  prepare(folder, 'tiny_grey', (4, 4, 1), train=GREY, test=GREY[:3], validation=GREY[:5])
  prepare(folder, 'tiny_valid', (4, 4, 1), train=GREY, validation=GREY[:5])
  prepare(folder, 'tiny_colour', (None, None, 3), train=COLOUR)
  prepare(folder, 'tiny_unlabelled', (4, 4, 1), train=GREY, labelled=False)
  prepare(folder, 'tiny_test', (4, 4, 1), test=GREY)
  return folder


@pytest.mark.parametrize(('name', 'num_held_out'), [('tiny_grey', 3), ('tiny_valid', 5)])
def test_a_prepared_set_with_its_own_split(folder, name, num_held_out):
  source = data.load(config(source=f'tfds:{name}', data_dir=folder))
  assert source.class_names == ('cat', 'dog')
  assert source.license == f'see the dataset {name}/1.2.3 (https://x.org/y)'
  assert source.num_train == 12
  assert source.train()[0].dtype == np.uint8 and source.train()[1].dtype == np.int32
  assert pairs(*source.train()) == pairs(GREY, np.arange(12) % 2)
  assert pairs(*source.held_out()) == pairs(GREY[:num_held_out], np.arange(num_held_out) % 2)


@pytest.mark.parametrize(('resolution', 'channels'), [(4, 1), (4, 3), (9, 3)])
def test_a_prepared_set_without_a_second_split(folder, resolution, channels):
  """Of images of several sizes; the same ones are held out again."""
  given = config(source='tfds:tiny_colour', data_dir=folder, resolution=resolution)
  given.channels = channels
  source, again = data.load(given), data.load(given)
  together = pairs(*source.train()) + pairs(*source.held_out())
  fitted = [data.fit(image, resolution, channels) for image in COLOUR]
  assert together == pairs(fitted, np.arange(12) % 2)
  assert np.bincount(source.held_out()[1]).tolist() == [2, 2]  # round(0.25 * 6)
  np.testing.assert_array_equal(source.held_out()[0], again.held_out()[0])
  np.testing.assert_array_equal(source.train()[0], again.train()[0])


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'source': 'tfds'}, ['needs the name', 'tfds:cifar10']),
    ({'source': 'tfds:tiny_gray'}, ["no set 'tiny_gray'", 'did you mean tiny_grey?', 'in {folder']),
    ({'source': 'tfds:tiny grey'}, ["'tfds:tiny grey'", 'Parsing']),
    ({'source': 'tfds:tiny_grey:9.9.9'}, ['9.9.9', '1.2.3']),
    (
      {'source': 'tfds:tiny_unlabelled'},
      ['image, other', "expected an 'image' and a class 'label'"],
    ),
    ({'source': 'tfds:tiny_test'}, ['has the splits test', "a 'train'"]),
    ({'channels': 2}, ['data.channels is 2', '1 (grey) or 3 (colour)']),
    ({'num_classes': 3}, ['data.num_classes is 3', '2 classes']),
    # 15 images: 12 to train on and 3 held out.
    ({'resolution': 2**14}, ["'tfds:tiny_grey' has 15 images, 3.8 GiB", 'at most 3 GiB']),
  ],
)
def test_errors_of_tfds_say_what_is_wrong(folder, monkeypatch, change, words):
  monkeypatch.setattr(data, 'MOST_GIB', 3)
  with pytest.raises(utils.UserError) as error:
    data.load(config(**{'source': 'tfds:tiny_grey', 'data_dir': folder, **change}))
  message = str(error.value)
  assert all(word.replace('{folder', repr(folder)) in message for word in words), message
  assert '\n' not in message


def test_a_set_that_is_not_prepared(folder, tmp_path):
  """What to run is given whole: here it is, but for the preparation itself."""
  with pytest.raises(utils.UserError, match='is not prepared in') as error:
    data.load(config(source='tfds:tiny_grey', data_dir=str(tmp_path)))
  message = str(error.value)
  assert (
    repr(str(tmp_path / 'tiny_grey' / '1.2.3')) in message and '--config.data.data_dir' in message
  )
  program = re.fullmatch(r".*: python -c '([^']*)'", message)[1]
  call = ast.parse(program).body[-1].value
  assert ast.unparse(call) == (
    f"tfds.builder('tiny_grey', data_dir={str(tmp_path)!r}).download_and_prepare()"
  )


# The mean of a channel over the whole of either set, as published with many a classifier.
@pytest.mark.parametrize(
  ('name', 'resolution', 'channels', 'mean'),
  [('fashion_mnist', 16, 1, [0.2860]), ('cifar10', 32, 3, [0.4914, 0.4822, 0.4465])],
)
def test_the_real_sets(name, resolution, channels, mean):
  """Averaging the area of a square keeps its mean."""
  if not (PREPARED / name).exists():
    pytest.skip(f'{name} is not prepared in ../shared/data/tfds')
  source = data.load(
    config(
      source=f'tfds:{name}', data_dir=str(PREPARED), resolution=resolution, channels=channels,
      num_classes=10,
    )
  )  # fmt: skip
  images, numbers = source.train()
  assert images.shape == (20_000, resolution, resolution, channels)
  assert np.bincount(numbers).tolist() == [2000] * 10
  np.testing.assert_allclose(images.mean((0, 1, 2)) / 255, mean, atol=0.003)
  assert len(source.held_out()[1]) == 10_000


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
  with pytest.raises(utils.UserError) as error:
    data.load(config(**change))
  assert all(word in str(error.value) for word in words), str(error.value)
