"""The generator as a StableHLO program that runs where bigjax is not installed.

Its inputs are latents, labels and the numbers that the generator leaves open (a StyleGAN's psi).
Weights, and the statistics of one truncation, are constants inside it, so that it is one file that
cannot meet other weights. (As arguments they would make a small program beside a large file, and
two ways to hold it wrong. On two CPU cores, 74 MB of them inside compile in 4.4 s in place of 2.6.)
Its card says how latents are drawn. JAX promises to read such programs for six months only.
"""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bigjax
from bigjax.algorithms.base.contract import Spec
from bigjax.core import device, errors, files
from bigjax.sampling.loaded import Loaded
from bigjax.sampling.sampler import to_uint8

PLATFORMS = ('cpu', 'cuda', 'tpu')
PROMISE = 'jax reads this program for six months at least; the tensors (.safetensors) last'

USE = """\
import numpy as np
from jax import export

with open({name!r}, 'rb') as file:
  program = export.deserialize(file.read())
{z}
y = {y}
images = np.asarray(jax.jit(program.call)({inputs}))  # uint8 [2, {shape}]
"""


def program(loaded: Loaded, spec: Spec, weights: bool = False) -> bytes:
  """Return the serialised program (z float32 [b, ...], y) -> uint8 images [b, H, W, C], any b >= 1.

  Behind z and y it takes a float32 [] for each of the generator's `inputs`.

  Args:
    loaded: prepared for `spec`.
    spec: the sampling settings that are constants in it, but for those.
    weights: y is float32 [b, classes] in place of int32 [b].
  Raises:
    UserError: flatbuffers is not installed.
  """
  errors.need('--format=stablehlo', 'export', 'flatbuffers')
  from jax import export

  generator, gen = loaded.sampler.generator, jax.tree.map(np.asarray, loaded.gen)

  def run(z, y, *numbers):
    given = dict(zip(generator.inputs, numbers, strict=True))
    at = dataclasses.replace(spec, **given) if given else spec  # type: ignore[type-var]  # with inputs it is a dataclass
    return to_uint8(generator.generate(jax.tree.map(jnp.asarray, gen), z, y, at))

  (batch,) = export.symbolic_shape('b')
  z = jax.ShapeDtypeStruct((batch, *generator.latent_shape), jnp.float32)
  y = jax.ShapeDtypeStruct((batch,), jnp.int32)
  if weights:
    y = jax.ShapeDtypeStruct((batch, loaded.num_classes), jnp.float32)
  with device.for_any_device():
    numbers = [jax.ShapeDtypeStruct((), jnp.float32)] * len(generator.inputs)
    return bytes(export.export(jax.jit(run), platforms=PLATFORMS)(z, y, *numbers).serialize())


def program_card(loaded: Loaded, spec: Spec, weights: bool, path: str) -> dict[str, Any]:
  """Card of a program: its inputs and output, and how latents for it are drawn."""
  generator = loaded.sampler.generator
  z = ', '.join(map(str, generator.latent_shape))
  classes = loaded.num_classes
  y = (
    f'float32 [b, {classes}]: weights over the classes, 1 in all'
    if weights
    else (f'int32 [b], 0 to {classes - 1}: places in class_names')
  )
  recipe = generator.recipe(spec)
  last = classes - 1
  example = (
    f'np.eye({classes}, dtype=np.float32)[[0, {last}]]'
    if weights
    else (f'np.array([0, {last}], np.int32)')
  )
  drawn = 'z = latents(seed=0, num=2)' if recipe else f'z = np.zeros((2, {z}), np.float32)'
  shape = ', '.join(map(str, loaded.shape))
  numbers = [f'np.float32({getattr(spec, name):g})' for name in generator.inputs]
  inputs = ', '.join(['z', 'y', *numbers])
  use = USE.format(name=os.path.basename(path), z=drawn, y=example, inputs=inputs, shape=shape)
  return {
    **loaded.card,
    'program': os.path.basename(path),
    'inputs': {
      'z': f'float32 [b, {z}]',
      'y': y,
      **{name: f'float32 []: {words}' for name, words in generator.inputs.items()},
    },
    'output': f'uint8 [b, {", ".join(map(str, loaded.shape))}], for any b',
    'made_at': spec.described(),
    'platforms': list(PLATFORMS),
    'use': [*(recipe or 'import jax').splitlines(), '', '', *use.splitlines()],
    'latents': recipe and recipe.splitlines(),
    'made_with': f'bigjax {bigjax.__version__}, jax {jax.__version__}',
    'lasts': PROMISE,
  }


def write_program(path: str, loaded: Loaded, spec: Spec, weights: bool) -> None:
  """Write a program whole or not at all, and its card, and say so."""
  content = program(loaded, spec, weights)
  with files.whole(path) as file:
    file.write(content)
  files.write_json(path + '.json', program_card(loaded, spec, weights, path))
  print(f'wrote {path} ({len(content) / 1e6:.1f} MB, {spec}) and {path}.json')
