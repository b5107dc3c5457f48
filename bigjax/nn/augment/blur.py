"""A blur of images that fades out as training goes on (Karras et al. 2021; Sauer et al. 2021)."""

import dataclasses
import math

import jax
import jax.numpy as jnp

Array = jax.Array


def no_blur(images: Array, seen: Array) -> Array:
  """The images as they are."""
  del seen
  return images


@dataclasses.dataclass(frozen=True)
class FadingBlur:
  """(Images [B, H, W, C], images seen so far, float32 scalar) -> images blurred.

  The filter is 2^-(i / sigma)^2 for |i| <= floor(3 sigma), with zeros beyond the border.

  Attributes:
    sigma: in pixels, at the beginning.
    images: after so many it is 0.
  """

  sigma: float
  images: float

  def __call__(self, images: Array, seen: Array) -> Array:
    sigma = self.sigma * jnp.maximum(1 - seen / self.images, 0)

    def taps(distance):
      tap = jnp.exp2(-jnp.square(distance / jnp.maximum(sigma, 1e-6)))
      return jnp.where(distance <= jnp.floor(3 * sigma), tap, 0)

    # All taps, also of those that lie beyond the border: it darkens there.
    radius = math.floor(3 * self.sigma)
    whole = taps(jnp.abs(jnp.arange(-radius, radius + 1, dtype=jnp.float32))).sum()
    for axes in ('bhwc,rh->brwc', 'bhwc,rw->bhrc'):
      side = images.shape[1 if 'rh' in axes else 2]
      at = jnp.arange(side, dtype=jnp.float32)
      matrix = (taps(jnp.abs(at[:, None] - at[None])) / whole).astype(images.dtype)
      images = jnp.einsum(axes, images, matrix, precision='highest')
    return images
