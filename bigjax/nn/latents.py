"""Latent vectors: the laws of BigGAN's Appendix E, and the four things called "truncation".

Each law and each truncation stands twice side by side: as a function, and as the code that goes
with an exported program, so that its latents can be drawn where bigjax is not installed.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bigjax.core import errors, ranges

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


TRUNCATION = ranges.Range(0, 1000, whole=False)


@dataclasses.dataclass(frozen=True)
class Dialect:
  """One meaning of "truncation".

  Attributes:
    draw: (keys [B], dim, t) -> truncated normals [B, dim].
    code: the same of one key, as Python, with {t} and {dim} in it.
  """

  draw: Callable[[Array, int, Array], Array]
  code: str


NORMAL = 'jax.random.normal(key, ({dim},))'
DIALECTS = {
  'resample': Dialect(resample, 'jax.random.truncated_normal(key, -{t}, {t}, ({dim},))'),
  'truncnorm': Dialect(truncnorm, '{t} * jax.random.truncated_normal(key, -2.0, 2.0, ({dim},))'),
  'scale': Dialect(scale, NORMAL),  # the latents are scaled, whatever is made of the normals
  'clamp': Dialect(clamp, 'jnp.clip(jax.random.normal(key, ({dim},)), -{t}, {t})'),
}


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['truncation'],
  meta_fields=['dialect', 'standing_passes', 'standing_batch'],
)
@dataclasses.dataclass(frozen=True)
class SamplingSpec:
  """Sampling settings: truncation and its dialect, and the passes for standing statistics.

  The truncation is a leaf and may be traced: a sweep compiles once.

  Attributes:
    truncation: threshold or factor t, whose meaning is the dialect's; inf is N(0, I) in all of
      them.
    dialect: a key of DIALECTS.
    standing_passes: generator passes over which BatchNorm moments are averaged (the paper: 100).
    standing_batch: samples per pass (the paper: 2048).
  """

  truncation: float = math.inf
  dialect: str = 'resample'
  standing_passes: int = 100
  standing_batch: int = 2048

  def __str__(self):
    return 'untruncated' if self.truncation == math.inf else f'{self.truncation:g} ({self.dialect})'

  def described(self) -> dict[str, str | int]:
    """JSON-able values for whoever wants the same samples again."""
    whole = self.truncation == math.inf
    return {
      'truncation': 'none' if whole else f'{self.truncation:g}:{self.dialect}',
      'dialect': self.dialect,
      'standing_passes': self.standing_passes,
      'standing_batch': self.standing_batch,
    }


def parse(text: str, dialect: str = 'resample') -> SamplingSpec:
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
    raise errors.UserError(
      f'truncation {text!r} is not a number; write t or t:dialect, for example 0.5 '
      f'or 0.5:truncnorm (dialects: {", ".join(DIALECTS)}), or none.'
    ) from None
  dialect = named or dialect
  errors.pick(dialect, DIALECTS, 'the truncation dialect')
  if not truncation >= 0 or (dialect == 'resample' and truncation == 0):
    raise errors.UserError(
      f'truncation {number} in the dialect {dialect!r} leaves nothing to draw; '
      'give a number above 0.'
    )
  if truncation != math.inf and TRUNCATION.refusal(truncation):
    raise errors.UserError(f'truncation {number}: {TRUNCATION.refusal(truncation)}.')
  return SamplingSpec(truncation, dialect)


@dataclasses.dataclass(frozen=True)
class Law:
  """A distribution of latent vectors (Brock et al. 2019, Appendix E).

  Attributes:
    name: as `law` reads it.
    make: (n, u) -> z, all [..., dim]: from independent normals n and uniforms u in [0, 1).
    code: the same of one vector, as Python, with {half} = dim // 2 in it.
    dialects: the truncations that mean something for it: those of the normals in it, or `scale`
      (t times z) alone.
    anneal: number of training steps over which z starts twice as wide and narrows; 0: none.
    continuous: whether there is no number that z has more often than its neighbours.
  """

  name: str
  make: Callable[[Array, Array], Array]
  code: str
  dialects: tuple[str, ...] = tuple(DIALECTS)
  anneal: int = 0
  continuous: bool = True

  def train(self, key: Array, shape: tuple[int, ...], dim: int, step: Array) -> Array:
    """Return z [*shape, dim] for a training step: one draw for all examples."""
    n = jax.random.normal(key, (*shape, dim))
    z = self.make(n, jax.random.uniform(jax.random.fold_in(key, 1), n.shape, n.dtype))
    if self.anneal:
      z = z * (2 - jnp.minimum(step.astype(z.dtype) / self.anneal, 1))
    return z

  def draw(self, keys: Array, dim: int, spec: SamplingSpec) -> Array:
    """Return one latent vector per key, [B, dim], truncated as asked."""
    whole = jnp.isinf(spec.truncation)
    t = jnp.where(whole, 1.0, spec.truncation)
    n, u = normal(keys, dim), uniform(keys, dim)
    if spec.dialect == 'scale':
      return t * self.make(n, u)
    return self.make(jnp.where(whole, n, DIALECTS[spec.dialect].draw(keys, dim, t)), u)


def uniform(keys: Array, dim: int) -> Array:
  """Return one vector of U[0, 1) per key, [B, dim], independent of `normal(keys, dim)`."""
  return jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1), (dim,)))(keys)


def coin(u: Array) -> Array:
  """Return 0 or 1, evenly, for uniforms u."""
  return (u < 0.5).astype(u.dtype)


def normal_and_bernoulli(n: Array, u: Array) -> Array:
  """Half of the elements N(0, 1), half Bernoulli {0, 1}."""
  half = n.shape[-1] // 2
  return jnp.concatenate([n[..., :half], coin(u[..., half:])], axis=-1)


COIN = '(u < 0.5).astype(u.dtype)'
DISCRETE = {'continuous': False}
LAWS: dict[str, Law] = {
  law.name: law
  for law in (
    Law('normal', lambda n, u: n, 'n'),
    Law('uniform', lambda n, u: 2 * u - 1, '2 * u - 1', ('scale',)),
    Law('bernoulli', lambda n, u: coin(u), COIN, (), **DISCRETE),
    Law('rademacher', lambda n, u: 2 * coin(u) - 1, f'2 * {COIN} - 1', (), **DISCRETE),
    Law(  # -1, 0, 1
      'categorical', lambda n, u: jnp.floor(3 * u) - 1, 'jnp.floor(3 * u) - 1', (), **DISCRETE
    ),
    Law('censored_normal', lambda n, u: jnp.maximum(n, 0), 'jnp.maximum(n, 0)', **DISCRETE),
    Law('normal_times_bernoulli', lambda n, u: n * coin(u), f'n * {COIN}', **DISCRETE),
    Law(
      'normal_and_bernoulli',
      normal_and_bernoulli,
      'jnp.concatenate([n[:{half}], (u[{half}:] < 0.5).astype(u.dtype)])',
      **DISCRETE,
    ),
  )
}


def law(name: str) -> Law:
  """Read the name of a law: a key of LAWS, 'annealed_normal:STEPS', 'variable_normal:LOW:HIGH'.

  An annealed normal starts at twice the standard deviation and narrows linearly to N(0, I), which
  is what is sampled from. A variable one has a standard deviation from U[LOW, HIGH] per vector.

  Raises:
    UserError: it is none, or its numbers make no sense.
  """
  kind, *words = name.split(':')
  try:
    if kind == 'annealed_normal':
      (steps,) = map(ranges.whole_number, words)
      if not ranges.COUNT.refusal(steps):
        return Law(name, LAWS['normal'].make, 'n', anneal=steps)
    if kind == 'variable_normal':
      low, high = map(float, words)
      if 0 <= low <= high <= TRUNCATION.most and high > 0:
        code = f'n * ({low} + ({high} - {low}) * u[:1])'
        return Law(name, lambda n, u: n * (low + (high - low) * u[..., :1]), code)
  except ValueError:
    pass  # said below
  if name not in LAWS:
    raise errors.UserError(
      f'model.latent is {name!r}{errors.did_you_mean(name, LAWS)}; expected one of: '
      f'{", ".join(LAWS)}, annealed_normal:STEPS, variable_normal:LOW:HIGH.'
    )
  return LAWS[name]


def check_truncation(spec: SamplingSpec, dialects: tuple[str, ...]) -> None:
  """Refuse a truncation that means nothing for the latents of a generator.

  Args:
    spec: with a truncation that is a number, not traced.
    dialects: the generator's.
  Raises:
    UserError: as above.
  """
  if spec.truncation != math.inf and spec.dialect not in dialects:
    known = f'the dialects {", ".join(dialects)} do' if dialects else 'none does'
    raise errors.UserError(
      f'truncation {spec.truncation:g} in the dialect {spec.dialect!r} means nothing for the '
      f'latents of this generator ({known}); use none.'
    )


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


RECIPE = """\
import jax
import jax.numpy as jnp


def latents(seed, num):  # the z of bigjax sample, float32 [num, {dim}], {truncation}
  def one(i):
    key = jax.random.fold_in(jax.random.key(seed), i)
{lines}

  return jax.jit(jax.vmap(one))(jnp.arange(num))
"""


def recipe(law: Law, dim: int, spec: SamplingSpec) -> str:
  """Python source, for jax alone, whose latents(seed, num) draws what bigjax does.

  Args:
    law: of the latents.
    dim: of a latent vector.
    spec: with a truncation that means something for the law.
  """
  whole = spec.truncation == math.inf
  values = {'dim': dim, 'half': dim // 2, 't': float(spec.truncation)}
  normals = (NORMAL if whole else DIALECTS[spec.dialect].code).format(**values)
  made = law.code.format(**values)
  if spec.dialect == 'scale' and not whole:
    made = f'{values["t"]} * ({made})'
  draws = {
    'n': f'    n = {normals}',
    'u': f'    u = jax.random.uniform(jax.random.fold_in(key, 1), ({dim},))',
  }
  used = [line for name, line in draws.items() if re.search(rf'\b{name}\b', made)]
  return RECIPE.format(truncation=spec, dim=dim, lines='\n'.join([*used, f'    return {made}']))
