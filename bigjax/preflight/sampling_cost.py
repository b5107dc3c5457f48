"""What samples cost on a slice: the program that makes a batch of them, compiled and walked."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from bigjax.core import parallel
from bigjax.preflight import flops, step_cost, tpu_slices
from bigjax.training.program import make_program

PER_DEVICE = 16  # samples at a time


def plan(
  config: ml_collections.ConfigDict, of: tpu_slices.Slice, num: int, per_device: int = PER_DEVICE
) -> dict[str, Any]:
  """What samples of a run's last network take, made as its card will say.

  Args:
    config: of the run.
    of: the slice.
    num: of the samples.
    per_device: of those that a device makes at a time.
  Returns:
    step_cost.figures of one batch, with `samples`, `batch_size`, `sampling` in words, `topology`,
    and the `seconds` of all samples and `roofline_share`, of the chips' peak, where it fits.
  """
  start = time.monotonic()
  program, ideal = make_program(config, of.devices()), step_cost.fewest(config)
  stage = program.stage(config.run.steps)
  sampler, batch = program.sampler(stage), of.num_devices * per_device
  generator = sampler.generator
  spec = generator.spec(program.algorithm.sampling())

  def prepared(state: Any) -> Any:
    gen = program.algorithm.generator(state, stage)
    return generator.prepare(gen, jax.random.key(0), spec)

  with jax.set_mesh(program.mesh):
    gen = jax.eval_shape(prepared, program.shapes())
  whole, examples = parallel.replicated(program.mesh), parallel.batched(program.mesh)
  gen = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), gen)
  z = jax.ShapeDtypeStruct((batch, *generator.latent_shape), jnp.float32, sharding=examples)
  y = jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=examples)
  least = ideal.sampler(stage).generator.generate
  wanted = flops.needed(lambda gen, z, y: least(gen, z, y, spec), gen, z, y)
  found = step_cost.figures(sampler.lower(gen, z, y, spec), of, batch, wanted)
  found |= {
    'slice': of.name, 'topology': of.topology, 'devices': of.num_devices, 'samples': num,
    'batch_size': batch, 'sampling': str(spec), 'compile_seconds': time.monotonic() - start,
  }  # fmt: skip
  if 'step_seconds' in found:
    floor = wanted / of.num_devices / of.generation.device_peak
    found['roofline_share'] = floor / found['step_seconds']
    found['seconds'] = found['step_seconds'] * num / batch
  return found


def in_words(found: dict[str, Any]) -> str:
  """A plan of samples, in a line."""
  need = step_cost.memory_in_words(found)
  about = f'{found["slice"]}: {found["samples"]:,} samples, {found["sampling"]}'
  short = lambda x: f'{x:,.0f}' if x >= 100 else f'{x:.3g}'
  each = f'{short(found["model_flops"] / found["batch_size"] / 1e9)} GFLOP each'
  if 'seconds' not in found:
    return f'{about}, {each}: {found["batch_size"]:,} at a time do not fit ({need})'
  return (
    f'{about}: {short(found["seconds"])} s ({each}, {found["batch_size"]:,} at a time, {need}, '
    f'{found["roofline_share"]:.0%} of the peak)'
  )
