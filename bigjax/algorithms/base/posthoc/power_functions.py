"""Averages of weights whose profile is a power function, and others made of those afterwards.

Karras et al. 2024 (Analyzing and improving the training dynamics of diffusion models, Section 3 and
Appendix C). An average that was tracked up to time T weighs the weights of time t by (t / T)^gamma;
its width is `std`, the profile's standard deviation over T. Any average is nearly a sum of stored
ones: that with the least squared error of the profiles. Times are counted from 1, in steps; only
their ratios matter.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def exponent(std: float) -> float:
  """The power gamma of a profile of this width (Eq. 126), above 0 and below 0.289."""
  # deviation(gamma) = std is a cubic, whose largest root is the one above -1.
  inverse = float(std) ** -2
  return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def deviation(gamma: float) -> float:
  """The width of the profile t^gamma over its length (Eq. 123)."""
  return float(np.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2))


@functools.partial(jax.named_call, name='optimizer')
def updated(average: Any, params: Any, step: jax.Array, std: float) -> Any:
  """The average after an update.

  What it gives the weights of each step since the first is, to the last digit, the integral of the
  profile over that step.

  Args:
    average: of the steps before.
    params: the weights after the update.
    step: updates done before, int32; where that is 0, the average becomes those weights.
    std: width of its profile.
  """
  power, t = exponent(std) + 1, step.astype(jnp.float32) + 1
  # 1 - beta of Eq. 127, beta = (1 - 1 / t)^(gamma + 1), without the loss of digits near 1.
  share = -jnp.expm1(power * jnp.log1p(-1 / t))
  return jax.tree.map(lambda a, p: a + share.astype(p.dtype) * (p - a), average, params)


def inner(a: np.ndarray, a_std: np.ndarray, b: np.ndarray, b_std: np.ndarray) -> np.ndarray:
  """Inner products [n, m] of the profiles that end at times a [n] and b [m] (Eq. 151)."""
  gammas = [np.array([exponent(std) for std in stds]) for stds in (a_std, b_std)]
  (a, b), (p, q) = np.meshgrid(a, b, indexing='ij'), np.meshgrid(*gammas, indexing='ij')
  # Over the shorter of them; the power that is left is that of the longer.
  ratio, power = np.minimum(a, b) / np.maximum(a, b), np.where(a < b, q, p)
  return (p + 1) * (q + 1) / (p + q + 1) * ratio**power / np.maximum(a, b)


def coefficients(
  times: np.ndarray, stds: np.ndarray, time: float, std: float
) -> tuple[np.ndarray, float]:
  """(Coefficients [n] of stored averages that make another, its profile's relative error).

  Args:
    times, stds: [n], where the stored ones end and how wide they are; all different.
    time, std: of the one that is wanted.
  Returns:
    The coefficients, which sum to 1 (Algorithm 3), and the root of the squared error of their
    profile over the squared profile that is wanted.
  """
  products = inner(times, stds, times, stds)
  wanted = inner(times, stds, np.array([time]), np.array([std]))[:, 0]
  norms = np.sqrt(np.diag(products))
  found = np.linalg.lstsq(products / np.outer(norms, norms), wanted / norms, rcond=None)[0] / norms
  found /= found.sum()
  own = inner(*2 * (np.array([time]), np.array([std])))[0, 0]
  squared = own + found @ products @ found - 2 * found @ wanted
  return found, float(np.sqrt(max(squared, 0.0) / own))
