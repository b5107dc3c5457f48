"""Noise schedules of Gaussian diffusion, which of their steps are kept, and tables of all factors.

Ho et al. 2020 (linear), Nichol & Dhariwal 2021 (cosine, respacing). All of it is float64 NumPy,
made at trace time; `process.py` casts what it uses. Steps are numbered from 0, the least noise.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from bigjax.core import errors

MOST_BETA = 0.999


def linear(num: int) -> np.ndarray:
  """beta from 1e-4 to 0.02 for 1,000 steps, and inversely as large for others."""
  scale = 1000 / num
  return np.linspace(scale * 1e-4, scale * 0.02, num)


def cosine(num: int) -> np.ndarray:
  """The beta of alpha_bar(t) = cos^2((t + 0.008) / 1.008 pi / 2), t from 0 to 1 (Eq. 17)."""
  alpha_bar = lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
  betas = [1 - alpha_bar((i + 1) / num) / alpha_bar(i / num) for i in range(num)]
  return np.minimum(betas, MOST_BETA)


SCHEDULES: dict[str, Callable[[int], np.ndarray]] = {'linear': linear, 'cosine': cosine}


def kept_steps(num: int, text: str) -> list[int]:
  """The steps that a respaced process keeps, ascending.

  Args:
    num: steps of the process.
    text: how many, evenly from the first to the last: '25'; of as many equal sections as there are
      numbers, each its own: '10,15,20'; by DDIM's whole stride from 0: 'ddim25'. (`Tables` knows
      one more: 'logsnr25'.)

  Raises:
    UserError: it is none of these, or there are not so many steps.
  """
  refused = errors.UserError(
    f'steps {text!r} mean nothing for a process of {num:,}: give a number from 1 to that, such as '
    '25, some for as many equal parts of it, such as 10,15,20, or ddim25 for a whole stride.'
  )
  stride = text.startswith('ddim')
  words = text.removeprefix('ddim').split(',')
  if not all(word.strip().isdecimal() for word in words) or (stride and len(words) > 1):
    raise refused
  counts = [int(word) for word in words]
  if min(counts) < 1 or sum(counts) > num or len(counts) > num:
    raise refused
  if stride:
    for step in range(1, num + 1):
      if len(range(0, num, step)) == counts[0]:
        return list(range(0, num, step))
    raise errors.UserError(
      f'no whole stride gives {counts[0]} of {num:,} steps ({text}); give {counts[0]}, which is '
      'spaced evenly, or a number that divides them.'
    )
  return _evenly(num, counts, refused)


def _evenly(num: int, counts: Sequence[int], refused: errors.UserError) -> list[int]:
  size, more = divmod(num, len(counts))
  kept, start = [], 0
  for i, count in enumerate(counts):
    length = size + (i < more)
    if count > length:
      raise refused
    at, stride = 0.0, (length - 1) / (count - 1) if count > 1 else 1
    for _ in range(count):
      kept.append(start + round(at))
      at += stride  # added up, as in the official code, which decides how halves are rounded
    start += length
  return sorted(set(kept))


LOG_SNR = 'logsnr'


def half_log_snr(alpha_bar: np.ndarray) -> np.ndarray:
  """lambda, log(alpha / sigma), of shares of variance that are left; infinite without noise."""
  with np.errstate(divide='ignore'):
    return 0.5 * (np.log(alpha_bar) - np.log1p(-alpha_bar))


def evenly_in(falling: np.ndarray, num: int) -> np.ndarray:
  """`num` indices, int32, at which numbers that fall are nearest to even spacing; all differ."""
  kept: list[int] = []
  for i, value in enumerate(np.linspace(falling[0], falling[-1], num)):
    nearest = int(np.abs(falling - value).argmin())
    least = kept[-1] + 1 if kept else 0
    kept.append(min(max(nearest, least), len(falling) - num + i))
  return np.array(kept, np.int32)


@dataclasses.dataclass(frozen=True)
class Tables:
  """All factors of a process, float64 [T] each, of the steps that are kept.

  A respaced process has the beta whose products are the whole one's alpha_bar at the kept steps.

  Attributes:
    schedule: a name of SCHEDULES.
    num: steps of the whole process, which the network was trained with.
    steps: those kept, as `kept_steps` reads it, or 'logsnr25', even in log(alpha / sigma), as
      DPM-Solver++ has them; '': all.
  """

  schedule: str
  num: int
  steps: str = ''

  @functools.cached_property
  def timesteps(self) -> np.ndarray:
    """The kept steps' numbers in the whole process, int32 [T]: what a network is told."""
    if not self.steps:
      return np.arange(self.num, dtype=np.int32)
    if not self.steps.startswith(LOG_SNR):
      return np.array(kept_steps(self.num, self.steps), np.int32)
    num = len(kept_steps(self.num, self.steps.removeprefix(LOG_SNR)))
    return evenly_in(half_log_snr(np.cumprod(1 - self._whole)), num)

  def evenly(self, num: int) -> np.ndarray:
    """Numbers of kept steps, int32 [num], spread evenly over them: what a probe looks at."""
    steps = len(self.timesteps)
    return ((np.arange(num) * steps + steps // 2) // num).astype(np.int32)

  @property
  def _whole(self) -> np.ndarray:
    return errors.pick(self.schedule, SCHEDULES, 'the noise schedule')(self.num)

  @functools.cached_property
  def betas(self) -> np.ndarray:
    if not self.steps:
      return self._whole
    kept = np.cumprod(1 - self._whole)[self.timesteps]
    return 1 - kept / np.append(1.0, kept[:-1])

  @functools.cached_property
  def alpha_bar(self) -> np.ndarray:
    """Share of an image's variance that is left, cumulative (alphas_cumprod)."""
    return np.cumprod(1 - self.betas)

  @property
  def alpha_bar_prev(self) -> np.ndarray:
    return np.append(1.0, self.alpha_bar[:-1])

  @property
  def alpha_bar_next(self) -> np.ndarray:
    return np.append(self.alpha_bar[1:], 0.0)

  # x_t = sqrt_alpha_bar x_0 + sqrt_one_minus noise, and x_0 = sqrt_recip x_t - sqrt_recip_m1 noise.

  @property
  def sqrt_alpha_bar(self) -> np.ndarray:
    return np.sqrt(self.alpha_bar)

  @property
  def sqrt_one_minus(self) -> np.ndarray:
    return np.sqrt(1 - self.alpha_bar)

  @property
  def log_one_minus(self) -> np.ndarray:
    return np.log(1 - self.alpha_bar)

  @property
  def sqrt_recip(self) -> np.ndarray:
    return np.sqrt(1 / self.alpha_bar)

  @property
  def sqrt_recip_m1(self) -> np.ndarray:
    return np.sqrt(1 / self.alpha_bar - 1)

  # q(x_{t-1} | x_t, x_0): its mean is coef1 x_0 + coef2 x_t.

  @property
  def posterior_variance(self) -> np.ndarray:
    return self.betas * (1 - self.alpha_bar_prev) / (1 - self.alpha_bar)

  @property
  def posterior_log_variance(self) -> np.ndarray:
    """Its logarithm, at step 0, where it is 0, that of step 1; of a single step, that of beta."""
    if len(self.betas) == 1:
      return np.log(self.betas)
    variance = self.posterior_variance
    return np.log(np.append(variance[1], variance[1:]))

  @property
  def posterior_coef1(self) -> np.ndarray:
    return self.betas * np.sqrt(self.alpha_bar_prev) / (1 - self.alpha_bar)

  @property
  def posterior_coef2(self) -> np.ndarray:
    return (1 - self.alpha_bar_prev) * np.sqrt(1 - self.betas) / (1 - self.alpha_bar)
