"""One tiny training run for the tests that need a workdir: `pytest_plugins = ['tiny_run']`."""

import contextlib
import sys

import jax
import pytest

from bigjax import __main__
from bigjax.algorithms.base import configs
from bigjax.core import device, processes
from bigjax.training import loop, plots, ready


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


# What a program does not depend on; nor on run.steps, where the learning rate is constant.
ASIDE = {
  'run': ('log_every', 'eval_every', 'checkpoint_every', 'keep', 'keep_every', 'best',
          'max_skipped'),
  'eval': (), 'scores': (), 'watch': (),
}  # fmt: skip


def _essence(config):
  """What of a config its program depends on, as text."""
  groups = config.to_dict()
  for group, keys in ASIDE.items():
    groups[group] = {k: v for k, v in groups.get(group, {}).items() if keys and k not in keys}
  if groups['optim'].get('schedule') == 'constant':
    del groups['run']['steps']
  return repr(groups)


_programs = {}  # from what _essence, devices and counts of classes say


@contextlib.contextmanager
def one_program_each():
  """Meanwhile runs of the same config and devices share a program, traced and compiled once.

  For tests of what surrounds the steps. That another start traces the same program is test_loop's
  to show; what a test changes in a network or a loss is not seen here.
  """
  make = ready.make_program

  def made(config, devices=None, class_counts=None):
    counts = None if class_counts is None else tuple(class_counts())
    key = _essence(config), None if devices is None else tuple(devices), counts
    if key not in _programs:
      _programs[key] = make(config, devices, class_counts)
    return _programs[key]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(ready, 'make_program', made)
    yield


@pytest.fixture
def shared_programs():
  """one_program_each, for a test."""
  with one_program_each():
    yield


@pytest.fixture(scope='session')
def workdir(tmp_path_factory):
  """The workdir of a run of four steps, checkpoints at 2 and 4. Copy it to change it."""
  path = tmp_path_factory.mktemp('run') / 'digits'
  config = configs.read('digits:tiny')
  config.optim.d_steps = 1  # half as much to compile
  with one_program_each():
    loop.train(config, str(path), jax.devices()[:1])
  return path


@pytest.fixture(scope='session')
def params(workdir):
  """The generator that the run exported."""
  return workdir / 'export' / 'generator.safetensors'


@pytest.fixture(scope='session')
def libtpu():
  pytest.importorskip('libtpu', reason='compiling for TPUs needs libtpu: pip install "jax[tpu]"')
