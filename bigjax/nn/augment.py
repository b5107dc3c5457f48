"""Differentiable augmentations of real and fake images alike: (key, images) of one example.

`none` is the augmentation that does nothing; the others follow DiffAugment (Zhao et al. 2020).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Augment = Callable[[jax.Array, jax.Array], jax.Array]  # (keys [B], images [B, H, W, C]) -> images


def none(keys: jax.Array, images: jax.Array) -> jax.Array:
  """Return the images as they are."""
  del keys
  return images


def translation(keys: jax.Array, images: jax.Array) -> jax.Array:
  """Shift each image by whole pixels, up to an eighth of its side, filling with 0 (mid-grey)."""
  key_y, key_x = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
  images = _shift(key_y, images)
  return _shift(key_x, images.swapaxes(1, 2)).swapaxes(1, 2)


def _shift(keys: jax.Array, images: jax.Array) -> jax.Array:
  """Shift along axis 1: a matrix product, whose gradient is no serial scatter."""
  side = images.shape[1]
  most = side // 8
  by = jax.vmap(lambda key: jax.random.randint(key, (), -most, most + 1))(keys)
  rows = jnp.arange(side)[None] + by[:, None]  # [B, side]
  # One-hot matrices rather than indices: rows outside the image are zero, and so is their gradient.
  return jnp.einsum(
    'brs,bs...->br...', jax.nn.one_hot(rows, side, dtype=images.dtype), images, precision='highest'
  )


AUGMENTATIONS: dict[str, Augment] = {'none': none, 'translation': translation}
