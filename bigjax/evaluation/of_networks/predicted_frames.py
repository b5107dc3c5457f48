"""How near predicted frames are to those that came: PSNR and SSIM (Wang et al. 2004) of each frame.

Of 8-bit levels, in float64. SSIM is Wang's, with a Gaussian window of 11 px and a deviation of 1.5,
where it fits in whole, and the mean over channels; where a frame is smaller than the window, both
shrink with it, as in metrics/ms_ssim.py.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from bigjax.core import errors
from bigjax.evaluation.metrics import ms_ssim

PEAK = 255
LARGEST = 100.0  # dB, of frames that are equal
CHUNK = 64  # frames in memory as float64
MEAN_OF = 2**28  # bytes of training clips, at most, that the mean image is of


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Peak signal-to-noise ratio of each frame in dB, at most LARGEST: float64 [n, T].

  Args:
    a, b: uint8 [n, T, H, W, C].
  Raises:
    UserError: they differ in shape.
  """
  errs = _of_frames(a, b, lambda a, b: np.square(a - b).mean((1, 2, 3)))
  least = PEAK**2 / 10 ** (LARGEST / 10)
  return 10 * np.log10(PEAK**2 / np.maximum(errs, least))


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Structural similarity of each frame, at most 1: float64 [n, T].

  Args:
    a, b: uint8 [n, T, H, W, C].
  Raises:
    UserError: they differ in shape.
  """
  return _of_frames(a, b, lambda *some: ms_ssim.ssim(*[x.transpose(0, 3, 1, 2) for x in some])[0])


def _of_frames(
  a: np.ndarray, b: np.ndarray, score: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
  """Scores [n, T] of frames of clips: `score` is of some frames, float64 [m, H, W, C]."""
  _refuse_others(a, b)
  frames = [x.reshape(-1, *x.shape[2:]) for x in (a, b)]
  found = [
    score(*[x[i : i + CHUNK].astype(np.float64) for x in frames])
    for i in range(0, len(frames[0]), CHUNK)
  ]
  return np.concatenate(found).reshape(a.shape[:2])


SCORES: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {'psnr': psnr, 'ssim': ssim}


def num_of_mean(shape: tuple[int, ...]) -> int:
  """How many training clips of a shape the mean image is of, at most."""
  return max(MEAN_OF // math.prod(shape), 1)


def mean_image(clips: np.ndarray) -> np.ndarray:
  """The mean of all frames of clips uint8 [n, T, H, W, C], rounded: uint8 [H, W, C]."""
  return np.rint(clips.mean((0, 1), dtype=np.float64)).astype(np.uint8)


def baselines(clips: np.ndarray, num_given: int, mean: np.ndarray) -> dict[str, np.ndarray]:
  """Predictions that need no network, {name: uint8 [n, T - num_given, H, W, C]}.

  Args:
    clips: uint8 [n, T, H, W, C], whose first frames are given.
    num_given: how many.
    mean: uint8 [H, W, C], of training clips.
  """
  after = clips[:, num_given:]
  return {
    'last_frame': np.broadcast_to(clips[:, num_given - 1 : num_given], after.shape),
    'mean_image': np.broadcast_to(mean, after.shape),
    'black': np.zeros_like(after),
  }


def _refuse_others(a: np.ndarray, b: np.ndarray) -> None:
  if a.shape != b.shape or a.ndim != 5 or not a.size:
    raise errors.UserError(
      f'predicted frames are {list(a.shape)} and those that came {list(b.shape)}; give clips '
      '[n, T, H, W, C] of one shape.'
    )
