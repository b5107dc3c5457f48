"""Pictures to decode, and what they decode to."""

import collections
import io

import numpy as np
from PIL import Image

from bigjax import data
from bigjax.data.reading import decode as decode_lib


def smooth(height, width, mode='RGB'):
  """A picture without sharp edges, which JPEG keeps well."""
  channels = {'L': 1, 'LA': 2, 'RGB': 3, 'RGBA': 4, 'CMYK': 4}[mode]
  coarse = np.random.RandomState(height + width).randint(0, 256, (channels, 5, 5))
  planes = [Image.fromarray(plane.astype(np.uint8)) for plane in coarse]
  return Image.merge(mode, [p.resize((width, height), Image.Resampling.BICUBIC) for p in planes])


def noise(height, width, channels=3):
  given = np.random.RandomState(height + width).randint(0, 256, (height, width, channels))
  return given.astype(np.uint8)


def encoded(image, kind='PNG', **options):
  """The bytes of a Pillow image."""
  out = io.BytesIO()
  image.save(out, kind, **options)
  return out.getvalue()


def pairs(images, labels):
  """How often each (image, label) occurs."""
  return collections.Counter(
    (image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)
  )


def square(image, resolution, channels=3, chance=None, fit='crop'):
  tf = data.tensorflow()
  chance = None if chance is None else tf.constant(chance, tf.int64)
  return decode_lib.square(tf, tf.constant(image), resolution, channels, chance, fit).numpy()


def level(images, side):
  """uint8 [..., H, W, C] as PGGAN's data tool makes it: halves of halves in float, then rounded."""
  x = images.astype(np.float32)
  while x.shape[-2] > side:
    corners = [x[..., i::2, j::2, :] for i in (0, 1) for j in (0, 1)]
    x = sum(corners) / np.float32(4)
  return np.rint(x).clip(0, 255).astype(np.uint8)


def check_levels(source, sides, steps=4, batch=6):
  """Hold a source's stream at smaller sizes to that at its own, mirrored and cropped as there."""
  full, small = (
    data.stream(source, 3, 50, (2, batch), np.arange(batch), True, given)
    for given in (None, {f'at {side}': side for side in sides})
  )
  for _ in range(steps):
    whole, sized = next(full), next(small)
    np.testing.assert_array_equal(sized['label'], whole['label'])
    for side in sides:
      np.testing.assert_array_equal(sized[f'at {side}'], level(whole['image'], side))
