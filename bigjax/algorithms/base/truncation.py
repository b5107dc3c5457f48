"""How StyleGANs are sampled: truncation in w (psi), and what the noise of their layers is.

  bigjax sample --truncation 0.7:8 --sampling noise=const

One dialect for all games with a mapping network. It is another one than that of nn/latents.py: z is
N(0, I) here, whatever psi is, and psi is the way that is left from the average w (Karras et al.
2019, Appendix B), in all layers or the first few. Untruncated unless told: scores are of psi = 1.
"""

import abc
import dataclasses
import fnmatch
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bigjax.algorithms.base import contract, draws
from bigjax.algorithms.base.contract import Gen, OwnSpec
from bigjax.algorithms.base.generators import parts
from bigjax.core import errors, parallel, trees
from bigjax.core.ranges import COUNT, Range
from bigjax.models import stylegan2
from bigjax.nn.microbatches import scan
from bigjax.nn.style import blocks, equalized, stylegan

Array = jax.Array

W_DECAY = 0.995  # of the average w, per minibatch
PSI = Range(-10, 10, whole=False)
OPTIONS: Mapping[str, str] = types.MappingProxyType({
  'truncation': 'psi or psi:layers, towards the average w: 0.7, 0.7:8, none (default)',
  'noise': draws.NOISE_HELP,
})  # fmt: skip
INPUTS: Mapping[str, str] = types.MappingProxyType({
  'psi': 'how much is left of the way from the average w, 1: untruncated',
})  # fmt: skip


@dataclasses.dataclass(frozen=True)
class StyleSpec:
  """Sampling settings of a generator with styles; a game with more of them adds fields.

  Attributes:
    psi: how far from the average w, 1: untruncated, 0: all styles are the average; may be traced.
    cutoff: how many of the first layers that is for; 0: all of them.
    noise: a key of draws.NOISE.
  """

  psi: float = 1.0
  cutoff: int = 0
  noise: str = 'random'

  dialect = 'psi'

  @property
  def truncation(self) -> float:
    """What a sweep over truncations is drawn against."""
    return self.psi

  def __str__(self) -> str:
    where = f', {self.cutoff} layers' if self.cutoff else ''
    words = 'untruncated' if self.psi == 1 else f'{self.psi:g} (psi{where})'
    return words if self.noise == 'random' else f'{words}, noise {self.noise}'

  def described(self) -> dict[str, Any]:
    """JSON-able values, in the words in which they are given."""
    psi = f'{self.psi}' + (f':{self.cutoff}' if self.cutoff else '')
    noise = {} if self.noise == 'random' else {'noise': self.noise}
    return {'truncation': 'none' if self.psi == 1 else psi, **noise}

  def styles(self, w: Array, w_avg: Array, num_layers: int) -> Array:
    """What each layer is given [B, num_layers, w_dim], of w [B, w_dim] and its average [w_dim]."""
    ws = stylegan.broadcast(w, num_layers)
    return stylegan.truncate(ws, w_avg, self.psi, self.cutoff or None)

  def noise_keys(self, z: Array) -> Array | None:
    """Keys of the noise of samples of these latents; see draws.noise_keys."""
    return draws.noise_keys(self.noise, z)


jax.tree_util.register_dataclass(StyleSpec, data_fields=['psi'], meta_fields=['cutoff', 'noise'])


def averaged_w(
  w_avg: Array,
  mapping: Callable[[Any, Any], Array],
  weights: Any,
  batch: Any,
  decay: float = W_DECAY,
) -> Array:
  """The running average of w [w_dim] after one more minibatch, unless that is not finite.

  Args:
    w_avg: before it.
    mapping: (weights, batch) -> w [B, w_dim], before styles are mixed.
    weights: of the generator.
    batch: examples [B, ...], the global batch.
  """
  of_part = lambda weights, shared, batch: mapping(weights, batch).mean(0)
  mean = parallel.over_batch(of_part)(weights, {}, batch)
  return trees.select(jnp.isfinite(mean).all(), mean + decay * (w_avg - mean), w_avg)


def averaged_over_step(
  w_avg: Array,
  mapping: Callable[[Any, Any], Array],
  weights: Any,
  of_disc: Mapping[str, Array],
  of_gen: Mapping[str, Array],
) -> Array:
  """The running average of w after a step: of all latents in it, in their order.

  Args:
    w_avg, mapping, weights: see `averaged_w`.
    of_disc: the discriminator's examples [k, B, ...], with `z` and `y`.
    of_gen: the generator's [B, ...].
  """
  given = lambda examples: {name: examples[name] for name in ('z', 'y')}
  after = lambda w_avg, batch: averaged_w(w_avg, mapping, weights, batch)
  w_avg, _ = scan(lambda w_avg, batch: (after(w_avg, batch), ()), w_avg, given(of_disc))
  return after(w_avg, given(of_gen))


def fields(given: Mapping[str, str] | None, num_layers: int) -> dict[str, Any]:
  """The fields of a StyleSpec from the words {option: value} given by a user; others are ignored.

  Args:
    given: the words.
    num_layers: of the generator.
  Raises:
    UserError: a value means nothing.
  """
  given = given or {}
  psi, colon, layers = given.get('truncation', 'none').partition(':')
  value = 1.0 if psi == 'none' else float(PSI.read('truncation=', psi))
  cutoff = COUNT.read('truncation=psi:', layers) if colon else 0
  if cutoff > num_layers:
    raise errors.UserError(
      f'truncation={psi}:{cutoff} is for more layers than there are: this generator has '
      f'{num_layers}; give {psi}:{num_layers}, or {psi}, for all of them.'
    )
  return {'psi': value, 'cutoff': cutoff, 'noise': draws.read_noise(given)}


# --- A generator of StyleGAN2's kind, by its parts and as it is sampled


def mapped(net: stylegan2.Generator, params: Any, z: Array, y: Array) -> Array:
  """w [B, w_dim] of latents and labels."""
  run = lambda net, z, y: net.mapping(z, y)
  w: Any = net.apply({'params': params}, z, y, method=run)  # with nothing mutable, no tuple
  return w


def synthesized(
  net: stylegan2.Generator, params: Any, ws: Array, noise: Sequence[Array] | None
) -> Array:
  """Images [B, H, W, C] of styles [B, num_ws, w_dim] and the noise of the layers."""
  run = lambda net, ws, noise: net.synthesis(ws, noise)
  images: Any = net.apply({'params': params}, ws, noise, method=run)
  return images


def noise_maps(keys: Array, resolution: int) -> tuple[Array, ...]:
  """Normal noise of each convolution, [B, r, r, 1]: StyleGAN's, whose constant has one, too."""
  return stylegan.noise_maps(keys, resolution)[1:]


def stored_noise(maps: Mapping[str, Any], resolution: int) -> tuple[Array, ...]:
  """The noise of each convolution, [1, r, r, 1], of maps {b4: {conv1: [4, 4]}, b8: ...}."""
  layers = [(r, conv) for r in blocks.resolutions(resolution) for conv in ('conv0', 'conv1')]
  return tuple(maps[f'b{r}'][conv][None, :, :, None] for r, conv in layers[1:])


class WithStyles(contract.OfNetwork, contract.PlainGenerator, abc.ABC):
  """A generator that is parts.Styles itself; gen is {params, w_avg} at least.

  A family adds `net`, what is abstract here (`gains` are of its equalised learning rate), and
  `style_kernels`, a pattern of the paths below `synthesis` of the kernels that make styles of w,
  for closed-form directions in w; '' where it has none.
  """

  style_kernels = ''
  space = 'w'

  @property
  @abc.abstractmethod
  def gains(self) -> equalized.Gains: ...

  @property
  @abc.abstractmethod
  def num_layers(self) -> int: ...

  @abc.abstractmethod
  def map(self, gen: Gen, z: Array, y: Array) -> Array: ...

  @abc.abstractmethod
  def noise(self, gen: Gen, z: Array, spec: OwnSpec) -> Sequence[Array]: ...

  @abc.abstractmethod
  def synthesize(self, gen: Gen, ws: Array, noise: Sequence[Array], spec: OwnSpec) -> Array: ...

  @property
  def styles(self) -> parts.Styles | None:
    return self

  @property
  def linear_layers(self) -> parts.LinearLayers | None:
    return self if self.styles and self.style_kernels else None

  def kernels(self, gen: Gen) -> Mapping[str, Array]:
    """Those of the resolutions that there are; see parts.LinearLayers."""
    leaves = trees.flat(gen['params']['synthesis'])
    size = lambda path: int(re.findall(r'\d+', path)[0])  # b8/conv0, 8x8/Conv1
    fits = lambda path: fnmatch.fnmatchcase(path, self.style_kernels)
    return {
      path: leaf for path, leaf in leaves.items() if fits(path) and size(path) <= self.shape[0]
    }

  def layers(self, gen: Gen, w: Array, spec: StyleSpec) -> Array:
    return spec.styles(w, gen['w_avg'], self.num_layers)

  def generate(self, gen: Gen, z: Array, y: Array, spec: StyleSpec) -> Array:
    return self.with_noise_of(gen, z, y, spec, z)

  def with_noise_of(self, gen: Gen, z: Array, y: Array, spec: StyleSpec, others: Array) -> Array:
    ws = self.layers(gen, self.map(gen, z, y), spec)
    return self.synthesize(gen, ws, self.noise(gen, others, spec), spec)

  def weights(self, gen: Gen) -> Any:
    return equalized.unscale(gen['params'], self.gains)


@dataclasses.dataclass(frozen=True)
class Styled(WithStyles):
  """The sampled network; gen is {params, w_avg}, and {noise_const} where one came with weights."""

  net: stylegan2.Generator

  options, inputs, gains = OPTIONS, INPUTS, staticmethod(stylegan2.GEN_GAINS)
  style_kernels = 'b*/conv[01]/affine/kernel'  # not those of images, which change colours alone

  @property
  def num_layers(self) -> int:
    return self.net.num_ws

  def spec(self, sampling: Mapping[str, Any], given: Mapping[str, str] | None = None) -> StyleSpec:
    del sampling
    contract.check_options(given, self.options)
    return StyleSpec(**fields(given, self.num_layers))

  def map(self, gen: Gen, z: Array, y: Array) -> Array:
    return mapped(self.net, gen['params'], z, y)

  def noise(self, gen: Gen, z: Array, spec: StyleSpec) -> Sequence[Array]:
    if spec.noise == 'const' and 'noise_const' in gen:
      return stored_noise(gen['noise_const'], self.net.resolution)
    keys = spec.noise_keys(z)
    return () if keys is None else noise_maps(keys, self.net.resolution)

  def synthesize(self, gen: Gen, ws: Array, noise: Sequence[Array], spec: StyleSpec) -> Array:
    del spec
    return synthesized(self.net, gen['params'], ws, noise or None)
