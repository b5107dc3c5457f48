"""DiffAugment (Zhao et al. 2020): colour, translation and cutout of images in [-1, 1].

Each example has its own draws; what leaves the frame or is cut out becomes 0, mid-grey. None of
them looks at the strength.
"""

import dataclasses

import jax
import jax.numpy as jnp

from bigjax.core import errors, trees

TRANSLATION = 0.125  # of a side, at most
CUTOUT = 0.5  # of a side; Projected GAN's is 0.2


def color(keys: jax.Array, images: jax.Array, strength: jax.Array | float) -> jax.Array:
  """Change brightness by up to 0.5, saturation by up to 1 and contrast by up to a half."""
  del strength
  brightness, saturation, contrast = jax.vmap(lambda key: jax.random.uniform(key, (3,)))(keys).T
  return adjust_color(images, brightness - 0.5, 2 * saturation, contrast + 0.5)


def adjust_color(
  images: jax.Array, brightness: jax.Array, saturation: jax.Array, contrast: jax.Array
) -> jax.Array:
  """Add the brightness, then scale what differs from a pixel's mean, then from the image's.

  Args:
    images: [B, H, W, C].
    brightness, saturation, contrast: [B].
  """
  x = trees.at_least_float32(images)
  per_image = lambda value: value.astype(x.dtype)[:, None, None, None]
  x = x + per_image(brightness)
  grey = x.mean(3, keepdims=True)
  x = (x - grey) * per_image(saturation) + grey
  mean = x.mean((1, 2, 3), keepdims=True)
  return ((x - mean) * per_image(contrast) + mean).astype(images.dtype)


def flip(keys: jax.Array, images: jax.Array, strength: jax.Array | float) -> jax.Array:
  """Mirror half of the images: no part of DiffAugment, but of what CR compares images with."""
  del strength
  mirrored = jax.vmap(jax.random.bernoulli)(keys)[:, None, None, None]
  return jnp.where(mirrored, images[:, :, ::-1], images)


def translation(keys: jax.Array, images: jax.Array, strength: jax.Array | float) -> jax.Array:
  """Shift each image by whole pixels, up to an eighth of its side, filling with 0."""
  del strength
  key_y, key_x = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
  h, w = images.shape[1:3]
  return shift(images, _draw_shift(key_y, h), _draw_shift(key_x, w))


def _draw_shift(keys: jax.Array, side: int) -> jax.Array:
  most = int(side * TRANSLATION + 0.5)
  return jax.vmap(lambda key: jax.random.randint(key, (), -most, most + 1))(keys)


def shift(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
  """Image b of the result has at (y, x) what was at (y + rows[b], x + columns[b]), or 0."""
  images = _shift_rows(images, rows)
  return _shift_rows(images.swapaxes(1, 2), columns).swapaxes(1, 2)


def _shift_rows(images: jax.Array, by: jax.Array) -> jax.Array:
  """Shift along axis 1: a matrix product, whose gradient is no serial scatter."""
  side = images.shape[1]
  rows = jnp.arange(side)[None] + by[:, None]  # [B, side]
  # One-hot matrices rather than indices: rows outside the image are zero, and so is their gradient.
  return jnp.einsum(
    'brs,bs...->br...', jax.nn.one_hot(rows, side, dtype=images.dtype), images, precision='highest'
  )


def cutout(
  keys: jax.Array, images: jax.Array, strength: jax.Array | float, ratio: float = CUTOUT
) -> jax.Array:
  """Blank a square of `ratio` of the sides, centred anywhere in the image."""
  del strength
  key_y, key_x = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
  h, w = images.shape[1:3]
  return cut(images, _draw_centre(key_y, h, ratio), _draw_centre(key_x, w, ratio), ratio)


def _draw_centre(keys: jax.Array, side: int, ratio: float) -> jax.Array:
  # A square of even size may be centred on either edge of the image.
  num = side + 1 - _size(side, ratio) % 2
  return jax.vmap(lambda key: jax.random.randint(key, (), 0, num))(keys)


def _size(side: int, ratio: float) -> int:
  return int(side * ratio + 0.5)


def cut(images: jax.Array, rows: jax.Array, columns: jax.Array, ratio: float) -> jax.Array:
  """Blank what lies in the image of a square centred at (rows[b], columns[b])."""

  def inside(side, centre):
    first = centre - _size(side, ratio) // 2
    at = jnp.arange(side)[None] - first[:, None]  # [B, side]
    return (at >= 0) & (at < _size(side, ratio))

  h, w = images.shape[1:3]
  square = inside(h, rows)[:, :, None, None] & inside(w, columns)[:, None, :, None]
  return jnp.where(square, jnp.zeros((), images.dtype), images)


TRANSFORMS = {'color': color, 'flip': flip, 'translation': translation, 'cutout': cutout}


@dataclasses.dataclass(frozen=True)
class Policy:
  """Transforms one after the other, an augmentation itself; policies of equal fields are equal."""

  names: tuple[str, ...]
  cutout_ratio: float = CUTOUT

  def __call__(
    self, keys: jax.Array, images: jax.Array, strength: jax.Array | float = 1.0
  ) -> jax.Array:
    num = len(self.names)  # one transform alone takes the keys as they are
    keys = jax.vmap(lambda key: jax.random.split(key, num))(keys) if num > 1 else keys[:, None]
    for i, name in enumerate(self.names):
      more = {'ratio': self.cutout_ratio} if name == 'cutout' else {}
      images = TRANSFORMS[name](keys[:, i], images, strength, **more)
    return images


def policy(text: str, cutout_ratio: float = CUTOUT) -> Policy:
  """Read a policy such as 'color,translation,cutout'; its order is kept.

  Raises:
    UserError: a name is not in TRANSFORMS.
  """
  names = tuple(name.strip() for name in text.split(','))
  for name in names:
    errors.pick(name, TRANSFORMS, 'a transform of DiffAugment')
  return Policy(names, cutout_ratio)
