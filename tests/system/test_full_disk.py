"""A run whose disk fills up: one sentence, and the last checkpoint is whole."""

import re
import shutil
import subprocess

import jax
import pytest

from bigjax.algorithms.base import configs
from bigjax.core import checkpoint, errors
from bigjax.training import loop, workdir
from bigjax.training.program import make_program


def tiny():
  config = configs.read('digits:tiny')
  config.optim.d_steps = 1  # the program of tiny_run
  config.run.update(
    {'steps': 40, 'log_every': 2, 'eval_every': 2, 'checkpoint_every': 2, 'keep': 9}
  )
  return config


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
  workdir = small_disk / 'run'
  with pytest.raises(errors.UserError, match=r'is full; checkpoint (\d+) is whole') as error:
    loop.train(tiny(), str(workdir), jax.devices()[:1])
  step = int(re.search(r'checkpoint (\d+)', str(error.value))[1])
  assert checkpoint.restore_generator(str(workdir))[1] == step
  program = make_program(tiny(), jax.devices()[:1])
  checkpoints = checkpoint.Checkpoints(str(workdir))
  said = []
  (state, _) = checkpoints.restore_latest(program.shapes(), said.append)
  checkpoints.close()
  assert int(state['step']) == step and not said


def test_what_a_full_disk_says():
  full = OSError(28, 'No space left on device')
  wrapped = ValueError('RESOURCE_EXHAUSTED: write: No space left on device')
  caused = RuntimeError('saving failed')
  caused.__cause__ = full
  assert all(workdir.disk_is_full(error) for error in (full, wrapped, caused))
  assert not workdir.disk_is_full(OSError(13, 'Permission denied'))
