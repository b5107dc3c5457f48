"""Beginning a run from other weights: what fits, what is read, the run itself, what is refused."""

import functools
import itertools
import os
import re
import shutil
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from bigjax.algorithms.base import configs
from bigjax.core import checkpoint, errors, trees
from bigjax.nn import linalg, spectral_norm
from bigjax.sampling import generator_file
from bigjax.sampling import generator_file as cards
from bigjax.sampling.importers import conversion
from bigjax.training import init_from, loop, run, workdir
from bigjax.training.program import make_program

from counts import num_params

pytestmark = pytest.mark.usefixtures('no_pictures')

DIGITS = tuple('0123456789')
CLASSES = tuple(f'class {i}' for i in range(10))
WORDS = ('--config=digits:tiny', '--config.seed=1', '--config.optim.d_steps=1')  # as `workdir`'s


def full(*shape, value=1.0, dtype=np.float32):
  return np.full(shape, value, dtype)


def assert_equal(ours, theirs):
  """Assert the same paths, and arrays equal in every bit."""
  assert set(ours) == set(theirs)
  for path, want in theirs.items():
    assert ours[path].shape == want.shape and ours[path].dtype == want.dtype, path
    np.testing.assert_array_equal(np.asarray(ours[path]), np.asarray(want), err_msg=path)


UNSCORED = ('--config.eval.name=none', '--config.run.best=')


# --- what fits

THEIRS = {
  'gen': {
    'linear/kernel': full(2, 3),
    'linear/bias': full(3, value=2),
    'blocks_0/conv1/kernel': full(4, 2),
    'blocks_1/conv1/kernel': full(5, 5),
    'shared/embedding': full(10, 2, value=3),
  },
  'ema': {'linear/kernel': full(2, 3, value=4)},
}
OURS = {
  'gen': {
    'linear/kernel': full(2, 3, value=0),
    'linear/bias': full(3, value=0),
    'linear/gain': full(7, value=0),
    'blocks_0/conv1/kernel': full(4, 3, value=0),
    'shared/embedding': full(10, 2, value=0),
  },
  'disc': {'linear/kernel': full(6, 1, value=0)},
  'ema': {'linear/kernel': full(2, 3, value=0)},
}


def rows_of(rows):
  return {row.module: tuple(row[1:4]) for row in rows}


def test_what_has_the_name_and_shape_is_loaded_and_nothing_else():
  given, rows = init_from.match(THEIRS, OURS, True)
  loaded = {'linear/kernel', 'linear/bias', 'shared/embedding'}
  assert_equal(given['gen'], {path: THEIRS['gen'][path] for path in loaded})
  assert given['disc'] == {}
  assert_equal(given['ema'], THEIRS['ema'])  # not the trained player's of the same name
  assert rows_of(rows) == {
    'gen/linear': (9, 7, 0),  # loaded, new, dropped
    'gen/blocks_0': (0, 12, 8),
    'gen/shared': (20, 0, 0),
    'gen/blocks_1': (0, 0, 25),
    'disc/linear': (0, 6, 0),
    'ema/linear': (6, 0, 0),
  }


def test_reasons_are_given():
  _, rows = init_from.match(THEIRS, OURS, False)
  whys = {row.module: row.why for row in rows}
  assert whys['gen/linear'] == whys['disc/linear'] == 'not among the weights'
  assert whys['gen/blocks_0'] == '[4, 2] became [4, 3]'
  assert whys['gen/blocks_1'] == 'the new network has no such tensor'
  assert whys['gen/shared'] == 'other classes'
  assert whys['ema/linear'] == ''


def test_tables_over_classes_are_loaded_only_for_the_same_classes():
  for same, count in ((True, (20, 0, 0)), (False, (0, 20, 20))):
    given, rows = init_from.match(THEIRS, OURS, same)
    assert ('shared/embedding' in given['gen']) == same
    assert rows_of(rows)['gen/shared'] == count
    assert 'linear/kernel' in given['gen']
  tables = {path: full(10, 4) for path in ('embed/embedding', 'blocks_0/bn1/gain/embedding')}
  kernels = {'blocks_0/bn1/gain/kernel': full(10, 4)}
  weights = {'disc': {**tables, **kernels}}
  assert set(init_from.match(weights, weights, False)[0]['disc']) == set(kernels)


def test_loaded_weights_have_the_type_of_the_new_ones():
  weights = {'gen': {'w': full(3, value=0.1, dtype=np.float64)}}
  given, _ = init_from.match(weights, {'gen': {'w': jax.ShapeDtypeStruct((3,), np.float32)}}, True)
  assert given['gen']['w'].dtype == np.float32
  np.testing.assert_array_equal(given['gen']['w'], np.float32(0.1))


def sums(table):
  """Return [loaded, new, dropped] of a table's last line and of its other lines together."""
  numbers = [
    [int(n.replace(',', '')) for n in re.findall(r'(?<!\S)[\d,]+(?!\S)', line)[:3]]
    for line in table.splitlines()[1:]
  ]
  return numbers[-1], np.sum(numbers[:-1], axis=0).tolist()


def test_table_adds_up():
  _, rows = init_from.match(THEIRS, OURS, False)
  text = init_from.summary(rows)
  assert text.splitlines()[0].split() == ['loaded', 'new', 'dropped']
  assert sums(text) == ([15, 45, 53], [15, 45, 53])
  loaded, new, dropped = sums(text)[0]
  assert loaded + new == sum(a.size for player in OURS.values() for a in player.values())
  assert loaded + dropped == sum(a.size for player in THEIRS.values() for a in player.values())
  big = init_from.summary([init_from.Row('gen/linear', 1_234_567, 0, 0, 'why')])
  assert big.splitlines()[1].split() == ['gen/linear', '1,234,567', '0', '0', 'why']


# --- what is read


@pytest.fixture(scope='module')
def saved(workdir):
  """The state of the run's last checkpoint by path: Orbax alone, told nothing."""
  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.restore(workdir / 'checkpoints' / '4' / 'state')
  return {path: np.asarray(leaf) for path, leaf in trees.flat(tree).items()}


def weights_of(saved):
  """Return the weights in a saved state as `transfer.read` names them."""
  players = {name: f'players/{name}/params/' for name in ('gen', 'disc')}
  return {name: conversion.below(saved, at) for name, at in {**players, 'ema': 'ema/'}.items()}


@pytest.fixture
def arrays_read(monkeypatch):
  """The names of the arrays that Orbax reads from disk."""
  names, handler = [], ocp.type_handlers.NumpyHandler
  deserialize = handler.deserialize

  async def spy(self, infos, args=None):
    names.extend(info.name.replace('.', '/') for info in infos)
    return await deserialize(self, infos, args)

  monkeypatch.setattr(handler, 'deserialize', spy)
  return names


def test_weights_of_a_workdir_are_those_of_its_newest_checkpoint(workdir, saved, arrays_read):
  weights, class_names = init_from.read(str(workdir))
  assert class_names == list(DIGITS) and set(weights) == {'gen', 'disc', 'ema'}
  for player, wanted in weights_of(saved).items():
    assert_equal(weights[player], wanted)
  assert any((weights['gen'][p] != weights['ema'][p]).any() for p in weights['gen'])
  training = [path for path in saved if '/params/' in path or path.startswith('ema/')]
  assert set(training) < set(arrays_read)
  assert not [name for name in arrays_read if '/opt/' in name or name in ('step', 'key')]


def test_restore_part_reads_the_wanted_paths_only(workdir, saved, arrays_read):
  kernels = lambda path: path.endswith('params/linear/kernel')
  part = checkpoint.restore_part(str(workdir), 4, lambda path: kernels(path) or path == 'step')
  assert set(part) == set(arrays_read) == {
    'players/gen/params/linear/kernel', 'players/disc/params/linear/kernel', 'step',
  }  # fmt: skip
  assert_equal(part, {path: saved[path] for path in part})
  assert part['step'] == 4 and all(type(leaf) is np.ndarray for leaf in part.values())


def test_restore_part_of_a_damaged_checkpoint_is_refused(workdir, tmp_path):
  shutil.copytree(workdir / 'checkpoints' / '4', tmp_path / 'checkpoints' / '4')
  for folder, _, files in os.walk(tmp_path / 'checkpoints' / '4' / 'state'):
    for name in files:
      with open(os.path.join(folder, name), 'wb') as file:
        file.write(b'damaged')
  with pytest.raises(errors.UserError, match='weights of checkpoint 4 in ') as error:
    checkpoint.restore_part(str(tmp_path), 4, generator_file.is_weight)
  assert 'cannot be read' in str(error.value) and '\n' not in str(error.value)


def test_an_exported_generator_serves_as_both_generators(params):
  weights, class_names = init_from.read(str(params))
  exported = trees.flat(cards.load(str(params))[0]['params'])
  assert class_names == list(DIGITS) and set(weights) == {'gen', 'ema'}
  assert_equal(weights['gen'], exported)
  assert_equal(weights['ema'], exported)


def test_a_converted_generator_brings_its_players(params, tmp_path):
  path = str(tmp_path / 'x.safetensors')
  gen, card = cards.load(str(params))
  cards.save(path, gen, card)
  exported = trees.flat(gen['params'])
  other = lambda value: {p: np.full_like(a, value) for p, a in exported.items()}
  players = {'gen': other(1), 'ema': other(2), 'disc': {'linear/kernel': full(6, 1)}}
  tree = {player: trees.nest(leaves) for player, leaves in players.items()}
  assert generator_file.players_path(path) == str(tmp_path / 'x.players.safetensors')
  cards.save_tensors(generator_file.players_path(path), tree)
  weights, _ = init_from.read(path)
  assert set(weights) == set(players)
  for player, wanted in players.items():
    assert_equal(weights[player], wanted)


def test_damaged_players_are_refused(params, tmp_path):
  path = tmp_path / 'x.safetensors'
  cards.save(str(path), *cards.load(str(params)))
  (tmp_path / 'x.players.safetensors').write_bytes(b'damaged')
  with pytest.raises(errors.UserError, match=r'x\.players\.safetensors.* is damaged'):
    init_from.read(str(path))


# --- the run


@pytest.fixture(scope='module')
def program():
  """Of a run like that of `workdir`; nothing is compiled."""
  config = configs.read('digits:tiny')
  config.optim.d_steps = 1
  return make_program(config, jax.devices()[:1])


def first_state(program, init_from, class_names):
  """Return (state at step 0 of a run in a new workdir, what is said about its weights)."""
  given, table = workdir.given_weights(program, '/no/such/workdir', init_from, class_names)
  return program.init(jax.random.key(1), given), table


@pytest.fixture(scope='module')
def begun(program, workdir):
  """(state begun from the workdir with another seed, what was said)."""
  return first_state(program, str(workdir), DIGITS)


@pytest.fixture(scope='module')
def fresh(program):
  return first_state(program, '', DIGITS)[0]


def test_first_state_has_every_weight_of_the_source(begun, saved):
  state, _ = begun
  wanted = weights_of(saved)
  for player in ('gen', 'disc'):
    assert_equal(trees.flat(state['players'][player]['params']), wanted[player])
  assert_equal(trees.flat(state['ema']), wanted['ema'])


def test_first_state_has_nothing_else_of_the_source(begun, fresh, program, saved):
  state, _ = begun
  assert jax.tree.structure(state) == jax.tree.structure(program.shapes())
  assert int(state['step']) == 0 and int(saved['step']) == 4
  key = lambda state: np.asarray(jax.random.key_data(state['key']))
  np.testing.assert_array_equal(key(state), key(fresh))  # of the new seed
  assert (key(state) != saved['key']).any()
  for player in ('gen', 'disc'):
    opt = trees.flat(state['players'][player]['opt'])
    kept = ('sn_u/', 'sn_v/', '/finite')
    moments = [path for path in opt if not any(name in path for name in kept)]
    assert len(moments) > 10
    for path in moments:
      assert not np.asarray(opt[path]).any(), path
      stored = saved.get(f'players/{player}/opt/{path}')
    assert stored.any()  # those of the source have moved


def test_spectral_vectors_belong_to_the_loaded_weights(begun, fresh):
  state, _ = begun
  for player in ('gen', 'disc'):
    vectors = spectral_norm.vectors(state['players'][player]['opt'])
    before = spectral_norm.vectors(fresh['players'][player]['opt'])
    params, us = trees.flat(state['players'][player]['params']), trees.flat(vectors.sn_u)
    for path, v in trees.flat(vectors.sn_v).items():
      m = np.asarray(linalg.matrix(spectral_norm.kernel(path, params[path])), np.float64)
      wanted = m @ np.asarray(us[path], np.float64)
      wanted /= max(np.linalg.norm(wanted), 1e-4)
      np.testing.assert_allclose(v, wanted, rtol=0, atol=1e-5, err_msg=path)
    away = trees.flat(jax.tree.map(lambda a, b: jnp.abs(a - b).max(), vectors.sn_v, before.sn_v))
    assert max(away.values()) > 1e-2  # not those of the weights that were drawn


def test_table_says_that_everything_was_loaded(begun, workdir, program):
  _, said = begun
  assert said.startswith(f'weights of {workdir}:\n')
  shapes = program.shapes()
  num = sum(num_params(player['params']) for player in shapes['players'].values())
  num += num_params(shapes['ema'])
  assert sums(said.partition('\n')[2]) == ([num, 0, 0], [num, 0, 0])


def is_table(path):
  return path.endswith('embedding')


def test_of_other_classes_only_the_tables_are_new(program, workdir, fresh, saved):
  state, _ = first_state(program, str(workdir), CLASSES)
  for player, wanted in weights_of(saved).items():
    ours, drawn = (
      trees.flat(s['ema'] if player == 'ema' else s['players'][player]['params'])
      for s in (state, fresh)
    )
    assert sum(map(is_table, ours)) == 1
    assert_equal(ours, {p: drawn[p] if is_table(p) else a for p, a in wanted.items()})


@pytest.mark.parametrize('source', ['workdir', 'params'])
@pytest.mark.parametrize('class_names', [DIGITS, CLASSES])
def test_the_counts_are_those_of_the_networks(source, class_names, program, saved, request):
  path = str(request.getfixturevalue(source))
  given, table = init_from.begin(path, program.shapes(), class_names)
  sizes = {
    name: {p: a.size for p, a in leaves.items()} for name, leaves in weights_of(saved).items()
  }
  fits = lambda path: class_names is DIGITS or not is_table(path)
  players = ('gen', 'ema') if source == 'params' else ('gen', 'ema', 'disc')  # as an export has
  loaded = [size for name in players for p, size in sizes[name].items() if fits(p)]
  dropped = [size for name in players for p, size in sizes[name].items() if not fits(p)]
  total = sum(sum(leaves.values()) for leaves in sizes.values())
  wanted = [sum(loaded), total - sum(loaded), sum(dropped)]
  assert sums(table) == (wanted, wanted)
  assert bool(dropped) == (class_names is CLASSES)
  assert {name: set(leaves) for name, leaves in given.items()} == {
    name: {p for p in sizes[name] if name in players and fits(p)} for name in sizes
  }


@pytest.fixture
def on_one_device(monkeypatch):
  """Train on one device, as `workdir` was, so that its compiled programs serve here too."""
  monkeypatch.setattr(loop, 'train', functools.partial(loop.train, devices=jax.devices()[:1]))


def test_a_run_from_other_weights_trains_and_resumes_without_them(
  bigjax, on_one_device, workdir, saved, fresh, tmp_path, monkeypatch
):
  source, out = tmp_path / 'source', tmp_path / 'run'
  shutil.copytree(workdir, source)
  ask = (
    'train', *WORDS, *UNSCORED, '--config.data.source=synthetic:40', '--config.run.keep=9',
    '--config.export.truncations=("none",)', '--workdir', out,
  )  # fmt: skip
  status, _, err = bigjax(*ask, f'--config.init_from={source}', '--config.run.steps=2')
  assert status == 0, err
  said = err.partition(f'weights of {source}:\n')[2]
  table = said[: said.index('\n', said.index('\nall ') + 1)]
  assert sums(table)[0] == sums(table)[1] and sums(table)[0][0] > 0
  assert len(re.findall(r'\n(?:gen/shared|disc/embed|ema/shared) .* other classes', table)) == 3
  after = checkpoint.restore_part(str(out), 2, generator_file.is_weight)
  moved = {path: np.abs(after[path] - saved[path]).max() for path in after if not is_table(path)}
  kernels = [path for path in moved if path.startswith('players/') and path.endswith('kernel')]
  # Two steps of Adam go no further than a few times their learning rates: the rest is the source's.
  assert kernels and all(0 < moved[path] < 0.02 for path in kernels)
  drawn = trees.flat({'players': fresh['players']})
  assert all(np.abs(drawn[path] - saved[path]).max() > 0.05 for path in kernels)

  shutil.rmtree(source)
  begins = 'the first batch is asked for'
  monkeypatch.setattr(run, 'Batches', stop := mock.Mock(side_effect=errors.UserError(begins)))
  more = (*ask, '--config.run.steps=4')
  status, _, err = bigjax(*more, f'--config.init_from={source}')
  assert 'resuming at step 2' in err and 'weights of' not in err and begins in err
  assert stop.call_args.args[4] == 2  # the step

  for other in ('', str(workdir)):
    status, _, err = bigjax(*more, f'--config.init_from={other}')
    assert status == 2 and f'init_from: {source} -> {other})' in err and err.count('\n') == 1
  assert stop.call_count == 1


# --- what is refused


@pytest.fixture
def refused(bigjax, on_one_device, tmp_path, monkeypatch):
  """Begin a run from `init_from`, which must be refused before anything is trained."""
  monkeypatch.setattr(run, 'Batches', mock.Mock(side_effect=AssertionError('training began')))
  numbers = itertools.count()

  def refused(init_from, *words, out=None):
    out = out or tmp_path / f'run{next(numbers)}'
    given = (f'--config.init_from={init_from}', '--workdir', out)
    status, printed, err = bigjax('train', *WORDS, *UNSCORED, *words, *given)
    assert status == 2 and printed == ''
    assert err.startswith('bigjax: ') and err.endswith('.\n') and err.count('\n') == 1, err
    assert not (out / 'metrics.jsonl').exists() and not checkpoint.list_steps(str(out))
    return err

  return refused


def test_a_path_that_is_not_there_is_refused(refused, tmp_path):
  for name in ('absent', 'absent.safetensors'):
    assert str(tmp_path / name) in refused(tmp_path / name)


def test_a_folder_that_is_no_workdir_and_a_file_that_is_no_export_are_refused(refused, tmp_path):
  (tmp_path / 'empty').mkdir()
  assert 'not the workdir of a run' in refused(tmp_path / 'empty')
  (tmp_path / 'empty' / 'x.txt').write_text('no weights')
  assert 'x.json' in refused(tmp_path / 'empty' / 'x.txt')  # it has no card


def test_a_workdir_without_checkpoints_is_refused(refused, workdir, tmp_path):
  (tmp_path / 'source').mkdir()
  shutil.copy(workdir / 'card.json', tmp_path / 'source')
  assert 'no checkpoints' in refused(tmp_path / 'source')


def test_weights_of_which_no_kernel_fits_are_refused(refused, workdir):
  """At another width a class table fits, and biases of single numbers: no beginning of a run."""
  err = refused(workdir, '--config.model.ch=16')
  assert f'init_from={workdir}' in err and 'width' in err


def test_a_refused_path_does_not_bind_the_workdir(refused, tmp_path):
  """The mistake is mended in the same command, --workdir and all."""
  refused(tmp_path / 'mistyped', out=tmp_path / 'run')
  assert 'another config' not in refused(tmp_path / 'mistyped again', out=tmp_path / 'run')
