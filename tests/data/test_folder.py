"""Anybody's photos, and what all sources that read an image at every visit have in common."""

import io
import itertools
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from bigjax import data
from bigjax.core import errors
from bigjax.data.reading import image_headers, levels, listing, photo_files

import places
from folders import config, everything, refusal, said, shade, shades, unseen, write
from pictures import encoded, noise, smooth, square

REAL = places.SHARED / 'data'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """A cache of each test's own."""
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path / 'cache'))
  return tmp_path / 'cache' / 'data'


@pytest.fixture
def photos(tmp_path):
  """Eight shades in two classes."""
  names = {f'{"cats" if i < 4 else "dogs"}/{i}.png': shade(i) for i in range(8)}
  return write(tmp_path / 'my photos', names)


def test_a_folder_per_class(photos):
  source = data.load(config(photos))
  assert source.class_names == ('cats', 'dogs')
  assert source.num_train == 6 and not source.at_once
  assert everything(source) == list(range(8))
  assert all(label == shade // 4 for shade, label in shades(source).items())
  assert [shade // 4 for shade in unseen(source)] == source.held_out()[1].tolist() == [0, 1]
  images, labels = source.train()
  assert images.shape == (6, 8, 8, 3) and images.dtype == np.uint8
  assert labels.tolist() == source.labels().tolist() == [0] * 3 + [1] * 3
  assert labels.dtype == source.labels().dtype == np.int32
  assert len(source.train(2)[0]) == 2 and len(source.held_out(1)[0]) == 1
  assert 'ok: all 8 images' in said(source) and 'warning' not in said(source)


def test_folders_of_splits(tmp_path):
  root = write(tmp_path / 'all', {f'train/{i % 2}/{i}.png': shade(i) for i in range(6)})
  write(root, {f'val/1/{i}.png': shade(i) for i in (100, 101)})
  source = data.load(config(root))
  assert source.class_names == ('0', '1')
  assert shades(source) == {i: i % 2 for i in range(6)}
  assert unseen(source) == [100, 101] and source.held_out()[1].tolist() == [1, 1]


def test_a_train_folder_alone_is_split(tmp_path):
  root = write(tmp_path / 'all', {f'train/{i % 2}/{i}.png': shade(i) for i in range(8)})
  source = data.load(config(root))
  assert source.class_names == ('0', '1') and source.num_train == 6
  assert everything(source) == list(range(8))


def test_other_classes_in_the_test_folder_are_refused(tmp_path):
  root = write(tmp_path / 'all', {f'train/{c}/{i}.png': shade(i) for i in (0, 1) for c in 'ab'})
  write(root, {f'test/{c}/0.png': shade(0) for c in 'bc'})
  message = refusal(config(root))
  assert 'training images lack: c;' in message and 'same names' in message


def test_a_flat_folder_is_one_class(tmp_path):
  source = data.load(config(write(tmp_path / 'faces', {f'{i}.png': shade(i) for i in range(4)})))
  assert source.class_names == ('faces',) and source.num_train == 3
  assert set(shades(source).values()) == {0}
  assert 'no class folders: training is unconditional, with one class' in said(source)


def test_one_class_folder_is_unconditional_too(tmp_path):
  root = write(tmp_path / 'all', {f'faces/{i}.png': shade(i) for i in range(4)})
  source = data.load(config(root))
  assert source.class_names == ('faces',)
  assert "warning: there is one class folder only, 'faces'" in said(source)


def test_nested_folders_belong_to_the_outermost(tmp_path):
  root = write(tmp_path / 'all', {f'a/{i}.png': shade(i) for i in range(2)})
  write(root, {f'b/x/{i}.png': shade(i) for i in range(2, 4)})
  write(root, {f'b/y/a/{i}.png': shade(i) for i in range(4, 6)})
  (root / 'empty').mkdir()
  source = data.load(config(root))
  assert source.class_names == ('a', 'b') and everything(source) == list(range(6))
  assert all(label == (shade >= 2) for shade, label in shades(source).items())


def test_loose_images_beside_class_folders_are_refused(photos):
  write(photos, {'z.png': shade(9), 'b.png': shade(9)})
  message = refusal(config(photos))
  assert "2 images (such as 'b.png') beside the class folders cats, dogs" in message


def test_folders_without_images_are_refused(tmp_path):
  assert 'needs the path of a folder' in refusal(config(''))
  for name in ('none', 'a file'):
    (tmp_path / 'a file').write_bytes(b'')
    assert f'no folder {str(tmp_path / name)!r}' in refusal(config(tmp_path / name))
  (tmp_path / 'empty').mkdir()
  message = refusal(config(tmp_path / 'empty'))
  assert f'no image is below {str(tmp_path / "empty")!r}' in message and '.jpg' in message
  message = refusal(config(write(tmp_path / 'others', {'a/movie.mp4': b'1', 'b/x.bmp': b'2'})))
  assert '2 other files' in message and 'movie.mp4' in message


def test_one_image_is_too_few(tmp_path):
  assert 'no held-out images' in refusal(config(write(tmp_path / 'one', {'a.png': shade(0)})))


def test_number_of_classes(photos):
  assert len(data.load(config(photos, num_classes=2)).class_names) == 2
  message = refusal(config(photos, num_classes=5))
  assert 'data.num_classes is 5' in message and '2 classes' in message and 'None' in message


def bad():
  """Files that are called images but cannot be read."""
  return {
    'bitmap.png': encoded(smooth(40, 40), 'BMP'),
    'cut.jpg': encoded(smooth(40, 40), 'JPEG')[:500],
    'cut.png': encoded(smooth(40, 40))[:500],
    'cut.webp': encoded(noise_image(), 'WEBP', lossless=True)[:500],
    'empty.jpg': b'',
    'text.jpg': b'not an image at all',
  }


def noise_image():
  return Image.fromarray(noise(40, 40))


def test_what_cannot_be_read_is_named_and_left_out(photos, cache):
  write(photos, {f'cats/{name}': given for name, given in bad().items()})
  source = data.load(config(photos))
  assert everything(source) == list(range(8))
  assert re.search('warning: 6 of 14 images in .* cannot be read and are left out', said(source))
  assert all(f'cats/{name}' in said(source) for name in list(bad())[: levels.NAMED])
  assert ', ...' in said(source) and 'text.jpg' not in said(source)
  again = data.load(config(photos))
  assert again.findings == source.findings and again.digest == source.digest
  os.remove(photos / 'cats' / 'bitmap.png')
  assert ', ...' not in said(data.load(config(photos)))
  assert len(list(cache.iterdir())) == 2


def test_held_out_images_that_cannot_be_read_are_named(tmp_path):
  root = write(
    tmp_path / 'all', {f'{s}/a/{i}.png': shade(i) for s in ('train', 'test') for i in (0, 1)}
  )
  write(root, {'test/a/broken.jpg': b'no'})
  source = data.load(config(root))
  assert unseen(source) == [0, 1]
  assert 'warning: 1 of ' in said(source) and 'a/broken.jpg' in said(source)


def test_contents_are_what_data_is(tmp_path):
  """Other pictures of the same names, sizes, bytes and times are other data; other names and
  times of the same ones are not."""
  flat = lambda level: encoded(Image.fromarray(shade(level)), compress_level=0)
  root = write(tmp_path / 'all', {f'train/{"ab"[i % 2]}/{i}.png': flat(i) for i in range(6)})
  write(root, {'test/a/x.png': flat(0)})
  first, path = data.load(config(root)), root / 'train' / 'a' / '0.png'
  before, other = os.stat(path), flat(77)
  assert len(other) == before.st_size
  with open(path, 'r+b') as file:  # the same inode
    file.write(other)
  os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
  second = data.load(config(root))
  assert 77 in shades(second) and second.digest != first.digest
  assert second.held_out_digest == first.held_out_digest
  write(root, {'train/a/0.png': flat(0)})
  os.rename(path, path.with_name('00.png'))
  assert data.load(config(root)).digest == first.digest


@pytest.mark.parametrize('size', [(1, 10_000), (10_000, 1)])
def test_the_longest_images(tmp_path, size):
  """Their central pixel, enlarged; and a sentence about that."""
  level = np.zeros(size, np.uint8)
  level[size[0] // 2 - 1 : size[0] // 2 + 1, size[1] // 2 - 1 : size[1] // 2 + 1] = 90
  files = {'train/0.png': encoded(Image.fromarray(level))}
  files['train/1.jpg'] = encoded(Image.fromarray(level), 'JPEG')
  source = data.load(config(write(tmp_path / 'all', {**files, 'test/x.png': shade(0)})))
  images, _ = source.train()
  assert images.shape == (2, 8, 8, 3) and (images[0] == 90).all() and np.ptp(images[1]) == 0
  assert 'warning: the smallest of 2 images looked at is' in said(source)


def test_nothing_that_can_be_read_is_refused(tmp_path):
  root = write(tmp_path / 'all', {f'{c}/{name}': g for c in 'ab' for name, g in bad().items()})
  message = refusal(config(root))
  assert 'none of its 12 images can be read' in message and str(root / 'a') in message


def test_every_kind_and_size(tmp_path):
  """As Pillow reads each of them, whatever it is called, and the exact averages."""
  exif = Image.Exif()
  exif[image_headers.ORIENTATION] = 6
  grey, colour = smooth(24, 32, 'L'), smooth(16, 40)
  files = {
    'a.JPG': encoded(grey, 'JPEG', quality=95),
    'b.jpeg': encoded(colour, 'JPEG', exif=exif),
    'c.webp': encoded(colour, 'JPEG'),
    'd.jpg': encoded(colour),
    'e.PnG': encoded(colour, 'WEBP', lossless=True),
    'f.jpe': encoded(grey, 'WEBP', lossless=True),
    'g.jfif': encoded(Image.fromarray(noise(50, 13))),
    'h.webp': encoded(Image.new('RGBA', (5, 9), (255, 255, 255, 0))),
  }
  root = write(tmp_path / 'all', {f'train/{name}': given for name, given in files.items()})
  write(root, {'test/x.png': shade(0)})
  source = data.load(config(root))
  assert source.class_names == ('all',)
  images, labels = source.train()
  assert len(images) == len(files) and not labels.any()
  for image, given in zip(images, files.values(), strict=True):
    expected = Image.open(io.BytesIO(given))
    if expected.getexif().get(image_headers.ORIENTATION):
      expected = expected.transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(image, square(np.asarray(expected.convert('RGB')), 8))
  assert 'warning: the smallest of 8 images looked at is 5x9' in said(source)
  assert ', and 1 are below data.resolution=8: they are enlarged' in said(source)


def test_hidden_and_other_files_are_passed_over(photos):
  write(photos, {'.x.png': shade(9), 'cats/.y.png': shade(9), '.git/z.png': shade(9)})
  write(photos, {'dogs/.old/z.png': shade(9), 'cats/.DS_Store': b'1'})
  assert 'other files' not in said(data.load(config(photos)))
  write(photos, {'notes.txt': b'1', 'cats/x.mp4': b'2', 'cats/png': b'3'})
  source = data.load(config(photos))
  assert everything(source) == list(range(8))
  assert 'ok: 2 other files are not images that bigjax reads, such as ' in said(source)
  assert 'warning: 1 videos are left out; data.frames=16 makes clips' in said(source)


def gif(*levels):
  """An animation of these shades."""
  frames = [Image.fromarray(shade(level)) for level in levels]
  return encoded(frames[0], 'GIF', save_all=True, append_images=frames[1:])


def test_what_is_lost_is_named(photos):
  """Each loss in a warning of its own, with its number and an example."""
  write(photos, {'scans/0.bmp': encoded(Image.new('RGB', (9, 9)), 'BMP'), 'scans/1.heic': b'1'})
  write(photos, {'dataset.json': b'{}', 'cats/labels.txt': b'0', 'dogs/4.xml': b'<a/>'})
  write(photos, {'cats/@eaDir/0.png/THUMB.jpg': shade(99), 'dogs/thumbs/4.png': shade(98)})
  write(photos, {'masks/readme': b'1', 'cats/.thumbnails/0.png': shade(97)})
  source = data.load(config(photos))
  assert everything(source) == list(range(8)) and source.class_names == ('cats', 'dogs')
  for words in (
    'without an image that bigjax reads: masks (1 other files), scans (2 other files)',
    "2 pictures are of kinds that bigjax does not read; convert them to PNG, such as 'scans/0.bmp'",
    "beside the images or their folders), such as 'cats/labels.txt'",
    "2 pictures in a device's or an archive's own folders are left out, such as 'cats/@eaDir/",
  ):
    assert re.search(f'warning: .*{re.escape(words)}', said(source)), (words, said(source))


def test_of_a_gif_the_first_picture_is_used(tmp_path):
  root = write(tmp_path / 'all', {f'a/{i}.gif': gif(i, 200) for i in range(4)})
  write(root, {f'b/{i}.png': shade(i) for i in range(4, 8)})
  source = data.load(config(root))
  assert source.class_names == ('a', 'b') and everything(source) == list(range(8))
  assert 'ok: 4 GIFs: of an animation the first picture is used' in said(source)


def test_copies_are_told_with_what_they_spoil(tmp_path):
  root = write(tmp_path / 'all', {f'train/a/{i}.png': shade(i) for i in range(9)})
  write(
    root, {'train/a/again.png': shade(3), 'train/b/x.png': shade(4), 'train/b/y.png': shade(40)}
  )
  write(root, {'test/a/z.png': shade(5), 'test/a/w.png': shade(50)})
  (line,) = [line for line in said(data.load(config(root))).split('\n') if 'are copies' in line]
  assert line == (
    'warning: 3 of 14 images are copies of another (a/again.png of a/3.png); 1 of them in another '
    'class (b/x.png of a/4.png); 1 both trained on and held out (a/z.png of a/5.png): remove them'
  )


def test_names_may_be_anything(tmp_path):
  names = ('été à la mer', "it's #1 [100%]", 'снег', '雪 ❄', '"' + 246 * 'n')
  root = write(tmp_path / 'фото 1', {f'{n}/{n} {i}.png': shade(i) for n in names for i in (0, 1)})
  source = data.load(config(root))
  assert source.class_names == tuple(sorted(names))
  assert source.num_train == 5 and len(source.train()[0]) == 5


def test_a_name_that_is_no_text(photos):
  """As old archives leave them: that image may be left out, the others are trained on."""
  try:
    with open(os.fsencode(photos / 'cats') + b'/\xe9t\xe9.png', 'wb') as f:
      f.write(encoded(Image.fromarray(shade(50))))
  except OSError:
    pytest.skip('this file system takes UTF-8 names only')
  source = data.load(config(photos))
  assert [level for level in everything(source) if level != 50] == list(range(8))


def test_links_are_followed(photos, tmp_path):
  write(tmp_path / 'elsewhere', {f'{i}.png': shade(i) for i in range(8, 12)})
  (photos / 'foxes').symlink_to(tmp_path / 'elsewhere', target_is_directory=True)
  (photos / 'cats' / 'link.png').symlink_to(photos / 'dogs' / '5.png')
  source = data.load(config(photos))
  assert source.class_names == ('cats', 'dogs', 'foxes')
  assert set(everything(source)) == set(range(12)) and source.num_train == 4 + 3 + 3


def test_a_broken_link_cannot_be_read(photos):
  (photos / 'cats' / 'link.png').symlink_to(photos / 'nowhere')
  source = data.load(config(photos))
  assert everything(source) == list(range(8))
  assert re.search('1 of 9 images in .* cannot be read .*: cats/link.png', said(source))


def test_a_link_to_a_folder_above_shows_nothing_twice(photos):
  (photos / 'cats' / 'loop').symlink_to(photos / 'cats', target_is_directory=True)
  assert everything(data.load(config(photos))) == list(range(8))


def test_a_class_of_one_is_trained_on(photos):
  """Its image is kept in training: held-out images then have none of that class."""
  write(photos, {'bear/1.png': shade(9)})
  source = data.load(config(photos))
  assert source.class_names == ('bear', 'cats', 'dogs') and source.num_train == 7
  assert 9 in shades(source) and 9 not in unseen(source)
  stream = data.stream(source, 0, 0, (1, 7), np.arange(7))
  for batch in itertools.islice(stream, 2):  # once in every epoch, as any other image
    labels = batch['label'][0].tolist()
    assert labels.count(0) == 1 and batch['image'][0, labels.index(0), 0, 0, 0] == 9


def test_an_image_more_keeps_the_split_of_the_others(tmp_path, monkeypatch):
  """It takes a place at most; the other class and another place on the disk change nothing."""
  names = {f'{c}/{i}.png': shade(40 * c + i) for c in (0, 1) for i in range(40)}
  root = write(tmp_path / 'all', names)
  first = data.load(config(root))
  before = set(unseen(first))
  assert [sum(level // 40 == c for level in before) for c in (0, 1)] == [10, 10]
  assert before != {*range(10), *range(40, 50)}  # not those that come first
  monkeypatch.setattr(data, 'refuse_one_label', lambda *given: None)  # to be quicker
  moved = data.load(config(shutil.copytree(root, tmp_path / 'copy')))
  assert set(unseen(moved)) == before and moved.digest == first.digest
  write(root, {f'0/more {i}.png': shade(100 + i) for i in range(2)})
  source = data.load(config(root))
  assert source.digest != first.digest and source.num_train == 82 - len(unseen(source))
  after = {level for level in unseen(source) if level < 80}
  assert len(before ^ after) <= 2
  assert {level for level in after if level >= 40} == {level for level in before if level >= 40}


def test_a_second_load_reads_no_image(photos, cache, monkeypatch):
  first = data.load(config(photos))
  assert len(list(cache.iterdir())) == 1
  with monkeypatch.context() as patch:
    patch.setattr(photo_files, 'read_all', None)
    again = data.load(config(photos))
    assert again.digest == first.digest and again.findings == first.findings
    write(photos, {'cats/0.png': b'changed'})
    with pytest.raises(TypeError):
      data.load(config(photos))
  assert 'cats/0.png' in said(data.load(config(photos)))


def test_a_damaged_cache_is_made_again(photos, cache, monkeypatch):
  first = data.load(config(photos))
  (path,) = cache.iterdir()
  whole, made = dict(np.load(path)), []
  monkeypatch.setattr(photo_files, 'read_all', lambda paths, store: made.append(paths) or whole)
  kept = path.read_bytes()
  for damage in (b'', b'PK\3\4 no archive', kept[:-200]):
    path.write_bytes(damage)
    known = photo_files.examine(listing.walk(str(photos)), '')
    assert len(known['names']) == 8
    assert dict(np.load(path)).keys() == whole.keys()
  assert len(made) == 3 and len(made[0]) == 8 == first.num_train + 2


def test_a_cache_that_cannot_be_written_costs_time_only(photos, tmp_path):
  (tmp_path / 'cache').write_bytes(b'a file in its place')
  assert data.load(config(photos)).num_train == 6


def test_an_image_that_has_gone_is_one_sentence(photos):
  source = data.load(config(photos))
  for i in range(4):
    os.remove(photos / 'cats' / f'{i}.png')
  with pytest.raises(errors.UserError) as error:
    for _ in range(9):
      next(data.stream(source, 0, 0, (1, 6), np.arange(6)))
  message = str(error.value)
  assert '\n' not in message and str(photos / 'cats') in message
  assert 'node' not in message and 'device' not in message, message


@pytest.mark.parametrize(
  ('given', 'fraction'), [('cut', 0.7), ('text', 1.0), ('bomb', 1.0), ('gone', 1.0)]
)
def test_an_image_that_turns_bad_is_named(tmp_path, given, fraction):
  """After the survey, while training: one sentence with its path and what is wrong with it, and
  training ends there, after every batch that could be made. It is never left out in silence: the
  order of the data would be another."""
  names = {f'{"ab"[i % 2]}/{i}.png': shade(i) for i in range(24)}
  root = write(tmp_path / 'two\nlines', names)
  source = data.load(config(root, fraction=fraction))
  batch = next(data.stream(source, 1, 0, (1, 12), np.arange(12)))
  victim = int(batch['image'][0, 10, 0, 0, 0])  # in the fourth batch of three
  path = root / 'ab'[victim % 2] / f'{victim}.png'
  whole = path.read_bytes()
  if given == 'gone':
    path.unlink()
  else:
    bomb = whole[:16] + (2**14).to_bytes(4, 'big') * 2 + whole[24:]
    path.write_bytes({'cut': whole[:-30], 'text': b'text', 'bomb': bomb}[given])
  seen = []
  with pytest.raises(errors.UserError) as error:
    seen.extend(data.stream(source, 1, 0, (1, 3), np.arange(3)))
  message = str(error.value)
  assert message.isprintable() and 'mend' in message
  assert f'two\\nlines/{path.parent.name}/{path.name}' in message, message
  reason = {'cut': 'PNG', 'text': 'neither JPEG', 'bomb': '16384 x 16384', 'gone': 'No such file'}
  assert reason[given] in message, message
  with pytest.raises(errors.UserError) as error:
    source.train()
  assert f'{path.parent.name}/{path.name}' in str(error.value)


def test_names_stay_on_one_line(photos):
  """Of classes and of files, whatever is in them."""
  write(photos, {'a\nb\x1b[31m/x\ny.png': shade(9), 'a\nb\x1b[31m/\tz.png': b'no'})
  source = data.load(config(photos))
  assert source.class_names[0] == r'a\nb\x1b[31m'
  assert r'a\nb\x1b[31m/\tz.png' in said(source) and 9 in everything(source)
  assert all(sentence.isprintable() for _, sentence in source.findings)
  write(photos, {'loose\n.png': shade(1)})
  assert refusal(config(photos)).isprintable()


def test_grey_at_another_resolution(photos):
  write(photos, {'cats/9.png': np.array([[[255, 0, 0]]], np.uint8)})
  images, _ = data.load(config(photos, resolution=5, channels=1, held_out=0.01)).train()
  assert images.shape[1:] == (5, 5, 1)
  assert {int(image[0, 0, 0]) for image in images} & {76, 0}


# The stream of a source that reads images one by one.

NUM, ROOM = 13, 8  # images; no multiple of 10, so that epochs end inside a step
BATCH, ALL = (2, 5), np.arange(5)


@pytest.fixture(scope='module')
def strips(tmp_path_factory):
  """Wide pictures that say which they are, and where they were cut: red is the column."""
  root, files = tmp_path_factory.mktemp('strips'), {'test/0/x.png': shade(0)}
  for i in range(NUM):
    strip = np.zeros((4, 4 + ROOM, 3), np.uint8)
    strip[..., 0], strip[..., 1] = np.arange(4 + ROOM), i
    files[f'train/{i % 3}/{i}.png'] = strip
  return data.load(config(write(root, files), resolution=4, crop='random'))


def visits(source, steps, seed=0, position=0, rows=ALL, flip=True, batch=BATCH):
  """(image, first column, mirrored) of the next steps: [steps, k, rows, 3]."""
  stream = data.stream(source, seed, position, batch, rows, flip)
  out = []
  for given in itertools.islice(stream, steps):
    image, label = given['image'].astype(int), given['label']
    assert image.shape == (batch[0], len(rows), 4, 4, 3)
    red, which = image[..., 0, :, 0], image[..., 0, 0, 1]
    np.testing.assert_array_equal(image[..., 1], which[..., None, None] + np.zeros((4, 4), int))
    np.testing.assert_array_equal(label, which % 3)
    across = np.diff(red, axis=-1)
    assert (abs(across) == 1).all() and (across == across[..., :1]).all()
    out.append(np.stack([which, red.min(-1), across[..., 0] < 0], axis=-1))
  return np.stack(out)


@pytest.fixture(scope='module')
def begun(strips):
  """The first ten epochs."""
  return visits(strips, NUM)


@pytest.mark.parametrize('position', [0, 10 * NUM * 3 * 10**8])
def test_every_epoch_is_a_permutation(strips, begun, position):
  given = begun if position == 0 else visits(strips, NUM, position=position)
  epochs = given[..., 0].reshape(10, NUM)
  np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(NUM), (10, 1)))
  assert len({tuple(epoch) for epoch in epochs}) == 10


@pytest.mark.parametrize('rows', [[0, 1, 2], [3, 4], [1, 3]])
def test_hosts_together_see_what_one_sees(strips, begun, rows):
  """The crop and the mirror too."""
  seen = visits(strips, 5, rows=np.array(rows))
  np.testing.assert_array_equal(seen, begun[:5, :, rows])


@pytest.mark.parametrize('step', [1, 4])
def test_resuming_goes_on_where_the_stream_was(strips, begun, step):
  np.testing.assert_array_equal(visits(strips, 4, position=10 * step), begun[step : step + 4])


def test_far_into_a_run(strips):
  whole = visits(strips, 4, position=3_000_000_000)
  np.testing.assert_array_equal(visits(strips, 3, position=3_000_000_010), whole[1:])


def test_crops_and_mirrors_are_drawn_evenly(strips):
  """Of 2,600 visits: both ends and all between, at every visit anew, one not knowing the other."""
  seen = visits(strips, 1, batch=(1, 200 * NUM), rows=np.arange(200 * NUM), seed=1)[0, 0]
  image, column, mirrored = seen.T
  assert column.min() == 0 and column.max() == ROOM
  assert stats.chisquare(np.bincount(column, minlength=ROOM + 1)).pvalue > 1e-3
  assert stats.binomtest(int(mirrored.sum()), len(seen)).pvalue > 1e-3
  table = np.stack([np.bincount(column[mirrored == i], minlength=ROOM + 1) for i in (0, 1)])
  assert stats.chi2_contingency(table).pvalue > 1e-3
  for what, kinds in ((column, ROOM + 1), (mirrored, 2)):
    of_image = np.stack([what[image == i] for i in range(NUM)])  # [image, epoch]
    again = (of_image[:, 1:] == of_image[:, :-1]).sum()
    assert stats.binomtest(int(again), of_image[:, 1:].size, 1 / kinds).pvalue > 1e-3
    means = of_image.mean(1)  # no image has a side of its own
    spread = of_image.std() / of_image.shape[1] ** 0.5
    assert abs(means - of_image.mean()).max() < 4 * spread


def test_another_seed_crops_otherwise(strips, begun):
  """At the same visit, whichever the image."""
  same = (visits(strips, NUM, seed=1) == begun).mean((0, 1, 2))
  assert same[0] < 0.3 and same[1] < 0.3 and 0.3 < same[2] < 0.7


def test_off_means_off(strips, begun):
  """Without a flip only that is missing; held-out and evaluated images are central."""
  plain = visits(strips, 3, flip=False)
  assert not plain[..., 2].any()
  np.testing.assert_array_equal(plain[..., :2], begun[:3, ..., :2])
  images, _ = strips.train()
  np.testing.assert_array_equal(images[:, 0, :, 0], np.tile(np.arange(4) + ROOM // 2, (NUM, 1)))


def test_a_share_of_photos(strips, photos):
  """Its lookup, train(), labels and stream are about the same images."""
  whole, given = data.load(config(photos)), config(photos, per_class=2)
  some = data.load(given)
  assert some.num_train == 4 and some.labels().tolist() == some.train()[1].tolist() == [0, 0, 1, 1]
  assert shades(some).items() < shades(whole).items()
  assert unseen(some) == unseen(whole) and some.digest != whole.digest
  batch = next(data.stream(some, 0, 0, (1, 8), np.arange(8)))
  assert set(batch['image'][0, :, 0, 0, 0].tolist()) == set(shades(some))
  np.testing.assert_array_equal(batch['image'][0, :, 0, 0, 0] // 4, batch['label'][0])


def test_a_long_tail_of_photos(photos):
  whole, tail = data.load(config(photos)), data.load(config(photos, imbalance=3.0))
  assert tail.class_counts() == [3, 1] and tail.train()[1].tolist() == [0, 0, 0, 1]
  assert shades(tail).items() < shades(whole).items() and unseen(tail) == unseen(whole)
  np.testing.assert_array_equal(tail.reference()[0], whole.train()[0])


# Real photos.


def real(name):
  if not (REAL / name).is_dir():
    pytest.skip(f'{name} is not in ../shared/data')
  return REAL / name


@pytest.mark.parametrize(
  ('name', 'resolution', 'num_train', 'num_unseen'),
  [('flowers', 64, 500, 100), ('flowers_large', 256, 10, 5)],
)
def test_real_photos(name, resolution, num_train, num_unseen):
  source = data.load(config(real(name), resolution=resolution, crop='random'))
  assert source.class_names == ('daisy', 'dandelion', 'roses', 'sunflowers', 'tulips')
  images, labels = source.held_out()
  assert (source.num_train, len(images)) == (num_train, num_unseen), (source.num_train, len(images))
  assert np.bincount(labels).tolist() == [num_unseen // 5] * 5
  batch = next(data.stream(source, 0, 0, (2, 8), np.arange(8), flip=True))
  assert batch['image'].shape == (2, 8, resolution, resolution, 3)
  assert batch['image'].std() > 40 and len(set(batch['label'].reshape(-1))) > 2
  warnings = [line for line in said(source).splitlines() if 'warning' in line]
  assert all('are copies of another' in line for line in warnings), warnings
