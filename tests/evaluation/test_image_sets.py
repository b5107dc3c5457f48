"""Images to be scored and references: read as one, whatever files a folder holds."""

import argparse
import os

import numpy as np
import pytest
from PIL import Image

from bigjax.core import errors
from bigjax.data.reading import image_headers
from bigjax.evaluation import after_training, image_sets
from bigjax.evaluation.metrics import frechet

from folders import shade, write
from hostile_pictures import HOSTILE
from pictures import encoded, level, noise, smooth


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """A cache of each test's own."""
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path / 'cache'))


def odd_files():
  """What cameras, phones, drawing programs and downloads leave in a folder."""
  exif = Image.Exif()
  exif[image_headers.ORIENTATION] = 6
  deep = np.random.RandomState(0).randint(0, 2**16, (12, 12)).astype(np.uint16)
  files = {name: given for name, (given, _) in HOSTILE.items() if len(given) < 2**17}
  return {
    **files,
    '16 bits too.png': encoded(Image.fromarray(deep)),
    'turned.jpg': encoded(smooth(24, 40), 'JPEG', exif=exif),
    'see-through.png': encoded(smooth(12, 12, 'RGBA')),
    'grey and alpha.png': encoded(smooth(12, 12, 'LA')),
    'wide.png': noise(12, 200),
    'sub/colour.webp': encoded(smooth(30, 20), 'WEBP'),
    'sub/palette.gif': encoded(smooth(13, 12).quantize(32), 'GIF'),
    'sub/@eaDir/thumb.jpg': encoded(smooth(9, 9), 'JPEG'),
    'sub/.thumbnails/thumb.png': shade(3),
  }


def pixels_of(images):
  """All images, as rows, in an order that does not depend on theirs."""
  rows = np.concatenate([some.reshape(len(some), -1) for some, _ in images.batches(7)])
  return rows[np.lexsort(rows.T)]


def test_a_smaller_stage_is_compared_with_what_it_is_given():
  """Means of a run's images at its data's resolution, which digits read at 8 px are not."""
  known = {'resolution': 16, 'num_classes': 10}
  whole, stage, plain = (
    image_sets.open_source('digits', (side, side, 1), '', given)
    for side, given in ((16, known), (8, known), (8, {'num_classes': 10}))
  )
  for split in ('train', 'test', 'all'):
    assert len({sets[split].digest for sets in (whole, stage, plain)}) == 3
    images, labels = next(stage[split].batches(50))
    full, expected = next(whole[split].batches(50))
    np.testing.assert_array_equal(images, level(full, 8))
    np.testing.assert_array_equal(labels, expected)
  (images, labels), (full, expected) = (sets['train'].some(40) for sets in (stage, whole))
  np.testing.assert_array_equal(images, level(full, 8))
  np.testing.assert_array_equal(labels, expected)
  assert (images != plain['train'].some(40)[0]).any()


@pytest.mark.parametrize('layout', ['{}', 'a/{}', 'train/a/{}'])
def test_a_folder_is_at_distance_0_from_itself(tmp_path, layout):
  """All odd files are listed, left out, decoded, turned and cut alike."""
  files = odd_files() if layout == '{}' else dict(list(odd_files().items())[-9:])
  files = {name.removeprefix('sub/') if layout == '{}' else name: x for name, x in files.items()}
  root = write(tmp_path / 'odd\nfolder', {layout.format(name): x for name, x in files.items()})
  if layout != '{}':
    other = layout.replace('a/', 'b/').replace('train', 'val')
    write(root, {'train/b/0.png': noise(12, 12)} if 'train' in layout else {})
    write(root, {other.format('x.png'): noise(12, 13), 'masks/readme.txt': b'1'})
  first = write(tmp_path / 'elsewhere', {'good.png': noise(14, 14)}) / 'good.png'
  (root / layout.format('link.png')).symlink_to(first)
  ours = image_sets.open_files(str(root))
  theirs = image_sets.open_source(f'folder:{root}', ours.size, '', {})['all']
  assert ours.num == theirs.num >= 8 and ours.size == (12, 12, 3)
  a, b = pixels_of(ours), pixels_of(theirs)
  np.testing.assert_array_equal(a, b)
  moments = [frechet.Moments.of_rows(rows[:, ::16].astype(np.float32)) for rows in (a, b)]
  assert abs(frechet.frechet(*moments)) < 1e-6
  said = ' '.join(sentence for level, sentence in ours.findings if level == 'warning')
  assert 'are not 12x12: their central squares are resized' in said
  assert ('cannot be read and are left out' in said) == (layout == '{}')


def test_grey_images_stay_grey(tmp_path):
  """However their files say it; one in colour makes all of them colour."""
  root = write(tmp_path / 'all', {'0.png': noise(9, 9)[..., 0], '1.png': shade(7)})
  assert image_sets.open_files(str(root)).size == (9, 9, 1)
  write(root, {'2.png': noise(9, 9)})
  assert image_sets.open_files(str(root)).size == (9, 9, 3)


def test_a_reference_in_colour_that_is_made_grey_is_said(tmp_path):
  """Grey images are scored without its colours: at distance 0 from what they are the grey of."""
  root = write(tmp_path / 'all', {'0.png': noise(9, 9), '1.png': shade(7), '2.png': noise(9, 9)})

  def said(channels):
    given = image_sets.open_source(f'folder:{root}', (9, 9, channels), '', {})['all']
    return [words for level, words in given.findings if level == 'warning' and 'grey' in words]

  assert said(1) == ['2 of 3 images looked at are in colour, and are made grey'] and not said(3)


def test_other_pixels_are_another_reference(tmp_path):
  """Of the same names, sizes and times; what is kept of the ones before is not taken for them."""
  flat = lambda seed: encoded(Image.fromarray(noise(9, 9) ^ seed), compress_level=0)
  root = write(tmp_path / 'all', {f'{i}.png': flat(i) for i in range(6)})
  digests = []
  for seed in (0, 100):
    for i in range(6):
      before = os.stat(root / f'{i}.png')
      with open(root / f'{i}.png', 'r+b') as file:
        file.write(flat(np.uint8(i + seed)))
      os.utime(root / f'{i}.png', ns=(before.st_atime_ns, before.st_mtime_ns))
    splits = image_sets.open_source(f'folder:{root}', (9, 9, 3), '', {})
    digests += [splits['all'].digest, image_sets.open_files(str(root)).digest]
  assert len(set(digests)) == 4


@pytest.mark.parametrize(
  ('given', 'expected'),
  [
    ('folder:{}/train', ('folder:{}/train', 'all')),
    ('folder:{}/test', ('folder:{}', 'test')),
    ('folder:{}', ('folder:{}', 'all')),
    ('tfds:cifar10/test', ('tfds:cifar10', 'test')),
    ('digits', ('digits', 'train')),
  ],
)
def test_a_folder_called_train_is_itself(tmp_path, given, expected):
  (tmp_path / 'train').mkdir()
  found = image_sets.split_of(given.format(tmp_path))
  assert found == (expected[0].format(tmp_path), expected[1])


def test_one_image_is_too_few(tmp_path):
  root = write(tmp_path / 'one', {'a.png': shade(3)})
  asked = argparse.Namespace(images=str(root), num=None)
  with pytest.raises(errors.UserError, match='has one image; scores need two at least'):
    after_training.begin(asked)
