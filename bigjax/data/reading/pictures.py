"""JPEG, PNG and WebP bytes -> square uint8 images, as TensorFlow operations for tf.data.

Every function takes the TensorFlow module first: data.tensorflow() alone imports it.
"""

from typing import Any


def decode(tf: Any, encoded: Any, orientation: Any) -> Any:
  """Return the picture in these bytes as uint8 [h, w, 3], upright.

  Of 16 bits the upper 8 are kept, CMYK becomes RGB, and what is transparent lies on white.

  Args:
    tf: the TensorFlow module.
    encoded: a scalar string; its first byte tells PNG and WebP from JPEG.
    orientation: EXIF's, int32 in 1..8: how the camera was held.
  """
  first = tf.strings.substr(encoded, 0, 1)
  image = tf.case(
    [
      (first == b'\x89', lambda: on_white(tf, png(tf, encoded))),
      (first == b'R', lambda: on_white(tf, webp(tf, encoded))),
    ],
    # The exact transform, as in other decoders; TensorFlow's own choice is a coarser one.
    default=lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method='INTEGER_ACCURATE'),
  )
  image = tf.ensure_shape(image, [None, None, 3])
  return tf.cond(orientation > 1, lambda: upright(tf, image, orientation), lambda: image)


def png(tf: Any, encoded: Any) -> Any:
  """Return the PNG in these bytes as uint8 [h, w, 4]."""
  image = tf.io.decode_png(encoded, channels=4)
  # Where there is no alpha, TensorFlow's is the highest value of the file's own bits: 15 of 4.
  bits = tf.io.decode_raw(tf.strings.substr(encoded, 0, 25), tf.uint8)[-1]
  opaque = tf.bitwise.left_shift(tf.constant(1), tf.minimum(tf.cast(bits, tf.int32), 8)) - 1
  given = tf.cast(image[..., 3], tf.int32)
  return tf.cond(
    tf.reduce_all(given == opaque), lambda: opaque_of(tf, image[..., :3]), lambda: image
  )


def webp(tf: Any, encoded: Any) -> Any:
  """Return the WebP in these bytes as uint8 [h, w, 4]: of an animation, its first picture."""
  image = tf.io.decode_webp(encoded)[0]  # of 3 or 4 channels: it refuses any other than its own
  return opaque_of(tf, image)[..., :4]


def opaque_of(tf: Any, image: Any) -> Any:
  """Return uint8 [h, w, C] with an opaque channel more."""
  return tf.concat([image, 255 * tf.ones_like(image[..., :1])], axis=-1)


def on_white(tf: Any, image: Any) -> Any:
  """Return uint8 [h, w, 4] laid on white, [h, w, 3]."""

  def blend():
    wide = tf.cast(image, tf.int32)
    alpha = wide[..., 3:]
    return tf.cast((wide[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)

  return tf.cond(tf.reduce_all(image[..., 3] == 255), lambda: image[..., :3], blend)


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
