"""Anybody's photos: `folder:PATH`, with a folder per class, or all in one (unconditional).

JPEG, PNG and WebP of any size, grey, colour or transparent. PATH may hold `train` and one of
`test`, `val`, `validation`, each with the class folders; otherwise the share `config.held_out` of
every class is held out, chosen by the hash of each file's name. Every file is decoded once, when
the folder is first used: those that cannot be, and those too large to be (`reading.pictures`,
`reading.headers`), are named, counted and left out. Links are followed, out of the folder too: who
may write links into it decides what is read. A file's contents tell what it is, not its name.
"""

import concurrent.futures
import hashlib
import os

import ml_collections
import numpy as np

from bigjax import data
from bigjax.core import errors
from bigjax.data.reading import image_headers, tfrecord

SUFFIXES = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp')
HELD_OUT = ('test', 'val', 'validation')
NAMED = 5  # unreadable files, in a sentence


def load(config: ml_collections.ConfigDict, argument: str) -> data.Source:
  """Return the photos of a folder.

  Raises:
    UserError: there is no such folder, nothing in it can be read, or its classes make no sense.
  """
  if not argument:
    raise errors.UserError(
      'data.source=folder: needs the path of a folder of photos, as in '
      '--config.data.source=folder:/my/photos.'
    )
  root = os.path.abspath(os.path.expanduser(argument))
  if not os.path.isdir(root):
    raise errors.UserError(f'data.source is {config.source!r}, but there is no folder {root!r}.')
  train_dir, unseen_dir = splits(root)
  classes = class_folders(train_dir)
  train = examine(train_dir, classes, config)
  if unseen_dir:
    refuse_other_classes(unseen_dir, classes)
    unseen = examine(unseen_dir, classes, config)
    held_out = np.arange(len(unseen['labels']))
    kept = np.arange(len(train['labels']))
  else:
    order = np.argsort([hashlib.blake2b(os.fsencode(n)).hexdigest() for n in train['names']])
    mask = data.held_out_mask(train['labels'], config.held_out, order)
    unseen, held_out, kept = train, np.flatnonzero(mask), np.flatnonzero(~mask)
  labels = train['labels'][kept]
  return data.by_number(
    (data.from_pictures(picture_of(train), config, train['paths'].__getitem__), kept),
    (data.from_pictures(picture_of(unseen), config, unseen['paths'].__getitem__), held_out),
    class_names=tuple(map(readable, classes)) or (readable(os.path.basename(root)),),
    license='that of the photos, which their owner knows',
    labels=lambda: labels,
    labels_known=True,
    digest=files_digest(train, kept, classes),
    held_out_digest=files_digest(unseen, held_out, classes),
    findings=findings(train_dir, train, unseen_dir, unseen, config.resolution, classes),
  )


def splits(root: str) -> tuple[str, str | None]:
  """Return the folders of training and of held-out images: the latter None where there is none."""
  names = {name.lower(): name for name in subfolders(root)}
  unseen = next((names[name] for name in HELD_OUT if name in names), None)
  if 'train' not in names or {*names} - {'train', *HELD_OUT}:
    return root, None
  return os.path.join(root, names['train']), unseen and os.path.join(root, unseen)


def subfolders(root: str) -> list[str]:
  """Return the names of the folders in a folder, sorted, without hidden ones."""
  return sorted(e.name for e in os.scandir(root) if e.is_dir() and not e.name.startswith('.'))


def class_folders(root: str) -> list[str]:
  """Return the names of the folders that hold images, at any depth; none for a flat folder.

  Raises:
    UserError: there are images beside class folders.
  """
  classes = [name for name in subfolders(root) if list_images(os.path.join(root, name))[0]]
  loose = [e.name for e in os.scandir(root) if e.is_file() and is_image(e.name)]
  if classes and loose:
    raise errors.UserError(
      f'{root!r} has {len(loose)} images (such as {min(loose)!r}) beside the class folders '
      f'{", ".join(map(readable, classes[:NAMED]))}; move them into a class folder, or all images '
      'into one folder.'
    )
  return classes


def is_image(name: str) -> bool:
  """Return whether a file's name is that of an image bigjax reads."""
  return name.lower().endswith(SUFFIXES) and not name.startswith('.')


def list_images(root: str) -> tuple[list[str], list[str]]:
  """Return the paths below `root`, relative and sorted, of its images and of its other files."""
  images, others = [], []
  for folder, inner, files in os.walk(root, followlinks=True):
    above = os.path.join(os.path.realpath(folder), '')
    inner[:] = [
      name
      for name in inner
      if not name.startswith('.')
      and not above.startswith(os.path.join(os.path.realpath(os.path.join(folder, name)), ''))
    ]
    for name in files:
      path = os.path.relpath(os.path.join(folder, name), root)
      if is_image(name):
        images.append(path.replace(os.sep, '/'))
      elif not name.startswith('.'):
        others.append(path)
  return sorted(images), sorted(others)


def refuse_other_classes(unseen_dir: str, classes: list[str]) -> None:
  """Refuse held-out images of classes that are not trained on.

  Raises:
    UserError: there are such classes.
  """
  unknown = set(class_folders(unseen_dir)) - set(classes)
  if unknown:
    raise errors.UserError(
      f'{unseen_dir!r} has class folders that the training images lack: '
      f'{", ".join(map(readable, sorted(unknown)[:NAMED]))}; both need the same names.'
    )


def examine(
  root: str, classes: list[str], config: ml_collections.ConfigDict
) -> dict[str, np.ndarray]:
  """Facts about every image that can be read, in the order of their names.

  names [n] (relative to `root`), paths [n], labels int32 [n], orientations int32 [n], sizes
  int [n, 2], bytes int [n], the names of unreadable images, why they were not tried ('' if they
  were), and the names of other files. Kept in bigjax's cache for as long as no file changes.
  Raises:
    UserError: there is no image, or none can be read.
  """
  names, others = list_images(root)
  if not names:
    seen = f'; it has {len(others)} other files, such as {others[0]!r}' if others else ''
    raise errors.UserError(
      f'data.source is {config.source!r}, but no image is below {root!r} '
      f'(looked for {" ".join(SUFFIXES)}){seen}.'
    )
  label_of = {name: i for i, name in enumerate(classes)}
  labels = np.array([label_of.get(name.split('/')[0], 0) for name in names], np.int32)
  paths = [os.path.join(root, name) for name in names]
  facts = tfrecord.cached(
    'photos', tfrecord.fingerprint(paths, need=False), lambda: read_all(paths)
  )
  good = facts['readable']
  if not good.any():
    raise errors.UserError(
      f'data.source is {config.source!r}, but none of its {len(names)} images can be read, '
      f'such as {paths[0]!r}.'
    )
  names, paths = np.array(names), np.array(paths)
  return {
    'names': names[good],
    'paths': paths[good],
    'labels': labels[good],
    'orientations': facts['orientations'][good],
    'sizes': facts['sizes'][good],
    'bytes': np.array([os.path.getsize(path) for path in paths[good]]),
    'unreadable': names[~good],
    'reasons': facts['reasons'][~good],
    'others': np.array(others),
  }


def read_all(paths: list[str]) -> dict[str, np.ndarray]:
  """Return whether each image can be read, or why not, its orientation, its height and width."""
  with concurrent.futures.ThreadPoolExecutor() as pool:
    told = list(pool.map(image_headers.examine, paths))
  orientations = np.array([orientation for orientation, _ in told], np.int32)
  reasons = np.array([reason for _, reason in told])
  everything = {'paths': np.array(paths), 'orientations': orientations}
  everything['labels'] = np.zeros(len(paths), np.int32)
  seen = data.survey(picture_of(everything), np.flatnonzero(reasons == ''), 'examining photos')
  readable = np.zeros(len(paths), bool)
  sizes = np.zeros((len(paths), 2), np.int64)
  readable[seen[:, 0]], sizes[seen[:, 0]] = True, seen[:, 1:3]
  return {'readable': readable, 'reasons': reasons, 'orientations': orientations, 'sizes': sizes}


def picture_of(known: dict[str, np.ndarray]) -> data.Picture:
  """Return the pictures of examined files."""
  paths = [os.fsencode(path) for path in known['paths']]  # a name need not be text
  columns = paths, known['orientations'], known['labels']

  def picture(tf, index):
    with tf.init_scope():  # outside the graph, whose constants may not exceed 2 GiB
      path, orientation, label = (tf.constant(column) for column in columns)
    return tf.io.read_file(path[index]), orientation[index], label[index]

  return picture


def files_digest(known: dict[str, np.ndarray], kept: np.ndarray, classes: list[str]) -> str:
  """Return a digest of some of the images: names, classes, sizes in pixels and bytes."""
  words = hashlib.blake2b(digest_size=12)
  for name in ('names', 'labels', 'sizes', 'bytes'):
    column = known[name][kept].reshape(-1).tolist()
    words.update(os.fsencode('\0'.join(map(str, column))))
  words.update(os.fsencode('\0'.join(classes)))
  return words.hexdigest()


def readable(name: str) -> str:
  """Return a file's name as one line that can be printed, whatever bytes it is made of."""
  return data.printable(os.fsencode(name).decode(errors='replace'))


def findings(
  root: str,
  known: dict[str, np.ndarray],
  unseen_dir: str | None,
  unseen: dict[str, np.ndarray],
  resolution: int,
  classes: list[str],
) -> tuple[data.Finding, ...]:
  """Findings about unreadable, small or duplicate images."""
  found = [of_files(root, known)]
  if unseen_dir:
    found.append(of_files(unseen_dir, unseen))
  others = known['others']
  if len(others):
    found.append(
      (
        'ok',
        f'{len(others):,} other files are not images that bigjax reads, such as '
        f'{readable(others[0])!r}',
      )
    )
  if not classes:
    found.append(('ok', 'there are no class folders: training is unconditional, with one class'))
  elif len(classes) == 1:
    found.append(
      (
        'warning',
        f'there is one class folder only, {readable(classes[0])!r}: training is unconditional; '
        'if there should be more, give the folder that holds the class folders',
      )
    )
  found.append(data.small_images(known['sizes'], resolution))
  return tuple(found)


def of_files(root: str, known: dict[str, np.ndarray]) -> data.Finding:
  """Return whether all images of a folder can be read, naming those that cannot."""
  bad = known['unreadable']
  total = len(known['names']) + len(bad)
  if not len(bad):
    return 'ok', f'all {total:,} images in {readable(root)!r} can be read'
  told = zip(map(readable, bad[:NAMED]), known['reasons'], strict=False)
  some = ', '.join(name + f' ({reason})' * bool(reason) for name, reason in told)
  some += ', ...' if len(bad) > NAMED else ''
  return 'warning', (
    f'{len(bad)} of {total:,} images in {readable(root)!r} cannot be read and are left out: {some}'
  )
