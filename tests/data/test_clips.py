"""Clips: digits that bounce, noise that moves; what a clip is of, how long it is and how fast."""

import hashlib

import ml_collections
import numpy as np
import pytest

from bigjax import data
from bigjax.algorithms.base import configs
from bigjax.core import config as core_config
from bigjax.core import errors
from bigjax.data.sources import digits, moving_digits
from bigjax.evaluation import image_sets

from pictures import pairs


def config(source, **changes):
  """A config of grey clips of five frames at 16 x 16, but for the changes."""
  plain = {
    'source': source,
    'data_dir': '',
    'resolution': 16,
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


def refusal(given):
  """The sentence with which data is refused."""
  with pytest.raises(errors.UserError) as error:
    data.load(given)
  assert '\n' not in str(error.value)
  return str(error.value)


# Digits that bounce.


@pytest.fixture(scope='module')
def scanned():
  pytest.importorskip('sklearn')
  return digits.scanned(config('digits'))


@pytest.fixture
def few(monkeypatch):
  """Fewer moving digits than there are."""
  pytest.importorskip('sklearn')
  monkeypatch.setattr(moving_digits, 'NUM', 60)
  monkeypatch.setattr(moving_digits, 'NUM_HELD_OUT', 20)


def test_moving_digits_are_the_same_everywhere(scanned):
  """A run resumed on another machine must train on them: these are the first run's."""
  made = moving_digits.make(*scanned, np.arange(30), 6, 24, 2)
  assert made.clips.shape == (30, 6, 24, 24) and made.clips.dtype == np.uint8
  assert made.labels.tolist() == [i % 10 for i in range(30)] and made.labels.dtype == np.int32
  assert hashlib.sha256(made.corners.astype('<i8')).hexdigest()[:16] == 'cd6f1308368290b2'
  assert hashlib.sha256(made.clips).hexdigest()[:16] == '427970803dd97b0c'


def test_a_clip_is_a_function_of_its_number(scanned):
  whole = moving_digits.make(*scanned, np.arange(20), 4, 16)
  some = moving_digits.make(*scanned, np.array([7, 19, 3]), 4, 16)
  np.testing.assert_array_equal(some.clips, whole.clips[[7, 19, 3]])
  other = moving_digits.make(*scanned, np.arange(20), 4, 16, seed=1)
  assert (other.clips != whole.clips).any((1, 2, 3)).all()


def test_digits_bounce_inside_the_square(scanned):
  """Straight on at one speed but where they are reflected, and never beyond a border."""
  made = moving_digits.make(*scanned, np.arange(200), 60, 32)
  room = (32 - made.digit) * moving_digits.UNIT
  assert made.digit == 14 and made.corners.min() >= 0 and made.corners.max() <= room
  steps = np.diff(made.corners, axis=2)
  speed = abs(steps).max(2, keepdims=True)
  assert (speed >= room // 20).all() and (speed <= room // 8).all()
  near = (made.corners < speed) | (made.corners > room - speed)
  straight = ~near[:, :, :-1] & ~near[:, :, 1:]
  assert (abs(steps) == speed)[straight].all()
  turns = (steps[:, :, 1:] * steps[:, :, :-1] < 0).sum(2)
  assert turns.min() >= 2 and turns.max() <= 8  # 59 frames, 8 to 20 of them a crossing
  # What lies beyond one border comes back from it, by as much.
  np.testing.assert_array_equal(moving_digits.reflected(np.array([-3, 7, 12, 20, 23]), 10),
                                [3, 7, 8, 0, 3])  # fmt: skip


def test_a_digit_is_seen_where_it_is_said_to_be(scanned):
  """Whole, in every frame, around its centre of mass; every start and direction comes."""
  made = moving_digits.make(*scanned, np.arange(100), 9, 40)
  light = made.clips.astype(float)
  grid = np.arange(40) + 0.5
  total = light.sum((2, 3))
  seen = np.stack([light.sum(3) @ grid, light.sum(2) @ grid], -1) / total[..., None]
  large = digits.enlarged(scanned[0], made.digit)[made.shown[:, 0]].astype(float)
  inner = np.arange(made.digit) + 0.5 - made.digit / 2
  mass = large.sum((1, 2))
  offset = np.stack([large.sum(2) @ inner, large.sum(1) @ inner], -1) / mass[:, None]
  np.testing.assert_allclose(seen, made.centres[:, 0] + offset[:, None], atol=0.1)
  np.testing.assert_allclose(total, np.broadcast_to(mass[:, None], total.shape), rtol=0.02)
  signs = np.sign(made.corners[:, 0, 1] - made.corners[:, 0, 0])
  assert len({tuple(sign) for sign in signs.tolist()}) == 4
  np.testing.assert_allclose(made.centres[:, 0, 0].mean(0), 20, atol=3)


def test_at_whole_pixels_a_digit_is_itself():
  picture = np.random.RandomState(0).randint(0, 256, (2, 3, 3)).astype(np.uint8)
  unit = moving_digits.UNIT
  laid = moving_digits.laid(picture, np.array([[unit, 0], [2 * unit, 2 * unit]]), 5)
  np.testing.assert_array_equal(laid[0, 1:4, :3], picture[0])
  np.testing.assert_array_equal(laid[1, 2:, 2:], picture[1])
  assert laid.astype(int).sum() == picture.astype(int).sum()
  half = moving_digits.laid(picture, np.array([[unit // 2, 0]] * 2), 5).astype(float)
  np.testing.assert_array_equal(half[:, 0, :3], (picture[:, 0].astype(int) + 1) // 2)


def test_of_two_digits_the_lighter_is_seen(scanned):
  made = moving_digits.make(*scanned, np.arange(40), 5, 24, 2)
  large = digits.enlarged(scanned[0], made.digit)
  alone = [
    moving_digits.laid(large[made.shown[:, k]], made.corners[:, k, t], 24)
    for t in range(5)
    for k in range(2)
  ]
  alone = np.stack(alone, 1).reshape(40, 5, 2, 24, 24)
  np.testing.assert_array_equal(made.clips, alone.max(2))
  assert ((alone > 99).all(2)).any()  # some do overlap
  assert (made.shown[:, 0] != made.shown[:, 1]).mean() > 0.9


@pytest.mark.parametrize('num_digits', [1, 2])
def test_held_out_clips_show_other_digits(few, scanned, monkeypatch, num_digits):
  made, make = [], moving_digits.make
  monkeypatch.setattr(moving_digits, 'make', lambda *args: made.append((args, make(*args)))
                      or made[-1][1])  # fmt: skip
  source = data.load(config(f'moving_digits:{num_digits}'))
  (of_train, train), (of_unseen, unseen) = made
  assert not pairs(of_train[0], of_train[1]) & pairs(of_unseen[0], of_unseen[1])
  assert len(of_train[0]) + len(of_unseen[0]) == 1797 and abs(len(of_unseen[0]) - 449) < 3
  assert not {*of_train[2]} & {*of_unseen[2]}  # nor do any two clips move alike
  np.testing.assert_array_equal(source.train()[0][..., 0], train.clips)
  np.testing.assert_array_equal(source.held_out()[0][..., 0], unseen.clips)
  assert source.class_names == (tuple('0123456789') if num_digits == 1 else ('all',))
  assert source.class_counts() == ([6] * 10 if num_digits == 1 else [60])
  assert source.frame_rate == 8 and source.small is None


def test_a_bare_name_is_of_one_digit(few):
  assert data.load(config('moving_digits')).digest == data.load(config('moving_digits:1')).digest


def test_clips_stream_by_seed_and_position(few):
  source = data.load(config('moving_digits', frames=3))
  batch = lambda position: next(data.stream(source, 1, position, (2, 5), np.arange(5), True))
  first = batch(0)
  assert first['image'].shape == (2, 5, 3, 16, 16, 1) and first['label'].shape == (2, 5)
  np.testing.assert_array_equal(first['image'], batch(0)['image'])
  np.testing.assert_array_equal(first['image'][1], batch(5)['image'][0])
  small = next(data.stream(source, 1, 0, (2, 5), np.arange(5), True, {'small': 8}))['small']
  np.testing.assert_array_equal(small, data.shrunk(first['image'], 8))


@pytest.mark.parametrize(
  ('source', 'change', 'words'),
  [
    ('moving_digits:3', {}, ["'moving_digits:3'", 'moving_digits:1 or moving_digits:2']),
    ('moving_digits:x', {}, ["'moving_digits:x'", 'one or two digits']),
    ('moving_digits', {'frames': 0}, ['data.frames is 0', 'data.frames=2 or more', 'digits']),
    ('moving_digits', {'frames': 1}, ['data.frames is 1', 'data.frames=2 or more']),
    ('moving_digits', {'channels': 3}, ['data.channels is 3', 'use 1']),
    ('moving_digits', {'resolution': 8}, ['data.resolution is 8', '12 or more']),
    ('moving_digits', {'resolution': 1024, 'frames': 64},
     ['80 clips of 64 frames, 5.0 GiB', 'at most 4 GiB', 'number of frames']),
    ('moving_digits', {'num_classes': 7}, ['data.num_classes is 7', '10 classes']),
    ('moving_digits', {'frame_stride': 0}, ['data.frame_stride is 0', 'at least 1']),
    ('digits', {}, ['data.frames is 5', "'digits' has still images", 'data.frames=0']),
    ('synthetic:9000', {'resolution': 512, 'frames': 3}, ['9,000 clips of 3 frames', 'GiB']),
  ],
)  # fmt: skip
def test_errors_say_what_is_wrong(few, source, change, words):
  message = refusal(config(source, **change))
  assert all(word in message for word in words), message


# Frames of the motion that are a clip's.


@pytest.mark.parametrize('source', ['synthetic', 'moving_digits'])
def test_a_stride_takes_every_so_many_frames(few, source):
  """And as many fewer come in a second."""
  every, third = (data.load(config(source, **c)) for c in (
    {'frames': 7}, {'frames': 3, 'frame_stride': 3}))  # fmt: skip
  np.testing.assert_array_equal(third.train()[0], every.train()[0][:, ::3])
  assert (every.frame_rate, third.frame_rate) == (8, 8 / 3)
  assert third.digest != every.digest


def test_still_images_have_no_frame_rate():
  assert data.load(config('synthetic', frames=0)).frame_rate == 0


def test_a_frame_rate_stays_with_what_is_trained_on(few):
  given = {'fraction': 0.5, 'num_classes': 1}
  assert data.load(config('moving_digits', **given)).frame_rate == 8


def test_the_new_key_changes_no_run():
  """Nor is it lost where real clips are looked at after training."""
  given = configs.read('digits')
  known = core_config.identity(given, configs.keys(given))
  assert 'data.frame_stride' not in known
  given.data.frame_stride = 2
  assert core_config.identity(given, configs.keys(given))['data.frame_stride'] == 2
  looked_at = image_sets.config_of('synthetic', (3, 8, 8, 1), '', given.data)
  assert (looked_at.frames, looked_at.frame_stride) == (3, 2)
