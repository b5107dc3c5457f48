"""What the trainer makes of an alarm: warn, stop, or go back and on otherwise."""

import json
import shutil

import jax
import pytest

from bigjax.algorithms.base import configs
from bigjax.core import errors
from bigjax.training import history as histories
from bigjax.training import loop, plots, watchdog

pytestmark = pytest.mark.usefixtures('no_pictures', 'shared_programs')


def tiny(**changes):
  config = configs.read('digits:tiny')
  config.optim.d_steps = 1  # the program of tiny_run
  config.watch.update(changes)
  return config


def at_step_two(workdir, folder):
  shutil.copytree(workdir, folder)
  shutil.rmtree(folder / 'checkpoints' / '4')
  return folder


@pytest.fixture
def trouble(monkeypatch):
  """Raise an alarm whenever step 3 is logged, so many times."""
  left = []

  def see(self, row):
    if row['step'] == 3 and 'd_loss' in row and left:
      left.pop()
      return [watchdog.Alarm(3, 3, 'spike', 'd_loss', 99.0, 'd_loss is 99, was 1')]
    return []

  monkeypatch.setattr(watchdog.Watchdog, 'see', see)
  return left


def run(config, folder):
  return loop.train(config, str(folder), jax.devices()[:1])


def rows(folder, name='metrics.jsonl'):
  return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.mark.slow
def test_a_warning_changes_nothing(workdir, tmp_path, trouble, capsys):
  trouble.append(1)
  folder = at_step_two(workdir, tmp_path / 'run')
  assert run(tiny(policy='warn'), folder)['step'] == 4
  assert 'alarm at step 3, since 3: spike: d_loss is 99, was 1' in capsys.readouterr().err
  assert (folder / 'metrics.jsonl').read_bytes() == (workdir / 'metrics.jsonl').read_bytes()
  (event,) = rows(folder, 'events.jsonl')
  assert (event['step'], event['signal'], event['policy']) == (3, 'spike', 'warn')
  assert histories.read(str(folder)) == histories.begin(0)


def test_stop_ends_in_a_sentence_and_is_in_the_picture(workdir, tmp_path, trouble, monkeypatch):
  trouble.append(1)
  drawn = []
  keep = lambda path, rows, clock, events, title, player: drawn.append((title, events, player))
  monkeypatch.setattr(plots, 'vital_signs', keep)
  with pytest.raises(errors.UserError, match=r'the watchdog ends this run: d_loss is 99.*--change'):
    run(tiny(policy='stop'), at_step_two(workdir, tmp_path / 'run'))
  title, ((step, words),), player = drawn[-1]
  assert title.endswith('step 3') and step == 3 and 'd_loss is 99' in words
  assert player == 'gen'


def test_rolling_back_goes_on_with_another_seed_and_config(workdir, tmp_path, trouble, capsys):
  trouble.append(1)
  folder = at_step_two(workdir, tmp_path / 'run')
  config = tiny(policy='rollback', patch='optim.r1_gamma=1')
  assert run(config, folder)['step'] == 4
  assert 'rolled back from 3 to 2 with optim.r1_gamma=1.0: spike' in capsys.readouterr().err
  first, back = histories.read(str(folder))
  assert first == histories.begin(0)[0]
  assert (back['from_step'], back['seed'], back['patch']) == (2, 1, {'optim.r1_gamma': 1.0})
  assert back['position'] == 2 * 16
  found = rows(folder)
  steps = [row['step'] for row in found if 'd_loss' in row]
  assert steps == [1, 2, 3, 4]  # none doubled
  assert ['d_r1' in row for row in found if 'd_loss' in row] == [False, False, True, True]
  before = {row['step']: row for row in rows(workdir) if 'd_loss' in row}
  after = {row['step']: row for row in found if 'd_loss' in row}
  assert after[2] == before[2] and after[3]['g_loss'] != before[3]['g_loss']

  again = tmp_path / 'again'
  shutil.copytree(folder, again)
  shutil.rmtree(again / 'checkpoints' / '4')
  run(config, again)  # a run that goes on after a roll-back equals the one that was not stopped
  assert (again / 'metrics.jsonl').read_bytes() == (folder / 'metrics.jsonl').read_bytes()


@pytest.mark.slow
def test_a_patch_that_sets_a_value_right_again_takes_effect(workdir, tmp_path, trouble):
  """The config is then that of the start: the program must be, too."""
  trouble.append(1)
  folder = at_step_two(workdir, tmp_path / 'run')
  config = tiny(policy='rollback', patch='optim.r1_gamma=0')
  config.optim.r1_gamma = 1.0
  loop.train(config, str(folder), jax.devices()[:1], change=True)
  assert [e['patch'] for e in histories.read(str(folder))] == [
    {}, {'optim.r1_gamma': 1.0}, {'optim.r1_gamma': 0.0},
  ]  # fmt: skip
  assert not any(row.get('d_r1') for row in rows(folder))


def test_enough_is_enough(workdir, tmp_path, trouble):
  trouble.extend([1, 1, 1])
  with pytest.raises(errors.UserError, match='the watchdog ends this run after 2 roll-backs'):
    run(tiny(policy='rollback', most=2), at_step_two(workdir, tmp_path / 'run'))
  assert len(trouble) == 0


@pytest.mark.slow
def test_another_batch_size_goes_on_where_the_images_were(workdir, tmp_path):
  folder = at_step_two(workdir, tmp_path / 'run')
  config = tiny()
  config.optim.batch_size = 24
  with pytest.raises(errors.UserError, match=r'optim.batch_size: 16 -> 24.*--change'):
    run(config, folder)
  assert loop.train(config, str(folder), jax.devices()[:1], change=True)['step'] == 4
  *_, change = histories.read(str(folder))
  assert (change['from_step'], change['position']) == (2, 32)
  assert change['reason'] == 'asked for: optim.batch_size=24'
