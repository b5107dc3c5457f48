"""Averages that are stored while training, and the generator made of them, on a toy's run."""

import json
import os
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from bigjax.algorithms.base import configs
from bigjax.core import checkpoint, errors, trees
from bigjax.sampling import generator_file
from bigjax.training import loop, quick_evaluation
from bigjax.training.posthoc import reconstruction, snapshots

import toys
from tiny_run import one_program_each

TOY = next(path for path in toys.CONFIGS if 'denoiser' in path)
STEPS = 40
INSIDE = 'aux/posthoc_ema/'


def train(workdir, steps=STEPS, stds=(0.05, 0.1), lr=0.5):
  """A run that stores averages after every step, at first."""
  config = configs.read(f'{TOY}:tiny')
  config.optim.lr, config.ema.posthoc = lr, stds
  config.run.update({'steps': steps, 'checkpoint_every': 20, 'keep': 9, 'eval_every': 0})
  with one_program_each():
    loop.train(config, str(workdir), jax.devices()[:2])
  return str(workdir)


def state(workdir, step=STEPS):
  return checkpoint.restore_part(workdir, step, lambda path: True)


@pytest.fixture(scope='module', autouse=True)
def no_pictures():
  with pytest.MonkeyPatch.context() as patch:
    for name in ('curves', 'vital_signs'):
      patch.setattr(quick_evaluation, 'draw_growth', lambda *_: None)
      patch.setattr(f'bigjax.training.plots.{name}', lambda *args, **kwargs: None)
    yield


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return train(tmp_path_factory.mktemp('posthoc') / 'run')


def files(workdir):
  found = snapshots.stored(workdir)
  return {step: open(path, 'rb').read() for step, path in found.items()}


def test_steps_that_are_stored_grow_apart_and_follow_from_the_step_alone():
  due = [step for step in range(1, 4001) if snapshots.due(step)]
  assert due[:24] == list(range(1, 25))  # every one, while a step is more than a twentieth
  gaps = np.diff(due) / due[:-1]
  assert (gaps[24:] < 0.1).all() and len(due) == 128


def test_the_run_is_the_same_with_averages_beside_it(run, tmp_path):
  ours, plain = state(run), state(train(tmp_path / 'plain', stds=()))
  assert {path for path in ours if not path.startswith(INSIDE)} == plain.keys()
  for path, x in plain.items():
    np.testing.assert_array_equal(ours[path], x, err_msg=path)
  assert snapshots.stored(str(tmp_path / 'plain')) == {}


def test_stored_averages_are_the_checkpoints_own(run):
  assert list(snapshots.stored(run)) == [n for n in range(1, STEPS + 1) if snapshots.due(n)]
  found = safetensors.numpy.load_file(snapshots.stored(run)[20])
  kept = {p.removeprefix(INSIDE): x for p, x in state(run, 20).items() if p.startswith(INSIDE)}
  assert found.keys() == kept.keys() and len(found) == 2 * 4
  for path, x in kept.items():
    np.testing.assert_array_equal(found[path], x, err_msg=path)


def test_a_resumed_run_stores_the_same_bytes_and_forgets_what_came_after(run, tmp_path):
  workdir = train(tmp_path / 'halves', steps=20)
  stray = snapshots.stored(workdir)[20].replace('0020', '0023')  # of a run killed at 25
  shutil.copy(snapshots.stored(workdir)[20], stray)
  train(workdir)
  assert files(workdir) == files(run)
  ours, theirs = state(workdir), state(run)
  for path, x in theirs.items():
    np.testing.assert_array_equal(ours[path], x, err_msg=path)


def apart(found, want, start):
  """Largest relative difference of a tensor, in units of how far it has moved."""
  one = lambda path: np.linalg.norm(found[path] - want[path])
  return max(one(path) / np.linalg.norm(want[path] - start[path]) for path in want)


def test_what_is_made_afterwards_is_what_would_have_been_tracked(run, tmp_path):
  direct = state(train(tmp_path / 'direct', stds=(0.08,)))
  want = {p.removeprefix(f'{INSIDE}0.08/'): x for p, x in direct.items() if p.startswith(INSIDE)}
  start = trees.flat(reconstruction.program_of(run).init(jax.random.key(0), {})['ema'])
  made = lambda std: trees.flat(reconstruction.load(run, 'last', std)[0])
  assert apart(made(0.08), want, start) < 1e-3
  assert apart(made(0.07), want, start) > 1e-3  # the bar tells widths apart
  assert apart(made(0.1), want, start) > 1e-3
  _, card = reconstruction.load(run, 'last', 0.08)
  about = card['posthoc_ema']
  assert about['std'] == 0.08 and about['profile_error'] < 0.05
  assert about['snapshots'] == len({*snapshots.stored(run), STEPS})  # and the checkpoint's


def test_export_writes_it_with_its_card(run, tmp_path, bigjax):
  status, said, _ = bigjax('export', '--workdir', run, '--ema_std', '0.08', '--checkpoint', '20')
  path = os.path.join(run, 'export', 'generator_std0.08.safetensors')
  assert status == 0 and f'wrote {path}' in said and 'an average of width 0.08' in said
  gen, card = generator_file.load(path)
  want, _ = reconstruction.load(run, '20', 0.08)
  assert card['posthoc_ema']['std'] == 0.08 and card['step'] == 20
  for name, x in trees.flat(want).items():
    np.testing.assert_array_equal(trees.flat(gen)[name], x)
  usual, _ = generator_file.load_workdir(run, '20')
  assert any((trees.flat(usual)[name] != x).any() for name, x in trees.flat(gen).items())
  out = tmp_path / 'rough.npz'
  status, _, told = bigjax('export', '--workdir', run, '--ema_std', '0.002', '--out', out)
  assert status == 0 and 'warning: the profile' in told


def test_what_cannot_be_made_is_said(run, tmp_path, bigjax):
  def said(*words):
    status, _, told = bigjax('export', *words)
    assert status != 0 and told.count('\n') == 1
    return told

  assert '--workdir' in said('--params', 'x.npz', '--ema_std', '0.1')
  assert 'less than 0.289' in said('--workdir', run, '--ema_std', '0.5')
  assert "no checkpoint '7'" in said('--workdir', run, '--ema_std', '0.1', '--checkpoint', '7')
  plain = train(tmp_path / 'plain', steps=10, stds=())
  assert 'ema.posthoc=0.05,0.1' in said('--workdir', plain, '--ema_std', '0.1')
  copy = str(tmp_path / 'copy')
  shutil.copytree(run, copy)
  path = snapshots.stored(copy)[5]
  with open(path, 'r+b') as file:
    file.truncate(100)
  assert path in said('--workdir', copy, '--ema_std', '0.1')
  safetensors.numpy.save_file({'0.05/x': np.zeros(3)}, path)
  assert 'has not the averages' in said('--workdir', copy, '--ema_std', '0.1')


def test_widths_are_part_of_what_a_run_is(run):
  with open(os.path.join(run, 'config.json'), encoding='utf-8') as file:
    assert json.load(file)['ema.posthoc'] == [0.05, 0.1]
  with pytest.raises(errors.UserError, match=r'ema\.posthoc'):
    train(run, steps=50, stds=(0.05,))
  with pytest.raises(errors.UserError, match='widths that differ'):
    train(run, stds=(0.05, 0.05))
