"""Films into files: animated WebP, PNG (both exact) and GIF by Pillow, MP4 by PyAV.

A film is a sequence of pictures of one size that are shown for equal times, again and again. A file
is written whole or not at all.
"""

import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from bigjax.core import errors, files

RATE = 8.0  # frames per second where nothing says how many
COLOURS = 256  # of a GIF
LOOKED_AT = 2**22  # pixels of a film, at most, that its colours are chosen by where it has more
STREAMED = ('.webp', '.mp4')  # endings of files whose pictures need not be in memory together
WEBP = {'lossless': True, 'method': 3}  # half as large as by 0, the default; 6 gains no more
H264 = {'crf': '12', 'preset': 'slow'}  # hardly any loss
FAST_START = {'movflags': '+faststart'}  # so that it plays while it loads


def frame_rate(card: Mapping[str, Any]) -> float:
  """Frames per second of a generator's clips: what its card says, or RATE."""
  return float(card.get('frame_rate', 0) or RATE)


def durations(num: int, rate: float, per_second: int) -> list[int]:
  """How long each picture is shown, in parts of a second that add up to what all take."""
  ends = [round(i * per_second / rate) for i in range(num + 1)]
  return [max(1, end - start) for start, end in itertools.pairwise(ends)]


def save(pictures: Iterable[Image.Image], rate: float, path: str, num: int | None = None) -> None:
  """Write a film as what the path's ending says.

  Args:
    pictures: of one size, grey or in colour; those of STREAMED are taken one at a time.
    rate: pictures per second.
    path: ends in one of options.FILMS; its folder is there.
    num: how many pictures; None: they are taken all at once, and counted.
  Raises:
    UserError: PyAV is not installed.
  """
  ending = os.path.splitext(path)[1].lower()
  save_as = {'.webp': _save_webp, '.gif': _save_gif, '.mp4': _save_mp4, '.apng': _save_apng}[ending]
  if num is None:
    pictures = list(pictures)
    num = len(pictures)
  save_as(pictures, num, rate, path)


class _Reel(Image.Image):
  """Pictures as one image of several frames, which are taken when an encoder asks for them."""

  def __init__(self, pictures: Iterable[Image.Image], num: int):
    super().__init__()
    self.n_frames = num
    self._pictures, self._at = iter(pictures), -1
    self.seek(0)

  def seek(self, frame: int) -> None:
    while self._at < frame:
      picture = next(self._pictures).convert('RGB')
      self._at += 1
      self.im, self._mode, self._size = picture.im, picture.mode, picture.size

  def tell(self) -> int:
    return self._at


def _save_webp(pictures: Iterable[Image.Image], num: int, rate: float, path: str) -> None:
  times = durations(num, rate, 1000)
  with files.whole(path) as file:
    reel = _Reel(pictures, num)
    reel.save(file, 'webp', save_all=True, duration=times, loop=0, **WEBP)


def _save_apng(pictures: Iterable[Image.Image], num: int, rate: float, path: str) -> None:
  first, *others = pictures
  times = durations(num, rate, 1000)
  with files.whole(path) as file:
    first.save(file, 'png', save_all=True, append_images=others, duration=times, loop=0)


def _save_gif(pictures: Iterable[Image.Image], num: int, rate: float, path: str) -> None:
  """GIF counts hundredths of a second, and viewers show a picture for two of them at least."""
  first, *others = indexed(list(pictures))
  times = [10 * max(2, time) for time in durations(num, rate, 100)]
  with files.whole(path) as file:
    first.save(file, 'gif', save_all=True, append_images=others, duration=times, loop=0)


def indexed(pictures: Sequence[Image.Image]) -> list[Image.Image]:
  """The same pictures with one palette: exactly, where all have COLOURS colours or fewer.

  Else the colours are those of median cut, of LOOKED_AT pixels in even steps at most, without
  dithering, so that what stands still does. One picture at a time is in memory as more than it is.
  """
  colours = np.empty(0, np.int32)
  for picture in pictures:
    colours = np.union1d(colours, _codes(picture))
    if len(colours) > COLOURS:
      return _quantized(pictures)
  shares = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1).astype(np.uint8)
  found = []
  for picture in pictures:
    found.append(Image.fromarray(np.searchsorted(colours, _codes(picture)).astype(np.uint8)))
    found[-1].putpalette(shares.tobytes())
  return found


def _codes(picture: Image.Image) -> np.ndarray:
  """The colours of pixels as numbers, int32 [H, W]."""
  shares = np.asarray(picture.convert('RGB')).astype(np.int32)
  return shares @ np.array([1 << 16, 1 << 8, 1], np.int32)


def _quantized(pictures: Sequence[Image.Image]) -> list[Image.Image]:
  """Pictures in the colours of one palette that is near to all of theirs."""
  width, height = pictures[0].size
  step = math.ceil(math.sqrt(len(pictures) * width * height / LOOKED_AT))
  thin = [np.asarray(picture.convert('RGB'))[::step, ::step].copy() for picture in pictures]
  palette = Image.fromarray(np.concatenate(thin)).quantize(COLOURS)
  return [
    picture.convert('RGB').quantize(palette=palette, dither=Image.Dither.NONE)
    for picture in pictures
  ]


def _save_mp4(pictures: Iterable[Image.Image], num: int, rate: float, path: str) -> None:
  """H.264 halves its colours along both sides, which therefore are even: edges are repeated."""
  errors.need(path, 'video', 'av')
  import av
  from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

  del num
  pictures = iter(pictures)
  first = next(pictures)
  width, height = first.size
  padding = ((0, height % 2), (0, width % 2), (0, 0))
  with files.whole(path) as file, av.open(file.name, 'w', format='mp4', options=FAST_START) as out:
    stream = out.add_stream('libx264', Fraction(rate).limit_denominator(1000), options=H264)
    stream.width, stream.height = width + width % 2, height + height % 2
    stream.pix_fmt = 'yuv420p'
    # What the colours mean is written down, so that players agree.
    about = stream.codec_context
    about.color_range, about.colorspace = ColorRange.MPEG, Colorspace.ITU709
    about.color_primaries, about.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    for picture in itertools.chain([first], pictures):
      pixels = np.pad(np.asarray(picture.convert('RGB')), padding, mode='edge')
      frame = av.VideoFrame.from_ndarray(pixels, 'rgb24')
      frame = frame.reformat(
        format='yuv420p', dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
      )
      out.mux(stream.encode(frame))
    out.mux(stream.encode())
