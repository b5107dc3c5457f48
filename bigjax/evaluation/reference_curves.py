"""Learning curves that others have published, to tell early whether a run goes as it should.

Each is one run, with its own settings and its own way of scoring: `protocol` says both. Scores of
another protocol differ by more than rounding; see FACTOR for what is then still worth a warning.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping

from bigjax.core import errors

Points = tuple[tuple[int, float], ...]  # (generator step, value), ascending

# Two who ran BigGAN-PyTorch's script unchanged report, in issue 23 there, IS 58 with FID 21 at step
# 147,000 and IS 51 at 140,000; its own log has 93 and 9.9 at 138,000. What is less than a factor of
# 2 apart is therefore no sign of a mistake.
FACTOR = 2


@dataclasses.dataclass(frozen=True)
class Curve:
  """A published run: `metrics` has its points by kind, 'fid' or 'is'."""

  name: str
  source: str
  protocol: str
  metrics: Mapping[str, Points]


# logs/BigGAN_ch96_bs256x8.jsonl and logs/metalog.txt of github.com/ajbrock/BigGAN-PyTorch.
BIGGAN_PYTORCH = Curve(
  'imagenet128_256x8_biggan_pytorch',
  'ajbrock/BigGAN-PyTorch, log of ch96 bs256x8',
  "unofficial PyTorch code of the paper's first author; 50,000 samples of averaged weights, "
  "torchvision's Inception network, FID against the training images; 96 channels, batch 8 x 256 "
  'accumulated, BatchNorm over the 32 examples of a GPU, learning rates 1e-4 and 4e-4, one '
  'discriminator step, no orthogonal penalty, averaging from step 20,000; collapses after 138,000',
  {
    'fid': (
      (2_000, 173.8), (4_000, 113.9), (6_000, 101.6), (10_000, 83.6), (14_000, 76.8),
      (20_000, 61.3), (24_000, 46.5), (30_000, 35.5), (40_000, 26.5), (50_000, 20.5),
      (60_000, 17.2), (70_000, 15.3), (80_000, 13.8), (90_000, 12.6), (100_000, 11.7),
      (110_000, 10.8), (120_000, 10.3), (130_000, 9.8), (138_000, 9.9),
    ),
    'is': (
      (2_000, 2.8), (4_000, 5.0), (6_000, 6.9), (10_000, 10.4), (14_000, 11.8),
      (20_000, 14.8), (24_000, 19.6), (30_000, 25.6), (40_000, 34.2), (50_000, 43.3),
      (60_000, 51.1), (70_000, 56.8), (80_000, 61.8), (90_000, 67.4), (100_000, 72.2),
      (110_000, 76.9), (120_000, 82.4), (130_000, 87.4), (138_000, 93.1),
    ),
  },
)  # fmt: skip

# logs/IMAGENET/BigGAN2048-train-2020_11_17_15_17_48.log of
# github.com/POSTECH-CVLab/PyTorch-StudioGAN: what it prints while it trains.
STUDIOGAN_2048 = Curve(
  'imagenet128_batch2048_studiogan',
  'PyTorch-StudioGAN, log of BigGAN2048',
  "50,000 samples of averaged weights while training, TensorFlow's Inception weights (as in "
  'pytorch-fid), FID against the 50,000 validation images; 96 channels, batch 2048, BatchNorm over '
  'all of it, learning rates 5e-5 and 2e-4, two discriminator steps, flips, no orthogonal penalty, '
  'averaging from step 20,000; its checkpoints, scored again by themselves, are better (FID 7.9, '
  'IS 99.7 at 198,000); no collapse',
  {
    'fid': (
      (2_000, 137.1), (4_000, 96.8), (6_000, 79.9), (10_000, 63.2), (20_000, 44.0),
      (26_000, 33.3), (30_000, 28.8), (40_000, 22.5), (50_000, 18.7), (60_000, 16.5),
      (80_000, 13.5), (100_000, 11.6), (120_000, 10.3), (140_000, 9.7), (160_000, 9.0),
      (180_000, 8.2), (200_000, 8.1),
    ),
    'is': (
      (2_000, 5.2), (4_000, 9.0), (6_000, 11.1), (10_000, 14.4), (20_000, 19.4),
      (26_000, 24.9), (30_000, 28.2), (40_000, 35.0), (50_000, 40.6), (60_000, 46.6),
      (80_000, 55.5), (100_000, 63.9), (120_000, 70.5), (140_000, 75.3), (160_000, 80.7),
      (180_000, 84.6), (200_000, 87.6),
    ),
  },
)  # fmt: skip

# logs/CIFAR10/BigGAN-train-2021_01_15_14_48_48.log of the same repository.
STUDIOGAN_CIFAR10 = Curve(
  'cifar10_studiogan',
  'PyTorch-StudioGAN, log of CIFAR10 BigGAN',
  "10,000 samples of averaged weights while training, TensorFlow's Inception weights (as in "
  'pytorch-fid), FID against the 10,000 test images; 96 channels, batch 64, learning rates 2e-4 '
  'and 2e-4, beta1 0.5, five discriminator steps, flips, averaging from step 1,000',
  {
    'fid': (
      (2_000, 45.4), (4_000, 39.9), (8_000, 32.6), (12_000, 24.3), (16_000, 18.4),
      (24_000, 12.8), (32_000, 10.9), (48_000, 9.2), (64_000, 8.5), (90_000, 8.05),
      (100_000, 8.1),
    ),
    'is': (
      (2_000, 6.0), (4_000, 7.1), (8_000, 8.4), (12_000, 8.8), (16_000, 9.2),
      (24_000, 9.5), (32_000, 9.7), (48_000, 9.8), (64_000, 9.9), (90_000, 9.8),
      (100_000, 9.8),
    ),
  },
)  # fmt: skip

CURVES = {curve.name: curve for curve in (BIGGAN_PYTORCH, STUDIOGAN_2048, STUDIOGAN_CIFAR10)}


def get(name: str) -> Curve | None:
  """Return a curve by its name, None for ''.

  Raises:
    UserError: there is no such curve.
  """
  return errors.pick(name, CURVES, 'eval.published') if name else None


def kind(name: str) -> str:
  """Return 'fid' or 'is' where a metric's name begins with that word, else ''."""
  found = re.match(r'(fid|is)(?![a-z])', name)  # not 'fidelity'
  return found[1] if found else ''


def at(points: Points, step: int) -> float | None:
  """Return the value at a step, linear in both logarithms between points; None outside them.

  On the published logs this is within 7 % of every value that the tables leave out.
  """
  for (left, low), (right, high) in itertools.pairwise(points):
    if left <= step <= right:
      share = math.log(step / left) / math.log(right / left)
      return low ** (1 - share) * high**share
  return None


def far_off(curve: Curve | None, step: int, scores: Mapping[str, float]) -> str:
  """Return a sentence about the scores that are far worse than the curve at this step, or ''.

  Args:
    curve: to compare with, None for none.
    step: of the scores; before the first published point and after the last nothing is said.
    scores: by name; see `kind` for which are compared.
  """
  worse = []
  for name, value in scores.items():
    expected = at(curve.metrics.get(kind(name), ()), step) if curve else None
    if expected is not None:
      numbers = f'{name} is {value:.1f} where {expected:.1f} is published'
      if kind(name) == 'fid' and value > FACTOR * expected:
        worse.append(f'{numbers} (more than {FACTOR} times as much)')
      elif kind(name) == 'is' and value < expected / FACTOR:
        worse.append(f'{numbers} (less than 1/{FACTOR} of it)')
  if not worse:
    return ''
  return (
    f'at step {step:,} {" and ".join(worse)} by {curve.source}; others who ran one published '
    f'program unchanged ended about a factor of {FACTOR} apart, so less than that is not reported.'
  )
