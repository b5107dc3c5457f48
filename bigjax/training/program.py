"""config -> algorithm, mesh, and its functions jitted: what all of a run's devices execute.

What train, plan, doctor and the benchmarks all run, so that none of them can time or plan another
program than train's. Names no family: algorithms are found by their file's name.
"""

import dataclasses
import functools
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from bigjax.algorithms import family
from bigjax.algorithms.base import configs, contract
from bigjax.algorithms.base.contract import Algorithm, Batch, Due, Stage
from bigjax.algorithms.base.posthoc.tracking import tracking
from bigjax.core import device, errors, parallel, progress
from bigjax.nn import microbatches
from bigjax.sampling.sampler import Sampler

Pair = tuple[Stage, Due]  # what a step is compiled for


def batch_statistics(batch: Batch) -> dict[str, jax.Array]:
  """Input-health metrics of the first minibatch: a broken pipeline moves them.

  Args:
    batch: image uint8 [k, B, ...] and perhaps label int32 [k, B].
  Returns:
    batch_std: standard deviation of a pixel over examples, in [0, 1]; batch_label_share: share of
    labels that are the first one.
  """
  images = batch['image'][0].astype(jnp.float32) / 255
  found = {'batch_std': jnp.sqrt(images.var(0).mean())}
  if 'label' in batch:
    labels = batch['label'][0]
    found['batch_label_share'] = (labels == labels[:1]).mean(dtype=jnp.float32)
  return found


def on_mesh(mesh: Mesh, fn: Callable) -> Callable:
  """Run `fn` with the mesh set: what the functions of parallel.py look for."""

  @functools.wraps(fn)
  def run(*args):
    with jax.set_mesh(mesh):
      return fn(*args)

  return run


@dataclasses.dataclass(frozen=True)
class Program:
  """Everything that runs on the devices in a training run, jitted with its shardings pinned.

  Attributes:
    algorithm: the game.
    mesh: of all devices.
    stages: of the run.
    state: the state's tree of shapes with their shardings; see `shapes`.
    init: (key, given) -> state; see contract.Given.
    jitted_step: (state, batch, stage, due) -> state, metrics; the state is donated. See `step`.
    options: that the compiler is given for it.
    probe: (state, batch, held_out, stage) -> metrics.
    gen: (state, stage) -> gen.
    batch_statistics: (batch) -> metrics.
    make_generator: architecture -> Generator.
  """

  algorithm: Algorithm
  mesh: Mesh
  stages: contract.Stages
  state: Any
  init: Callable
  jitted_step: Callable
  options: Mapping[str, bool]
  probe: Callable
  gen: Callable
  batch_statistics: Callable
  make_generator: Callable

  def __post_init__(self):
    for name, value in (('_steps', {}), ('_samplers', {}), ('_lock', threading.Lock())):
      object.__setattr__(self, name, value)  # caches: the program is frozen but for them

  def stage(self, step: int) -> Stage:
    """The stage that a step belongs to."""
    return contract.stage_at(self.stages, step)

  def due(self, step: int) -> Due:
    """The lazy terms that run in a step."""
    return contract.due_at(self.algorithm.periods, step)

  def position(self, step: int) -> int:
    """Number of real images consumed before a step."""
    return contract.position_at(self.stages, step)

  def spans(self, first: int, last: int) -> list[tuple[int, int, Stage]]:
    """(From step, to step, stage) of the stages between two steps."""
    starts = [start for start, _ in self.stages]
    ends = [*starts[1:], max(last, starts[-1] + 1)]
    found = zip(starts, ends, (stage for _, stage in self.stages), strict=True)
    return [
      (max(start, first), min(end, last), stage)
      for start, end, stage in found
      if start < last and end > first
    ]

  def pairs(self, first: int, last: int) -> dict[Pair, int]:
    """{what steps are compiled for: how many of `first` to `last` - 1}, in their order."""
    return {
      (stage, due): num
      for start, end, stage in self.spans(first, last)
      for due, num in contract.dues_between(self.algorithm.periods, start, end).items()
    }

  def sampler(self, stage: Stage) -> Sampler:
    """The sampler of the network as it is in a stage."""
    if stage not in self._samplers:
      generator = self.make_generator(self.algorithm.architecture(stage))
      self._samplers[stage] = Sampler(generator, self.mesh)
    return self._samplers[stage]

  def shapes(self) -> Any:
    """The state's tree of shapes with their shardings, computing nothing: the caller's own."""
    return jax.tree.map(lambda x: x, self.state)  # tracing it again would take seconds

  def lower(self, stage: Stage, due: Due = contract.NONE_DUE) -> jax.stages.Lowered:
    """The program of a step, traced for this mesh, not compiled."""
    examples = parallel.batched(self.mesh, lead=1)
    batch = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=examples), stage.shapes()
    )
    with jax.set_mesh(self.mesh):
      return self.jitted_step.lower(self.shapes(), batch, stage, due)

  def compile(self, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """The executable of a lowered step, with `options`, or without where the compiler has none."""
    return device.compiled(lowered, self.options)

  def compiled(
    self, stage: Stage, due: Due = contract.NONE_DUE, what: str = ''
  ) -> tuple[Callable, str]:
    """(The step's executable, its digest), compiled at the first call for this pair.

    `what` it is called while people wait for it; '' for nobody.
    """
    if (stage, due) in self._steps:  # not behind the lock: the next stage's compilation holds it
      return self._steps[stage, due]
    with self._lock:
      if (stage, due) not in self._steps:
        with progress.ticking(f'tracing {what}', shown=bool(what)):
          lowered = self.lower(stage, due)
          text = lowered.as_text()
        with jax.set_mesh(self.mesh), device.compiling(what, len(text)):
          self._steps[stage, due] = self.compile(lowered), text_digest(text)
      return self._steps[stage, due]

  def step(self, state: Any, batch: Batch, step: int = 0) -> tuple[Any, Any]:
    """(State, metrics) after this step; the state is donated."""
    run, _ = self.compiled(self.stage(step), self.due(step))
    with jax.set_mesh(self.mesh):
      return run(state, batch)


def state_shapes(algorithm: Algorithm, mesh: Mesh, init: Callable[..., Any]) -> Any:
  """The tree of shapes of an algorithm's state on a mesh, with their shardings.

  Every device has all of what is frozen: no update would be faster for slices. `init` is the
  algorithm's: see contract.state_shapes.
  """
  with jax.set_mesh(mesh):
    shapes = contract.state_shapes(algorithm, init)
  shardings = parallel.zero_sharding(mesh, shapes)
  whole = lambda tree: jax.tree.map(lambda _: parallel.replicated(mesh), tree)
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    shapes,
    {**shardings, 'frozen': whole(shapes['frozen'])},
  )


def program_digest(lowered: jax.stages.Lowered) -> str:
  """16 hexadecimal digits of a program's StableHLO."""
  return text_digest(lowered.as_text())


def text_digest(text: str) -> str:
  """16 hexadecimal digits of a text."""
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_stages(stages: contract.Stages, num_devices: int, parts: int = 1) -> None:
  """Refuse stages whose examples cannot be split over the devices, or within one into `parts`.

  Raises:
    UserError: names the first.
  """
  for first, stage in stages:
    if stage.examples % num_devices:
      since = f' from step {first:,} on' if len(stages) > 1 else ''
      raise errors.UserError(
        f'a batch of {stage.examples} examples{since} cannot be split over {num_devices} devices; '
        f'use a multiple of {num_devices}.'
      )
    microbatches.check(parts, stage.examples // num_devices)


def make_program(
  config: ml_collections.ConfigDict,
  devices: Sequence[jax.Device] | None = None,
  class_counts: Callable[[], Sequence[int]] | None = None,
) -> Program:
  """Build the program of a config.

  Args:
    config: complete.
    devices: that it runs on (default: all of them, on all hosts).
    class_counts: () -> training images of each class; None where the data is not read.
  Raises:
    UserError: the config is not complete, or does not fit the devices.
  """
  configs.check(config)
  module = family(config.algorithm)
  algorithm = tracking(module.make(config, class_counts), config.ema.posthoc)
  mesh = parallel.make_mesh(devices)
  stages = list(algorithm.stages(config.run.steps))
  check_stages(stages, mesh.size, config.run.get('microbatches', 1))
  everywhere, examples = parallel.replicated(mesh), parallel.batched(mesh, lead=1)
  init = algorithm.init
  shapes = state_shapes(algorithm, mesh, init)
  state = jax.tree.map(lambda x: x.sharding, shapes)
  # Initialisation runs once: on CPUs, optimising its code costs more than it saves.
  on_cpu = mesh.devices.flat[0].platform == 'cpu'
  quick = {'xla_backend_optimization_level': 0} if on_cpu else None
  plain = config.run.get('kernels') == 'plain'
  options = {} if plain else device.compiler_options(mesh.devices.flat[0].device_kind)
  shard = {
    'init': {'out_shardings': state, 'compiler_options': quick},
    'probe': {
      'static_argnums': 3, 'in_shardings': (state, examples, examples),
      'out_shardings': everywhere,
    },
    'gen': {'static_argnums': 1, 'in_shardings': (state,), 'out_shardings': everywhere},
    'batch_statistics': {'in_shardings': examples, 'out_shardings': everywhere},
  }  # fmt: skip
  functions = {
    'init': init, 'probe': algorithm.probe, 'gen': algorithm.generator,
    'batch_statistics': batch_statistics,
  }  # fmt: skip
  return Program(
    algorithm=algorithm,
    mesh=mesh,
    stages=stages,
    state=shapes,
    jitted_step=jax.jit(
      algorithm.step,
      static_argnums=(2, 3),
      donate_argnums=0,
      in_shardings=(state, examples),
      out_shardings=(state, everywhere),
    ),
    options=options,
    make_generator=module.make_generator,
    **{name: on_mesh(mesh, jax.jit(fn, **shard[name])) for name, fn in functions.items()},
  )


class Compiler:
  """Compiles the programs of each stage before its first step, and the next stage's meanwhile.

  Args:
    program: of the run.
    first, last: the steps between which this process works.
    say: prints a line.
  """

  def __init__(self, program: Program, first: int, last: int, say: Callable[[str], None]):
    self._program, self._say = program, say
    self._spans = program.spans(first, last)
    self._next: threading.Thread | None = None

  def enter(self, step: int) -> None:
    """See to everything that the stage of this step needs; then begin with the next stage's."""
    if self._next is not None:
      self._next.join()
    (start, end, stage), *later = [span for span in self._spans if span[1] > step]
    digests = []
    for pair in self._program.pairs(start, end):
      lazy = f' with {" and ".join(sorted(pair[1]))}' if pair[1] else ''
      digests.append(self._program.compiled(*pair, f'the step{lazy}')[1])
    self._say(f'{stage}: program{"s" if len(digests) > 1 else ""} {", ".join(digests)}')
    if later:
      ahead = self._program.pairs(*later[0][:2])
      work = lambda: [self._program.compiled(*pair) for pair in ahead]
      self._next = threading.Thread(target=work, daemon=True)
      self._next.start()
