"""`bigjax plan`: what a run needs on a TPU slice that is not there, by the TPU's own compiler.

The very step that `bigjax train` runs is compiled ahead of time; its program is walked, and every
instruction is given the compiler's estimate of cycles, or what its FLOPs or bytes need at the
least. Nothing runs: these are estimates, and no host, data or waiting is in them.
"""

import collections
import dataclasses
import math
import re
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import ml_collections

from bigjax import build, data, flops, hlo, plots, report, tpu, utils
from bigjax import config as configs

USAGE = """usage: bigjax plan [--config NAME[:variant] | FILE.py[:variant]]
                   --topology v3-128 [--topology v5p-128 ...]
                   [--json FILE.json] [--png FILE.png] [--config.group.key=value ...]
       bigjax plan --config ... --scale v3-8,v3-32,v3-128 [--per_device 16] [--json ...] [--png ...]
       bigjax plan --config ... --fit v4-8

Compiles the training step for TPU slices that need not exist, on this machine: memory per device,
FLOPs, estimated time of a step, of the run, and where it goes. --scale compares slices at a fixed
batch per device and at the configured batch; --fit searches run.minibatches and run.remat until the
configured batch fits. Each compilation takes minutes. Needs: pip install 'bigjax[plan]'.
"""
OPTIONS = {
  'topology': 'slices, such as v3-128; separated by commas',
  'scale': 'slices to compare, separated by commas',
  'per_device': 'examples per device for --scale',
  'fit': 'one slice',
  'json': 'where to write everything as JSON',
  'png': 'where to draw it (default: plan.png)',
}
PAPER_STEPS = 150_000
SHOWN = 10  # dearest instructions
FORMULA = 'MFU = model FLOPs / (devices x peak FLOP/s x seconds of a step)'
CAVEAT = (
  "These are the compiler's estimates, not measurements: no host, no input pipeline, no waiting "
  'for other devices is in them.'
)
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
  lowered = build.make(config, devices).lower(config.data.channels)
  cached = jax.config.jax_enable_compilation_cache
  jax.config.update('jax_enable_compilation_cache', False)  # it cannot read programs for TPUs here
  try:
    return lowered.compile(), build.digest(lowered)
  finally:
    jax.config.update('jax_enable_compilation_cache', cached)


def model_flops(config: ml_collections.ConfigDict) -> int:
  """Return the FLOPs of a step's networks, forward and backward, on the whole batch.

  Counted with the fewest multiplications known for each layer, nothing computed twice, without
  the penalty, spectral norm and optimizer: the work that any program of this step must do.
  """
  config = config.copy_and_resolve_references()
  config.run.update({'minibatches': 1, 'remat': False, 'forms': 'fewest'})
  algorithm = build.family(config.algorithm).make(config)
  stage = algorithm.stage(0)
  state = jax.eval_shape(lambda: algorithm.init(jax.random.key(0)))
  batch = build.batch_shapes(stage, config.data.channels)
  leave = ('penalty', 'spectral_norm', 'optimizer')
  return flops.needed(lambda *args: algorithm.step(*args, stage), state, batch, without=leave)


def part(op_name: str) -> str:
  """Return which part of a step an instruction belongs to, by the scopes it was traced in."""
  for scope in op_name.split('/'):
    for name, what in SCOPES.items():
      if scope.startswith(name) or f'({name}' in scope:
        return what
  network = re.search(r'jvp\((\w+)\)', op_name)
  direction = 'backward' if 'transpose(' in op_name else 'forward'
  return f'{network[1]} {direction}' if network else 'the rest'


def account(module: hlo.Module, of: tpu.Slice) -> list[Line]:
  """Return what every instruction of a program costs on a slice."""
  chip = of.generation

  def least(cost: hlo.Cost) -> float:
    """Seconds of one run: the compiler's, or what FLOPs or bytes need."""
    if cost.collective:
      num_bytes = sum(array.num_bytes for array in cost.wire)
      return tpu.collective_seconds(cost.collective, num_bytes, of, cost.group)
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


def plan(config: ml_collections.ConfigDict, of: tpu.Slice) -> dict[str, Any]:
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
  lines: Sequence[Line], of: tpu.Slice, config: ml_collections.ConfigDict, wanted: int
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
  images = math.prod(build.family(config.algorithm).make(config).stage(0).batch)
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


def table(rows: Sequence[Sequence[str]]) -> str:
  """Return rows, the first of them the heading, as a Markdown table."""
  lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
  return '\n'.join([lines[0], '|' + '---|' * len(rows[0]), *lines[1:]])


def overview(plans: Sequence[Mapping[str, Any]]) -> str:
  """Return a row per slice."""
  rows = [
    (
      'slice',
      'batch',
      'GiB per device',
      'usable',
      'ms per step',
      'compute',
      'collectives exposed',
      'MFU',
      'images/s',
      'hours',
      'to 150k',
      'chip-hours',
    )
  ]
  for found in plans:
    row = [found['slice'], str(found['batch_size']), gib(found['peak_bytes'])]
    row.append(gib(found['usable_bytes']) + ('' if found['fits'] else ': does not fit'))
    if 'step_seconds' in found:
      row += [
        f'{found["step_seconds"] * 1e3:.1f}',
        f'{found["compute_seconds"] * 1e3:.1f}',
        f'{found["exposed_collective_seconds"] * 1e3:.1f}',
        f'{found["mfu"]:.2f}',
        f'{found["images_per_second"]:,.0f}',
        f'{found["hours"]:.1f}',
        f'{found["hours_150k"]:.1f}',
        f'{found["chip_hours"]:,.0f}',
      ]
    rows.append((*row, *[''] * (len(rows[0]) - len(row))))
  return table(rows)


def details(found: Mapping[str, Any]) -> str:
  """Return where a slice's step goes: parts, collectives, the dearest instructions."""
  if 'step_seconds' not in found:
    short = found['peak_bytes'] - found['usable_bytes']
    return f'{found["slice"]}: {gib(short)} GiB per device are missing; try --fit {found["slice"]}'
  step = found['step_seconds']
  share = lambda seconds: (f'{seconds * 1e3:.2f}', f'{seconds / step:.1%}')
  rows = [('part', 'ms', 'share')]
  rows += [(name, *share(seconds)) for name, seconds in found['parts'].items()]
  rows.append(('collectives, exposed', *share(found['exposed_collective_seconds'])))
  wires = [('collective', 'per step', 'MB per device', 'ms')]
  wires += [
    (kind, str(all_['count']), f'{all_["bytes"] / 1e6:,.1f}', f'{all_["seconds"] * 1e3:.2f}')
    for kind, all_ in found['collectives'].items()
  ]
  dear = [('dearest instructions', 'ms', 'share', 'times', 'result')]
  dear += [
    (line['op_name'][-70:], *share(line['seconds']), str(line['times']), line['result'][:48])
    for line in found['dearest']
  ]
  lines = [
    f'\n{found["slice"]} ({found["topology"]}, {found["devices"]} devices), compiled in '
    f'{found["compile_seconds"]:.0f} s; program {found["digest"]}',
    f'per device and step: {found["executed_flops"] / 1e12:.3g} TFLOP executed, '
    f'{found["model_flops"] / found["devices"] / 1e12:.3g} TFLOP of the model, '
    f'{found["hbm_bytes"] / 1e9:.3g} GB to and from memory, {found["cycles"] / 1e6:.4g} Mcycles; '
    f'{gib(found["argument_bytes"])} GiB of arguments, {gib(found["temporary_bytes"])} temporary',
    f'{FORMULA} = {found["model_flops"]:.3g} / ({found["devices"]} x {found["peak_flops"]:.3g} x '
    f'{step:.4f}) = {found["mfu"]:.2f}',
    table(rows),
    table(wires),
    table(dear),
    f'{found["unestimated_share"]:.2%} of the time is of instructions without an estimate: their '
    'bytes over the bandwidth of the memory',
  ]
  return '\n\n'.join(lines)


@contextmanager
def ticking(what: str, expected: float | None) -> Iterator[None]:
  """Say on stderr how long something has taken, and may still take, while it runs."""
  done, start = threading.Event(), time.monotonic()

  def tick():
    while not done.wait(1 if sys.stderr.isatty() else 15):
      spent = time.monotonic() - start
      left = f', about {max(expected - spent, 1):.0f}s left' if expected else ''
      end = '\r' if sys.stderr.isatty() else '\n'
      print(f'{what}: {spent:.0f}s{left}   ', end=end, file=sys.stderr, flush=True)

  thread = threading.Thread(target=tick, daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()


Plan = Callable[[ml_collections.ConfigDict, tpu.Slice], dict[str, Any]]


def watched() -> Plan:
  """Return `plan`, with progress on stderr; later ones are expected to take as long as the last."""
  last: list[float] = []

  def run(config: ml_collections.ConfigDict, of: tpu.Slice) -> dict[str, Any]:
    what = f'compiling for {of.name}, batch {config.optim.batch_size}'
    with ticking(what, last[-1] if last else None):
      found = plan(config, of)
    last.append(found['compile_seconds'])
    return found

  return run


def scaled(
  config: ml_collections.ConfigDict, slices: Sequence[tpu.Slice], per_device: int, run: Plan
) -> dict[str, list[dict[str, Any]]]:
  """Return {'weak': plans at a fixed batch per device, 'strong': at the configured batch}."""
  found: dict[str, list[dict[str, Any]]] = {'weak': [], 'strong': []}
  strong = config.optim.batch_size
  for of in slices:
    for kind, batch in (('weak', per_device * of.num_devices), ('strong', strong)):
      if batch % of.num_devices:
        continue
      config = config.copy_and_resolve_references()
      config.optim.batch_size = batch
      same = [one for ones in found.values() for one in ones if one['slice'] == of.name]
      known = next((one for one in same if one['batch_size'] == batch), None)
      found[kind].append(known or run(config, of))
  return found


def settings(per_device: int) -> list[tuple[int, bool]]:
  """Return (run.minibatches, run.remat) to try, from the fastest to the smallest."""
  divisors = [n for n in range(1, per_device + 1) if per_device % n == 0]
  return [(1, False), (1, True)] + [(n, True) for n in divisors if n > 1]


def fitted(
  config: ml_collections.ConfigDict, of: tpu.Slice, run: Plan, say: Callable[[str], None]
) -> dict[str, Any] | None:
  """Return the plan of the first of `settings` that fits, by halving; None where none does."""
  batch = config.optim.batch_size
  if batch % of.num_devices:
    raise utils.UserError(
      f'a batch of {batch} examples cannot be split over the {of.num_devices} devices of '
      f'{of.name}; use a multiple.'
    )
  tried = settings(batch // of.num_devices)
  low, high, best = 0, len(tried) - 1, None
  while low <= high:
    middle = (low + high) // 2
    config = config.copy_and_resolve_references()
    config.run.minibatches, config.run.remat = tried[middle]
    found = run(config, of)
    words = f'run.minibatches={tried[middle][0]} run.remat={tried[middle][1]}'
    say(f'{words}: {gib(found["peak_bytes"])} of {gib(found["usable_bytes"])} GiB')
    if found['fits']:
      best, high = found, middle - 1
    else:
      low = middle + 1
  return best


def main(argv: list[str]) -> int:
  """`bigjax plan`; returns the exit status: 1 where nothing fits."""
  if '--help' in argv or '-h' in argv:
    slices = textwrap.wrap('slices: ' + ', '.join(tpu.names()), 100, break_on_hyphens=False)
    print('\n'.join([USAGE, *slices]))
    return 0
  config, _, given = configs.parse('plan', joined(argv, 'topology'), OPTIONS, {})
  modes = [mode for mode in ('topology', 'scale', 'fit') if given[mode]]
  if len(modes) != 1:
    raise utils.UserError(
      'give one of --topology, --scale and --fit, for example --topology v3-128.'
    )
  slices = [tpu.find(name) for name in given[modes[0]].split(',') if name]
  if config.data.get('num_classes') is None:
    config.data.num_classes = len(data.load(config.data).class_names)
  build.family(config.algorithm).check(config)
  jax.config.update('jax_platforms', 'cpu')
  run, say = watched(), lambda text: print(text, file=sys.stderr, flush=True)
  say(CAVEAT)
  if modes == ['scale']:
    per_device = int(given['per_device'] or 16)
    found = scaled(config, slices, per_device, run)
    for kind, plans in found.items():
      fixed = f'{per_device} examples per device' if kind == 'weak' else 'fixed batch'
      print(f'\n{kind} scaling, {fixed}\n\n{overview(plans)}\n\n{on_the_wire(plans)}')
    shown = found['weak'] + found['strong']
  elif modes == ['fit']:
    best = fitted(config, slices[0], run, say)
    if best is None:
      print(
        f'nothing fits a batch of {config.optim.batch_size} on {slices[0].name}: take a larger '
        'slice, or a smaller batch.'
      )
      return 1
    shown = [best]
    print(overview(shown))
    print(f'\n--config.run.minibatches={best["minibatches"]} --config.run.remat={best["remat"]}')
  else:
    shown = []
    for of in slices:
      shown.append(run(config, of))
    print(overview(shown))
    smallest = min((p for p in shown if p['fits']), key=lambda p: p['chips'], default=None)
    name = smallest['slice'] if smallest else 'none of these'
    print(f'\nsmallest of these that it fits: {name}')
    for found in shown:
      print(details(found))
  print(f'\n{CAVEAT}')
  if given['json']:
    report.write_json(given['json'], {'caveat': CAVEAT, 'mfu': FORMULA, 'plans': shown})
  drawn = [found for found in shown if 'parts' in found]
  if drawn:
    plots.bars(given['png'] or 'plan.png', bars(drawn), 'estimated ms per step', CAVEAT)
  return 0 if any(found['fits'] for found in shown) else 1


def on_the_wire(plans: Sequence[Mapping[str, Any]]) -> str:
  """Return the bytes of what devices add up or put together per step, by slice and kind."""
  rows = [('slice', 'collective', 'per step', 'MB per device')]
  for found in plans:
    for kind, total in found.get('collectives', {}).items():
      rows.append((found['slice'], kind, str(total['count']), f'{total["bytes"] / 1e6:,.1f}'))
  return table(rows)


def bars(plans: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
  """Return {slice and batch: {part: ms}}."""
  return {
    f'{found["slice"]}\nbatch {found["batch_size"]}': {
      **{name: seconds * 1e3 for name, seconds in found['parts'].items()},
      'collectives, exposed': found['exposed_collective_seconds'] * 1e3,
    }
    for found in plans
  }


def joined(argv: Sequence[str], option: str) -> list[str]:
  """Return the words of a command line with a repeated option given once, with commas."""
  values, rest, words = [], [], iter(argv)
  for word in words:
    if word == f'--{option}':
      values.append(next(words, ''))
    elif word.startswith(f'--{option}='):
      values.append(word.partition('=')[2])
    else:
      rest.append(word)
  return rest + ([f'--{option}={",".join(values)}'] if values else [])
