"""One tiny training run for the tests that need a workdir: `pytest_plugins = ['tiny_run']`."""

import contextlib
import sys

import pytest

from bigjax import __main__, build


@contextlib.contextmanager
def command(argv):
  """Set the scene for a `bigjax` command in this process, without the user's compilation cache."""
  argv = [str(word) for word in argv]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(build, 'use_compilation_cache', lambda: None)
    patch.setattr(sys, 'argv', ['bigjax', *argv])
    yield argv


@pytest.fixture
def bigjax(capsys):
  """Run a command in this process: bigjax('train', ...) -> (exit status, stdout, stderr)."""

  def run(*words):
    capsys.readouterr()
    with command(words) as argv:
      status = __main__.main(argv)
    return status, *capsys.readouterr()

  return run


@pytest.fixture(scope='session')
def workdir(tmp_path_factory):
  """The workdir of `bigjax train`: four steps, checkpoints at 2 and 4. Copy it to change it."""
  path = tmp_path_factory.mktemp('run') / 'digits'
  # One D step instead of two: half as much to compile.
  words = ['train', '--config=digits:tiny', '--config.optim.d_steps=1', f'--workdir={path}']
  with command(words) as argv:
    assert __main__.main(argv) == 0
  return path


@pytest.fixture(scope='session')
def params(workdir):
  """The generator that the run exported."""
  return workdir / 'export' / 'generator.safetensors'
