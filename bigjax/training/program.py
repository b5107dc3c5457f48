"""config -> algorithm, mesh, jitted step and generator functions.

What train, sample, plan, doctor and the benchmarks all run, so that none of them can time or plan
another program than train's. Names no family: algorithms are found by their file's name.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from bigjax.algorithms import family
from bigjax.algorithms.base import configs
from bigjax.algorithms.base.contract import Algorithm, Stage
from bigjax.core import errors, parallel
from bigjax.sampling.sampler import Sampler


def of_batch(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """Return what tells data that have gone constant, of the first minibatch of a step.

  Args:
    batch: image uint8 [k, B, H, W, C] and label int32 [k, B].
  Returns:
    batch_std: of a pixel over the examples, in [0, 1]; batch_label_share: of labels that are the
    first one.
  """
  images = batch['image'][0].astype(jnp.float32) / 255
  return {
    'batch_std': jnp.sqrt(images.var(0).mean()),
    'batch_label_share': (batch['label'][0] == batch['label'][0, :1]).mean(dtype=jnp.float32),
  }


def on_mesh(mesh: Mesh, fn: Callable) -> Callable:
  """Run `fn` with the mesh set: what the functions of parallel.py look for."""

  @functools.wraps(fn)
  def run(*args):
    with jax.set_mesh(mesh):
      return fn(*args)

  return run


@dataclasses.dataclass(frozen=True)
class Program:
  """Everything that runs on the devices in a training run, jitted with its shardings pinned."""

  algorithm: Algorithm
  mesh: Mesh
  init: Callable  # (key, given) -> state; see base.Given
  step: Callable  # (state, batch, stage) -> state, metrics; the state is donated
  probe: Callable  # (state, batch, held_out) -> metrics
  gen: Callable  # (state) -> gen
  of_batch: Callable  # (batch) -> metrics; see `of_batch`
  sampler: Sampler

  def shapes(self) -> Any:
    """Return the state's tree of shapes with their shardings, computing nothing."""
    return state_shapes(self.algorithm, self.mesh)

  def lower(self, channels: int, step: int = 0) -> jax.stages.Lowered:
    """Return the program of a step, traced for this mesh, not compiled.

    Args:
      channels: of the images.
      step: which; steps of one stage share a program.
    """
    stage = self.algorithm.stage(step)
    examples = parallel.batched(self.mesh, lead=1)
    batch = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=examples),
      batch_shapes(stage, channels),
    )
    with jax.set_mesh(self.mesh):
      return self.step.__wrapped__.lower(self.shapes(), batch, stage)


def state_shapes(algorithm: Algorithm, mesh: Mesh) -> Any:
  """Return the tree of shapes of an algorithm's state on a mesh, with their shardings."""
  with jax.set_mesh(mesh):
    shapes = jax.eval_shape(lambda: algorithm.init(jax.random.key(0)))
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    shapes,
    parallel.sliced(mesh, shapes),
  )


def batch_shapes(stage: Stage, channels: int) -> dict[str, jax.ShapeDtypeStruct]:
  """Return the shapes of a global batch."""
  size = (stage.resolution, stage.resolution, channels)
  return {
    'image': jax.ShapeDtypeStruct((*stage.batch, *size), jnp.uint8),
    'label': jax.ShapeDtypeStruct(stage.batch, jnp.int32),
  }


def program_digest(lowered: jax.stages.Lowered) -> str:
  """Return 16 hexadecimal digits of a program's StableHLO."""
  return hashlib.sha256(lowered.as_text().encode()).hexdigest()[:16]


def make_program(
  config: ml_collections.ConfigDict, devices: Sequence[jax.Device] | None = None
) -> Program:
  """Build the program of a config on these devices (default: all of them, on all hosts).

  Raises:
    UserError: the config is not complete, or does not fit the devices.
  """
  configs.check(config)
  module = family(config.algorithm)
  algorithm = module.make(config)
  mesh = parallel.make_mesh(devices)
  _, batch = algorithm.stage(0).batch
  if batch % mesh.size:
    raise errors.UserError(
      f'a batch of {batch} examples cannot be split over {mesh.size} devices; '
      f'use a multiple of {mesh.size}.'
    )
  everywhere, examples = parallel.replicated(mesh), parallel.batched(mesh, lead=1)
  state = jax.tree.map(lambda x: x.sharding, state_shapes(algorithm, mesh))
  # Initialisation runs once: on CPUs, optimising its code costs more than it saves.
  on_cpu = mesh.devices.flat[0].platform == 'cpu'
  quick = {'xla_backend_optimization_level': 0} if on_cpu else None
  jitted = {
    'init': jax.jit(algorithm.init, out_shardings=state, compiler_options=quick),
    'step': jax.jit(
      algorithm.step,
      static_argnums=2,
      donate_argnums=0,
      in_shardings=(state, examples),
      out_shardings=(state, everywhere),
    ),
    'probe': jax.jit(
      algorithm.probe, in_shardings=(state, examples, examples), out_shardings=everywhere
    ),
    'gen': jax.jit(algorithm.generator, in_shardings=(state,), out_shardings=everywhere),
    'of_batch': jax.jit(of_batch, in_shardings=examples, out_shardings=everywhere),
  }
  generator = module.make_generator(algorithm.architecture())
  return Program(
    algorithm=algorithm,
    mesh=mesh,
    sampler=Sampler(generator, mesh),
    **{name: on_mesh(mesh, fn) for name, fn in jitted.items()},
  )
