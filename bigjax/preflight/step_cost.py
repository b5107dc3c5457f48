"""What one step costs on a slice: the compiled program walked, an estimate per instruction."""

import collections
import contextlib
import dataclasses
import hashlib
import inspect
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import jax
import ml_collections

from bigjax.algorithms.base import contract
from bigjax.core import device, files, progress
from bigjax.preflight import flops, hlo, tpu_slices
from bigjax.training.program import Pair, Program, make_program, program_digest

PAPER_STEPS = 150_000
SHOWN = 10  # dearest instructions
OPTIMIZATION = ('penalty', 'spectral_norm', 'optimizer')  # scopes that are not the networks' work
PER_STEP = (
  'step_seconds', 'compute_seconds', 'collective_seconds', 'exposed_collective_seconds',
  'executed_flops', 'hbm_bytes', 'cycles',
)  # fmt: skip
# A part is named by the first scope that matches; the rest go by network and direction.
SCOPES = {
  'penalty': 'orthogonal penalty',
  'spectral_norm': 'spectral norm',
  'optimizer': 'optimizer',
  'attention': 'attention',
  'attn': 'attention',  # of Transformer blocks
  'bn': 'BatchNorm',
}


@dataclasses.dataclass(frozen=True)
class Line:
  """An instruction's share of a step."""

  part: str
  seconds: float  # of all its runs
  exposed: float  # the same, less what runs meanwhile: differs for asynchronous collectives
  cost: hlo.Cost
  estimated: bool  # by the compiler


def compile_step(
  lowered: jax.stages.Lowered, options: Mapping[str, bool] | None = None
) -> jax.stages.Compiled:
  """The compiled step of a lowered one, with options of the compiler, past JAX's cache."""
  cached = jax.config.jax_enable_compilation_cache
  jax.config.update('jax_enable_compilation_cache', False)  # it cannot read programs for TPUs here
  try:
    return device.compiled(lowered, options or {})
  finally:
    jax.config.update('jax_enable_compilation_cache', cached)


def memory_of(compiled: jax.stages.Compiled) -> dict[str, int]:
  """Bytes per device that a program needs: for what it is given and returns, and in between."""
  memory = compiled.memory_analysis()
  arguments = (
    memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
  )
  temporary = memory.temp_size_in_bytes
  return {
    'argument_bytes': arguments,
    'temporary_bytes': temporary,
    'peak_bytes': arguments + temporary,
  }


def fewest(config: ml_collections.ConfigDict) -> Program:
  """The program of a config with the fewest multiplications known for each layer."""
  config = config.copy_and_resolve_references()
  ways = {'microbatches': 1, 'remat': False, 'kernels': 'fewest'}
  config.run.update({key: value for key, value in ways.items() if key in config.run})
  return make_program(config, jax.local_devices(backend='cpu')[:1])


def step_flops(program: Program, pair: Pair, without: tuple[str, ...] = OPTIMIZATION) -> int:
  """FLOPs of one step, forward and backward, on the whole batch.

  Nothing is counted twice; by default without the penalty, spectral norm and optimizer: the work of
  the networks, which any program of this step must do.
  """
  algorithm, (stage, due) = program.algorithm, pair
  state = contract.state_shapes(algorithm)
  step = lambda state, batch: algorithm.step(state, batch, stage, due)
  return flops.needed(step, state, stage.shapes(), without=without)


def model_flops(
  config: ml_collections.ConfigDict, without: tuple[str, ...] = OPTIMIZATION
) -> float:
  """FLOPs of a step's networks, the mean over the steps of a run; see `step_flops`."""
  program, steps = fewest(config), config.run.steps
  pairs = program.pairs(0, steps)
  return sum(num * step_flops(program, pair, without) for pair, num in pairs.items()) / steps


def run_flops(config: ml_collections.ConfigDict) -> Callable[[int], int]:
  """Counts the FLOPs of any step of a run, penalties, spectral norm and all: step -> FLOPs.

  Each program is traced once, so that sums over steps count lazy terms as often as they run, and
  growing networks at each of their sizes.
  """
  program = fewest(config)
  known: dict[Pair, int] = {}

  def count(step: int) -> int:
    pair = program.stage(step), program.due(step)
    if pair not in known:
      known[pair] = step_flops(program, pair, without=())
    return known[pair]

  return count


def part(op_name: str) -> str:
  """Return which part of a step an instruction belongs to, by the scopes it was traced in."""
  for scope in op_name.split('/'):
    for name, what in SCOPES.items():
      if scope.startswith(name) or f'({name}' in scope:
        return what
  network = re.search(r'jvp\((\w+)\)', op_name)
  direction = 'backward' if 'transpose(' in op_name else 'forward'
  return f'{network[1]} {direction}' if network else 'the rest'


def account(module: hlo.Module, of: tpu_slices.Slice) -> list[Line]:
  """Cost of every instruction of a program on a slice."""
  chip = of.generation

  def least(cost: hlo.Cost) -> float:
    """Seconds of one run: the compiler's, or what FLOPs or bytes need."""
    if cost.collective:
      num_bytes = sum(array.num_bytes for array in cost.wire)
      return tpu_slices.collective_seconds(cost.collective, num_bytes, of, cost.group)
    return max(
      (cost.instruction.cycles or 0) / chip.clock,
      cost.flops / chip.device_peak,
      cost.hbm_bytes / chip.device_bandwidth,
    )

  lines = []
  for cost in hlo.costs(module):
    seconds = least(cost)
    meanwhile = sum(least(other) * other.times for other in cost.hidden if not other.collective)
    hidden = min(seconds, meanwhile / cost.times)
    asynchronous = cost.instruction.starts
    estimated = cost.instruction.cycles is not None or bool(cost.collective) or asynchronous
    name = cost.collective or part(cost.instruction.op_name)
    exposed = seconds - hidden if asynchronous else seconds
    lines.append(Line(name, seconds * cost.times, exposed * cost.times, cost, estimated))
  return lines


def out_of_memory(error: Exception) -> tuple[float, float] | None:
  """Return (bytes needed, bytes usable) of the compiler's refusal; None for another error."""
  units = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
  found = re.search(r'Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm', str(error)) or re.search(
    r'\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)', str(error)
  )
  if found is None:
    return None
  return float(found[1]) * units[found[2]], float(found[3]) * units[found[4]]


def plan(config: ml_collections.ConfigDict, of: tpu_slices.Slice) -> dict[str, Any]:
  """Everything known of a config's steps on a slice, as JSON-able values.

  Seconds, bytes and FLOPs are per device and step, means over the steps of the run; memory is that
  of the largest program. `programs` has the figures of each, where there are several.
  """
  start = time.monotonic()
  program, ideal = make_program(config, of.devices()), fewest(config)
  counted = program.pairs(0, config.run.steps)
  programs = []
  for i, (pair, num) in enumerate(counted.items(), 1):
    stage, due = pair
    if len(counted) > 1:
      progress.say(f'{of.name}: program {i} of {len(counted)}, {stage}')
    about = {'stage': str(stage), 'due': sorted(due), 'steps': num, 'examples': stage.examples}
    programs.append(about | one_program(program, pair, of, step_flops(ideal, pair)))
    if len(counted) > 1:  # the next may take half an hour
      progress.say(f'{of.name}: program {i} of {len(counted)}: {in_words(programs[-1])}')
  found = {
    'slice': of.name,
    'topology': of.topology,
    'devices': of.num_devices,
    'chips': of.num_chips,
    'batch_size': max(stage.examples for stage, _ in counted),
    'microbatches': config.run.get('microbatches', 1),
    'remat': config.run.get('remat', False),
    'peak_flops': of.generation.device_peak,
    'digest': ', '.join(one['digest'] for one in programs if 'digest' in one),
    'compiler_options': dict(program.options),
    'compile_seconds': time.monotonic() - start,
  } | combined(programs, of, config.run.steps)
  return found | ({'programs': programs} if len(programs) > 1 else {})


def memory_in_words(found: Mapping[str, Any]) -> str:
  """How much of a device's memory a program needs."""
  return (
    f'{progress.size(found["peak_bytes"])} of {progress.size(found["usable_bytes"])} per device'
  )


def in_words(found: dict[str, Any]) -> str:
  """What one program needs, in a line."""
  need = memory_in_words(found)
  return f'{need}, {1000 * found["step_seconds"]:.1f} ms' if found['fits'] else f'{need}: too much'


def one_program(program: Program, pair: Pair, of: tpu_slices.Slice, wanted: int) -> dict[str, Any]:
  """Figures of one compiled step: memory, and time by `totals` where it fits the compiler.

  They are kept on disk, since a compilation may take half an hour: a plan that was ended goes on.
  """
  lowered = program.lower(*pair)
  digest = program_digest(lowered)
  path = kept_at(digest, of, wanted, program.options)
  with contextlib.suppress(OSError, ValueError), open(path, encoding='utf-8') as file:
    return json.load(file)  # or there is none, or it is damaged
  images = pair[0].num_images
  found = {'digest': digest} | figures(lowered, of, images, wanted, program.options)
  with contextlib.suppress(OSError):  # of no use to the next plan then
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with files.whole(path, 'w', shared=True) as file:
      json.dump(found, file)
  return found


def kept_at(digest: str, of: tpu_slices.Slice, wanted: int, options: Mapping[str, bool]) -> str:
  """Where a program's figures are kept: those of this compiler, read as it is read today."""
  readers = (inspect.getsource(module) for module in (sys.modules[__name__], hlo, tpu_slices))
  flags = (os.environ.get(name, '') for name in ('XLA_FLAGS', 'LIBTPU_INIT_ARGS'))
  about = (
    digest,
    of.name,
    wanted,
    sorted(options.items()),
    jax.__version__,
    version('libtpu'),
    *flags,
    *readers,
  )
  name = hashlib.sha256('\n'.join(map(str, about)).encode()).hexdigest()[:32]
  return os.path.join(files.cache_dir(), 'plans', f'{name}.json')


def figures(
  lowered: jax.stages.Lowered,
  of: tpu_slices.Slice,
  images: int,
  wanted: int,
  options: Mapping[str, bool] | None = None,
) -> dict[str, Any]:
  """Compiles a step and reads off what it needs; images and wanted: as in `totals`."""
  found: dict[str, Any] = {'model_flops': wanted, 'usable_bytes': of.generation.usable}
  try:
    compiled = compile_step(lowered, options)
  except jax.errors.JaxRuntimeError as error:
    memory = out_of_memory(error)
    if memory is None:
      raise
    return found | {'fits': False, 'peak_bytes': memory[0], 'usable_bytes': memory[1]}
  found |= memory_of(compiled)
  found['fits'] = found['peak_bytes'] <= of.generation.usable
  lines = account(hlo.parse(compiled.as_text()), of)
  return found | totals(lines, of, images, wanted)


def combined(
  programs: Sequence[dict[str, Any]], of: tpu_slices.Slice, steps: int
) -> dict[str, Any]:
  """Figures of a run out of those of its programs, weighted with their steps."""
  largest = max(programs, key=lambda one: one['peak_bytes'])
  memory = ('argument_bytes', 'temporary_bytes', 'peak_bytes', 'usable_bytes')
  found = {key: largest[key] for key in memory if key in largest}
  mean = lambda key: sum(one['steps'] * one[key] for one in programs) / steps
  found |= {'fits': all(one['fits'] for one in programs), 'model_flops': mean('model_flops')}
  if not all('step_seconds' in one for one in programs):
    return found
  found |= {key: mean(key) for key in PER_STEP}
  step = found['step_seconds']
  floor = found['model_flops'] / of.num_devices / of.generation.device_peak
  collectives: dict[str, dict[str, float]] = {}
  for one in programs:
    for kind, values in one['collectives'].items():
      sums = collectives.setdefault(kind, dict.fromkeys(values, 0))
      for key, value in values.items():
        sums[key] += value * one['steps'] / steps
  parts = merge((one['steps'] / steps, one['parts']) for one in programs)
  return found | {
    'roofline_fraction': floor / step,
    'mfu': floor / step,
    'images_per_second': mean('images') / step,  # real ones, as the log of a run counts them
    'hours': steps * step / 3600,
    'hours_150k': PAPER_STEPS * step / 3600,
    'chip_hours': steps * step / 3600 * of.num_chips,
    'unestimated_share': mean('unestimated_seconds') / step,
    'unestimated': largest['unestimated'],
    'parts': dict(sorted(parts.items(), key=lambda item: -item[1])),
    'collectives': collectives,
    'dearest': largest['dearest'],
  }


def merge(weighted: Iterable[tuple[float, Mapping[str, float]]]) -> dict[str, float]:
  """The weighted sum of dicts of numbers."""
  sums: dict[str, float] = collections.defaultdict(float)
  for weight, values in weighted:
    for key, value in values.items():
      sums[key] += weight * value
  return dict(sums)


def totals(lines: Sequence[Line], of: tpu_slices.Slice, images: int, wanted: int) -> dict[str, Any]:
  """Add up a program's lines.

  Args:
    lines: of the program.
    of: the slice.
    images: real ones that a step consumes.
    wanted: FLOPs that any program of this step needs.
  """
  compute = [line for line in lines if not line.cost.collective]
  wires = [line for line in lines if line.cost.collective]
  floor = wanted / of.num_devices / of.generation.device_peak
  compute_seconds = max(sum(line.exposed for line in compute), floor)
  exposed = sum(line.exposed for line in wires)
  parts = merge((1, {line.part: line.exposed}) for line in compute)
  kinds: dict[str, dict[str, float]] = {}
  for line in wires:
    kind = kinds.setdefault(line.cost.collective, {'count': 0, 'bytes': 0, 'seconds': 0.0})
    kind['count'] += line.cost.times
    together = (line.cost.group or of.num_devices) if line.cost.collective == 'all-gather' else 1
    sent = sum(array.num_bytes for array in line.cost.wire)
    kind['bytes'] += line.cost.times * sent * together  # of the array summed up or put together
    kind['seconds'] += line.seconds
  without = [line for line in compute if not line.estimated]
  dearest = sorted(compute, key=lambda line: -line.exposed)[:SHOWN]
  return {
    'step_seconds': compute_seconds + exposed,
    'compute_seconds': compute_seconds,
    'collective_seconds': sum(line.seconds for line in wires),
    'exposed_collective_seconds': exposed,
    'executed_flops': sum(line.cost.flops * line.cost.times for line in lines),
    'hbm_bytes': sum(line.cost.hbm_bytes * line.cost.times for line in compute),
    'cycles': sum((line.cost.instruction.cycles or 0) * line.cost.times for line in compute),
    'images': images,
    'unestimated_seconds': sum(line.exposed for line in without),
    'unestimated': [described(line) for line in sorted(without, key=lambda x: -x.exposed)[:SHOWN]],
    'parts': parts,
    'collectives': kinds,
    'dearest': [described(line) for line in dearest],
  }


def described(line: Line) -> dict[str, Any]:
  """Return a line as JSON-able values."""
  op = line.cost.instruction
  return {
    'part': line.part,
    'seconds': line.exposed,
    'times': line.cost.times,
    'opcode': op.opcode,
    'flops': line.cost.flops,
    'bytes': line.cost.hbm_bytes,
    'result': ' '.join(
      f'{array.dtype}[{",".join(map(str, array.dims))}]' for array in op.results[:3]
    ),
    'op_name': op.op_name,
  }
