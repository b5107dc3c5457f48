"""Frames of clips as images: [B, T, ...] and [B T, ...], the frames of a clip side by side."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array


def fold(x: Array) -> Array:
  """[B, T, ...] -> [B T, ...]."""
  return x.reshape(-1, *x.shape[2:])


def unfold(x: Array, frames: int) -> Array:
  """[B T, ...] -> [B, T, ...]."""
  return x.reshape(-1, frames, *x.shape[1:])


def each(fn: Callable[[Array], Array], x: Array) -> Array:
  """`fn` of all frames [B, T, ...] as if they were images."""
  return unfold(fn(fold(x)), x.shape[1])


def pool_space(x: Array, scale: int) -> Array:
  """Means over squares of `scale` pixels a side: [..., H, W, C] -> [..., H/scale, W/scale, C]."""
  if scale == 1:
    return x
  *lead, h, w, c = x.shape
  return x.reshape(*lead, h // scale, scale, w // scale, scale, c).mean((-4, -2))


def pool_time(x: Array) -> Array:
  """Means over pairs of frames: [B, T, ...] -> [B, ceil(T/2), ...]; an odd one stays alone."""
  if x.shape[1] % 2:
    x = jnp.concatenate([x, x[:, -1:]], 1)
  b, t = x.shape[:2]
  return x.reshape(b, t // 2, 2, *x.shape[2:]).mean(2)
