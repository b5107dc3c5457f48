"""What no system may lose to: images that are wrong in a known way, made from real ones.

An acceptance figure (agreement, precision, coverage, a Frechet distance, ...) that does not put a
trained system before each of these measures nothing. All are functions of uint8 arrays, NumPy only
and deterministic; image i of the result answers to the label of image i, so labels stay as they
are. The table is CORRUPTIONS, at the bottom.

An untrained network of the same system belongs to them, too, but is no function of images: it is
the system after one step (benchmarks/papers.py trains it so, with a budget of 0).
"""

from collections.abc import Callable

import numpy as np

SIGMA = 64  # of the noise, in grey levels: a quarter of the range
RADIUS = 2.0  # of the blur in pixels: the standard deviation of its Gaussian
TILES = 4  # of the mosaic, along a side
CHUNK = 256  # images whose distances to all training images are held at a time

Images = np.ndarray  # uint8 [n, H, W, C]


def to_uint8(images: np.ndarray) -> Images:
  """Rounds and clips images in [0, 255]."""
  return np.rint(images).clip(0, 255).astype(np.uint8)


def noise(images: Images, train: Images) -> Images:
  """Gaussian noise of SIGMA grey levels added to every pixel, clipped."""
  del train
  rng = np.random.RandomState(0)
  return to_uint8(images + SIGMA * rng.standard_normal(images.shape))


def blur(images: Images, train: Images) -> Images:
  """Gaussian blur of RADIUS pixels; the rim is mirrored, so that an image keeps its mean."""
  del train
  reach = int(np.ceil(3 * RADIUS))
  taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / RADIUS) ** 2)
  blurred = images.astype(np.float64)
  for axis in (1, 2):
    pad = [(0, 0)] * 4
    pad[axis] = (reach, reach)
    size, padded = images.shape[axis], np.pad(blurred, pad, mode='symmetric')
    shifted = [np.take(padded, np.arange(size) + i, axis) for i in range(len(taps))]
    blurred = sum(tap * image for tap, image in zip(taps / taps.sum(), shifted, strict=True))
  return to_uint8(blurred)


def mosaic(images: Images, train: Images) -> Images:
  """TILES x TILES tiles of each image in a random order, another for each image.

  Raises:
    ValueError: a side is not divisible by TILES.
  """
  del train
  n, h, w, c = images.shape
  if h % TILES or w % TILES:
    raise ValueError(f'images of {h}x{w} px cannot be cut into {TILES}x{TILES} equal tiles')
  tiles = images.reshape(n, TILES, h // TILES, TILES, w // TILES, c).transpose(0, 1, 3, 2, 4, 5)
  tiles = tiles.reshape(n, TILES**2, h // TILES, w // TILES, c)
  order = np.random.RandomState(0).rand(n, TILES**2).argsort(1)
  tiles = np.take_along_axis(tiles, order[:, :, None, None, None], 1)
  tiles = tiles.reshape(n, TILES, TILES, h // TILES, w // TILES, c)
  return tiles.transpose(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)


def repeated(images: Images, train: Images) -> Images:
  """The first image in place of all: total collapse onto something flawless."""
  del train
  return np.repeat(images[:1], len(images), 0)


def mean(images: Images, train: Images) -> Images:
  """The mean of all images in place of each: what the smallest squared error would be."""
  del train
  average = images.mean(0, dtype=np.float64, keepdims=True)
  return np.repeat(to_uint8(average), len(images), 0)


def raw_pixels(images: Images, train: Images) -> Images:
  """The training image nearest to each image, in Euclidean distance of raw pixels.

  Of a generator it is memorisation: flawless copies, nothing new. Of a representation it is the
  baseline without any learning: the copies have the class that a 1-nearest-neighbour classifier on
  raw pixels gives.
  """
  rows, known = (x.reshape(len(x), -1).astype(np.float64) for x in (images, train))
  lengths = (known * known).sum(1)
  nearest = [
    (lengths - 2 * rows[i : i + CHUNK] @ known.T).argmin(1) for i in range(0, len(rows), CHUNK)
  ]
  return train[np.concatenate(nearest)]


# Each takes (images, training images), uint8 [n, H, W, C] and [m, H, W, C], and gives [n, H, W, C].
CORRUPTIONS: dict[str, Callable[[Images, Images], Images]] = {
  'noise': noise,
  'blur': blur,
  'mosaic': mosaic,
  'repeated': repeated,
  'mean': mean,
  'raw_pixels': raw_pixels,
}
