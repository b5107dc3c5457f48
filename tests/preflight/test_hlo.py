"""The walk of a compiled program: loops, nested calls, FLOPs, bytes, collectives."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from bigjax.core import device, parallel
from bigjax.nn import attention
from bigjax.preflight import flops, hlo, tpu_slices

LOOP = """HloModule test

%add.1 (a.1: f32[], b.1: f32[]) -> f32[] {
  %a.1 = f32[] parameter(0)
  %b.1 = f32[] parameter(1)
  ROOT %sum.1 = f32[] add(%a.1, %b.1)
}

%body.1 (arg.1: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
  %arg.1 = (s32[], f32[8,8]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[] get-tuple-element(%arg.1), index=0
  %one.1 = s32[] constant(STEP)
  %next.1 = s32[] add(%i.1, %one.1)
  %x.1 = f32[8,8]{1,0:T(8,128)} get-tuple-element(%arg.1), index=1
  %y.1 = f32[8,8]{1,0:T(8,128)} dot(%x.1, %x.1), lhs_contracting_dims={1}, CYCLES
  %r.1 = f32[8,8]{1,0:T(8,128)} all-reduce(%y.1), replica_groups={{0,1},{2,3}}, to_apply=%add.1
  ROOT %out.1 = (s32[], f32[8,8]{1,0:T(8,128)}) tuple(%next.1, %r.1)
}

%condition.1 (arg.2: (s32[], f32[8,8])) -> pred[] {
  %arg.2 = (s32[], f32[8,8]{1,0:T(8,128)}) parameter(0)
  %limit.1 = s32[] constant(7)
  %i.2 = s32[] get-tuple-element(%arg.2), index=0
  ROOT %less.1 = pred[] compare(%i.2, %limit.1), direction=LT
}

ENTRY %main.1 (p.1: f32[8,8]) -> f32[8,8] {
  %p.1 = f32[8,8]{1,0:T(8,128)} parameter(0)
  %zero.1 = FIRST
  %start.1 = (s32[], f32[8,8]{1,0:T(8,128)}) tuple(%zero.1, %p.1)
  %loop.1 = (s32[], f32[8,8]{1,0:T(8,128)}) while(%start.1), condition=%condition.1, body=%body.1
  ROOT %result.1 = f32[8,8]{1,0:T(8,128)} get-tuple-element(%loop.1), index=1
}
"""


def loop(step='1', first='s32[] constant(0)'):
  cycles = 'backend_config={"window_config":{"estimated_cycles":"100"}}'
  return hlo.parse(LOOP.replace('STEP', step).replace('FIRST', first).replace('CYCLES', cycles))


@pytest.mark.parametrize(('step', 'trips'), [('1', 7), ('2', 4), ('7', 1)])
def test_the_body_of_a_loop_counts_as_often_as_it_runs(step, trips):
  by_opcode = {cost.instruction.opcode: cost for cost in hlo.costs(loop(step))}
  dot, reduce = by_opcode['dot'], by_opcode['all-reduce']
  assert (dot.times, dot.flops, dot.instruction.cycles) == (trips, 2 * 8 * 8 * 8, 100)
  assert dot.hbm_bytes == 3 * 8 * 8 * 4
  assert (reduce.times, reduce.collective, reduce.group) == (trips, 'all-reduce', 2)
  assert [array.num_bytes for array in reduce.wire] == [256]


@pytest.mark.parametrize(
  ('written', 'group'),
  [
    ('{}', 0),
    ('{{0,1,2,3},{4,5,6,7}}', 4),
    ('[2,4]<=[8]', 4),
    ("mesh['a'=1,'b'=4,'c'=2], device_ids=([2,4]T(1,0)) {'b'}", 4),
    ("mesh['a'=1,'b'=4,'c'=2] {'a','b','c'}", 8),
  ],
)
def test_groups_of_a_collective_in_every_notation(written, group):
  text = LOOP.replace('{{0,1},{2,3}}', written)
  text = text.replace('STEP', '1').replace('FIRST', 's32[] constant(0)').replace(', CYCLES', '')
  (cost,) = (c for c in hlo.costs(hlo.parse(text)) if c.collective)
  assert cost.group == group


SPLIT = """
HloModule jit_f, is_scheduled=true

%begin.1 (x.1: f32[1,8]) -> (f32[1,8], f32[4,8]) {
  %x.1 = f32[1,8]{1,0} parameter(0)
  %g.1 = f32[4,8]{1,0} all-gather(%x.1), replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %t.1 = (f32[1,8]{1,0}, f32[4,8]{1,0}) tuple(%x.1, %g.1)
}

%async_collective_fusion.1 (x.2: f32[1,8]) -> f32[1,8] {
  %x.2 = f32[1,8]{1,0} parameter(0)
  %g.2 = f32[4,8]{1,0} all-gather(%x.2), replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %y.2 = f32[1,8]{1,0} add(%x.2, %x.2)
}

%end.1 (x.3: f32[1,8]) -> f32[4,8] {
  %x.3 = f32[1,8]{1,0} parameter(0)
  ROOT %g.3 = f32[4,8]{1,0} all-gather(%x.3), replica_groups={{0,1,2,3}}, dimensions={0}
}

ENTRY %main.1 (p.1: f32[1,8]) -> f32[4,8] {
  %p.1 = f32[1,8]{1,0} parameter(0)
  %async-collective-start.1 = (f32[1,8]{1,0}, f32[4,8]{1,0}) fusion(%p.1), calls=%begin.1
  %fusion.1 = f32[1,8]{1,0} fusion(%p.1), calls=%async_collective_fusion.1, SEVENTY
  %after.1 = f32[1,8]{1,0} negate(%fusion.1), INFINITE
  ROOT %async-collective-done.1 = f32[4,8]{1,0} fusion(%after.1), calls=%end.1
}
"""


def test_a_collective_in_parts_counts_once_and_what_it_hides_behind_counts_too():
  cycles = 'backend_config={"window_config":{"estimated_cycles":"%d"}}'
  text = SPLIT.replace('SEVENTY', cycles % 70).replace('INFINITE', cycles % (2**63 - 1))
  start, during, after = hlo.costs(hlo.parse(text))
  assert (start.collective, start.group) == ('all-gather', 4)
  assert [cost.instruction.name for cost in start.hidden] == ['fusion.1', 'after.1']
  assert (during.collective, during.instruction.cycles) == ('', 70)
  assert after.instruction.cycles is None  # infinity is no estimate


def test_a_loop_of_unknown_length_is_an_error():
  with pytest.raises(ValueError, match=r'number of trips of %loop\.1'):
    hlo.costs(loop(first='s32[] convert(%p.1)'))


@pytest.fixture(scope='module')
def mesh():
  pytest.importorskip('libtpu', reason='compiling for TPUs needs libtpu: pip install "jax[tpu]"')
  return parallel.make_mesh(tpu_slices.find('v3-8').devices())


def compiled(mesh, fn, *shapes):
  args = [jax.ShapeDtypeStruct(s, jnp.bfloat16, sharding=parallel.replicated(mesh)) for s in shapes]
  with jax.set_mesh(mesh):
    return hlo.costs(hlo.parse(jax.jit(fn).lower(*args).compile().as_text()))


def total(costs, what):
  return sum((what(cost) or 0) * cost.times for cost in costs)


@pytest.mark.slow
def test_scanned_and_unrolled_loops_agree(mesh):
  """FLOPs exactly, cycles within 5 %: the compiler's own sums have a twentieth of them."""

  def run(unroll):
    def body(carry, w, x):  # a small carry: a large one is really copied in a loop
      x = lax.conv_general_dilated(x, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
      return carry + jnp.tanh(x).sum((0, 1, 2)), None

    def fn(x, ws):
      zero = jnp.zeros(ws.shape[-1:], x.dtype)
      return lax.scan(lambda carry, w: body(carry, w, x), zero, ws, unroll=unroll)[0]

    return fn

  shapes = (32, 32, 32, 128), (20, 3, 3, 128, 128)
  scanned, unrolled = (compiled(mesh, run(unroll), *shapes) for unroll in (1, True))
  flops = lambda cost: cost.flops
  want = 20 * 2 * 32 * 128 * 128 * (3 * 32 - 2) ** 2
  assert total(scanned, flops) == total(unrolled, flops) == want
  cycles = [total(costs, lambda cost: cost.instruction.cycles) for costs in (scanned, unrolled)]
  assert abs(cycles[0] / cycles[1] - 1) < 0.05
  assert any(cost.times == 20 for cost in scanned) and all(cost.times == 1 for cost in unrolled)


@pytest.mark.parametrize(
  'of', ['conv', 'strided', 'gradient of its input', 'gradient of its kernel', 'product']
)
def test_flops_of_compiled_programs_are_those_traced(mesh, of):
  """Whatever the compiler makes of a convolution: dilated, reversed, turned into another."""

  def conv(x, w, stride=1):
    return lax.conv_general_dilated(
      x, w, (stride,) * 2, 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )

  x, w = (8, 16, 16, 24), (4, 4, 24, 40)
  strided = lambda x, w: conv(x, w, 2)
  y = (8, 8, 8, 40)
  fn, *shapes = {
    'conv': (conv, x, (3, 3, 24, 40)),
    'strided': (strided, x, w),
    'gradient of its input': (
      lambda w, y: jax.linear_transpose(lambda x: strided(x, w), jnp.zeros(x, y.dtype))(y),
      w,
      y,
    ),
    'gradient of its kernel': (
      lambda x, y: jax.linear_transpose(lambda w: strided(x, w), jnp.zeros(w, y.dtype))(y),
      x,
      y,
    ),
    'product': (lambda a, b: a @ b, (64, 256), (256, 128)),
  }[of]
  want = flops.needed(fn, *[jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in shapes])
  assert total(compiled(mesh, fn, *shapes), lambda cost: cost.flops) == want > 0


def test_collectives_are_found_wherever_the_compiler_put_them(mesh):
  def run(x):
    return jax.shard_map(
      lambda x: lax.psum(x, parallel.DATA), in_specs=P(parallel.DATA), out_specs=P()
    )(x)

  x = jax.ShapeDtypeStruct((16, 256), jnp.float32, sharding=parallel.batched(mesh))
  with jax.set_mesh(mesh):
    costs = hlo.costs(hlo.parse(jax.jit(run).lower(x).compile().as_text()))
  (found,) = (cost for cost in costs if cost.collective)
  assert found.collective == 'all-reduce' and found.group in (0, 8)
  assert sum(array.num_bytes for array in found.wire) == 2 * 256 * 4


BRANCHES = """HloModule test

%often.1 (a.1: f32[8,8]) -> f32[8,8] {
  %a.1 = f32[8,8]{1,0} parameter(0)
  ROOT %y.1 = f32[8,8]{1,0} dot(%a.1, %a.1), lhs_contracting_dims={1}, CHEAP
}

%dear.1 (b.1: f32[8,8]) -> f32[8,8] {
  %b.1 = f32[8,8]{1,0} parameter(0)
  ROOT %y.2 = f32[8,8]{1,0} dot(%b.1, %b.1), lhs_contracting_dims={1}, METADATA, DEAR
}

ENTRY %main.1 (p.1: pred[], x.1: f32[8,8]) -> f32[8,8] {
  %p.1 = pred[] parameter(0)
  %x.1 = f32[8,8]{1,0} parameter(1)
  ROOT %y.3 = f32[8,8]{1,0} conditional(%p.1, %x.1, %x.1), branch_computations={%dear.1, %often.1}
}
"""


@pytest.mark.parametrize(('scope', 'cycles'), [('common', 100), (device.SELDOM, 10)])
def test_of_branches_the_dearest_counts_that_is_not_seldom(scope, cycles):
  text = BRANCHES.replace('METADATA', f'metadata={{op_name="jit(f)/cond/{scope}/dot_general"}}')
  for name, value in (('CHEAP', 10), ('DEAR', 100)):
    config = f'backend_config={{"window_config":{{"estimated_cycles":"{value}"}}}}'
    text = text.replace(name, config)
  (cost,) = hlo.costs(hlo.parse(text))
  assert cost.instruction.cycles == cycles


def test_attentions_exact_shift_is_a_branch_that_is_seldom_taken():
  """On a TPU the whole of it is inside of the branch that plans leave out."""
  pytest.importorskip('libtpu')
  core = tpu_slices.find('v3-8').devices()[0]
  shaped = lambda *shape: jax.ShapeDtypeStruct(
    shape, jnp.bfloat16, sharding=jax.sharding.SingleDeviceSharding(core)
  )
  with device.for_kind(core.device_kind):
    args = shaped(2, 1024, 12), shaped(2, 256, 12), shaped(2, 256, 48)
    program = jax.jit(attention.attend_lean).lower(*args).compile()
  counted = hlo.costs(hlo.parse(program.as_text()))
  assert 'conditional(' in program.as_text()
  assert not any(device.SELDOM in cost.instruction.op_name for cost in counted)
  # The maps: of the logits' sample no more than an eighth, and none of all in memory.
  whole = 2 * 1024 * 256
  stored = [array for cost in counted for array in cost.instruction.results if array.in_hbm]
  assert max(math.prod(array.dims) for array in stored) < whole
