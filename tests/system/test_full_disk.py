"""A run whose disk fills up: one sentence, and the last checkpoint is whole."""

import os
import re
import shutil
import subprocess
import sys

import jax
import pytest

from bigjax.algorithms.base import configs
from bigjax.core import checkpoint
from bigjax.training import workdir
from bigjax.training.program import make_program

WORDS = (
  '--config=digits:tiny', '--config.optim.d_steps=1', '--config.run.steps=40',
  '--config.run.log_every=2', '--config.run.eval_every=2', '--config.run.checkpoint_every=2',
  '--config.run.keep=9',
)  # fmt: skip


@pytest.fixture
def small_disk(tmp_path):
  """A file system of its own, of 3 MB."""
  folder = tmp_path / 'disk'
  folder.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=3m', 'tmpfs', str(folder)]
  if (
    not shutil.which('mount') or subprocess.run(mount, capture_output=True, check=False).returncode
  ):
    pytest.skip('mounting a small file system needs the rights of root')
  yield folder
  subprocess.run(['umount', '-l', str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_in_a_sentence_and_the_last_checkpoint_is_whole(small_disk):
  folder = str(small_disk / 'run')
  command = [sys.executable, '-m', 'bigjax', 'train', *WORDS, '--workdir', folder]
  env = {**os.environ, 'XLA_FLAGS': '--xla_backend_optimization_level=0'}
  done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
  assert done.returncode == 2 and 'Traceback' not in done.stderr, done.stderr
  last = done.stderr.splitlines()[-1]
  said = re.fullmatch(r'bigjax: the disk of .* is full; checkpoint (\d+) is whole: .*', last)
  assert said, done.stderr
  step = int(said[1])
  assert checkpoint.restore_generator(folder)[1] == step
  config = configs.read('digits:tiny')
  config.optim.d_steps = 1
  program = make_program(config, jax.devices()[:1])
  checkpoints = checkpoint.Checkpoints(folder)
  said = []
  (state, _) = checkpoints.restore_latest(program.shapes(), said.append)
  checkpoints.close()
  assert int(state['step']) == step and not said


def test_what_a_full_disk_says():
  full = OSError(28, 'No space left on device')
  wrapped = ValueError('RESOURCE_EXHAUSTED: write: No space left on device')
  caused = RuntimeError('saving failed')
  caused.__cause__ = full
  for error in (full, wrapped, caused):
    assert workdir.disk_trouble(error, '/runs/a') == "the disk of '/runs/a' is full"
  read_only = OSError(30, 'Read-only file system', '/runs/a/metrics.jsonl')
  tensorstore = ValueError('FAILED_PRECONDITION: "/runs/a/checkpoints/4": Read-only file system')
  for error in (read_only, tensorstore):
    said = workdir.disk_trouble(error, '/runs/a')
    assert said == "the workdir '/runs/a' can no longer be written (Read-only file system)"
  gone = FileNotFoundError(2, 'No such file or directory', '/runs/a/samples/00000002.png')
  assert 'No such file' in workdir.disk_trouble(gone, '/runs/a')
  assert not workdir.disk_trouble(OSError(13, 'Permission denied', '/data/1.jpg'), '/runs/a')
  assert not workdir.disk_trouble(ValueError('shapes differ'), '/runs/a')
