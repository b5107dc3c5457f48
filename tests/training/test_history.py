"""What a run was from which step on: changes, seeds, positions, roll-backs, and what is refused."""

import json
import math

import jax
import pytest

from bigjax.algorithms.base import configs
from bigjax.core import config as core_config
from bigjax.core import errors, files
from bigjax.training import history as histories


def tiny(**optim):
  config = configs.read('digits:tiny')
  config.optim.update(optim)
  return config


def workdir(tmp_path, config, history=None):
  files.write_json(str(tmp_path / 'config.json'), core_config.flatten(config))
  files.write_json(str(tmp_path / 'history.json'), history or histories.begin(0))
  return str(tmp_path)


def position(batch):
  """Images before a step, of steps that all take as many."""
  return lambda step: step * batch


def test_the_last_change_holds():
  history = histories.append_entry(
    histories.begin(0), 10, 1, {'optim.gen_lr': 1e-3}, 640, 'asked for'
  )
  history = histories.append_entry(history, 20, 2, {'optim.gen_lr': 1e-4}, 1280, 'rolled back')
  assert histories.patched(tiny(), history).optim.gen_lr == 1e-4
  assert [histories.seed_at(history, step) for step in (0, 9, 10, 19, 20, 99)] == [0, 0, 1, 1, 2, 2]


def test_where_histories_part():
  start = histories.begin(0)
  one, other = (
    histories.append_entry(start, step, 1, {}, 64 * step, 'rolled back') for step in (100, 40)
  )
  after = histories.differ_after
  assert after(one, one) == after(None, one) == after(2, one) == math.inf
  assert after(start, one) == 100
  assert after(one, other) == after(other, one) == 40


def test_going_back_forgets_what_came_after():
  history = histories.append_entry(
    histories.begin(0), 30, 0, {'optim.gen_lr': 1e-3}, 9, 'asked for'
  )
  history = histories.append_entry(history, 20, 1, {}, 6, 'rolled back')
  assert [entry['from_step'] for entry in history] == [0, 20]
  assert histories.patched(tiny(), history).optim.gen_lr == tiny().optim.gen_lr
  again = histories.append_entry(history, 20, 2, {}, 6, 'rolled back')  # how often counts
  assert [entry['seed'] for entry in again] == [0, 1, 2]
  assert histories.seed_at(again, 20) == 2


def test_positions_add_up_over_batch_sizes():
  history = histories.append_entry(
    histories.begin(0), 10, 0, {'optim.batch_size': 8}, 160, 'asked for'
  )
  assert histories.position_at(history, 15, position(8)) == 160 + 5 * 8
  assert histories.position_at(histories.begin(0), 15, position(16)) == 240


def test_the_key_is_the_checkpoints_until_the_seed_changes():
  key = jax.random.key(77)
  history = histories.begin(3)
  assert (histories.key_at(history, 5, key) == key).all()
  history = histories.append_entry(history, 4, 9, {}, 0, 'rolled back')
  assert (histories.key_at(history, 5, key) == jax.random.key(9)).all()


def test_the_first_and_the_present_config_may_be_given(tmp_path):
  patch = {'optim.gen_lr': 1e-3}
  history = histories.append_entry(histories.begin(0), 10, 0, patch, 0, 'asked for')
  path = workdir(tmp_path, tiny(), history)
  for given in (tiny(), tiny(gen_lr=1e-3)):
    base, asked = histories.match_run_config(path, given, history, change=False)
    assert not asked and base.optim.gen_lr == tiny().optim.gen_lr
  with pytest.raises(errors.UserError, match=r'optim.gen_lr: 0.001 -> 0.002.*--change'):
    histories.match_run_config(path, tiny(gen_lr=2e-3), history, change=False)
  _, asked = histories.match_run_config(path, tiny(gen_lr=2e-3), history, change=True)
  assert asked == {'optim.gen_lr': 2e-3}


@pytest.mark.parametrize('key', ['data.resolution', 'data.source', 'algorithm'])
def test_some_changes_make_another_run(tmp_path, key):
  other = core_config.changed(tiny(), {key: {'data.resolution': 32}.get(key, 'other')})
  path = workdir(tmp_path, other)
  with pytest.raises(errors.UserError, match=f'{key} cannot change within a run'):
    histories.match_run_config(path, tiny(), histories.begin(0), change=True)


@pytest.mark.parametrize(
  ('text', 'want'),
  [
    ('', {}),
    ('optim.r1_gamma=1, optim.d_steps=3', {'optim.r1_gamma': 1.0, 'optim.d_steps': 3}),
    ('optim.sigma_tool=clamp', {'optim.sigma_tool': 'clamp'}),
  ],
)
def test_patches_are_typed(text, want):
  assert histories.read_patch(text, tiny()) == want


@pytest.mark.parametrize('text', ['optim.r1_gama=1', 'optim.r1_gamma', 'optim.d_steps=x',
                                  'run.steps=5', 'data.resolution=8'])  # fmt: skip
def test_wrong_patches_get_a_sentence(text):
  with pytest.raises(errors.UserError, match=r'watch.patch has'):
    histories.read_patch(text, tiny())


def test_a_change_can_be_taken_back(tmp_path):
  """Without --change the config that the run began with means no change; with it, that one."""
  path, now = workdir(tmp_path, tiny()), {'optim.gen_lr': 1e-3, 'optim.batch_size': 32}
  history = histories.append_entry(histories.begin(0), 10, 0, now, 640, 'asked for')
  assert histories.match_run_config(path, tiny(), history, change=False)[1] == {}
  _, asked = histories.match_run_config(path, tiny(), history, change=True)
  assert asked == {key: core_config.flatten(tiny())[key] for key in now}
  history = histories.append_entry(history, 20, 0, asked, 1280, 'taken back')
  assert histories.match_run_config(path, tiny(), history, change=True)[1] == {}


@pytest.mark.parametrize('value', [float('nan'), -1, 2**63, 10**30, '1', None, True, 1.5])
@pytest.mark.parametrize('key', ['from_step', 'seed', 'position'])
def test_numbers_of_a_history_have_ranges(tmp_path, key, value):
  histories.write(str(tmp_path), [{**histories.begin(2**32 - 1)[0], key: value}])
  with pytest.raises(errors.UserError, match=f'the {key} of an entry of .*history.json'):
    histories.read(str(tmp_path))


@pytest.mark.parametrize('text', ['optim.gen_lr=nan', 'optim.ema_decay=2', 'optim.d_steps=-1'])
def test_a_patch_out_of_range_is_refused(text):
  with pytest.raises(errors.UserError, match=r'watch.patch: optim\.\w+ is '):
    histories.read_patch(text, tiny())


def test_damage_gets_a_sentence(tmp_path):
  (tmp_path / 'history.json').write_text(json.dumps([{'from_step': 0}]))
  with pytest.raises(errors.UserError, match='not the history of a run'):
    histories.read(str(tmp_path))
