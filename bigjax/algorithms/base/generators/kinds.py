"""Generators of several papers for one game to choose from: FastGAN, its light form, StyleGAN2.

A kind of generator, as `KINDS` has them by name, makes an object for training that holds what only
this kind has: `net`; `init` of its parameters; `start` of what it carries in aux beside them;
`images` in training; what it has `carried` after a step, which is sampled with it; its `card`. And
it makes of that card the generator as it is sampled.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from bigjax.algorithms.base import contract, draws, player, truncation
from bigjax.algorithms.base.contract import Gen
from bigjax.algorithms.base.draws import purpose
from bigjax.algorithms.base.standing_statistics import StandingStatistics
from bigjax.core import errors
from bigjax.models import fastgan, projected_gan, stylegan2
from bigjax.nn.latents import SamplingSpec, law
from bigjax.nn.style import blocks

Array = jax.Array
W_DECAY = 0.998  # of StyleGAN2's average w, per step


@dataclasses.dataclass(frozen=True)
class FastGAN:
  """FastGAN's generator in this game, full or lite; it carries nothing from step to step."""

  net: fastgan.Generator

  def init(self, key: Array) -> Any:
    """Fresh parameters."""
    net = self.net.clone(bn_group=None)  # two examples need not divide
    z, y = jnp.zeros((2, net.z_dim)), jnp.zeros((2,), jnp.int32)
    return net.init(key, z, y, train=True)['params']

  def start(self) -> dict[str, Array]:
    return {}

  def images(self, weights: Any, z: Array, y: Array, keys: Array) -> Array:
    """Images in training [b, r, r, C], with noise of the examples' keys."""
    noise = fastgan.noise_maps(self.net, purpose(keys, 'noise'))
    variables = {'params': weights}
    return self.net.apply(variables, z, y, train=True, noise=noise, mutable=['moments'])[0]

  def carried(self, aux: dict[str, Any], weights: Any, examples: dict) -> dict[str, Array]:
    del aux, weights, examples
    return {}

  def card(self) -> dict[str, Any]:
    fields = ('resolution', 'num_classes', 'z_dim', 'ngf', 'channels')
    values = {name: getattr(self.net, name) for name in fields}
    return {'network': 'fastgan_lite' if self.net.lite else 'fastgan', **values}


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['truncation'],
  meta_fields=['dialect', 'standing_passes', 'standing_batch', 'noise'],
)
@dataclasses.dataclass(frozen=True)
class NoisySpec(SamplingSpec):
  """Sampling settings of a FastGAN; `noise` is a key of draws.NOISE."""

  noise: str = 'random'

  def __str__(self) -> str:
    words = super().__str__()
    return words if self.noise == 'random' else f'{words}, noise {self.noise}'

  def described(self) -> dict[str, str | int]:
    return super().described() | ({} if self.noise == 'random' else {'noise': self.noise})


@dataclasses.dataclass(frozen=True)
class NoisyStatistics(StandingStatistics):
  """A sampled FastGAN, with noise in its layers; `gen` is prepared for that of each sample's own.

  BatchNorm sees the noise, so that moments are measured anew with another one.
  """

  options = {**StandingStatistics.options, 'noise': draws.NOISE_HELP}  # noqa: RUF012

  def spec(self, sampling: Mapping[str, Any], given: Mapping[str, str] | None = None) -> NoisySpec:
    return NoisySpec(**vars(super().spec(sampling, given)), noise=draws.read_noise(given))

  def given(self, gen: Gen, z: Array, y: Array, spec: NoisySpec) -> dict[str, Any]:
    del gen, y
    keys = draws.noise_keys(spec.noise, z)
    return {'noise': () if keys is None else fastgan.noise_maps(self.net, keys)}

  def with_noise_of(self, gen: Gen, z: Array, y: Array, spec: NoisySpec, others: Array) -> Array:
    given = self.given(gen, others, y, spec)
    return self.made(self.variables(gen, spec), z, y, train=False, **given)

  def provenance(self, gen: Gen, spec: NoisySpec, sampling: Mapping[str, Any]) -> tuple[bool, str]:
    return super().provenance(gen if spec.noise == 'random' else self.bare(gen), spec, sampling)


def make_fastgan(config: ml_collections.ConfigDict, ways: dict[str, Any], lite: bool) -> FastGAN:
  """FastGAN's generator of a config, computed in these ways.

  Raises:
    UserError: there is none of its resolution.
  """
  data, model = config.data, config.model
  if data.resolution not in fastgan.RESOLUTIONS:
    raise errors.UserError(
      f'data.resolution is {data.resolution}; FastGAN has networks for '
      f'{", ".join(map(str, fastgan.RESOLUTIONS))}.'
    )
  sizes = data.resolution, data.num_classes, model.z_dim, model.ngf, data.channels
  remat = config.run.remat
  return FastGAN(fastgan.Generator(*sizes, lite, model.bn_group or None, remat, **ways))


def sampled_fastgan(fields: dict[str, Any], lite: bool) -> StandingStatistics:
  """The sampled network of a card's fields; a light one has no noise."""
  kind = StandingStatistics if lite else NoisyStatistics
  return kind(law=law('normal'), net=fastgan.Generator(**fields, lite=lite))


@dataclasses.dataclass(frozen=True)
class StyleGAN2:
  """StyleGAN2's generator in this game: it carries the average w; styles are not mixed."""

  net: stylegan2.Generator

  def init(self, key: Array) -> Any:
    """Fresh parameters."""
    z, y = jnp.zeros((1, self.net.z_dim)), jnp.zeros((1,), jnp.int32)
    return self.net.init(key, z, y)['params']

  def start(self) -> dict[str, Array]:
    return {'w_avg': jnp.zeros((self.net.w_dim,), jnp.float32)}

  def images(self, weights: Any, z: Array, y: Array, keys: Array) -> Array:
    """Images in training [b, r, r, C], with noise of the examples' keys."""
    noise = truncation.noise_maps(purpose(keys, 'noise'), self.net.resolution)
    images: Any = self.net.apply({'params': weights}, z, y, noise)
    return images

  def carried(self, aux: dict[str, Any], weights: Any, examples: dict) -> dict[str, Array]:
    mapping = lambda weights, batch: truncation.mapped(self.net, weights, batch['z'], batch['y'])
    old = aux['w_avg']
    return {'w_avg': truncation.averaged_w(old, mapping, weights, examples, W_DECAY)}

  def card(self) -> dict[str, Any]:
    fields = (
      'resolution', 'num_classes', 'z_dim', 'w_dim', 'mapping_layers', 'fmap_base', 'fmap_max',
      'channels',
    )  # fmt: skip
    return {'network': 'stylegan2', **{name: getattr(self.net, name) for name in fields}}


def make_stylegan2(config: ml_collections.ConfigDict, ways: dict[str, Any]) -> StyleGAN2:
  """StyleGAN2's generator of a config, computed in these ways.

  Raises:
    UserError: its resolution is no power of two.
  """
  data, model = config.data, config.model
  blocks.level_of(data.resolution)
  sizes = data.resolution, data.num_classes, model.z_dim, model.w_dim, model.mapping_layers
  maps = model.fmap_base, model.fmap_max
  remat = config.run.remat
  return StyleGAN2(stylegan2.Generator(*sizes, *maps, data.channels, remat=remat, **ways))


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of generator, by its name in `model.network`.

  Attributes:
    make: (config, {'kernels', 'dtype'} of networks) -> one of the above.
    sampled: (fields of its card) -> contract.Generator.
    reparametrisation: of its weights.
  """

  make: Callable[[ml_collections.ConfigDict, dict[str, Any]], Any]
  sampled: Callable[[dict[str, Any]], contract.Generator]
  reparametrisation: player.Reparametrisation


SPECTRAL = player.spectral(projected_gan.normalised, 1e-12)
KINDS = {
  **{
    name: Kind(
      functools.partial(make_fastgan, lite=lite),
      functools.partial(sampled_fastgan, lite=lite),
      SPECTRAL,
    )
    for name, lite in (('fastgan', False), ('fastgan_lite', True))
  },
  'stylegan2': Kind(
    make_stylegan2,
    lambda fields: truncation.Styled(stylegan2.Generator(**fields)),
    player.equalized(stylegan2.GEN_GAINS),
  ),
}
