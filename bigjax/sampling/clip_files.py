"""Films into files: animated WebP (lossless) and GIF by Pillow, MP4 by ffmpeg; whole or not at all.

A film is a sequence of pictures of one size that are shown for equal times, again and again.
"""

import itertools
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from bigjax.core import errors, files
from bigjax.sampling.options import FILMS

RATE = 8.0  # frames per second where nothing says how many
COLOURS = 256  # of a GIF
H264 = (  # hardly any loss, and what the colours mean written down, so that players agree
  '-f', 'mp4', '-c:v', 'libx264', '-pix_fmt', 'yuv420p', '-crf', '12', '-preset', 'slow',
  '-movflags', '+faststart', '-vf', 'scale=out_color_matrix=bt709:out_range=tv,setparams='
  'range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709',
)  # fmt: skip


def check(out: str, ending: str, shape: tuple[int, ...]) -> None:
  """Refuse a film of a generator of still images.

  Args:
    out, ending: what is to be written.
    shape: of a sample.
  Raises:
    UserError: it is one.
  """
  if ending in FILMS and len(shape) != 4:
    raise errors.UserError(
      f'--out={out} is a film, and this generator makes still images: give a name that ends in '
      '.png or .npz, or a folder.'
    )


def frame_rate(card: Mapping[str, Any]) -> float:
  """Frames per second of a generator's clips: what its card says, or RATE."""
  return float(card.get('frame_rate', 0) or RATE)


def durations(num: int, rate: float, per_second: int) -> list[int]:
  """How long each picture is shown, in parts of a second that add up to what all take."""
  ends = [round(i * per_second / rate) for i in range(num + 1)]
  return [max(1, end - start) for start, end in itertools.pairwise(ends)]


def save(pictures: Sequence[Image.Image], rate: float, path: str) -> None:
  """Write a film as what the path's ending says.

  Args:
    pictures: of one size, grey or in colour.
    rate: frames per second.
    path: ends in one of FILMS; its folder is there.
  Raises:
    UserError: ffmpeg is not installed, or does not write it.
  """
  ending = os.path.splitext(path)[1].lower()
  {'.webp': _save_webp, '.gif': _save_gif, '.mp4': _save_mp4}[ending](pictures, rate, path)


def _save_webp(pictures: Sequence[Image.Image], rate: float, path: str) -> None:
  first, *others = [picture.convert('RGB') for picture in pictures]
  times = durations(len(pictures), rate, 1000)
  with files.whole(path) as file:
    first.save(
      file, 'webp', save_all=True, append_images=others, duration=times, loop=0, lossless=True
    )


def _save_gif(pictures: Sequence[Image.Image], rate: float, path: str) -> None:
  """GIF counts hundredths of a second, and viewers show a picture for two of them at least."""
  first, *others = indexed(pictures)
  times = [10 * max(2, time) for time in durations(len(pictures), rate, 100)]
  with files.whole(path) as file:
    first.save(file, 'gif', save_all=True, append_images=others, duration=times, loop=0)


def indexed(pictures: Sequence[Image.Image]) -> list[Image.Image]:
  """The same pictures with one palette: exactly, where all have COLOURS colours or fewer.

  Else the colours are those of median cut, without dithering, so that what stands still does.
  """
  tall = np.concatenate([np.asarray(picture.convert('RGB')) for picture in pictures])
  codes = tall.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
  colours = np.unique(codes)
  if len(colours) <= COLOURS:
    whole = Image.fromarray(np.searchsorted(colours, codes).astype(np.uint8))
    shares = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1)
    whole.putpalette(shares.astype(np.uint8).tobytes())
  else:
    whole = Image.fromarray(tall).quantize(COLOURS, dither=Image.Dither.NONE)
  width, height = pictures[0].size
  return [
    whole.crop((0, top, width, top + height)) for top in range(0, height * len(pictures), height)
  ]


def _save_mp4(pictures: Sequence[Image.Image], rate: float, path: str) -> None:
  """H.264 halves its colours along both sides, which therefore are even: edges are repeated.

  The program is run without imageio-ffmpeg's own function, which forks in Python beside JAX's
  threads.
  """
  errors.need(path, 'video', 'imageio_ffmpeg')
  import imageio_ffmpeg

  width, height = pictures[0].size
  padding = ((0, height % 2), (0, width % 2), (0, 0))
  size = f'{width + width % 2}x{height + height % 2}'
  frames = (np.pad(np.asarray(one.convert('RGB')), padding, mode='edge') for one in pictures)
  with files.whole(path) as file:
    given = ('-f', 'rawvideo', '-pix_fmt', 'rgb24', '-s', size, '-r', f'{rate:.6f}', '-i', '-')
    out = os.path.abspath(file.name)  # a name with a colon would be a protocol
    command = [imageio_ffmpeg.get_ffmpeg_exe(), '-y', '-v', 'error', *given, *H264, out]
    data = b''.join(frame.tobytes() for frame in frames)
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    if done.returncode:
      said = ' '.join(done.stderr.decode(errors='replace').split())
      raise errors.UserError(f'{path} cannot be written: ffmpeg says {said[-300:]!r}.')
