"""What an image file says before it is decoded: how the camera was held, or why it is left alone.

Nothing here reads a pixel. What is left alone would cost hours or all memory, or is not a file.
"""

import io
import os
import stat
import warnings
from typing import BinaryIO

from PIL import Image

from bigjax.data.reading import decode

ORIENTATION = 274  # EXIF's tag
MOST_BYTES = 2**29  # of a file
MOST_WORK = 2**33  # pixels times scans: ten seconds. A thousand scans of a JPEG fit in 100 kB.
FORMATS = ('JPEG', 'PNG', 'WEBP', 'GIF')


def examine(path: str) -> tuple[int, str]:
  """Return EXIF's orientation, 1..8 (1 if not said), and why not to decode the file, or ''."""
  try:
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):  # reading a named pipe never ends
      return 1, 'not a file'
    if not about.st_size:
      return 1, 'empty'
    if about.st_size > MOST_BYTES:
      return 1, f'over {MOST_BYTES // 2**20} MiB'
    with open(path, 'rb') as file:
      return _of_file(file)
  except OSError:
    return 1, ''  # which the decoder fails at too


def examine_bytes(given: bytes) -> tuple[int, str]:
  """As `examine`, of the bytes of a file."""
  return _of_file(io.BytesIO(given)) if given else (1, 'empty')


def _of_file(file: BinaryIO) -> tuple[int, str]:
  orientation, pixels = _header(file)
  if pixels > decode.MOST_PIXELS:
    return 1, 'too many pixels'
  if pixels * _num_scans(file) > MOST_WORK:
    return 1, 'too many scans'
  return orientation, ''


def _header(file: BinaryIO) -> tuple[int, int]:
  """Return the orientation and the number of pixels; 1 and the most where it cannot be told."""
  pixels = decode.MOST_PIXELS
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # of large pictures, damaged EXIF
      with Image.open(file, formats=FORMATS) as image:
        pixels = image.width * image.height
        # Not a PNG's own, which decodes all of the picture to look for EXIF behind it.
        given = Image.Image.getexif(image).get(ORIENTATION, 1)
  except Image.DecompressionBombError:
    return 1, decode.MOST_PIXELS + 1  # Pillow's limit is a little above ours
  except Exception:  # whether it can be read at all is for the decoder to say
    return 1, pixels
  return (given if given in range(1, 9) else 1), pixels


def _num_scans(file: BinaryIO) -> int:
  """Return how often a decoder goes over the picture, at most: 1 unless it is a JPEG in scans."""
  file.seek(0)
  if file.read(2) != b'\xff\xd8' or _in_one_scan(file):
    return 1
  file.seek(0)
  return max(file.read(MOST_BYTES).count(b'\xff\xda'), 1)


def _in_one_scan(file: BinaryIO) -> bool:
  """Return whether a JPEG is of one scan for sure, from its segments up to the first scan."""
  components = None
  while len(head := file.read(4)) == 4 and head[0] == 0xFF:
    size = int.from_bytes(head[2:], 'big') - 2
    if size < 0:
      return False
    if head[1] == 0xDA:
      return components is not None and file.read(1)[:1] == components
    if head[1] in (0xC0, 0xC1):
      components = file.read(6)[5:]
      size -= 6
    elif 0xC2 <= head[1] <= 0xCF and head[1] not in (0xC4, 0xC8, 0xCC):
      return False  # progressive, or what no decoder here reads
    file.seek(size, os.SEEK_CUR)
  return False
