"""Which rows raise an alarm, since when, and which do not: made-up rows, known answers."""

import math

import ml_collections
import pytest

from bigjax.algorithms.base import configs
from bigjax.core import errors
from bigjax.training import watchdog

WATCH = configs.read('digits').watch


def rows(num=12, **changes):
  """Healthy rows at steps 10, 20, ...; `changes` replaces numbers from row 8 on."""
  found = []
  for i in range(num):
    row = {
      'step': 10 * (i + 1),
      'd_loss': 1.2 + 0.1 * math.sin(i),
      'g_loss': 0.1 * math.cos(i),
      'd_grad_norm': 3 + math.sin(i),
      'd_accuracy_real': 0.8,
      'd_accuracy_fake': 0.7,
      'refused': 0.0,
      'sigma0_gen/linear/kernel': 2 + 0.01 * i,
      'weight_norm_gen': 10 + 0.01 * i,
      'weight_norm_disc': 20 + 0.02 * i,
      'batch_std': 0.3 + 0.01 * math.sin(i),
      'batch_label_share': 0.1 + 0.05 * math.cos(i),
      'std_ratio': 0.9,
      'coverage': min(0.1 * i, 0.8),
    }
    if i >= 8:
      row |= {name: value(i) if callable(value) else value for name, value in changes.items()}
    found.append(row)
  return found


def alarms(found, best='coverage', sampled='gen', begins=(0,), **changes):
  given = ml_collections.ConfigDict({**WATCH.to_dict(), **changes})
  dog = watchdog.Watchdog(given, best, sampled, begins)
  return [alarm for row in found for alarm in dog.see(row)]


def test_healthy_rows_raise_none():
  assert alarms(rows(40)) == []


@pytest.mark.parametrize(
  ('changes', 'signal', 'step'),
  [
    ({'refused': lambda i: float(i - 7)}, 'refused', 90),
    ({'d_loss': 60.0}, 'spike', 100),
    ({'d_loss': math.nan}, 'spike', 100),
    ({'g_loss': -25.0}, 'spike', 100),
    ({'d_grad_norm': 300.0}, 'spike', 100),
    ({'d_accuracy_fake': 0.0}, 'one_sided', 100),
    ({'sigma0_gen/linear/kernel': 40.0}, 'sigma', 100),
    ({'weight_norm_disc': 20.5}, 'still', 100),
    ({'batch_std': 0.0}, 'data', 100),
    ({'batch_label_share': 1.0}, 'data', 100),
    ({'std_ratio': 0.1}, 'variance', 100),
    ({'coverage': 0.2}, 'score', 100),
    ({'coverage': math.nan}, 'score', 100),
  ],
)
def test_trouble_is_seen_with_its_onset(changes, signal, step):
  first, *others = alarms(rows(**changes))
  assert (first.signal, first.step) == (signal, step)
  assert first.onset == (100 if signal == 'still' else 90)
  assert first.words and not others  # once per streak
  assert alarms(rows(**changes), **{signal: 0}) == []  # off


def test_kernels_of_the_sampled_player_alone_are_watched():
  found = rows(**{'sigma0_gen/linear/kernel': 40.0})
  assert [alarm.signal for alarm in alarms(found)] == ['sigma']
  assert alarms(found, sampled='ge') == alarms(found, sampled='disc') == []


def test_one_value_out_of_bounds_is_no_streak():
  found = rows(20)
  for i in (9, 12, 15):
    found[i]['d_grad_norm'] = 300.0
  assert alarms(found) == []
  assert len(alarms(found, patience=1)) == 3


def test_another_stage_is_not_measured_by_the_one_before():
  grown = {'d_loss': 60.0, 'd_grad_norm': 300.0, 'sigma0_gen/linear/kernel': 40.0, 'batch_std': 0.0}
  found = rows(30, **grown)
  assert {alarm.signal for alarm in alarms(found)} == {'spike', 'sigma', 'data'}
  assert alarms(found, begins=(0, 80)) == []  # the row at 90 is the first after it
  late = alarms(found, begins=(0, 90))
  assert late == []  # one value out of bounds, then the stage that it belongs to
  assert {alarm.step for alarm in alarms(found, begins=(0, 100))} == {100}
  # What went wrong within the stage is seen all the same, and so are refused updates.
  found[-1]['refused'] = 1.0
  found[-2]['d_grad_norm'] = found[-1]['d_grad_norm'] = 3e5
  assert {alarm.signal for alarm in alarms(found, begins=(0, 80))} == {'refused', 'spike'}


def test_a_lower_score_may_be_better():
  found = [{'step': i, 'fd': value} for i, value in enumerate((50, 20, 10, 12, 25, 30))]
  (alarm,) = alarms(found, best='-fd')
  assert (alarm.signal, alarm.onset, alarm.step) == ('score', 4, 5)
  assert alarms(found, best='') == []


def test_one_class_is_no_trouble():
  assert alarms([{'step': i, 'batch_label_share': 1.0} for i in range(20)]) == []


@pytest.mark.parametrize('name', ['probe_accuracy_held_out', 'probe_accuracy_fake'])
def test_a_probes_accuracies_may_be_anything(name):
  """A discriminator that knows its training images by heart is usual (Section 4.2); and a healthy
  run of cifar10:laptop had none of the probe's fakes right at steps 70 and 140."""
  assert alarms([{'step': i, name: 0.0} for i in range(9)]) == []


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    ({'policy': 'rolback'}, 'did you mean rollback'),
    ({'patience': 0}, 'at least 1'),
    ({'variance': 1.5}, 'less than 1'),
    ({'spike': 0.5}, 'a ratio above 1'),
  ],
)
def test_mistakes_get_a_sentence(change, said):
  config = configs.read('digits:tiny')
  config.watch.update(change)
  with pytest.raises(errors.UserError, match=said):
    configs.check(config)
    watchdog.check(config)
