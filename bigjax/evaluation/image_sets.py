"""Images that scores are computed of and compared with: splits of a data source, folders, arrays.

They are read in batches and never held in memory as a whole, but for an .npz.
"""

import dataclasses
import functools
import hashlib
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping

import ml_collections
import numpy as np
from PIL import Image

from bigjax import data
from bigjax.core import errors, files

ImageBatch = tuple[np.ndarray, np.ndarray | None]  # uint8 images, labels int [b] if they have any
MOST_CLASSES = 10**6
SPLITS = ('train', 'test', 'all')
SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp')


@dataclasses.dataclass(frozen=True)
class ImageSet:
  """A set of images of one size.

  Attributes:
    name: what it was asked for by.
    split: 'train', 'test' or 'all'.
    num: of images.
    size: (H, W, C), or (T, H, W, C) of clips.
    num_classes: 0 where there are no labels.
    digest: another where the images are others.
    batches: (size) -> (uint8 images [b, H, W, C], labels int [b] or None), in a fixed order; all
      but the last of that size.
    some: (most) -> at most so many of them, evenly chosen; of training images alone.
  """

  name: str
  split: str
  num: int
  size: tuple[int, ...]
  num_classes: int
  digest: str
  batches: Callable[[int], Iterator[ImageBatch]]
  some: Callable[[int], ImageBatch] | None = None


def split_of(given: str) -> tuple[str, str]:
  """Return (source, split) of 'tfds:cifar10/test'; of a folder all images, else 'train'."""
  source, _, split = given.rpartition('/')
  if source and split in SPLITS:
    return source, split
  return given, 'all' if given.startswith('folder:') else 'train'


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
      'num_classes': known.get('num_classes'),
      'held_out': known.get('held_out', held_out),
      'fraction': known.get('fraction', 1.0),
      'per_class': known.get('per_class', 0),
      'crop': 'center',
      'flip': False,
    }
  )


def open_source(
  given: str, size: tuple[int, ...], data_dir: str, known: Mapping[str, object]
) -> dict[str, ImageSet]:
  """Return the splits of a source of images, cut and resized as for training.

  Args:
    given: data.source, such as 'tfds:cifar10'.
    size: (H, W, C) of an image, or (T, H, W, C) of a clip.
    data_dir: of TFDS, or ''.
    known: the group `data` of a run's config, whose shares of the images apply; {} for none.
  Raises:
    UserError: it cannot be read.
  """
  source = data.load(config_of(given, size, data_dir, known))

  def batches(lookup: data.Lookup, num: int, size: int) -> Iterator[ImageBatch]:
    for images, labels in data.in_batches(lookup, np.arange(num), size):
      yield images, data.one_label(labels)

  train = functools.partial(batches, source.lookup, source.num_train)
  test = functools.partial(batches, source.held_out_lookup, source.num_held_out)

  def both(size: int) -> Iterator[ImageBatch]:
    return rebatched(itertools.chain(train(size), test(size)), size)

  words = f'{source.digest} {source.held_out_digest} {source.num_train} {source.num_held_out}'
  digest = hashlib.sha256(f'{words} {size}'.encode()).hexdigest()[:16]
  found = {
    'train': (source.num_train, train),
    'test': (source.num_held_out, test),
    'all': (source.num_train + source.num_held_out, both),
  }
  splits = {
    split: ImageSet(given, split, num, size, len(source.class_names), f'{digest}-{split}', batches)
    for split, (num, batches) in found.items()
  }

  def some(most: int) -> ImageBatch:  # of clips, their frames
    images, labels = data.labelled(source.train, most)
    return images.reshape(-1, *size[-3:]), np.repeat(labels, images[0].size // math.prod(size[-3:]))

  return {**splits, 'train': dataclasses.replace(splits['train'], some=some)}


def in_batches(images: np.ndarray, labels: np.ndarray | None, size: int) -> Iterator[ImageBatch]:
  """Yield parts of arrays."""
  for i in range(0, len(images), size):
    yield images[i : i + size], None if labels is None else labels[i : i + size]


def rebatched(batches: Iterator[ImageBatch], size: int) -> Iterator[ImageBatch]:
  """Yield the same labelled images, all batches but the last of this size."""
  images, labels = [], []
  for some, their in batches:
    images.append(some)
    labels.append(their)
    if sum(map(len, images)) >= size:
      all_images, all_labels = np.concatenate(images), np.concatenate(labels)
      yield all_images[:size], all_labels[:size]
      images, labels = [all_images[size:]], [all_labels[size:]]
  if sum(map(len, images)):
    yield np.concatenate(images), np.concatenate(labels)


def open_files(path: str) -> ImageSet:
  """Return the images of a folder, its subfolders' too, or of an .npz, as they are.

  Of an .npz, the array `images`, `arr_0` (the layout of ADM's evaluator) or the only one.
  Raises:
    UserError: there are none, or not all are of one size.
  """
  if os.path.isdir(path):
    return _open_folder(path)
  if not path.endswith('.npz') or not os.path.isfile(path):
    raise errors.UserError(f'--images={path}: expected a folder of images, or an .npz of them.')
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
  names = sorted(
    os.path.join(folder, name)
    for folder, _, files in os.walk(path)
    for name in files
    if name.lower().endswith(SUFFIXES) and not name.startswith('.')
  )
  if not names:
    raise errors.UserError(f'there are no images ({", ".join(SUFFIXES)}) in {path!r}.')
  first = decode(names[0])
  told = hashlib.sha256()
  for name in names:
    told.update(f'{os.path.relpath(name, path)} '.encode())
    with open(name, 'rb') as file:
      told.update(hashlib.file_digest(file, 'sha256').digest())

  def batches(size: int) -> Iterator[ImageBatch]:
    for i in range(0, len(names), size):
      images = []
      for name in names[i : i + size]:
        image = decode(name)
        if image.shape != first.shape:
          raise errors.UserError(
            f'{name!r} is {image.shape[1]}x{image.shape[0]} with {image.shape[2]} channels, '
            f'{names[0]!r} is {first.shape[1]}x{first.shape[0]} with {first.shape[2]}; to score '
            'photos of many sizes, cut them to one first.'
          )
        images.append(image)
      yield np.stack(images), None

  return ImageSet(path, 'all', len(names), first.shape, 0, told.hexdigest()[:16], batches)


def decode(path: str) -> np.ndarray:
  """Return an image file as uint8 [H, W, 1 or 3], transparency left out.

  Raises:
    UserError: it cannot be read.
  """
  try:
    with Image.open(path) as image:
      grey = image.mode in ('L', '1', 'LA')
      pixels = np.asarray(image.convert('L' if grey else 'RGB'))
  except (OSError, ValueError, Image.DecompressionBombError) as error:
    raise errors.UserError(f'{path!r} cannot be read ({error}).') from None
  return pixels[..., None] if pixels.ndim == 2 else pixels
