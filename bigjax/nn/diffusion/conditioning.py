"""Small images that a diffusion enlarges: how they are made, augmented, and kept for sampling.

Cascaded Diffusion Models (Ho et al. 2022): what a network enlarges in training is augmented, so
that it forgives the flaws of the samples that it is given later. `Noised` is Gaussian conditioning
augmentation (section 3), `Blurred` the blur of larger images (section 4.4), `Small` none, as in ADM
(Dhariwal & Nichol 2021), and `Nothing` is of networks that enlarge nothing, so that games need not
ask. Images are [B, H, W, C] in [-1, 1]; all that is drawn is drawn of a key for each example.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bigjax.nn.diffusion.tables import Tables

Array = jax.Array
Given = dict[str, Array]  # what a network is given besides: `low` [B, h, w, C], `level` [B]

AUGMENTATIONS = ('none', 'gaussian', 'blur')
BANK = 256  # images that are kept at least: of most classes, where there are tens


def shrink(images: Array, side: int) -> Array:
  """Images as small as that: means over squares ("area"), as guided-diffusion makes them."""
  b, h, w, c = images.shape
  return images.reshape(b, side, h // side, side, w // side, c).mean((2, 4))


def split(keys: Array) -> tuple[Array, Array]:
  """Two keys of each of keys [B]."""
  pairs = jax.vmap(jax.random.split)(keys)
  return pairs[:, 0], pairs[:, 1]


def normal_like(keys: Array, like: Array) -> Array:
  """N(0, I) noise of keys [B], [B, ...] as `like`."""
  return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:], like.dtype))(keys)


@dataclasses.dataclass(frozen=True)
class Nothing:
  """Of a network that makes images of noise alone: it is given nothing besides.

  Attributes:
    names: of what an example of a batch has for it.
    resolution: of the small images.
    levels: of noise that the network knows, beside none.
  """

  names = ()
  resolution = 0
  levels = 0

  def blank(self, num: int, channels: int) -> Given:
    """Of the shapes that the network is given, all 0."""
    del num, channels
    return {}

  def draw(self, keys: Array, images: Array) -> Given:
    """What the network is given in training, to learn `images`."""
    del keys, images
    return {}

  def start(self, num: int, channels: int) -> dict[str, Array]:
    """A bank of small images, to have something to enlarge, before there are any.

    It holds BANK of them, or the `num` of a batch, if these are more.
    """
    del num, channels
    return {}

  def keep(self, bank: dict[str, Array], images: Array, labels: Array) -> dict[str, Array]:
    """The bank, uint8 and int32 arrays, with a batch in place of the oldest images."""
    del images, labels
    return bank

  def card(self) -> dict[str, Any]:
    return {}


NOTHING = Nothing()


@dataclasses.dataclass(frozen=True)
class Small:
  """Small images as they are; see `Nothing` for what its methods are for."""

  resolution: int
  names = ('low',)
  levels = 0

  def blank(self, num: int, channels: int) -> Given:
    return {'low': jnp.zeros((num, self.resolution, self.resolution, channels), jnp.float32)}

  def draw(self, keys: Array, images: Array) -> Given:
    return self.augmented(keys, shrink(images, self.resolution))

  def augmented(self, keys: Array, low: Array) -> Given:
    """What the network is given in training of small images."""
    del keys
    return {'low': low}

  def given(self, keys: Array, low: Array, level: int, noisy: bool = False) -> Given:
    """What the network is given when it samples, which is never blurred.

    Args:
      keys: [B], of noise.
      low: small images.
      level: how noisy the network is told they are, up to `levels`; 0: not at all.
      noisy: whether they are as noisy already.
    """
    del keys, level, noisy
    return {'low': low}

  def start(self, num: int, channels: int) -> dict[str, Array]:
    size = max(num, BANK)
    shape = size, self.resolution, self.resolution, channels
    return {'low': jnp.full(shape, 128, jnp.uint8), 'label': jnp.zeros((size,), jnp.int32)}

  def keep(self, bank: dict[str, Array], images: Array, labels: Array) -> dict[str, Array]:
    low = jnp.round((shrink(images, self.resolution) + 1) * 127.5).clip(0, 255)
    new = {'low': low.astype(jnp.uint8), 'label': labels.astype(jnp.int32)}
    size = len(bank['label'])
    return {name: jnp.concatenate([new[name], bank[name]])[:size] for name in new}

  def card(self) -> dict[str, Any]:
    return {'low_resolution': self.resolution, 'augmentation': 'none'}


@dataclasses.dataclass(frozen=True)
class Noised(Small):
  """z_s of small images z, of a process, for all s alike; the network is told s.

  Level s is step s - 1 of `tables.py`, where steps are numbered from 0: level 0 is no noise.

  Attributes:
    tables: of the whole process.
    most: levels; at most the process' steps.
  """

  tables: Tables
  most: int
  names = ('low', 'level')

  @property
  def levels(self) -> int:
    return self.most

  def blank(self, num: int, channels: int) -> Given:
    return {**super().blank(num, channels), 'level': jnp.zeros((num,), jnp.int32)}

  def augmented(self, keys: Array, low: Array) -> Given:
    keys_level, keys_noise = split(keys)
    draw = lambda key: jax.random.randint(key, (), 0, self.most + 1)
    level = jax.vmap(draw)(keys_level)
    return {'low': self.noised(keys_noise, low, level), 'level': level}

  def given(self, keys: Array, low: Array, level: int, noisy: bool = False) -> Given:
    levels = jnp.full(low.shape[:1], level)
    low = low if noisy else self.noised(split(keys)[1], low, levels)
    return {'low': low, 'level': levels}

  def noised(self, keys: Array, low: Array, level: Array) -> Array:
    """Small images with the noise of levels [B]; level 0 changes none of their bits."""
    rows = (-1, 1, 1, 1)
    kept = jnp.asarray([1.0, *self.tables.alpha_bar], low.dtype)[level].reshape(rows)
    lost = jnp.asarray([0.0, *(1 - self.tables.alpha_bar)], low.dtype)[level].reshape(rows)
    return jnp.sqrt(kept) * low + jnp.sqrt(lost) * normal_like(keys, low)

  def card(self) -> dict[str, Any]:
    return {**super().card(), 'augmentation': 'gaussian', 'augmentation_most': self.most}


@dataclasses.dataclass(frozen=True)
class Blurred(Small):
  """Half of the small images blurred, by 3x3 pixels of a Gaussian.

  Attributes:
    share: of examples that are blurred.
    sigma: the ends of the even law of its deviation, in pixels.
  """

  share: float = 0.5
  sigma: tuple[float, float] = (0.4, 0.6)

  def augmented(self, keys: Array, low: Array) -> Given:
    return {'low': blur(low, self.neighbours(keys))}

  def neighbours(self, keys: Array) -> Array:
    """Weights [B] of the pixels beside one whose weight is 1; 0 where nothing is blurred."""
    keys_share, keys_sigma = split(keys)
    some = jax.vmap(lambda key: jax.random.bernoulli(key, self.share))(keys_share)
    draw = lambda key: jax.random.uniform(key, (), minval=self.sigma[0], maxval=self.sigma[1])
    return jnp.where(some, jnp.exp(-0.5 / jnp.square(jax.vmap(draw)(keys_sigma))), 0)

  def card(self) -> dict[str, Any]:
    return {**super().card(), 'augmentation': 'blur'}


def blur(images: Array, beside: Array) -> Array:
  """Images blurred along both axes; what lies beyond an edge is as the edge.

  Args:
    beside: [B], weights of both neighbours of a pixel whose weight is 1.
  """
  beside = beside.astype(images.dtype).reshape(-1, 1, 1, 1)
  for axis in (1, 2):
    ends = [(1, 1) if a == axis else (0, 0) for a in range(images.ndim)]
    wide, size = jnp.pad(images, ends, mode='edge'), images.shape[axis]
    cut = lambda start: jax.lax.slice_in_dim(wide, start, start + size, axis=axis)  # noqa: B023
    images = (images + beside * (cut(0) + cut(2))) / (1 + 2 * beside)
  return images


Conditioning = Nothing | Small


def make(resolution: int, name: str, tables: Tables, most: int) -> Conditioning:
  """The conditioning of a network.

  Args:
    resolution: of the small images; 0: there are none.
    name: one of AUGMENTATIONS.
    tables: of the network's process.
    most: of `Noised`; 0: all steps.
  """
  if not resolution:
    return NOTHING
  if name == 'gaussian':
    return Noised(resolution, tables, most or tables.num)
  return Blurred(resolution) if name == 'blur' else Small(resolution)


def of_card(fields: Mapping[str, Any], tables: Tables) -> Conditioning:
  """The conditioning that a card's architecture states, which is none where it states nothing."""
  known = fields.get('low_resolution', 0), fields.get('augmentation', 'none')
  return make(*known, tables, fields.get('augmentation_most', 0))


CARD = ('low_resolution', 'augmentation', 'augmentation_most')  # what `card` may state
