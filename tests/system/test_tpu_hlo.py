"""What XLA makes of the step on TPUs, read from programs compiled ahead of time for a v3:2x2 slice.

CPU programs cannot stand in: there XLA shows a wrong program as right. Nothing runs, and no TPU is
needed.
"""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies

from bigjax.algorithms.base import configs
from bigjax.core import parallel, trees
from bigjax.models import biggan_deep
from bigjax.nn import linalg, spectral_norm
from bigjax.training.program import make_program

import tpu_hlo
from counts import num_params

pytest.importorskip('libtpu', reason='compiling for TPUs needs libtpu: pip install "jax[tpu]"')

NUM_DEVICES = 8
SLICES = 4  # of a weight, so that slices are gathered within groups of devices, as on a pod
LOCAL_BATCH = 2 * tpu_hlo.PRIME


def tiny_config(network: str, attention: tuple[int, ...], augment: str):
  """A 16 px network of which no size but the batch is a multiple of `tpu_hlo.PRIME`."""
  config = configs.read({'biggan': 'digits', 'biggan_deep': 'imagenet128_deep'}[network] + ':tiny')
  config.data.update({'channels': 3, 'resolution': 16, 'num_classes': 10})
  config.model.update(
    {'gen_attention': attention, 'disc_attention': attention, 'dtype': 'bfloat16', 'ch': 8}
  )
  if network == 'biggan_deep':
    config.model.z_dim = config.model.shared_dim = 16  # 24 rows in 4 slices would be padded
  config.optim.update({'batch_size': NUM_DEVICES * LOCAL_BATCH, 'd_steps': 2})
  config.augment.name = augment
  return config


def abstract(tree, sharding):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def compile_step(devices, config) -> tpu_hlo.Program:
  """Compile the step that training runs, for these devices."""
  program = make_program(config, devices)
  lowered = program.lower(program.stage(0))
  players = program.shapes()['players']
  tensors = [
    jax.eval_shape(
      lambda leaf, path=path: linalg.matrix(spectral_norm.kernel(path, leaf)), leaf
    ).shape
    for player in players.values()
    for path, leaf in trees.flat(player['params']).items()
    if path in trees.flat(spectral_norm.vectors(player['opt']).sn_u)
  ]
  gains = [
    leaf.shape[-1] for path, leaf in trees.flat(players['gen']['params']).items() if '/gain' in path
  ]
  num_weights = sum(num_params(player['params']) for player in players.values())
  return tpu_hlo.Program(
    ops=tpu_hlo.parse_compiled(lowered.compile().as_text()),
    dots=tpu_hlo.parse_lowered(lowered.as_text()),
    local_batch=LOCAL_BATCH,
    num_devices=NUM_DEVICES,
    matrices=tensors,
    norms=len(gains),
    # Gradients, and slices of them between groups; moments forward for D, forward and backward for
    # G; the penalty's Gram matrices; spectral norm's vectors, three times, and its scalars.
    num_reduced=num_weights * (SLICES + 1) // SLICES
    + 3 * 2 * sum(gains)
    + sum(out * out + 4 * out + 32 for _, out in tensors),
  )


@pytest.fixture(scope='module')
def devices():
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('TPU_SKIP_MDS_QUERY', '1')  # there is no metadata server to wait for
    patch.setenv('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
    patch.setattr(parallel, 'MOST_SLICES', SLICES)
    patch.setitem(biggan_deep.GEN_WIDTHS, 16, (4, 4, 2))
    patch.setitem(biggan_deep.DISC_WIDTHS, 16, (2, 4, 4))
    yield topologies.get_topology_desc(platform='tpu', topology_name='v3:2x2').devices


@pytest.fixture(scope='module')
def mesh(devices):
  return parallel.make_mesh(devices)


@pytest.fixture(
  scope='module', params=['biggan', pytest.param('biggan_deep', marks=pytest.mark.slow)]
)
def real(request, devices):
  config = tiny_config(request.param, attention=(8,), augment='translation')
  return compile_step(devices, config)


@pytest.fixture(scope='module')
def wrong(devices):
  """The same game as one writes it first: plain jit, examples drawn anywhere, any precision."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(parallel, 'value_and_grad', lambda loss: jax.value_and_grad(loss, has_aux=True))
    patch.setattr(parallel, 'shard_examples', lambda tree, lead=0: tree)
    patch.setattr(linalg, 'dot', jnp.matmul)
    patch.setattr(parallel, 'all_gather_weights', lambda tree, dtype=None: tree)
    return compile_step(devices, tiny_config('biggan', attention=(), augment='none'))


RULES = {  # and what is to be said of the wrong step
  tpu_hlo.check_no_example_travels: 'collectives of examples',
  tpu_hlo.check_reductions_are_float32: r'bf16\[4,4,8,8\]',  # D's second kernel, strided
  tpu_hlo.check_reductions_are_few: 'gradients are not reduced',
  tpu_hlo.check_weights_travel_narrow: 'kernels are gathered in float32',
  tpu_hlo.check_convolutions_are_local: r'\{104\} examples',
  tpu_hlo.check_no_array_has_the_global_batch: 'arrays hold the global batch',
  tpu_hlo.check_products_of_weights_ask_for_all_digits: 'products of weights are inexact',
  tpu_hlo.check_penalty_is_exact: 'products of weights are inexact',
}
NAMES = [check.__name__.removeprefix('check_') for check in RULES]


@pytest.mark.parametrize('check', RULES, ids=NAMES)
def test_step_keeps_the_rule(real, check):
  check(real)


@pytest.mark.slow
@pytest.mark.parametrize(('check', 'complaint'), RULES.items(), ids=NAMES)
def test_wrong_step_breaks_the_rule(wrong, check, complaint):
  with pytest.raises(AssertionError, match=complaint):
    check(wrong)


def test_tracing_sees_the_devices_compiled_for(real):
  """parallel.scan unrolls on CPUs and must not do so in a program for TPUs compiled on a CPU."""
  assert any(op.kind == 'while' and 'op_name="jit(step)/while"' in op.text for op in real.ops)


def reductions_of(mesh, moments) -> list[tpu_hlo.Op]:
  def run(x):
    return parallel.over_batch(lambda params, shared, x: moments(x))({}, {}, x)

  x = jax.ShapeDtypeStruct((NUM_DEVICES * LOCAL_BATCH, 8, 8, 16), jnp.bfloat16)
  with jax.set_mesh(mesh):
    compiled = jax.jit(run).lower(abstract(x, parallel.batched(mesh))).compile()
  return [op for op in tpu_hlo.parse_compiled(compiled.as_text()) if op.kind == 'all-reduce']


def test_two_pass_variance_would_double_the_reductions(mesh):
  """The count has teeth: a variance around the finished mean is the collective BatchNorm saves."""

  def one_pass(x):
    x = x.astype(jnp.float32)
    both = jnp.stack([x.mean((1, 2)), jnp.square(x).mean((1, 2))], 1)
    return parallel.global_mean(both)

  def two_pass(x):
    x = x.astype(jnp.float32)
    mean = parallel.global_mean(x.mean((1, 2)))
    return mean, parallel.global_mean(jnp.square(x - mean[:, None, None]).mean((1, 2)))

  assert len(reductions_of(mesh, two_pass)) == len(reductions_of(mesh, one_pass)) + 1
