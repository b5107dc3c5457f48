"""StyleGAN2's generator in a game: its parts by themselves, the average w, and how it is sampled.

Two games have it: its own paper's (Karras et al. 2020) and Projected GAN (Sauer et al. 2021).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from bigjax.algorithms.base import contract, truncation
from bigjax.algorithms.base.contract import Gen
from bigjax.models import stylegan2
from bigjax.nn.style import stylegan

Array = jax.Array


def mapped(net: stylegan2.Generator, params: Any, z: Array, y: Array) -> Array:
  """w [B, w_dim] of latents and labels."""
  return net.apply({'params': params}, z, y, method=lambda net, z, y: net.mapping(z, y))


def synthesized(
  net: stylegan2.Generator, params: Any, ws: Array, noise: Sequence[Array] | None
) -> Array:
  """Images [B, H, W, C] of styles [B, num_ws, w_dim] and the noise of the layers."""
  run = lambda net, ws, noise: net.synthesis(ws, noise)
  return net.apply({'params': params}, ws, noise, method=run)


def noise_maps(keys: Array, resolution: int) -> tuple[Array, ...]:
  """Normal noise of each convolution, [B, r, r, 1]: StyleGAN's, whose constant has one, too."""
  return stylegan.noise_maps(keys, resolution)[1:]


def averaged_w(
  net: stylegan2.Generator,
  w_avg: Array,
  weights: Any,
  examples: dict,
  decay: float = truncation.W_DECAY,
) -> Array:
  """The average w after the mapping network has mapped a minibatch."""
  mapping = lambda weights, batch: mapped(net, weights, batch['z'], batch['y'])
  return truncation.averaged_w(w_avg, mapping, weights, examples, decay)


@dataclasses.dataclass(frozen=True)
class Styled(contract.OfNetwork, contract.PlainGenerator):
  """The sampled network; gen is {params, w_avg}."""

  net: stylegan2.Generator

  options, inputs = truncation.OPTIONS, truncation.INPUTS

  def spec(
    self, sampling: Mapping[str, Any], given: Mapping[str, str] | None = None
  ) -> truncation.StyleSpec:
    del sampling
    contract.check_options(given, self.options)
    return truncation.StyleSpec(**truncation.fields(given))

  def styles(self, gen: Gen, z: Array, y: Array, spec: truncation.StyleSpec) -> Array:
    """What each layer is given [B, num_ws, w_dim], truncated."""
    w = mapped(self.net, gen['params'], z, y)
    return spec.styles(w, gen['w_avg'], self.net.num_ws)

  def generate(self, gen: Gen, z: Array, y: Array, spec: truncation.StyleSpec) -> Array:
    keys = spec.noise_keys(z)
    noise = None if keys is None else noise_maps(keys, self.net.resolution)
    return synthesized(self.net, gen['params'], self.styles(gen, z, y, spec), noise)

  def weights(self, gen: Gen) -> Any:
    return gen['params']
