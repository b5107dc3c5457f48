"""Checkpoints: plain trees on disk, which ones stay, other device counts, and damaged ones."""

import collections
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from bigjax.algorithms.base import configs
from bigjax.core import checkpoint, errors, parallel, trees
from bigjax.training import workdir as workdir_lib
from bigjax.training.program import make_program


@pytest.fixture(scope='module')
def program():
  """Of the run that `workdir` holds; nothing is compiled."""
  config = configs.read('digits:tiny')
  config.optim.d_steps = 1
  return make_program(config)


@pytest.fixture(scope='module')
def state(program):
  """A BigGAN state in which every number differs."""
  rng = np.random.RandomState(0)

  def fill(leaf):
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return jax.random.key(7)
    return jnp.asarray(rng.normal(size=leaf.shape) * 100, leaf.dtype)

  return jax.tree.map(fill, program.shapes())


def on_devices(num, like):
  """Shapes with the shardings of a state on so many devices."""
  mesh = parallel.make_mesh(jax.devices()[:num])
  place = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
  return jax.tree.map(place, like, parallel.zero_sharding(mesh, like))


def small(value):
  """(state, gen) small enough to write often."""
  state = {'step': jnp.int32(value), 'w': jnp.full((3,), value, jnp.float32)}
  stats = {'bn': {'mean': jnp.zeros((1, 2)), 'var': jnp.ones((1, 2))}}
  weights = {'w': jnp.full((2,), value, jnp.float32)}
  return state, {'params': weights, 'stats': stats, 'knots': jnp.full((1,), jnp.inf)}


def assert_equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for path, leaf in trees.flat(a).items():
    other = trees.flat(b)[path]
    assert leaf.dtype == other.dtype, path
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf, other = jax.random.key_data(leaf), jax.random.key_data(other)
    np.testing.assert_array_equal(np.asarray(leaf), np.asarray(other), err_msg=path)


def save(workdir, steps, **options):
  """Save a small checkpoint at each of `steps`, {step: scores or None}, in one process."""
  checkpoints = checkpoint.Checkpoints(str(workdir), **options)
  for step, scores in steps.items():
    checkpoints.save(step, *small(step), {'config_hash': 'x'}, scores)
  checkpoints.close()


def restore(workdir, like=None, num=1):
  """Return (restored, warnings), restored on so many devices."""
  warnings = []
  checkpoints = checkpoint.Checkpoints(str(workdir))
  like = jax.eval_shape(lambda: small(0)[0]) if like is None else like
  try:
    return checkpoints.restore_latest(on_devices(num, like), warnings.append), warnings
  finally:
    checkpoints.close()


# --- what is stored


def test_to_plain_and_from_plain_are_inverse(program, state):
  plain = checkpoint.to_plain(state)
  assert_equal(checkpoint.from_plain(plain, program.shapes()), state)
  kinds = collections.Counter(
    type(node) for node in jax.tree.leaves(plain, is_leaf=lambda x: type(x) is not dict)
  )
  assert all(issubclass(kind, jax.Array) for kind in kinds), kinds
  assert plain['key'].dtype == jnp.uint32


def test_from_plain_names_the_leaf_that_is_missing_or_differs(program, state):
  leaves = trees.flat(checkpoint.to_plain(state))
  path = 'players/gen/params/linear/kernel'
  cut = {**leaves, path: leaves[path][:-1]}
  with pytest.raises(errors.UserError, match=path) as error:
    checkpoint.from_plain(trees.nest(cut), program.shapes())
  assert all(str(x.shape) in str(error.value) for x in (cut[path], leaves[path]))
  del cut[path]
  with pytest.raises(errors.UserError, match=f'{path!r} has shape .absent.'):
    checkpoint.from_plain(trees.nest(cut), program.shapes())


@pytest.mark.parametrize('item', ['state', 'generator'])
def test_stored_trees_are_dicts_of_arrays(workdir, program, item):
  """Another Python, JAX or optax must read them: no tuple, no attribute, no class on any path."""
  path = workdir / 'checkpoints' / '4' / item
  entries = json.loads((path / '_METADATA').read_text())['tree_metadata'].values()
  kinds = {key['key_type'] for entry in entries for key in entry['key_metadata']}
  assert kinds == {2}  # KeyType.DICT
  with ocp.StandardCheckpointer() as checkpointer:
    plain = checkpointer.restore(path)  # Orbax alone, told nothing
  assert set(map(type, _nodes(plain))) == {dict}
  if item == 'state':
    expected = trees.flat(checkpoint.to_plain(jax.tree.map(_zeros, program.shapes())))
    assert {k: (v.shape, v.dtype) for k, v in trees.flat(plain).items()} == {
      k: (v.shape, v.dtype) for k, v in expected.items()
    }


def _nodes(tree):
  if not hasattr(tree, 'shape'):
    yield tree
    for child in tree.values():
      yield from _nodes(child)


def _zeros(leaf):
  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return jax.random.key(0)
  return np.zeros(leaf.shape, leaf.dtype)


def test_meta_has_the_format(workdir):
  meta = json.loads((workdir / 'checkpoints' / '4' / 'meta' / 'metadata').read_text())
  assert meta['format'] == checkpoint.FORMAT and meta['step'] == 4
  assert meta['config_hash'] == json.loads((workdir / 'card.json').read_text())['config_hash']


def test_another_format_is_refused_and_stays(tmp_path):
  """It is not corrupt: a newer bigjax reads it."""
  save(tmp_path, {1: None, 2: None})
  path = tmp_path / 'checkpoints' / '2' / 'meta' / 'metadata'
  path.write_text(json.dumps({**json.loads(path.read_text()), 'format': 99}))
  with pytest.raises(
    errors.UserError, match='checkpoint 2 has format 99; this bigjax reads format'
  ):
    restore(tmp_path)
  assert checkpoint.list_steps(str(tmp_path)) == [1, 2]


# --- which ones stay

SCORES = {1: 0.5, 2: 0.9, 3: 0.1}  # then a restart, and others in between


@pytest.mark.parametrize(('best', 'kept'), [('score', 2), ('-score', 3), ('', None)])
def test_latest_every_kth_and_best_stay_across_a_restart(tmp_path, best, kept):
  options = {'keep': 2, 'keep_every': 4, 'best': best}
  save(tmp_path, {step: {'score': score} for step, score in SCORES.items()}, **options)
  later = {4: {'score': 0.2}, 5: None, 6: {'score': 0.8}, 7: None}
  save(tmp_path, later, **options)
  assert checkpoint.list_steps(str(tmp_path)) == sorted({4, 6, 7} | ({kept} if best else set()))
  if best:
    assert checkpoint.best_step(str(tmp_path)) == kept
    gen, step = checkpoint.restore_generator(str(tmp_path), 'best')
    assert step == kept and gen['params']['w'].tolist() == [kept, kept]
  else:
    with pytest.raises(errors.UserError, match=r'config\.run\.best'):
      checkpoint.restore_generator(str(tmp_path), 'best')


@pytest.mark.parametrize(('best', 'kept'), [('score', 5), ('-score', 6)])
def test_a_better_one_takes_the_place_of_the_best(tmp_path, best, kept):
  options = {'keep': 1, 'best': best}
  save(tmp_path, {step: {'score': score} for step, score in SCORES.items()}, **options)
  save(tmp_path, {5: {'score': 0.95}, 6: {'score': 0.05}, 7: {'score': 0.5}, 8: None}, **options)
  assert checkpoint.list_steps(str(tmp_path)) == [kept, 8]


def test_only_the_latest_stay_by_default(tmp_path):
  save(tmp_path, {step: {'score': -step} for step in range(1, 6)}, keep=3)
  assert checkpoint.list_steps(str(tmp_path)) == [3, 4, 5]


# --- restoring


@pytest.mark.parametrize('saved_on', [1, 8])
def test_restore_on_other_numbers_of_devices(tmp_path, program, state, saved_on):
  sharding = lambda n: parallel.zero_sharding(parallel.make_mesh(jax.devices()[:n]), state)
  checkpoints = checkpoint.Checkpoints(str(tmp_path))
  checkpoints.save(3, jax.device_put(state, sharding(saved_on)), small(0)[1], {})
  checkpoints.close()
  for num in (1, 2, 8):
    (restored, meta), warnings = restore(tmp_path, program.shapes(), num)
    assert_equal(restored, state)
    assert meta['step'] == 3 and not warnings
    leaves = trees.flat(restored)
    leaves.pop('key')  # wrapped anew; jit moves it where the rest is
    wanted = trees.flat(sharding(num))
    for path, leaf in leaves.items():
      assert leaf.sharding.is_equivalent_to(wanted[path], leaf.ndim), path
      assert len(leaf.sharding.device_set) == num, path


def test_restore_nothing(tmp_path):
  assert restore(tmp_path) == (None, [])


def test_saving_does_not_wait_and_the_arrays_may_be_donated(tmp_path):
  tree = {f'w{i}': jnp.full((1000, 1000), i, jnp.float32) for i in range(8)}
  overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
  jax.block_until_ready(overwrite(jax.tree.map(jnp.copy, tree)))  # compiled beforehand
  checkpoints = checkpoint.Checkpoints(str(tmp_path))
  checkpoints.save(1, tree, small(0)[1], {})
  jax.block_until_ready(overwrite(tree))  # while Orbax writes
  checkpoints.close()
  like = {name: jax.ShapeDtypeStruct((1000, 1000), jnp.float32) for name in tree}
  (restored, _), _ = restore(tmp_path, like)
  assert [np.unique(restored[name]).tolist() for name in sorted(tree)] == [[i] for i in range(8)]


@pytest.mark.parametrize('change', ['shape', 'missing'])
def test_a_state_of_another_config_is_refused_and_stays(tmp_path, change):
  """Restoring under other shapes is the user's mistake; the checkpoint is not corrupt."""
  save(tmp_path, {1: None, 2: None})
  like = jax.eval_shape(lambda: small(0)[0])
  if change == 'shape':
    like['w'] = jax.ShapeDtypeStruct((4,), jnp.float32)
  else:
    like['momentum'] = jax.ShapeDtypeStruct((4,), jnp.float32)
  with pytest.raises(errors.UserError, match={'shape': "'w'", 'missing': "'momentum'"}[change]):
    restore(tmp_path, like)
  assert checkpoint.list_steps(str(tmp_path)) == [1, 2]


# --- damage


def zeros(path):
  path.write_bytes(bytes(path.stat().st_size))


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove(path):
  path.unlink()


def damage(workdir, step, how, item='state'):
  for path in sorted((workdir / 'checkpoints' / str(step) / item).rglob('*')):
    if path.is_file():
      how(path)


@pytest.mark.parametrize('item', ['state', 'meta'])
@pytest.mark.parametrize('how', [zeros, truncate, remove])
def test_a_damaged_latest_falls_back_and_says_so(tmp_path, how, item):
  save(tmp_path, {1: None, 2: None, 3: None})
  damage(tmp_path, 3, how, item)
  (restored, meta), warnings = restore(tmp_path)
  assert meta['step'] == 2 and restored['w'].tolist() == [2, 2, 2]
  assert len(warnings) == 1 and warnings[0].startswith('checkpoint 3 cannot be read')
  assert 'the one before it' in warnings[0] and '\n' not in warnings[0]


def test_two_damaged_ones_are_both_named(tmp_path):
  save(tmp_path, {1: None, 2: None, 3: None})
  damage(tmp_path, 3, zeros)
  damage(tmp_path, 2, truncate)
  (_, meta), warnings = restore(tmp_path)
  assert meta['step'] == 1
  assert [warning.split(' cannot')[0] for warning in warnings] == ['checkpoint 3', 'checkpoint 2']


def test_all_damaged_is_an_error(tmp_path):
  save(tmp_path, {1: None, 2: None})
  damage(tmp_path, 1, zeros)
  damage(tmp_path, 2, truncate)
  with pytest.raises(errors.UserError, match=r'no checkpoint of .*checkpoints can be read'):
    restore(tmp_path)


def test_training_moves_a_damaged_latest_aside_and_writes_it_anew(tmp_path, workdir, program):
  copy = tmp_path / 'run'
  shutil.copytree(workdir, copy)
  damage(copy, 4, truncate)
  said = []
  checkpoints = checkpoint.Checkpoints(str(copy), best='coverage')
  config_hash = json.loads((copy / 'card.json').read_text())['config_hash']
  state, step = workdir_lib.restore(program, checkpoints, config_hash, said.append)
  assert step == 2 and int(state['step']) == 2
  assert len(said) == 3 and 'checkpoint 4 cannot be read' in said[0] and 'step 2' in said[2]
  assert 'moved' in said[1]
  assert checkpoints.steps() == [2]
  assert (copy / 'corrupt' / '4' / 'state').is_dir()
  checkpoints.save(4, {**state, 'step': jnp.int32(4)}, small(0)[1], {})
  checkpoints.close()
  (restored, _), warnings = restore(copy, program.shapes())
  assert int(restored['step']) == 4 and not warnings


def test_setting_aside_twice_keeps_both(tmp_path):
  """The same step may be damaged again."""
  for _ in range(2):
    save(tmp_path, {1: None, 2: None} if not (tmp_path / 'checkpoints').exists() else {2: None})
    damage(tmp_path, 2, truncate)
    checkpoints = checkpoint.Checkpoints(str(tmp_path))
    said = []
    checkpoints.set_aside(1, 'corrupt', said.append)
    assert len(said) == 1 and 'corrupt' in said[0]
    assert checkpoints.steps() == [1]
    checkpoints.close()
  assert sum(path.name == 'state' for path in (tmp_path / 'corrupt').rglob('*')) == 2


def test_a_damaged_generator_is_an_error(tmp_path):
  save(tmp_path, {1: None})
  damage(tmp_path, 1, zeros, 'generator')
  with pytest.raises(errors.UserError, match=r'generator of checkpoint 1 .* cannot be read'):
    checkpoint.restore_generator(str(tmp_path))


# --- the generator


@pytest.mark.parametrize(('which', 'step'), [('last', 7), ('best', 5), ('6', 6)])
def test_restore_generator(tmp_path, which, step):
  scores = {5: {'score': 1.0}, 6: {'score': 0.5}, 7: None}
  save(tmp_path, scores, best='score')
  gen, found = checkpoint.restore_generator(str(tmp_path), which)
  assert found == step
  assert set(gen) == {'params', 'stats', 'knots'}
  assert type(gen['params']['w']) is np.ndarray and gen['params']['w'].tolist() == [step, step]
  assert gen['knots'].tolist() == [np.inf]


def test_a_bare_generator_can_be_saved(tmp_path):
  """A checkpoint between evaluations has no statistics."""
  gen = {'params': small(1)[1]['params']}
  checkpoints = checkpoint.Checkpoints(str(tmp_path))
  try:
    checkpoints.save(1, small(1)[0], gen, {})
  finally:
    checkpoints.close()
  restored, _ = checkpoint.restore_generator(str(tmp_path))
  assert set(restored) == {'params'} and restored['params']['w'].tolist() == [1, 1]


def test_generator_of_a_run_is_that_of_its_state(workdir, program):
  """Averaged weights, normalisation folded in, with untruncated statistics from the evaluation."""
  gen, step = checkpoint.restore_generator(str(workdir))
  assert step == 4 and gen['knots'].tolist() == [np.inf]
  (state, _), _ = restore(workdir, program.shapes())
  shared = trees.flat(state['ema'])['shared/embedding']  # the one weight without spectral norm
  np.testing.assert_array_equal(gen['params']['shared']['embedding'], shared)
  kernel = np.asarray(trees.flat(state['ema'])['output/conv/kernel'], np.float64)
  sigma = np.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), 2)
  folded = gen['params']['output']['conv']['kernel']
  np.testing.assert_allclose(folded, kernel / sigma, rtol=1e-3)
  assert optax.tree.norm(gen['stats']) > 0


@pytest.mark.parametrize(
  ('which', 'words'),
  [('3', ["no checkpoint '3'", '5, 6']), ('first', ["no checkpoint 'first'", 'last or best'])],
)
def test_restore_generator_says_what_there_is(tmp_path, which, words):
  save(tmp_path, {5: None, 6: None})
  with pytest.raises(errors.UserError) as error:
    checkpoint.restore_generator(str(tmp_path), which)
  assert all(word in str(error.value) for word in words), str(error.value)


def test_a_folder_without_checkpoints(tmp_path):
  assert checkpoint.list_steps(str(tmp_path)) == []
  with pytest.raises(errors.UserError, match='has no checkpoints'):
    checkpoint.restore_generator(str(tmp_path))
  assert not list(tmp_path.iterdir())


def test_an_unwritable_workdir(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.UserError, match='cannot be written'):
    checkpoint.Checkpoints(str(tmp_path / 'file' / 'run'))
