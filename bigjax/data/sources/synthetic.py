"""Images made from a seed: any config can be tried, planned or timed without its data.

`synthetic[:NUM]`. Each class has a smooth colour pattern of its own, each image a variation of it.
With `data.frames`, each is a clip in which the pattern moves to the right, one pixel in each of the
FRAME_RATE frames of a second.
"""

import ml_collections
import numpy as np

from bigjax import data
from bigjax.core import errors

CLIPS = True  # knows data.frames
FRAME_RATE = 8.0  # frames per second of clips
NUM = 256
CLASSES = 10  # where the config says None
KNOTS = 4  # of a pattern, along each side


def load(config: ml_collections.ConfigDict, argument: str) -> data.Source:
  """Return NUM images: image i is of class i mod `config.num_classes` (None: of ten).

  Raises:
    UserError: NUM is no number, or there are too few images for the classes, or too many to hold.
  """
  if argument and not argument.isdecimal():
    raise errors.UserError(
      f'data.source is {config.source!r}; expected a number of images, as in synthetic:{NUM}.'
    )
  num, classes = int(argument or NUM), config.num_classes or CLASSES
  if num < 2 * classes:
    raise errors.UserError(
      f'data.source={config.source} makes {num} images, too few to train on and to hold out every '
      f'one of {classes} classes; give at least synthetic:{2 * classes}.'
    )
  data.check_memory(num, config)
  labels = np.arange(num, dtype=np.int32) % classes
  images = np.empty((num, config.resolution, config.resolution, config.channels), np.uint8)
  for i, label in enumerate(labels):
    of_class = knots(label, config.channels)
    of_image = knots(classes + i, config.channels)  # seeds that follow the classes'
    images[i] = enlarge(3 * of_class + of_image, config.resolution) // 4
  stride = config.get('frame_stride', 1)
  if config.frames:
    times = stride * np.arange(config.frames)
    images = np.stack([np.roll(images, t, axis=2) for t in times], axis=1)
  held_out = data.held_out_mask(labels, config.held_out)
  return data.in_memory(
    (images[~held_out], labels[~held_out]),
    (images[held_out], labels[held_out]),
    class_names=tuple(f'class {label}' for label in range(classes)),
    license='CC0 (made from noise)',
    frame_rate=FRAME_RATE / stride if config.frames else 0.0,
  )


def knots(seed: int, channels: int) -> np.ndarray:
  """Return a coarse random pattern, [KNOTS, KNOTS, channels] in 0..255."""
  return np.random.RandomState(seed).randint(0, 256, (KNOTS, KNOTS, channels))


def enlarge(pattern: np.ndarray, size: int) -> np.ndarray:
  """Return a pattern of integers interpolated linearly to [size, size, C], rounded down.

  In integers, so that it is the same on every machine.
  """
  unit = max(size - 1, 1)
  left, share = np.divmod(np.arange(size) * (KNOTS - 1), unit)
  weights = np.zeros((size, KNOTS + 1), np.int64)  # one column more, for the weight 0 beyond
  weights[np.arange(size), left] = unit - share
  weights[np.arange(size), left + 1] = share
  weights = weights[:, :KNOTS]
  return np.einsum('ia,jb,abc->ijc', weights, weights, pattern, optimize=True) // unit**2
