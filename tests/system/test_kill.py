"""A run that is killed or interrupted at any moment, often, ends as one that never was."""

import os
import random
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest

from bigjax.core import checkpoint, files, trees

KILLS = int(os.environ.get('BIGJAX_KILLS', '20'))
WORDS = (
  'train', '--config', 'digits:tiny', '--config.run.steps=40', '--config.run.log_every=1',
  '--config.run.eval_every=8', '--config.run.checkpoint_every=4', '--config.run.keep=2',
)  # fmt: skip


def start(folder, log, program=('-m', 'bigjax')):
  env = {**os.environ, 'XLA_FLAGS': '--xla_backend_optimization_level=0'}
  command = [sys.executable, *program, *WORDS, '--workdir', str(folder)]
  return subprocess.Popen(command, env=env, stderr=log, stdout=subprocess.DEVNULL)


def state(folder):
  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.restore(os.path.join(folder, 'checkpoints', '40', 'state'))
  return {path: np.asarray(leaf) for path, leaf in trees.flat(tree).items()}


def phase(text):
  """Return what a killed process was at, by what it had said last."""
  lines = [line for line in text.splitlines() if line.strip()]
  last = lines[-1] if lines else 'nothing yet: importing'
  step = re.search(r'step \d+', last)
  return step[0] if last.startswith('[') and step else last[:70]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """(The workdir of a run that nothing disturbed, the seconds it took)."""
  folder = tmp_path_factory.mktemp('whole')
  with open(folder / 'log', 'w') as log:
    began = time.monotonic()
    assert start(folder / 'run', log).wait() == 0, (folder / 'log').read_text()
  return folder / 'run', time.monotonic() - began


@pytest.mark.slow
def test_kills_change_nothing(whole, tmp_path):
  rng, killed, finished = random.Random(0), [], 0
  folder = tmp_path / 'run'
  while len(killed) < KILLS:
    path = tmp_path / f'{len(killed)}.log'
    with open(path, 'w') as log:
      process = start(folder, log)
      after = rng.uniform(0.5, 0.5 * whole[1])
      try:
        assert process.wait(timeout=after) == 0, path.read_text()
        # All steps are done: the last kills begin anew, in a folder that is half gone.
        finished += 1
        shutil.rmtree(folder)
        continue
      except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    killed.append((round(after, 1), phase(path.read_text())))
    print(f'kill {len(killed)}: after {after:.1f} s, at: {killed[-1][1]}', flush=True)
  with open(tmp_path / 'last.log', 'w') as log:
    assert start(folder, log).wait() == 0, (tmp_path / 'last.log').read_text()
  print(f'finished {finished} times in between')

  assert_same(folder, whole[0])


# Runs `bigjax`, and interrupts itself, as Ctrl-C does, in the phase that its first word names.
INTERRUPTED = """
import os, signal, sys

phase, nth = sys.argv.pop(1).split(':')
signal.signal(signal.SIGINT, signal.default_int_handler)  # wherever the tests run

def interrupt(*_):
  global nth
  nth = int(nth) - 1
  if nth == 0:
    os.kill(os.getpid(), signal.SIGINT)

class Finder:
  def find_spec(self, name, *_):
    if name in ('flax', 'orbax', 'tensorflow', 'jaxlib.xla_client'):
      interrupt()

def watch(owner, name):
  known = getattr(owner, name)
  def watched(*args, **kwargs):
    interrupt()
    return known(*args, **kwargs)
  setattr(owner, name, watched)

if phase == 'importing':
  sys.meta_path.insert(0, Finder())
else:
  from bigjax import data
  from bigjax.core import checkpoint
  from bigjax.training import loop, program, run
  watch(*{
    'data': (data, 'load'), 'compiling': (program.Program, 'lower'),
    'steps': (program.Program, 'step'), 'evaluation': (run.Run, 'evaluate'),
    'saving': (checkpoint.Checkpoints, 'save'), 'saved': (run.Run, 'log_scores'),
    'closing': (checkpoint.Checkpoints, 'close'), 'exporting': (loop, 'finish'),
  }[phase])

from bigjax.__main__ import command
command()
"""
# (Phase and how often it is entered before, exit status); few steps each, for 40 must do for all.
TIMES = [
  ('importing:1', 130), ('data:1', 130), ('compiling:1', 130), ('steps:1', 130), ('steps:2', 0),
  ('importing:2', 130), ('saving:1', 0), ('evaluation:1', 0), ('steps:3', 0), ('saved:1', 0),
  ('saved:2', 0), ('importing:3', 130), ('steps:4', 0), ('evaluation:1', 0), ('saving:1', 0),
  ('compiling:1', 130), ('steps:2', 0), ('saved:3', 0), ('data:1', 130), ('exporting:1', 0),
]  # fmt: skip


@pytest.mark.slow
def test_ctrl_c_in_every_phase_loses_nothing(whole, tmp_path):
  folder = tmp_path / 'run'
  for i, (phase, status) in enumerate(TIMES):
    path = tmp_path / f'{i}.log'
    before = checkpoint.list_steps(str(folder))[-1:]
    with open(path, 'w') as log:
      assert start(folder, log, ('-c', INTERRUPTED, phase)).wait() == status, path.read_text()
    said = path.read_text()
    rows = [row['step'] for row in files.read_rows(str(folder / 'metrics.jsonl'))]
    steps = checkpoint.list_steps(str(folder))[-1:]
    print(f'{phase}: status {status}, saved {steps}, {len(rows)} rows', flush=True)
    assert 'Traceback' not in said, (phase, said)
    last = said.splitlines()[-1]
    if status:
      assert last == 'bigjax: interrupted.' and steps == before, (phase, said)
    elif steps != [40]:
      assert last == f'told to end: saved step {steps[0]}; the same command goes on from there'
      assert rows[-1] == steps[0], phase
  assert_same(folder, whole[0])


def assert_same(folder, whole):
  """A run that was stopped is as one that never was, and nothing unfinished is left."""
  for name in ('metrics.jsonl', 'history.json', 'export/generator.safetensors'):
    assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
  ours, theirs = state(folder), state(whole)
  assert ours.keys() == theirs.keys()
  for path, leaf in theirs.items():
    np.testing.assert_array_equal(ours[path], leaf, err_msg=path)
  left = [str(p.relative_to(folder)) for p in folder.rglob('*')]
  assert not [name for name in left if re.search(r'tmp|partial', name)], 'temporary files are left'
  assert sorted(p.name for p in (folder / 'checkpoints').iterdir() if p.name.isdigit()) == [
    p.name for p in sorted((whole / 'checkpoints').iterdir()) if p.name.isdigit()
  ]
