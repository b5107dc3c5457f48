"""PGGAN's game: what a stage may touch, the order of moves, Table 1's rows, runs that resume."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.algorithms import pggan
from bigjax.algorithms.base import configs, contract
from bigjax.core import checkpoint, trees
from bigjax.core import config as core_config
from bigjax.training import loop, ready
from bigjax.training.program import make_program

from counts import of_players
from networks import latents, weights

LOSSES = ('d_loss', 'g_loss', 'd_gp', 'd_drift')


def tiny(name='pggan:tiny', **changes):
  flat = {key.replace('__', '.'): value for key, value in changes.items()}
  return core_config.changed(configs.read(name), flat)


def batch_of(stage, seed=0):
  rng = np.random.RandomState(seed)
  image, label = (stage.shapes()[name].shape for name in ('image', 'label'))
  return {
    'image': rng.randint(0, 256, image).astype(np.uint8),
    'label': rng.randint(0, 10, label).astype(np.int32),
  }


def synthetic(**changes):
  """A tiny run of two stages, of the classes that synthetic data has."""
  return tiny(data__source='synthetic:80', data__num_classes=10, **changes)


@pytest.fixture(scope='module')
def program():
  return make_program(synthetic(), jax.devices()[:1])


@pytest.fixture(scope='module')
def states(program):
  """(Program, states before each of the four steps and after the last, as NumPy, metrics)."""
  state, found, metrics = program.init(jax.random.key(0), {}), [], []
  for step in range(4):
    found.append(players(state))
    state, said = program.step(state, batch_of(program.stage(step), step), step)
    metrics.append(jax.device_get(said))
  return program, [*found, players(state)], metrics


def players(state):
  return jax.tree.map(np.array, state['players'])


def test_the_stages_of_a_tiny_run(states):
  program, _, metrics = states
  assert [(first, stage.image[0]) for first, stage in program.stages] == [(0, 4), (1, 8)]
  assert [float(row['fade']) for row in metrics] == [1, 0, 0.5, 1]
  assert all(np.isfinite([row[name] for name in LOSSES]).all() for row in metrics)


def test_two_devices_make_the_steps_of_one_in_a_later_stage(program):
  """Its first step, where Adam's memory is cleared, and one within the fade."""
  two, after = make_program(synthetic(), jax.devices()[:2]), []
  for one in (program, two):
    state = one.init(jax.random.key(0), {})
    for step in (1, 2):
      state = state | {'step': state['step'] * 0 + step}
      state, metrics = one.step(state, batch_of(one.stage(step), step), step)
      after.append(trees.flat({**players(state), 'metrics': jax.device_get(metrics)}))
  assert after[0]['metrics/fade'] == 0 and after[1]['metrics/fade'] == 0.5
  for ours, theirs in zip(after[:2], after[2:], strict=True):
    for path, leaf in ours.items():
      np.testing.assert_allclose(theirs[path], leaf, rtol=2e-3, atol=1e-6, err_msg=path)


def test_blocks_that_are_not_in_use_stay_bit_for_bit(states):
  """At 4 px those of 8 px, with their moments; in a fade all move, as do colours of 4 px."""
  _, found, _ = states
  for player, new in (('gen', ('8x8/', 'ToRGB_lod0/')), ('disc', ('8x8/', 'FromRGB_lod0/'))):
    of = lambda step, player=player: trees.flat(found[step][player])
    first, second, third, fourth = of(0), of(1), of(2), of(3)
    idle = [p for p in first if any(name in p for name in new)]
    assert idle and len(idle) < len(first)
    for path in idle:
      np.testing.assert_array_equal(first[path], second[path], err_msg=path)
    busy = [p for p in first if p.startswith('params') and p not in idle]
    assert all((first[p] != second[p]).any() for p in busy)
    # The first step of a fade shows nothing of them yet, the second half.
    kernels = [p for p in idle if p.startswith('params') and p.endswith('kernel')]
    assert all((third[p] != fourth[p]).any() for p in kernels)


def test_moments_are_new_at_both_ends_of_a_fade(states):
  """Each step's count of updates: it begins anew at steps 1 and 3, where a fade begins and ends."""
  _, found, _ = states
  for player in ('gen', 'disc'):
    counts = [
      {int(x) for p, x in trees.flat(at[player]['opt']).items() if p.endswith('count')}
      for at in found[1:]
    ]
    assert counts == [{1}, {1}, {2}, {1}]


def test_a_fade_begins_and_ends_without_a_jump():
  """The images of a generator and the scores of a discriminator at both ends of a fade."""
  algorithm = pggan.make(tiny())
  shapes = jax.eval_shape(algorithm.init, jax.random.key(1))['players']
  gen_params, disc_params = (weights(shapes[name]['params']) for name in ('gen', 'disc'))
  players = algorithm.players(*stage_of(algorithm, 1))
  z, y = latents(4, 16), np.zeros(4, np.int32)

  @jax.jit
  def run(gen_params, disc_params, none, whole):
    of_gen, of_disc = (
      {'params': player.reparametrisation.fold(params)}
      for player, params in zip(players, (gen_params, disc_params), strict=True)
    )
    gen = lambda level, alpha: algorithm.gen_net.apply(of_gen, z, y, level, alpha)
    disc = lambda x, level, alpha: algorithm.disc_net.apply(of_disc, x, level, alpha)[0]
    small, begun, ended = gen(2, whole), gen(3, none), gen(3, whole)
    return small, begun, ended, gen(3, 1.0), disc(begun, 3, none), disc(small, 2, 1.0)

  ends = np.float32(0), np.float32(1)
  small, begun, ended, large, of_begun, of_small = run(gen_params, disc_params, *ends)
  np.testing.assert_array_equal(begun, np.asarray(small).repeat(2, 1).repeat(2, 2))
  np.testing.assert_array_equal(ended, large)
  np.testing.assert_allclose(of_begun, of_small, rtol=1e-5)
  assert np.std(small) > 0.1 and np.std(large) > 0.1


def stage_of(algorithm, step):
  return contract.stage_at(algorithm.stages(4), step), jnp.int32(step)


@pytest.mark.parametrize('simultaneous', [False, True])
def test_who_judges_the_generator(simultaneous):
  """Its gradient is that against the discriminator as it is now, or as both were before."""
  algorithm = pggan.make(tiny(optim__simultaneous=simultaneous))
  stage, _ = stage_of(algorithm, 0)
  state, batch = jax.jit(algorithm.init)(jax.random.key(0)), batch_of(stage)
  batch['label'] = batch['label'] * 0

  @jax.jit
  def run(state, batch):
    after, metrics = algorithm.step(state, batch, stage)
    of_disc, of_gen = algorithm.examples(state, batch, stage)
    gen, disc = algorithm.players(stage, state['step'])
    judge = (state if simultaneous else after)['players']['disc']
    loss = gen.loss(
      state['players']['gen'],
      lambda *of: algorithm.gen_loss(*of, stage=stage),
      {'disc': disc.weights(judge), 'alpha': jnp.float32(1)},
      of_gen,
    )
    return loss(state['players']['gen']['params'])[1], metrics, of_disc['z'], of_gen['z']

  said, metrics, z_disc, z_gen = run(state, batch)
  assert simultaneous == np.array_equal(z_disc[0], z_gen)
  for name in ('g_loss', 'g_class'):
    np.testing.assert_allclose(said[name], metrics[name], rtol=1e-5)


def test_learning_rates_of_a_stage_and_their_ramp():
  """Adam's first step is its learning rate in every element, whatever the gradient."""
  shown = {}
  for name, changes in {
    'plain': {},
    'stage': {'optim__lr_at': ('4:0.002',)},
    'ramp': {'optim__ramp': True},
  }.items():
    algorithm = pggan.make(tiny(**changes))

    @jax.jit
    def move(w, grad, algorithm=algorithm):
      gen, _ = algorithm.players(*stage_of(algorithm, 0))
      return gen.update(gen.init({'w': w}), {'w': grad}, jnp.float32(0))[0]['params']['w']

    shown[name] = 1 - move(np.ones(3, np.float32), np.full(3, 7, np.float32))[0]
  np.testing.assert_allclose(
    [shown['plain'], shown['stage'], shown['ramp']], [1e-3, 2e-3, 1e-3 * np.exp(-5)], rtol=2e-2
  )
  np.testing.assert_allclose(pggan.ramp(jnp.array([0.0, 20e3, 40e3, 9e6])), [
    0.00674, 0.2865, 1, 1,
  ], rtol=1e-3)  # fmt: skip


# What each row of Table 1 switches of the one before it (e of d, not of e*).
SWITCHES = [
  ('a', 'b', {'model.first_resolution'}),
  ('b', 'c', {'optim.batch_size', 'optim.ema_decay', 'run.steps'}),
  ('c', 'd', {
    'model.gen_norm', 'model.gen_activation', 'model.gen_tanh', 'model.normalize_latents',
    'model.disc_norm', 'model.z_dim', 'optim.d_steps', 'optim.b2', 'optim.drift',
    'optim.ema_decay', 'run.steps',
  }),
  ('d', 'e_star', {'model.minibatch'}),
  ('d', 'e', {'model.minibatch'}),
  ('e', 'f', {'optim.equalized', 'optim.gen_lr', 'optim.disc_lr'}),
  ('f', 'g', {'model.gen_norm'}),
  ('g', 'h', {'model.fmap_base', 'run.steps'}),
]  # fmt: skip
OF_NORM = {  # keys that only a generator with BatchNorm has, and one with groups of deviations
  'eval.standing_passes', 'eval.standing_batch', 'export.truncations', 'export.dialect',
  'model.stddev_group',
}  # fmt: skip


@pytest.mark.parametrize(('before', 'after', 'want'), SWITCHES)
def test_rows_of_table_1_switch_what_the_table_switches(before, after, want):
  rows = [core_config.flat(configs.read(f'pggan:table1_{row}')) for row in (before, after)]
  keys = set(rows[0]) | set(rows[1])
  assert {k for k in keys if rows[0].get(k) != rows[1].get(k)} - OF_NORM == want


@pytest.mark.parametrize(
  ('row', 'images'),
  [
    *((row, 10_000_000) for row in ('a', 'b', 'c', 'd', 'e_star', 'e', 'f', 'g')),
    ('h', 19_000_000),
  ],
)
def test_rows_stop_at_ten_million_images_and_the_last_one_later(row, images):
  config = configs.read(f'pggan:table1_{row}')
  stages = pggan.make(config).stages(config.run.steps)
  assert contract.position_at(stages, config.run.steps) == images


@pytest.mark.parametrize(
  ('name', 'kimg'),
  [('celeba_hq', 19_000), ('celeba_hq,v2', 12_000), ('lsun_cat', 20_000), ('cifar10', 20_000)],
)
def test_runs_are_as_long_as_published(name, kimg):
  config = configs.read(f'pggan:{name}')
  stages = pggan.make(config).stages(config.run.steps)
  shown = contract.position_at(stages, config.run.steps)
  assert 0 <= shown - 1000 * kimg < 1000  # a stage ends with a whole step


COUNTS = {
  'celeba_hq': (23_079_115, 23_087_249),
  'lsun_bedroom': (23_044_309, 23_052_353),
  'cifar10': (1_296_908, 1_298_689),
  'table1_a': (10_487_090, 13_632_301),
  'table1_d': (13_629_810, 13_632_289),
  'table1_e_star': (13_629_810, 13_888_989),
  'table1_g': (13_629_810, 13_636_897),
}


@pytest.mark.parametrize('name', COUNTS)
def test_configs_have_the_official_numbers_of_parameters(name):
  assert of_players(pggan.make(configs.read(f'pggan:{name}'))) == COUNTS[name]


def test_the_first_rows_generator_without_its_batch_norm():
  config = core_config.changed(configs.read('pggan:table1_d'), {'model.z_dim': 128})
  assert of_players(pggan.make(config))[0] == 10_484_082


@pytest.mark.usefixtures('no_pictures')
def test_resuming_in_a_fade_and_before_a_stage_equals_going_on(tmp_path, program, monkeypatch):
  monkeypatch.setattr(ready, 'make_program', lambda *_: program)  # compiled for the tests above
  config = synthetic(run__keep=9, run__checkpoint_every=1, run__eval_every=0)
  whole = tmp_path / 'whole'
  loop.train(config, str(whole), jax.devices()[:1])
  for at in (1, 2):  # at the change of resolution, and in the fade
    other = tmp_path / f'from_{at}'
    shutil.copytree(whole, other)
    for step in range(at + 1, 5):
      shutil.rmtree(other / 'checkpoints' / str(step))
    loop.train(config, str(other), jax.devices()[:1])
    assert (other / 'metrics.jsonl').read_bytes() == (whole / 'metrics.jsonl').read_bytes()
    for name in ('generator.safetensors', 'generator.json'):
      ours, theirs = ((path / 'export' / name).read_bytes() for path in (other, whole))
      assert ours == theirs, name
  rows = [json.loads(line) for line in (whole / 'metrics.jsonl').read_text().splitlines()]
  assert [row['fade'] for row in rows if 'fade' in row] == [1, 0, 0.5, 1]
  assert checkpoint.list_steps(str(whole))[-1] == 4
