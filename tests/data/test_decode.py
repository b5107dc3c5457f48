"""Pictures as bytes -> square uint8 images: against Pillow, closed forms and exact averages."""

import functools
import io
import struct
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from bigjax import data
from bigjax.algorithms.base import player
from bigjax.core import parallel
from bigjax.data.reading import decode as decode_lib
from bigjax.nn.latents import SamplingSpec
from bigjax.sampling.sampler import Sampler

from pictures import encoded, noise, smooth, square


def png(values, bits, colour, *chunks):
  """The bytes of a PNG that Pillow cannot write: integers [h, w, c] of so many bits."""
  height, width, _ = values.shape
  digits = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1  # the highest first
  rows = np.packbits(digits.reshape(height, -1).astype(np.uint8), axis=1)
  header = struct.pack('>IIBBBBB', width, height, bits, colour, 0, 0, 0)
  body = zlib.compress(b''.join(b'\0' + row.tobytes() for row in rows))
  out = b'\x89PNG\r\n\x1a\n'
  for kind, given in ((b'IHDR', header), *chunks, (b'IDAT', body), (b'IEND', b'')):
    out += struct.pack('>I', len(given)) + kind + given
    out += struct.pack('>I', zlib.crc32(kind + given))
  return out


@functools.cache
def decoder():
  """As tf.data runs it: in a graph, where shapes are not known."""
  tf = data.tensorflow()
  return tf.function(
    lambda *given: decode_lib.decode(tf, *given),
    input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int32)],
    autograph=False,
  )


def decode(given, orientation=1):
  image = decoder()(given, np.int32(orientation)).numpy()
  assert image.dtype == np.uint8
  return image.astype(int)


def by_pillow(given):
  """What Pillow reads, laid on white, [h, w, 3]."""
  image = Image.open(io.BytesIO(given))
  if image.mode == 'CMYK':
    return np.asarray(image.convert('RGB')).astype(int)
  image = image.convert('RGBA')
  white = Image.new('RGBA', image.size, 'white')
  return np.asarray(Image.alpha_composite(white, image).convert('RGB')).astype(int)


@pytest.mark.parametrize(
  ('mode', 'options', 'bar'),
  [
    ('L', {}, 0),
    ('RGB', {'subsampling': 0}, 0),
    ('RGB', {'subsampling': 2}, 0),
    ('RGB', {'subsampling': 2, 'progressive': True}, 0),
    # CMY times K is rounded by one and cut off by the other.
    ('CMYK', {}, 1),
  ],
)
def test_jpeg(mode, options, bar):
  given = encoded(smooth(37, 53, mode), 'JPEG', quality=90, **options)
  image = decode(given)
  assert image.shape == (37, 53, 3) and np.ptp(image) > 100
  assert abs(image - by_pillow(given)).max() <= bar


@pytest.mark.parametrize('orientation', range(1, 9))
def test_every_way_to_hold_a_camera(orientation):
  exif = Image.Exif()
  exif[274] = orientation
  given = encoded(smooth(24, 40), 'JPEG', exif=exif, quality=95)
  expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(given)))).astype(int)
  assert expected.shape == ((24, 40, 3) if orientation < 5 else (40, 24, 3))
  np.testing.assert_array_equal(decode(given, orientation), expected)


def palette(num):
  return Image.fromarray(noise(20, 20)).quantize(num)


RED = (255, 0, 0)
PNGS = {
  'grey': lambda: encoded(smooth(9, 11, 'L')),
  'grey and alpha': lambda: encoded(smooth(9, 11, 'LA')),
  'colour': lambda: encoded(smooth(9, 11)),
  'colour and alpha': lambda: encoded(smooth(9, 11, 'RGBA')),
  'a transparent grey': lambda: encoded(smooth(9, 11, 'L'), transparency=120),
  'a transparent colour': lambda: encoded(Image.new('RGB', (9, 9), 'red'), transparency=RED),
  'black and white': lambda: encoded(Image.fromarray(noise(9, 11)[..., 0] > 127)),
  'grey of 2 bits': lambda: png(noise(9, 12, 1) >> 6, 2, 0),
  'grey of 4 bits': lambda: png(noise(9, 12, 1) >> 4, 4, 0),
  '2 colours': lambda: encoded(palette(2)),
  '4 colours': lambda: encoded(palette(4)),
  '16 colours': lambda: encoded(palette(16)),
  '256 colours': lambda: encoded(palette(256)),
  '16 colours, one transparent': lambda: encoded(palette(16), transparency=3),
  '16 colours with alpha': lambda: encoded(palette(16), transparency=bytes(range(0, 256, 17))),
  '256 colours with alpha': lambda: encoded(palette(256), transparency=bytes(range(256))),
}


@pytest.mark.parametrize('kind', PNGS)
def test_png(kind):
  given = PNGS[kind]()
  np.testing.assert_array_equal(decode(given), by_pillow(given))


def test_png_of_4_bits_and_a_transparent_grey():
  """As the standard says; Pillow takes the transparent level for one of 8 bits."""
  values = noise(9, 12, 1) >> 4
  expected = np.where(values == 7, 255, values * 17).repeat(3, axis=-1)
  np.testing.assert_array_equal(decode(png(values, 4, 0, (b'tRNS', b'\0\7'))), expected)


@pytest.mark.parametrize(('colour', 'channels'), [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_png_of_16_bits(colour, channels):
  """The upper 8 are kept, and 0.5 is rounded up where they are laid on white."""
  values = np.random.RandomState(colour).randint(0, 2**16, (9, 11, channels))
  high = values >> 8
  shown = np.broadcast_to(high[..., : 3 if channels > 2 else 1], (9, 11, 3))
  alpha = high[..., -1:] if channels in (2, 4) else np.full((9, 11, 1), 255)
  expected = np.floor((shown * alpha + 255 * (255 - alpha)) / 255 + 0.5)
  np.testing.assert_array_equal(decode(png(values, 16, colour)), expected)


@pytest.mark.parametrize(
  ('mode', 'options'),
  [
    ('RGB', {'lossless': True}),
    ('RGBA', {'lossless': True, 'exact': True}),
    ('RGB', {'quality': 80}),
    ('RGBA', {'quality': 80}),
  ],
)
def test_webp(mode, options):
  given = encoded(smooth(24, 31, mode), 'WEBP', **options)
  np.testing.assert_array_equal(decode(given), by_pillow(given))


def test_white_shows_through_in_proportion():
  """Black of opacity a is 255 - a, in every format that has an alpha."""
  black = np.zeros((16, 16, 4), np.uint8)
  black[..., 3] = np.arange(256).reshape(16, 16)
  image = Image.fromarray(black)
  for given in (encoded(image), encoded(image, 'WEBP', lossless=True, exact=True)):
    np.testing.assert_array_equal(decode(given)[..., 1], 255 - black[..., 3])


def test_what_is_no_picture_is_refused():
  tf = data.tensorflow()
  whole = [encoded(smooth(40, 40), kind) for kind in ('JPEG', 'PNG', 'WEBP')]
  for given in (b'', b'Rest', b'\x89', b'hello', *(w[: len(w) // 2] for w in whole)):
    with pytest.raises(tf.errors.InvalidArgumentError):
      decode(given)


# The crop: T45.


def mesh(height, width):
  """A picture whose pixels say where they are, exactly: x and y of up to 4,095."""
  y, x = np.indices((height, width))
  return np.stack([x % 256, y % 256, x // 256 * 16 + y // 256], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
  ('shape', 'top', 'left'),
  [((375, 500), 0, 62), ((500, 375), 62, 0), ((4, 7), 0, 1), ((7, 4), 1, 0), ((6, 6), 0, 0)],
)
def test_the_centre_of_the_long_edge_is_kept(shape, top, left):
  """A 500 x 375 photo becomes 375 x 375 pixels of its own, none of them beyond its edge."""
  image, size = mesh(*shape), min(shape)
  expected = image[top : top + size, left : left + size]
  assert expected.shape == (size, size, 3)
  np.testing.assert_array_equal(square(image, size), expected)


@pytest.mark.parametrize('shape', [(40, 53), (53, 40)])
def test_a_random_crop_is_anywhere_on_the_long_edge(shape):
  image = mesh(*shape)
  seen = [square(image, 40, 3, chance) for chance in range(14)]
  for at, crop in enumerate(seen):
    top, left = (at, 0) if shape[0] > shape[1] else (0, at)
    np.testing.assert_array_equal(crop, image[top : top + 40, left : left + 40])
  for chance in (14, 2**33 + 5, 2**62 - 1):
    np.testing.assert_array_equal(square(image, 40, 3, chance), seen[chance % 14])
  np.testing.assert_array_equal(square(image[:40, :40], 40, 3, 9), image[:40, :40])


# The resize: T47.


def averages(image, resolution):
  """The exact means over the area of each new pixel, [resolution, resolution, C]."""
  size = len(image)
  new, old = np.arange(resolution)[:, None], np.arange(size)
  shared = np.minimum((new + 1) * size, (old + 1) * resolution)
  shared = (shared - np.maximum(new * size, old * resolution)).clip(0)  # in 1 / resolution pixels
  assert (shared.sum(1) == size).all()
  return np.einsum('ia,jb,abc->ijc', shared, shared, image.astype(int), optimize=True) / size**2


@pytest.mark.parametrize('times', [2, 4, 8])
@pytest.mark.parametrize('brightest', [254, 255])
def test_a_checkerboard_becomes_uniform_grey(times, brightest):
  board = np.indices((64, 64)).sum(0) % 2 * brightest
  image = np.repeat(board[..., None], 3, axis=-1).astype(np.uint8)
  expected = np.full((64 // times, 64 // times, 3), (brightest + 1) // 2)
  np.testing.assert_array_equal(square(image, 64 // times), expected)


@pytest.mark.parametrize(('size', 'resolution'), [(8, 4), (27, 9), (5, 1), (6, 6), (512, 64)])
def test_whole_ratios_average_exactly(size, resolution):
  image = noise(size, size)
  expected = np.floor(averages(image, resolution) + 0.5)
  np.testing.assert_array_equal(square(image, resolution), expected)


@pytest.mark.parametrize(
  ('size', 'resolution'), [(3, 2), (7, 5), (28, 16), (50, 7), (65, 64), (375, 128), (500, 256)]
)
@pytest.mark.parametrize('channels', [1, 3])
def test_fractional_ratios_average_the_area(size, resolution, channels):
  """To the nearest level, but for float32: within 0.501 of the mean."""
  image = noise(size, size)
  shown = np.asarray(Image.fromarray(image).convert('L'))[..., None] if channels == 1 else image
  difference = square(image, resolution, channels) - averages(shown, resolution)
  assert abs(difference).max() < 0.501


def test_reducing_by_hand():
  """Of 0, 90, 30 the first half is 0 and half of 90, the other half of 90 and 30."""
  image = np.tile(np.array([0, 90, 30], np.uint8), (3, 1))[..., None].repeat(3, axis=-1)
  np.testing.assert_array_equal(square(image, 2)[..., 0], [[30, 50], [30, 50]])


def cubic(size, resolution):
  """Weights [resolution, size] of Keys' cubic convolution (a = -1/2) between pixel centres."""
  at = (np.arange(resolution)[:, None] + 0.5) * size / resolution - 0.5
  x = abs(at - np.arange(size))
  near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
  weights = np.where(x <= 1, near, np.where(x < 2, far, 0))
  return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(('size', 'resolution'), [(5, 9), (3, 64), (8, 16), (1, 4), (100, 128)])
def test_enlarging_is_bicubic(size, resolution):
  image, weights = noise(size, size), cubic(size, resolution)
  expected = np.einsum('ia,jb,abc->ijc', weights, weights, image, optimize=True).clip(0, 255)
  assert abs(square(image, resolution) - expected).max() < 0.75


def test_grey_is_the_luma():
  """ITU-R 601: 0.299, 0.587, 0.114, to the nearest."""
  colours = np.zeros((2, 2, 3), np.uint8)
  colours[0, 0, 0] = colours[0, 1, 1] = colours[1, 0, 2] = 255
  np.testing.assert_array_equal(square(colours, 2, 1)[..., 0], [[76, 150], [29, 0]])
  image = noise(64, 64)
  expected = np.asarray(Image.fromarray(image).convert('L'))
  np.testing.assert_array_equal(square(image, 64, 1)[..., 0], expected)


def test_luma_of_grey_is_that_grey():
  grey = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
  np.testing.assert_array_equal(square(grey.repeat(3, axis=-1), 16, 1), grey)


# There and back: T46.


class Mirror:
  """A 'generator' whose images are its latents."""

  dialects = ()

  def generate(self, gen, z, y, how):
    del gen, y, how
    return z


@pytest.mark.parametrize('channels', [1, 3])
def test_all_levels_come_back(channels):
  """Of a file, through [-1, 1] as the networks see it, to the images that sample.py writes."""
  levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
  given = decode(encoded(Image.fromarray(levels))).astype(np.uint8)
  image = square(given, 16, channels)[None]
  seen = player.to_float(jnp.asarray(image))
  assert seen.dtype == jnp.float32 and float(seen.min()) == -1 and float(seen.max()) == 1
  assert abs(np.diff(np.unique(seen)) - 2 / 255).max() < 1e-6
  sampler = Sampler(Mirror(), parallel.make_mesh(jax.devices()[:1]))
  back = sampler.images({}, np.asarray(seen), np.zeros(1, np.int32), SamplingSpec())
  assert back.dtype == np.uint8
  np.testing.assert_array_equal(back, np.repeat(levels[None, ..., None], channels, axis=-1))
