"""Trackers are mirrors of a workdir: each row once, whatever happens to the process."""

import glob
import json
import os
import struct
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from bigjax.algorithms.base import configs
from bigjax.core import errors
from bigjax.training.records import writers

import mirrored
import places


@pytest.fixture
def fakes(monkeypatch):
  """Stand-ins for wandb and mlflow: (wandb, mlflow)."""
  for name in [name for name in sys.modules if name.partition('.')[0] in ('wandb', 'mlflow')]:
    monkeypatch.delitem(sys.modules, name)
  monkeypatch.syspath_prepend(str(places.ROOT / 'tests' / 'support' / 'fake_trackers'))
  import mlflow
  import wandb

  yield wandb, mlflow
  for name in [name for name in sys.modules if name.partition('.')[0] in ('wandb', 'mlflow')]:
    del sys.modules[name]


def of_wandb(workdir):
  """(Rows that the finished folders of offline runs hold, their config)."""
  found, config = [], {}
  for path in sorted(glob.glob(f'{workdir}/wandb/offline-run-*/rows.json')):
    with open(path, encoding='utf-8') as file:
      part = json.load(file)
    config = part['config']
    found += part['rows']
  assert [row['_step'] for row in found] == list(range(len(found)))  # of one run, when put together
  return rows_of(found), config


def rows_of(rows):
  return mirrored.in_order(
    [(row.pop('step'), {k: v for k, v in row.items() if k[0] != '_'}) for row in rows]
  )


def of_mlflow(run):
  """Rows of a run in the fake store: the values of a step that were handed over together."""
  found = [(metric.step, metric.key, metric.value) for metric in run.metrics]
  grids = {os.path.basename(path) for _, path in run.artifacts}
  return sorted(found + [(int(name[:-4]), 'samples', 'picture') for name in grids], key=str)


def flat(rows):
  return sorted(((step, k, v) for step, values in rows for k, v in values.items()), key=str)


@pytest.mark.parametrize('kills', [[], [6], [1, 6, 7], [5, 9]])
def test_each_row_once_whatever_is_killed(fakes, tmp_path, kills):
  """A run that is killed goes on from the last even step, as if there were checkpoints."""
  _, mlflow = fakes
  workdir = str(tmp_path / 'run')
  begins = [0, *(kill // 2 * 2 for kill in kills)]
  for first, last in zip(begins, [*kills, mirrored.LAST], strict=True):
    mirrored.work(workdir, 'wandb,mlflow', first, last)
  rows, config = of_wandb(workdir)
  assert rows == mirrored.expected()
  assert config['optim.batch_size'] == 16 and config['config_hash'] == 'abc'
  (run,) = [run for run in mlflow.RUNS.values() if run.info.status == 'FINISHED'][-1:]
  assert of_mlflow(run) == flat(mirrored.expected())
  assert run.data.params['optim.batch_size'] == '16' and run.info.run_name == 'run'
  aside = glob.glob(f'{workdir}/wandb/set_aside/*')
  assert len(aside) == len(kills)


def test_a_row_is_not_doubled_where_the_mark_was_not_written(fakes, tmp_path, monkeypatch):
  """Killed between handing over and noting that: mlflow is asked what it has."""
  _, mlflow = fakes
  monkeypatch.setattr(writers.Mirror, '_keep', lambda self: None)
  mirrored.work(str(tmp_path), 'mlflow', 0, 7)
  monkeypatch.undo()
  mirrored.work(str(tmp_path), 'mlflow', 6, mirrored.LAST)
  assert of_mlflow(list(mlflow.RUNS.values())[-1]) == flat(mirrored.expected())


def test_a_run_that_has_gone_back_is_another_from_there(fakes, tmp_path):
  """Rows after the change are sent though there were rows of these steps before."""
  mirrored.work(str(tmp_path), 'wandb', 0, 6).close()
  history = [*mirrored.START, {**mirrored.START[0], 'from_step': 4, 'seed': 1}]
  mirrored.work(str(tmp_path), 'wandb', 4, mirrored.LAST, history, scale=2.0)
  rows, _ = of_wandb(tmp_path)
  losses = [(step, values['d_loss']) for step, values in rows if 'd_loss' in values]
  before = [(step, 1 / step) for step in range(1, 7)]
  assert sorted(losses) == sorted(before + [(step, 2 / step) for step in range(5, 11)])


def test_a_run_may_go_back_further_than_before(fakes, tmp_path):
  """Its history is as long as that before; rows after 2 are sent though there were some."""
  back = lambda step, seed: [
    *mirrored.START,
    {**mirrored.START[0], 'from_step': step, 'seed': seed},
  ]
  mirrored.work(str(tmp_path), 'wandb', 0, 6, back(4, 1)).close()
  mirrored.work(str(tmp_path), 'wandb', 2, mirrored.LAST, back(2, 2), scale=2.0)
  rows, _ = of_wandb(tmp_path)
  losses = [(step, values['d_loss']) for step, values in rows if 'd_loss' in values]
  before = [(step, 1 / step) for step in range(1, 7)]
  assert sorted(losses) == sorted(before + [(step, 2 / step) for step in range(3, 11)])


def test_rows_that_come_seldomer_after_a_kill_are_sent(fakes, tmp_path):
  """run.log_every may change: a row is known by its step, not by its number in the file."""
  _, mlflow = fakes
  mirrored.work(str(tmp_path), 'mlflow', 0, 7)
  mirrored.work(str(tmp_path), 'mlflow', 2, mirrored.LAST, every=3)
  found = [metric.step for metric in list(mlflow.RUNS.values())[-1].metrics
           if metric.key == 'd_loss']  # fmt: skip
  assert found == [*range(1, 8), 9]


@pytest.mark.parametrize('sent', [[], {'rows': 3}, {**writers.NOTHING, 'metrics.jsonl': 4}])
def test_marks_of_another_version_are_refused(fakes, tmp_path, sent):
  mark = {'wandb': {'run': 'x', 'open': '', 'history': [], 'sent': sent or [1]}}
  (tmp_path / 'writers.json').write_text(json.dumps(mark))
  with pytest.raises(errors.UserError, match='without it, wandb gets a new run'):
    mirrored.work(str(tmp_path), 'wandb', 0, mirrored.LAST)


def test_a_tracker_may_come_when_all_is_done(fakes, tmp_path):
  """And a run that has ended has ended in it, however often the command is given again."""
  _, mlflow = fakes
  mirrored.work(str(tmp_path), '', 0, mirrored.LAST)
  for _ in range(2):
    mirrored.work(str(tmp_path), 'mlflow', mirrored.LAST, mirrored.LAST)
    run = list(mlflow.RUNS.values())[-1]
    assert of_mlflow(run) == flat(mirrored.expected()) and run.info.status == 'FINISHED'


def test_a_tracker_may_come_in_the_middle(fakes, tmp_path):
  mirrored.work(str(tmp_path), '', 0, 6)
  mirrored.work(str(tmp_path), 'wandb', 6, mirrored.LAST)
  assert of_wandb(tmp_path)[0] == mirrored.expected()


def push(mirror, step):
  """As Mirror.push, and one at a time."""
  mirror._step = step
  return mirror._worker.submit(mirror._sync)


def test_what_a_tracker_refuses_is_sent_later(fakes, tmp_path, monkeypatch):
  """Some rows of a push go through, and the rest at a later one."""
  wandb, _ = fakes
  monkeypatch.setattr(writers.Mirror, 'push', lambda self, step: push(self, step).result())
  wandb.REFUSE.extend([None, None, OSError('no route'), OSError('no route'), None, OSError('busy')])
  said = []
  mirrored.work(str(tmp_path), 'wandb', 0, mirrored.LAST, say=said.append)
  assert of_wandb(tmp_path)[0] == mirrored.expected()
  assert [words for words in said if 'warning' in words] == [
    f'warning: wandb: OSError: {why}; what was not sent will be tried again'
    for why in ('no route', 'busy')
  ]


def test_a_row_is_not_doubled_where_only_the_answer_was_lost(fakes, tmp_path, monkeypatch):
  """The server has them, and the line breaks before it says so."""
  _, mlflow = fakes
  monkeypatch.setattr(writers.Mirror, 'push', lambda self, step: push(self, step).result())
  take, calls = mlflow.MlflowClient.log_batch, []

  def breaks(self, run_id, metrics=(), params=()):
    take(self, run_id, metrics, params)
    calls.append(metrics)
    if metrics and len(calls) % 2:
      raise OSError('timed out')

  monkeypatch.setattr(mlflow.MlflowClient, 'log_batch', breaks)
  mirrored.work(str(tmp_path), 'mlflow', 0, mirrored.LAST)
  assert len(calls) > 5
  assert of_mlflow(list(mlflow.RUNS.values())[-1]) == flat(mirrored.expected())


def test_a_tracker_that_hangs_keeps_no_run_from_its_end(fakes, tmp_path, monkeypatch):
  """The process is not kept either: its thread is nobody's to wait for; all is sent later."""
  wandb, _ = fakes
  never, said = threading.Event(), []
  monkeypatch.setattr(writers, 'PATIENCE', 0.05)
  with monkeypatch.context() as patch:
    patch.setattr(wandb.Run, 'log', lambda *args, **kwargs: never.wait())
    mirrored.work(str(tmp_path), 'wandb', 0, mirrored.LAST, say=said.append)
    assert said[-1].startswith('warning: wandb has taken nothing for 0s; what was not sent')
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == 'tracker')
  monkeypatch.setattr(writers, 'PATIENCE', 60)
  mirrored.work(str(tmp_path), 'wandb', mirrored.LAST, mirrored.LAST)
  assert of_wandb(tmp_path)[0] == mirrored.expected()
  never.set()


def test_only_the_first_process_has_trackers(fakes, tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  mirrored.work(str(tmp_path), 'wandb,mlflow', 0, mirrored.LAST)
  assert not os.path.exists(tmp_path / 'wandb') and not os.path.exists(tmp_path / 'writers.json')


def test_what_cannot_be_is_said_before_any_work(monkeypatch, tmp_path):
  def refusal(names, installed):
    monkeypatch.setattr(errors, 'is_installed', lambda module: installed)
    with pytest.raises(errors.UserError) as raised:
      writers.check(mirrored.config_of(names))
    return str(raised.value)

  assert "run.writers is 'wanbd' (did you mean wandb?); expected one of" in refusal('wanbd', True)
  missing = refusal('wandb', False)
  assert 'needs wandb' in missing and "pip install 'bigjax[wandb]'" in missing
  writers.check(configs.read('digits:tiny'))  # nothing is asked for


def test_a_tracker_that_cannot_begin_is_a_sentence(fakes, tmp_path, monkeypatch):
  wandb, _ = fakes

  def refuse(**_):
    raise wandb_error('api_key not configured (no-tty)\nmore')

  wandb_error = type('UsageError', (Exception,), {})
  monkeypatch.setattr(wandb, 'init', refuse)
  with pytest.raises(errors.UserError, match=r'cannot begin \(UsageError: api_key not .*tty\)\);'):
    mirrored.work(str(tmp_path), 'wandb', 0, mirrored.LAST)


# --- The libraries themselves, where they are installed


def killed_and_resumed(workdir, writer):
  """A process that is killed at step 7, and one that goes on from 6."""
  env = {
    **os.environ, 'WANDB_MODE': 'offline', 'MLFLOW_TRACKING_URI': f'sqlite:///{workdir}/mlflow.db',
  }  # fmt: skip
  for first, last, status in ((0, 7, -9), (6, mirrored.LAST, 0)):
    words = [sys.executable, mirrored.__file__, str(workdir), writer, str(first), str(last)]
    done = subprocess.run(words, env=env, cwd=workdir, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr


def records(path):
  """The records of a .wandb file: LevelDB's log format behind seven bytes, protocol buffers."""
  from wandb.proto import wandb_internal_pb2

  with open(path, 'rb') as file:
    data = file.read()
  assert data[:4] == b':W&B'
  at, part = 7, b''
  while at + 7 <= len(data):
    left = 2**15 - at % 2**15  # of a block, which ends where no header fits in
    if left < 7:
      at += left
      continue
    _, size, kind = struct.unpack('<IHB', data[at : at + 7])
    part += data[at + 7 : at + 7 + size]
    at += 7 + size
    if kind in (1, 4):  # a whole one, or the last part of one
      yield wandb_internal_pb2.Record.FromString(part)
      part = b''


def test_wandb_files_are_read_back(tmp_path):
  pytest.importorskip('wandb', reason="needs wandb: pip install '.[wandb]'")
  killed_and_resumed(tmp_path, 'wandb')
  found, config, runs = [], {}, set()
  for path in sorted(glob.glob(f'{tmp_path}/wandb/offline-run-*/run-*.wandb')):
    for record in records(path):
      if record.WhichOneof('record_type') == 'run':
        runs.add(record.run.run_id)
        config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
      if record.WhichOneof('record_type') == 'history':
        items = {(i.key or i.nested_key[0]): json.loads(i.value_json) for i in record.history.item}
        found.append({k: 'picture' if k == 'samples' else v for k, v in items.items()})
  assert rows_of(found) == mirrored.expected()
  assert len(runs) == 1 and config['optim.batch_size'] == 16


def test_mlflow_is_read_back(tmp_path):
  mlflow = pytest.importorskip('mlflow', reason="needs mlflow: pip install '.[mlflow]'")
  killed_and_resumed(tmp_path, 'mlflow')
  client = mlflow.MlflowClient(f'sqlite:///{tmp_path}/mlflow.db')
  experiment = client.get_experiment_by_name('bigjax')
  (run,) = client.search_runs([experiment.experiment_id])
  assert run.info.status == 'FINISHED' and run.data.params['optim.batch_size'] == '16'
  rows = [
    (metric.step, name, metric.value)
    for name in run.data.metrics
    for metric in client.get_metric_history(run.info.run_id, name)
  ]
  grids = [(int(file.path[8:-4]), 'samples', 'picture')
           for file in client.list_artifacts(run.info.run_id, 'samples')]  # fmt: skip
  assert sorted(rows + grids, key=str) == flat(mirrored.expected())


def test_tensorboard_has_grids_config_and_text(tmp_path):
  events = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
  writer = writers.TensorBoard(str(tmp_path))
  config = configs.read('digits:tiny')
  table = writers.config_table(config, {'optim.b1': config.optim.b1})
  writer.describe(0, {'optim.gen_lr': 1e-4, 'model.disc_widths': (1, 2)}, {'config': table})
  pixels = np.random.RandomState(0).randint(0, 256, (6, 9, 1)).astype(np.uint8)
  writer.picture(3, 'samples', pixels)
  writer.close()
  reader = events.EventAccumulator(str(tmp_path), size_guidance={'tensors': 0})
  reader.Reload()
  (text,) = reader.Tensors('config')
  shown = text.tensor_proto.string_val[0].decode()
  assert text.step == 0 and f'| optim.b1 | `{config.optim.b1!r}` |' in shown
  assert f'| optim.batch_size | **`{config.optim.batch_size}`** |' in shown
  (image,) = reader.Tensors('samples')
  width, height, png = image.tensor_proto.string_val
  path = tmp_path / 'x.png'
  path.write_bytes(png)
  assert (int(width), int(height), image.step) == (9, 6, 3)
  np.testing.assert_array_equal(writers.read_picture(str(path)), pixels)
  plugins = {tag: reader.SummaryMetadata(tag).plugin_data for tag in reader.Tags()['tensors']}
  hparams = [plugin for plugin in plugins.values() if plugin.plugin_name == 'hparams']
  assert any(b'optim.gen_lr' in plugin.content for plugin in hparams)
