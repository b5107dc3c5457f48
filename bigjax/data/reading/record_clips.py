"""Clips of the videos of a TFDS set, whose records hold every frame as an encoded image."""

from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np

from bigjax import data
from bigjax.core import errors
from bigjax.data.reading import clip_files, decode, tfrecord
from bigjax.data.reading.levels import NAMED, some

MAIN = ('video', 'image_sequence', 'image_main')  # of several videos, the first of these


def videos(features: Any) -> dict[str, Any]:
  """{where frames lie in a record: the feature of a frame} of a set.

  A video is a sequence of images (as tfds.features.Video is one), or of steps of which each has
  images of its own, as in bair_robot_pushing_small.
  """
  import tensorflow_datasets as tfds

  is_image = lambda one: isinstance(one, tfds.features.Image)
  found = {}
  steps = {'': features} if isinstance(features, tfds.features.Sequence) else {}
  for name, one in features.items() if not steps else ():
    if isinstance(one, tfds.features.Sequence):
      if is_image(one.feature):
        found[name] = one.feature
      else:
        steps[f'{name}/'] = one
  for name, step in steps.items():
    if isinstance(step.feature, tfds.features.FeaturesDict):
      found |= {name + key: one for key, one in step.feature.items() if is_image(one)}
  return found


def find(builder: Any, config: ml_collections.ConfigDict) -> str:
  """Where the frames of a set's videos lie in its records.

  Its only video, or of several the one whose name is the first in MAIN.

  Raises:
    UserError: it has none, several of other names, or not of uint8 frames.
  """
  known = videos(builder.info.features)
  main = sorted((MAIN.index(key.rpartition('/')[2]), key) for key in known
                if key.rpartition('/')[2] in MAIN)  # fmt: skip
  if not known or (len(known) > 1 and not main):
    have = some(sorted(known)) if known else some(sorted(dict(builder.info.features.items())))
    raise errors.UserError(
      f'data.frames is {config.frames}, but {config.source!r} has {have}; expected one video, a '
      f'sequence of images, or one called {" or ".join(MAIN)}'
      f'{"" if known else "; set data.frames=0 for still images"}.'
    )
  key = main[0][1] if main else next(iter(known))
  frame = known[key]
  if frame.np_dtype != np.uint8 or frame.shape[-1] not in (1, 3):
    raise errors.UserError(
      f'{config.source!r} has frames of {np.dtype(frame.np_dtype)} and shape {frame.shape}; '
      'expected uint8 with 1 or 3 channels.'
    )
  return key


def as_picture(read: tfrecord.Read, whole: bool = False) -> tfrecord.Read:
  """Reads the first frame of each video; or all frames' bytes as one text, for a digest."""

  def one(tf, index):
    encoded, label = read(tf, index)
    size = tf.strings.as_string(tf.strings.length(encoded)) + ' '
    return (tf.strings.reduce_join([size, encoded]) if whole else encoded[0]), label

  return one


def lengths(tf: Any, builder: Any, split: str, key: str) -> np.ndarray:
  """The number of frames of every video of a split, int64 [n]; found once."""
  read, num = tfrecord.open_split(tf, builder, split, key), builder.info.splits[split].num_examples

  def counted(tf, index):
    encoded, _ = read(tf, index)
    return encoded, None, tf.size(encoded)

  place = tfrecord.place_of(builder, split)
  find = lambda: {'lengths': data.read_labels(counted, np.arange(num), place)}
  kind = f'lengths-{key.replace("/", "-")}'
  return tfrecord.cached(kind, tfrecord.files_of(builder, split), find)['lengths'].astype(np.int64)


def long_enough(
  nums: np.ndarray, config: ml_collections.ConfigDict, name_of: Callable[[int], str]
) -> tuple[np.ndarray, list[data.Finding]]:
  """(Which videos have the frames of a clip, int64 [m]; the finding about those that lack some).

  Raises:
    UserError: none has them.
  """
  stride, span = clip_files.spans(config)
  short, keep = np.flatnonzero(nums < span), np.flatnonzero(nums >= span)
  if not len(keep):
    raise errors.UserError(
      f'{config.source!r} has videos of at most {nums.max()} frames, fewer than the {span} that '
      f'data.frames={config.frames} at data.frame_stride={stride} takes; lower these.'
    )
  if not len(short):
    return keep, []
  told = some([f'{data.printable(name_of(int(i)))} ({nums[i]} frames)' for i in short[: NAMED + 1]])
  return keep, [
    ('warning', f'{len(short):,} of {len(nums):,} videos are left out, too short for '
     f'data.frames: {told}')
  ]  # fmt: skip


def lookup(
  picture: data.Picture, config: ml_collections.ConfigDict, name_of: Callable[[int], str]
) -> data.Lookup:
  """The lookup of clips of videos: random windows in training, the central ones without chance.

  Args:
    picture: (tf, scalar index) -> (encoded frames [T], EXIF orientation, label).
    config: the group `data`.
    name_of: see data.Named.
  """
  stride, span = clip_files.spans(config)
  steps = np.arange(config.frames) * stride
  shape = config.resolution, config.resolution, config.channels
  fit = config.get('fit', 'crop')

  def look_up(tf, indices, chance):
    encoded, orientation, label = picture(tf, indices[0])
    num = tf.size(encoded, tf.int64)
    first, left = clip_files.window(num, span, None if chance is None else chance[0])
    left = left if config.crop == 'random' else None
    whole = lambda one: decode.decode(tf, one, orientation)
    frame = lambda one: decode.square(tf, whole(one), *shape[1:], left, fit)
    clip = tf.map_fn(frame, tf.gather(encoded, first + steps), fn_output_signature=tf.uint8)
    return tf.ensure_shape(clip, [config.frames, *shape])[None], tf.cast(label, tf.int32)[None]

  return data.Named(look_up, name_of)
