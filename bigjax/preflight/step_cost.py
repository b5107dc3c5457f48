"""What one step costs on a slice: the compiled program walked, an estimate per instruction."""

import collections
import dataclasses
import math
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections

from bigjax import algorithms
from bigjax.preflight import flops, hlo, tpu_slices
from bigjax.training import program

PAPER_STEPS = 150_000
SHOWN = 10  # dearest instructions
UPKEEP = ('penalty', 'spectral_norm', 'optimizer')  # scopes of a step beside its networks
# A part is named by the first scope that matches; the rest go by network and direction.
SCOPES = {
  'penalty': 'orthogonal penalty',
  'spectral_norm': 'spectral norm',
  'optimizer': 'optimizer',
  'attention': 'attention',
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


def compile_step(config: ml_collections.ConfigDict, devices: Sequence[Any]) -> tuple[Any, str]:
  """Return the compiled step of a config on these devices, and its StableHLO digest."""
  lowered = program.make_program(config, devices).lower(config.data.channels)
  cached = jax.config.jax_enable_compilation_cache
  jax.config.update('jax_enable_compilation_cache', False)  # it cannot read programs for TPUs here
  try:
    return lowered.compile(), program.program_digest(lowered)
  finally:
    jax.config.update('jax_enable_compilation_cache', cached)


def model_flops(
  config: ml_collections.ConfigDict, step: int = 0, without: tuple[str, ...] = UPKEEP
) -> int:
  """Return the FLOPs of a step's networks, forward and backward, on the whole batch.

  Counted with the fewest multiplications known for each layer, nothing computed twice, without
  the penalty, spectral norm and optimizer: the work that any program of this step must do.

  Args:
    config: of the run.
    step: which; steps of one stage cost the same.
    without: scopes that are left out.
  """
  config = config.copy_and_resolve_references()
  config.run.update({'minibatches': 1, 'remat': False, 'forms': 'fewest'})
  algorithm = algorithms.family(config.algorithm).make(config)
  stage = algorithm.stage(step)
  state = jax.eval_shape(lambda: algorithm.init(jax.random.key(0)))
  batch = program.batch_shapes(stage, config.data.channels)
  return flops.needed(lambda *args: algorithm.step(*args, stage), state, batch, without=without)


def step_flops(config: ml_collections.ConfigDict) -> Callable[[int], int]:
  """Counts the FLOPs of any step of a run, penalties, spectral norm and all: step -> FLOPs.

  Each distinct stage is traced once, so that sums over steps count lazy penalties as often as they
  run, and growing networks at each of their sizes.
  """
  algorithm = algorithms.family(config.algorithm).make(config)
  known: dict[Any, int] = {}

  def count(step: int) -> int:
    stage = algorithm.stage(step)
    if stage not in known:
      known[stage] = model_flops(config, step, without=())
    return known[stage]

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
  """Return what every instruction of a program costs on a slice."""
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
  """Return everything known of a config's step on a slice, as JSON-able values.

  Seconds, bytes and FLOPs are per device and step; `model_flops` are of the whole slice.
  """
  start = time.monotonic()
  wanted = model_flops(config)
  found: dict[str, Any] = {
    'slice': of.name,
    'topology': of.topology,
    'devices': of.num_devices,
    'chips': of.num_chips,
    'batch_size': config.optim.batch_size,
    'minibatches': config.run.minibatches,
    'remat': config.run.remat,
    'model_flops': wanted,
    'peak_flops': of.generation.device_peak,
    'usable_bytes': of.generation.usable,
  }
  try:
    compiled, found['digest'] = compile_step(config, of.devices())
  except jax.errors.JaxRuntimeError as error:
    memory = out_of_memory(error)
    if memory is None:
      raise
    found.update(fits=False, peak_bytes=memory[0], usable_bytes=memory[1])
    return {**found, 'compile_seconds': time.monotonic() - start}
  found['compile_seconds'] = time.monotonic() - start
  memory = compiled.memory_analysis()
  arguments = (
    memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
  )
  found.update(
    argument_bytes=arguments,
    temporary_bytes=memory.temp_size_in_bytes,
    peak_bytes=arguments + memory.temp_size_in_bytes,
  )
  found['fits'] = found['peak_bytes'] <= of.generation.usable
  return found | totals(account(hlo.parse(compiled.as_text()), of), of, config, wanted)


def totals(
  lines: Sequence[Line], of: tpu_slices.Slice, config: ml_collections.ConfigDict, wanted: int
) -> dict[str, Any]:
  """Add up a program's lines."""
  compute = [line for line in lines if not line.cost.collective]
  wires = [line for line in lines if line.cost.collective]
  floor = wanted / of.num_devices / of.generation.device_peak
  compute_seconds = max(sum(line.exposed for line in compute), floor)
  exposed = sum(line.exposed for line in wires)
  step = compute_seconds + exposed
  parts: dict[str, float] = collections.defaultdict(float)
  for line in compute:
    parts[line.part] += line.exposed
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
  images = math.prod(algorithms.family(config.algorithm).make(config).stage(0).batch)
  return {
    'step_seconds': step,
    'compute_seconds': compute_seconds,
    'collective_seconds': sum(line.seconds for line in wires),
    'exposed_collective_seconds': exposed,
    'roofline_fraction': floor / step,
    'mfu': floor / step,
    'executed_flops': sum(line.cost.flops * line.cost.times for line in lines),
    'hbm_bytes': sum(line.cost.hbm_bytes * line.cost.times for line in compute),
    'cycles': sum((line.cost.instruction.cycles or 0) * line.cost.times for line in compute),
    'images_per_second': images / step,  # real ones, as the log of a run counts them
    'hours': config.run.steps * step / 3600,
    'hours_150k': PAPER_STEPS * step / 3600,
    'chip_hours': config.run.steps * step / 3600 * of.num_chips,
    'unestimated_share': sum(line.exposed for line in without) / step,
    'unestimated': [described(line) for line in sorted(without, key=lambda x: -x.exposed)[:SHOWN]],
    'parts': dict(sorted(parts.items(), key=lambda item: -item[1])),
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


def gib(num_bytes: float) -> str:
  return f'{num_bytes / 2**30:.2f}'
