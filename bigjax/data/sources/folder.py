"""Anybody's photos: `folder:PATH`, with a folder per class, or all in one (unconditional).

JPEG, PNG, WebP and GIF of any size, grey, colour or transparent. PATH may hold a folder `train` and
one that is held out, each with the class folders (`reading.levels` knows the usual names);
otherwise the share `config.held_out` of every class is held out, chosen by the hash of each file's
name. Every file is decoded once, when the folder is first used: those that cannot be, and those too
large to be (`reading.decode`, `reading.image_headers`), are named, counted and left out. A file's
contents tell what it is, not its name.

With `data.frames`, clips in place of photos: of video files and of folders of numbered pictures
(`reading.clip_files`, `reading.video`), with the same folders, shares and care.
"""

import hashlib
import os

import ml_collections
import numpy as np

from bigjax import data
from bigjax.core import errors
from bigjax.data.reading import clip_files, levels, photo_files
from bigjax.data.reading.levels import readable
from bigjax.data.reading.listing import Listing, walk

CLIPS = True  # knows data.frames


def load(config: ml_collections.ConfigDict, argument: str) -> data.Source:
  """Return the photos, or the clips, of a folder.

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
    raise errors.AbsentData(f'data.source is {config.source!r}, but there is no folder {root!r}.')
  # What lies where: splits, classes, and which files can be read.
  everything = walk(root)
  of_clips = config.frames > 0
  files = clip_files if of_clips else photo_files
  everything = clip_files.entries(everything) if of_clips else everything
  splits = levels.splits(everything)
  below = everything.within(splits.train)
  classes = levels.classes(below)
  train = examine(below, classes, config)
  # What is held out: a split of its own, or a share by the hash of each file's name.
  if splits.unseen is not None:
    apart = everything.within(splits.unseen)
    refuse_other_classes(apart, classes)
    unseen = examine(apart, classes, config)
    held_out = np.arange(len(unseen['labels']))
    kept = np.arange(len(train['labels']))
  else:
    order = np.argsort([hashlib.blake2b(os.fsencode(n)).hexdigest() for n in train['names']])
    mask = data.held_out_mask(train['labels'], config.held_out, order)
    unseen, held_out, kept = train, np.flatnonzero(mask), np.flatnonzero(~mask)
  labels = train['labels'][kept]
  digest = lambda *some: clip_files.digest_of(photo_files.photos_digest(*some, classes), config)
  return data.by_number(
    (files.lookup(train, config), kept),
    (files.lookup(unseen, config), held_out),
    class_names=tuple(map(readable, classes)) or (readable(os.path.basename(root)),),
    license=f'that of the {"videos" if of_clips else "photos"}, which their owner knows',
    labels=lambda: labels,
    labels_known=True,
    digest=digest(train, kept),
    held_out_digest=digest(unseen, held_out),
    findings=(
      files.of_files(below.root, train),
      *([files.of_files(apart.root, unseen)] if unseen is not train else []),
      *splits.findings,
      *levels.of_classes(below, classes),
      *files.of_others(everything),
      *(clip_files.of_rates(train, config) if of_clips else ()),
      *photo_files.copies(*together(train, unseen, held_out), everything.what),
      data.small_images(train['sizes'], config.resolution, everything.what),
      *photo_files.greyed(train['grey'], config.channels, everything.what),
    ),
    frame_rate=clip_files.frame_rate(train, config) if of_clips else 0.0,
  )


def examine(
  below: Listing, classes: list[str], config: ml_collections.ConfigDict
) -> dict[str, np.ndarray]:
  """Facts about the images or clips of a folder, as their `examine`, with their labels.

  Raises:
    UserError: there is none, or none can be read.
  """
  if config.frames:
    known = clip_files.examine(below.root, below.images, config)
  else:
    refuse_others_alone(below, config.source)
    known = photo_files.examine(below.root, below.images, config.source)
  label_of = {name: i for i, name in enumerate(classes)}
  labels = [label_of.get(name.partition('/')[0], 0) for name in known['names']]
  return {**known, 'labels': np.array(labels, np.int32)}


def refuse_others_alone(below: Listing, source: str) -> None:
  """Refuse a folder with files of which none is an image.

  Raises:
    UserError: it is one.
  """
  if below.images or not below.others:
    return
  videos = [path for path in below.others if photo_files.is_video(path)]
  hint = f'; {videos[0]!r} is a video: data.frames=16 makes clips of 16 frames' if videos else ''
  raise errors.UserError(
    f'data.source is {source!r}, but no image is below {below.root!r}; it has '
    f'{len(below.others)} other files, such as {below.others[0]!r}{hint}.'
  )


def refuse_other_classes(unseen: Listing, classes: list[str]) -> None:
  """Refuse held-out images of classes that are not trained on.

  Raises:
    UserError: there are such classes.
  """
  unknown = [name for name in levels.classes(unseen) if name not in set(classes)]
  if unknown:
    raise errors.UserError(
      f'{unseen.root!r} has class folders that the training images lack: '
      f'{levels.some(unknown)}; both need the same names.'
    )


def together(
  train: dict[str, np.ndarray], unseen: dict[str, np.ndarray], held_out: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """(Names, labels and contents of all images, whether each is held out), for `copies`."""
  if unseen is train:
    mask = np.zeros(len(train['labels']), bool)
    mask[held_out] = True
    return train, mask
  columns = ('names', 'labels', 'contents')
  both = {name: np.concatenate([train[name], unseen[name]]) for name in columns}
  return both, np.arange(len(both['labels'])) >= len(train['labels'])
