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
  _, h, w, _ = images.shape

  def shift(key, image):
    dy, dx = jax.random.randint(
      key,
      (2,),
      minval=jnp.array([-(h // 8), -(w // 8)]),
      maxval=jnp.array([h // 8 + 1, w // 8 + 1]),
    )
    padded = jnp.pad(image, ((h // 8, h // 8), (w // 8, w // 8), (0, 0)))
    return jax.lax.dynamic_slice(padded, (h // 8 + dy, w // 8 + dx, 0), image.shape)

  return jax.vmap(shift)(keys, images)


AUGMENTATIONS: dict[str, Augment] = {'none': none, 'translation': translation}
