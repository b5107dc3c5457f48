"""The wall clock of a run, whatever its sessions: what it says when it ends."""

import json

import jax
import pytest

from bigjax.training.records import session as sessions
from bigjax.training.records import stopwatch


@pytest.fixture
def clock(monkeypatch):
  """A clock that a test moves: [now]. No beats: their thread would wait for real seconds."""
  now = [1000.0]
  monkeypatch.setattr(stopwatch.time, 'monotonic', lambda: now[0])
  monkeypatch.setattr(sessions, 'BEAT', 1e6)
  return now


@pytest.mark.parametrize(
  ('firsts', 'words'),
  [
    ([0], '44 steps in 14m11s'),
    ([34], '44 steps, 10 of them in 14m11s'),
    ([44], '44 steps, 0 of them in 14m11s'),
    ([0, 20], '44 steps in 14m11s'),  # rolled back to 20
    ([34, 20], '44 steps, 24 of them in 14m11s'),
  ],
)
def test_the_time_is_that_of_the_steps_it_is_said_with(clock, tmp_path, firsts, words):
  session = sessions.Session(str(tmp_path), began=1000)
  session.begin()
  for first in firsts:
    session.goes_on_from(first)
  clock[0] += 851
  assert session.words(44) == words
  session.close()


def test_the_clock_adds_over_sessions_and_knows_what_was_lost(clock, tmp_path):
  """A run of 20 steps of 1 s with checkpoints at 10, killed at 17, then told to end at 15."""
  first = sessions.Session(str(tmp_path), began=995)  # 5 s of imports
  first.begin()
  first.goes_on_from(0)
  first.watch.goes_on('steps')
  clock[0] += 10
  first.mark(10)
  clock[0] += 7
  first._write()  # its last beat
  first._end.set()  # killed
  clock[0] += 5000  # nobody's time
  second = sessions.Session(str(tmp_path))
  second.begin()
  clock[0] += 3
  second.goes_on_from(10)
  second.watch.goes_on('steps')
  clock[0] += 5
  with second.watch.part('checkpoints'):
    clock[0] += 1
    second.mark(15)
  second.close()
  third = sessions.Session(str(tmp_path))
  third.begin()
  clock[0] += 3
  third.goes_on_from(15)
  third.watch.goes_on('steps')
  clock[0] += 5
  found = third.summary()
  assert found['clock'] == {
    'start': 11, 'compilation': 0, 'data': 0, 'steps': 20, 'evaluation': 0, 'logs': 0,
    'checkpoints': 1, 'lost': 7,
  }  # fmt: skip
  assert found['seconds'] == 39 and found['sessions'] == 3
  assert third.clock_words() == (
    'wall clock: 39s in 3 sessions: steps 51 %, start-up 28 %, lost by restarts 18 %, '
    'checkpoints and export 3 %'
  )
  third.close()


def test_a_process_that_is_killed_before_its_first_step_is_counted(clock, tmp_path):
  """Whatever it restored and drew until then has to be done again."""
  first = sessions.Session(str(tmp_path))
  first.begin()
  first.goes_on_from(0)
  first.watch.goes_on('steps')
  clock[0] += 10
  first.mark(10)
  first.close()
  second = sessions.Session(str(tmp_path))
  clock[0] += 2
  second.begin()
  clock[0] += 30
  second._write()  # its last beat
  second._end.set()
  third = sessions.Session(str(tmp_path))
  third.begin()
  clock[0] += 4
  third.goes_on_from(10)
  found = third.summary()
  assert (found['seconds'], found['sessions']) == (46, 3)
  assert {name: s for name, s in found['clock'].items() if s} == {
    'steps': 10, 'start': 4, 'lost': 32,
  }  # fmt: skip
  third.close()


def test_seconds_of_steps_grow_with_them_whatever_is_lost(clock, tmp_path):
  """What timing.jsonl has: rows after a checkpoint are written again, with the time of these."""
  rows = {}
  for first, steps in ((0, 17), (10, 15), (10, 20)):
    session = sessions.Session(str(tmp_path))
    session.begin()
    session.goes_on_from(first)
    rows = {step: seconds for step, seconds in rows.items() if step <= first}
    for step in range(first + 1, steps + 1):
      clock[0] += 1
      rows[step] = session.of_steps()
      if step % 10 == 0:
        session.mark(step)
    session.close()
  assert rows == {step: step for step in range(1, 21)}


def test_what_is_rolled_back_is_lost(clock, tmp_path):
  """And killed after that, it stays lost."""
  session = sessions.Session(str(tmp_path))
  session.begin()
  session.goes_on_from(0)
  session.watch.goes_on('steps')
  clock[0] += 10
  session.mark(10)
  clock[0] += 6
  session.goes_on_from(10)
  clock[0] += 2
  parts = session.parts()
  assert (parts['steps'], parts['lost']) == (12, 6) and session.seconds == 18
  session._write()
  session._end.set()
  other = sessions.Session(str(tmp_path))
  other.begin()
  other.goes_on_from(10)
  parts = other.parts()
  assert (parts['steps'], parts['lost']) == (10, 8)
  other.close()


@pytest.mark.parametrize(
  'text',
  [
    '',
    '[]',
    '{"sessions": 1}',
    '{"sessions": 1, "seconds": 2, "marks": {"a": 1}}',
    '{"sessions": Infinity, "seconds": 2, "marks": {}}',
    '{"sessions": 1, "seconds": NaN, "marks": {}}',
    '{"sessions": 1, "seconds": 2, "marks": {"1": {"steps": -9}}}',
  ],
)
def test_a_damaged_clock_ends_no_run(clock, tmp_path, text):
  (tmp_path / 'clock.json').write_text(text)
  session = sessions.Session(str(tmp_path))
  session.begin()
  session.goes_on_from(10)
  clock[0] += 1
  assert session.summary()['seconds'] == 1
  session.close()


def test_beats_tell_how_far_a_killed_process_came(tmp_path, monkeypatch):
  monkeypatch.setattr(sessions, 'BEAT', 0.01)
  session = sessions.Session(str(tmp_path))
  session.begin()
  session.goes_on_from(0)
  before = (tmp_path / 'clock.json').read_text()
  for _ in range(2000):
    if (found := (tmp_path / 'clock.json').read_text()) != before:
      break
    session._end.wait(0.01)
  assert json.loads(found)['seconds'] > json.loads(before)['seconds']
  session.close()


def test_other_processes_write_no_clock(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  session = sessions.Session(str(tmp_path))
  session.begin()
  session.goes_on_from(0)
  session.mark(2)
  session.close()
  assert not list(tmp_path.iterdir())
