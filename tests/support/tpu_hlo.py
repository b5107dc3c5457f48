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
  norms: int  # BatchNorms of the generator
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


def _reductions(program: Program) -> list[Op]:
  _of_kind(program.ops, 'all-reduce')
  return [op for op in program.ops if op.kind in ('all-reduce', 'reduce-scatter')]


def check_no_example_travels(program: Program):
  """What devices exchange is weights, gradients and moments: no activation, latent or label."""
  found = [
    op.text[:200]
    for op in program.ops
    if op.kind in COLLECTIVES and _example_dims(op.operands + op.results)
  ]
  assert not found, f'{len(found)} collectives of examples, among them {found[:3]}'
  kinds = set(count_collectives(program.ops))
  assert 'all-to-all' not in kinds, f'collectives are {kinds}'


def check_reductions_are_float32(program: Program):
  """No gradient and no moment is summed over devices in bfloat16."""
  halves = [
    op.text[:200] for op in _reductions(program) if {shape.dtype for shape in op.results} != {'f32'}
  ]
  assert not halves, f'reductions of other types than float32: {halves}'


def check_reductions_are_few(program: Program):
  """BatchNorm sends both moments at once, and each gradient travels once."""
  sent = [shape for op in _reductions(program) for shape in op.operands]
  sizes = [shape.size for shape in sent]
  missing = collections.Counter(rows * columns for rows, columns in program.matrices)
  missing.subtract(sizes)
  assert not +missing, f'gradients are not reduced: {dict(+missing)} (size: how many)'
  moments = [shape for shape in sent if shape.dims[:2] == (1, 2) and len(shape.dims) == 3]
  assert len(moments) == 2 * program.norms, (  # of the fakes for D, and for G
    f'moments are reduced {len(moments)} times; there are {program.norms} BatchNorms'
  )
  assert sum(sizes) < program.num_reduced, (
    f'{sum(sizes)} numbers are reduced; there are {program.num_reduced}'
  )


def check_weights_travel_narrow(program: Program):
  """Convolutions' kernels are gathered as bfloat16, which they are rounded to anyway."""
  wide = [
    op.text[:200]
    for op in _of_kind(program.ops, 'all-gather')
    if any(shape.dtype != 'bf16' and len(shape.dims) == 4 for shape in op.results)
  ]
  assert not wide, f'kernels are gathered in float32: {wide[:3]}'


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


def check_products_of_weights_ask_for_all_digits(program: Program):
  """Products of weights with weights or vectors, as written, are float32 at HIGHEST precision."""
  weights = [dot for dot in program.dots if not _example_dims([dot.left, dot.right])]
  bad = [dot for dot in weights if not dot.highest or {dot.left.dtype, dot.right.dtype} != {'f32'}]
  assert not bad, f'{len(bad)} products of weights are inexact, among them {bad[:3]}'


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
