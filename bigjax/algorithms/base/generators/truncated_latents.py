"""Generators whose latents can be truncated, and which need nothing measured: without BatchNorm."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from bigjax.algorithms.base import contract
from bigjax.algorithms.base.contract import Gen
from bigjax.algorithms.base.standing_statistics import StandingStatistics
from bigjax.nn import latents
from bigjax.nn.latents import Law, SamplingSpec

Array = jax.Array


def card(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The card's `sampling`, from a config with export.dialect."""
  return {'dialect': config.export.dialect}


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['truncation'],
  meta_fields=['dialect', 'standing_passes', 'standing_batch'],
)
@dataclasses.dataclass(frozen=True)
class TruncationSpec(SamplingSpec):
  """Sampling settings of which the truncation and its dialect are all; nothing is averaged."""

  def described(self) -> dict[str, str | int]:
    found = super().described()
    return {name: found[name] for name in ('truncation', 'dialect')}


@dataclasses.dataclass(frozen=True)
class TruncatedLatents(contract.OfNetwork, contract.PlainGenerator):
  """The sampled network, with truncated latents; gen is {params}.

  Attributes:
    net: a linen module (z, y, train) -> images, with the fields resolution, channels, z_dim and
      num_classes.
    law: of its latents.
  """

  net: Any
  law: Law

  options = {'truncation': StandingStatistics.options['truncation']}  # noqa: RUF012

  @property
  def searchable(self) -> 'TruncatedLatents | None':
    return self if self.law.continuous else None

  def spec(
    self, sampling: Mapping[str, Any], given: Mapping[str, str] | None = None
  ) -> TruncationSpec:
    contract.check_options(given, self.options)
    contract.check_sampling(sampling, {'dialect': str})
    asked = latents.parse((given or {}).get('truncation', 'none'), sampling['dialect'])
    latents.check_truncation(asked, self.law.dialects)
    return TruncationSpec(asked.truncation, asked.dialect)

  def latents(self, key: Array, num: int, spec: SamplingSpec, start: Array | int = 0) -> Array:
    return self.law.draw(contract.sample_keys(key, num, start), self.net.z_dim, spec)

  def generate(self, gen: Gen, z: Array, y: Array, spec: SamplingSpec) -> Array:
    del spec
    return self.net.apply({'params': gen['params']}, z, y, train=False)

  def weights(self, gen: Gen) -> Any:
    return gen['params']

  def recipe(self, spec: SamplingSpec) -> str:
    return latents.recipe(self.law, self.net.z_dim, spec)
