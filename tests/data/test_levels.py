"""What folders mean: splits, classes, or a level off; and what is below a folder at all."""

import os
import re

import pytest

from bigjax.core import errors
from bigjax.data.reading import levels, listing

from folders import write


def listed(*images, others=()):
  """The listing of a folder '/x' with these images and other files."""
  folders = {
    path.rsplit('/', i)[0] for path in (*images, *others) for i in range(1, path.count('/') + 1)
  }
  return listing.Listing('/x', sorted(images), sorted(others), sorted(folders), [], [])


def tree(text, classes='ab'):
  """A listing of folders in words: 'train: val:' hold class folders, 'plane' holds images."""
  images, others = [], []
  for word in text.split():
    if word.endswith(':'):
      images += [f'{word[:-1]}/{c}/{i}.png' for c in classes for i in (0, 1)]
    elif word.endswith('-'):
      others.append(f'{word[:-1]}/1.txt')
    else:
      images.append(f'{word}/0.png')
  return listed(*images, others=others)


def said(found):
  return '\n'.join(f'{level}: {sentence}' for level, sentence in found)


@pytest.mark.parametrize(
  ('given', 'train', 'unseen'),
  [
    ('train: test:', 'train', 'test'),
    ('Train: Validation:', 'Train', 'Validation'),
    ('train: val: test:', 'train', 'test'),
    ('train: val: annotations-', 'train', 'val'),
    ('train: valid: test: .git', 'train', 'test'),
    ('training: testing:', 'training', 'testing'),
    ('train2017: val2017: annotations-', 'train2017', 'val2017'),
    ('train_images: dev_set:', 'train_images', 'dev_set'),
    ('train: held-out:', 'train', 'held-out'),
    ('train: val: extra:', 'train', 'val'),  # the same class folders: splits for sure
    ('train: val: masks', 'train', 'val'),
    ('train:', 'train', None),
    ('train', 'train', None),
    ('train test', 'train', 'test'),
    ('train: test', 'train', None),  # a test set without labels
    ('train: test val:', 'train', 'val'),
    ('test val', '', None),
    ('train test plane', '', None),
    ('train plane bus', '', None),
    ('trains: planes:', '', None),
    ('', '', None),
  ],
)
def test_names_of_splits(given, train, unseen):
  """Beside folders with images and other names, 'train' and 'test' may be classes."""
  found = levels.splits(tree(given))
  assert (found.train, found.unseen) == (train, unseen)


@pytest.mark.parametrize(
  ('given', 'words'),
  [
    ('train: val: annotations-', 'warning: left out, without an image .*annotations \\(1 other'),
    ('train: val: extra:', "warning: beside 'train' and the other splits, .*extra \\(4 images\\)"),
    ('train: test', "warning: 'test' has no class folders: its 1 images have no labels"),
    ('train: val: test:', "ok: 'val' \\(4 images\\) is not used: 'test' is held out"),
  ],
)
def test_what_is_neither_split_is_said(given, words):
  assert re.search(words, said(levels.splits(tree(given)).findings))


def test_images_beside_splits_are_said():
  given = listed('train/a/0.png', 'test/a/0.png', 'x.png', 'y.png')
  found = said(levels.splits(given).findings)
  assert "2 images (such as 'x.png') lie beside the folder 'train' and are left out" in found


@pytest.mark.parametrize(
  ('given', 'words'),
  [
    ('test: val:', ["'test' and 'val' hold the same class folders (a, b)", "'train'"]),
    ('train: extra:', ["'train' and 'extra' hold the same"]),
    ('train: training: x:', ["'train' and 'training' hold the same"]),
    ('photos/train: photos/val:', ["'/x/photos' holds the splits train, val", 'folder:/x/photos']),
    ('a/b/train: a/b/test:', ["'/x/a/b' holds the splits test, train", 'give folder:/x/a/b']),
    ('cats/train cats/val dogs/train dogs/val', ["'/x/cats' holds", 'must be outermost']),
    ('cats/train cats/test dogs', ["'/x/cats' holds", 'must be outermost']),
  ],
)
def test_a_level_that_is_wrong_for_sure_is_refused(given, words):
  given = tree(given)
  with pytest.raises(errors.UserError) as error:
    levels.classes(given.within(levels.splits(given).train))
  assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
  ('given', 'words'),
  [
    ('train test plane', 'class names that look like splits: test, train'),
    ('test val', 'class names that look like splits'),
    ('train plane bus', 'class names that look like splits: train'),
    ('trainA trainB testA testB', 'look like splits: testA, testB, trainA, trainB'),
    ('train_a val_a train_b', 'look like splits: train_a, val_a;'),
    ('photos:', "one class folder only, 'photos' (it holds a, b): training is unconditional"),
    ('usa: france: peru:', 'each of the 3 classes holds the same folders, a, b: are those'),
    ('a b empty-', 'left out, without an image that bigjax reads: empty (1 other files)'),
  ],
)
def test_what_may_be_a_wrong_level_is_said(given, words):
  given = tree(given)
  found = levels.of_classes(given, levels.classes(given))
  assert any(level == 'warning' and words in sentence for level, sentence in found), said(found)


@pytest.mark.parametrize(
  'given', ['a b c', 'a: b', 'trains planes', 'train_station test_tube', 'steam/train: bus:']
)
def test_what_is_well_is_not_warned_of(given):
  given = tree(given)
  assert not levels.of_classes(given, levels.classes(given))


def test_numbers_sort_by_their_value():
  names = ['10', '2', '1', '0', 'b10', 'b9', '007', '7', 'a']
  assert sorted(names, key=listing.natural) == ['0', '1', '2', '007', '7', '10', 'a', 'b9', 'b10']
  given = listed(*(f'{i}/x.png' for i in range(12)))
  assert levels.classes(given) == [str(i) for i in range(12)]


def test_ten_thousand_classes():
  """Numbered, in the order of their numbers, at a cost that grows with their number alone."""
  names = [str(i) for i in range(10_000)]
  given = listed(*(f'{name}/x.png' for name in names))
  assert levels.splits(given) == levels.Splits('', None)
  assert levels.classes(given) == names and not levels.of_classes(given, names)


def test_links_in_a_circle_show_nothing_twice(tmp_path):
  """Of two folders that hold links to each other, and one to the folder itself."""
  write(tmp_path, {'a/0.png': b'', 'b/1.png': b''})
  (tmp_path / 'a' / 'to b').symlink_to(tmp_path / 'b', target_is_directory=True)
  (tmp_path / 'b' / 'to a').symlink_to(tmp_path / 'a', target_is_directory=True)
  (tmp_path / 'b' / 'up').symlink_to(tmp_path, target_is_directory=True)
  (tmp_path / 'self').symlink_to('self')
  found = listing.walk(str(tmp_path)).images
  assert found == ['a/0.png', 'a/to b/1.png', 'b/1.png', 'b/to a/0.png']


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
  write(tmp_path, {'a/0.png': b'', 'b/1.png': b''})
  scan = os.scandir

  def refuse(path):
    if str(path).endswith('/b'):
      raise PermissionError
    return scan(path)

  monkeypatch.setattr(os, 'scandir', refuse)
  found = listing.walk(str(tmp_path))
  assert (found.images, found.closed) == (['a/0.png'], ['b'])


def test_names_of_other_bytes_stay_different():
  """Two classes that are no text are still two."""
  names = [os.fsdecode(given) for given in (b'caf\xe9', b'caf\xe8')]
  assert len({levels.readable(name) for name in names}) == 2
