"""Clips of handwritten digits that bounce in a square, made here: `moving_digits[:DIGITS]`.

As Moving MNIST (Srivastava et al. 2015), with scikit-learn's digits in place of MNIST's, and one or
two of them in a clip. A digit moves in a straight line at a constant speed and is reflected where
it touches a border; where two overlap, the lighter of both is seen. With one digit a clip has its
class; clips of two have the one class 'all'. All is of integers: the same clips on every machine.
"""

import dataclasses

import ml_collections
import numpy as np

from bigjax import data
from bigjax.core import errors
from bigjax.data.sources import digits

CLIPS = True  # knows data.frames
NUM, NUM_HELD_OUT = 4000, 1000  # clips; these show digits that those do not
FRAME_RATE = 8.0  # frames per second that the law of motion is meant for
SHARE = (7, 16)  # of the square's side that a digit takes, as 28 of 64 px in Moving MNIST
LEAST = 12  # px of the square: digits are not shown smaller than they were scanned, 8 px
UNIT = 256  # parts of a pixel, in which places and velocities are whole numbers
SLOWEST, FASTEST = 20, 8  # frames in which a digit crosses its room, along either axis
AT_ONCE = 500  # clips drawn together, for memory's sake


@dataclasses.dataclass(frozen=True)
class Moving:
  """Clips and what is in them.

  Attributes:
    clips: uint8 [n, T, side, side].
    labels: int32 [n], the class of each clip's first digit.
    shown: int64 [n, D], which of the given digits are in each clip.
    corners: int64 [n, D, T, 2], rows and columns of their upper left corners, in 1/UNIT px.
    digit: px, the side of a digit.
  """

  clips: np.ndarray
  labels: np.ndarray
  shown: np.ndarray
  corners: np.ndarray
  digit: int

  @property
  def centres(self) -> np.ndarray:
    """Rows and columns of the digits' centres in pixels from the upper left, float [n, D, T, 2]."""
    return self.corners / UNIT + self.digit / 2


def load(config: ml_collections.ConfigDict, argument: str) -> data.Source:
  """Return NUM clips to train on and NUM_HELD_OUT of other digits, `config.held_out` of all.

  Raises:
    UserError: the argument is neither 1 nor 2, the config asks for images, for colour or for a
      square too small to move in, or there is no scikit-learn.
  """
  if argument not in ('', '1', '2'):
    raise errors.UserError(
      f'data.source is {config.source!r}; expected one or two digits a clip, moving_digits:1 or '
      'moving_digits:2.'
    )
  if config.frames < 2:
    raise errors.UserError(
      f'data.frames is {config.frames}, but moving_digits are clips; set data.frames=2 or more, or '
      'data.source=digits for still images.'
    )
  if config.resolution < LEAST:
    raise errors.UserError(
      f'data.resolution is {config.resolution}, too small for digits to move in; set it to {LEAST} '
      'or more.'
    )
  num_digits = int(argument or 1)
  data.check_memory(NUM + NUM_HELD_OUT, config)
  grey, labels = digits.scanned(config)
  held_out = data.held_out_mask(labels, config.held_out)
  stride = config.get('frame_stride', 1)

  def made(mask, first, num):
    numbers = np.arange(first, first + num)
    moving = make(
      grey[mask], labels[mask], numbers, config.frames, config.resolution, num_digits, stride
    )
    return moving.clips[..., None], moving.labels * (num_digits == 1)

  return data.in_memory(
    made(~held_out, 0, NUM),
    made(held_out, NUM, NUM_HELD_OUT),
    class_names=digits.NAMES if num_digits == 1 else data.ALL,
    license=digits.LICENSE,
    frame_rate=FRAME_RATE / stride,
  )


def make(
  grey: np.ndarray,
  labels: np.ndarray,
  numbers: np.ndarray,
  frames: int,
  resolution: int,
  num_digits: int = 1,
  stride: int = 1,
  seed: int = 0,
) -> Moving:
  """Return clips by their numbers: clip i is a function of (seed, i) and the digits alone.

  Its first digit is one of class i mod 10, a further one any, each drawn evenly. Along either
  axis the upper left corner of a digit begins anywhere in its room (what the square leaves) and
  moves by so much a frame, to and fro, that it crosses the room in FASTEST to SLOWEST frames.

  Args:
    grey: digits, uint8 [m, h, w].
    labels: of these, int [m]; all ten classes must be there.
    numbers: of the clips, int [n].
    frames: of a clip.
    resolution: px, a side of the square.
    num_digits: in a clip.
    stride: every so many frames of the motion are shown.
    seed: of all.
  """
  digit = max(digits.SIDE, resolution * SHARE[0] // SHARE[1])
  room = (resolution - digit) * UNIT
  each = range(num_digits)
  of_class = [np.flatnonzero(labels == label) for label in range(10)]
  shown = np.empty((len(numbers), num_digits), np.int64)
  start, velocity = np.empty((2, len(numbers), num_digits, 2), np.int64)
  for i, number in enumerate(np.asarray(numbers).tolist()):
    draw = np.random.RandomState((seed, number))
    for k in each:
      label = draw.randint(10) if k else number % 10
      shown[i, k] = of_class[label][draw.randint(len(of_class[label]))]
      start[i, k] = draw.randint(0, room + 1, 2)
      speed = draw.randint(room // SLOWEST, room // FASTEST + 1, 2)
      velocity[i, k] = speed * (2 * draw.randint(0, 2, 2) - 1)
  times = np.arange(frames)[:, None] * stride
  corners = reflected(start[:, :, None] + velocity[:, :, None] * times, room)
  large = digits.enlarged(grey, digit)
  clips = np.empty((len(numbers), frames, resolution, resolution), np.uint8)
  for first in range(0, len(numbers), AT_ONCE):
    some = slice(first, first + AT_ONCE)
    for t in range(frames):
      layers = [laid(large[shown[some, k]], corners[some, k, t], resolution) for k in each]
      clips[some, t] = np.maximum.reduce(layers)
  return Moving(clips, labels[shown[:, 0]].astype(np.int32), shown, corners, digit)


def reflected(straight: np.ndarray, room: int) -> np.ndarray:
  """Return places on a straight line folded to 0..room, as an elastic ball has them."""
  return room - abs(straight % (2 * room) - room)


def laid(pictures: np.ndarray, corners: np.ndarray, resolution: int) -> np.ndarray:
  """Return uint8 [n, side, side] on black squares [n, resolution, resolution].

  Args:
    pictures: each lies inside its square.
    corners: int [n, 2], the rows and columns of their upper left corners, in 1/UNIT px: between
      pixels they are interpolated linearly.
    resolution: px, a side of the squares.
  """
  whole, part = np.divmod(corners, UNIT)
  side = pictures.shape[1] + 1  # between pixels it touches one more
  moved = np.zeros((len(pictures), side, side), np.int64)
  for down in (0, 1):
    for right in (0, 1):
      weight = np.where([down, right], part, UNIT - part).prod(1)
      moved[:, down : side - 1 + down, right : side - 1 + right] += pictures * weight[:, None, None]
  # At the far border that further row or column is black, and lies beyond.
  squares = np.zeros((len(pictures), resolution + 1, resolution + 1), np.uint8)
  at = whole[:, :, None] + np.arange(side)
  each = np.arange(len(pictures))[:, None, None]
  squares[each, at[:, 0, :, None], at[:, 1, None]] = (moved + UNIT**2 // 2) // UNIT**2
  return squares[:, :-1, :-1]
