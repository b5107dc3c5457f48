"""Nearest training images: found exactly, block by block, and a copy is seen to be one."""

import numpy as np
import pytest
from PIL import Image

from bigjax import data
from bigjax.core import errors
from bigjax.evaluation import nearest_neighbours
from bigjax.sampling import loaded


def a_source(num=60, size=8, channels=3):
  rng = np.random.RandomState(0)
  images = rng.randint(0, 256, (num + 4, size, size, channels)).astype(np.uint8)
  labels = (np.arange(num + 4) % 3).astype(np.int32)
  return data.in_memory(
    (images[:num], labels[:num]), (images[num:], labels[num:]), ('a', 'b', 'c'), 'none'
  )


def by_hand(samples, images):
  a, b = (x.reshape(len(x), -1).astype(float) / 255 for x in (samples, images))
  return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))


MEANS = lambda images: images.mean((1, 2), dtype=np.float32)


def test_the_nearest_of_all_blocks(monkeypatch):
  source = a_source()
  monkeypatch.setattr(nearest_neighbours, 'BLOCK_BYTES', 13 * 8 * 8 * 3)  # five blocks
  monkeypatch.setattr(nearest_neighbours, 'USUAL', 20)
  samples = np.random.RandomState(1).randint(0, 256, (7, 8, 8, 3)).astype(np.uint8)
  spaces = {'pixels': nearest_neighbours.pixels, 'means': MEANS}
  in_pixels, in_means = nearest_neighbours.search(samples, source, spaces, 4)
  images = source.train()[0]
  distances = by_hand(samples, images)
  order = np.argsort(distances, axis=1)[:, :4]
  np.testing.assert_array_equal(in_pixels.numbers, order)
  np.testing.assert_array_equal(in_pixels.images, images[order])
  among = by_hand(images, images) + np.where(np.eye(60), np.inf, 0)
  usual = np.median(among.min(1)[data.subset(60, 20)])
  np.testing.assert_allclose(in_pixels.usual, usual, rtol=1e-4)
  nearest = np.take_along_axis(distances, order, 1)
  np.testing.assert_allclose(in_pixels.ratios, nearest / usual, rtol=1e-4)
  gaps = MEANS(samples)[:, None] - MEANS(images)[None]
  order = np.argsort((gaps**2).sum(-1), axis=1)[:, :4]
  np.testing.assert_array_equal(in_means.numbers, order)


def test_copies_are_seen():
  source = a_source(channels=1)
  samples = np.random.RandomState(1).randint(0, 256, (3, 8, 8, 1)).astype(np.uint8)
  samples[1] = source.train()[0][37]
  (found,) = nearest_neighbours.search(samples, source, {'pixels': nearest_neighbours.pixels}, 2)
  assert found.numbers[1, 0] == 37 and found.ratios[1, 0] < 0.01
  assert (found.ratios[[0, 2], 0] > 0.9).all()
  said = nearest_neighbours.words(source, [found])
  assert 'smallest 0.00 (sample 1); 1 below 0.5, look at them' in said
  picture = np.asarray(nearest_neighbours.draw(samples, ['a', 'b', 'c'], [found]))
  red = (picture[..., 0] > picture[..., 1]).any(1).nonzero()[0]
  below = nearest_neighbours.STRIP + 2 * nearest_neighbours.GAP + 48  # the first row
  down = 48 + nearest_neighbours.STRIP + nearest_neighbours.GAP
  assert below + down <= red.min() and red.max() < below + 2 * down


def test_a_training_image_is_not_its_own_neighbour():
  """Else the usual distance would be 0, and nothing near."""
  (found,) = nearest_neighbours.search(
    a_source().train()[0][:1], a_source(), {'pixels': nearest_neighbours.pixels}, 1
  )
  assert found.usual > 1


def test_there_may_be_fewer_images_than_asked_for():
  (found,) = nearest_neighbours.search(
    np.zeros((1, 8, 8, 3), np.uint8), a_source(4), {'pixels': nearest_neighbours.pixels}, 9
  )
  assert found.numbers.shape == (1, 3) and len(set(found.numbers[0])) == 3


@pytest.mark.parametrize('channels', [1, 3])
def test_picture(channels):
  source = a_source(channels=channels)
  spaces = {'pixels': nearest_neighbours.pixels, 'means': MEANS}
  samples = source.train()[0][:2]
  found = nearest_neighbours.search(samples, source, spaces, 3)
  picture = nearest_neighbours.draw(samples, ['a', 'a name that is far too long'], found)
  cell = 48 + nearest_neighbours.GAP
  assert picture.mode == 'RGB' and 7 * cell < picture.width < 8 * cell
  top = nearest_neighbours.STRIP + 2 * nearest_neighbours.GAP
  shown = np.asarray(picture)[
    top : top + 48 : 6, nearest_neighbours.GAP : nearest_neighbours.GAP + 48 : 6
  ]
  np.testing.assert_array_equal(shown, np.broadcast_to(samples[0], (8, 8, 3)))


def few(monkeypatch):
  """In place of training a classifier."""
  monkeypatch.setattr(nearest_neighbours, 'of_classifier', lambda source: MEANS)


def test_neighbours_of_samples(bigjax, workdir, tmp_path, monkeypatch):
  few(monkeypatch)
  out = tmp_path / 'new' / 'n.png'
  ask = ('sample', '--workdir', workdir, '--classes', '3,8', '--num', 3, '--nearest', 2)
  status, said, err = bigjax(*ask, '--neighbours', '--out', out)
  assert status == 0, err
  lines = said.splitlines()
  # Those that the run was trained on, not those that it held out.
  assert lines[0].startswith(f'{out}: 3 samples, each with its 2 nearest of 1,347 training images')
  assert lines[1].startswith('in pixels: median ') and lines[2].startswith('in features: median ')
  assert lines[3].split() == ['sample', 'class', 'pixels', 'features']
  assert [line.split()[:2] for line in lines[4:]] == [['0', '3'], ['1', '3'], ['2', '8']]
  with Image.open(out) as picture:
    assert picture.size[1] == 3 * (48 + 14 + 4) + 14 + 8


def test_neighbours_of_an_export_are_all_there_is(bigjax, params, tmp_path, monkeypatch):
  """Of the data that its card names; and a source can be given."""
  few(monkeypatch)
  ask = ('sample', '--params', params, '--num', 1, '--out', tmp_path / 'n.png', '--neighbours')
  for source in ((), ('digits',)):
    status, said, err = bigjax(*ask, *source)
    assert status == 0 and 'nearest of 1,787 training images' in said, err


@pytest.mark.parametrize(
  ('argv', 'words'),
  [
    (['--neighbours', 'digit'], ['did you mean digits?']),
    (['--neighbours', 'folder:/nowhere'], ['there is no folder']),
    (['--neighbours', '--out', 'x.npz'], ['--neighbours draws a picture']),
  ],
)
def test_neighbours_that_cannot_be_found(bigjax, params, tmp_path, monkeypatch, argv, words):
  monkeypatch.chdir(tmp_path)
  status, out, err = bigjax('sample', '--params', params, *argv)
  assert status == 2 and out == '' and err.count('\n') == 1
  assert all(word in err for word in words), err


def test_a_card_that_does_not_say_what_was_trained_on(params):
  gen = loaded.load(params)
  with pytest.raises(errors.UserError, match='name it, as in --neighbours tfds:cifar10'):
    nearest_neighbours.reference('', None, gen.shape)


@pytest.mark.slow
def test_features_of_the_classifier(params):
  """Images of one class lie nearer to each other in them; the order of images does not matter."""
  source = nearest_neighbours.reference('digits', None, (16, 16, 1))
  features = nearest_neighbours.of_classifier(source)
  images, labels = source.train(300)
  rows = features(images)
  assert rows.dtype == np.float32 and len(rows) == 300
  np.testing.assert_allclose(features(images[::-1])[::-1], rows, rtol=1e-5, atol=1e-6)
  gaps = ((rows[:, None] - rows[None]) ** 2).sum(-1)
  np.fill_diagonal(gaps, np.inf)
  assert (labels[gaps.argmin(1)] == labels).mean() > 0.95
