"""Scores of a run while it trains: those of `bigjax evaluate`, beside the steps."""

import dataclasses
import json
import shutil
import threading

import jax
import numpy as np
import pytest
from PIL import Image

from bigjax.algorithms.base import configs
from bigjax.core import errors
from bigjax.evaluation import during_training, protocol, samples
from bigjax.evaluation.quick import classifier
from bigjax.sampling import grids, loaded
from bigjax.training import loop, quick_evaluation
from bigjax.training.records import logs

pytestmark = pytest.mark.usefixtures('no_pictures', 'shared_programs')


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
  """A classifier that is hardly trained, and a cache of each test's own."""
  recipe = dataclasses.replace(classifier.RECIPE, epochs=1, min_steps=20)
  monkeypatch.setattr(classifier, 'RECIPE', recipe)
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path / 'cache'))


def tiny(**scores):
  config = configs.read('digits:tiny')
  config.optim.d_steps = 1  # the program of tiny_run
  config.run.update({'eval_every': 2, 'checkpoint_every': 2, 'keep': 9})
  config.scores.update({'every': 2, 'metrics': 'fid,pr', 'num': 60, **scores})
  return config


def run(config, folder):
  loop.train(config, str(folder), jax.devices()[:1])
  return [json.loads(line) for line in (folder / 'scores.jsonl').read_text().splitlines()]


def assert_same_protocol(ours, theirs):
  """One row names its generator by the run and the step alone, the other by its weights too."""
  assert ours['protocol'].items() <= theirs['protocol'].items()
  assert theirs['protocol'].keys() - ours['protocol'].keys() == {'generator_digest'}


def test_scores_are_those_of_evaluate_and_change_nothing(workdir, bigjax, tmp_path):
  rows = run(tiny(), tmp_path / 'run')
  assert [row['step'] for row in rows] == [2, 4]
  Image.open(tmp_path / 'run' / 'scores.png').verify()
  metrics = [(folder / 'metrics.jsonl').read_bytes() for folder in (tmp_path / 'run', workdir)]
  assert metrics[0] == metrics[1]  # of the same run without scores

  status, _, err = bigjax(
    'evaluate', '--workdir', tmp_path / 'run', '--checkpoints', 'all', '--features', 'classifier',
    '--num', 60, '--metrics', 'fid,pr', '--seeds', 0, '--out', tmp_path / 'after',
  )  # fmt: skip
  assert status == 0, err
  after = [json.loads(line) for line in (tmp_path / 'after' / 'scores.jsonl').open()]
  for ours, theirs in zip(rows, after, strict=True):
    assert ours['scores'].keys() == theirs['scores'].keys()
    for name, score in ours['scores'].items():
      assert score['value'] == pytest.approx(theirs['scores'][name]['value'], rel=1e-4), name
    assert ours['floor'] == pytest.approx(theirs['floor'], rel=1e-4)
    assert_same_protocol(ours, theirs)


def test_a_run_that_goes_on_has_every_row_once(workdir, tmp_path):
  folder = tmp_path / 'run'
  shutil.copytree(workdir, folder)  # at step 4, without scores, as if it had been killed
  (folder / 'scores.jsonl').write_text('{"step": 2, "scores": {}}\n{"step": 6, "scores": {}}\n')
  config = tiny()
  config.run.steps = 6
  assert [row['step'] for row in run(config, folder)] == [2, 4, 6]
  rows = run(config, folder)
  assert [row['step'] for row in rows] == [2, 4, 6] and rows[-1]['scores']


def test_checkpoints_of_a_growing_run_are_networks_of_their_own_size(bigjax, tmp_path):
  config, folder = configs.read('pggan:tiny'), tmp_path / 'run'
  config.run.update({'steps': 2, 'eval_every': 1, 'checkpoint_every': 1})
  config.scores.update({'every': 1, 'metrics': 'fid', 'num': 60, 'features': 'classifier'})
  rows = run(config, folder)
  # The first step is one of 4 px: what is loaded is what was sampled then.
  assert [loaded.load(folder, step).shape for step in '12'] == [(4, 4, 3), (8, 8, 3)]
  columns = config.eval.grid_columns
  images = loaded.load(folder, '1')(np.arange(10).repeat(columns), seed=samples.SEED)
  grid, _ = quick_evaluation.grid_at(str(folder), 1)
  np.testing.assert_array_equal(grid, grids.grid(images, columns))
  # Scores of both are of 8 px, against the same images, whoever computes them.
  status, _, err = bigjax(
    'evaluate', '--workdir', folder, '--checkpoints', 'all', '--features', 'classifier', '--num',
    60, '--metrics', 'fid', '--seeds', 0, '--out', tmp_path / 'after',
  )  # fmt: skip
  assert status == 0, err
  after = [json.loads(line) for line in (tmp_path / 'after' / 'scores.jsonl').open()]
  for ours, theirs in zip(rows, after, strict=True):
    assert_same_protocol(ours, theirs)
    for name, score in ours['scores'].items():
      assert score['value'] == pytest.approx(theirs['scores'][name]['value'], rel=1e-4), name


@pytest.mark.slow
def test_the_steps_do_not_wait_for_the_thread(monkeypatch, tmp_path):
  stepped, done, scored, order = threading.Event(), threading.Event(), protocol.scored, []

  def slow(*args):
    assert threading.current_thread() is not threading.main_thread()
    assert stepped.wait(60), 'the next step waited for the scores'
    order.append('scored')
    done.set()
    return scored(*args)

  metrics = logs.Log.metrics

  def seen(self, step, *args):
    order.append(step)
    if step == 3:
      stepped.set()
      assert done.wait(60), 'nothing was scored beside the step'
    return metrics(self, step, *args)

  monkeypatch.setattr(during_training, 'scored', slow)
  monkeypatch.setattr(logs.Log, 'metrics', seen)
  rows = run(tiny(), tmp_path / 'run')
  assert [row['step'] for row in rows] == [2, 4]
  assert order == [1, 2, 3, 'scored', 4, 'scored'], order


@pytest.mark.slow
def test_training_survives_a_score_that_fails(monkeypatch, tmp_path, capsys):
  def broken(*args):
    raise MemoryError('no room')

  monkeypatch.setattr(during_training, 'scored', broken)
  assert run(tiny(), tmp_path / 'run') == []
  assert 'warning: no scores of step 2: MemoryError: no room' in capsys.readouterr().err
  assert (tmp_path / 'run' / 'summary.json').exists()


@pytest.mark.parametrize(
  ('scores', 'said'),
  [
    ({'metrics': 'fid,isc'}, r"scores.metrics is 'isc' \(did you mean is\?\)"),
    ({'features': 'inceptoin'}, 'did you mean inception'),
    ({'reference': 'val'}, 'scores.reference'),
    ({'num': 1}, 'at least 2'),
    ({'every': 3}, 'not a multiple of run.eval_every, 2'),
  ],
)
def test_mistakes_are_found_before_anything_is_read(scores, said, tmp_path):
  with pytest.raises(errors.UserError, match=said):
    loop.train(tiny(**scores), str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_off_asks_for_nothing():
  config = tiny(every=0, metrics='nonsense')
  assert during_training.check(config) == []
  off = during_training.make_scorer(None, config, 'nowhere', {}, 0)
  assert not off.due(2) and not off.missing(2) and off.finished(wait_for=9) == []


def test_scores_of_still_images_are_refused_of_clips():
  config = tiny(metrics='fid,swd')
  during_training.check(config)
  config.data.frames = 3
  with pytest.raises(errors.UserError, match=r'scores.metrics=swd is for still images'):
    during_training.check(config)
