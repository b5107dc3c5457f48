"""TensorFlow Datasets: both of its file formats, whole and damaged, in memory and by number."""

import ast
import io
import itertools
import json
import re
import shutil
import sys

import ml_collections
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from bigjax import data
from bigjax.core import errors
from bigjax.data.reading import tfrecord
from bigjax.data.sources import tfds as ours

import places
from pictures import check_levels, encoded, noise, pairs, smooth, square

tfds = pytest.importorskip('tensorflow_datasets')

PREPARED = places.SHARED / 'data' / 'tfds'
FORMATS = ('array_record', 'tfrecord')
SIZE = 8


def config(name, folder, **changes):
  """A config for a prepared set, at 8 x 8 in colour, but for the changes."""
  plain = {
    'source': f'tfds:{name}',
    'data_dir': str(folder),
    'resolution': SIZE,
    'channels': 3,
    'frames': 0,
    'num_classes': None,
    'held_out': 0.25,
    'fraction': 1.0,
    'per_class': 0,
    'imbalance': 1.0,
    'crop': 'center',
    'flip': False,
  }
  return ml_collections.ConfigDict({**plain, **changes})


def feature(shape=(None, None, 3), names=('cat', 'dog')):
  """What TFDS is told of a set: images of this shape, and labels unless there are no names."""
  label = {'label': tfds.features.ClassLabel(names=list(names))} if names else {}
  return {'image': tfds.features.Image(shape=shape), 'other': tfds.features.Text(), **label}


def prepare(folder, name, splits, features, file_format='tfrecord', num_shards=1, register=False):
  """Prepare a set in a folder as TFDS does.

  Args:
    folder, name: of the set.
    splits: {name: [(image, as an array or as bytes, label)]}.
    features: of `feature`, called only here: TFDS does not let them be used twice.
    file_format, num_shards: of its files.
    register: whether TFDS shall know the set where it is not prepared.
  """

  def info(self):
    of_all = tfds.features.FeaturesDict(features)
    return tfds.core.DatasetInfo(builder=self, features=of_all, homepage='https://x.org/y')

  def examples(self, rows):
    for i, (image, label) in enumerate(rows):
      yield i, {'image': image, 'other': 'w', **({'label': label} if 'label' in features else {})}

  members = {
    'name': name,
    'VERSION': tfds.core.Version('1.2.3'),
    '_info': info,
    '_split_generators': lambda self, _: {k: self._generate_examples(v) for k, v in splits.items()},
    '_generate_examples': examples,
  }
  tfds.disable_progress_bar()
  base = (tfds.core.GeneratorBasedBuilder,)
  if register:
    kind = type(name, base, members)
  else:
    with tfds.core.registered.skip_registration():
      kind = type(name, base, members)
  how = tfds.download.DownloadConfig(num_shards=num_shards)
  kind(data_dir=str(folder), file_format=file_format).download_and_prepare(download_config=how)


def mixed(num, first=0):
  """So many pictures of several sizes, JPEG and PNG in turn, and their labels, by threes."""
  rows = []
  for i in range(first, first + num):
    size = 10 + i % 5, 9 + i % 7
    picture = Image.fromarray((np.asarray(smooth(*size)) // 2 + i).astype(np.uint8))
    rows.append((encoded(picture, 'JPEG' if i % 3 else 'PNG'), i // 3 % 2))
  return rows


GREY = [(noise(4, 4, 1) // 2 + i, i % 2) for i in range(12)]  # all differ


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """A folder for each format with the sets `mixed` (three shards), and `whole` without a test."""
  data.tensorflow()
  folders = {}
  for kind in FORMATS:
    folders[kind] = tmp_path_factory.mktemp(kind)
    splits = {'train': mixed(25), 'test': mixed(7, 25), 'validation': mixed(4)}
    prepare(folders[kind], 'mixed', splits, feature(), kind, 3)
    prepare(folders[kind], 'whole', {'train': mixed(24)}, feature(), kind, 2)
  return folders


@pytest.fixture(scope='module')
def small(tmp_path_factory):
  """A folder of small sets."""
  data.tensorflow()
  folder, grey = tmp_path_factory.mktemp('small'), (4, 4, 1)
  prepare(
    folder, 'tiny_grey', {'train': GREY, 'validation': GREY[:5]}, feature(grey), register=True
  )
  prepare(folder, 'tiny_unlabelled', {'train': GREY}, feature(grey, ()))
  prepare(folder, 'tiny_test', {'test': GREY}, feature(grey))
  prepare(folder, 'tiny_same', {'train': [(image, 1) for image, _ in GREY]}, feature(grey))
  prepare(folder, 'tiny_empty', {'train': GREY, 'test': GREY}, feature(grey))
  about = folder / 'tiny_empty' / '1.2.3' / 'dataset_info.json'
  given = json.loads(about.read_text())
  (test,) = (split for split in given['splits'] if split['name'] == 'test')
  test['shardLengths'] = ['0']
  about.write_text(json.dumps(given))
  deep = {'image': tfds.features.Image(shape=grey, dtype=np.uint16)}
  prepare(folder, 'tiny_deep', {'train': [(np.zeros(grey, np.uint16), 0)] * 4}, feature() | deep)
  return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """A cache of each test's own."""
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path / 'cache'))
  return tmp_path / 'cache' / 'data'


def refusal(call):
  """The one sentence with which something is refused."""
  with pytest.raises(errors.UserError) as error:
    call()
  message = str(error.value)
  assert '\n' not in message
  assert not re.search('node|device:CPU|Traceback|File "', message), message
  return message


def pictured(rows, channels=3):
  """What the networks are to see of encoded pictures."""
  images = [Image.open(io.BytesIO(given)).convert('RGB') for given, _ in rows]
  return [square(np.asarray(image), SIZE, channels) for image in images]


@pytest.fixture(scope='module')
def four(prepared):
  """The set of either format, in memory and by number: {(format, in memory): what it gives}."""
  out = {}
  with pytest.MonkeyPatch.context() as patch:
    for kind, most in itertools.product(FORMATS, (512, 0)):
      patch.setattr(ours, 'MOST_MIB', most)
      source = data.load(config('mixed', prepared[kind]))
      stream = data.stream(source, 3, 170, (2, 8), np.array([0, 1, 2, 5, 7]), flip=True)
      out[kind, most > 0] = source, source.train(), source.held_out(), next(stream)
  return out


@pytest.mark.parametrize('in_memory', [True, False])
@pytest.mark.parametrize('kind', FORMATS)
def test_both_formats_either_way(four, kind, in_memory):
  """Give the same images, labels, digest and stream, which are those that were written."""
  source, train, held_out, batch = four[kind, in_memory]
  first, *arrays, expected = four['tfrecord', True]
  assert source.at_once == in_memory
  assert source.num_train == 25 and source.class_names == ('cat', 'dog')
  assert source.digest == first.digest and source.findings == first.findings
  for ours_, theirs in zip((train, held_out), arrays, strict=True):
    for array, other in zip(ours_, theirs, strict=True):
      assert array.dtype == other.dtype
      np.testing.assert_array_equal(array, other)
  np.testing.assert_array_equal(source.labels(), train[1])
  for name, array in batch.items():
    np.testing.assert_array_equal(array, expected[name])


def test_the_images_are_those_that_were_written(four):
  source, train, held_out, _ = four['tfrecord', True]
  for (images, labels), rows in ((train, mixed(25)), (held_out, mixed(7, 25))):
    assert images.dtype == np.uint8 and labels.dtype == np.int32
    assert pairs(images, labels) == pairs(pictured(rows), [label for _, label in rows])
  assert source.license == 'see the dataset mixed/1.2.3 (https://x.org/y)'
  words = r'the smallest of 25 images looked at is 9x1\d pixels, for data.resolution=8'
  (level, sentence), (other, shapes) = source.findings
  assert level == other == 'ok' and re.fullmatch(words, sentence)
  assert re.match(r'\d+ of 25 images looked at are not square: a square is cut out of', shapes)


@pytest.mark.parametrize('kind', FORMATS)
def test_a_set_with_one_split_is_divided(prepared, monkeypatch, kind):
  """A share of each class is held out, the same ones in memory and by number."""
  source = data.load(config('whole', prepared[kind]))
  train, held_out = source.train(), source.held_out()
  together = pairs(*train) + pairs(*held_out)
  assert together == pairs(pictured(mixed(24)), [label for _, label in mixed(24)])
  assert max(together.values()) == 1
  assert np.bincount(held_out[1]).tolist() == [3, 3] and source.num_train == 18
  monkeypatch.setattr(ours, 'MOST_MIB', 0)
  by_number = data.load(config('whole', prepared[kind]))
  np.testing.assert_array_equal(by_number.held_out()[0], held_out[0])
  np.testing.assert_array_equal(by_number.labels(), train[1])
  batch = next(data.stream(by_number, 0, 0, (1, 18), np.arange(18)))
  assert pairs(batch['image'][0], batch['label'][0]) == pairs(*train)


def test_validation_where_there_is_no_test(small):
  source = data.load(config('tiny_grey', small, resolution=4, channels=1))
  assert pairs(*source.train()) == pairs(*zip(*GREY, strict=True))
  assert pairs(*source.held_out()) == pairs(*zip(*GREY[:5], strict=True))


def test_random_crops_are_read_by_number(prepared):
  assert not data.load(config('mixed', prepared['tfrecord'], crop='random')).at_once


def test_too_large_for_its_images_is_a_warning(prepared):
  source = data.load(config('mixed', prepared['array_record'], resolution=12))
  (level, sentence), _ = source.findings
  assert level == 'warning' and 'below data.resolution=12: they are enlarged' in sentence


# Damage.


def damaged(prepared, kind, tmp_path, what, name='mixed'):
  """A copy of the set with one shard of three missing, cut in the middle, or with a bit flipped."""
  folder = shutil.copytree(prepared[kind], tmp_path / 'copy')
  (path,) = (folder / name / '1.2.3').glob('*train*-00001-*')
  given = bytearray(path.read_bytes())
  if what == 'missing':
    path.unlink()
  elif what == 'cut':
    path.write_bytes(given[: len(given) // 2])
  else:
    # Within a picture: the largest run of bytes there is.
    at = tfrecord.record_offsets(str(path))[1] + 200 if kind == 'tfrecord' else given.find(b'JFIF')
    given[at] ^= 1
    path.write_bytes(given)
  return folder, path


@pytest.mark.parametrize('in_memory', [True, False])
@pytest.mark.parametrize('what', ['missing', 'cut', 'flipped'])
@pytest.mark.parametrize('kind', FORMATS)
def test_damage_is_named(prepared, tmp_path, monkeypatch, kind, what, in_memory):
  """In one sentence, with the file, before anything is trained on it."""
  folder, path = damaged(prepared, kind, tmp_path, what)
  monkeypatch.setattr(ours, 'MOST_MIB', 512 * in_memory)
  message = refusal(lambda: data.load(config('mixed', folder)))
  assert str(path) in message


@pytest.mark.parametrize('kind', FORMATS)
@pytest.mark.parametrize('what', ['missing', 'cut'])
def test_missing_files_are_found_without_reading_them(prepared, tmp_path, monkeypatch, kind, what):
  """In a set of a thousand shards, the few images looked at are not of the one that lacks."""
  folder, path = damaged(prepared, kind, tmp_path, what)
  monkeypatch.setattr(ours, 'MOST_MIB', 0)
  monkeypatch.setattr(ours, 'LOOKED_AT', 1)
  monkeypatch.setattr(data, 'refuse_one_label', lambda *given: None)
  assert str(path) in refusal(lambda: data.load(config('mixed', folder)))


def test_damage_in_a_run_is_named(prepared, tmp_path, monkeypatch):
  """A record that changes once the data is loaded fails its checksum."""
  monkeypatch.setattr(ours, 'MOST_MIB', 0)
  folder = shutil.copytree(prepared['tfrecord'], tmp_path / 'copy')
  source = data.load(config('mixed', folder))
  (path,) = (folder / 'mixed' / '1.2.3').glob('*train*-00001-*')
  given = bytearray(path.read_bytes())
  given[tfrecord.record_offsets(str(path))[1] + 200] ^= 1
  path.write_bytes(given)
  stream = data.stream(source, 0, 0, (1, 25), np.arange(25))
  assert str(path) in refusal(lambda: next(stream))


def test_a_shard_that_disappears_is_named(prepared, tmp_path, monkeypatch):
  """TFRecord, after it was opened: one sentence with its path, where its first record is due."""
  monkeypatch.setattr(ours, 'MOST_MIB', 0)
  folder = shutil.copytree(prepared['tfrecord'], tmp_path / 'copy')
  source = data.load(config('mixed', folder))
  (path,) = (folder / 'mixed' / '1.2.3').glob('*train*-00001-*')
  path.unlink()
  stream = data.stream(source, 0, 0, (1, 25), np.arange(25))
  message = refusal(lambda: next(stream))
  assert re.search(re.escape(str(path)) + r', record [0-8]: .*No such file', message), message


def test_an_array_record_that_disappears_is_named_or_still_read(prepared, tmp_path, monkeypatch):
  """What is open stays readable where the file system allows it; else it is one sentence."""
  monkeypatch.setattr(ours, 'MOST_MIB', 0)
  folder = shutil.copytree(prepared['array_record'], tmp_path / 'copy')
  source = data.load(config('mixed', folder))
  (path,) = (folder / 'mixed' / '1.2.3').glob('*train*-00001-*')
  path.unlink()
  stream = data.stream(source, 0, 0, (1, 25), np.arange(25))
  try:
    assert next(stream)['image'].shape == (1, 25, SIZE, SIZE, 3)
  except errors.UserError as error:
    assert str(path) in str(error)


@pytest.mark.parametrize('kind', FORMATS)
@pytest.mark.parametrize('where', ['../other/', '/tmp/'])
def test_shards_elsewhere_are_refused(prepared, tmp_path, kind, where):
  """The names of shards come from dataset_info.json, which may say anything."""
  folder = shutil.copytree(prepared[kind], tmp_path / 'copy')
  about = folder / 'mixed' / '1.2.3' / 'dataset_info.json'
  given = json.loads(about.read_text())
  for split in given['splits']:
    split['filepathTemplate'] = where + split['filepathTemplate']
  about.write_text(json.dumps(given))
  (folder / 'mixed' / 'other').mkdir()
  for path in (folder / 'mixed' / '1.2.3').glob('*-of-*'):
    shutil.copy(path, folder / 'mixed' / 'other')
  message = refusal(lambda: data.load(config('mixed', folder)))
  assert 'which is outside that folder' in message and str(about.parent) in message


@pytest.mark.parametrize('key', ['pythonClassName', r'python\u0043lassName', 'type'])
def test_a_set_cannot_have_code_imported(prepared, tmp_path, monkeypatch, key):
  """TFDS imports the module of a class that features.json names."""
  folder = shutil.copytree(prepared['tfrecord'], tmp_path / 'copy')
  (tmp_path / 'hostile_feature.py').write_text(f'open({str(tmp_path / "ran")!r}, "w")')
  monkeypatch.syspath_prepend(str(tmp_path))
  path = folder / 'mixed' / '1.2.3' / 'features.json'
  text = path.read_text().replace(
    '"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text"',
    f'"{key}": "hostile_feature.Text"',
  )
  assert 'hostile_feature' in text
  path.write_text(text)
  message = refusal(lambda: data.load(config('mixed', folder)))
  assert "names the class 'hostile_feature.Text'" in message and str(path) in message
  assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('kind', FORMATS)
def test_no_image_can_be_read(prepared, tmp_path, kind):
  folder = shutil.copytree(prepared[kind], tmp_path / 'copy')
  for path in (folder / 'mixed' / '1.2.3').glob('*train*'):
    given = bytearray(path.read_bytes())
    offsets = tfrecord.record_offsets(str(path)) + 20 if kind == 'tfrecord' else range(20, 200)
    for at in offsets:
      given[at] ^= 1
    path.write_bytes(given)
  assert 'mixed' in refusal(lambda: data.load(config('mixed', folder)))


def test_a_shard_with_other_records_is_refused(prepared, tmp_path):
  folder = shutil.copytree(prepared['tfrecord'], tmp_path / 'copy')
  first, second, _ = sorted((folder / 'mixed' / '1.2.3').glob('*train*'))
  first.write_bytes(first.read_bytes() + second.read_bytes())
  message = refusal(lambda: data.load(config('mixed', folder)))
  assert str(first) in message and 'dataset_info.json says' in message


# The index of TFRecord files.


def test_offsets_are_those_of_the_records(tmp_path):
  tf = data.tensorflow()
  lengths = (0, 1, 5000, 3)
  path = str(tmp_path / 'x.tfrecord')
  with tf.io.TFRecordWriter(path) as writer:
    for length in lengths:
      writer.write(b'x' * length)
  expected = np.cumsum([0] + [12 + length + 4 for length in lengths])
  np.testing.assert_array_equal(tfrecord.record_offsets(path), expected[:-1])
  (tmp_path / 'none').write_bytes(b'')
  assert len(tfrecord.record_offsets(str(tmp_path / 'none'))) == 0


def test_the_index_is_made_once(prepared, tmp_path, cache, monkeypatch):
  """And again for a changed file, or where it is damaged."""
  folder = shutil.copytree(prepared['tfrecord'], tmp_path / 'copy')
  builder = tfds.builder('mixed', data_dir=str(folder))
  tf, made = data.tensorflow(), []
  whole = tfrecord.record_offsets
  monkeypatch.setattr(tfrecord, 'record_offsets', lambda path: made.append(path) or whole(path))
  tfrecord.open_split(tf, builder, 'train')
  (path,) = cache.iterdir()
  assert len(made) == 3
  kept = path.read_bytes()
  tfrecord.open_split(tf, builder, 'train')
  assert len(made) == 3
  for damage in (b'', b'PK', kept[:-100]):
    path.write_bytes(damage)
    tfrecord.open_split(tf, builder, 'train')
    assert path.read_bytes() == kept or len(np.load(path)['offsets']) == 25
  assert len(made) == 12
  (shard,) = (folder / 'mixed' / '1.2.3').glob('*train*-00001-*')
  shard.write_bytes(shard.read_bytes()[:-1])
  with pytest.raises(errors.UserError, match='is cut'):
    tfrecord.open_split(tf, builder, 'train')


# Many records in one call.


@pytest.mark.parametrize('kind', FORMATS)
def test_a_step_of_several_calls(four, kind):
  """Of 67 images, which two calls of 34 look up; as in memory, bit by bit."""
  given = 3, 2**33 + 5, (1, 134), np.arange(0, 134, 2)
  sources = four['tfrecord', True][0], four[kind, False][0]
  streams = [data.stream(source, *given, flip=True) for source in sources]
  for _ in range(2):
    one, other = map(next, streams)
    for name, array in one.items():
      np.testing.assert_array_equal(array, other[name])


def test_many_records_are_read_in_one_call(prepared, four, monkeypatch):
  """Of images of 8 px up to 64, and of 256 px four; labels and digests need few calls, too."""
  monkeypatch.setattr(ours, 'MOST_MIB', 0)
  calls, whole = [], tfrecord.InBatches._read

  def noted(self, tf, indices):
    note = tf.numpy_function(lambda i: calls.append(len(i)) or i, [indices], tf.int64)
    return whole(self, tf, tf.ensure_shape(note, indices.shape))

  monkeypatch.setattr(tfrecord.InBatches, '_read', noted)
  other = data.load(config('mixed', prepared['tfrecord'], resolution=256))
  assert other.lookup.most == 4 and len(other.labels()) == 25
  assert calls.count(25) == 2  # the digest of `train`, and its labels
  calls.clear()
  source = four['tfrecord', False][0]
  next(data.stream(source, 0, 0, (1, 128), np.arange(128)))
  assert source.lookup.most == 64 and {*calls} == {64}


def test_without_the_checksums_library_tensorflow_reads(prepared, four, monkeypatch):
  monkeypatch.setitem(sys.modules, 'google_crc32c', None)  # importing it raises ImportError
  monkeypatch.setattr(ours, 'MOST_MIB', 0)
  monkeypatch.setattr(tfrecord.shards, 'Shards', None)
  source = data.load(config('mixed', prepared['tfrecord']))
  batch = next(data.stream(source, 3, 170, (2, 8), np.array([0, 1, 2, 5, 7]), flip=True))
  for name, array in four['tfrecord', True][3].items():
    np.testing.assert_array_equal(batch[name], array)


# Sets that mean nothing, or are not there.


@pytest.mark.parametrize(
  ('name', 'change'),
  [('tiny_unlabelled', {}), ('tiny_grey', {}), ('tiny_test', {'split': 'test'})],
)
def test_of_one_class_no_label_is_asked_for(small, name, change):
  """Sets without labels, sets with them, and other splits than train."""
  source = data.load(config(name, small, channels=1, num_classes=1, **change))
  images, labels = source.train()
  assert source.class_names == ('all',) and source.class_counts() == [source.num_train]
  assert len(images) == source.num_train and not labels.any() and labels.dtype == np.int32
  batch = next(data.stream(source, 0, 0, (1, 4), np.arange(4)))
  assert not batch['label'].any() and batch['image'].shape == (1, 4, SIZE, SIZE, 1)
  assert not source.held_out()[1].any()


@pytest.mark.parametrize(
  ('name', 'change', 'words'),
  [
    ('', {'source': 'tfds'}, ['needs the name', 'tfds:cifar10']),
    ('tiny_gray', {}, ["no set 'tiny_gray'", 'did you mean tiny_grey?', 'in {folder']),
    ('tiny grey', {}, ["'tfds:tiny grey'", 'Parsing']),
    ('tiny_grey:9.9.9', {}, ['9.9.9', '1.2.3']),
    ('tiny_unlabelled', {}, ['image, other', "expected an 'image' and a class 'label'"]),
    ('tiny_test', {}, ['has the splits test', "a 'train'"]),
    ('tiny_empty', {}, ["no images in its split 'test'"]),
    ('tiny_deep', {}, ['images of uint16', 'expected uint8']),
    ('tiny_same', {}, ['2 classes, but all', 'have label 1 (dog)']),
    ('tiny_grey', {'channels': 2}, ['data.channels is 2', '1 (grey) or 3 (colour)']),
    ('tiny_grey', {'num_classes': 3}, ['data.num_classes is 3', '2 classes', 'or None']),
  ],
)
def test_errors_say_what_is_wrong(small, name, change, words):
  given = config(name, small, **{'resolution': 4, 'channels': 1, **change})
  message = refusal(lambda: data.load(given))
  assert all(word.replace('{folder', repr(str(small))) in message for word in words), message


def test_a_missing_folder(small, tmp_path):
  message = refusal(lambda: data.load(config('mixed', tmp_path / 'none')))
  assert "no set 'mixed'" in message and repr(str(tmp_path / 'none')) in message


def test_a_set_that_is_not_prepared(small, tmp_path):
  """What to run is given whole: here it is, but for the preparation itself."""
  message = refusal(lambda: data.load(config('tiny_grey', tmp_path)))
  assert f'is not prepared in {str(tmp_path / "tiny_grey" / "1.2.3")!r}' in message
  assert '--config.data.data_dir' in message
  program = re.fullmatch(r".*: python -c '([^']*)'", message)[1]
  call = ast.parse(program).body[-1].value
  assert ast.unparse(call) == (
    f"tfds.builder('tiny_grey', data_dir={str(tmp_path)!r}).download_and_prepare()"
  )


def test_without_tfds(monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)  # importing it raises ImportError
  message = refusal(lambda: data.load(config('cifar10', '')))
  assert message.endswith("not installed; run: pip install 'bigjax[train]'")


# ImageNet, and the sets of ../shared/data.


def imagenet(folder, kind, splits):
  """Prepare TFDS's own imagenet2012 from so many pictures of each split's own."""
  base = tfds.builder_cls('imagenet2012')

  def examples(self, num, labelled):
    names = self.info.features['label'].names
    for i in range(num):
      label = names[i * 37 % 1000] if labelled else -1
      image = io.BytesIO(encoded(smooth(40 + i, 50), 'JPEG'))
      yield f'{i}.JPEG', {'file_name': f'{i}.JPEG', 'image': image, 'label': label}

  members = {
    'name': 'imagenet2012',
    '_split_generators': lambda self, _: {
      split: self._generate_examples(num, split != 'test') for split, num in splits.items()
    },
    '_generate_examples': examples,
  }
  tfds.disable_progress_bar()
  with tfds.core.registered.skip_registration():
    kind_of_set = type('Tiny', (base,), members)
  kind_of_set(data_dir=str(folder), file_format=kind).download_and_prepare()


def of_its_own(folder, name, config, splits):
  """Prepare a set that TFDS knows, with its own features, from {split: [encoded pictures]}."""
  base = tfds.builder_cls(name)
  fields = {'celeb_a_hq': 'image/filename', 'lsun': 'id'}

  def examples(self, given):
    for i, one in enumerate(given):
      yield i, {'image': io.BytesIO(one), fields[name]: f'{i}'}

  members = {
    'name': name,
    'pkg_dir_path': getattr(base, 'pkg_dir_path', None),
    '_split_generators': lambda self, _: {k: self._generate_examples(v) for k, v in splits.items()},
    '_generate_examples': examples,
  }
  tfds.disable_progress_bar()
  with tfds.core.registered.skip_registration():
    kind_of_set = type('Few', (base,), members)
  kind_of_set(config=config, data_dir=str(folder)).download_and_prepare()


def test_celeb_a_hq(tmp_path, monkeypatch):
  """Of 1,024 px, without labels or a test split, at the stages of a run that grows."""
  coarse = [Image.fromarray(noise(8, 8 + i)) for i in range(4)]
  given = [encoded(picture.resize((1024, 1024), 0), compress_level=1) for picture in coarse]
  of_its_own(tmp_path, 'celeb_a_hq', '1024', {'train': given})
  monkeypatch.setattr(ours, 'MOST_MIB', 0)
  asked = {'resolution': 1024, 'num_classes': 1}
  source = data.load(config('celeb_a_hq/1024', tmp_path, **asked))
  assert (source.num_train, source.num_held_out, source.class_names) == (3, 1, ('all',))
  assert source.small.sides == (512, 256, 128, 64, 32, 16, 8, 4)
  check_levels(source, [512, 4], steps=1, batch=2)
  message = refusal(lambda: data.load(config('celeb_a_hq/1024', tmp_path, resolution=1024)))
  assert 'or data.num_classes=1, which asks for none' in message


@pytest.mark.parametrize(
  ('category', 'splits', 'held_out', 'crop'),
  [
    ('bedroom', {'train': 12, 'validation': 5}, 5, 'center'),
    ('cat', {'train': 12}, 3, 'random'),
  ],
)
def test_lsun(tmp_path, monkeypatch, category, splits, held_out, crop):
  """Scenes have a validation split and objects have none; pictures may be WebP, as LSUN's are."""
  kinds = ('WEBP', 'JPEG')
  given = {
    split: [encoded(smooth(20 + i, 34), kinds[i % 2]) for i in range(num)]
    for split, num in splits.items()
  }
  of_its_own(tmp_path, 'lsun', category, given)
  monkeypatch.setattr(ours, 'MOST_MIB', 0)
  asked = {'resolution': 16, 'num_classes': 1, 'crop': crop}
  source = data.load(config(f'lsun/{category}', tmp_path, **asked))
  assert source.num_held_out == held_out
  check_levels(source, [8, 4], steps=2)


@pytest.mark.parametrize('in_memory', [True, False])
@pytest.mark.parametrize('kind', FORMATS)
def test_smaller_stages_are_means(prepared, monkeypatch, kind, in_memory):
  monkeypatch.setattr(ours, 'MOST_MIB', 512 * in_memory)
  source = data.load(config('mixed', prepared[kind]))
  assert (source.small is None) == in_memory
  check_levels(source, [4, 2] if in_memory else [4], steps=5)


@pytest.mark.parametrize(
  ('name', 'words'),
  [
    ('celeb_a_hq/1024', ['downloads/manual', 'neither TensorFlow Datasets nor bigjax downloads or '
                         'makes (docs/data.md;', 'data1024x1024.tar', 'celeb_a_hq/1024/']),
    ('imagenet2012', ['downloads/manual', 'ILSVRC2012_img_train.tar', 'docs/data.md']),
    ('lsun/bedroom', ["is not prepared in '", 'lsun/bedroom/', 'where it is, or prepare it: ']),
    ('lsun/bedrom', ["lsun has no 'bedrom' (did you mean bedroom?)", 'church_outdoor', 'cat']),
    ('celeb_a_hq/1000', ["celeb_a_hq has no '1000'", 'expected one of: 1024, 512']),
  ],
)  # fmt: skip
def test_absent_sets_say_how_they_come(tmp_path, name, words):
  message = refusal(lambda: data.load(config(name, tmp_path, num_classes=1)))
  assert all(word in message for word in words), message


@pytest.mark.parametrize('kind', FORMATS)
def test_imagenet(tmp_path, monkeypatch, kind):
  """Its test split has no labels, so validation is what is held out."""
  imagenet(tmp_path, kind, {'train': 40, 'validation': 10, 'test': 6})
  monkeypatch.setattr(ours, 'MOST_MIB', 0)
  source = data.load(config('imagenet2012', tmp_path, resolution=32, num_classes=1000))
  assert source.num_train == 40 and source.class_names[:2] == ('n01440764', 'n01443537')
  assert sorted(source.labels()) == sorted(i * 37 % 1000 for i in range(40))
  assert sorted(source.held_out()[1]) == sorted(i * 37 % 1000 for i in range(10))
  batch = next(data.stream(source, 0, 0, (1, 40), np.arange(40), flip=True))
  assert batch['image'].shape == (1, 40, 32, 32, 3)
  assert sorted(batch['label'][0]) == sorted(source.labels())


def test_imagenet_as_tfds_mocks_it(tmp_path):
  """Random examples in place of those in the files, by random access as ArrayRecord has it."""
  imagenet(tmp_path, 'array_record', {'train': 40, 'validation': 10})
  with tfds.testing.mock_data(num_examples=40, data_dir=str(tmp_path)):
    source = data.load(config('imagenet2012', tmp_path, num_classes=1000))
    batch = next(data.stream(source, 0, 0, (1, 40), np.arange(40)))
  assert len(source.class_names) == 1000 and source.num_train == 40
  assert batch['image'].shape == (1, 40, SIZE, SIZE, 3)
  assert len({*batch['label'].reshape(-1).tolist()} - {i * 37 % 1000 for i in range(40)}) > 30


# The mean of a channel over the whole of either set is published with many a classifier.
@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'resolution', 'channels', 'mean'),
  [('fashion_mnist', 16, 1, [0.2860]), ('cifar10', 32, 3, [0.4914, 0.4822, 0.4465])],
)
def test_the_real_sets(monkeypatch, name, resolution, channels, mean):
  """By number; averaging the area of a square keeps its mean."""
  if not (PREPARED / name).exists():
    pytest.skip(f'{name} is not prepared in ../shared/data/tfds')
  monkeypatch.setattr(ours, 'MOST_MIB', 0)
  source = data.load(
    config(name, PREPARED, resolution=resolution, channels=channels, num_classes=10)
  )
  assert source.num_train == 20_000 and not source.at_once
  batch = next(data.stream(source, 0, 0, (2, 300), np.arange(300), flip=True))
  assert batch['image'].shape == (2, 300, resolution, resolution, channels)
  np.testing.assert_allclose(batch['image'].mean((0, 1, 2, 3)) / 255, mean, atol=0.025)
  assert stats.chisquare(np.bincount(batch['label'].reshape(-1))).pvalue > 1e-3
  images, labels = source.held_out(100)
  assert images.shape == (100, resolution, resolution, channels)
  assert stats.chisquare(np.bincount(labels)).pvalue > 1e-3
