"""Maps of a frozen network at several scales of an image, and distances of images by these.

The perceptual distance is that of Zhang et al. 2018 (LPIPS) without its learned weights: squared
distances of maps whose pixels are of length 1, averaged over pixels and added up over the scales.
It is of another network than theirs, so its name says which, and its values compare with each other
only. Where there is no network at hand, there is one of pixels.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bigjax.core import errors, trees
from bigjax.models.pretrained import efficientnet_lite0, registry
from bigjax.models.pretrained.published import DISTANCES
from bigjax.models.pretrained.torch_layout import shapes

Array = jax.Array
NETWORKS = ('efficientnet_lite0', 'efficientnet_lite0_random')


@dataclasses.dataclass(frozen=True)
class Tapped:
  """Weights whose maps can be had; `efficientnet_lite0.Trunk` makes the maps.

  Attributes:
    name: of `NETWORKS`.
    digest: of all weights of the network, as `registry.FeatureNetwork` has it.
    licence: of the weights; '' where they are drawn.
    variables: NumPy arrays, of the trunk alone.
  """

  name: str
  digest: str
  licence: str
  variables: Any = dataclasses.field(compare=False)


def load(name: str, path: str | None = None) -> Tapped:
  """Weights of a network without its head.

  Args:
    name: of `NETWORKS`.
    path: see `registry.load`.
  Raises:
    UserError: no such network; weights that are missing or damaged.
  """
  errors.pick(name, dict.fromkeys(NETWORKS), 'the network')
  whole = registry.load(name, path)
  flat = trees.flat(whole.variables)
  variables = trees.nest({path: flat[path] for path in shapes(efficientnet_lite0.Trunk())})
  return Tapped(name, whole.digest, whole.licence, variables)


# --- Distances of images


SIDES = (32, 256)  # pixels a side of what the network is shown: smaller and larger ones are resized


@dataclasses.dataclass(frozen=True, eq=False)
class ImageDistance:
  """A distance of images in [-1, 1], [B, H, W, 1 or 3], pure and differentiable, with its weights.

  Attributes:
    name: with that of the network: 'perceptual_efficientnet_lite0'; or 'pixels'.
    digest: see `Tapped`; '' where there are no weights.
    variables: NumPy arrays, as `look` takes them.
    look: (variables, images) -> what is compared of them.
    between: (what is seen of images, of as many others) -> float32 [B].
  """

  name: str
  digest: str
  variables: Any
  look: Callable[[Any, Array], Any]
  between: Callable[[Any, Any], Array]

  def apply(self, variables: Any, images: Array, others: Array) -> Array:
    """Distances [B] of images and as many others."""
    return self.between(self.look(variables, images), self.look(variables, others))

  def name_at(self, side: int) -> str:
    """The name for images of so many pixels a side, with the size where they are resized."""
    shown = shown_side(side) if self.digest else side
    return self.name + (f'_at{shown}px' if shown != side else '')


def shown_side(side: int) -> int:
  """Pixels a side at which a network is shown images of so many."""
  least, most = SIDES
  if side < least:
    return side * -(-least // side)
  return side // max(side // most, 1)


def resized(images: Array) -> Array:
  """Images [B, H, W, C] at the size of `shown_side`: repeated, or averaged over squares."""
  b, h, w, c = images.shape
  side = min(h, w)
  if side < SIDES[0]:
    times = shown_side(side) // side
    return images.repeat(times, 1).repeat(times, 2)
  cut = max(side // SIDES[1], 1)
  images = images[:, : h // cut * cut, : w // cut * cut]
  return images.reshape(b, h // cut, cut, w // cut, cut, c).mean((2, 4))


def distance(ours: Sequence[Array], theirs: Sequence[Array]) -> Array:
  """The perceptual distance [B] of two images' maps, each [B, H, W, C], one for every scale."""

  def unit(x):
    # The square root is of more than 0, or a black image would have no gradient.
    return x / jnp.sqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-10)

  squares = [
    jnp.square(unit(a) - unit(b)).sum(-1).mean((1, 2)) for a, b in zip(ours, theirs, strict=True)
  ]
  return sum(squares)


def perceptual(name: str, path: str | None = None) -> ImageDistance:
  """The perceptual distance of a network, of images of 32 to 511 px a side; others are resized.

  Args:
    name, path: see `load`.
  Raises:
    UserError: see `load`.
  """
  tapped, trunk = load(name, path), efficientnet_lite0.Trunk()

  def look(variables, images):
    images = (resized(images) + 1) * 127.5
    return trunk.apply(variables, jnp.repeat(images, 3 // images.shape[-1], axis=3))['taps']

  return ImageDistance(f'perceptual_{name}', tapped.digest, tapped.variables, look, distance)


def pixels() -> ImageDistance:
  """The mean squared difference of pixels in [-1, 1]."""
  between = lambda ours, theirs: jnp.square(ours - theirs).mean((1, 2, 3))
  return ImageDistance('pixels', '', {}, lambda variables, images: images, between)


def image_distance(name: str | None, path: str | None = None) -> ImageDistance:
  """A distance of images by name.

  Args:
    name: of `DISTANCES`; None for that of the pretrained network where its weights are at hand or
      a file of them is given, else of pixels.
    path: of the network's weights; see `load`.
  Raises:
    UserError: there is none of that name; see `load`.
  """
  if name is None:
    try:
      return perceptual(NETWORKS[0], path)
    except errors.UserError:
      if path is not None:  # who names a file wants that one, not pixels in its stead
        raise
      return pixels()
  errors.pick(name, dict.fromkeys(DISTANCES), '--distance')
  return pixels() if name == 'pixels' else perceptual(name, path)
