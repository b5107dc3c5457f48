"""The contract of algorithms/base/contract.py, over every family there is; names none.

Of each pair of an algorithm and networks, the built-in config of the smallest images stands for
all: a new family is found by its config. One compiled step serves all tests of a family.
"""

import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from bigjax.algorithms import family
from bigjax.algorithms.base import configs, contract
from bigjax.core import config as core_config
from bigjax.core import trees
from bigjax.nn import spectral_norm
from bigjax.sampling import generator_file
from bigjax.sampling.sampler import from_card
from bigjax.training.program import make_program

import toys

MANY = 100  # arrays of parameters, with which a second program takes a minute to compile
SOME = 50  # with which it takes half of one


def pair(name):
  """What a config trains: (algorithm, networks)."""
  config = configs.read(f'{name}:tiny')
  return config.algorithm, config.model.get('network', '')


@functools.cache
def cheapest():
  """{pair: its config of the smallest images}."""
  size = lambda name: configs.read(f'{name}:tiny').data.resolution
  names = sorted([*core_config.builtin(), *toys.CONFIGS], key=lambda name: (-size(name), name))
  return {pair(name): name for name in names}


def slowest_last():
  """Every pair, those of networks that another pair of the same game makes for less marked slow.

  The tests of a pair stay in one process, for they share its programs.
  """
  names, seen = [], set()
  for (algorithm, network), name in sorted(cheapest().items(), key=lambda item: len(item[0][1])):
    marks = [pytest.mark.slow] * (algorithm in seen)
    names.append(pytest.param(name, marks=marks, id=f'{algorithm}-{network}'.strip('-')))
    seen.add(algorithm)
  return names


def slow(name):
  """A parameter, marked."""
  return pytest.param(*name.values, marks=[*name.marks, pytest.mark.slow], id=name.id)


CONFIGS = slowest_last()
GAMES = [name for name in CONFIGS if pytest.mark.slow not in name.marks]


def batch_for(program, stage, seed=0):
  """Random examples in the shape of a stage's batch."""
  rng, classes = np.random.RandomState(seed), generator_of(program, stage).num_classes
  draw = {
    'uint8': lambda shape: rng.randint(0, 256, shape),
    'int32': lambda shape: rng.randint(0, classes, shape),
  }
  return {name: draw[str(x.dtype)](x.shape).astype(x.dtype) for name, x in stage.shapes().items()}


def generator_of(program, stage):
  return program.sampler(stage).generator


def skip_larger(most, state):
  """Skip a test that compiles a second program of a game with more than so many arrays."""
  arrays = sum(len(jax.tree.leaves(player['params'])) for player in state['players'].values())
  if arrays > most and not os.environ.get('BIGJAX_SLOW'):
    pytest.skip('takes minutes: set BIGJAX_SLOW=1')


@functools.cache
def made(name):
  """(Program, state before and after the first step as NumPy, metrics), on one device."""
  program = make_program(configs.read(f'{name}:tiny'), jax.devices()[:1])
  before = to_numpy(program.init(jax.random.key(0), {}))
  return program, before, *stepped(program, before)


def stepped(program, before):
  """(State after the first step as NumPy, metrics)."""
  batch = batch_for(program, program.stage(0))
  state, metrics = program.step(on_device(program, before), batch)
  return to_numpy(state), jax.device_get(metrics)


def to_numpy(state):
  plain = jax.tree.map(
    lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, state
  )
  return jax.tree.map(np.array, plain)


def on_device(program, state):
  state = {**state, 'key': jax.random.wrap_key_data(state['key'])}
  return jax.device_put(state, jax.tree.map(lambda x: x.sharding, program.shapes()))


@functools.cache
def prepared(name):
  """(Program, its sampler, a generator after one step, prepared, settings)."""
  program, _, after, _ = made(name)
  stage = program.stage(0)
  sampler, sampling = program.sampler(stage), small(program.algorithm.sampling())
  spec = sampler.generator.spec(sampling)
  gen = sampler.prepare(program.gen(on_device(program, after), stage), 0, spec)
  return program, sampler, gen, spec


def small(sampling):
  """A card's `sampling` with few passes, where it has any."""
  return {
    **sampling,
    **{k: v for k, v in (('standing_passes', 2), ('standing_batch', 8)) if k in sampling},
  }


def some_labels(sampler, num):
  return np.arange(num, dtype=np.int32) % sampler.generator.num_classes


def test_every_family_is_found():
  names = {name.values[0] for name in CONFIGS}
  assert {pair(name) for name in names} == {pair(name) for name in core_config.builtin()} | {
    pair(name) for name in toys.CONFIGS
  }
  assert {pair(name.values[0])[0] for name in GAMES} == {at[0] for at in cheapest()}


@pytest.mark.parametrize('name', CONFIGS)
def test_state_has_the_fixed_keys(name):
  _, before, _, _ = made(name)
  assert set(before) == {'step', 'key', 'players', 'ema', 'aux', 'frozen'}
  for player in before['players'].values():
    assert set(player) == {'params', 'opt'}
  assert set(before['aux']['skipped']) == set(before['players'])


@pytest.mark.parametrize('name', CONFIGS)
def test_step_keeps_tree_shapes_and_dtypes(name):
  _, before, after, metrics = made(name)
  describe = lambda tree: {k: (v.shape, v.dtype) for k, v in trees.flat(tree).items()}
  assert describe(before) == describe(after)
  assert all(np.isfinite(v) and v.shape == () for v in metrics.values())
  assert metrics['skipped'] == 0 and metrics['refused'] == 0


@pytest.mark.parametrize('name', CONFIGS)
def test_step_moves_every_player_and_counts(name):
  """All kernels, over a tiny run: a layer that starts at 0 holds those behind it for one step."""
  program, before, after, _ = made(name)
  assert after['step'] == before['step'] + 1
  state, num = on_device(program, after), max(configs.read(f'{name}:tiny').run.steps, 3)
  for step in range(1, num):
    state, _ = program.step(state, batch_for(program, program.stage(step), step), step)
  after = to_numpy(state)
  assert after['step'] == before['step'] + num
  assert (after['key'] == before['key']).all()
  for player in before['players']:
    old, new = (trees.flat(s['players'][player]['params']) for s in (before, after))
    moved = [path for path in old if (old[path] != new[path]).any()]
    assert set(moved) >= {path for path in old if path.endswith('kernel')}


@pytest.mark.parametrize('name', CONFIGS)
def test_singular_vectors_are_refined_once_an_update(name):
  """However often a network used its kernels in between: on fakes, on the frames of a clip."""
  _, before, after, _ = made(name)
  for player, state in before['players'].items():
    params, old, new = (
      trees.flat(s) for s in (state['params'], state['opt'], after['players'][player]['opt'])
    )
    for at in [at for at in old if '/sn_v/' in at]:
      kernel = spectral_norm.kernel(at, params[at.partition('/sn_v/')[2]])
      u = spectral_norm.right(kernel, old[at], 1e-12)
      np.testing.assert_allclose(new[at.replace('/sn_v/', '/sn_u/')], u, atol=1e-4, err_msg=at)


@pytest.mark.parametrize('name', CONFIGS)
def test_parameters_are_float32_and_no_buffer_is_shared(name):
  program, before, _, _ = made(name)
  for player in before['players'].values():
    assert {leaf.dtype for leaf in jax.tree.leaves(player['params'])} == {np.dtype(np.float32)}
  state = program.init(jax.random.key(1), {})
  pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state) if x.size > 4]
  assert len(set(pointers)) == len(pointers)  # a donated state must not alias itself


@pytest.mark.parametrize('name', CONFIGS)
def test_frozen_weights_do_not_depend_on_the_key_and_stay(name):
  program, before, after, _ = made(name)
  other = to_numpy(program.init(jax.random.key(5), {}))
  for state in (after, other):
    for path, leaf in trees.flat(before['frozen']).items():
      np.testing.assert_array_equal(trees.flat(state['frozen'])[path], leaf, err_msg=path)


@pytest.mark.parametrize('name', CONFIGS)
def test_a_step_is_a_function_of_state_and_batch(name):
  program, before, after, _ = made(name)
  again, _ = stepped(program, before)
  for path, leaf in trees.flat(again).items():
    np.testing.assert_array_equal(leaf, trees.flat(after)[path], err_msg=path)


@pytest.mark.parametrize('name', GAMES)
def test_losses_are_what_the_step_differentiates(name):
  """Small steps of each player along its gradient change its loss as much as that says.

  And the loss is the one that the step reports, where the step has one minibatch and the player is
  the first to move.
  """
  program, before, _, metrics = made(name)
  skip_larger(MANY, before)
  stage = program.stage(0)
  state, batch = on_device(program, before), batch_for(program, stage)
  losses = program.algorithm.losses(state, batch, stage)
  assert set(losses) == set(before['players'])
  reported = []
  for player, loss in losses.items():
    params = before['players'][player]['params']
    assert loss.scale_free <= set(trees.flat(params))
    loss = jax.jit(jax.value_and_grad(loss, has_aux=True))  # one program for slopes and values
    (_, seen), grads = jax.device_get(loss(params))
    norm = float(np.sqrt(sum(np.square(g).sum() for g in jax.tree.leaves(grads))))
    assert norm > 0
    # Either way, because a gradient penalty bends the loss, and as short as float32 allows: where a
    # ReLU flips, the penalty jumps, of which no gradient tells. A slope so steep that the shortest
    # step is lost in float32 (an instance norm of constant maps) takes a longer one.
    step, rises = min(1e-3, 8e-5 / norm) / norm, []
    for longer in (1, 10, 100):
      up, down = (
        loss(jax.tree.map(lambda p, g: p + length * g, params, grads))[0][0]  # noqa: B023
        for length in np.float32([longer * step, -longer * step])
      )
      rises.append(float(up - down) / (2 * longer * step * norm**2))
    assert any(abs(rise - 1) < 0.2 for rise in rises), (player, rises)
    if stage.minibatches == 1:
      reported += [np.isclose(metrics[key], x, rtol=1e-5) for key, x in seen.items()]
  assert any(reported) or stage.minibatches > 1


@pytest.mark.parametrize('name', GAMES)
def test_a_broken_step_changes_nothing_and_is_counted(name):
  """A NaN never enters the state, whatever the family's chain of links is."""
  program, before, _, _ = made(name)
  nan = lambda tree: jax.tree.map(lambda x: np.full_like(x, np.nan), tree)
  players = before['players']
  for player in players:
    broken = {**players[player], 'params': nan(players[player]['params'])}
    after, metrics = stepped(program, {**before, 'players': {**players, player: broken}})
    assert 1 <= metrics['skipped'] <= program.stage(0).minibatches and metrics['refused'] >= 1
    for other in players:
      if other != player:  # a loss with the broken player's weights in it is refused, too
        for leaf in jax.tree.leaves(after['players'][other]['params']):
          assert np.isfinite(leaf).all()
    for leaf in jax.tree.leaves(after['ema']):
      assert np.isfinite(leaf).all()


# What a game draws knows of no devices; that the program shards it is seen on the cheapest.
@pytest.mark.parametrize(
  'name',
  [name if name.values[0] in toys.CONFIGS else slow(name) for name in GAMES],
)
def test_two_devices_begin_as_one(name):
  _, before, _, _ = made(name)
  program = make_program(configs.read(f'{name}:tiny'), jax.devices()[:2])
  for path, leaf in trees.flat(to_numpy(program.init(jax.random.key(0), {}))).items():
    want = trees.flat(before)[path]  # but for the rounding of an orthogonal matrix
    np.testing.assert_allclose(leaf, want, rtol=0, atol=1e-6, err_msg=path)


@pytest.mark.parametrize('name', GAMES)
def test_two_devices_make_the_step_of_one(name):
  _, before, one, metrics = made(name)
  skip_larger(SOME, before)
  program = make_program(configs.read(f'{name}:tiny'), jax.devices()[:2])
  two, other = stepped(program, before)
  for key, value in metrics.items():
    np.testing.assert_allclose(other[key], value, rtol=1e-4, atol=1e-6, err_msg=key)
  for path, leaf in trees.flat(one['aux']).items():
    np.testing.assert_allclose(trees.flat(two['aux'])[path], leaf, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('name', CONFIGS)
def test_generator_round_trips_through_export(name, tmp_path):
  program, sampler, gen, spec = prepared(name)
  generator, stage = sampler.generator, program.stage(0)
  z, y = sampler.latents(3, 8, spec), some_labels(sampler, 8)
  images = sampler.images(gen, z, y, spec)
  assert images.shape == (8, *generator.shape) and z.shape == (8, *generator.latent_shape)
  described = {
    'format': generator_file.FORMAT, 'algorithm': configs.read(f'{name}:tiny').algorithm,
    'architecture': program.algorithm.architecture(stage), 'player': program.algorithm.sampled,
    'class_names': [str(c) for c in range(generator.num_classes)],
    'sampling': program.algorithm.sampling(), 'step': 1,
  }  # fmt: skip
  path = str(tmp_path / 'generator.safetensors')
  generator_file.save(path, gen, described)
  again, loaded, read = from_card(*generator_file.load(path), jax.devices()[:1])
  assert read == json.loads(json.dumps(described))
  np.testing.assert_array_equal(again.images(loaded, z, y, spec), images)
  # weights over classes serve as well as labels
  one_hot = np.eye(generator.num_classes, dtype=np.float32)[y]
  assert np.abs(again.images(loaded, z, one_hot, spec).astype(int) - images).max() <= 1
  # what init_from takes of it is what the sampled player is made of, and samples as it does
  params = generator.weights(loaded)
  _, before, _, _ = made(name)
  begun = on_device(program, {**before, 'ema': params})
  for path, leaf in trees.flat(generator.weights(program.gen(begun, stage))).items():
    want = trees.flat(params)[path]
    np.testing.assert_allclose(leaf, want, rtol=1e-4, atol=1e-6, err_msg=path)
  wanted = trees.flat(program.shapes()['players'][program.algorithm.sampled]['params'])
  assert {p: x.shape for p, x in trees.flat(params).items()} == {
    p: x.shape for p, x in wanted.items()
  }


@pytest.mark.parametrize('name', CONFIGS)
def test_images_do_not_depend_on_their_batch(name):
  """T15: a sample does not see its neighbours."""
  _, sampler, gen, spec = prepared(name)
  y = some_labels(sampler, 12)
  z = sampler.latents(0, 12, spec)
  assert (sampler.latents(0, 5, spec, 7) == z[7:]).all()  # a stream may begin anywhere
  # Eight at a time, and the last four again: the program of the round trip.
  whole = sampler.images(gen, z, y, spec, batch=8)
  part = sampler.images(gen, z[4:], y[4:], spec, batch=8)
  assert np.abs(whole[4:].astype(int) - part).max() <= 1


@pytest.mark.parametrize('name', CONFIGS)
def test_generate_takes_batches_of_symbolic_size(name):
  """As an exported program does, which serves any batch."""
  _, sampler, gen, spec = prepared(name)
  generator = sampler.generator
  (b,) = export.symbolic_shape('b')
  z = jax.ShapeDtypeStruct((b, *generator.latent_shape), jnp.float32)
  y = jax.ShapeDtypeStruct((b,), jnp.int32)
  images = jax.eval_shape(lambda z, y: generator.generate(gen, z, y, spec), z, y)
  assert images.shape == (b, *generator.shape)


@pytest.mark.parametrize('name', CONFIGS)
def test_preparing_and_its_provenance(name):
  """A bare generator says what it lacks, a prepared one nothing; preparing it changes nothing."""
  program, sampler, gen, spec = prepared(name)
  generator, sampling = sampler.generator, small(program.algorithm.sampling())
  ready, words = generator.provenance(generator.bare(gen), spec, sampling)
  assert (
    ready == (not words) == (len(jax.tree.leaves(gen)) == len(jax.tree.leaves(generator.bare(gen))))
  )
  assert generator.provenance(gen, spec, sampling) == (True, '')
  again = sampler.prepare(gen, 0, spec)
  for path, leaf in trees.flat(gen).items():
    np.testing.assert_array_equal(trees.flat(again)[path], leaf, err_msg=path)
  for one in generator.prepared(sampling):
    assert hash(one) is not None and str(one) and json.dumps(one.described())
  with pytest.raises(Exception, match='no sampling option'):
    generator.spec(sampling, {'no_such_option': '1'})


@pytest.mark.parametrize('name', CONFIGS)
def test_stages_agree_with_what_shared_code_asks(name):
  config = configs.read(f'{name}:tiny')
  program, _, _, _ = made(name)
  stages = program.algorithm.stages(config.run.steps)
  assert stages[0][0] == 0 and [first for first, _ in stages] == sorted({f for f, _ in stages})
  assert stages == list(program.algorithm.stages(1000 * config.run.steps))[: len(stages)]
  images = 0
  for step in range(config.run.steps):
    assert program.position(step) == images
    images += program.stage(step).num_images
    assert (program.stage(step), program.due(step)) in program.pairs(step, step + 1)
  assert sum(program.pairs(0, config.run.steps).values()) == config.run.steps
  module = family(config.algorithm)
  assert module.BATCH_KEY in core_config.flatten(config)
  for _, stage in stages:
    shape = generator_of(program, stage).shape
    assert shape == stage.image and hash(stage) == hash(contract.stage_at([(0, stage)], 5))
