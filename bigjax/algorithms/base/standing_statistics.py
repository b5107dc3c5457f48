"""Generators with BatchNorm: sampled with statistics averaged over many batches (BigGAN, C.1)."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from bigjax.algorithms.base.contract import Gen
from bigjax.core import parallel
from bigjax.core.config import Key, Keys
from bigjax.nn.latents import How, Law, knot_weights

Array = jax.Array

# What a config says of them, for the tables of families whose generators have them.
KEYS: Keys = {
  'eval.standing_passes': Key(100, 'batches that standing statistics are averaged over', least=1),
  'eval.standing_batch': Key(2048, 'samples in each of them', least=1),
  'export.truncations': Key(
    ('0.5', '1', '2', 'none'), 'truncations whose statistics are stored in exported generators'
  ),
  'export.dialect': Key('resample', 'what these mean: resample, truncnorm, scale, clamp'),
}


@dataclasses.dataclass(frozen=True)
class StandingStatisticsGenerator:
  """The sampled network; gen is {params, stats: {layer: {mean [K, C], var [K, C]}}, knots [K]}."""

  net: Any
  law: Law

  @property
  def dialects(self) -> tuple[str, ...]:
    return self.law.dialects

  def latents(self, key: Array, num: int, how: How) -> Array:
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(num))
    return self.law.draw(keys, self.net.z_dim, how)

  def generate(self, gen: Gen, z: Array, y: Array, how: How) -> Array:
    if not gen['knots'].shape[0]:
      raise ValueError('sampling needs standing statistics: calibrate the generator first.')
    weights = knot_weights(gen['knots'], how.truncation)
    stats = jax.tree.map(lambda s: jnp.tensordot(weights, s, 1, precision='highest'), gen['stats'])
    return self.net.apply({'params': gen['params'], 'stats': stats}, z, y, train=False)

  def moments(self, params: Any, key: Array, how: How) -> dict[str, Any]:
    """Return BatchNorm's moments over one batch of `how.batch` fresh samples."""
    key_z, key_y = jax.random.split(key)
    z = self.latents(key_z, how.batch, how)
    y = jax.random.randint(key_y, (how.batch,), 0, self.net.num_classes)
    z, y = parallel.shard_examples((z, y))
    return self.net.apply({'params': params}, z, y, train=True, mutable=['moments'])[1]['moments']

  @functools.partial(jax.jit, static_argnums=0)
  def add_pass(self, total: dict[str, Any], params: Any, key: Array, how: How) -> dict[str, Any]:
    """Return `total` plus one more pass: chained, so that passes never run side by side."""
    return jax.tree.map(jnp.add, total, self.moments(params, key, how))

  def calibrate(self, gen: Gen, key: Array, how: How) -> Gen:
    """Average BatchNorm's moments over `how.passes` passes of `how.batch` samples (paper, C.1)."""
    shapes = jax.eval_shape(self.moments, gen['params'], key, how)
    total = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    for key_pass in jax.random.split(key, how.passes):
      total = self.add_pass(total, gen['params'], key_pass, how)
    stats = jax.tree.map(lambda s: s[None] / how.passes, total)  # [1, C]
    knots = jnp.full((1,), how.truncation, jnp.float32)
    if gen['knots'].shape[0]:
      others = gen['knots'] != how.truncation  # a knot measured again replaces the old one
      stats = jax.tree.map(
        lambda old, new: jnp.concatenate([old[others], new]), gen['stats'], stats
      )
      knots = jnp.concatenate([gen['knots'][others], knots])
    order = jnp.argsort(knots)
    return {
      'params': gen['params'],
      'knots': knots[order],
      'stats': jax.tree.map(lambda s: s[order], stats),
    }
