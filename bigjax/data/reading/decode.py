"""JPEG, PNG, WebP and GIF bytes -> square uint8 images, as TensorFlow operations for tf.data.

Most functions take the TensorFlow module first: data.tensorflow() alone imports it. The size that a
header states is checked before anything is decoded: a few kB may otherwise become many GB.
"""

import functools
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

MOST_PIXELS = 2**27  # of a picture, 11,585 x 11,585; which takes 2 GiB for a moment


def decode(tf: Any, encoded: Any, orientation: Any) -> Any:
  """Return the picture in these bytes as uint8 [h, w, 3], upright.

  Of 16 bits the upper 8 are kept, CMYK becomes RGB, what is transparent lies on white, and of an
  animation the first picture is taken. What is none of the four formats, damaged, or larger than
  MOST_PIXELS is an error of TensorFlow's.

  Args:
    tf: the TensorFlow module.
    encoded: a scalar string; its first byte tells PNG, WebP and GIF from JPEG.
    orientation: EXIF's, int32 in 1..8: how the camera was held.
  """
  return _traced(tf)(encoded, orientation)


@functools.cache
def _traced(tf: Any) -> Any:
  """`decode` as a function of TensorFlow's: traced once, whatever the number of pipelines."""

  def decode(encoded, orientation):
    first = tf.strings.substr(encoded, 0, 1)
    formats = [png, webp, gif, jpeg]  # the last is what all others must be
    other = tf.cast(first != [b'\x89', b'R', b'G', first], tf.int32)
    branches = [functools.partial(one, tf, encoded) for one in formats]
    image = tf.switch_case(tf.argmin(other, output_type=tf.int32), branches)
    image = tf.ensure_shape(image, [None, None, 3])
    return tf.cond(orientation > 1, lambda: upright(tf, image, orientation), lambda: image)

  signature = [tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int32)]
  return tf.function(decode, input_signature=signature, autograph=False)


def jpeg(tf: Any, encoded: Any) -> Any:
  """Return the JPEG in these bytes as uint8 [h, w, 3]."""
  # TensorFlow's decode_jpeg decodes GIF, JPEG XL and others too.
  known = tf.strings.substr(encoded, 0, 2) == b'\xff\xd8'
  with tf.control_dependencies([asserted(tf, known, 'neither JPEG, PNG, WebP nor GIF')]):
    shape = tf.image.extract_jpeg_shape(encoded)
  encoded = checked(tf, encoded, True, tf.cast(shape[:2], tf.int64)[::-1])
  # The exact transform, as in other decoders; TensorFlow's own choice is a coarser one.
  return tf.io.decode_jpeg(encoded, channels=3, dct_method='INTEGER_ACCURATE')


def png(tf: Any, encoded: Any) -> Any:
  """Return the PNG in these bytes as uint8 [h, w, 3]."""
  head = header(tf, encoded)
  numbers = numbers_in(tf, head, [(16, 4), (20, 4), (24, 1)], big_endian=True)
  encoded = checked(tf, encoded, tf.strings.substr(head, 8, 8) == b'\0\0\0\rIHDR', numbers[:2])
  image = tf.io.decode_png(encoded, channels=4)
  # Where there is no alpha, TensorFlow's is the highest value of the file's own bits: 15 of 4.
  bits = tf.cast(tf.minimum(numbers[2], 8), tf.int32)
  return on_white(tf, image, tf.bitwise.left_shift(tf.constant(1), bits) - 1)


def webp(tf: Any, encoded: Any) -> Any:
  """Return the WebP in these bytes as uint8 [h, w, 3]: of an animation, its first picture."""
  head = header(tf, encoded)
  part = lambda at, size: tf.strings.substr(head, at, size)
  kind = part(12, 4)
  extended, lossless, lossy = kind == b'VP8X', kind == b'VP8L', kind == b'VP8 '
  places = [(26, 2), (28, 2), (24, 3), (27, 3), (21, 4), (20, 1)]
  numbers = numbers_in(tf, head, places)
  simple = tf.where(lossy, numbers[:2] % 2**14, 1 + numbers[4] // [1, 2**14] % 2**14)
  size = tf.where(extended, 1 + numbers[2:4], simple)
  known = (part(0, 4) == b'RIFF') & (part(8, 4) == b'WEBP') & (extended | lossless | lossy)
  moves = extended & (numbers[5] // 2 % 2 == 1)
  most = tf.where(moves, MOST_PIXELS // 2, MOST_PIXELS)  # its decoder holds three of them
  encoded = checked(tf, encoded, known, size, tf.cast(most, tf.int64))
  image = tf.cond(
    moves,
    # TensorFlow's decoder decodes all of an animation, and writes past its memory if it is opaque.
    lambda: tf.numpy_function(first_picture, [encoded], tf.uint8, stateful=False),
    lambda: tf.io.decode_webp(encoded)[0],  # of 3 or 4 channels: it refuses any but its own
  )
  image = tf.ensure_shape(image, [None, None, None])
  return tf.cond(tf.shape(image)[2] == 4, lambda: on_white(tf, image, 255), lambda: image)


def gif(tf: Any, encoded: Any) -> Any:
  """Return the first picture of the GIF in these bytes as uint8 [h, w, 3]."""
  # TensorFlow's decoder decodes all of an animation.
  image = tf.numpy_function(first_picture, [encoded], tf.uint8, stateful=False)
  return on_white(tf, tf.ensure_shape(image, [None, None, 4]), 255)


def first_picture(encoded: bytes) -> np.ndarray:
  """Return the first picture of an animated WebP or a GIF as uint8 [h, w, 4].

  Raises:
    ValueError: it has more than MOST_PIXELS.
  """
  with Image.open(io.BytesIO(encoded), formats=('WEBP', 'GIF')) as image:
    if image.width * image.height > MOST_PIXELS:
      raise ValueError(f'more than the {MOST_PIXELS} pixels that bigjax decodes')
    return np.asarray(image.convert('RGBA'))


def header(tf: Any, encoded: Any) -> Any:
  """The first 30 bytes as a scalar string, with zeros beyond the end."""
  return tf.strings.substr(tf.strings.substr(encoded, 0, 30) + b'\0' * 30, 0, 30)


def numbers_in(
  tf: Any, head: Any, places: Sequence[tuple[int, int]], big_endian: bool = False
) -> Any:
  """The unsigned numbers at these (first byte, number of bytes) of a header, int64 [places]."""
  weights = np.zeros([len(places), 30], np.int64)
  for row, (at, size) in zip(weights, places, strict=True):
    powers = 256 ** np.arange(size)
    row[at : at + size] = powers[::-1] if big_endian else powers
  values = tf.cast(tf.ensure_shape(tf.io.decode_raw(head, tf.uint8), [30]), tf.int64)
  return tf.linalg.matvec(weights, values)  # one operation: each costs when a pipeline is made


def checked(tf: Any, encoded: Any, known: Any, size: Any, most: Any = MOST_PIXELS) -> Any:
  """The bytes, unless their header is not `known` or of more than `most` pixels.

  Args:
    tf: the TensorFlow module.
    encoded: a scalar string.
    known: whether the header states a size.
    size: (width, height), int64 [2].
    most: int64.
  """
  width, height = size[0], size[1]
  few = tf.reduce_all(size <= most) & (width * height <= most)
  words = [width, 'x', height, 'pixels are more than the', most, 'that bigjax decodes']
  with tf.control_dependencies(
    [asserted(tf, known, 'a picture must begin with its size'), asserted(tf, few, *words)]
  ):
    return tf.identity(encoded)


def asserted(tf: Any, condition: Any, *words: Any) -> Any:
  """An operation that fails with these words unless the condition holds."""
  # tf.debugging.Assert would put them behind a branch: two more functions for each pipeline.
  return tf.raw_ops.Assert(condition=condition, data=[tf.convert_to_tensor(x) for x in words])


def on_white(tf: Any, image: Any, opaque: Any) -> Any:
  """Return uint8 [h, w, 4] laid on white, [h, w, 3]; all of it shows where alpha is `opaque`."""

  def blend():
    alpha = tf.cast(image[..., 3:], tf.uint16)
    light = tf.cast(image[..., :3], tf.uint16) * alpha + (255 * (255 - alpha) + 127)
    return tf.cast(light // 255, tf.uint8)  # at most 255 * 255 + 127, which 16 bits hold

  whole = tf.reduce_all(image[..., 3] == tf.cast(opaque, tf.uint8))
  return tf.cond(whole, lambda: image[..., :3], blend)


def upright(tf: Any, image: Any, orientation: Any) -> Any:
  """Undo an EXIF orientation: of 5 and more the axes are swapped, then each axis may be flipped."""
  one_of = lambda *values: tf.reduce_any(orientation == tf.constant(values))
  image = tf.transpose(image, tf.where(orientation >= 5, [1, 0, 2], [0, 1, 2]))
  flipped = tf.stack([one_of(3, 4, 7, 8), one_of(2, 3, 6, 7)])
  return tf.reverse(image, tf.boolean_mask([0, 1], flipped))


def square(
  tf: Any,
  image: Any,
  resolution: int,
  channels: int,
  chance: Any | None = None,
  fit: str = 'crop',
) -> Any:
  """Return uint8 [h, w, 3] as [resolution, resolution, channels]: fit, colour, resize.

  Larger ones are averaged by area (antialiased; the paper's), smaller ones enlarged bicubically.
  Grey is the luma of ITU-R 601.

  Args:
    tf: the TensorFlow module.
    image: a picture.
    resolution: of the result, in pixels.
    channels: 1 (grey) or 3 (colour).
    chance: non-negative int64; where along the long edge to cut. None cuts in the middle.
    fit: 'crop' to a square of the short edge; 'pad' with black to one of the long edge; 'stretch'
      both edges to one length.
  """
  if fit == 'crop':
    image = cut(tf, image, chance)
  if channels == 1:
    image = luma(tf, image)
  shape = tf.shape(image)[:2]
  target = padded_size(tf, shape, resolution) if fit == 'pad' else [resolution, resolution]
  image = resized(tf, image, target)
  if fit == 'pad':
    bars = resolution - target
    image = tf.pad(image, [*tf.unstack(tf.stack([bars // 2, bars - bars // 2], 1)), [0, 0]])
  return tf.ensure_shape(image, [resolution, resolution, channels])


def cut(tf: Any, image: Any, chance: Any | None) -> Any:
  """The square of the short edge of [h, w, C], by chance along the long one, or in its middle."""
  shape = tf.shape(image)
  size = tf.minimum(shape[0], shape[1])
  room = tf.maximum(shape[0], shape[1]) - size
  at = room // 2 if chance is None else tf.cast(chance % tf.cast(room + 1, tf.int64), tf.int32)
  top, left = tf.where(shape[0] > shape[1], at, 0), tf.where(shape[0] > shape[1], 0, at)
  return image[top : top + size, left : left + size]


def padded_size(tf: Any, shape: Any, resolution: int) -> Any:
  """(Height, width), int32 [2], of a picture of that shape whose long edge is `resolution`."""
  shape = tf.cast(shape, tf.int64)  # or an edge of a million pixels would be too many
  longest = tf.reduce_max(shape)
  return tf.cast(tf.maximum((2 * shape * resolution + longest) // (2 * longest), 1), tf.int32)


def resized(tf: Any, image: Any, target: Any) -> Any:
  """uint8 [h, w, C] at a height and width: averaged along edges that shrink, then enlarged."""

  def resize(image, size, method):
    floats = tf.image.resize(image, size, method)
    return tf.cast(tf.clip_by_value(tf.floor(floats + 0.5), 0, 255), tf.uint8)

  given = tf.shape(image)[:2]
  least = tf.minimum(given, target)
  same = lambda one, other: tf.reduce_all(one == other)
  image = tf.cond(same(least, given), lambda: image, lambda: resize(image, least, 'area'))
  return tf.cond(same(least, target), lambda: image, lambda: resize(image, target, 'bicubic'))


def luma(tf: Any, image: Any) -> Any:
  """Return the brightness of uint8 [..., 3] as [..., 1], exact where it is grey."""
  weights = tf.constant([19595, 38470, 7471])
  grey = tf.reduce_sum(tf.cast(image, tf.int32) * weights, axis=-1, keepdims=True)
  return tf.cast(tf.bitwise.right_shift(grey + 0x8000, 16), tf.uint8)
