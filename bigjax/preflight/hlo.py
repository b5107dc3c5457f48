"""What a compiled XLA program does, counted from its text: FLOPs, bytes, cycles, collectives.

The compiler's own sums count the body of a loop once. Here the call graph is walked and every
instruction counts as often as it runs; a loop whose number of trips cannot be read is an error.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from bigjax.core import device
from bigjax.preflight.flops import pairs

COLLECTIVES = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'all-to-all',
  'ragged-all-to-all',
  'collective-permute',
  'collective-broadcast',
)
SPLIT = 'async-collective'  # names of the start and the end of a collective in parts
FREE = {  # names for values, not work
  'parameter',
  'constant',
  'tuple',
  'get-tuple-element',
  'bitcast',
  'after-all',
  'partition-id',
  'replica-id',
  'opt-barrier',
}
_HEADER = re.compile(r'^(ENTRY )?%(\S+) \(.*\{$')
_LINE = re.compile(r'^\s+(ROOT )?%(\S+) = (.+?) ([a-z][\w-]*)\((.*)$')
_ARRAY = re.compile(r'\b([a-z]\w*)\[([\d,]*)\](?:\{([^{}]*)\})?')
_CALLED = re.compile(r'(calls|body|condition|to_apply|async_computation)=%([\w.-]+)')
_BRANCHES = re.compile(
  r'branch_computations=\{([^}]*)\}|true_computation=%(\S+?), false_computation=%(\S+?),'
)
_BITS = re.compile(r'[a-z]+(\d+)')


class Array(NamedTuple):
  """The type of an array, and whether it lies in the device's main memory."""

  dtype: str
  dims: tuple[int, ...]
  in_hbm: bool

  @property
  def num_bytes(self) -> int:
    if self.dtype in ('token', 'opaque'):
      return 0
    bits = 8 if self.dtype == 'pred' else int(_BITS.match(self.dtype)[1])
    return math.prod(self.dims) * bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a program."""

  name: str
  opcode: str
  results: tuple[Array, ...]  # a tuple's elements, flattened
  operands: tuple[str, ...]
  called: Mapping[str, str]  # {'body': computation}, ...
  text: str  # from the opening bracket on

  @property
  def op_name(self) -> str:
    """Where it comes from: 'jit(step)/while/body/.../blocks_0/conv1/conv_general_dilated'."""
    found = re.search(r'op_name="([^"]*)"', self.text)
    return found[1] if found else ''

  @property
  def cycles(self) -> int | None:
    """The compiler's estimate; None where it made none, or says infinity."""
    found = re.search(r'"estimated_cycles":"(-?\d+)"', self.text)
    return int(found[1]) if found and 0 < int(found[1]) < 2**62 else None

  @property
  def starts(self) -> bool:
    """Whether this begins what a later instruction waits for.

    TPUs also split collectives into a start, parts inside of fusions that compute something else,
    and an end, all of them fusions.
    """
    return self.opcode.endswith('-start') or self.name.startswith(f'{SPLIT}-start')

  @property
  def ends(self) -> bool:
    """Whether this waits for what an earlier instruction began."""
    return self.opcode.endswith('-done') or self.name.startswith(f'{SPLIT}-done')

  def attribute(self, pattern: str) -> str | None:
    """Return the first group of a pattern in the attributes."""
    found = re.search(pattern, self.text)
    return found[1] if found else None


@dataclasses.dataclass(frozen=True)
class Computation:
  """Instructions in the order in which they run, by name."""

  name: str
  instructions: dict[str, Instruction]
  root: str


@dataclasses.dataclass(frozen=True)
class Module:
  """A program: computations by name."""

  computations: dict[str, Computation]
  entry: str


def _arrays(text: str) -> tuple[Array, ...]:
  return tuple(
    Array(dtype, tuple(int(d) for d in dims.split(',') if d), not re.search(r'S\(\d', layout))
    for dtype, dims, layout in _ARRAY.findall(text)
  )


def parse(text: str) -> Module:
  """Return the module of `compiled.as_text()`."""
  computations, entry, current, root = {}, '', None, ''
  for line in text.splitlines():
    if current is None:
      if header := _HEADER.match(line):
        current, name, root = {}, header[2], ''
        entry = name if header[1] else entry
    elif line.startswith('}'):
      computations[name] = Computation(name, current, root)
      current = None
    elif found := _LINE.match(line):
      is_root, its_name, types, opcode, rest = found.groups()
      operands = tuple(re.findall(r'%([\w.-]+)', re.split(r'\)(?:,|$)', rest, maxsplit=1)[0]))
      called = dict(_CALLED.findall(rest))
      if branches := _BRANCHES.search(rest):
        names = re.findall(r'%([\w.-]+)', branches[0])
        called |= {f'branch{i}': branch for i, branch in enumerate(names)}
      current[its_name] = Instruction(its_name, opcode, _arrays(types), operands, called, rest)
      root = its_name if is_root else root
  return Module(computations, entry)


def _follow(computation: Computation, name: str) -> Instruction:
  """The instruction that makes a value, through copies of it."""
  found = computation.instructions[name]
  while found.opcode in ('copy', 'bitcast', 'convert') and found.operands:
    found = computation.instructions[found.operands[0]]
  return found


def _constant(computation: Computation, name: str) -> int | None:
  found = _follow(computation, name)
  value = re.match(r'(-?\d+)\)', found.text) if found.opcode == 'constant' else None
  return int(value[1]) if value else None


def trips(module: Module, computation: Computation, loop: Instruction) -> int:
  """Return how often the body of a `while` runs.

  Raises:
    ValueError: it does not count from one constant to another in constant steps.
  """
  if known := loop.attribute(r'"known_trip_count":\{"n":"(\d+)"'):
    return int(known)
  unknown = ValueError(f'the number of trips of %{loop.name} cannot be read from the program')
  condition = module.computations[loop.called['condition']]
  body = module.computations[loop.called['body']]
  test = condition.instructions[condition.root]
  if test.opcode != 'compare' or 'direction=LT' not in test.text:
    raise unknown
  counter, limit = _follow(condition, test.operands[0]), _constant(condition, test.operands[1])
  index = counter.attribute(r'index=(\d+)')
  if counter.opcode != 'get-tuple-element' or limit is None or index is None:
    raise unknown
  given = _follow(computation, loop.operands[0])
  first = _constant(computation, given.operands[int(index)]) if given.opcode == 'tuple' else None
  result = body.instructions[body.root]
  after = _follow(body, result.operands[int(index)]) if result.opcode == 'tuple' else None
  if after is not None and after.opcode == 'fusion':  # a counter that became a fusion of its own
    body = module.computations[after.called['calls']]
    after = body.instructions[body.root]
  step = None
  if after is not None and after.opcode == 'add':
    step = _constant(body, after.operands[1]) or _constant(body, after.operands[0])
  if first is None or not step:
    raise unknown
  return max(0, math.ceil((limit - first) / step))


def flops(computation: Computation, op: Instruction) -> int:
  """Return 2 x the multiply-adds, on no padding, of a convolution or matrix product; else 0."""
  if op.opcode == 'dot':
    left = computation.instructions[op.operands[0]].results[0]
    over = op.attribute(r'lhs_contracting_dims=\{([\d,]*)\}') or ''
    contracted = math.prod(left.dims[int(d)] for d in over.split(',') if d)
    return 2 * math.prod(op.results[0].dims) * contracted
  if op.opcode != 'convolution':
    return 0
  left, right = (computation.instructions[name].results[0] for name in op.operands[:2])
  lhs, rhs, out = re.match(r'(\w+)_(\w+)->(\w+)', op.attribute(r'dim_labels=([^,\s]+)')).groups()
  window = dict(
    part.split('=') for part in (op.attribute(r'window=\{([^}]*)\}') or '').split() if '=' in part
  )
  spatial = sorted(label for label in lhs if label.isdigit())

  def numbers(key: str, default: str) -> list[str]:
    return window[key].split('x') if key in window else [default] * len(spatial)

  strides, lefts = numbers('stride', '1'), numbers('lhs_dilate', '1')
  rights, pads = numbers('rhs_dilate', '1'), numbers('pad', '0_0')
  met = 1
  for i, label in enumerate(spatial):
    sizes = (
      left.dims[lhs.index(label)],
      right.dims[rhs.index(label)],
      op.results[0].dims[out.index(label)],
    )
    low = int(pads[i].split('_')[0])
    met *= pairs(sizes, int(strides[i]), low, int(lefts[i]), int(rights[i]))
  examples = op.results[0].dims[out.index('b')]
  features = op.results[0].dims[out.index('f')]
  return 2 * met * examples * features * right.dims[rhs.index('i')]


def hbm_bytes(module: Module, computation: Computation, op: Instruction) -> int:
  """Return the bytes that an instruction reads from and writes to main memory.

  Of an operand that is only sliced or gathered from, the part that is used; of one that is updated
  in place, the update.
  """
  written = sum(array.num_bytes for array in op.results if array.in_hbm)
  inner = module.computations.get(op.called.get('calls', ''))
  if inner is None:
    read = [computation.instructions[name].results for name in op.operands]
    if op.opcode in ('slice', 'dynamic-slice', 'gather'):
      return 2 * written
    if op.opcode == 'dynamic-update-slice':
      update = computation.instructions[op.operands[1]].results[0]
      return 2 * update.num_bytes * update.in_hbm
    return written + sum(array.num_bytes for arrays in read for array in arrays if array.in_hbm)
  parameters = {
    int(re.match(r'(\d+)', i.text)[1]): i
    for i in inner.instructions.values()
    if i.opcode == 'parameter'
  }
  users: dict[str, list[Instruction]] = {}
  for i in inner.instructions.values():
    for name in i.operands:
      users.setdefault(name, []).append(i)
  read = 0
  for number, parameter in parameters.items():
    if number >= len(op.operands):
      continue
    outer = computation.instructions[op.operands[number]].results
    whole = sum(array.num_bytes for array in outer if array.in_hbm)
    part = 0
    for user in users.get(parameter.name, []):
      if user.opcode in ('slice', 'dynamic-slice', 'gather') and user.operands[0] == parameter.name:
        part += user.results[0].num_bytes
      elif user.opcode == 'dynamic-update-slice' and user.operands[0] == parameter.name:
        update = inner.instructions[user.operands[1]].results[0].num_bytes
        written = min(written, update) if user.name == inner.root else written
      else:
        part = whole
        break
    read += min(part, whole)
  return read + written


class Cost(NamedTuple):
  """One instruction of a program that does work, as often as it runs."""

  instruction: Instruction
  times: int
  flops: int  # of one run, as the rest
  hbm_bytes: int
  collective: str  # its kind, or ''
  wire: tuple[Array, ...]  # what a collective sends
  group: int  # devices that take part in it; 0: all
  hidden: tuple['Cost', ...] = ()  # what runs between the start and the end of an asynchronous one


def _nested(module: Module, op: Instruction) -> Iterator[tuple[Computation, Instruction]]:
  """Yield what a fusion or an asynchronous call consists of, at any depth."""
  for role, name in op.called.items():
    if role in ('calls', 'async_computation'):
      inner = module.computations[name]
      for i in inner.instructions.values():
        yield inner, i
        yield from _nested(module, i)


def _kind(opcode: str) -> str:
  return next((kind for kind in COLLECTIVES if opcode in (kind, f'{kind}-start')), '')


def _cost(module: Module, computation: Computation, op: Instruction, times: int) -> Cost:
  inside = [(computation, op), *_nested(module, op)]
  part = op.called.get('calls', '').startswith('async_collective_fusion')  # its start has the cost
  found = [(where, i) for where, i in inside if _kind(i.opcode) and not part]
  kind, wire, group = '', (), 0
  if found:
    where, i = found[0]
    kind = _kind(i.opcode)
    wire = tuple(array for name in i.operands for array in where.instructions[name].results)
    group = _group(i)
  return Cost(
    op,
    times,
    sum(flops(where, i) for where, i in inside),
    hbm_bytes(module, computation, op),
    kind,
    wire,
    group,
  )


def _group(op: Instruction) -> int:
  """Return how many devices take part in a collective; 0 for all of them.

  Groups are printed as lists, as an array of ids, or as axes of a mesh.
  """
  if listed := op.attribute(r'replica_groups=\{\{([\d,]+)\}'):
    return len(listed.split(','))
  if iota := re.search(r'replica_groups=\[(\d+),(\d+)\]', op.text):
    return int(iota[2])
  if mesh := re.search(r'replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}', op.text):
    lengths = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
    return math.prod(int(lengths[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
  return 0


def costs(module: Module) -> list[Cost]:
  """Return every instruction that does work, with how often it runs.

  Of an asynchronous pair, the start carries the cost and what runs until its end; of branches, the
  dearest counts that is not marked as `device.SELDOM`.

  Raises:
    ValueError: the number of trips of a loop cannot be read.
  """
  return _walk(module, module.computations[module.entry], 1)


def _walk(module: Module, computation: Computation, times: int) -> list[Cost]:
  found: list[Cost] = []
  open_at: dict[str, int] = {}  # an asynchronous start -> its place in `found`
  for op in computation.instructions.values():
    if op.opcode == 'while':
      num = trips(module, computation, op)
      for role in ('condition', 'body'):
        found += _walk(module, module.computations[op.called[role]], times * num)
    elif op.opcode == 'call':
      found += _walk(module, module.computations[op.called['to_apply']], times)
    elif op.opcode == 'conditional':
      branches = [name for role, name in op.called.items() if role.startswith('branch')]
      usual = [name for name in branches if not _seldom(module, name)] or branches
      walked = [_walk(module, module.computations[name], times) for name in usual]
      found += max(walked, key=lambda costs: sum(cost.instruction.cycles or 0 for cost in costs))
    elif op.ends:
      at = open_at.pop(_start(computation, op), None)
      if at is not None:
        found[at] = found[at]._replace(hidden=tuple(found[at + 1 :]))
    elif op.opcode.endswith('-update') or op.opcode in FREE:
      continue
    else:
      if op.starts:
        open_at[op.name] = len(found)
      found.append(_cost(module, computation, op, times))
  return found


def _seldom(module: Module, name: str) -> bool:
  """Return whether a branch is one that is marked as hardly ever taken (`device.SELDOM`)."""
  operations = module.computations[name].instructions.values()
  return any(f'/{device.SELDOM}/' in op.op_name for op in operations)


def _start(computation: Computation, op: Instruction) -> str:
  """Return the name of the start that an end waits for."""
  if op.name.startswith(SPLIT):
    return op.name.replace('-done', '-start')
  while not op.opcode.endswith('-start'):
    if not op.operands:
      return ''
    op = computation.instructions[op.operands[0]]
  return op.name
