"""Maps of a frozen network at several scales of an image, and a perceptual distance in them.

The distance is that of Zhang et al. 2018 (LPIPS) without its learned weights: squared distances of
maps whose pixels are of length 1, averaged over pixels and added up over the scales. It is of
another network than theirs, so its name says which, and its values compare with each other only.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bigjax.core import errors, trees
from bigjax.models.pretrained import efficientnet_lite0, registry
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


# --- A perceptual distance


@dataclasses.dataclass(frozen=True, eq=False)
class PerceptualDistance:
  """A distance of images with its weights.

  Attributes:
    name: with that of the network: 'perceptual_efficientnet_lite0'.
    digest: see `Tapped`.
    variables: NumPy arrays, as `apply` takes them.
    apply: (variables, images [B, H, W, 1 or 3] in [-1, 1], others) -> float32 [B], pure and
      differentiable; images are looked at as large as they are, of at least 32 px.
  """

  name: str
  digest: str
  variables: Any
  apply: Callable[[Any, Array, Array], Array]


def distance(ours: Sequence[Array], theirs: Sequence[Array]) -> Array:
  """The perceptual distance [B] of two images' maps, each [B, H, W, C], one for every scale."""

  def unit(x):
    # The square root is of more than 0, or a black image would have no gradient.
    return x / jnp.sqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-10)

  squares = [
    jnp.square(unit(a) - unit(b)).sum(-1).mean((1, 2)) for a, b in zip(ours, theirs, strict=True)
  ]
  return sum(squares)


def perceptual(name: str, path: str | None = None) -> PerceptualDistance:
  """The perceptual distance of a network.

  Args:
    name, path: see `load`.
  Raises:
    UserError: see `load`.
  """
  tapped, trunk = load(name, path), efficientnet_lite0.Trunk()

  def apply(variables, images, others):
    taps = [
      trunk.apply(variables, jnp.repeat((x + 1) * 127.5, 3 // x.shape[-1], axis=3))['taps']
      for x in (images, others)
    ]
    return distance(*taps)

  return PerceptualDistance(f'perceptual_{name}', tapped.digest, tapped.variables, apply)
