"""Reading a program compiled for TPUs, and the rules of data parallelism as checks on its text.

The checks take sizes for granted that tell examples from everything else: the examples per device
are a multiple of `PRIME`, and no channel count, spatial size or class count is.
"""

import collections
import dataclasses
import re
from typing import NamedTuple

PRIME = 13
COLLECTIVES = {
  'all-reduce',
  'all-gather',
  'all-to-all',
  'ragged-all-to-all',
  'reduce-scatter',
  'collective-permute',
  'collective-broadcast',
  'send',
  'recv',
}

_OP = re.compile(r'^\s*(?:ROOT )?%(\S+) = (.+?) ([a-z][\w-]*)\((.*)$')
_SHAPE = re.compile(r'\b([a-z]\w*)\[([\d,]*)\]')
_DOT = re.compile(r'stablehlo\.dot_general .* : \(tensor<(\S+)>, tensor<(\S+)>\) ->')


class Shape(NamedTuple):
  """The type of an array: 'bf16', (26, 4, 4, 32)."""

  dtype: str
  dims: tuple[int, ...]

  @property
  def size(self) -> int:
    size = 1
    for dim in self.dims:
      size *= dim
    return size


class Op(NamedTuple):
  """One instruction; tuples are flattened into `results`."""

  kind: str
  results: list[Shape]
  operands: list[Shape]
  text: str


class Dot(NamedTuple):
  """One matrix product of the program before optimisation."""

  left: Shape
  right: Shape
  highest: bool


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled step and what is known of it beforehand."""

  ops: list[Op] = dataclasses.field(repr=False)  # after optimisation: what each device runs
  dots: list[Dot] = dataclasses.field(repr=False)  # as written
  local_batch: int
  num_devices: int
  matrices: list[tuple[int, int]]  # [prod, out] of every tensor under spectral norm, both players
  max_reductions: int
  num_reduced: int  # numbers on the wire in one step (the loop's body once), scalars aside


def _shapes(text: str) -> list[Shape]:
  return [
    Shape(dtype, tuple(int(d) for d in dims.split(',') if d))
    for dtype, dims in _SHAPE.findall(text)
  ]


def parse_compiled(text: str) -> list[Op]:
  """Return the instructions of an optimised HLO module, those inside fusions and loops included."""
  ops, known = [], {}
  for line in text.splitlines():
    if line.endswith('{') and not line.startswith(' '):
      known = {}  # names are unique within a computation only
    if match := _OP.match(line):
      name, types, kind, rest = match.groups()
      known[name] = _shapes(types)
      names = re.findall(r'%([^\s,)]+)', rest.split('), ')[0])
      operands = [shape for operand in names for shape in known.get(operand, [])]
      ops.append(Op(kind.removesuffix('-start'), known[name], operands, line.strip()))
  return ops


def parse_lowered(text: str) -> list[Dot]:
  """Return the matrix products of a StableHLO module; the convolutions are not among them."""
  dots = []
  for line in text.splitlines():
    if match := _DOT.search(line):
      left, right = (
        Shape(dtype, tuple(int(d) for d in dims))
        for *dims, dtype in (kind.split('x') for kind in match.groups())
      )
      dots.append(Dot(left, right, 'precision = [HIGHEST, HIGHEST]' in line))
  return dots


def _of_kind(ops: list[Op], kind: str) -> list[Op]:
  found = [op for op in ops if op.kind == kind]
  assert found, f'the program has no {kind}: has its text changed its form?'
  return found


def _example_dims(shapes: list[Shape]) -> set[int]:
  return {dim for shape in shapes for dim in shape.dims if dim and dim % PRIME == 0}


def count_collectives(ops: list[Op]) -> dict[str, int]:
  """Return how often each kind of collective stands in the program, a loop's body counted once."""
  return dict(collections.Counter(op.kind for op in ops if op.kind in COLLECTIVES))


def check_collectives_are_all_reduces(program: Program):
  """No example, activation or latent ever travels between devices."""
  counts = count_collectives(program.ops)
  assert set(counts) == {'all-reduce'}, f'collectives are {counts}'


def check_reductions_are_float32(program: Program):
  """No gradient and no moment is summed over devices in bfloat16."""
  halves = [
    op.text[:200]
    for op in _of_kind(program.ops, 'all-reduce')
    if {shape.dtype for shape in op.results} != {'f32'}
  ]
  assert not halves, f'all-reduces of other types than float32: {halves}'


def check_reductions_are_few(program: Program):
  """BatchNorm sends both moments at once, and each gradient travels once."""
  reductions = _of_kind(program.ops, 'all-reduce')
  assert len(reductions) <= program.max_reductions, (
    f'{len(reductions)} all-reduces; {program.max_reductions} suffice'
  )
  sizes = [shape.size for op in reductions for shape in op.results]
  missing = collections.Counter(rows * columns for rows, columns in program.matrices)
  missing.subtract(sizes)
  assert not +missing, f'gradients are not reduced: {dict(+missing)} (size: how many)'
  # The loss and a few metrics ride along; XLA merges gradients that are equal (of added biases).
  assert sum(sizes) < program.num_reduced + 32, (
    f'{sum(sizes)} numbers are reduced; there are {program.num_reduced}'
  )


def check_convolutions_are_local(program: Program):
  """Every convolution and matrix product runs over this device's examples: real, fake, or both.

  For a gradient of weights the examples are contracted, so all dimensions of all operands count.
  """
  local = program.local_batch
  seen = set()
  for op in _of_kind(program.ops, 'convolution'):  # TPUs write matrix products as convolutions
    assert len(op.operands) == 2, f'cannot read {op.text[:200]}'
    dims = _example_dims(op.operands + op.results)
    assert dims <= {local, 2 * local}, f'{dims} examples on one device in {op.text[:300]}'
    seen |= dims
  assert seen == {local, 2 * local}, f'convolutions run over {seen} examples'


def check_no_array_has_the_global_batch(program: Program):
  """Latents, labels and keys are drawn for this device's examples alone."""
  batch = program.local_batch * program.num_devices
  whole = [
    op.text[:200]
    for op in program.ops
    if {batch, 2 * batch} & _example_dims(op.operands + op.results)
  ]
  assert not whole, f'{len(whole)} arrays hold the global batch, among them {whole[:3]}'


def check_spectral_norm_is_exact(program: Program):
  """Products of weights with weights or vectors are float32 at the highest precision.

  On TPU v3 XLA runs those of a matrix with one vector as float32 multiply-and-add, whatever they
  ask for; hence this reads what was asked, which holds for every TPU.
  """
  weights = [dot for dot in program.dots if not _example_dims([dot.left, dot.right])]
  bad = [dot for dot in weights if not dot.highest or {dot.left.dtype, dot.right.dtype} != {'f32'}]
  assert not bad, f'{len(bad)} products of weights are inexact, among them {bad[:3]}'
  asked = {(dot.left.dims, dot.right.dims) for dot in weights}
  for rows, columns in program.matrices:
    both = {((rows, columns), (columns,)), ((rows,), (rows, columns))}
    assert both <= asked, f'no power iteration on the {rows} x {columns} matrix'


def check_penalty_is_exact(program: Program):
  """No matrix product without examples, such as the penalty's Gram, was rounded to bfloat16."""
  weights = [
    op for op in _of_kind(program.ops, 'convolution') if not _example_dims(op.operands + op.results)
  ]
  assert weights, 'no product of weights is left'
  bad = [
    op.text[:200]
    for op in weights
    if 'operand_precision={highest,highest}' not in op.text
    or {shape.dtype for shape in op.operands + op.results} != {'f32'}
  ]
  assert not bad, f'{len(bad)} products of weights are inexact, among them {bad[:3]}'
