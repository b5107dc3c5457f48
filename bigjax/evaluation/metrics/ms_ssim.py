"""Multi-scale structural similarity of pairs of samples (Wang et al. 2003; Odena et al. 2017).

As PGGAN (Karras et al. 2018) measures variety: the mean over 10,000 random pairs of generated
images, lower where they vary more. Five scales at any size: where an image is smaller than the
window, both window and its deviation shrink with it. In float64.
"""

import numpy as np

from bigjax.core import errors

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of scales, the finest first
WINDOW = 11  # px
SIGMA = 1.5  # px, of a window of WINDOW
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
PAIRS = 10_000
CHUNK = 32  # pairs in memory as float64


def ms_ssim(images: np.ndarray, *, pairs: int = PAIRS, seed: int | None = None) -> float:
  """Return the mean MS-SSIM of images 0 and 1, 2 and 3, ...

  Args:
    images: uint8 [n, H, W, C]; where there are fewer than two per pair, there are fewer pairs.
    pairs: at most so many.
    seed: of a shuffle before they are paired; None keeps the order. Images that lie in order of
      class need one.

  Raises:
    UserError: fewer than 2 images.
  """
  if len(images) < 2:
    raise errors.UserError(
      f'MS-SSIM compares pairs of samples, and {len(images)} were given; give 2 or more '
      '(20,000 in the PGGAN paper).'
    )
  num = len(images)
  order = np.arange(num) if seed is None else np.random.RandomState(seed).permutation(num)
  num = min(num // 2, pairs)
  first, second = order[: 2 * num : 2], order[1 : 2 * num : 2]
  found = [
    similarity(images[first[i : i + CHUNK]], images[second[i : i + CHUNK]])
    for i in range(0, num, CHUNK)
  ]
  return float(np.concatenate(found).mean())


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Return the MS-SSIM of every pair of images in 0..255, [n, H, W, C] both: float64 [n]."""
  a, b = [x.astype(np.float64).transpose(0, 3, 1, 2) for x in (a, b)]
  product = 1.0
  for scale, weight in enumerate(WEIGHTS):
    whole, structure = ssim(a, b)
    last = scale == len(WEIGHTS) - 1
    # Similarities below 0 count as 0: a power of them is no number.
    product = product * np.maximum(whole if last else structure, 0) ** weight
    a, b = halve(a), halve(b)
  return product


def ssim(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Return (SSIM, its contrast and structure alone), each [n], of images [n, C, H, W]."""
  height, width = a.shape[2:]
  size = min(WINDOW, height, width)
  down, across = gaussian(size, height), gaussian(size, width).T
  blur = lambda x: down @ x @ across
  mean_a, mean_b = blur(a), blur(b)
  var_a, var_b, shared = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b)
  structure = (2 * (shared - mean_a * mean_b) + C2) / (var_a + var_b + C2)
  light = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
  return (light * structure).mean((1, 2, 3)), structure.mean((1, 2, 3))


def gaussian(size: int, num: int) -> np.ndarray:
  """Return the matrix [num - size + 1, num] that filters with a Gaussian where it fits in whole."""
  at = np.arange(size) - (size - 1) / 2
  window = np.exp(-(at**2) / (2 * (SIGMA * size / WINDOW) ** 2))
  matrix = np.zeros((num - size + 1, num))
  for i, row in enumerate(matrix):
    row[i : i + size] = window / window.sum()
  return matrix


def halve(x: np.ndarray) -> np.ndarray:
  """Return images [..., H, W] averaged over 2 x 2 px; an odd last row or column is repeated."""
  h, w = x.shape[-2:]
  x = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, h % 2), (0, w % 2)], 'edge')
  return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
