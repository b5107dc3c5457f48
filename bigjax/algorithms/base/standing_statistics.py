"""Generators with BatchNorm: sampled with moments averaged over many batches (Brock et al., C.1).

Moments depend on the truncation, so they are measured for each that is asked for, or interpolated
between two stored ones.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from bigjax.algorithms.base import contract
from bigjax.algorithms.base.contract import Gen, OwnSpec
from bigjax.core import parallel
from bigjax.core.keys import Key, Keys
from bigjax.core.ranges import BATCH
from bigjax.nn import latents
from bigjax.nn.latents import Law, SamplingSpec, knot_weights

Array = jax.Array
# What a card says of how to sample such a generator.
SAMPLING = {'dialect': str, 'standing_passes': int, 'standing_batch': int, 'truncations': list}

# What a config says of them, for the tables of families whose generators have them.
KEYS: Keys = {
  'eval.standing_passes': Key(
    100, 'batches that standing statistics are averaged over', least=1, most=10**6
  ),
  'eval.standing_batch': Key(2048, 'samples in each of them', least=1, most=BATCH.most),
  'export.truncations': Key(
    ('0.5', '1', '2', 'none'),
    'truncations whose statistics are stored in exported generators',
    items=(str, int, float),
    most=latents.TRUNCATION.most,
  ),
  'export.dialect': Key('resample', 'what truncations mean: resample, truncnorm, scale, clamp'),
}


def card(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The card's `sampling`, from a config with KEYS.

  `export.truncations` may be words or numbers, however they were given on the command line.
  """
  words = [w.strip() for given in config.export.truncations for w in str(given).split(',')]
  return {
    'dialect': config.export.dialect,
    'standing_passes': config.eval.standing_passes,
    'standing_batch': config.eval.standing_batch,
    'truncations': words,
  }


@dataclasses.dataclass(frozen=True)
class StandingStatistics(contract.OfNetwork):
  """The sampled network; gen is {params, stats: {layer: {mean [K, C], var [K, C]}}, knots [K]}.

  `knots` are the ascending truncations that `stats` were measured at; a bare gen has neither.

  Attributes:
    net: a linen module (z, y, train) -> images, with the fields resolution, channels, z_dim and
      num_classes; it sows `moments` in training mode and reads `stats` otherwise. Some also have
      kernels_of_z(params), the kernels of parts.LinearLayers.
    law: of its latents.
  """

  net: Any
  law: Law

  options = {  # noqa: RUF012 - a constant, not a field
    'truncation': 't[:dialect], such as 0.5, 0.4:truncnorm or none; dialects: '
    + ', '.join(latents.DIALECTS),
    'standing_passes': 'batches over which BatchNorm moments are averaged',
    'standing_batch': 'samples in each of them',
  }
  inputs: ClassVar[dict[str, str]] = {}  # its numbers are those of latents and of what is prepared

  @property
  def searchable(self) -> 'StandingStatistics | None':
    return self if self.law.continuous else None

  # --- Of closed-form directions (parts.LinearLayers)

  space = 'z'

  @property
  def linear_layers(self) -> 'StandingStatistics | None':
    return self if hasattr(self.net, 'kernels_of_z') else None

  def kernels(self, gen: Gen) -> Mapping[str, Array]:
    return self.net.kernels_of_z(gen['params'])

  def spec(
    self, sampling: Mapping[str, Any], given: Mapping[str, str] | None = None
  ) -> SamplingSpec:
    contract.check_options(given, self.options)
    given = given or {}
    contract.check_sampling(sampling, SAMPLING)
    numbers = {}
    for name in ('standing_passes', 'standing_batch'):
      word = str(given.get(name, sampling[name]))
      numbers[name] = KEYS[f'eval.{name}'].read(f'{name}=', word)
    asked = latents.parse(given.get('truncation', 'none'), sampling['dialect'])
    latents.check_truncation(asked, self.law.dialects)
    return dataclasses.replace(asked, **numbers)

  def prepared(self, sampling: Mapping[str, Any]) -> Sequence[SamplingSpec]:
    self.spec(sampling)  # refuses what is no list
    return [self.spec(sampling, {'truncation': str(t)}) for t in sampling['truncations']]

  def latents(self, key: Array, num: int, spec: SamplingSpec, start: Array | int = 0) -> Array:
    return self.law.draw(contract.sample_keys(key, num, start), self.net.z_dim, spec)

  def given(self, gen: Gen, z: Array, y: Array, spec: OwnSpec) -> dict[str, Any]:
    """What the network is given besides latents and labels, by the names of its arguments."""
    del gen, z, y, spec
    return {}

  def made(self, variables: dict[str, Any], z: Array, y: Array, **how: Any) -> Any:
    """What the network makes of latents and labels."""
    return self.net.apply(variables, z, y, **how)

  def variables(self, gen: Gen, spec: SamplingSpec) -> dict[str, Any]:
    """Parameters, and moments at the truncation asked for."""
    if 'knots' not in gen:
      raise ValueError('sampling needs standing statistics: prepare the generator first.')
    weights = knot_weights(gen['knots'], spec.truncation)
    stats = jax.tree.map(lambda s: jnp.tensordot(weights, s, 1, precision='highest'), gen['stats'])
    return {'params': gen['params'], 'stats': stats}

  def generate(self, gen: Gen, z: Array, y: Array, spec: SamplingSpec) -> Array:
    return self.made(self.variables(gen, spec), z, y, train=False, **self.given(gen, z, y, spec))

  def moments(self, gen: Gen, key: Array, spec: SamplingSpec) -> dict[str, Any]:
    """BatchNorm's moments over one batch of `spec.standing_batch` fresh samples of a bare gen."""
    key_z, key_y = jax.random.split(key)
    z = self.latents(key_z, spec.standing_batch, spec)
    y = jax.random.randint(key_y, (spec.standing_batch,), 0, self.net.num_classes)
    z, y = parallel.shard_examples((z, y))
    how = {'train': True, 'mutable': ['moments'], **self.given(gen, z, y, spec)}
    return self.made({'params': gen['params']}, z, y, **how)[1]['moments']

  @functools.partial(jax.jit, static_argnums=0)
  def add_pass(
    self, total: dict[str, Any], gen: Gen, key: Array, spec: SamplingSpec
  ) -> dict[str, Any]:
    """`total` plus one more pass: chained, so that passes never run side by side."""
    return jax.tree.map(jnp.add, total, self.moments(gen, key, spec))

  def prepare(self, gen: Gen, key: Array, spec: SamplingSpec) -> Gen:
    """Average BatchNorm's moments over the passes; a knot measured again replaces the old one."""
    bare = self.bare(gen)
    shapes = jax.eval_shape(self.moments, bare, key, spec)
    total = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    for key_pass in jax.random.split(key, spec.standing_passes):
      total = self.add_pass(total, bare, key_pass, spec)
    stats = jax.tree.map(lambda s: s[None] / spec.standing_passes, total)  # [1, C]
    knots = jnp.full((1,), spec.truncation, jnp.float32)
    if 'knots' in gen:
      others = gen['knots'] != spec.truncation
      stats = jax.tree.map(
        lambda old, new: jnp.concatenate([old[others], new]), gen['stats'], stats
      )
      knots = jnp.concatenate([gen['knots'][others], knots])
    order = jnp.argsort(knots)
    return {
      **bare,
      'knots': knots[order],
      'stats': jax.tree.map(lambda s: s[order], stats),
    }

  def bare(self, gen: Gen) -> Gen:
    return {'params': gen['params']}

  def provenance(self, gen: Gen, spec: OwnSpec, sampling: Mapping[str, Any]) -> tuple[bool, str]:
    """Stored at this very truncation, interpolated between two in its dialect, or missing.

    Stored ones are of the card's passes and batch, and no answer to others.
    """
    knots = [float(t) for t in np.asarray(gen.get('knots', ()))]
    finite = [t for t in knots if math.isfinite(t)]
    t = float(np.float32(spec.truncation))  # as the knots are stored
    stored = all(getattr(spec, k) == sampling[k] for k in ('standing_passes', 'standing_batch'))
    if stored and (math.isinf(t) or spec.dialect == sampling['dialect']):
      if t in knots:
        return True, ''
      if finite and finite[0] < t < finite[-1]:
        lower, upper = max(k for k in finite if k < t), min(k for k in finite if k > t)
        return True, (
          f'standing statistics at {spec}: interpolated between those at {lower:g} and {upper:g}; '
          '--recalibrate measures them.'
        )
    return False, (
      f'measuring standing statistics at {spec}: {spec.standing_passes} passes of '
      f'{spec.standing_batch} samples.'
    )

  def weights(self, gen: Gen) -> Any:
    return gen['params']

  def recipe(self, spec: SamplingSpec) -> str:
    return latents.recipe(self.law, self.net.z_dim, spec)
