"""Images that are not square, by data.fit: cut, padded or stretched, wherever they are seen."""

import numpy as np
import pytest
from PIL import Image

from bigjax import data
from bigjax.data.reading import video
from bigjax.evaluation import image_sets
from bigjax.sampling.latents import photos

from folders import config, refusal, said, write
from pictures import noise, square

WIDE, HIGH = (12, 24), (24, 12)


def means(image, height, width):
  """Averages over whole rectangles of pixels, rounded half up."""
  h, w, c = image.shape
  blocks = image.reshape(height, h // height, width, w // width, c).astype(int)
  return np.floor(blocks.mean((1, 3)) + 0.5)


@pytest.mark.parametrize(
  ('shape', 'inside'),
  [
    ((12, 24), (slice(2, 6), slice(0, 8))),
    ((24, 12), (slice(0, 8), slice(2, 6))),
    ((9, 24), (slice(2, 5), slice(0, 8))),  # 5 rows of bars: one more below
    ((16, 16), (slice(0, 8), slice(0, 8))),
    ((1, 400), (slice(3, 4), slice(0, 8))),
    ((2, 8), (slice(3, 5), slice(0, 8))),  # as it is
  ],
)
def test_pad_keeps_all_between_black_bars(shape, inside):
  image = noise(*shape) | 1  # no black of its own
  found = square(image, 8, fit='pad')
  rows, columns = (part.stop - part.start for part in inside)
  np.testing.assert_array_equal(found[inside], means(image, rows, columns))
  bars = np.ones((8, 8), bool)
  bars[inside] = False
  assert (found[bars] == 0).all() and (found[~bars] > 0).all()


@pytest.mark.parametrize('shape', [(12, 24), (24, 12), (8, 32), (16, 16)])
def test_stretch_averages_each_edge_to_one_length(shape):
  image = noise(*shape)
  exact = (
    np.kron(image.astype(float), np.ones((2, 2, 1))) if shape[0] % 8 or shape[1] % 8 else image
  )
  np.testing.assert_array_equal(square(image, 8, fit='stretch'), means(exact, 8, 8))


def test_stretch_shrinks_one_edge_and_enlarges_the_other():
  """What is constant along the short edge stays so, and is averaged along the other."""
  columns = noise(1, 32)
  image = np.repeat(columns, 4, axis=0)
  found = square(image, 16, fit='stretch')
  np.testing.assert_array_equal(found, np.repeat(means(columns, 1, 16), 16, axis=0))
  np.testing.assert_array_equal(square(image.swapaxes(0, 1), 16, fit='stretch'),
                                found.swapaxes(0, 1))  # fmt: skip


@pytest.mark.parametrize('shape', [(48, 20), (20, 31), (33, 47), (16, 64)])
@pytest.mark.parametrize('fit', ['pad', 'stretch'])
def test_frames_of_videos_are_fitted_as_photos_are(shape, fit):
  for channels in (1, 3):
    ours = video.square(noise(*shape), 16, channels, fit=fit).astype(int)
    theirs = square(noise(*shape), 16, channels, fit=fit).astype(int)
    assert ours.shape == theirs.shape == (16, 16, channels)
    assert abs(ours - theirs).max() <= 1 and ours.std() > 10


def test_photos_to_find_are_fitted_as_those_trained_on(tmp_path):
  Image.fromarray(noise(*WIDE)).save(tmp_path / 'a.png')
  for fit in ('crop', 'pad', 'stretch'):
    found = photos.read(str(tmp_path / 'a.png'), (8, 8, 3), fit)
    assert abs(found.astype(int) - square(noise(*WIDE), 8, fit=fit).astype(int)).max() <= 1


@pytest.fixture(scope='module')
def loaded(tmp_path_factory):
  """(Folder of pictures that are not square, the source of each fit)."""
  root = tmp_path_factory.mktemp('all')
  write(root, {f'{i % 2}/{i}.png': noise(*(WIDE, HIGH)[i % 2], 3) + i | 1 for i in range(8)})
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('BIGJAX_CACHE', str(root.parent / 'cache'))
    yield root, {fit: data.load(config(root, fit=fit)) for fit in ('crop', 'pad', 'stretch')}


def test_a_source_is_fitted(loaded):
  root, sources = loaded
  plain = data.load(config(root))
  assert plain.digest == sources['crop'].digest, 'an older config is another run'
  for what in ('digest', 'held_out_digest'):
    assert len({getattr(source, what) for source in sources.values()}) == 3
  images, labels = sources['pad'].train()
  for image, label in zip(images, labels, strict=True):  # bars above and below wide ones
    outer = (image[:2], image[6:]) if label == 0 else (image[:, :2], image[:, 6:])
    assert not np.concatenate(outer, axis=None).any() and (image != 0).sum() == 4 * 8 * 3
  stream = next(data.stream(sources['stretch'], 0, 0, (1, 6), np.arange(6)))['image']
  assert (stream > 0).all() and stream.shape == (1, 6, 8, 8, 3)
  assert '8 of 8 images looked at are not square: black bars' in said(sources['pad'])
  assert 'they are stretched' in said(sources['stretch'])
  assert 'data.fit=pad or stretch keeps all' in said(sources['crop'])


def test_scores_compare_with_images_fitted_alike(loaded):
  """As the run's config says, or else the generator's card."""
  root, sources = loaded
  given = f'folder:{root}'
  known = {'source': given, 'fit': 'pad', 'held_out': 0.25}
  split = image_sets.open_source(given, (8, 8, 3), '', known)['train']
  images, _ = next(split.batches(6))
  np.testing.assert_array_equal(images, sources['pad'].train()[0])
  plain = image_sets.open_source(given, (8, 8, 3), '', {'held_out': 0.25})['train']
  assert plain.digest != split.digest
  near = image_sets.as_of_run(given, (8, 8, 3), None, None, held_out=0.25, fit='pad')
  np.testing.assert_array_equal(near.train()[0], images)


def test_a_random_crop_needs_something_to_crop():
  message = refusal(config('x', fit='pad', crop='random'))
  assert 'data.fit=pad crops nothing' in message
  assert "data.fit is 'zoom'" in refusal(config('x', fit='zoom'))
