"""The generator as a StableHLO program that runs where bigjax is not installed.

Weights, and the statistics of one truncation, are constants inside it, so that it is one file that
cannot meet other weights. (As arguments they would make a small program beside a large file, and
two ways to hold it wrong. On two CPU cores, 74 MB of them inside compile in 4.4 s in place of 2.6.)
Its card says how latents are drawn. JAX promises to read such programs for six months only.
"""

import importlib.util
import os
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bigjax
from bigjax.core import device, errors, files
from bigjax.nn.latents import How
from bigjax.sampling import loaded, sampler

PLATFORMS = ('cpu', 'cuda', 'tpu')
PROMISE = 'jax reads this program for six months at least; the tensors (.safetensors) last'

# What latents.LAWS make of a vector of normals n and one of uniforms u, as code.
LAWS = {
  'normal': 'n',
  'uniform': '2 * u - 1',
  'bernoulli': '(u < 0.5).astype(u.dtype)',
  'rademacher': '2 * (u < 0.5).astype(u.dtype) - 1',
  'categorical': 'jnp.floor(3 * u) - 1',
  'censored_normal': 'jnp.maximum(n, 0)',
  'normal_times_bernoulli': 'n * (u < 0.5).astype(u.dtype)',
  'normal_and_bernoulli': 'jnp.concatenate([n[:{half}], (u[{half}:] < 0.5).astype(u.dtype)])',
  'annealed_normal': 'n',
  'variable_normal': 'n * ({0} + ({1} - {0}) * u[:1])',
}
# And the normals that latents.DIALECTS truncate.
NORMAL = 'jax.random.normal(key, ({dim},))'
NORMALS = {
  'resample': 'jax.random.truncated_normal(key, -{t}, {t}, ({dim},))',
  'truncnorm': '{t} * jax.random.truncated_normal(key, -2.0, 2.0, ({dim},))',
  'scale': NORMAL,
  'clamp': 'jnp.clip(jax.random.normal(key, ({dim},)), -{t}, {t})',
}
RECIPE = """\
import jax
import jax.numpy as jnp

def latents(seed, num):  # the z of bigjax sample, float32 [num, {dim}], {truncation}
  def one(i):
    key = jax.random.fold_in(jax.random.key(seed), i)
{lines}
  return jax.jit(jax.vmap(one))(jnp.arange(num))
"""
USE = """\
import jax
from jax import export
with open({name!r}, 'rb') as file:
  program = export.deserialize(file.read())
images = jax.jit(program.call)(z, y)
"""


def recipe(law: str, dim: int, how: How) -> str:
  """Return Python code, for jax alone, whose latents(seed, num) draws what bigjax does.

  Args:
    law: as latents.law reads it.
    dim: of a latent vector.
    how: with a truncation that means something for the law.
  """
  kind, *words = law.split(':')
  values = {'dim': dim, 'half': dim // 2, 't': float(how.truncation)}
  whole = how.truncation == np.inf
  normals = (NORMAL if whole else NORMALS[how.dialect]).format(**values)
  made = LAWS[kind].format(*map(float, words), **values)
  if how.dialect == 'scale' and not whole:
    made = f'{values["t"]} * ({made})'
  lines = [
    f'    n = {normals}',
    f'    u = jax.random.uniform(jax.random.fold_in(key, 1), ({dim},))',
    f'    return {made}',
  ]
  used = [
    line for line, name in zip(lines, ('n', 'u'), strict=False) if re.search(rf'\b{name}\b', made)
  ]
  return RECIPE.format(truncation=how, dim=dim, lines='\n'.join([*used, lines[-1]]))


def program(loaded: loaded.Loaded, how: How, weights: bool = False) -> bytes:
  """Return the serialised program (z float32 [b, ...], y) -> uint8 images [b, H, W, C], any b >= 1.

  Args:
    loaded: prepared for `how`.
    how: the truncation whose statistics it has.
    weights: y is float32 [b, classes] in place of int32 [b].
  Raises:
    UserError: flatbuffers is not installed.
  """
  if importlib.util.find_spec('flatbuffers') is None:
    raise errors.UserError(
      '--format=stablehlo needs flatbuffers, which is not installed; run: '
      "pip install 'bigjax[export]'"
    )
  from jax import export

  generator, gen = loaded.sampler.generator, jax.tree.map(np.asarray, loaded.gen)

  def run(z, y):
    return sampler.to_uint8(generator.generate(jax.tree.map(jnp.asarray, gen), z, y, how))

  (batch,) = export.symbolic_shape('b')
  z = jax.ShapeDtypeStruct((batch, *latent_shape(loaded, how)), jnp.float32)
  y = jax.ShapeDtypeStruct((batch,), jnp.int32)
  if weights:
    y = jax.ShapeDtypeStruct((batch, loaded.num_classes), jnp.float32)
  with device.for_any_device():
    return export.export(jax.jit(run), platforms=PLATFORMS)(z, y).serialize()


def latent_shape(loaded: loaded.Loaded, how: How) -> tuple[int, ...]:
  """Return the shape of one sample's latents."""
  latents = loaded.sampler.generator.latents
  return jax.eval_shape(lambda: latents(jax.random.key(0), 1, how)).shape[1:]


def program_card(loaded: loaded.Loaded, how: How, weights: bool, path: str) -> dict[str, Any]:
  """Return what a program makes, of what, and how latents for it are drawn."""
  z = ', '.join(map(str, latent_shape(loaded, how)))
  classes = loaded.num_classes
  y = (
    f'float32 [b, {classes}]: weights over the classes, 1 in all'
    if weights
    else (f'int32 [b], 0 to {classes - 1}: places in class_names')
  )
  law = loaded.card['architecture'].get('latent')
  return {
    **loaded.card,
    'program': os.path.basename(path),
    'inputs': {'z': f'float32 [b, {z}]', 'y': y},
    'output': f'uint8 [b, {", ".join(map(str, loaded.shape))}], for any b',
    'truncation': 'none' if how.truncation == np.inf else f'{how.truncation:g}:{how.dialect}',
    'platforms': list(PLATFORMS),
    'use': USE.format(name=os.path.basename(path)).splitlines(),
    'latents': law and recipe(law, *latent_shape(loaded, how), how).splitlines(),
    'made_with': f'bigjax {bigjax.__version__}, jax {jax.__version__}',
    'lasts': PROMISE,
  }


def write_program(path: str, loaded: loaded.Loaded, how: How, weights: bool) -> None:
  """Write a program whole or not at all, and its card, and say so."""
  content = program(loaded, how, weights)
  with open(path + '.partial', 'wb') as file:
    file.write(content)
  os.replace(path + '.partial', path)
  files.write_json(path + '.json', program_card(loaded, how, weights, path))
  print(f'wrote {path} ({len(content) / 1e6:.1f} MB, {how}) and {path}.json')
