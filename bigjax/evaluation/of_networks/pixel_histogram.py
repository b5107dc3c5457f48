"""Code length of images by a histogram of levels at each pixel: what a likelihood is worth.

Every number of an image, at its place and channel, is coded by itself, by how often training images
have its level there; every level counts once more than it occurs.
"""

import math

import numpy as np

LEVELS = 256


def fitted(images: np.ndarray) -> np.ndarray:
  """How often each number has each level, int32 [numbers of an image, LEVELS].

  Args:
    images: uint8 [n, ...].
  """
  rows = images.reshape(len(images), math.prod(images.shape[1:]))
  counts, places = np.zeros((rows.shape[1], LEVELS), np.int32), np.arange(rows.shape[1])
  for row in rows:
    counts[places, row] += 1
  return counts


def bits(counts: np.ndarray, images: np.ndarray) -> np.ndarray:
  """Code length of images, bits per number, float64 [n].

  Args:
    counts: as `fitted` gives them.
    images: uint8 [n, ...], of as many numbers each.
  """
  rows = images.reshape(len(images), math.prod(images.shape[1:]))
  num, places = counts[0].sum(), np.arange(rows.shape[1])
  seen = counts[places, rows]  # [n, numbers]
  return np.log2((num + LEVELS) / (seen + 1.0)).mean(1)
