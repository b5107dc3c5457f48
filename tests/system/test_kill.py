"""A run that is killed at any moment, again and again, ends as one that never was."""

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

from bigjax.core import trees

KILLS = int(os.environ.get('BIGJAX_KILLS', '20'))
WORDS = (
  'train', '--config', 'digits:tiny', '--config.run.steps=40', '--config.run.log_every=1',
  '--config.run.eval_every=8', '--config.run.checkpoint_every=4', '--config.run.keep=2',
)  # fmt: skip


def start(folder, log):
  env = {**os.environ, 'XLA_FLAGS': ''}
  command = [sys.executable, '-m', 'bigjax', *WORDS, '--workdir', str(folder)]
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


@pytest.mark.slow
def test_kills_change_nothing(tmp_path):
  with open(tmp_path / 'whole.log', 'w') as log:
    began = time.monotonic()
    assert start(tmp_path / 'whole', log).wait() == 0, (tmp_path / 'whole.log').read_text()
    whole = time.monotonic() - began

  rng, killed, finished = random.Random(0), [], 0
  folder = tmp_path / 'run'
  while len(killed) < KILLS:
    path = tmp_path / f'{len(killed)}.log'
    with open(path, 'w') as log:
      process = start(folder, log)
      after = rng.uniform(0.5, 0.5 * whole)
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

  for name in ('metrics.jsonl', 'history.json', 'export/generator.safetensors'):
    assert (folder / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes(), name
  ours, theirs = state(folder), state(tmp_path / 'whole')
  assert ours.keys() == theirs.keys()
  for path, leaf in theirs.items():
    np.testing.assert_array_equal(ours[path], leaf, err_msg=path)
  left = [str(p.relative_to(folder)) for p in folder.rglob('*')]
  assert not [name for name in left if re.search(r'tmp|partial', name)], 'temporary files are left'
  assert sorted(p.name for p in (folder / 'checkpoints').iterdir() if p.name.isdigit()) == [
    p.name for p in sorted((tmp_path / 'whole' / 'checkpoints').iterdir()) if p.name.isdigit()
  ]
