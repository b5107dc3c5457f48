"""Image classification sets of TensorFlow Datasets: `tfds:NAME[/CONFIG]`.

With `data.num_classes=1` no label is asked for, or looked at. They are read where they have been
prepared (`config.data_dir`, else TFDS's own folder); nothing is downloaded here. Small ones are
decoded once and held in memory, others at every visit, by random access to ArrayRecord or TFRecord
files. With `data.frames`, clips of a set's videos (`reading.record_clips`).
"""

import dataclasses
import functools
import json
import os
import re
from typing import Any

import ml_collections
import numpy as np
from absl import logging

from bigjax import data
from bigjax.core import errors
from bigjax.data.reading import clip_files, photo_files, record_clips, tfrecord

HELD_OUT = ('test', 'validation')  # splits, in the order in which one is looked for
MOST_MIB = 512  # of a set that is held in memory, as pixels
LOOKED_AT = 64  # images, for their sizes
SPLITS = True  # data.split means something here
CLIPS = True  # and so does data.frames


def load(config: ml_collections.ConfigDict, argument: str) -> data.Source:
  """Return the set, its images cut to squares and resized to `config.resolution`.

  Trained on is `config.split`, or 'train'. Held out is 'test' or else 'validation', and where there
  is neither, the share `config.held_out` of every class.

  Raises:
    UserError: TFDS is not installed, or the set is unknown, not prepared, incomplete, or not one of
      images with one label each.
  """
  tf = data.tensorflow()
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    return open_set(tf, find(config, argument), config)
  finally:
    logging.set_verbosity(verbosity)


def open_set(tf: Any, builder: Any, config: ml_collections.ConfigDict) -> data.Source:
  """Return the source over a prepared set.

  Raises:
    UserError: its files are not all there, or have no images.
  """
  # Which splits: the one that is trained on, and the first other one with labels.
  counts = {split: info.num_examples for split, info in builder.info.splits.items()}
  blind, seen = config.num_classes == 1, config.get('split', '') or 'train'
  video = record_clips.find(builder, config) if config.frames else ''
  able = lambda split: blind or labelled(tf, builder, split, video)
  unseen = next((s for s in HELD_OUT if s in counts and s != seen and able(s)), None)
  for split in filter(None, (seen, unseen)):
    if not counts[split]:
      raise errors.UserError(f'{config.source!r} has no images in its split {split!r}.')
  if not able(seen):
    raise errors.UserError(
      f'{config.source!r} has no labels in its split {seen!r}; give data.num_classes=1, which asks '
      'for none, or a split with labels.'
    )

  def opened(split):
    """(Lookup of a split, its images or the videos that are long enough, findings of others)."""
    read, place = tfrecord.open_split(tf, builder, split, video), tfrecord.place_of(builder, split)
    if not video:
      lookup = data.from_pictures(upright(read, blind), config, place)
      return lookup, np.arange(counts[split]), []
    nums = record_clips.lengths(tf, builder, split, video)
    return record_clips.lookup(upright(read, blind), config, place), *record_clips.long_enough(
      nums, config, place
    )

  # How an image is looked up, tried on some of them.
  lookup, everything, found = opened(seen)
  picture = pictures(tf, builder, seen, video, blind)
  some = everything[data.subset(len(everything), LOOKED_AT)]
  looked_at = data.survey(picture, some, 'looking at images')
  if len(looked_at) < len(some):
    data.read(lookup, some)  # says which
  digest = lambda split: clip_files.digest_of(contents(tf, builder, split, video, blind), config)
  common = {
    'class_names': data.ALL if blind else tuple(builder.info.features['label'].names),
    'license': f'see the dataset {builder.info.full_name} ({builder.info.homepage})',
    'digest': digest(seen),
    'held_out_digest': digest(unseen or seen),
    'findings': (
      *found,
      *photo_files.of_sizes(looked_at[:, 1:3], config),
      *photo_files.greyed(looked_at[:, 4].astype(bool), config.channels),
    ),
  }

  @functools.cache
  def labels():
    if blind:
      return np.zeros(len(everything), np.int32)
    whole = np.arange(counts[seen])
    read = lambda: {'labels': data.read_labels(picture, whole, lookup.name_of)}
    return tfrecord.cached('labels', tfrecord.files_of(builder, seen), read)['labels'][everything]

  # What is held out: that split, or a share of each class.
  if unseen:
    other, of_other, lost = opened(unseen)
    common['findings'] = (*lost, *common['findings'])
    train, held_out = (lookup, everything), (other, of_other)
  else:
    mask = data.held_out_mask(labels(), config.held_out)
    train, held_out = (lookup, everything[~mask]), (lookup, everything[mask])
  # In memory where it is small.
  num = len(train[1]) + len(held_out[1])
  small = num * config.resolution**2 * config.channels <= MOST_MIB * 2**20
  if small and not video and config.crop == 'center':
    return data.in_memory(data.read(*train), data.read(*held_out), **common)
  return data.by_number(
    train,
    held_out,
    labels=lambda: labels()[np.searchsorted(everything, train[1])],
    labels_known=blind,
    **common,
  )


def find(config: ml_collections.ConfigDict, argument: str) -> Any:
  """Return the TFDS builder of a prepared set with images and labels.

  Raises:
    AbsentData: there is none.
    UserError: it is not named, or names code.
  """
  try:
    import tensorflow_datasets as tfds
  except ImportError:
    raise errors.AbsentData(
      f'data.source={config.source} is read through TensorFlow Datasets, which is not installed; '
      "run: pip install 'bigjax[train]'"
    ) from None
  if not argument:
    raise errors.UserError('data.source=tfds needs the name of a set, as in tfds:cifar10.')
  folder = os.path.expanduser(config.get('data_dir', '')) or None
  refuse_code(tfds, folder or tfds.core.constants.DATA_DIR, argument)
  try:
    builder = tfds.builder(argument, data_dir=folder)
  except tfds.core.DatasetNotFoundError:
    known = tfds.list_builders(with_community_datasets=False)
    raise errors.AbsentData(
      f'data.source is {config.source!r}, but TensorFlow Datasets knows no set {argument!r}'
      f'{errors.did_you_mean(argument, known)}, nor is one prepared in '
      f'{folder or tfds.core.constants.DATA_DIR!r}.'
    ) from None
  except (AssertionError, ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
    refuse_config(tfds, config, argument)
    raise errors.AbsentData(
      f'data.source is {config.source!r}, of which TensorFlow Datasets says: '
      + str(error).partition('\n')[0]
    ) from None
  if not builder.is_prepared():
    where = f', data_dir="{folder}"' if folder else ''
    # Not `tfds build`: it does not start where apache-beam is not installed.
    raise errors.AbsentData(
      f'{config.source!r} is not prepared in {str(builder.data_path)!r}; '
      f'give --config.data.data_dir=FOLDER where it is, or {by_hand(builder)}prepare it: '
      "python -c 'import tensorflow_datasets as tfds; "
      f'tfds.builder("{argument}"{where}).download_and_prepare()\''
    )
  check(builder, config)
  return builder


def by_hand(builder: Any) -> str:
  """What to do before a set can be prepared whose files nobody downloads; '' for others."""
  told = ' '.join((builder.MANUAL_DOWNLOAD_INSTRUCTIONS or '').split()).rstrip('.')
  if not told:
    return ''
  manual = str(builder.data_dir_root / 'downloads' / 'manual')
  return (
    f'lay its files into {manual!r}, which neither TensorFlow Datasets nor bigjax downloads or '
    f'makes (docs/data.md; {told}), and then '
  )


def refuse_config(tfds: Any, config: ml_collections.ConfigDict, argument: str) -> None:
  """Refuse the part behind the slash of NAME/CONFIG where TFDS knows the set, and not that of it.

  Raises:
    UserError: it is none of the set's.
  """
  name, _, given = argument.partition('/')
  try:
    known = list(tfds.builder_cls(name).builder_configs)
  except Exception:  # whatever is wrong with the set itself
    return
  if given and known and given not in known:
    raise errors.UserError(
      f'data.source is {config.source!r}, but {name} has no {given!r}'
      f'{errors.did_you_mean(given, known)}; expected one of: {", ".join(known)}.'
    )


def refuse_code(tfds: Any, folder: str, argument: str) -> None:
  """Refuse a prepared set whose features.json names classes that TFDS would import from elsewhere.

  Raises:
    UserError: names the first.
  """
  name = argument.partition(':')[0].partition('/')[0]
  root = tfds.core.Path(folder) / name
  for pattern in ('*/features.json', '*/*/features.json'):
    for path in sorted(root.glob(pattern)) if name and root.exists() else ():
      for kind in feature_classes(path.read_bytes()):
        if not re.fullmatch(r'tensorflow_datasets(\.\w+)+', kind):
          raise errors.UserError(
            f'{str(path)!r} names the class {kind!r}, which is not one of TensorFlow Datasets; '
            'bigjax imports no code for the sake of a data set: prepare it without that feature.'
          )


def feature_classes(given: bytes) -> list[str]:
  """Return the classes that the text of a features.json names; none where it is no JSON."""
  found = []
  keys = ('type', 'pythonClassName', 'python_class_name')  # of the older and the newer form
  note = lambda node: found.extend(str(node[key]) for key in keys if key in node) or node
  try:
    json.loads(given, object_hook=note)
  except (ValueError, RecursionError):  # TFDS will say so
    return []
  return found


def check(builder: Any, config: ml_collections.ConfigDict) -> None:
  """Refuse a set that is not a training split of uint8 images with one label each.

  Raises:
    UserError: says what it lacks.
  """
  features = dict(builder.info.features.items())
  image, label = features.get('image'), features.get('label')
  if config.frames:
    record_clips.find(builder, config)
    if config.num_classes != 1 and not hasattr(label, 'names'):
      raise errors.UserError(
        f"{config.source!r} has {', '.join(sorted(features))}; expected a class 'label', or "
        'data.num_classes=1, which asks for none.'
      )
    return refuse_no_split(builder, config)
  clips = image is None and record_clips.videos(builder.info.features)
  hint = ', or data.frames=16 for clips of its videos' if clips else ''
  if image is None or (config.num_classes != 1 and not hasattr(label, 'names')):
    found = ', '.join(sorted(features))
    raise errors.UserError(
      f"{config.source!r} has {found}; expected an 'image' and a class 'label'"
      f'{"" if image is None else ", or data.num_classes=1, which asks for none"}'
      f'{hint}.'
    )
  if image.np_dtype != np.uint8 or len(image.shape) != 3 or image.shape[-1] not in (1, 3):
    raise errors.UserError(
      f'{config.source!r} has images of {np.dtype(image.np_dtype)} and shape {image.shape}; '
      'expected uint8 with 1 or 3 channels.'
    )
  return refuse_no_split(builder, config)


def refuse_no_split(builder: Any, config: ml_collections.ConfigDict) -> None:
  """Refuse a set that lacks the split to train on.

  Raises:
    UserError: says which splits it has.
  """
  wanted = config.get('split', '') or 'train'
  if wanted not in builder.info.splits:
    raise errors.UserError(
      f'{config.source!r} has the splits {", ".join(builder.info.splits)}; expected a {wanted!r}: '
      'data.split names the one to train on.'
    )


def labelled(tf: Any, builder: Any, split: str, video: str = '') -> bool:
  """Return whether the images of a split have labels: those of a challenge's test set are -1."""
  num = builder.info.splits[split].num_examples
  if not num:
    return True  # which is refused
  picture = pictures(tf, builder, split, video)
  return (
    data.read_labels(picture, data.subset(num, 8), tfrecord.place_of(builder, split)).min() >= 0
  )


def contents(tf: Any, builder: Any, split: str, video: str, blind: bool) -> str:
  """A digest of a split's images and labels: the same in whichever files and wherever they lie."""

  def read():
    picture = pictures(tf, builder, split, video, blind, whole=True)
    num = builder.info.splits[split].num_examples
    return {
      'digest': np.array(data.pictures_digest(picture, num, tfrecord.place_of(builder, split)))
    }

  what = ('pixels' if blind else 'contents') + video.replace('/', '-')
  return str(tfrecord.cached(what, tfrecord.files_of(builder, split), read)['digest'])


def pictures(
  tf: Any, builder: Any, split: str, video: str, blind: bool = False, whole: bool = False
) -> data.Picture:
  """The pictures of a split; of videos the first frame, or the `whole` of each as one text."""
  read = tfrecord.open_split(tf, builder, split, video)
  return upright(record_clips.as_picture(read, whole) if video else read, blind)


@dataclasses.dataclass(frozen=True)
class Upright:
  """The pictures of records: TFDS says nothing of how a camera was held.

  Attributes:
    read: of the records.
    blind: whether all have label 0, whatever theirs is.
  """

  read: tfrecord.Read
  blind: bool

  def __call__(self, tf: Any, index: Any) -> tuple[Any, Any, Any]:
    return self._upright(tf, *self.read(tf, index))

  def _upright(self, tf: Any, encoded: Any, label: Any) -> tuple[Any, Any, Any]:
    one = tf.ones_like(label, tf.int32)
    return encoded, one, tf.zeros_like(label) if self.blind else label


class UprightInBatches(Upright):
  """The same, many in one call."""

  read: tfrecord.InBatches

  def many(self, tf: Any, indices: Any) -> tuple[Any, Any, Any]:
    """The pictures of these indices, int64 [n]."""
    return self._upright(tf, *self.read.many(tf, indices))


def upright(read: tfrecord.Read, blind: bool = False) -> data.Picture:
  """The pictures of records; many in one call where these can be read so."""
  many = isinstance(read, tfrecord.InBatches) and not read.video
  return (UprightInBatches if many else Upright)(read, blind)
