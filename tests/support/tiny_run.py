"""One tiny training run for the tests that need a workdir: `pytest_plugins = ['tiny_run']`."""

import sys

import jax
import pytest

from bigjax import __main__
from bigjax.algorithms.base import configs
from bigjax.core import device, processes
from bigjax.training import loop, plots


@pytest.fixture
def bigjax(capsys, monkeypatch):
  """Run a command in this process: bigjax('train', ...) -> (exit status, stdout, stderr)."""
  monkeypatch.setattr(device, 'use_compilation_cache', lambda: None)  # the user's
  monkeypatch.setattr(processes, 'connect', lambda: None)  # JAX is at work already

  def run(*words):
    argv = [str(word) for word in words]
    monkeypatch.setattr(sys, 'argv', ['bigjax', *argv])
    capsys.readouterr()
    status = __main__.main(argv)
    return status, *capsys.readouterr()

  return run


@pytest.fixture
def no_pictures(monkeypatch):
  """For tests of runs in which nobody looks at the curves, which take a second to draw."""
  for name in ('curves', 'vital_signs'):
    monkeypatch.setattr(plots, name, lambda *args, **kwargs: None)


@pytest.fixture(scope='session')
def workdir(tmp_path_factory):
  """The workdir of a run of four steps, checkpoints at 2 and 4. Copy it to change it."""
  path = tmp_path_factory.mktemp('run') / 'digits'
  config = configs.read('digits:tiny')
  config.optim.d_steps = 1  # half as much to compile
  loop.train(config, str(path), jax.devices()[:1])
  return path


@pytest.fixture(scope='session')
def params(workdir):
  """The generator that the run exported."""
  return workdir / 'export' / 'generator.safetensors'


@pytest.fixture(scope='session')
def libtpu():
  pytest.importorskip('libtpu', reason='compiling for TPUs needs libtpu: pip install "jax[tpu]"')
