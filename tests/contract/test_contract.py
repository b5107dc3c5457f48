"""The contract of algorithms/base.py, over every built-in config's ':tiny'; names no family."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.algorithms.base import configs
from bigjax.core import config as core_config
from bigjax.core import parallel, trees
from bigjax.nn.latents import How
from bigjax.sampling import generator_file
from bigjax.sampling.sampler import from_card
from bigjax.training.program import make_program

# Networks of one algorithm share its game: one config of each pair, the cheapest.
CONFIGS = ['digits', pytest.param('imagenet128_deep', marks=pytest.mark.slow)]
GAMES = ['digits']  # one config of each algorithm
HOW = How(passes=2, batch=16)


def batch_for(program, seed=0):
  """Return random images in the shape of the first stage's batch."""
  algorithm, rng = program.algorithm, np.random.RandomState(seed)
  stage, arch = algorithm.stage(0), algorithm.architecture()
  side = stage.resolution
  return {
    'image': rng.randint(0, 256, (*stage.batch, side, side, arch['channels'])).astype(np.uint8),
    'label': rng.randint(0, arch['num_classes'], stage.batch).astype(np.int32),
  }


@functools.cache
def made(name):
  """Return (program on one device, state before and after one step as NumPy, metrics)."""
  program = make_program(configs.read(f'{name}:tiny'), jax.devices()[:1])
  state = program.init(jax.random.key(0))
  before = to_numpy(state)
  state, metrics = program.step(state, batch_for(program), program.algorithm.stage(0))
  return program, before, to_numpy(state), jax.device_get(metrics)


def to_numpy(state):
  plain = jax.tree.map(
    lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, state
  )
  return jax.tree.map(np.array, plain)


def on_device(program, state):
  state = {**state, 'key': jax.random.wrap_key_data(state['key'])}
  return jax.device_put(state, parallel.sliced(program.mesh, state))


@pytest.mark.parametrize('name', CONFIGS)
def test_state_has_the_fixed_keys(name):
  _, before, _, _ = made(name)
  assert set(before) == {'step', 'key', 'players', 'ema', 'aux', 'frozen'}
  for player in before['players'].values():
    assert set(player) == {'params', 'opt', 'stats'}
  assert set(before['aux']['skipped']) == set(before['players'])


@pytest.mark.parametrize('name', CONFIGS)
def test_step_keeps_tree_shapes_and_dtypes(name):
  _, before, after, metrics = made(name)
  describe = lambda tree: {k: (v.shape, v.dtype) for k, v in trees.flat(tree).items()}
  assert describe(before) == describe(after)
  assert all(np.isfinite(v) and v.shape == () for v in metrics.values())
  assert metrics['skipped'] == 0


@pytest.mark.parametrize('name', CONFIGS)
def test_step_moves_every_player_and_counts(name):
  _, before, after, _ = made(name)
  assert after['step'] == before['step'] + 1
  assert (after['key'] == before['key']).all()
  for player in before['players']:
    old, new = (trees.flat(s['players'][player]['params']) for s in (before, after))
    moved = [path for path in old if (old[path] != new[path]).any()]
    # gamma of attention starts at 0 and holds the weights behind it in place for one step
    assert set(moved) >= {
      path for path in old if path.endswith('kernel') and 'attention' not in path
    }


@pytest.mark.parametrize('name', CONFIGS)
def test_parameters_are_float32_and_no_buffer_is_shared(name):
  program, before, _, _ = made(name)
  for player in before['players'].values():
    assert {leaf.dtype for leaf in jax.tree.leaves(player['params'])} == {np.dtype(np.float32)}
  state = program.init(jax.random.key(1))
  pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state) if x.size > 4]
  keyless = [p for p in pointers if p is not None]
  assert len(set(keyless)) == len(keyless)  # a donated state must not alias itself


def test_the_configs_here_stand_for_all():
  """Every built-in config has an algorithm and networks that are tested here."""
  kind = lambda name: (lambda c: (c.algorithm, c.model.get('network')))(
    configs.read(f'{name}:tiny')
  )
  here = {kind(getattr(name, 'values', [name])[0]) for name in CONFIGS}
  assert {kind(name) for name in core_config.builtin()} == here
  assert {kind(name)[0] for name in GAMES} == {algorithm for algorithm, _ in here}


@pytest.mark.parametrize('name', GAMES)
def test_players_do_not_touch_each_other(name):
  """With one player's optimizer at rest, the other one's weights still move, its own do not."""
  config = configs.read(f'{name}:tiny')
  rates = [key for key in config.optim if key.endswith('_lr')]
  assert len(rates) == len(made(name)[0].shapes()['players'])
  for rate in rates:
    frozen = config.copy_and_resolve_references()
    frozen.optim[rate] = 0.0
    program = make_program(frozen, jax.devices()[:1])
    state = program.init(jax.random.key(0))
    before = to_numpy(state)
    after = to_numpy(program.step(state, batch_for(program), program.algorithm.stage(0))[0])
    still = {
      player: all(
        (a == b).all()
        for a, b in zip(
          jax.tree.leaves(before['players'][player]['params']),
          jax.tree.leaves(after['players'][player]['params']),
          strict=True,
        )
      )
      for player in before['players']
    }
    assert still == {player: player == rate.removesuffix('_lr') for player in still}


@pytest.mark.parametrize('name', CONFIGS)
def test_a_step_is_a_function_of_state_and_batch(name):
  program, before, after, _ = made(name)
  again, _ = program.step(
    on_device(program, before), batch_for(program), program.algorithm.stage(0)
  )
  for path, leaf in trees.flat(to_numpy(again)).items():
    np.testing.assert_array_equal(leaf, trees.flat(after)[path], err_msg=path)


@pytest.mark.parametrize('name', CONFIGS)
def test_one_compilation_per_stage(name):
  program, before, _, _ = made(name)
  stages = [program.algorithm.stage(step) for step in range(configs.read(f'{name}:tiny').run.steps)]
  state = on_device(program, before)
  for step, stage in enumerate(stages):
    state, _ = program.step(state, batch_for(program, step), stage)
  assert program.step.__wrapped__._cache_size() == len(set(stages))


@pytest.mark.parametrize('name', CONFIGS)
def test_position_counts_real_images_beyond_32_bits(name):
  program, *_ = made(name)
  algorithm = program.algorithm
  per_step = int(np.prod(algorithm.stage(0).batch))
  assert algorithm.position(0) == 0
  assert algorithm.position(1) == per_step
  assert algorithm.position(10**9) == 10**9 * per_step


@pytest.mark.parametrize('name', CONFIGS)
@pytest.mark.parametrize('poisoned', [0, -1])
def test_a_non_finite_update_never_enters_the_state(name, poisoned):
  """A NaN weight in one player makes every loss non-finite: nothing but the count moves."""
  program, before, _, _ = made(name)
  state = jax.tree.map(np.copy, before)
  player = sorted(state['players'])[poisoned]
  for leaf in jax.tree.leaves(state['players'][player]['params']):
    leaf[...] = np.nan
  after, metrics = program.step(
    on_device(program, state), batch_for(program), program.algorithm.stage(0)
  )
  once = int(metrics['skipped'])
  after = to_numpy(after)
  for key in ('players', 'ema'):
    for path, leaf in trees.flat(after[key]).items():
      np.testing.assert_array_equal(leaf, trees.flat(state[key])[path], err_msg=path)
  assert after['step'] == before['step'] + 1
  _, metrics = program.step(
    on_device(program, after), batch_for(program), program.algorithm.stage(0)
  )
  assert once >= 1
  assert metrics['skipped'] == 2 * once  # it counts updates in a row


@pytest.mark.parametrize('name', CONFIGS)
def test_a_finite_gradient_that_overflows_the_optimizer_is_refused(name):
  """Squares of gradients of 1e20 do not fit float32: a second moment of inf would stop a weight."""
  program, before, _, _ = made(name)
  state = jax.tree.map(np.copy, before)
  for player in state['players'].values():
    for path, leaf in trees.flat(player['params']).items():
      if path.endswith(
        'kernel'
      ):  # scores and gradients far beyond the square root of float32's end
        leaf *= 1e15
  after, metrics = program.step(
    on_device(program, state), batch_for(program), program.algorithm.stage(0)
  )
  assert metrics['skipped'] >= 1
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(to_numpy(after)))


@pytest.mark.parametrize('name', CONFIGS)
def test_probe_changes_nothing(name):
  program, before, _, _ = made(name)
  state = on_device(program, before)
  signs = program.probe(state, batch_for(program), batch_for(program, 1))
  assert all(np.isfinite(v) and v.shape == () for v in jax.device_get(signs).values())
  for path, leaf in trees.flat(to_numpy(state)).items():
    np.testing.assert_array_equal(leaf, trees.flat(before)[path], err_msg=path)


@pytest.mark.parametrize('name', CONFIGS)
def test_generator_round_trips_through_export(name, tmp_path):
  program, _, after, _ = made(name)
  sampler, classes = program.sampler, program.algorithm.architecture()['num_classes']
  gen = sampler.calibrate(program.gen(on_device(program, after)), 0, HOW)
  z, y = sampler.latents(3, 8, HOW), np.arange(8, dtype=np.int32) % classes
  images = sampler.images(gen, z, y, HOW)
  described = {
    'format': generator_file.FORMAT, 'algorithm': configs.read(name).algorithm,
    'architecture': program.algorithm.architecture(),
    'class_names': [str(c) for c in range(classes)],
    'dialect': 'resample', 'standing_passes': 2, 'standing_batch': 16, 'truncations': ['none'],
    'step': 1,
  }  # fmt: skip
  path = str(tmp_path / 'generator.safetensors')
  generator_file.save(path, gen, described)
  again, loaded, read = from_card(*generator_file.load(path), jax.devices()[:1])
  assert read == described
  np.testing.assert_array_equal(again.images(loaded, z, y, HOW), images)
  # weights over classes serve as well as labels
  one_hot = np.eye(classes, dtype=np.float32)[y]
  assert np.abs(again.images(loaded, z, one_hot, HOW).astype(int) - images).max() <= 1


@pytest.mark.parametrize('name', CONFIGS)
def test_images_do_not_depend_on_their_batch(name):
  """T15: with standing statistics a sample does not see its neighbours."""
  program, _, after, _ = made(name)
  sampler, classes = program.sampler, program.algorithm.architecture()['num_classes']
  gen = sampler.calibrate(program.gen(on_device(program, after)), 0, HOW)
  y = np.arange(12, dtype=np.int32) % classes
  whole = sampler.images(gen, sampler.latents(0, 12, HOW), y, HOW)
  part = sampler.images(gen, sampler.latents(0, 5, HOW), y[:5], HOW, batch=4)
  assert np.abs(whole[:5].astype(int) - part).max() <= 1


@pytest.mark.parametrize('name', CONFIGS)
def test_sampling_without_standing_statistics_is_refused(name):
  """T16."""
  program, _, after, _ = made(name)
  gen = program.gen(on_device(program, after))
  z = program.sampler.latents(0, 2, HOW)
  with pytest.raises(ValueError, match='calibrate'):
    program.sampler.images(gen, z, np.zeros(2, np.int32), HOW)


@pytest.mark.parametrize('name', CONFIGS)
def test_standing_statistics_are_means_over_passes(name):
  """T17: against the moments of each pass, taken one by one."""
  program, _, after, _ = made(name)
  gen, generator = program.gen(on_device(program, after)), program.sampler.generator
  calibrated = program.sampler.calibrate(gen, 5, HOW)
  keys = jax.random.split(jax.random.key(5), HOW.passes)
  passes = [trees.flat(generator.moments(gen['params'], key, HOW)) for key in keys]
  for path, stats in trees.flat(calibrated['stats']).items():
    by_hand = np.mean([np.asarray(p[path], np.float64) for p in passes], axis=0)
    np.testing.assert_allclose(stats[0], by_hand, rtol=2e-5, atol=1e-6, err_msg=path)
  assert calibrated['knots'].tolist() == [np.inf]


@pytest.mark.parametrize('name', CONFIGS)
def test_calibrating_again_replaces_one_knot(name):
  program, _, after, _ = made(name)
  sampler = program.sampler
  gen = program.gen(on_device(program, after))
  for t in (1.0, np.inf, 0.5, 1.0):
    gen = sampler.calibrate(gen, 0, How(t, passes=1, batch=8))
  assert gen['knots'].tolist() == [0.5, 1.0, np.inf]
  assert {s.shape[0] for s in jax.tree.leaves(gen['stats'])} == {3}
