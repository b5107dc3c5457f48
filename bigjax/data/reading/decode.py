"""JPEG, PNG, WebP and GIF bytes -> square uint8 images, as TensorFlow operations for tf.data.

Most functions take the TensorFlow module first: data.tensorflow() alone imports it. The size that a
header states is checked before anything is decoded: a few kB may otherwise become many GB.
"""

import io
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
  first = tf.strings.substr(encoded, 0, 1)
  image = tf.case(
    [
      (first == b'\x89', lambda: png(tf, encoded)),
      (first == b'R', lambda: webp(tf, encoded)),
      (first == b'G', lambda: gif(tf, encoded)),
    ],
    default=lambda: jpeg(tf, encoded),
  )
  image = tf.ensure_shape(image, [None, None, 3])
  return tf.cond(orientation > 1, lambda: upright(tf, image, orientation), lambda: image)


def jpeg(tf: Any, encoded: Any) -> Any:
  """Return the JPEG in these bytes as uint8 [h, w, 3]."""
  # TensorFlow's decode_jpeg decodes GIF, JPEG XL and others too.
  known = tf.debugging.Assert(
    tf.strings.substr(encoded, 0, 2) == b'\xff\xd8', ['neither JPEG, PNG, WebP nor GIF']
  )
  with tf.control_dependencies([known]):
    shape = tf.image.extract_jpeg_shape(encoded)
  height, width, _ = tf.unstack(tf.cast(shape, tf.int64), 3)
  encoded = checked(tf, encoded, True, height, width)
  # The exact transform, as in other decoders; TensorFlow's own choice is a coarser one.
  return tf.io.decode_jpeg(encoded, channels=3, dct_method='INTEGER_ACCURATE')


def png(tf: Any, encoded: Any) -> Any:
  """Return the PNG in these bytes as uint8 [h, w, 3]."""
  head, part = header(tf, encoded)
  width, height = (sum(head[at + i] * 256 ** (3 - i) for i in range(4)) for at in (16, 20))
  encoded = checked(tf, encoded, part(8, 8) == b'\0\0\0\rIHDR', height, width)
  image = tf.io.decode_png(encoded, channels=4)
  # Where there is no alpha, TensorFlow's is the highest value of the file's own bits: 15 of 4.
  bits = tf.cast(tf.minimum(head[24], 8), tf.int32)
  return on_white(tf, image, tf.bitwise.left_shift(tf.constant(1), bits) - 1)


def webp(tf: Any, encoded: Any) -> Any:
  """Return the WebP in these bytes as uint8 [h, w, 3]: of an animation, its first picture."""
  head, part = header(tf, encoded)
  kind = part(12, 4)
  extended, lossless, lossy = kind == b'VP8X', kind == b'VP8L', kind == b'VP8 '
  number = lambda at, size: sum(head[at + i] * 256**i for i in range(size))

  def extent(i):  # 0: width, 1: height
    simple = tf.where(
      lossy, number(26 + 2 * i, 2) % 2**14, 1 + number(21, 4) // 2 ** (14 * i) % 2**14
    )
    return tf.where(extended, 1 + number(24 + 3 * i, 3), simple)

  known = (part(0, 4) == b'RIFF') & (part(8, 4) == b'WEBP') & (extended | lossless | lossy)
  moves = extended & (head[20] // 2 % 2 == 1)
  most = tf.where(moves, MOST_PIXELS // 2, MOST_PIXELS)  # its decoder holds three of them
  encoded = checked(tf, encoded, known, extent(1), extent(0), tf.cast(most, tf.int64))
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


def header(tf: Any, encoded: Any) -> tuple[Any, Any]:
  """Return the first 30 bytes as int64 [30], 0 beyond the end, and (at, size) -> some of them."""
  start = tf.strings.substr(tf.strings.substr(encoded, 0, 30) + b'\0' * 30, 0, 30)
  numbers = tf.cast(tf.ensure_shape(tf.io.decode_raw(start, tf.uint8), [30]), tf.int64)
  return numbers, lambda at, size: tf.strings.substr(start, at, size)


def checked(
  tf: Any, encoded: Any, known: Any, height: Any, width: Any, most: Any = MOST_PIXELS
) -> Any:
  """Return the bytes, unless their header is not `known` or of more than `most` pixels (int64)."""
  few = (height <= most) & (width <= most) & (height * width <= most)
  words = [width, 'x', height, 'pixels are more than the', most, 'that bigjax decodes']
  with tf.control_dependencies(
    [
      tf.debugging.Assert(known, ['a picture must begin with its size']),
      tf.debugging.Assert(few, words),
    ]
  ):
    return tf.identity(encoded)


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
  image = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
  image = tf.cond(one_of(2, 3, 6, 7), lambda: image[:, ::-1], lambda: image)
  return tf.cond(one_of(3, 4, 7, 8), lambda: image[::-1], lambda: image)


def square(tf: Any, image: Any, resolution: int, channels: int, chance: Any | None = None) -> Any:
  """Return uint8 [h, w, 3] as [resolution, resolution, channels]: crop, colour, resize.

  Larger squares are averaged by area (antialiased; the paper's), smaller ones enlarged bicubically.
  Grey is the luma of ITU-R 601.

  Args:
    tf: the TensorFlow module.
    image: a picture.
    resolution: of the result, in pixels.
    channels: 1 (grey) or 3 (colour).
    chance: non-negative int64; where along the long edge to cut. None cuts in the middle.
  """
  shape = tf.shape(image)
  size = tf.minimum(shape[0], shape[1])
  room = tf.maximum(shape[0], shape[1]) - size
  at = room // 2 if chance is None else tf.cast(chance % tf.cast(room + 1, tf.int64), tf.int32)
  top, left = tf.where(shape[0] > shape[1], at, 0), tf.where(shape[0] > shape[1], 0, at)
  image = image[top : top + size, left : left + size]
  if channels == 1:
    image = luma(tf, image)

  def resize(method):
    resized = tf.image.resize(image, [resolution, resolution], method)
    return tf.cast(tf.clip_by_value(tf.floor(resized + 0.5), 0, 255), tf.uint8)

  image = tf.cond(size < resolution, lambda: resize('bicubic'), lambda: resize('area'))
  return tf.ensure_shape(image, [resolution, resolution, channels])


def luma(tf: Any, image: Any) -> Any:
  """Return the brightness of uint8 [..., 3] as [..., 1], exact where it is grey."""
  weights = tf.constant([19595, 38470, 7471])
  grey = tf.reduce_sum(tf.cast(image, tf.int32) * weights, axis=-1, keepdims=True)
  return tf.cast(tf.bitwise.right_shift(grey + 0x8000, 16), tf.uint8)
