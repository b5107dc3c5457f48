"""Videos of TensorFlow Datasets: both of its file formats, and the ways in which sets hold them."""

import re

import ml_collections
import numpy as np
import pytest

from bigjax import data
from bigjax.core import errors

tfds = pytest.importorskip('tensorflow_datasets')

LENGTHS = (5, 7, 3, 9, 6, 5, 8, 7)  # frames of videos


def config(name, folder, **changes):
  """A config for clips of five frames of a prepared set, at 8 x 8 in grey, but for the changes."""
  plain = {
    'source': f'tfds:{name}',
    'data_dir': str(folder),
    'resolution': 8,
    'channels': 1,
    'frames': 5,
    'frame_stride': 1,
    'num_classes': None,
    'held_out': 0.25,
    'fraction': 1.0,
    'per_class': 0,
    'imbalance': 1.0,
    'crop': 'center',
    'flip': False,
  }
  return ml_collections.ConfigDict({**plain, **changes})


def video(i, channels=1):
  """Video i, whose frame t has the shade 20 i + 2 t."""
  shade = np.uint8(20 * i + 2 * np.arange(LENGTHS[i % 8]))
  return np.broadcast_to(shade[:, None, None, None], (len(shade), 10, 12, channels)).copy()


def labelled():
  """As ucf101."""
  of = {'video': tfds.features.Video(shape=(None, 10, 12, 1)),
        'label': tfds.features.ClassLabel(names=['run', 'jump'])}  # fmt: skip
  return of, [{'video': video(i), 'label': i % 2} for i in range(8)]


def alone():
  """As moving_mnist."""
  of = {'image_sequence': tfds.features.Video(shape=(None, 10, 12, 1))}
  return of, [{'image_sequence': video(i)} for i in range(8)]


def steps():
  """As bair_robot_pushing_small, whose features are those of a step."""
  image = lambda: tfds.features.Image(shape=(10, 12, 3))
  action = tfds.features.Tensor(shape=(2,), dtype=np.float32)
  of = tfds.features.Sequence({'image_main': image(), 'image_aux1': image(), 'action': action})
  step = lambda frame: {'image_main': frame, 'image_aux1': 255 - frame, 'action': np.ones(2, 'f4')}
  return of, [[step(frame) for frame in video(i, 3)] for i in range(8)]


def within():
  """Steps beside other features."""
  of, rows = steps()
  return {'steps': of, 'id': tfds.features.Scalar(np.int64)}, [
    {'steps': row, 'id': 0} for row in rows
  ]


def two():
  of = {name: tfds.features.Video(shape=(None, 10, 12, 1)) for name in ('left', 'right')}
  return of, [{'left': video(i), 'right': video(i)} for i in range(8)]


def still():
  return {'image': tfds.features.Image(shape=(10, 12, 1))}, [
    {'image': video(i)[0]} for i in range(8)
  ]


def prepare(folder, name, made, file_format='tfrecord', splits=('train',)):
  """Prepare a set in a folder as TFDS does; its splits are all the same."""
  features, rows = made

  def info(self):
    of_all = tfds.features.FeaturesDict(features) if isinstance(features, dict) else features
    return tfds.core.DatasetInfo(builder=self, features=of_all, homepage='https://x.org/y')

  members = {
    'name': name,
    'VERSION': tfds.core.Version('1.0.0'),
    '_info': info,
    '_split_generators': lambda self, _: {split: self._generate_examples() for split in splits},
    '_generate_examples': lambda self: enumerate(rows),
  }
  tfds.disable_progress_bar()
  with tfds.core.registered.skip_registration():
    kind = type(name, (tfds.core.GeneratorBasedBuilder,), members)
  kind(data_dir=str(folder), file_format=file_format).download_and_prepare()


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  data.tensorflow()
  folder = tmp_path_factory.mktemp('tfds')
  for kind in ('tfrecord', 'array_record'):
    prepare(folder, f'labelled_{kind}', labelled(), kind)
  prepare(folder, 'alone', alone(), splits=('test',))
  prepare(folder, 'steps', steps(), 'array_record', ('train', 'test'))
  prepare(folder, 'within', within())
  prepare(folder, 'two', two())
  prepare(folder, 'still', still())
  return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """A cache of each test's own."""
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path / 'cache'))


def shades(clips):
  """The shade of every frame, [n, T], of clips whose frames have one each."""
  assert (clips == clips[:, :, :1, :1, :1]).all()
  return clips[..., 0, 0, 0].astype(int)


def refusal(given):
  """The sentence with which data is refused."""
  with pytest.raises(errors.UserError) as error:
    data.load(given)
  assert '\n' not in str(error.value)
  return str(error.value)


def middle(i):
  """The central five frames of video i."""
  return tuple(20 * i + 2 * ((LENGTHS[i] - 5) // 2 + t) for t in range(5))


@pytest.mark.parametrize('kind', ['tfrecord', 'array_record'])
def test_videos_with_labels(prepared, kind):
  """Central windows for scores, any in training; the one that is too short is named."""
  source = data.load(config(f'labelled_{kind}', prepared))
  assert source.class_names == ('run', 'jump') and source.frame_rate == 0
  assert source.num_train + source.num_held_out == 7 and not source.at_once
  assert source.small is None
  (train, labels), (unseen, others) = source.train(), source.held_out()
  seen = [*map(tuple, shades(train).tolist()), *map(tuple, shades(unseen).tolist())]
  assert sorted(seen) == [middle(i) for i in range(8) if i != 2]
  assert [s[0] // 20 % 2 for s in seen] == [*labels.tolist(), *others.tolist()]
  np.testing.assert_array_equal(source.labels(), labels)
  said = '\n'.join(words for _, words in source.findings)
  assert '1 of 8 videos are left out' in said and re.search(r'record \d \(3 frames\)', said), said
  batch = next(data.stream(source, 0, 0, (1, 60), np.arange(60)))
  drawn = shades(batch['image'][0])
  np.testing.assert_array_equal(np.diff(drawn, axis=1), 2)
  np.testing.assert_array_equal(drawn[:, 0] // 20 % 2, batch['label'][0])
  first = drawn[:, 0] % 20 // 2
  room = np.array(LENGTHS)[drawn[:, 0] // 20] - 5
  assert (first <= room).all() and len({*first[room > 1].tolist()}) > 2


def test_a_split_of_its_own(prepared):
  """moving_mnist has a test split alone, and no labels."""
  message = refusal(config('alone', prepared, num_classes=1))
  assert 'has the splits test' in message and 'data.split names' in message
  source = data.load(config('alone', prepared, num_classes=1, split='test', frames=2,
                            frame_stride=2))  # fmt: skip
  assert source.class_names == ('all',) and source.num_train + source.num_held_out == 8
  np.testing.assert_array_equal(np.diff(shades(source.train()[0]), axis=1), 4)
  every = data.load(config('alone', prepared, num_classes=1, split='test', frames=2))
  assert source.digest != every.digest and source.held_out_digest != every.held_out_digest


@pytest.mark.parametrize('name', ['steps', 'within'])
def test_steps_with_images(prepared, name):
  """Of several cameras, image_main's is the video."""
  source = data.load(config(name, prepared, num_classes=1, channels=3))
  train, _ = source.train()
  known = {middle(i) for i in range(8)}
  assert train.shape[1:] == (5, 8, 8, 3) and {*map(tuple, shades(train).tolist())} <= known
  assert (source.num_train, source.num_held_out) == ((7, 7) if name == 'steps' else (5, 2))


@pytest.mark.parametrize(
  ('name', 'change', 'words'),
  [
    ('two', {'num_classes': 1}, ['has left, right', 'one called video or image_sequence']),
    ('still', {'num_classes': 1}, ['has image', 'set data.frames=0']),
    ('alone', {'split': 'test'}, ['has image_sequence', "a class 'label'", 'data.num_classes=1']),
    ('alone', {'split': 'test', 'num_classes': 1, 'frames': 0}, ['data.frames=16 for clips']),
    ('within', {'num_classes': 1, 'frames': 4, 'frame_stride': 3},
     ['videos of at most 9 frames', 'fewer than the 10', 'lower these']),
  ],
)  # fmt: skip
def test_errors_say_what_is_wrong(prepared, name, change, words):
  message = refusal(config(name, prepared, **change))
  assert all(word in message for word in words), message
