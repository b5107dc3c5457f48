"""Pictures that mean harm or are merely odd, and what becomes of each."""

import struct
import zlib

import numpy as np
from PIL import Image

from pictures import encoded, smooth


def png_of_zeros(width, height, colour, extra=b''):
  """The bytes of a PNG of zeros of 8 bits: 1 kB for each of its MB, made without holding them."""
  size = height * (1 + width * {0: 1, 2: 3, 6: 4}[colour])
  pack = zlib.compressobj(9, wbits=-15)
  block = pack.compress(bytes(2**20)) + pack.flush(zlib.Z_FULL_FLUSH)
  rest = zlib.compressobj(9, wbits=-15)
  body = b'\x78\xda' + block * (size // 2**20) + rest.compress(bytes(size % 2**20)) + rest.flush()
  body += struct.pack('>I', size % 65521 << 16 | 1)  # Adler's sum of zeros
  header = struct.pack('>IIBBBBB', width, height, 8, colour, 0, 0, 0)
  return b'\x89PNG\r\n\x1a\n' + extra + b''.join(
    struct.pack('>I', len(given)) + kind + given + struct.pack('>I', zlib.crc32(kind + given))
    for kind, given in ((b'IHDR', header), (b'IDAT', body), (b'IEND', b''))
  )  # fmt: skip


def jpeg_with_size(height, width):
  """A JPEG whose header says so, with the data of a small one."""
  given = encoded(smooth(16, 16), 'JPEG')
  at = given.index(b'\xff\xc0') + 5
  return given[:at] + struct.pack('>HH', height, width) + given[at + 4 :]


def jpeg_of_scans(size, num):
  """A progressive JPEG that goes over its picture `num` times more than it has to."""
  given = encoded(Image.new('L', (size, size), 77), 'JPEG', progressive=True)
  last = given.rindex(b'\xff\xda')
  return given[:-2] + given[last:-2] * num + b'\xff\xd9'


def webp_with_size(kind, width, height):
  """A WebP whose header says so, in each of its three kinds."""
  if kind == b'VP8L':
    given = encoded(smooth(16, 16), 'WEBP', lossless=True)
    return given[:21] + struct.pack('<I', (width - 1) | (height - 1) << 14) + given[25:]
  if kind == b'VP8 ':
    given = encoded(smooth(16, 16), 'WEBP')
    return given[:26] + struct.pack('<HH', width, height) + given[30:]
  given = moving('WEBP', 'RGB')
  extent = [struct.pack('<I', side - 1)[:3] for side in (width, height)]
  return given[:24] + b''.join(extent) + given[30:]


def moving(kind, mode):
  """An animation of three shades, 40 first."""
  frames = [Image.new(mode, (12, 12), (level,) * len(mode)) for level in (40, 140, 240)]
  if mode == 'RGBA':
    for frame in frames:
      frame.putalpha(255)
      frame.putpixel((0, 0), (0, 0, 0, 0))  # or it would be kept without alpha
  return encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)


def grey(level, kind='PNG', mode='RGB'):
  """A picture of one shade."""
  return encoded(Image.new(mode, (12, 12), (level,) * len(mode)), kind)


LEFT = 'left out'
CUT = {kind: encoded(smooth(40, 40), kind)[:400] for kind in ('JPEG', 'PNG', 'WEBP')}
CUT_GIF = encoded(smooth(40, 40).quantize(64), 'GIF')[:900]
HOSTILE = {  # name: (content, what becomes of it: its shade, LEFT, or the reason for that)
  'wide.png': (png_of_zeros(30_000, 30_000, 0), 'too many pixels'),
  'bomb.png': (png_of_zeros(16_000, 16_000, 0), 'too many pixels'),  # TensorFlow would decode it
  'head.png': (png_of_zeros(16_000, 16_000, 0, b'\0\0\0\0abCd' + struct.pack('>I', 0)), LEFT),
  '65000.png': (png_of_zeros(65_000, 65_000, 2)[:5000], 'too many pixels'),
  '65000.jpg': (jpeg_with_size(65_000, 65_000), 'too many pixels'),
  '12000.jpg': (jpeg_with_size(12_000, 12_000), 'too many pixels'),
  '16383l.webp': (webp_with_size(b'VP8L', 16_383, 16_383), 'too many pixels'),
  '16383.webp': (webp_with_size(b'VP8 ', 16_383, 16_383), 'too many pixels'),
  'canvas.webp': (webp_with_size(b'VP8X', 60_000, 60_000), 'too many pixels'),
  'half.webp': (webp_with_size(b'VP8X', 9000, 9000), LEFT),  # of an animation, half of the limit
  'scans.jpg': (jpeg_of_scans(2000, 2200), 'too many scans'),
  'cut.jpg': (CUT['JPEG'], LEFT),
  'cut.png': (CUT['PNG'], LEFT),
  'cut.webp': (CUT['WEBP'][:300], LEFT),
  'empty.png': (b'', 'empty'),
  'text.png': (b'no picture\n' * 99, LEFT),
  'bitmap.png': (grey(40, 'BMP'), LEFT),
  'still.gif.png': (grey(40, 'GIF'), 40),
  'tiff.jpg': (grey(40, 'TIFF'), LEFT),
  'cut.gif': (CUT_GIF, LEFT),
  'huge.gif': (b'GIF89a' + b'\xff' * 4 + grey(40, 'GIF')[10:], 'too many pixels'),
  'riff.webp': (b'RIFF\xff\xff\xff\xffWAVEfmt ' + bytes(99), LEFT),
  'raw.webp': (b'R\0\0\x9d\x01\x2a\xff\x3f\xff\x3f' + bytes(99), LEFT),  # VP8 without a RIFF
  'png.jpg': (grey(40), 40),
  'jpeg.webp': (grey(40, 'JPEG'), 40),
  'webp.png': (grey(40, 'WEBP'), 40),
  'moving.webp': (moving('WEBP', 'RGB'), 40),  # at which TensorFlow's decoder ends the process
  'moving alpha.webp': (moving('WEBP', 'RGBA'), 41),  # one of its 144 pixels is white
  'moving.png': (moving('PNG', 'RGB'), 40),
  'moving.gif.webp': (moving('GIF', 'RGB'), 40),
  'cmyk.jpg': (encoded(Image.new('CMYK', (12, 12), (0, 0, 0, 215)), 'JPEG'), 40),
  '16 bits.png': (encoded(Image.fromarray(np.full((12, 12), 40 * 257, np.uint16))), 40),
  'line\nbreak.png': (grey(40), 40),
  'line\nbreak \x1b[31m.png': (b'no', LEFT),
  '..png': (grey(40), None),  # hidden
  'x\\..\\..\\up.png': (grey(40), 40),
  'gs:.png': (grey(40), 40),
}
