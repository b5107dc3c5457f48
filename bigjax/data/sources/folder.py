"""Anybody's photos: `folder:PATH`, with a folder per class, labels in a file, or all in one class.

JPEG, PNG, WebP and GIF of any size, grey, colour or transparent, in a folder or in a zip
(`files.stores`). PATH may hold a folder `train` and one that is held out, each with the class
folders (`reading.levels` knows the usual names); otherwise the share `config.held_out` of every
class is held out, chosen by the hash of each file's name. Labels in a file beside the images
(`files.label_files`) come before class folders. Every file is decoded once, when the folder is
first used: those that cannot be, and those too large to be (`reading.decode`,
`reading.image_headers`), are named, counted and left out. A file's contents tell what it is, not
its name.

With `data.frames`, clips in place of photos: of video files and of folders of numbered pictures
(`reading.clip_files`, `reading.video`), with the same folders, shares and care.
"""

import hashlib
import os
from typing import Any

import ml_collections
import numpy as np

from bigjax import data
from bigjax.core import errors
from bigjax.data.files import label_files, stores
from bigjax.data.files.label_files import NOTHING, Labels
from bigjax.data.reading import clip_files, levels, photo_files
from bigjax.data.reading.levels import readable
from bigjax.data.reading.listing import Listing

CLIPS = True  # knows data.frames
LABELS = True  # and data.label_column


def load(config: ml_collections.ConfigDict, argument: str) -> data.Source:
  """Return the photos of a folder or a zip, or the clips of a folder.

  Raises:
    UserError: there is no such folder, nothing in it can be read, or its classes make no sense.
  """
  root = root_of(config, argument)
  # What lies where: splits, classes, and which files can be read.
  everything = stores.walk(root)
  of_clips = config.frames > 0
  files = clip_files if of_clips else photo_files
  everything = clip_files.entries(everything) if of_clips else everything
  splits = levels.splits(everything)
  labels = NOTHING if of_clips else label_files.find(everything, splits, config)
  splits = with_labels(everything, splits, labels)
  below, of_below = everything.within(splits.train), labels.within(splits.train)
  classes = classes_of(below, of_below)
  train = examine(below, classes, config, of_below)
  # What is held out: a split of its own, or a share by the hash of each file's name.
  if splits.unseen is not None:
    apart, of_apart = everything.within(splits.unseen), labels.within(splits.unseen)
    refuse_other_classes(apart, classes, of_apart)
    unseen = examine(apart, classes, config, of_apart)
    held_out = np.arange(len(unseen['labels']))
    kept = np.arange(len(train['labels']))
  else:
    order = np.argsort([hashlib.blake2b(os.fsencode(n)).hexdigest() for n in train['names']])
    mask = data.held_out_mask(train['labels'], config.held_out, order)
    unseen, held_out, kept = train, np.flatnonzero(mask), np.flatnonzero(~mask)
  labels_of_train = train['labels'][kept]
  digest = lambda *some: clip_files.digest_of(photo_files.photos_digest(*some, classes), config)
  name = os.path.basename(root)
  name = name[: -len('.zip')] if everything.store else name
  return data.by_number(
    (files.lookup(train, config), kept),
    (files.lookup(unseen, config), held_out),
    class_names=tuple(map(readable, classes)) or (readable(name),),
    license=f'that of the {"videos" if of_clips else "photos"}, which their owner knows',
    labels=lambda: labels_of_train,
    labels_known=True,
    digest=digest(train, kept),
    held_out_digest=digest(unseen, held_out),
    findings=(
      files.of_files(below.root, train),
      *([files.of_files(apart.root, unseen)] if unseen is not train else []),
      *splits.findings,
      *of_classes(below, classes, of_below),
      *files.of_others(everything, labels.files),
      *(clip_files.of_rates(train, config) if of_clips else ()),
      *photo_files.copies(*photo_files.together(train, unseen, held_out), everything.what),
      *photo_files.of_sizes(train['sizes'], config, everything.what),
      *photo_files.greyed(train['grey'], config.channels, everything.what),
    ),
    frame_rate=clip_files.frame_rate(train, config) if of_clips else 0.0,
  )


def root_of(config: ml_collections.ConfigDict, argument: str) -> str:
  """The whole path of a folder or a zip.

  Raises:
    UserError: there is none, or none that serves.
  """
  if not argument:
    raise errors.UserError(
      'data.source=folder: needs the path of a folder or a zip of photos, as in '
      '--config.data.source=folder:/my/photos.'
    )
  root = os.path.abspath(os.path.expanduser(argument))
  if not os.path.isdir(root) and not stores.is_zip(root):
    hint = ', but a file that is no zip: unpack it' * os.path.isfile(root)
    words = f'data.source is {config.source!r}, but there is no folder {root!r}{hint}.'
    raise errors.AbsentData(words)
  if config.frames and not os.path.isdir(root):
    raise errors.UserError(
      f'data.frames is {config.frames}, but clips are read from folders, and {root!r} is a zip: '
      'unpack it, or set data.frames=0 for its images.'
    )
  return root


def with_labels(everything: Listing, splits: levels.Splits, labels: Labels) -> levels.Splits:
  """The splits, without a held-out one of which no image has a label where others do."""
  if not labels.of or splits.unseen is None or any(labels.within(splits.unseen).of.values()):
    return splits
  words = (
    f'{readable(splits.unseen)!r} has no labels in {labels.words}: its '
    f'{len(everything.within(splits.unseen).images):,} images are left out'
  )
  return levels.Splits(splits.train, None, (*splits.findings, ('warning', words)))


def classes_of(below: Listing, labels: Labels) -> list[str]:
  """The classes of training images, by a file of labels or else by folders; [] for one of all.

  Raises:
    UserError: they make no sense.
  """
  if labels.of:
    return label_files.classes_of(below, labels)
  return [] if labels.of is None else levels.classes(below)


def of_classes(below: Listing, classes: list[str], labels: Labels) -> tuple[data.Finding, ...]:
  """Findings about those."""
  if labels.of:
    words = f'labels are those of {labels.words}; folders are not looked at for them'
    return ('ok', words), *labels.findings, *label_files.of_images(below, labels, classes)
  return labels.findings + (() if labels.of is None else levels.of_classes(below, classes))


def examine(
  below: Listing,
  classes: list[str],
  config: ml_collections.ConfigDict,
  labels: Labels = NOTHING,
) -> dict[str, Any]:
  """Facts about the images or clips of a folder, as their `examine`, with their labels.

  Raises:
    UserError: there is none, or none can be read.
  """
  if config.frames:
    known = clip_files.examine(below.root, below.images, config)
  else:
    refuse_others_alone(below, config.source)
    if labels.of:
      return label_files.examine(below, labels, classes, config.source)
    known = photo_files.examine(below, config.source)
  label_of = {name: i for i, name in enumerate(classes)}
  numbers = [label_of.get(name.partition('/')[0], 0) for name in known['names']]
  return {**known, 'labels': np.array(numbers, np.int32)}


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


def refuse_other_classes(unseen: Listing, classes: list[str], labels: Labels) -> None:
  """Refuse held-out images of classes that are not trained on.

  Raises:
    UserError: there are such classes.
  """
  if labels.of is None:
    return
  if labels.of:
    label_files.refuse_unknown(unseen, labels, classes)
    return
  unknown = [name for name in levels.classes(unseen) if name not in set(classes)]
  if unknown:
    raise errors.UserError(
      f'{unseen.root!r} has class folders that the training images lack: '
      f'{levels.some(unknown)}; both need the same names.'
    )
