"""One source at several sizes: exact means of what a run sees whole, seldom decoded."""

import collections

import numpy as np
import pytest
from PIL import Image

from bigjax import data
from bigjax.algorithms.base import configs
from bigjax.data.reading import photo_files, sizes

from pictures import check_levels, encoded, level, noise


def config(source, resolution=16, channels=3, **changes):
  """The group `data` of a config."""
  given = configs.read('digits').data
  given.num_classes = None
  given.update({'source': source, 'resolution': resolution, 'channels': channels, **changes})
  return given


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  """A folder of 16 pictures of noise, all wider or higher than they are not."""
  folder = tmp_path_factory.mktemp('photos')
  for i in range(16):
    picture = Image.fromarray(noise(33 + i % 5, 40 - i))
    (folder / f'class{i % 2}').mkdir(exist_ok=True)
    (folder / f'class{i % 2}' / f'{i}.png').write_bytes(encoded(picture))
  return folder


@pytest.fixture
def decoded(monkeypatch):
  """How often each picture of a folder is read, by its number."""
  plain, seen = photo_files.picture_of, collections.Counter()

  def picture_of(known):
    picture = plain(known)

    def counted(tf, index):
      note = lambda i: seen.update([int(i)]) or i
      return picture(tf, tf.ensure_shape(tf.numpy_function(note, [index], tf.int64), []))

    return counted

  monkeypatch.setattr(photo_files, 'picture_of', picture_of)
  return seen


@pytest.mark.parametrize('side', [1, 2, 4, 8, 16, 32])
def test_levels_are_those_of_pggans_data_tool(side):
  """In NumPy and in TensorFlow, alone and on the way to smaller ones; halves go to even."""
  tf = data.tensorflow()
  images = noise(32, 32, 6).reshape(2, 32, 32, 3)
  images[0] = images[0] // 2 * 2 + (np.arange(32) % 2)[:, None, None]  # halves, often
  want = level(images, side)
  np.testing.assert_array_equal(data.shrunk(images, side), want)
  alone, *_ = sizes.averaged(tf, tf.constant(images), [side])
  through = [s for s in (16, 8, 4, 2) if s > side]
  *_, last = sizes.averaged(tf, tf.constant(images), [*through, side])
  np.testing.assert_array_equal(alone, want)
  np.testing.assert_array_equal(last, want)


def test_means_are_exact_at_any_size():
  """A pixel above a half, of a quarter of a million: float32 does not tell it from the half."""
  tf = data.tensorflow()
  image = np.full((512, 512, 1), 254, np.uint8)
  image[::2] = 255
  for more, want in ((0, 254), (1, 255)):
    image[1, 0] = 254 + more
    assert data.shrunk(image, 1).item() == want
    assert sizes.averaged(tf, tf.constant(image), [1])[0].numpy().item() == want
  thirds = np.array([[0, 0, 1], [1, 1, 0], [0, 1, 1]], np.uint8)[..., None]  # 5 / 9
  assert data.shrunk(thirds, 1).item() == 1


@pytest.mark.parametrize('crop', ['center', 'random'])
def test_small_photos_are_means_of_what_a_run_sees(photos, crop):
  """First when they are decoded, then when they are kept; random crops are decoded every time."""
  source = data.load(config(f'folder:{photos}', crop=crop))
  assert (source.small is None) == (crop == 'random')
  check_levels(source, [8, 4], steps=6)
  check_levels(source, [4])
  check_levels(source, [16, 4])  # with its own size


def test_digits_and_synthetic_images_too():
  for source in (config('digits', 16, 1), config('synthetic:40')):
    source = data.load(source)
    assert source.small is None and source.at_once
    check_levels(source, [8, 4])


def test_a_photo_is_decoded_once_for_all_small_stages(photos, decoded):
  source = data.load(config(f'folder:{photos}'))
  num = source.num_train
  decoded.clear()
  stream = data.stream(source, 0, 0, (1, num), np.arange(num), False, {'image': 4})
  for _ in range(4):
    next(stream)
  assert len(decoded) == num and source.small.complete
  assert decoded.total() <= 1.5 * num  # two visits may have been under way at once
  decoded.clear()
  for side in (4, 8):
    following = data.stream(source, 0, 64, (2, 3), np.arange(3), True, {'image': side})
    assert next(following)['image'].shape == (2, 3, side, side, 3)
  assert not decoded
  next(data.stream(source, 0, 64, (2, 3), np.arange(3), True, {'image': 16}))
  assert decoded


def test_kept_or_not_a_resumed_run_sees_the_same(photos):
  given = config(f'folder:{photos}')
  asked = (2, 5), np.arange(5), True, {'image': 8}
  through = data.stream(data.load(given), 1, 0, *asked)
  rows = [next(through) for _ in range(6)]
  resumed = data.stream(data.load(given), 1, 40, *asked)  # a process that has seen none of them
  for row in rows[4:]:
    again = next(resumed)
    for name, array in row.items():
      np.testing.assert_array_equal(again[name], array)


def test_what_is_kept_has_a_bound(photos, monkeypatch):
  source = data.load(config(f'folder:{photos}'))
  assert source.small.sides == (8, 4)
  assert source.small.num_bytes == source.num_train * (64 + 16) * 3
  monkeypatch.setattr(sizes, 'MOST_KEPT', 100 * source.num_train)
  source = data.load(config(f'folder:{photos}'))
  assert source.small.sides == (4,)
  assert source.small.have({'image': 4}) and not source.small.have({'image': 4, 'large': 8})
  check_levels(source, [8, 4])
  monkeypatch.setattr(sizes, 'MOST_KEPT', 0)
  source = data.load(config(f'folder:{photos}'))
  assert source.small.sides == () and not source.small.have({})
  check_levels(source, [4])


def test_large_celebrities_are_kept_up_to_64_px():
  """30,000 of 1,024 px, as numbers: nothing is touched until it is visited."""
  small = sizes.SmallCopies(28_500, 1024, 3)
  assert small.sides == (64, 32, 16, 8, 4) and small.num_bytes == 28_500 * 5456 * 3
  assert sizes.SmallCopies(10, 48, 3).sides == (24, 12, 6)


def test_a_folder_of_1024_px_at_every_stage(tmp_path):
  for i in range(3):
    coarse = Image.fromarray(noise(30, 30 + i))
    picture = coarse.resize((1024 + i, 1024), Image.Resampling.BICUBIC)
    (tmp_path / f'{i}.jpg').write_bytes(encoded(picture, 'JPEG'))
  source = data.load(config(f'folder:{tmp_path}', 1024, held_out=0.3))
  asked = (1, 2), np.arange(2), True
  whole = next(data.stream(source, 0, 0, *asked, {'image': 1024}))['image']
  for side in (4, 8, 16, 32, 64, 128, 256, 512):
    batch = next(data.stream(source, 0, 0, *asked, {'image': side}))
    np.testing.assert_array_equal(batch['image'], level(whole, side))
