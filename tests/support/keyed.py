"""Keys and images for tests of augmentations."""

import jax
import jax.numpy as jnp
import numpy as np


def keys(num, seed=0):
  return jax.random.split(jax.random.key(seed), num)


def images(*shape):
  return jnp.asarray(np.random.default_rng(0).uniform(0.1, 1, size=shape), jnp.float32)


def nhwc(array, dtype=np.float64):
  """Images of a golden file, [B, C, H, W]."""
  return jnp.asarray(np.asarray(array, dtype).transpose(0, 2, 3, 1))


def distance(a, b):
  """The largest difference, relative to the largest number of b."""
  return float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max())
