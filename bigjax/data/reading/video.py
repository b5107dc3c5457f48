"""Frames of one video file: GIF and animated WebP by Pillow, all else by FFmpeg through PyAV.

Frames are told apart by their number, whatever time each is shown for. What a file is, its contents
say. Nothing but the file itself is read: of FFmpeg's formats those alone are open that hold their
own pictures, and no playlist. Sizes are checked before a frame is decoded, and the sum of all
pixels while they are: a few kB may otherwise become hours.
"""

import functools
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from bigjax.core import errors
from bigjax.data.reading import listing

SUFFIXES = (*listing.VIDEOS, '.gif', '.webp')
FORMATS = 'mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi'  # of FFmpeg's
MOST_BYTES = 2**32  # of a file
MOST_PIXELS = 2**26  # of a frame, 8192 x 8192
MOST_WORK = 2**37  # pixels of all frames: twenty minutes of 1920 x 1080 at 60 a second
MOST_FRAMES = 2**18
ANIMATIONS = ('GIF', 'WEBP')
UNTOLD = -1  # the place of a frame that can only be found by counting


class Facts(NamedTuple):
  """What is known of a video once it has been decoded.

  Attributes:
    reason: why it is left out, '' where it is not.
    places: of its frames, int64 [n], to seek them by: FFmpeg's time stamps, or UNTOLD.
    rate: frames per second; 0 where the file does not say.
    size: height and width, upright.
    grey: whether its first frame has no colour.
  """

  reason: str
  places: np.ndarray
  rate: float = 0.0
  size: tuple[int, int] = (0, 0)
  grey: bool = False


class Refused(ValueError):
  """A video that is not decoded, and why."""


def is_animation(path: str) -> bool:
  """Whether a file is a GIF or a WebP, by its first bytes."""
  try:
    with open(path, 'rb') as file:
      head = file.read(12)
  except OSError:
    return False
  return head[:4] == b'GIF8' or (head[:4] == b'RIFF' and head[8:] == b'WEBP')


def moves(path: str) -> bool:
  """Whether a file is a GIF or a WebP of more than one picture, or too damaged to tell."""
  if not is_animation(path):
    return False
  try:
    with Image.open(path, formats=ANIMATIONS) as image:
      return bool(getattr(image, 'is_animated', False))
  except Exception:  # `examine` says so
    return True


@functools.cache
def pyav() -> Any:
  """Import PyAV, silence it, and return it.

  Raises:
    AbsentData: it is not installed.
  """
  try:
    import av
  except ImportError:
    raise errors.AbsentData(
      'videos other than GIF and WebP are decoded by PyAV, which is not installed; run: '
      "pip install 'bigjax[video]'"
    ) from None
  av.logging.set_level(av.logging.PANIC)
  return av


def examine(path: str) -> Facts:
  """Decode a video once, from its first frame to its last."""
  none = np.zeros(0, np.int64)
  try:
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):  # reading a named pipe never ends
      return Facts('not a file', none)
    if not about.st_size:
      return Facts('empty', none)
    if about.st_size > MOST_BYTES:
      return Facts(f'over {MOST_BYTES // 2**20} MiB', none)
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # of large pictures
      return _animation(path) if is_animation(path) else _video(path)
  except Refused as error:
    return Facts(str(error), none)
  except Image.DecompressionBombError:  # Pillow's limit is above ours
    return Facts('too many pixels', none)
  except errors.UserError:
    raise
  except Exception:  # the decoders have dozens of ways to say that a file is damaged
    return Facts('damaged', none)


def frames(path: str, places: np.ndarray, numbers: Sequence[int]) -> Iterator[np.ndarray]:
  """Yield these frames of a video, uint8 [h, w, 3], upright.

  Args:
    path: of the file.
    places: of all its frames, see Facts.
    numbers: ascending.
  Raises:
    ValueError, OSError: it is no longer what it was when it was examined.
  """
  if is_animation(path):
    with Image.open(path, formats=ANIMATIONS) as image:
      refuse(image.width, image.height)
      for number in numbers:
        image.seek(number)
        yield on_white(image)
    return
  for number, frame in _from(path, places, numbers[0]):
    if number == numbers[0]:
      yield upright(frame)
      numbers = numbers[1:]
      if not numbers:
        return
  raise ValueError('a video that has become shorter')


def refuse(width: int, height: int, before: int = 0) -> None:
  """Refuse a frame by its size, and by the number of frames that came before it.

  Raises:
    Refused: it is too large, or they are too many.
  """
  if not 0 < width * height <= MOST_PIXELS:
    raise Refused('too many pixels')
  if before > min(MOST_FRAMES, MOST_WORK // (width * height)):
    raise Refused('too many frames')


def _animation(path: str) -> Facts:
  """Facts about a GIF or a WebP."""
  shown, first = [], None
  with Image.open(path, formats=ANIMATIONS) as image:
    size = image.height, image.width
    refuse(image.width, image.height)
    try:
      while True:
        refuse(image.width, image.height, len(shown))
        image.load()
        first = on_white(image) if first is None else first
        shown.append(image.info.get('duration', 0))  # ms
        image.seek(len(shown))
    except EOFError:  # which is how Pillow says that there are no more
      pass
  seconds = sum(shown) / 1000
  rate = len(shown) / seconds if seconds > 0 else 0.0
  return Facts('', np.full(len(shown), UNTOLD), rate, size, is_grey(first))


def _video(path: str) -> Facts:
  """Facts about what FFmpeg decodes."""
  places, first = [], None
  with opened(path) as (container, stream):
    rate = float(stream.average_rate or 0)
    for frame in container.decode(stream):
      refuse(frame.width, frame.height, len(places))
      if first is None:
        first, shape = upright(frame), (frame.height, frame.width)
      if (frame.height, frame.width) != shape:
        raise Refused('frames of several sizes')
      places.append(UNTOLD if frame.pts is None else frame.pts)
  if first is None:
    raise Refused('no frame')
  places = np.array(places, np.int64)
  if UNTOLD in places or (np.diff(places) <= 0).any():
    places[:] = UNTOLD
  return Facts('', places, rate, first.shape[:2], is_grey(first))


class opened:
  """A context: (container, its first video stream) of a file, for PyAV."""

  def __init__(self, path: str):
    self.path = path

  def __enter__(self) -> tuple[Any, Any]:
    # A playlist may name any file of this machine, and addresses.
    options = {'format_whitelist': FORMATS, 'protocol_whitelist': 'file'}
    self.container = pyav().open(self.path, options=options)
    try:
      if not self.container.streams.video:
        raise Refused('no video')
      stream = self.container.streams.video[0]
      refuse(stream.width, stream.height)
      stream.codec_context.options = {'max_pixels': str(MOST_PIXELS)}
      stream.codec_context.thread_count = 1  # files are read in parallel
    except BaseException:
      self.container.close()
      raise
    return self.container, stream

  def __exit__(self, *_: Any) -> None:
    self.container.close()


def _from(path: str, places: np.ndarray, number: int) -> Iterator[tuple[int, Any]]:
  """Yield (number, frame) from one at or before `number` on."""
  if places[number] != UNTOLD and number:
    number_of = {place: i for i, place in enumerate(places.tolist())}
    with opened(path) as (container, stream):
      container.seek(int(places[number]), stream=stream)
      ahead = False
      for frame in container.decode(stream):
        found = number_of.get(frame.pts, number + 1)
        ahead = ahead or found <= number
        if not ahead:  # an index that leads behind it: count instead
          break
        yield found, frame
      else:
        return
  with opened(path) as (container, stream):
    yield from enumerate(container.decode(stream))


def upright(frame: Any) -> np.ndarray:
  """A frame of PyAV's as uint8 [h, w, 3], turned as the camera was held."""
  turns = round(getattr(frame, 'rotation', 0) / 90) % 4
  return np.rot90(frame.to_ndarray(format='rgb24'), turns)


def on_white(image: Image.Image) -> np.ndarray:
  """The present picture of Pillow's as uint8 [h, w, 3], where it is transparent on white."""
  picture = np.asarray(image.convert('RGBA'))
  alpha = picture[..., 3:].astype(np.uint16)
  return ((picture[..., :3] * alpha + (255 * (255 - alpha) + 127)) // 255).astype(np.uint8)


def is_grey(frame: np.ndarray) -> bool:
  return bool((frame == frame[..., :1]).all())


def square(
  frame: np.ndarray, resolution: int, channels: int, chance: int | None = None, fit: str = 'crop'
) -> np.ndarray:
  """uint8 [h, w, 3] as [resolution, resolution, channels]: what `decode.square` does, in NumPy.

  Args:
    frame: of a video.
    resolution: of the result, in pixels.
    channels: 1 (grey) or 3 (colour).
    chance: where along the long edge to cut; None cuts in the middle.
    fit: as of `decode.square`.
  """
  height, width = frame.shape[:2]
  size, room = min(height, width), abs(height - width)
  if fit == 'crop':
    at = room // 2 if chance is None else chance % (room + 1)
    top, left = (at, 0) if height > width else (0, at)
    frame = frame[top : top + size, left : left + size]
  if channels == 1:
    grey = frame.astype(np.int32) @ [19595, 38470, 7471] + 0x8000 >> 16
    frame = grey.astype(np.uint8)[..., None]
  if fit != 'pad':
    return resized(frame, resolution, resolution)
  longest = max(height, width)
  edges = [max((2 * edge * resolution + longest) // (2 * longest), 1) for edge in (height, width)]
  bars = [((resolution - edge) // 2, (resolution - edge + 1) // 2) for edge in edges]
  return np.pad(resized(frame, *edges), [*bars, (0, 0)])


def resized(frame: np.ndarray, height: int, width: int) -> np.ndarray:
  """uint8 [h, w, C] at a height and width: averaged along edges that shrink, then enlarged."""
  given, channels = frame.shape[:2], frame.shape[2]
  least = min(given[0], height), min(given[1], width)
  if least != given:
    rows = area(given[0], least[0]) @ frame.reshape(given[0], -1).astype(np.float32)
    rows = rows.reshape(least[0], given[1], channels)
    mean = np.einsum('js,isc->ijc', area(given[1], least[1]), rows, optimize=True)
    frame = np.floor(mean + 0.5).astype(np.uint8)
  if least == (height, width):
    return frame
  picture = Image.fromarray(frame if channels == 3 else frame[..., 0])
  picture = picture.resize((width, height), Image.Resampling.BICUBIC)
  return np.asarray(picture).reshape(height, width, channels)


@functools.lru_cache(64)
def area(size: int, resolution: int) -> np.ndarray:
  """Weights float32 [resolution, size] of the means over equal parts of a side of `size` pixels."""
  ends = np.arange(resolution + 1) * size / resolution
  pixel = np.arange(size)
  shared = np.minimum(ends[1:, None], pixel + 1) - np.maximum(ends[:-1, None], pixel)
  return (np.maximum(shared, 0) * resolution / size).astype(np.float32)
