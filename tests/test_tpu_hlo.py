"""What XLA makes of the step on TPUs, read from programs compiled ahead of time for a v3:2x2 slice.

CPU programs cannot stand in: there XLA shows a wrong program as right. Nothing runs, and no TPU is
needed.
"""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import pytest
import tpu_hlo
from jax.experimental import topologies

from bigjax import config as configs
from bigjax import linalg, parallel, spectral, utils
from bigjax.algorithms import biggan

pytest.importorskip('libtpu', reason='compiling for TPUs needs libtpu: pip install "jax[tpu]"')

NUM_DEVICES = 8
LOCAL_BATCH = 2 * tpu_hlo.PRIME


def tiny_config(attention: tuple[int, ...], augment: str) -> ml_collections.ConfigDict:
  """A 16 px BigGAN of which no size but the batch is a multiple of `tpu_hlo.PRIME`."""
  config = configs.read('digits:tiny')
  config.data.channels = 3
  config.model.update(
    {'gen_attention': attention, 'disc_attention': attention, 'dtype': 'bfloat16'}
  )
  config.optim.batch_size = NUM_DEVICES * LOCAL_BATCH
  config.augment.name = augment
  return config


def abstract(tree, sharding):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def compile_step(mesh, config) -> tuple[tpu_hlo.Program, list[str]]:
  """Compile BigGAN's step for the mesh; return it with the device kinds seen while tracing."""
  algorithm = biggan.make(config)
  stage = algorithm.stage(0)
  state = jax.eval_shape(lambda: algorithm.init(jax.random.key(0)))
  size = (stage.resolution, stage.resolution, 3)
  batch = {
    'image': jax.ShapeDtypeStruct((*stage.batch, *size), jnp.uint8),
    'label': jax.ShapeDtypeStruct(stage.batch, jnp.int32),
  }
  everywhere, examples = parallel.replicated(mesh), parallel.batched(mesh, lead=1)
  kinds = []

  def step(state, batch):
    kinds.append(jax.sharding.get_abstract_mesh().abstract_device.device_kind)
    return algorithm.step(state, batch, stage)

  with jax.set_mesh(mesh):
    jitted = jax.jit(
      step, donate_argnums=0, in_shardings=(everywhere, examples), out_shardings=everywhere
    )
    lowered = jitted.lower(abstract(state, everywhere), abstract(batch, examples))
    ops = tpu_hlo.parse_compiled(lowered.compile().as_text())

  players = state['players'].values()
  matrices = [
    jax.eval_shape(functools.partial(spectral.matrix, path), leaf).shape
    for player in players
    for path, leaf in utils.flat(player['params']).items()
    if path in utils.flat(spectral.vectors(player['opt']).sn_u)
  ]
  gains = [
    leaf.shape[-1]
    for path, leaf in utils.flat(state['players']['gen']['params']).items()
    if '/gain' in path
  ]
  num_weights = sum(utils.num_params(player['params']) for player in players)
  program = tpu_hlo.Program(
    ops=ops,
    dots=tpu_hlo.parse_lowered(lowered.as_text()),
    local_batch=LOCAL_BATCH,
    num_devices=NUM_DEVICES,
    matrices=matrices,
    # The generator's BatchNorms run forward for D, and forward and backward for G: two moments
    # or their cotangents each time. Then one all-reduce for all gradients of a player.
    max_reductions=3 * len(gains) + 2,
    num_reduced=3 * 2 * sum(gains) + num_weights,
  )
  return program, kinds


@pytest.fixture(scope='module')
def mesh():
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('TPU_SKIP_MDS_QUERY', '1')  # there is no metadata server to wait for
    patch.setenv('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
    topology = topologies.get_topology_desc(platform='tpu', topology_name='v3:2x2')
    yield parallel.make_mesh(topology.devices)


@pytest.fixture(scope='module')
def real(mesh):
  return compile_step(mesh, tiny_config(attention=(8,), augment='translation'))


@pytest.fixture(scope='module')
def wrong(mesh):
  """The same game as one writes it first: plain jit, examples drawn anywhere, any precision."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(parallel, 'value_and_grad', lambda loss: jax.value_and_grad(loss, has_aux=True))
    patch.setattr(parallel, 'shard_examples', lambda tree, lead=0: tree)
    patch.setattr(linalg, 'dot', jnp.matmul)
    return compile_step(mesh, tiny_config(attention=(), augment='none'))[0]


RULES = {  # and what is to be said of the wrong step
  tpu_hlo.check_collectives_are_all_reduces: 'all-to-all',
  tpu_hlo.check_reductions_are_float32: r'bf16\[3,3,3,8\]',  # the first kernel of D
  tpu_hlo.check_reductions_are_few: 'gradients are not reduced',
  tpu_hlo.check_convolutions_are_local: r'\{208\} examples',
  tpu_hlo.check_no_array_has_the_global_batch: 'arrays hold the global batch',
  tpu_hlo.check_spectral_norm_is_exact: 'products of weights are inexact',
  tpu_hlo.check_penalty_is_exact: 'products of weights are inexact',
}
NAMES = [check.__name__.removeprefix('check_') for check in RULES]


@pytest.mark.parametrize('check', RULES, ids=NAMES)
def test_step_keeps_the_rule(real, check):
  check(real[0])


@pytest.mark.parametrize(('check', 'complaint'), RULES.items(), ids=NAMES)
def test_wrong_step_breaks_the_rule(wrong, check, complaint):
  with pytest.raises(AssertionError, match=complaint):
    check(wrong)


def test_tracing_sees_the_devices_compiled_for(real):
  """parallel.scan unrolls on CPUs and must not do so in a program for TPUs compiled on a CPU."""
  program, kinds = real
  assert set(kinds) == {'TPU v3'}
  assert any(op.kind == 'while' and 'op_name="jit(step)/while"' in op.text for op in program.ops)


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
