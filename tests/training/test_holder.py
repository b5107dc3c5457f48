"""One run at a time writes to a workdir: locks of folders, signs of life in buckets."""

import json
import os
import signal
import subprocess
import sys
import threading

import fsspec
import jax
import pytest

from bigjax.algorithms.base import configs
from bigjax.core import buckets, errors, processes
from bigjax.training import holder, loop

# Holds what its word names until it is killed or its stdin ends.
HOLD = """
import sys
from bigjax.training import holder
with holder.hold(sys.argv[1], print):
  print('held', flush=True)
  sys.stdin.read()
"""


class Other:
  """Another process that holds a folder."""

  def __init__(self, folder):
    self.process = subprocess.Popen(
      [sys.executable, '-c', HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert self.process.stdout.readline() == b'held\n'

  def end(self, signum=None):
    if signum:
      self.process.send_signal(signum)
    else:
      self.process.stdin.close()
    self.process.wait()


@pytest.fixture
def quick(monkeypatch):
  for name, seconds in (('BEAT', 0.05), ('PATIENCE', 0.6), ('SETTLE', 0.1)):
    monkeypatch.setattr(holder, name, seconds)


@pytest.fixture
def bucket(quick):
  files = fsspec.filesystem('memory')
  yield files
  files.store.clear()
  files.pseudo_dirs[:] = ['']


def held(where):
  """Hold it for a moment; what was said."""
  said = []
  with holder.hold(str(where), said.append) as check:
    check()
  return said


def test_a_second_run_is_refused_until_the_first_ends_or_dies(tmp_path):
  folder = tmp_path / 'run'
  config = configs.read('digits:tiny')
  other = Other(folder)
  words = f"'{folder}' is held by another run .process {other.process.pid} on .*, since 20.* UTC"
  with pytest.raises(errors.UserError, match=words):
    loop.train(config, str(folder), jax.devices()[:1])
  assert os.listdir(folder) == [buckets.HELD] and holder.is_locked(folder)
  other.process.send_signal(signal.SIGKILL)
  other.process.wait()
  assert os.listdir(folder) == [buckets.HELD] and not holder.is_locked(folder)
  assert held(folder) == [] and os.listdir(folder) == []


def test_what_was_made_for_a_refused_run_is_gone_and_nothing_else(tmp_path):
  (tmp_path / 'mine').mkdir()
  held(tmp_path / 'mine' / 'new' / 'run')
  assert os.listdir(tmp_path / 'mine') == []
  with holder.hold(str(tmp_path / 'mine' / 'run'), print):
    (tmp_path / 'mine' / 'run' / 'metrics.jsonl').write_text('')
  assert os.listdir(tmp_path / 'mine' / 'run') == ['metrics.jsonl']


def test_many_at_once_take_turns(tmp_path):
  """Removing the file at the end lets nobody in twice."""
  inside, most, done = [0], [0], [0]

  def work():
    for _ in range(100):
      try:
        with holder.hold(str(tmp_path), print):
          inside[0] += 1
          most[0] = max(most[0], inside[0])
          inside[0] -= 1
          done[0] += 1
      except errors.UserError:
        pass

  threads = [threading.Thread(target=work) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert most[0] == 1 and done[0] > 20


def test_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.UserError, match='Not a directory'):
    held(tmp_path / 'file' / 'run')


def test_a_disk_that_is_full_from_the_start(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(holder.os, 'write', full)
  with pytest.raises(errors.UserError, match='No space left on device'):
    held(tmp_path / 'run')
  assert os.listdir(tmp_path) == []


def test_a_live_holder_of_a_bucket_is_found_by_its_beat(bucket):
  said = []
  with holder.hold('memory://runs/mine', said.append) as check:
    assert not said
    with pytest.raises(errors.UserError, match=rf'process {os.getpid()} on .*, since 20.* UTC'):
      held('memory://runs/mine/')
    check()
  assert not bucket.exists('/runs/mine/.held')
  assert held('memory://runs/mine') == []  # without waiting


def stranger(**values):
  me = holder.this_run()._asdict() | {'token': 'x', 'machine': 'elsewhere', 'host': 'there'}
  return json.dumps(me | values).encode()


def test_a_holder_that_died_elsewhere_is_waited_for(bucket):
  bucket.pipe('/runs/mine/.held', stranger())
  (said,) = held('memory://runs/mine')
  assert 'was held by process' in said and 'on there' in said and 'sign of life' in said


def test_a_holder_that_died_here_is_not(bucket, tmp_path):
  dead = subprocess.Popen([sys.executable, '-c', ''])
  dead.wait()
  bucket.pipe('/runs/mine/.held', stranger(process=dead.pid, machine=holder.machine()))
  assert held('memory://runs/mine') == []


def test_a_damaged_file_is_nobodys(bucket):
  bucket.pipe('/runs/mine/.held', b'{"host"')
  assert held('memory://runs/mine') == []


def test_who_was_silent_for_too_long_learns_that_another_took_over(bucket):
  with holder.hold('memory://runs/mine', print) as check:
    bucket.pipe('/runs/mine/.held', stranger())
    notice = processes.Notice(check)
    with pytest.raises(errors.UserError, match=r'taken over by another run \(process .* on there'):
      for _ in range(100):
        threading.Event().wait(0.02)
        notice.reached(3)
  assert json.loads(bucket.cat('/runs/mine/.held'))['host'] == 'there'  # is left alone


def test_of_two_at_once_one_stays(bucket, monkeypatch):
  """Both see nobody; who reads another's name after a while goes."""
  outcomes, barrier, begun = [], threading.Barrier(2, timeout=20), []
  whole = holder.Heart._write

  def together(self):
    if self not in begun:
      begun.append(self)
      barrier.wait()
    whole(self)

  monkeypatch.setattr(holder.Heart, '_write', together)

  def work():
    try:
      with holder.hold('memory://runs/mine', print):
        outcomes.append('held')
        threading.Event().wait(0.3)
    except errors.UserError:
      outcomes.append('refused')

  threads = [threading.Thread(target=work) for _ in range(2)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert sorted(outcomes) == ['held', 'refused']


def test_a_file_system_without_locks_beats(tmp_path, quick, monkeypatch):
  def unknown(*_):
    raise OSError(45, 'Operation not supported')

  monkeypatch.setattr(holder.fcntl, 'flock', unknown)
  with (
    holder.hold(str(tmp_path), print),
    pytest.raises(errors.UserError, match='is held by another run'),
  ):
    held(tmp_path)
  assert os.listdir(tmp_path) == []


def test_clocks_that_are_set_change_nothing(bucket, monkeypatch):
  """Back an hour and forward a year, in the middle of it: only the dates of words move."""
  now = holder.time.time()
  for shift in (-3600, 365 * 86400):
    with holder.hold('memory://runs/mine', print) as check:
      monkeypatch.setattr(holder.time, 'time', lambda shift=shift: now + shift)
      with pytest.raises(errors.UserError, match='is held by another run'):
        held('memory://runs/mine')
      check()


def test_copies_leave_the_file_alone(bucket):
  with holder.hold('memory://runs/mine', print):
    folder = buckets.local('memory://runs/mine', training=True)
    assert os.listdir(folder) == [buckets.MARK]
    copies = buckets.Copies(folder, pytest.fail)
    copies.finish()
    assert bucket.exists('/runs/mine/.held')
    # Who looks at a run on the same machine has a folder of its own.
    assert buckets.local('memory://runs/mine') != folder and os.path.isdir(folder)
