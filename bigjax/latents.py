"""Latent vectors, and the four laws that are all called "truncation", under names of their own."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bigjax import utils

Array = jax.Array


def normal(keys: Array, dim: int) -> Array:
  """Return one N(0, I) vector per key, [B, dim]: sample i never depends on the others."""
  return jax.vmap(lambda key: jax.random.normal(key, (dim,)))(keys)


def resample(keys: Array, dim: int, t: Array) -> Array:
  """The paper's truncation: N(0, 1), each element drawn again until |z| <= t."""
  return jax.vmap(lambda key: jax.random.truncated_normal(key, -t, t, (dim,)))(keys)


def truncnorm(keys: Array, dim: int, t: Array) -> Array:
  """TF-Hub's: t times a normal cut at [-2, 2]. At t = 0.5 its std is 0.44, `resample(1)`'s 0.54."""
  return t * jax.vmap(lambda key: jax.random.truncated_normal(key, -2.0, 2.0, (dim,)))(keys)


def scale(keys: Array, dim: int, t: Array) -> Array:
  """Scaled standard deviation, as in BigGAN-PyTorch's curves: t N(0, 1). t = 1 is untruncated."""
  return t * normal(keys, dim)


def clamp(keys: Array, dim: int, t: Array) -> Array:
  """N(0, 1) clipped to [-t, t]."""
  return jnp.clip(normal(keys, dim), -t, t)


Dialect = Callable[[Array, int, Array], Array]
DIALECTS: dict[str, Dialect] = {
  'resample': resample,
  'truncnorm': truncnorm,
  'scale': scale,
  'clamp': clamp,
}


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['truncation'],
  meta_fields=['dialect', 'passes', 'batch'],
)
@dataclasses.dataclass(frozen=True)
class How:
  """How to draw latents, and how to measure the standing statistics that go with them.

  The truncation is a leaf and may be traced: a sweep compiles once.

  Attributes:
    truncation: threshold or factor t, whose meaning is the dialect's; inf is N(0, I) in all of
    them.
    dialect: a key of DIALECTS.
    passes: generator passes over which BatchNorm moments are averaged (the paper: 100).
    batch: samples per pass (the paper: 2048).
  """

  truncation: float = math.inf
  dialect: str = 'resample'
  passes: int = 100
  batch: int = 2048

  def __str__(self):
    return 'untruncated' if self.truncation == math.inf else f'{self.truncation:g} ({self.dialect})'


def parse(text: str, dialect: str = 'resample') -> How:
  """Read 't' or 't:dialect', for example '0.5', '0.4:truncnorm', 'none'.

  Args:
    text: as above; 'none' is untruncated.
    dialect: the one meant where the text names none.
  Raises:
    UserError: the text is neither, or leaves nothing to draw.
  """
  number, _, named = text.partition(':')
  try:
    truncation = math.inf if number in ('none', 'inf') else float(number)
  except ValueError:
    raise utils.UserError(
      f'truncation {text!r} is not a number; write t or t:dialect, for example 0.5 '
      f'or 0.5:truncnorm (dialects: {", ".join(DIALECTS)}), or none.'
    ) from None
  dialect = named or dialect
  utils.pick(dialect, DIALECTS, 'the truncation dialect')
  if not truncation >= 0 or (dialect == 'resample' and truncation == 0):
    raise utils.UserError(
      f'truncation {number} in the dialect {dialect!r} leaves nothing to draw; '
      'give a number above 0.'
    )
  return How(truncation, dialect)


def draw(keys: Array, dim: int, how: How) -> Array:
  """Return one latent vector per key, [B, dim], truncated as asked."""
  whole = jnp.isinf(how.truncation)
  truncated = DIALECTS[how.dialect](keys, dim, jnp.where(whole, 1.0, how.truncation))
  return jnp.where(whole, normal(keys, dim), truncated)


def knot_weights(knots: Array, truncation: Array | float) -> Array:
  """Return the weights with which statistics stored at ascending knots [K] serve a truncation.

  Linear between the two neighbouring knots: at a quarter of the way the lower one weighs 0.75 (a
  widely used port has the two swapped). Beyond the ends, the end; towards a knot at inf, the last
  finite one.
  """
  k = knots.shape[0]
  upper = jnp.clip(jnp.searchsorted(knots, truncation), 0, k - 1)
  lower = jnp.maximum(upper - 1, 0)
  span = knots[upper] - knots[lower]
  way = jnp.where(jnp.isfinite(span) & (span > 0), (truncation - knots[lower]) / span, 0.0)
  way = jnp.where(knots[upper] <= truncation, 1.0, jnp.where(upper == 0, 1.0, way))
  one_hot = lambda i: jax.nn.one_hot(i, k, dtype=jnp.float32)
  return one_hot(upper) * way + one_hot(lower) * (1 - way)
