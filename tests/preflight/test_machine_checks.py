"""Doctor's checks of the machine, the disk and the workdir: a good set-up and broken ones."""

import json
import shutil
import types

import jax
import numpy as np
import pytest

from bigjax import data
from bigjax.algorithms.base import configs
from bigjax.preflight import machine_checks
from bigjax.training import holder
from bigjax.training.program import make_program


@pytest.fixture(scope='module')
def config():
  config = configs.read('digits:tiny')
  config.optim.d_steps = 1  # that of tiny_run
  return config


@pytest.fixture(scope='module')
def source(config):
  return data.load(config.data)


@pytest.fixture(scope='module')
def program(config):
  return make_program(config, jax.devices()[:1])


def only(found, level, words):
  ((given, sentence),) = found
  assert (given, words in sentence) == (level, True), found


def test_doctor_says_it_all(bigjax, workdir, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  words = ('doctor', '--config', 'digits:tiny', '--config.optim.d_steps=1', '--workdir', workdir)
  status, out, err = bigjax(*words)
  assert status == 0 and not err
  for said in (
    'this run: it would go on at step 4', 'checkpoints of', 'free in', 'of images in host memory',
    '0 of all training images are copies', 'Python 3', 'x cpu',
  ):  # fmt: skip
    assert said in out, said
  status, out, _ = bigjax(*words, '--config.optim.gen_lr=1')
  assert status == 1 and 'holds a run of another config (optim.gen_lr' in out


def test_a_disk_that_is_too_small(config, program, monkeypatch, tmp_path):
  one = machine_checks.state_bytes(program)
  usage = lambda free: lambda path: types.SimpleNamespace(free=free)
  monkeypatch.setattr(shutil, 'disk_usage', usage(10 * one))
  only(machine_checks.disk(config, program, str(tmp_path / 'new' / 'run')), 'ok', '4 checkpoints')
  monkeypatch.setattr(shutil, 'disk_usage', usage(3 * one))
  only(machine_checks.disk(config, program, str(tmp_path)), 'fail', 'make room')


def test_the_size_of_a_checkpoint_is_about_right(program, workdir):
  on_disk = sum(path.stat().st_size for path in (workdir / 'checkpoints' / '4').rglob('*'))
  expected = machine_checks.state_bytes(program)
  assert 0.5 * expected < on_disk < 1.5 * expected, (on_disk, expected)  # compressed; with metadata


def test_a_bucket_is_written_to(config, program):
  only(machine_checks.disk(config, program, 'memory://a/b'), 'ok', 'can be written')
  only(machine_checks.disk(config, program, 'abfs://a/b'), 'fail', 'not installed')


def test_too_little_memory(source, program, monkeypatch):
  only(machine_checks.memory(source, program), 'ok', 'are available')
  monkeypatch.setattr(machine_checks, 'available_memory', lambda: 1000)
  only(machine_checks.memory(source, program), 'fail', 'smaller batch')


MEMINFO = 'MemTotal: 8388608 kB\nMemFree:  100 kB\nMemAvailable:  4194304 kB\nCached: 4000000 kB\n'
GIB = 2**30


@pytest.mark.parametrize(
  ('cgroup', 'files', 'gib'),
  [
    ('', {}, 4),  # MemFree is not what counts
    ('0::/\n', {'memory.max': 'max', 'memory.current': 3 * GIB}, 4),
    ('0::/\n', {'memory.max': 3 * GIB, 'memory.current': 2 * GIB}, 1),
    (
      '0::/\n',  # what the group keeps of files can go
      {
        'memory.max': 3 * GIB, 'memory.current': 2 * GIB,
        'memory.stat': f'anon 5\nactive_file 7\ninactive_file {GIB}\n',
      },
      2,
    ),
    (
      '0::/a/b\n',  # a group above is tighter
      {
        'a/memory.max': 2 * GIB, 'a/memory.current': GIB, 'a/b/memory.max': 8 * GIB,
        'a/b/memory.current': GIB,
      },
      1,
    ),
    ('0::/not/mounted/here\n', {'memory.max': 2 * GIB, 'memory.current': GIB}, 1),
    (
      '5:devices:/\n4:cpu,memory:/job\n0::/\n',  # v1
      {
        'memory/memory.limit_in_bytes': 2**63 - 4096, 'memory/memory.usage_in_bytes': GIB,
        'memory/job/memory.limit_in_bytes': 3 * GIB, 'memory/job/memory.usage_in_bytes': 2 * GIB,
        'memory/job/memory.stat': f'inactive_file 0\ntotal_inactive_file {GIB // 2}\n',
      },
      1.5,
    ),
    ('0::/\n', {'memory.max': GIB, 'memory.current': 2 * GIB}, 0),
  ],
)  # fmt: skip
def test_memory_that_can_still_be_had(tmp_path, cgroup, files, gib):
  files = {
    'proc/meminfo': MEMINFO, 'proc/self/cgroup': cgroup,
    **{f'groups/{name}': text for name, text in files.items()},
  }  # fmt: skip
  for name, text in files.items():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(f'{text}\n')
  proc, groups = str(tmp_path / 'proc'), str(tmp_path / 'groups')
  assert machine_checks.available_memory(proc, groups) == gib * GIB


def test_memory_of_this_machine():
  total = machine_checks.first_number('/proc/meminfo', r'MemTotal:\s+(\d+)')
  if total is None:
    pytest.skip('this system has no /proc/meminfo')
  assert 0 < machine_checks.available_memory() <= total * 1024


def test_copies_are_counted(source):
  images, labels = source.train(100)
  twice = types.SimpleNamespace(num_train=110)
  twice.train = lambda most: (images[order], labels[order])
  order = np.arange(110) % 100
  only(machine_checks.duplicates(twice), 'warning', '10 of all training images are copies')
  labels = np.append(labels, (labels[:1] + 1) % 10)
  images, order = np.append(images, images[:1], 0), np.arange(101)  # one, of another class
  only(machine_checks.duplicates(twice), 'warning', ' of another, 1 of them in another class')
  only(machine_checks.duplicates(source), 'ok', '0 of all')


def test_weights_of_scores(config, source, tmp_path, monkeypatch):
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path))
  monkeypatch.setenv('BIGJAX_WEIGHTS', '')
  asked = config.copy_and_resolve_references()
  assert machine_checks.weights(asked) == []
  asked.scores.update({'every': 2, 'features': 'classifier'})
  only(machine_checks.weights(asked), 'ok', 'a classifier')
  asked.scores.features = 'inception'
  only(machine_checks.weights(asked), 'warning', 'will be fetched')
  asked.scores.weights = str(tmp_path / 'none.pth')
  only(machine_checks.weights(asked), 'fail', 'none.pth')


@pytest.mark.parametrize(
  ('damage', 'said'),
  [
    (lambda path: (path / 'history.json').write_text('[]'), 'not the history of a run'),
    (lambda path: (path / 'config.json').write_text('{'), 'cannot be read'),
    (lambda path: edit(path / 'data.json', digest='x'), 'on other images'),
    (lambda path: edit(path / 'config.json', seed=5), 'another config'),
    (lambda path: cut(path / 'checkpoints' / '4' / 'generator'), 'cannot be read'),
  ],
)
def test_workdirs_that_a_run_could_not_go_on_in(config, source, workdir, tmp_path, damage, said):
  copy = tmp_path / 'run'
  shutil.copytree(workdir, copy)
  only(machine_checks.workdir(str(copy), config, source), 'ok', 'go on at step 4')
  damage(copy)
  only(machine_checks.workdir(str(copy), config, source), 'fail', said)


def edit(path, **values):
  path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def cut(folder):
  for path in folder.rglob('*'):
    if path.is_file():
      path.write_bytes(path.read_bytes()[:10])


def test_a_workdir_that_a_run_holds(config, source, workdir, tmp_path):
  copy = tmp_path / 'run'
  shutil.copytree(workdir, copy)
  with holder.hold(str(copy), print):
    only(machine_checks.workdir(str(copy), config, source), 'warning', 'is held by a run (process')
  only(machine_checks.workdir(str(copy), config, None), 'ok', 'go on at step 4')


def test_an_empty_workdir_is_fine(config, source, tmp_path):
  only(machine_checks.workdir(str(tmp_path), config, source), 'ok', 'one would begin')


def test_tensorflow_that_holds_a_device(monkeypatch):
  held = [types.SimpleNamespace(name='/physical_device:GPU:0')]
  tf = types.SimpleNamespace(config=types.SimpleNamespace(get_visible_devices=lambda kind: held))
  monkeypatch.setattr(data, 'tensorflow', lambda: tf)
  assert ('fail', True) in [(level, 'TensorFlow holds' in words) for level, words in
                            machine_checks.devices()]  # fmt: skip


def test_clocks_that_disagree(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  for apart, level in ((0.1, 'ok'), (7.0, 'warning')):
    gathered = np.array([1.0, 1.0 + apart])
    gather = lambda _, gathered=gathered: gathered
    monkeypatch.setattr(machine_checks.multihost_utils, 'process_allgather', gather)
    only(machine_checks.clocks(), level, 'clocks of the hosts')
