"""The generator for use elsewhere: safetensors or npz with a card, or a StableHLO program.

`bigjax export` writes the generator of a run's checkpoint, or one exported or converted before;
`bigjax train` writes safetensors when it ends. Tensors are averaged weights with spectral norm
folded in and BatchNorm's standing statistics at every truncation of `export.truncations`.

The program, of jax.export, makes images where bigjax is not installed: it needs jax and flatbuffers
alone, on CPU, CUDA or TPU, for batches of any size. Weights, and the statistics of one truncation,
are constants inside it, so that it is one file that cannot meet other weights. (As arguments they
would make a small program beside a large file, and two ways to hold it wrong. On two CPU cores, 74
MB of them inside compile in 4.4 s in place of 2.6.) Its card says how latents are drawn. JAX
promises to read such programs for six months only: keep the tensors too.
"""

import argparse
import importlib.util
import os
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bigjax
from bigjax import build, parallel, remote, report, sample, utils
from bigjax import card as cards
from bigjax.latents import How

FORMATS = ('safetensors', 'npz', 'stablehlo')
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


def program(loaded: sample.Loaded, how: How, weights: bool = False) -> bytes:
  """Return the serialised program (z float32 [b, ...], y) -> uint8 images [b, H, W, C], any b >= 1.

  Args:
    loaded: prepared for `how`.
    how: the truncation whose statistics it has.
    weights: y is float32 [b, classes] in place of int32 [b].
  Raises:
    UserError: flatbuffers is not installed.
  """
  if importlib.util.find_spec('flatbuffers') is None:
    raise utils.UserError(
      '--format=stablehlo needs flatbuffers, which is not installed; run: '
      "pip install 'bigjax[export]'"
    )
  from jax import export

  generator, gen = loaded.sampler.generator, jax.tree.map(np.asarray, loaded.gen)

  def run(z, y):
    return build.to_uint8(generator.generate(jax.tree.map(jnp.asarray, gen), z, y, how))

  (batch,) = export.symbolic_shape('b')
  z = jax.ShapeDtypeStruct((batch, *latent_shape(loaded, how)), jnp.float32)
  y = jax.ShapeDtypeStruct((batch,), jnp.int32)
  if weights:
    y = jax.ShapeDtypeStruct((batch, loaded.num_classes), jnp.float32)
  with parallel.for_any_device():
    return export.export(jax.jit(run), platforms=PLATFORMS)(z, y).serialize()


def latent_shape(loaded: sample.Loaded, how: How) -> tuple[int, ...]:
  """Return the shape of one sample's latents."""
  latents = loaded.sampler.generator.latents
  return jax.eval_shape(lambda: latents(jax.random.key(0), 1, how)).shape[1:]


def program_card(loaded: sample.Loaded, how: How, weights: bool, path: str) -> dict[str, Any]:
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


def places(
  out: str | None, formats: str | None, workdir: str | None, params: str | None
) -> dict[str, str]:
  """Return {format: where to write}, from what the command line says.

  Raises:
    UserError: there is no such format, or the name of --out ends otherwise.
  """
  base, dot = os.path.splitext(out or params or os.path.join(workdir or '', 'export', 'generator.'))
  known = dot[1:] in FORMATS
  asked = (formats or (dot[1:] if out and known else FORMATS[0])).split(',')
  for name in asked:
    utils.pick(name, dict.fromkeys(FORMATS), '--format')
  if out and (not known if formats is None else len(asked) == 1 and dot[1:] != asked[0]):
    expected = ' or '.join('.' + name for name in (FORMATS if formats is None else asked))
    raise utils.UserError(f'--out={out}: give a name that ends in {expected}.')
  if out and not known:
    base = out
  found = {name: f'{base}.{name}' for name in asked}
  if params and os.path.abspath(params) in map(os.path.abspath, found.values()):
    raise utils.UserError(
      f'--params={params} is that file already; give another --format or --out.'
    )
  return found


def main(argv: list[str]) -> None:
  """`bigjax export`."""
  parser = utils.Arguments(prog='bigjax export', description=__doc__.splitlines()[0])
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument('--workdir', help='of a run')
  source.add_argument('--params', help='an exported or converted generator')
  parser.add_argument('--checkpoint', help='of the workdir: last (default), best or a step')
  parser.add_argument(
    '--format', help=f'{", ".join(FORMATS)}, or several with commas (default: safetensors)'
  )
  parser.add_argument(
    '--truncation',
    metavar='t[:dialect]',
    help='whose standing statistics a stablehlo program has (default: none)',
  )
  parser.add_argument(
    '--labels',
    choices=('numbers', 'weights'),
    help='what a stablehlo program takes: class numbers (default), or weights over the classes',
  )
  parser.add_argument(
    '--out', help='the file (default: generator.FORMAT in WORKDIR/export, or beside --params)'
  )
  args = parser.parse_args(argv)
  with remote.copied(args.workdir) as args.workdir:
    run(args)


def run(args: argparse.Namespace) -> None:
  """Write what the options ask for.

  Raises:
    UserError: that cannot be done.
  """
  paths = places(args.out, args.format, args.workdir, args.params)
  if 'stablehlo' not in paths and (args.truncation or args.labels):
    raise utils.UserError('--truncation and --labels are for --format=stablehlo.')
  loaded = sample.of_options(args)
  how = loaded.how(args.truncation)
  try:
    for name, path in paths.items():
      os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
      if name == 'stablehlo':
        loaded.prepare(how)
        write_program(path, loaded, how, args.labels == 'weights')
        continue
      if args.workdir:
        loaded.stored = loaded.sampler.calibrate_all(loaded.stored, loaded.card)
      {'safetensors': cards.save, 'npz': cards.save_npz}[name](path, loaded.stored, loaded.card)
      size = sum(leaf.nbytes for leaf in jax.tree.leaves(loaded.stored)) / 1e6
      beside = '' if name == 'npz' else f' and {cards.card_path(path)}'
      step = f', step {loaded.card["step"]}' if 'step' in loaded.card else ''
      print(f'wrote {path} ({size:.1f} MB{step}){beside}')
  except OSError as error:
    raise utils.UserError(f'{path} cannot be written ({error.strerror}).') from None


def write_program(path: str, loaded: sample.Loaded, how: How, weights: bool) -> None:
  """Write a program whole or not at all, and its card, and say so."""
  content = program(loaded, how, weights)
  with open(path + '.partial', 'wb') as file:
    file.write(content)
  os.replace(path + '.partial', path)
  report.write_json(path + '.json', program_card(loaded, how, weights, path))
  print(f'wrote {path} ({len(content) / 1e6:.1f} MB, {how}) and {path}.json')
