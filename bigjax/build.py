"""config -> algorithm, mesh, jitted step and generator functions.

What train, sample, plan, doctor and the benchmarks all run, so that none of them can time or plan
another program than train's. Names no family: algorithms are found by their file's name.
"""

import dataclasses
import functools
import hashlib
import importlib
import os
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from bigjax import algorithms, parallel, utils
from bigjax import card as cards
from bigjax import config as configs
from bigjax.algorithms.base import Algorithm, Gen, Generator, Stage
from bigjax.latents import How, check_truncation


def family(name: str) -> Any:
  """Return the module bigjax/algorithms/NAME.py.

  Raises:
    UserError: no such algorithm.
  """
  known = [m.name for m in pkgutil.iter_modules(algorithms.__path__) if m.name != 'base']
  if name not in known:
    raise utils.UserError(
      f'algorithm is {name!r}{utils.did_you_mean(name, known)}; '
      f'expected one of: {", ".join(known)}.'
    )
  return importlib.import_module(f'{algorithms.__name__}.{name}')


def use_compilation_cache() -> None:
  """Keep compiled programs on disk, so that the second start of anything compiles nothing anew.

  JAX_COMPILATION_CACHE_DIR moves the cache; an empty value switches it off.
  """
  jax.config.update(
    'jax_compilation_cache_dir',
    os.environ.get('JAX_COMPILATION_CACHE_DIR', os.path.join(utils.cache_dir(), 'xla')) or None,
  )
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def to_uint8(images: jax.Array) -> jax.Array:
  """Return images in [-1, 1] as uint8, rounded."""
  return jnp.round((images + 1) * 127.5).clip(0, 255).astype(jnp.uint8)


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


def uncalibrated(gen: Gen) -> Gen:
  """Return `gen` without any standing statistics."""
  return {**gen, 'stats': {}, 'knots': np.zeros((0,), np.float32)}


@dataclasses.dataclass(frozen=True)
class Sampler:
  """A generator's functions, jitted, on a mesh."""

  generator: Generator
  mesh: Mesh

  @functools.cached_property
  def _latents(self):
    return jax.jit(
      self.generator.latents, static_argnums=1, out_shardings=parallel.replicated(self.mesh)
    )

  def _generate(self, out: Any) -> Callable[..., jax.Array]:
    def run(gen, z, y, how):
      return to_uint8(self.generator.generate(gen, z, y, how))

    examples = parallel.batched(self.mesh)
    return jax.jit(run, in_shardings=(None, examples, examples, None), out_shardings=out)

  @functools.cached_property
  def _to_all(self):
    return self._generate(parallel.replicated(self.mesh))

  @functools.cached_property
  def _spread(self):
    return self._generate(parallel.batched(self.mesh))

  def spread(self, gen: Gen, z: np.ndarray, y: np.ndarray, how: How) -> jax.Array:
    """Return uint8 images [n, H, W, C] that stay on the devices that made them.

    n must be a multiple of the number of devices.
    """
    with jax.set_mesh(self.mesh):
      return self._spread(gen, *parallel.place(self.mesh, (z, y)), how)

  def latents(self, seed: int, num: int, how: How) -> np.ndarray:
    """Return z [num, ...]; the first n do not depend on `num`.

    Raises:
      UserError: such a truncation means nothing for these latents.
    """
    check_truncation(how, self.generator.dialects)
    with jax.set_mesh(self.mesh):
      return np.asarray(self._latents(jax.random.key(seed), num, how).addressable_data(0))

  def images(self, gen: Gen, z: np.ndarray, y: np.ndarray, how: How, batch: int = 64) -> np.ndarray:
    """Return uint8 [n, H, W, C] for latents and labels (int32 [n], or float32 [n, classes])."""
    num, size = len(z), self.mesh.size
    batch = -(-min(batch, num) // size) * size
    padding = -num % batch
    z, y = (np.concatenate([a, np.repeat(a[-1:], padding, axis=0)]) for a in (z, y))
    # One batch at a time: programs with collectives that do not depend on each other may start in
    # another order on each device, and CPU devices then wait for each other for ever.
    out = []
    with jax.set_mesh(self.mesh):
      for i in range(0, num + padding, batch):
        part = parallel.place(self.mesh, (z[i : i + batch], y[i : i + batch]))
        made = self._to_all(gen, *part, how)
        out.append(np.asarray(made.addressable_data(0)))
    return np.concatenate(out)[:num]

  def calibrate(self, gen: Gen, seed: int, how: How) -> Gen:
    """Return `gen` with standing statistics for this truncation added.

    Raises:
      UserError: such a truncation means nothing for these latents.
    """
    check_truncation(how, self.generator.dialects)
    with jax.set_mesh(self.mesh):
      return self.generator.calibrate(gen, jax.random.key(seed), how)

  def calibrate_all(self, gen: Gen, card: Mapping[str, Any]) -> Gen:
    """Return `gen` with standing statistics at exactly the truncations that the card lists."""
    gen = uncalibrated(gen)
    for truncation in card['truncations']:
      gen = self.calibrate(gen, 0, cards.how(card, truncation))
    return gen


def from_card(
  gen: Gen, card: dict[str, Any], devices: Sequence[jax.Device] | None = None
) -> tuple[Sampler, Gen, dict[str, Any]]:
  """Return (sampler, gen, card) for what card.load or card.load_workdir read.

  Raises:
    UserError: the card names an algorithm that this version does not have.
  """
  use_compilation_cache()
  generator = family(card['algorithm']).make_generator(dict(card['architecture']))
  mesh = parallel.make_mesh(devices)
  return Sampler(generator, mesh), jax.device_put(gen, parallel.replicated(mesh)), card


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


def digest(lowered: jax.stages.Lowered) -> str:
  """Return 16 hexadecimal digits of a program's StableHLO."""
  return hashlib.sha256(lowered.as_text().encode()).hexdigest()[:16]


def make(config: ml_collections.ConfigDict, devices: Sequence[jax.Device] | None = None) -> Program:
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
    raise utils.UserError(
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
