"""Images that scores are computed of and compared with: splits of a data source, folders, arrays.

They are read in batches and never held in memory as a whole, but for an .npz.
"""

import dataclasses
import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping

import ml_collections
import numpy as np

from bigjax import data
from bigjax.core import errors, files
from bigjax.data.files import stores
from bigjax.data.reading import levels, photo_files

ImageBatch = tuple[np.ndarray, np.ndarray | None]  # uint8 images, labels int [b] if they have any
MOST_CLASSES = 10**6
SPLITS = ('train', 'test', 'all')
AT_ONCE = 32  # images in memory at the full size of the data, where they are averaged down


@dataclasses.dataclass(frozen=True)
class ImageSet:
  """A set of images of one size.

  Attributes:
    name: what it was asked for by.
    split: 'train', 'test' or 'all'.
    num: of images.
    size: (H, W, C), or (T, H, W, C) of clips.
    num_classes: 0 where there are no labels.
    class_names: of a source; () elsewhere.
    digest: another where the images are others.
    batches: (size) -> (uint8 images [b, H, W, C], labels int [b] or None), in a fixed order; all
      but the last of that size.
    some: (most) -> at most so many of them, evenly chosen; of training images alone.
    findings: about the images, 'ok' or 'warning'.
  """

  name: str
  split: str
  num: int
  size: tuple[int, ...]
  num_classes: int
  digest: str
  batches: Callable[[int], Iterator[ImageBatch]]
  some: Callable[[int], ImageBatch] | None = None
  class_names: tuple[str, ...] = ()
  findings: tuple[data.Finding, ...] = ()


def split_of(given: str) -> tuple[str, str]:
  """(Source, split) of 'tfds:cifar10/test'; of a folder all images, else 'train'.

  A folder that there is, is meant itself, even if it is called 'train'.
  """
  source, _, split = given.rpartition('/')
  path = given.removeprefix('folder:')
  itself = path != given and os.path.isdir(os.path.expanduser(path))
  if source and split in SPLITS and not itself:
    return source, split
  return given, 'all' if path != given else 'train'


def config_of(
  given: str,
  size: tuple[int, ...],
  data_dir: str,
  known: Mapping[str, object],
  held_out: float = 0.1,
) -> ml_collections.ConfigDict:
  """Return the group `data` of a config for looking at real images: central crops, no flips.

  Arguments as of `open_source`; `held_out` is the share where `known` says none. Without a known
  number of classes there are as many as the data has.
  """
  return ml_collections.ConfigDict(
    {
      'source': given,
      'data_dir': data_dir,
      'resolution': size[-3],
      'channels': size[-1],
      'frames': size[0] if len(size) == 4 else 0,
      'frame_stride': known.get('frame_stride', 1),
      'num_classes': known.get('num_classes'),
      'held_out': known.get('held_out', held_out),
      'fraction': known.get('fraction', 1.0),
      'per_class': known.get('per_class', 0),
      'imbalance': known.get('imbalance', 1.0),
      'crop': 'center',
      'fit': known.get('fit', 'crop'),
      'label_column': known.get('label_column', ''),
      'split': known.get('split', ''),
      'flip': False,
    }
  )


def as_of_run(
  name: str,
  size: tuple[int, ...],
  data_dir: str | None,
  workdir: str | None,
  held_out: float = 0.1,
  num_classes: int | None = None,
  fit: str = 'crop',
) -> data.Source:
  """The images of a source as a generator sees them, split, limited and cut as those of its run.

  Args:
    name: as data.source.
    size: as of `open_source`.
    data_dir: as data.data_dir; None for the run's, or TFDS's own.
    workdir: of a run, which counts where `name` is what it was trained on; or None.
    held_out: the share that is, of a source without a test split of its own, where no run says.
    num_classes: as data.num_classes, where no run says: 1 asks for no labels.
    fit: as data.fit, where no run says.
  """
  known = {}
  if workdir:
    run = files.read_json(os.path.join(workdir, 'config.json'))
    known = {key.removeprefix('data.'): v for key, v in run.items() if key.startswith('data.')}
    known = known if known['source'] == name else {}
  known = known or {'num_classes': num_classes, 'fit': fit}
  data_dir = data_dir or known.get('data_dir') or ''
  return data.load(config_of(name, size, data_dir, known, held_out))


def open_source(
  given: str, size: tuple[int, ...], data_dir: str, known: Mapping[str, object]
) -> dict[str, ImageSet]:
  """Return the splits of a source of images, cut and resized as for training.

  Of a long tail, the training images are those before `data.imbalance`: samples, whose classes come
  in turn, are compared with as many of each class, as the literature does.

  Samples of a stage that is smaller than the run's data are compared with what that stage is given:
  the images at the data's resolution, averaged down.

  Args:
    given: data.source, such as 'tfds:cifar10'.
    size: (H, W, C) of an image, or (T, H, W, C) of a clip.
    data_dir: of TFDS, or ''.
    known: the group `data` of a run's config, whose shares of the images apply; {} for none.
  Raises:
    UserError: it cannot be read.
  """
  side, whole = size[-3], known.get('resolution') or size[-3]
  whole = side if whole % side else whole
  at_whole = (*size[:-3], whole, whole, size[-1])
  source = data.load(config_of(given, at_whole, data_dir, {**known, 'imbalance': 1.0}))

  def read(lookup: data.Lookup, numbers: np.ndarray, size: int) -> Iterator[ImageBatch]:
    size = size if whole == side else min(size, AT_ONCE)
    for images, labels in data.in_batches(lookup, numbers, size):
      yield data.shrunk(images, side), data.one_label(labels)

  def batches(lookup: data.Lookup, num: int, size: int) -> Iterator[ImageBatch]:
    return rebatched(read(lookup, np.arange(num), size), size)

  train = functools.partial(batches, source.lookup, source.num_train)
  test = functools.partial(batches, source.held_out_lookup, source.num_held_out)

  def both(size: int) -> Iterator[ImageBatch]:
    return rebatched(itertools.chain(train(size), test(size)), size)

  words = f'{source.digest} {source.held_out_digest} {source.num_train} {source.num_held_out}'
  words += f' {size}' + f' from {whole} px' * (whole != side)
  digest = hashlib.sha256(words.encode()).hexdigest()[:16]
  found = {
    'train': (source.num_train, train),
    'test': (source.num_held_out, test),
    'all': (source.num_train + source.num_held_out, both),
  }
  splits = {
    split: ImageSet(
      data.printable(given),
      split,
      num,
      size,
      len(source.class_names),
      f'{digest}-{split}',
      batches,
      class_names=source.class_names,
      findings=source.findings,
    )
    for split, (num, batches) in found.items()
  }

  def some(most: int) -> ImageBatch:
    if whole == side:
      return data.labelled(source.train, most)
    parts = read(source.lookup, data.subset(source.num_train, most), AT_ONCE)
    images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    return images, labels

  return {**splits, 'train': dataclasses.replace(splits['train'], some=some)}


def in_batches(images: np.ndarray, labels: np.ndarray | None, size: int) -> Iterator[ImageBatch]:
  """Yield parts of arrays."""
  for i in range(0, len(images), size):
    yield images[i : i + size], None if labels is None else labels[i : i + size]


def rebatched(batches: Iterator[ImageBatch], size: int) -> Iterator[ImageBatch]:
  """Yield the same images, with labels if they have any, all batches but the last of this size."""
  images, labels = [], []
  for some, their in batches:
    images.append(some)
    labels.append(their)
    if sum(map(len, images)) >= size:
      all_images, all_labels = joined(images, labels)
      yield all_images[:size], None if all_labels is None else all_labels[:size]
      images, labels = [all_images[size:]], [None if all_labels is None else all_labels[size:]]
  if sum(map(len, images)):
    yield joined(images, labels)


def joined(images: list[np.ndarray], labels: list[np.ndarray | None]) -> ImageBatch:
  """Batches as one."""
  return np.concatenate(images), None if labels[0] is None else np.concatenate(labels)


def open_files(path: str) -> ImageSet:
  """Return the images of a folder or a zip, its subfolders' too, or of an .npz.

  Of an .npz, the array `images`, `arr_0` (the layout of ADM's evaluator) or the only one, as it is.
  Raises:
    UserError: there are none.
  """
  if os.path.isdir(path) or stores.is_zip(path):
    return _open_folder(path)
  if not path.endswith('.npz') or not os.path.isfile(path):
    raise errors.UserError(
      f'--images={path}: expected a folder or a zip of images, or an .npz of them.'
    )
  try:
    with np.load(path) as file:
      names = [name for name in ('images', 'arr_0') if name in file.files] or file.files[:1]
      if not names:
        raise ValueError('it holds no arrays')
      images = file[names[0]]
      others = [name for name in ('labels', 'arr_1') if name in file.files]
      labels = file[others[0]] if others else None
  except Exception as error:  # zipfile and numpy have a dozen ways to say that a file is damaged
    raise errors.UserError(f'{path!r} cannot be read ({error}).') from None
  if images.ndim != 4 or images.dtype != np.uint8 or images.shape[-1] not in (1, 3):
    raise errors.UserError(
      f'{path!r} holds {images.dtype} {images.shape}; expected uint8 images [n, H, W, 3 or 1].'
    )
  if not images.size:
    raise errors.UserError(f'{path!r} holds no images: {names[0]!r} is {list(images.shape)}.')
  if labels is not None:
    what = f'the array {others[0]!r} of {path!r}'
    files.check_array(labels, what, 'iu', (len(images),), least=0, most=MOST_CLASSES - 1)
  digest = hashlib.sha256(np.ascontiguousarray(images)).hexdigest()[:16]
  num_classes = 0 if labels is None else int(labels.max()) + 1
  return ImageSet(
    path,
    'all',
    len(images),
    images.shape[1:],
    num_classes,
    digest,
    lambda size: in_batches(images, labels, size),
  )


def _open_folder(path: str) -> ImageSet:
  """The images of a folder or a zip as a source `folder:` has them: central squares of one size.

  Both list, decode, cut and resize by the same code. The size is the median of the shorter sides.
  """
  everything = stores.walk(path)
  splits = levels.splits(everything)
  parts = [everything.within(part) for part in (splits.train, splits.unseen) if part is not None]
  each = [photo_files.examine(part, path) for part in parts]
  columns = ('names', 'paths', 'labels', 'orientations', 'sizes', 'grey', 'contents')
  known = {name: np.concatenate([one[name] for one in each]) for name in columns}
  known['store'] = each[0]['store']
  num, sizes = len(known['names']), known['sizes']
  side = int(np.sort(sizes.min(1))[(num - 1) // 2])
  size = (side, side, 1 if known['grey'].all() else 3)
  given = config_of(f'folder:{path}', size, '', {})
  lookup = data.from_pictures(photo_files.picture_of(known), given, known['paths'].__getitem__)

  def batches(size: int) -> Iterator[ImageBatch]:
    for images, _ in data.in_batches(lookup, np.arange(num), size):
      yield images, None

  findings = [*map(photo_files.of_files, [part.root for part in parts], each), *splits.findings]
  findings += photo_files.of_others(everything) + photo_files.copies(known)
  if other := int((sizes != side).any(1).sum()):
    words = f'{other:,} of {num:,} images are not {side}x{side}: their central squares are resized'
    findings.append(('warning', words))
  digest = photo_files.photos_digest(known, np.arange(num), [])
  name = data.printable(path)
  return ImageSet(name, 'all', num, size, 0, digest, batches, findings=tuple(findings))
