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


def square(image, resolution, channels=3, chance=None):
  tf = data.tensorflow()
  chance = None if chance is None else tf.constant(chance, tf.int64)
  return decode_lib.square(tf, tf.constant(image), resolution, channels, chance).numpy()
