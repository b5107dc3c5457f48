"""What is known of every image file below a folder: whether it can be read, its size, its contents.

Found once and kept in bigjax's cache for as long as no file changes. Training, references and
images to be scored all read their files by what is found here.
"""

import concurrent.futures
import hashlib
import os
import re
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from bigjax import data
from bigjax.core import errors
from bigjax.data.files.stores import FILES, HASH
from bigjax.data.reading import listing, tfrecord
from bigjax.data.reading.levels import NAMED, readable, some

OF_FITS = {  # what becomes of images that are not square
  'crop': 'a square is cut out of them (data.fit=pad or stretch keeps all of them)',
  'pad': 'black bars are laid beside them',
  'stretch': 'they are stretched',
}


def examine(below: listing.Listing, source: str) -> dict[str, Any]:
  """Facts about every image that can be read, in the order of their names.

  names [n] (relative to the root), paths [n], orientations int32 [n], sizes int [n, 2], grey bool
  [n] (whether it has no colour), contents uint8 [n, HASH], labels int32 [n] (0), the names of
  unreadable images, and why they were not tried ('' if they were); and the store they lie in.

  Args:
    below: the images.
    source: what they were asked for by.
  Raises:
    UserError: there is no image, or none can be read.
  """
  names, store = below.images, below.store or FILES
  if not names:
    raise errors.UserError(
      f'data.source is {source!r}, but no image is below {below.root!r} '
      f'(looked for {" ".join(listing.SUFFIXES)}).'
    )
  paths = [os.path.join(below.root, name) for name in names]
  facts = tfrecord.cached('photos', store.fingerprint(paths), lambda: read_all(paths, store))
  good, reasons = facts['readable'], facts['reasons']
  if not good.any():
    raise errors.UserError(
      f'data.source is {source!r}, but none of its {len(names)} images can be read, such as '
      f'{paths[0]!r}' + f' ({reasons[0]})' * bool(reasons[0]) + '.'
    )
  # Of Python's own texts: NumPy's would all be as long as the longest.
  names, paths = np.array(names, object), np.array(paths, object)
  return {
    'names': names[good],
    'paths': paths[good],
    'labels': np.zeros(good.sum(), np.int32),
    'unreadable': names[~good],
    'reasons': reasons[~good],
    'store': store,
    **{name: facts[name][good] for name in ('orientations', 'sizes', 'grey', 'contents')},
  }


def read_all(paths: list[str], store: Any = FILES) -> dict[str, np.ndarray]:
  """Reads what `examine` keeps of files in a store, readable or not."""
  with concurrent.futures.ThreadPoolExecutor() as pool:
    told = list(pool.map(store.look, paths))
  orientations, reasons, contents = zip(*told, strict=True)
  reasons, orientations = np.array(reasons), np.array(orientations, np.int32)
  everything = {'paths': paths, 'orientations': orientations, 'labels': np.zeros(len(paths), int)}
  everything['store'] = store
  seen = data.survey(picture_of(everything), np.flatnonzero(reasons == ''), 'examining photos')
  can_be = np.zeros(len(paths), bool)
  sizes, grey = np.zeros((len(paths), 2), np.int64), np.zeros(len(paths), bool)
  can_be[seen[:, 0]], sizes[seen[:, 0]], grey[seen[:, 0]] = True, seen[:, 1:3], seen[:, 4]
  return {
    'readable': can_be,
    'reasons': reasons,
    'orientations': orientations,
    'sizes': sizes,
    'grey': grey,
    'contents': np.frombuffer(b''.join(contents), np.uint8).reshape(-1, HASH),
  }


def picture_of(known: dict[str, Any]) -> data.Picture:
  """Return the pictures of examined files."""
  read = known['store'].reader(known['paths'])
  columns = known['orientations'], known['labels']

  def picture(tf, index):
    with tf.init_scope():  # outside the graph, whose constants may not exceed 2 GiB
      orientation, label = (tf.constant(column) for column in columns)
    return read(tf, index), orientation[index], label[index]

  return picture


def lookup(known: dict[str, np.ndarray], config: ml_collections.ConfigDict) -> data.Lookup:
  """The lookup of examined files; `config` is the group `data`."""
  return data.from_pictures(picture_of(known), config, known['paths'].__getitem__)


def photos_digest(known: dict[str, np.ndarray], kept: np.ndarray, classes: list[str]) -> str:
  """A digest of some of the images: their bytes and labels, in order, and the names of classes."""
  words = hashlib.blake2b(digest_size=12)
  for name, kind in (('contents', np.uint8), ('labels', '<i4')):
    words.update(np.ascontiguousarray(known[name][kept], kind).data)
  words.update(os.fsencode('\0'.join(classes)))
  return words.hexdigest()


def of_files(root: str, known: dict[str, np.ndarray]) -> data.Finding:
  """Whether all images of a folder can be read, naming those that cannot."""
  bad = known['unreadable']
  total = len(known['names']) + len(bad)
  if not len(bad):
    return 'ok', f'all {total:,} images in {readable(root)!r} can be read'
  told = zip(map(readable, bad[:NAMED]), known['reasons'], strict=False)
  words = ', '.join(name + f' ({reason})' * bool(reason) for name, reason in told)
  words += ', ...' if len(bad) > NAMED else ''
  return 'warning', (
    f'{len(bad)} of {total:,} images in {readable(root)!r} cannot be read and are left out: {words}'
  )


def of_others(listed: listing.Listing, used: Sequence[str] = ()) -> list[data.Finding]:
  """Findings about what lies below a folder and is not read; of labels, `used` are."""
  found: list[data.Finding] = []
  suffix = lambda path: os.path.splitext(path)[1].lower()
  unread = [path for path in listed.others if suffix(path) in listing.UNREAD]
  tables = [path for path in listed.others if listing.is_table(path) and path not in used]
  if moving := [path for path in listed.images if suffix(path) == '.gif']:
    words = 'of an animation the first picture is used; data.frames=16 makes clips of them'
    found.append(('ok', f'{len(moving):,} GIFs: {words}'))
  videos = [path for path in listed.others if is_video(path)]
  numbered = [] if used else in_order(listed)
  rest = sorted({*listed.others} - {*unread} - {*tables} - {*videos} - {*used})
  for paths, level, words in (
    (unread, 'warning', 'pictures are of kinds that bigjax does not read; convert them to PNG'),
    (
      tables,
      'warning',
      'files look like labels and are not read (dataset.json, labels.csv and metadata.jsonl are, '
      'beside the images or their folders)',
    ),
    (videos, 'warning', 'videos are left out; data.frames=16 makes clips of 16 frames of them'),
    (
      numbered,
      'warning',
      'folders hold pictures numbered without a gap, as frames of videos are: data.frames=16 makes '
      'clips of them',
    ),
    (listed.aside, 'warning', "pictures in a device's or an archive's own folders are left out"),
    (listed.closed, 'warning', 'folders may not be read and are left out'),
    (rest, 'ok', 'other files are not images that bigjax reads'),
  ):
    if paths:
      found.append((level, f'{len(paths):,} {words}, such as {some(paths[:1])!r}'))
  return found


def is_video(path: str) -> bool:
  """Whether a file's name is that of a video."""
  return path.lower().endswith(listing.VIDEOS)


def in_order(listed: listing.Listing) -> list[str]:
  """The folders within class folders, if all pictures lie in such and are numbered gaplessly."""
  numbers: dict[str, list[int]] = {}
  for path in listed.images:
    folder, _, name = path.rpartition('/')
    found = re.findall(r'\d+', name)
    if '/' not in folder or not found:
      return []
    numbers.setdefault(folder, []).append(int(found[-1]))
  gapless = lambda of: len(of) > 1 and sorted(of) == list(range(min(of), min(of) + len(of)))
  return sorted(numbers) if len(numbers) > 1 and all(map(gapless, numbers.values())) else []


def of_sizes(
  sizes: np.ndarray, config: ml_collections.ConfigDict, what: str = 'images'
) -> tuple[data.Finding, ...]:
  """Findings about how images of these heights and widths, int [n, 2], become squares of one size.

  Args:
    sizes: of those that were looked at.
    config: the group `data`.
    what: they are called.
  """
  resolution, fit = config.resolution, config.get('fit', 'crop')
  edge = sizes.max(1) if fit == 'pad' else sizes.min(1)  # which becomes data.resolution
  at = int(edge.argmin())
  words = f'the smallest of {len(sizes):,} {what} looked at is {sizes[at, 1]}x{sizes[at, 0]}'
  fewer = int((edge < resolution).sum())
  found: list[data.Finding] = [('ok', f'{words} pixels, for data.resolution={resolution}')]
  if fewer:
    words += f', and {fewer:,} are below data.resolution={resolution}: they are enlarged'
    found = [('warning', words)]
  if others := int((sizes[:, 0] != sizes[:, 1]).sum()):
    words = f'{others:,} of {len(sizes):,} {what} looked at are not square: '
    found.append(('ok', words + OF_FITS[fit]))
  return tuple(found)


def greyed(grey: np.ndarray, channels: int, what: str = 'images') -> tuple[data.Finding, ...]:
  """The finding about pictures in colour that `data.channels` makes grey; none where none is.

  Args:
    grey: bool [n], whether each picture looked at has no colour.
    channels: data.channels.
    what: they are called.
  """
  colour = int((~grey).sum())
  if channels != 1 or not colour:
    return ()
  return (
    ('warning', f'{colour:,} of {len(grey):,} {what} looked at are in colour, and are made grey'),
  )


def together(
  train: dict[str, Any], unseen: dict[str, Any], held_out: np.ndarray
) -> tuple[dict[str, Any], np.ndarray]:
  """(Names, labels and contents of all images, whether each is held out), for `copies`."""
  if unseen is train:
    mask = np.zeros(len(train['labels']), bool)
    mask[held_out] = True
    return {**train, 'labels': data.one_label(train['labels'])}, mask
  both = {name: np.concatenate([train[name], unseen[name]]) for name in ('names', 'contents')} | {
    'labels': np.concatenate([data.one_label(of['labels']) for of in (train, unseen)])
  }
  return both, np.arange(len(both['labels'])) >= len(train['labels'])


def copies(
  known: dict[str, np.ndarray], held_out: np.ndarray | None = None, what: str = 'images'
) -> list[data.Finding]:
  """The finding about files with the same bytes as another, none where all differ.

  Args:
    known: see `examine`.
    held_out: bool [n], of which images; None where none are.
    what: they are called.
  """
  words = np.ascontiguousarray(known['contents']).view('<u8')
  _, first, group = np.unique(words, axis=0, return_index=True, return_inverse=True)
  group = group.reshape(-1)
  again = np.flatnonzero(first[group] != np.arange(len(group)))
  if not len(again):
    return []
  other = lambda values: again[values[again] != values[first[group[again]]]]
  name = lambda i: readable(known['names'][i])
  pair = lambda i: f'{name(i)} of {name(first[group[i]])}'
  told = [f'{len(again):,} of {len(group):,} {what} are copies of another ({pair(again[0])})']
  if len(astray := other(known['labels'])):
    told.append(f'{len(astray):,} of them in another class ({pair(astray[0])})')
  if held_out is not None and len(leaked := other(held_out)):
    told.append(f'{len(leaked):,} both trained on and held out ({pair(leaked[0])})')
  return [('warning', '; '.join(told) + ': remove them')]
