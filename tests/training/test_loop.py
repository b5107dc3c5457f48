"""Stopping changes nothing, devices change next to nothing, a second start compiles nothing."""

import json
import os
import shutil
import subprocess
import sys
import time
from unittest import mock

import jax
import ml_collections
import numpy as np
import optax
import pytest

from bigjax.algorithms.base import configs
from bigjax.core import checkpoint, errors, parallel, trees
from bigjax.evaluation import quick, reference_curves
from bigjax.nn import optim
from bigjax.nn.objectives import losses
from bigjax.training import batches, loop
from bigjax.training import history as history_of
from bigjax.training import run as runs
from bigjax.training.batches import Batches, load_data
from bigjax.training.program import make_program
from bigjax.training.records import logs, writers

from tiny_run import one_program_each


def tiny(**run):
  config = configs.read('digits:tiny')
  config.optim.d_steps = 1  # half as much to compile
  config.run.update({'eval_every': 2, 'checkpoint_every': 2, 'keep': 9, **run})
  return config


def train(config, workdir, num_devices=2):
  """On two of the eight devices: with two cores, more take longer and show no more."""
  return loop.train(config, str(workdir), jax.devices()[:num_devices])


def saved_state(workdir, step):
  """Return a checkpoint's state as plain NumPy arrays by path."""
  import orbax.checkpoint as ocp

  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.restore(os.path.join(workdir, 'checkpoints', str(step), 'state'))
  return {path: np.asarray(leaf) for path, leaf in trees.flat(tree).items()}


def read(workdir, name):
  with open(os.path.join(workdir, name), 'rb') as f:
    return f.read()


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
  workdir = str(tmp_path_factory.mktemp('uninterrupted'))
  with one_program_each():
    train(tiny(steps=6), workdir)
  return workdir


# 3 is off every period: its row and checkpoint must leave no trace; 4 is on them.
@pytest.mark.parametrize('stop', [3, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.usefixtures('no_pictures', 'shared_programs')
def test_resumed_run_equals_the_uninterrupted_one(uninterrupted, tmp_path, stop, capsys):
  workdir, began = str(tmp_path), time.monotonic()
  train(tiny(steps=stop), workdir)
  train(tiny(steps=6), workdir)
  whole = time.monotonic() - began
  told = capsys.readouterr()
  assert f'resuming at step {stop}' in told.err and ' in 2 sessions: ' in told.out
  assert read(workdir, 'metrics.jsonl') == read(uninterrupted, 'metrics.jsonl')
  ours, theirs = saved_state(workdir, 6), saved_state(uninterrupted, 6)
  assert ours.keys() == theirs.keys()
  for path, leaf in theirs.items():
    np.testing.assert_array_equal(ours[path], leaf, err_msg=path)
  clock = [json.loads(line) for line in read(workdir, 'timing.jsonl').splitlines()]
  assert [row['step'] for row in clock] == [1, 2, 3, 4, 5, 6]  # no row doubled or lost
  seconds = [row['seconds'] for row in clock]  # of the run, not of a session
  assert seconds == sorted(seconds) and seconds[-1] < whole
  exports = [read(w, 'export/generator.safetensors') for w in (workdir, uninterrupted)]
  assert exports[0] == exports[1]
  # The clock is of both, its parts are all of it, and nothing was done twice.
  summary = json.loads(read(workdir, 'summary.json'))
  clock = summary['clock']
  assert summary['sessions'] == 2
  assert sum(clock.values()) == pytest.approx(summary['seconds'], abs=0.01)
  assert summary['seconds'] == pytest.approx(whole, rel=0.02, abs=1)
  assert clock['steps'] > 0 and clock['compilation'] > 0 and clock['evaluation'] > 0
  assert clock['lost'] < 0.02 * whole + 0.5


@pytest.mark.slow
def test_another_seed_is_another_run(uninterrupted, tmp_path):
  config = tiny(steps=2)
  config.seed = 1
  train(config, str(tmp_path))
  first = [
    json.loads(read(w, 'metrics.jsonl').splitlines()[0]) for w in (str(tmp_path), uninterrupted)
  ]
  assert first[0]['d_loss'] != first[1]['d_loss']


def test_workdir_holds_what_the_readme_promises(uninterrupted):
  found = {os.path.relpath(os.path.join(d, f), uninterrupted)
           for d, _, files in os.walk(uninterrupted) for f in files}  # fmt: skip
  assert {
    'samples/00000002.png', 'samples/00000006.png', 'curves.png', 'vital_signs.png',
    'metrics.jsonl', 'timing.jsonl', 'summary.json', 'card.json', 'config.json', 'data.json',
    'history.json', 'export/generator.safetensors', 'export/generator.json',
  } <= found  # fmt: skip
  assert any(f.startswith('tensorboard/events') for f in found)
  summary = json.loads(read(uninterrupted, 'summary.json'))
  scores = {'agreement', 'worst_class', 'std_ratio', 'precision', 'coverage', 'nearest_ratio'}
  assert scores <= set(summary)
  assert scores == set(summary['real'])
  history = json.loads(read(uninterrupted, 'history.json'))
  assert history == history_of.begin(0)


def test_the_copy_of_a_checkpoint_has_its_mark(monkeypatch):
  """Of the clock; what a bucket has is copied as the checkpoint begins to be written there."""
  monkeypatch.setattr(runs, 'card_architecture', lambda *_: {})
  monkeypatch.setattr(runs.histories, 'position_at', lambda *_: 0)
  parts = mock.MagicMock(frozen='')
  runs.Run.save(parts, {'frozen': {}}, None, None, 4, None)
  calls = [name for name, *_ in parts.mock_calls]
  order = [calls.index(name) for name in ('session.mark', 'copies.push', 'checkpoints.save')]
  assert order == sorted(order)


def test_history_decides_the_seed():
  history = [{'from_step': 0, 'seed': 3}, {'from_step': 100, 'seed': 9}]
  assert [history_of.seed_at(history, step) for step in (0, 99, 100, 5000)] == [3, 3, 9, 9]


@pytest.mark.usefixtures('no_pictures', 'shared_programs')
def test_a_finished_run_is_left_as_it_is(uninterrupted, capsys, monkeypatch):
  closed = []
  for owner in (checkpoint.Checkpoints, logs.Log, writers.Mirrors):
    monkeypatch.setattr(
      owner, 'close', lambda self, close=owner.close: closed.append(type(self)) or close(self)
    )
  before = read(uninterrupted, 'metrics.jsonl'), read(uninterrupted, 'export/generator.safetensors')
  train(tiny(steps=6), uninterrupted)
  assert 'is at step 6 already' in capsys.readouterr().err
  assert closed[-1] == writers.Mirrors and len(closed) == 3  # no checkpoint waits for a server
  after = read(uninterrupted, 'metrics.jsonl'), read(uninterrupted, 'export/generator.safetensors')
  assert before == after


@pytest.mark.usefixtures('no_pictures')
def test_updates_that_stay_non_finite_end_the_run_in_a_sentence(tmp_path, monkeypatch):
  config = tiny(steps=6, max_skipped=2)
  broken = losses.Loss(lambda real, fake: (np.nan * real.mean(), fake.mean()), losses.hinge_gen)
  monkeypatch.setitem(losses.LOSSES, 'hinge', broken)
  with pytest.raises(errors.UserError, match='in a row were not finite'):
    train(config, str(tmp_path))


def test_a_workdir_of_another_config_is_refused_even_without_its_history(uninterrupted, tmp_path):
  copy = tmp_path / 'run'
  shutil.copytree(uninterrupted, copy)
  os.remove(copy / 'history.json')
  config = tiny(steps=8)
  config.optim.gen_lr = 1e-3
  with pytest.raises(errors.UserError, match='written under another config'):
    train(config, str(copy))


def test_a_bad_export_truncation_is_refused_before_training(tmp_path):
  config = tiny()
  config.export.truncations = ('0.5', 'much')
  with pytest.raises(errors.UserError, match="truncation 'much'"):
    train(config, str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def step_on(num_devices, config, plain, batch):
  """Return (state, metrics) after one step from a plain saved state, on this many devices."""
  program = make_program(config, jax.devices()[:num_devices])
  state = checkpoint.from_plain(trees.nest(plain), program.shapes())
  state = jax.device_put(state, parallel.zero_sharding(program.mesh, state))
  state, metrics = program.step(state, batch)
  return trees.flat(jax.device_get(checkpoint.to_plain(state))), jax.device_get(metrics)


@pytest.fixture(scope='module')
def trained(uninterrupted):
  """A state four steps into training, where statistics are no longer those of initialisation."""
  rng = np.random.RandomState(0)
  batch = {
    'image': rng.randint(0, 256, (2, 16, 16, 16, 1)).astype(np.uint8),
    'label': rng.randint(0, 10, (2, 16)).astype(np.int32),
  }
  return saved_state(uninterrupted, 4), batch


def fresh(config):
  """Return (state at step 0, random batch) of a config."""
  program = make_program(config, jax.devices()[:1])
  plain = trees.flat(jax.device_get(checkpoint.to_plain(program.init(jax.random.key(0), {}))))
  shapes, rng = program.stage(0).shapes(), np.random.RandomState(0)
  return plain, {
    'image': rng.randint(0, 256, shapes['image'].shape).astype(np.uint8),
    'label': rng.randint(0, config.data.num_classes, shapes['label'].shape).astype(np.int32),
  }


@pytest.mark.parametrize(
  'name',
  [
    pytest.param('digits', marks=pytest.mark.slow),
    pytest.param('imagenet128', marks=pytest.mark.slow),
    pytest.param('imagenet128_deep', marks=pytest.mark.slow),
  ],
)
def test_sgd_step_does_not_depend_on_the_number_of_devices(name, request, monkeypatch):
  """DESIGN 4: with SGD(1), 1e-5 relative per tensor whose update exceeds 1e-6 of its player's."""
  config = configs.read(f'{name}:tiny')
  if name == 'digits':
    plain, batch = request.getfixturevalue('trained')
  else:  # a random deep network with eight examples amplifies float32's rounding beyond the bar
    request.getfixturevalue('x64')
    config.model.dtype = 'float64'
    plain, batch = fresh(config)
    wide = lambda a: a.astype(np.float64) if a.dtype == np.float32 else a
    plain = {path: wide(leaf) for path, leaf in plain.items()}
  monkeypatch.setitem(optim.OPTIMIZERS, 'sgd', lambda lr, b1, b2, eps: optax.sgd(1.0))
  config.optim.update({'name': 'sgd', 'd_steps': 1})
  batch = {name: array[:1] for name, array in batch.items()}
  plain = {
    path: leaf for path, leaf in plain.items() if '/nu/' not in path and '/count' not in path
  }
  one, one_metrics = step_on(1, config, plain, batch)
  for num in (2, 8) if name == 'digits' else (8,):
    many, metrics = step_on(num, config, plain, batch)
    for name, value in one_metrics.items():
      np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    for player in ('gen', 'disc'):
      prefix = f'players/{player}/'
      updates = {p: one[p] - plain[p] for p in one if p.startswith(prefix + 'params')}
      whole = np.sqrt(sum(np.square(u).sum() for u in updates.values()))
      for path, update in updates.items():
        size = np.linalg.norm(update)
        if size > 1e-6 * whole:
          error = np.linalg.norm(many[path] - one[path])
          rounding = 1e-7 * np.linalg.norm(plain[path])  # parameters are float32 themselves
          assert error <= 1e-5 * size + rounding, (num, path, error / size)
      for path in one:
        if path.startswith(prefix + 'opt') and '/sn_' in path:
          np.testing.assert_allclose(many[path], one[path], atol=1e-5, err_msg=path)


@pytest.mark.slow
def test_first_adam_step_differs_by_at_most_two_learning_rates(trained):
  """It is lr * sign(gradient), whatever the gradient's size."""
  _, batch = trained
  config = tiny()
  program = make_program(config, jax.devices()[:1])
  plain = trees.flat(jax.device_get(checkpoint.to_plain(program.init(jax.random.key(0)))))
  one, _ = step_on(1, config, plain, batch)
  many, _ = step_on(8, config, plain, batch)
  for player, lr in (('gen', config.optim.gen_lr), ('disc', config.optim.disc_lr)):
    bound = 2 * lr * (config.optim.d_steps if player == 'disc' else 1)
    paths = [p for p in one if p.startswith(f'players/{player}/params')]
    assert max(np.abs(many[p] - one[p]).max() for p in paths) <= bound
    # and by far less nearly everywhere: a wrong mean over devices would move most of them
    apart = np.concatenate([np.abs(many[p] - one[p]).ravel() for p in paths])
    assert np.quantile(apart, 0.99) < 0.01 * lr


@pytest.mark.slow
@pytest.mark.parametrize('num_devices', [1, 8])
def test_a_run_continues_on_another_number_of_devices(uninterrupted, tmp_path, num_devices):
  """Saved by two devices, continued by another number: the very next losses agree."""
  workdir = str(tmp_path)
  train(tiny(steps=2), workdir)
  train(tiny(steps=3, eval_every=0), workdir, num_devices)
  rows = [[json.loads(line) for line in read(w, 'metrics.jsonl').splitlines()]
          for w in (workdir, uninterrupted)]  # fmt: skip
  ours, theirs = (next(r for r in rs if r['step'] == 3) for rs in rows)
  for name in ('d_loss', 'g_loss', 'd_logit_real', 'd_logit_fake'):
    np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, err_msg=name)


COUNT = """
import sys, jax
from bigjax import __main__
misses = []
jax.monitoring.register_event_listener(
  lambda name, **_: misses.append(name) if name == '/jax/compilation_cache/cache_misses' else None)
status = __main__.main(['train', '--config=digits:tiny', '--workdir', sys.argv[1]])
print('MISSES', len(misses))
sys.exit(status)
"""


@pytest.mark.slow
def test_a_second_start_compiles_nothing_anew(tmp_path):
  env = {**os.environ, 'BIGJAX_CACHE': str(tmp_path / 'cache')}
  env.pop('JAX_COMPILATION_CACHE_DIR', None)
  misses = []
  for run in ('first', 'second'):
    command = [sys.executable, '-c', COUNT, str(tmp_path / run)]
    out = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    misses.append(int(out.split('MISSES')[1].split()[0]))
  assert misses[0] > 10
  assert misses[1] == 0


# --- the data of a run, and what is said of its clock


def test_other_training_images_are_refused(uninterrupted, tmp_path):
  copy = tmp_path / 'run'
  shutil.copytree(uninterrupted, copy)
  about = json.loads(read(copy, 'data.json'))
  assert about['num_train'] == 1347 and about['class_names'] == list('0123456789')
  (copy / 'data.json').write_text(json.dumps({**about, 'digest': 'another', 'num_train': 1346}))
  with pytest.raises(errors.UserError, match=r'other training images \(1,346, now 1,347'):
    train(tiny(steps=8), str(copy))


def test_fewer_images_than_a_batch_are_refused(tmp_path):
  config = tiny()
  config.data.per_class = 1  # ten images, for batches of 16
  with pytest.raises(errors.UserError, match='10 training images, fewer than one batch of 16'):
    train(config, str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_the_number_of_classes_is_read_from_the_data():
  config = tiny()
  del config.data.num_classes
  config.data.num_classes = ml_collections.config_dict.placeholder(int)
  filled, source = load_data(config)
  assert filled.data.num_classes == 10 == len(source.class_names)
  assert config.data.num_classes is None  # the caller's is left alone
  assert configs.config_hash(filled) == configs.config_hash(tiny())  # however it was found


class Ready:
  """A leaf of a step's metrics that is done, or not."""

  def __init__(self, ready):
    self.ready = ready

  def is_ready(self):
    return self.ready


@pytest.mark.parametrize(('busy', 'waits'), [(False, True), (True, False)])
def test_waiting_counts_where_the_devices_are_idle(monkeypatch, busy, waits):
  def slow(*_):
    while True:
      time.sleep(0.02)
      yield {}

  monkeypatch.setattr(batches, '_placed', slow)
  ahead = Batches(None, None, tiny(), [], 0)
  ahead.next({'d_loss': Ready(True)})
  assert ahead.waited() >= 0.06  # the first, and two ahead
  ahead.next({'d_loss': Ready(not busy)})
  assert (ahead.waited() > 0) == waits
  assert ahead.waited() == 0  # since the call before


def test_rows_of_the_clock(uninterrupted):
  rows = [json.loads(line) for line in read(uninterrupted, 'timing.jsonl').splitlines()]
  assert [row['step'] for row in rows] == [1, 2, 3, 4, 5, 6]
  assert all(0 <= row['waiting'] <= 1 for row in rows)
  assert b'waiting' not in read(uninterrupted, 'metrics.jsonl')


def test_a_profile_covers_the_steps_asked_for(monkeypatch, tmp_path):
  calls = []
  monkeypatch.setattr(jax.profiler, 'start_trace', lambda folder: calls.append(step))
  monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: calls.append(step))
  said = []
  profile = logs.Profile(str(tmp_path), 10, 2, said.append)
  for step in range(10, 20):
    profile.before(step)
    profile.after(step + 1, ())
  profile.close()
  assert calls == [13, 14]  # begins before step 13, ends after step 14
  assert len(said) == 1 and 'tensorboard' in said[0]
  none = logs.Profile(str(tmp_path), 10, 0, said.append)
  none.before(13), none.after(14, ()), none.close()
  assert calls == [13, 14]


@pytest.mark.slow
def test_a_published_curve_raises_an_alarm(monkeypatch, tmp_path, capsys):
  """A score of the same kind, far off at the same step: here FID 5 in Table's place, ours 500."""
  curve = reference_curves.Curve('toy', 'a paper', 'some protocol', {'fid': ((1, 6.0), (9, 5.0))})
  monkeypatch.setattr(reference_curves, 'get', lambda name: curve)
  score = lambda samples: {'fid40_train_toy': 500.0}
  monkeypatch.setattr(quick, 'load', lambda *_: (score, {'fid40_train_toy': 1.0}))
  config = tiny(steps=2, best='')
  train(config, str(tmp_path))
  err = capsys.readouterr().err
  assert 'warning: ' in err and '500' in err and 'a paper' in err
