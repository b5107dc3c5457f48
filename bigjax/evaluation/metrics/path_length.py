"""Perceptual path length (Karras et al. 2019, Section 4.1): how far images move along a path.

The distance of two images that lie `EPSILON` apart on a path between two latents, over its square,
in expectation. In z the path is an arc, in w a straight line. Here on an arc the norm goes from one
end's to the other's; where a mapping network normalises z, that is the authors' path.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

EPSILON = 1e-4
TAILS = 1, 99  # percentiles outside which a distance does not count


def lerp(a: Array, b: Array, t: Array) -> Array:
  """Points of straight lines [B, n] from a to b [B, n], at t [B]."""
  return a + t[:, None] * (b - a)


def slerp(a: Array, b: Array, t: Array) -> Array:
  """Points of arcs between latents [B, ...], at t [B]; the norm goes linearly between the ends'."""
  shape, (a, b) = a.shape, (x.reshape(len(x), -1) for x in (a, b))
  norm_a, norm_b = (jnp.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
  a, b, t = a / norm_a, b / norm_b, t[:, None]
  cosine = (a * b).sum(1, keepdims=True).clip(-1, 1)
  across = b - cosine * a
  across = across / jnp.maximum(jnp.linalg.norm(across, axis=1, keepdims=True), 1e-12)
  angle = t * jnp.arccos(cosine)
  point = jnp.cos(angle) * a + jnp.sin(angle) * across
  return (point * (norm_a + t * (norm_b - norm_a))).reshape(shape)


def cropped(images: Array) -> Array:
  """The part of aligned portraits [B, H, W, C] that the face is in, as in the authors' code."""
  eighth = images.shape[1] // 8
  return images[:, 3 * eighth : 7 * eighth, 2 * eighth : 6 * eighth]


def lengths(
  at: Callable[[Array], Array], distance: Callable[[Array, Array], Array], t: Array
) -> Array:
  """Path lengths [B] at t.

  Args:
    at: t [B] -> images [B, H, W, C] on B paths.
    distance: of images and as many others: [B].
    t: [B] in [0, 1].
  """
  return distance(at(t), at(t + EPSILON)) / EPSILON**2


def expected(found: np.ndarray) -> float:
  """The mean of lengths [n] between the first and the last percentile."""
  low = np.percentile(found, TAILS[0], method='lower')
  high = np.percentile(found, TAILS[1], method='higher')
  return float(found[(found >= low) & (found <= high)].mean(dtype=np.float64))
