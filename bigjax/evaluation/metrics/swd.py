"""Sliced Wasserstein distance of patches, per level of a Laplacian pyramid (Karras et al. 2018).

PGGAN's: 128 patches of 7 x 7 per image and level, each channel standardised within either set, 4
times 128 random directions, times 1e3. The paper compares 16,384 images with as many. It is blind
to brightness and contrast of a whole set, and its floor depends on the number of images: compare at
equal numbers. Its levels end at 16 px; we take smaller images as one level, and stop where a side
is odd. Arithmetic is float32, as there.
"""

from collections.abc import Iterator

import numpy as np

from bigjax.core import errors

PATCH = 7  # px
PATCHES = 128  # per image and level
REPEATS = 4
DIRECTIONS = 128  # of each repeat
SMALLEST = 16  # px of a level that was made by halving
TAPS = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
CHUNK = 64  # images whose pyramids are in memory
AT_ONCE = 32  # directions


def swd(samples: np.ndarray, real: np.ndarray, *, seed: int = 0) -> dict[str, float]:
  """Return {'swd': the mean over levels, 'swd@128': of level 128 px, 'swd@64': ...}, times 1e3.

  One level of both sets is in memory at a time: 75 kB per image of three channels, twice.
  Args:
    samples, real: uint8 [n, H, W, C], as many of both.
    seed: of patches (drawn for each set on its own, as in the reference) and directions.

  Raises:
    UserError: other numbers or shapes of images, none at all, or images below 7 px.
  """
  if len(samples) != len(real) or not len(samples):
    raise errors.UserError(
      f'a sliced Wasserstein distance was asked for between {len(samples)} samples and {len(real)} '
      'real images; give as many of one as of the other (16,384 in the PGGAN paper).'
    )
  if samples.shape[1:] != real.shape[1:] or min(samples.shape[1:3]) < PATCH:
    raise errors.UserError(
      f'a sliced Wasserstein distance was asked for between samples of shape {samples.shape[1:]} '
      f'and real images of shape {real.shape[1:]}; give one shape, {PATCH} px or more a side.'
    )
  rng = np.random.RandomState(seed)
  found = {}
  for level, side in enumerate(sides(*samples.shape[1:3])):
    a, b = [descriptors(images, level, rng) for images in (samples, real)]
    for patches in (a, b):
      standardise(patches)
    found[f'swd@{side}'] = 1e3 * sliced(a.reshape(len(a), -1), b.reshape(len(b), -1), rng)
  return {'swd': float(np.mean(list(found.values()))), **found}


def sides(height: int, width: int) -> list[int]:
  """Return the height of every level, the first that of the image."""
  found = [height]
  while height % 2 == width % 2 == 0 and min(height, width) // 2 >= SMALLEST:
    height, width = height // 2, width // 2
    found.append(height)
  return found


def pyramid(images: np.ndarray, num: int) -> Iterator[np.ndarray]:
  """Yield `num` levels of a Laplacian pyramid of images [n, C, H, W]; the last is a blur."""
  for _ in range(num - 1):
    smaller = halve(images)
    yield images - double(smaller)
    images = smaller
  yield images


def halve(x: np.ndarray) -> np.ndarray:
  """Return images [..., H, W] blurred and at half the size; the rim is mirrored, not repeated."""
  return _blur(x)[..., ::2, ::2]


def double(x: np.ndarray) -> np.ndarray:
  """Return images [..., H, W] at twice the size: zeros in between, blurred, times 4."""
  *rest, h, w = x.shape
  stretched = np.zeros((*rest, 2 * h, 2 * w), x.dtype)
  stretched[..., ::2, ::2] = 4 * x
  return _blur(stretched)


def _blur(x):
  h, w = x.shape[-2:]
  padded = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(2, 2), (2, 2)], 'reflect')
  rows = sum(tap * padded[..., i : i + h, :] for i, tap in enumerate(TAPS))
  return sum(tap * rows[..., i : i + w] for i, tap in enumerate(TAPS))


def descriptors(images: np.ndarray, level: int, rng: np.random.RandomState) -> np.ndarray:
  """Return patches [n * PATCHES, C, PATCH, PATCH] of a level, float32, from anywhere in the images.

  Args:
    images: uint8 [n, H, W, C].
    level: 0 is the finest.
    rng: what places are drawn from.
  """
  n, height, width, c = images.shape
  num = len(sides(height, width))
  room = [side // 2**level - PATCH + 1 for side in (height, width)]
  rows, columns = [rng.randint(0, most, (n, PATCHES)) for most in room]
  found = np.empty((n, PATCHES, c, PATCH, PATCH), np.float32)
  for i in range(0, n, CHUNK):
    part = images[i : i + CHUNK].transpose(0, 3, 1, 2).astype(np.float32)
    part = next(x for at, x in enumerate(pyramid(part, num)) if at == level)
    windows = np.lib.stride_tricks.sliding_window_view(part, (PATCH, PATCH), (2, 3))
    pick = np.arange(len(part))[:, None]
    found[i : i + CHUNK] = windows[pick, :, rows[i : i + CHUNK], columns[i : i + CHUNK]]
  return found.reshape(-1, c, PATCH, PATCH)


def standardise(patches: np.ndarray) -> None:
  """Give every channel of patches [n, C, PATCH, PATCH] mean 0 and deviation 1, in place."""
  for c in range(patches.shape[1]):
    channel = patches[:, c]
    channel -= channel.mean(dtype=np.float64).astype(np.float32)
    channel /= np.sqrt((channel * channel).mean(dtype=np.float64)).astype(np.float32) or 1


def sliced(a: np.ndarray, b: np.ndarray, rng: np.random.RandomState) -> float:
  """Return the mean distance of rows [n, d] and [n, d] sorted along random directions."""
  found = []
  for _ in range(REPEATS):
    directions = rng.randn(DIRECTIONS, a.shape[1])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for i in range(0, DIRECTIONS, AT_ONCE):
      some = directions[i : i + AT_ONCE].astype(np.float32)
      along = [np.sort(some @ rows.T, axis=1) for rows in (a, b)]
      found.append(np.abs(along[0] - along[1]).mean(dtype=np.float64))
  return float(np.mean(found))
