"""Distortions of real images and clips, which a classifier for scores learns to tell from them.

Features that only know classes are blind to what an image is made of: in them, photos under noise
lie among photos. So the classifier (quick/classifier.py) also learns which of KINDS was done to an
image, and where a generator leaves the texture or the layout of real images, its features follow.
Of clips there are CLIP_KINDS: all frames are distorted in one of these ways, or their order is.
All are functions of uint8 arrays; strengths are drawn per image, in pixels, from a faint one on.
"""

from collections.abc import Callable, Sequence

import numpy as np

KINDS = ('as it is', 'noise', 'blur', 'mosaic', 'blocks')
CLIP_KINDS = (*KINDS, 'frozen', 'shuffled', 'reversed')
NOISE = 16, 96  # standard deviation in grey levels
ONLY_NOISE = 0.3  # share of the noisy images of which nothing is left but the mean colour
BLUR = 1, 4  # standard deviation in pixels
TILES = 2, 3, 4, 5, 8  # along a side
BLOCKS = 4, 8  # pixels a side; the whole image, too
Change = Callable[[np.ndarray, np.random.RandomState], np.ndarray]  # of floats [n, H, H, C]


def distort(images: np.ndarray, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
  """One distortion for each image, of a random kind and strength.

  Args:
    images: uint8 [n, H, H, C].
    rng: draws kinds and strengths.
  Returns:
    (uint8 images [n, H, H, C], their kinds: indices into KINDS, never 0).
  """
  return _distorted(images, (noise, blur, mosaic, blocks), rng)


def distort_clips(
  clips: np.ndarray, frames: int, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
  """`distort` of clips whose frames are channels: uint8 [n, H, H, T C]; kinds of CLIP_KINDS."""

  def in_order_of(order: Callable[[np.random.RandomState], np.ndarray]) -> Change:
    def change(clips, rng):
      n, h, w, _ = clips.shape
      split = clips.reshape(n, h, w, frames, -1)
      return np.stack([clip[:, :, order(rng)] for clip in split]).reshape(clips.shape)

    return change

  frozen = in_order_of(lambda rng: np.full(frames, rng.randint(frames)))
  shuffled = in_order_of(lambda rng: rng.permutation(frames))
  backwards = in_order_of(lambda _: np.arange(frames)[::-1])
  return _distorted(clips, (noise, blur, mosaic, blocks, frozen, shuffled, backwards), rng)


def _distorted(
  images: np.ndarray, changes: Sequence[Change], rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
  kinds = rng.randint(1, len(changes) + 1, len(images))
  changed = images.astype(np.float32)
  for kind, change in enumerate(changes, 1):
    which = kinds == kind
    if which.any():
      changed[which] = change(changed[which], rng)
  return np.rint(changed).clip(0, 255).astype(np.uint8), kinds


def noise(images: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
  """White noise on the images, or on their mean colours."""
  each = (len(images), 1, 1, 1)
  only = rng.rand(*each) < ONLY_NOISE
  below = np.where(only, images.mean((1, 2), keepdims=True), images)
  return below + _between(*NOISE, each, rng) * rng.standard_normal(images.shape)


def blur(images: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
  """A Gaussian blur, whose weights at the rim are scaled to sum to 1."""
  n, side, _, c = images.shape
  sigma = _between(*BLUR, (n, 1, 1), rng)
  apart = np.arange(side)[:, None] - np.arange(side)
  matrix = np.exp(-0.5 * (apart / sigma) ** 2)
  matrix = (matrix / matrix.sum(-1, keepdims=True)).astype(np.float32)  # [n, H, H]
  rows = matrix @ images.reshape(n, side, side * c)
  return matrix[:, None] @ rows.reshape(images.shape)


def mosaic(images: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
  """Square tiles in a random order; what fills no tile stays where it is."""
  made = images.copy()
  _, side, _, c = images.shape
  for image in made:
    num = min(rng.choice(TILES), side)
    tile = side // num
    part = image[: num * tile, : num * tile].reshape(num, tile, num, tile, c).swapaxes(1, 2)
    order = rng.permutation(num * num)
    part = part.reshape(num * num, tile, tile, c)[order].reshape(num, num, tile, tile, c)
    image[: num * tile, : num * tile] = part.swapaxes(1, 2).reshape(num * tile, num * tile, c)
  return made


def blocks(images: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
  """Squares of one colour, their mean; what fills no square stays as it is."""
  n, side, _, c = images.shape
  size = min(rng.choice((*BLOCKS, side)), side)
  num, whole = side // size, side // size * size
  made = images.copy()
  means = made[:, :whole, :whole].reshape(n, num, size, num, size, c).mean((2, 4))
  made[:, :whole, :whole] = means.repeat(size, 1).repeat(size, 2)
  return made


def _between(
  low: float, high: float, shape: tuple[int, ...], rng: np.random.RandomState
) -> np.ndarray:
  """Strengths, of which as many lie in one octave as in the next."""
  return np.exp(rng.uniform(np.log(low), np.log(high), shape))
