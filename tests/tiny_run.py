"""One tiny training run for the tests that need a workdir: `pytest_plugins = ['tiny_run']`."""

import contextlib

import pytest

from bigjax import __main__, build


@contextlib.contextmanager
def no_compilation_cache():
  """Keep `bigjax` commands inside this process from writing to the user's cache."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(build, 'use_compilation_cache', lambda: None)
    yield


@pytest.fixture
def bigjax(capsys):
  """Run a command in this process: bigjax('train', ...) -> (exit status, stdout, stderr)."""

  def run(*argv):
    capsys.readouterr()
    with no_compilation_cache():
      status = __main__.main([str(word) for word in argv])
    return status, *capsys.readouterr()

  return run


@pytest.fixture(scope='session')
def workdir(tmp_path_factory):
  """The workdir of `bigjax train`: four steps, checkpoints at 2 and 4. Copy it to change it."""
  path = tmp_path_factory.mktemp('run') / 'digits'
  # One D step instead of two: half as much to compile.
  argv = ['train', '--config=digits:tiny', '--config.optim.d_steps=1', f'--workdir={path}']
  with no_compilation_cache():
    assert __main__.main(argv) == 0
  return path


@pytest.fixture(scope='session')
def params(workdir):
  """The generator that the run exported."""
  return workdir / 'export' / 'generator.safetensors'
