"""Real processes on this machine, one device each: they train as one, and end together."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest

from bigjax.algorithms.base import configs
from bigjax.core import checkpoint, errors
from bigjax.training import loop
from bigjax.training.records import logs

import compile_flags
import places
import toys
from tiny_run import one_program_each

PATIENCE = 240  # seconds for anything, on a busy machine
DIGITS = ('--config', 'digits:tiny', '--config.optim.d_steps=1')  # the program of tiny_run
TOY = ('--config', f'{toys.CONFIGS[0]}:tiny')  # compiled in a moment
WITH_TOYS = 'import sys, toys; from bigjax.__main__ import main; sys.exit(main(sys.argv[1:]))'


class Run:
  """`bigjax train` of DIGITS in `num` processes; killed when the block ends."""

  command = ('-m', 'bigjax', 'train', *DIGITS)

  def __init__(self, folder, num, *words):
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))
      address = f'127.0.0.1:{free.getsockname()[1]}'
    self.folder, self.processes = folder, []
    command = [sys.executable, *self.command, '--workdir', str(folder), *words]
    for i in range(num):
      env = {**os.environ, 'XLA_FLAGS': ' '.join(compile_flags.FLAGS)}
      env |= {'JAX_NUM_PROCESSES': str(num), 'JAX_PROCESS_ID': str(i)} if num > 1 else {}
      env['PYTHONPATH'] = str(places.ROOT / 'tests' / 'support')
      env |= {'JAX_COORDINATOR_ADDRESS': address} if num > 1 else {}
      if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a script
        signal.signal(signal.SIGINT, signal.default_int_handler)
      with open(f'{folder}.{i}.log', 'w') as log:
        self.processes.append(
          subprocess.Popen(command, env=env, stderr=log, stdout=subprocess.DEVNULL)
        )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    for process in self.processes:
      with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
      process.wait()

  def wait(self):
    """Return the exit status of every process."""
    return [process.wait(timeout=PATIENCE) for process in self.processes]

  def said(self, i):
    with open(f'{self.folder}.{i}.log') as log:
      return log.read()

  def until(self, num):
    """Wait for so many rows of metrics."""
    began = time.monotonic()
    while len(rows(self.folder)) < num:
      ended = [process.poll() for process in self.processes]
      assert set(ended) == {None}, self.said(0)
      assert time.monotonic() - began < PATIENCE
      time.sleep(0.05)


class ToyRun(Run):
  """The same of a toy, where it does not matter what is trained."""

  command = ('-c', WITH_TOYS, 'train', *TOY)


def rows(folder):
  path = folder / 'metrics.jsonl'
  lines = path.read_text().splitlines(keepends=True) if path.exists() else []
  return [json.loads(line) for line in lines if line.endswith('\n')]


def assert_close(ours, theirs, first=0):
  """Losses of the steps after `first` agree: images, latents and updates are the same."""
  ours, theirs = ([row for row in found if row['step'] > first] for found in (ours, theirs))
  assert [row['step'] for row in ours] == [row['step'] for row in theirs]
  losses = {name for name in ours[0] if name.endswith('_loss')}
  for mine, other in zip(ours, theirs, strict=True):
    assert mine.keys() == other.keys()
    for name in set(mine) & (losses | {'d_grad_norm', 'g_grad_norm'}):
      assert mine[name] == pytest.approx(other[name], rel=2e-3, abs=2e-4), (mine['step'], name)
  for name in losses:  # before Adam's signs part
    assert ours[0][name] == pytest.approx(theirs[0][name], rel=1e-5), name


def at_step_two(workdir, folder):
  """Copy a run as it was at step 2."""
  shutil.copytree(workdir, folder)
  shutil.rmtree(folder / 'checkpoints' / '4')
  return folder


def digits():
  """The config of DIGITS."""
  config = configs.read('digits:tiny')
  config.optim.d_steps = 1
  return config


# BigGAN's program takes each process minutes to compile.
@pytest.mark.parametrize(
  ('kind', 'config'),
  [
    pytest.param(Run, digits, marks=pytest.mark.slow, id='biggan'),
    pytest.param(ToyRun, lambda: configs.read(TOY[1]), id='toy'),
  ],
)
def test_two_processes_train_as_one_does_and_one_goes_on_from_there(kind, config, tmp_path):
  with kind(tmp_path / 'two', 2, '--config.run.steps=2') as two:
    assert two.wait() == [0, 0], two.said(0) + two.said(1)
    assert '[####' not in two.said(1)  # one of them talks
  assert (tmp_path / 'two' / 'export' / 'generator.safetensors').exists()
  with one_program_each():
    for folder in ('one', 'two'):
      loop.train(config(), str(tmp_path / folder), jax.devices()[:1])
  assert_close(rows(tmp_path / 'two'), rows(tmp_path / 'one'))


@pytest.mark.slow
def test_two_processes_go_on_from_one(workdir, tmp_path):
  with Run(at_step_two(workdir, tmp_path / 'one_then_two'), 2) as two:
    assert two.wait() == [0, 0], two.said(0) + two.said(1)
    assert 'resuming at step 2' in two.said(0)
  assert_close(rows(tmp_path / 'one_then_two'), rows(workdir), first=2)


SCORES = ('--config.scores.every=2', '--config.scores.num=60', '--config.scores.metrics=fid,pr')


@pytest.mark.slow
def test_two_processes_share_a_bucket_and_score_as_one(tmp_path):
  url, bucket = f'file://{tmp_path}/bucket/run', tmp_path / 'bucket' / 'run'
  for steps in (2, 4):
    words = (f'--workdir={url}', f'--config.run.steps={steps}', *SCORES)
    with Run(tmp_path / f'to_{steps}', 2, *words) as run:
      assert run.wait() == [0, 0], run.said(0) + run.said(1)
  assert 'resuming at step 2' in run.said(0)
  assert sorted({row['step'] for row in rows(bucket)}) == [1, 2, 3, 4]
  assert (bucket / 'curves.png').exists() and (bucket / 'export' / 'generator.safetensors').exists()
  assert sorted(path.name for path in (bucket / 'checkpoints').iterdir()) == ['2', '4']
  two = [json.loads(line) for line in (bucket / 'scores.jsonl').open()]

  config = digits()
  config.scores.update({'every': 2, 'num': 60, 'metrics': 'fid,pr'})
  loop.train(config, str(tmp_path / 'one'), jax.devices()[:1])
  one = [json.loads(line) for line in (tmp_path / 'one' / 'scores.jsonl').open()]
  assert [row['step'] for row in two] == [row['step'] for row in one] == [2, 4]
  for ours, theirs in zip(two, one, strict=True):
    assert ours['floor'] == pytest.approx(theirs['floor'], rel=1e-4)
    for name, score in ours['scores'].items():
      assert score['value'] == pytest.approx(theirs['scores'][name]['value'], rel=2e-2), name


LONG = ('--config.run.steps=100000', '--config.run.eval_every=100000',
        '--config.run.checkpoint_every=100000')  # fmt: skip


@pytest.mark.parametrize(
  'told', [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_told_on_any_host_all_save_the_same_step(told, tmp_path):
  """By Ctrl-C, which a process hands to itself as SIGTERM; a second run is refused meanwhile."""
  with ToyRun(tmp_path / 'run', 2, *LONG) as run:
    run.until(3)
    with pytest.raises(
      errors.UserError, match=f'held by another run .process {run.processes[0].pid}'
    ):
      loop.train(configs.read('digits:tiny'), str(tmp_path / 'run'), jax.devices()[:1])
    run.processes[-1].send_signal(told)
    assert run.wait() == [0, 0], run.said(0)
    assert 'told to end: saved step' in run.said(0)
  (step,) = checkpoint.list_steps(str(tmp_path / 'run'))
  assert f'saved step {step};' in run.said(0)
  assert rows(tmp_path / 'run')[-1]['step'] == step
  assert checkpoint.restore_generator(str(tmp_path / 'run'))[1] == step


@pytest.mark.slow
def test_sigterm_saves_the_step_and_the_same_command_goes_on(workdir, tmp_path, monkeypatch):
  """One process, by its own signal, off every period: as if it had never been told."""
  folder, metrics = at_step_two(workdir, tmp_path / 'run'), logs.Log.metrics

  def told(self, step, *args):
    if step == 3:
      os.kill(os.getpid(), signal.SIGTERM)
    return metrics(self, step, *args)

  config = digits()
  before = signal.getsignal(signal.SIGTERM)
  with monkeypatch.context() as patch:
    patch.setattr(logs.Log, 'metrics', told)
    assert loop.train(config, str(folder), jax.devices()[:1]) == {}
  assert signal.getsignal(signal.SIGTERM) is before
  assert checkpoint.list_steps(str(folder)) == [2, 3]
  assert loop.train(config, str(folder), jax.devices()[:1])['step'] == 4
  assert (folder / 'metrics.jsonl').read_bytes() == (workdir / 'metrics.jsonl').read_bytes()


def test_the_others_end_when_a_host_dies(tmp_path):
  with ToyRun(tmp_path / 'run', 2, *LONG) as run:
    run.until(2)
    run.processes[1].send_signal(signal.SIGKILL)
    began = time.monotonic()
    assert run.processes[0].wait(timeout=90) != 0
    assert 'start all of them again' in run.said(0), run.said(0)
    print(f'the other ended after {time.monotonic() - began:.1f} s')
