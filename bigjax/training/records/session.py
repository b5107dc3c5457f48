"""A process's part of a run, and the run's wall clock over all of them (clock.json).

The clock is marked where a run can go on from, at its start and at every checkpoint. What a process
did after the mark that a run then goes on from is `lost`: it has to be done again. Nobody counts
the time between two processes.
"""

import contextlib
import json
import math
import os
import threading
from typing import Any

import jax

from bigjax.core import files, progress
from bigjax.training.records import stopwatch

PARTS = {  # of the wall clock, in words
  'start': 'start-up',
  'compilation': 'compilation',
  'data': 'waiting for data',
  'steps': 'steps',
  'evaluation': 'evaluation',
  'logs': 'logs and curves',
  'checkpoints': 'checkpoints and export',
  'lost': 'lost by restarts',
}
BEAT = 5.0  # seconds: what a process that is killed did after its last beat is not known
Seconds = dict[str, float]  # by part


def added(*parts: Seconds) -> Seconds:
  """Seconds by part, of several."""
  return {name: sum(some.get(name, 0.0) for some in parts) for name in PARTS}


def read(path: str) -> dict[str, Any]:
  """A clock.json: sessions, seconds, marks; of one that is missing or damaged, none."""
  try:
    with open(path, encoding='utf-8') as file:
      found = json.load(file)
    marks = {
      str(int(step)): added({name: float(s) for name, s in parts.items()})
      for step, parts in found['marks'].items()
    }
    seconds = float(found['seconds'])
    every = [seconds, *(s for parts in marks.values() for s in parts.values())]
    if not all(0 <= s < math.inf for s in every):
      raise ValueError
    return {'sessions': int(found['sessions']), 'seconds': seconds, 'marks': marks}
  except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError,
          RecursionError):  # fmt: skip
    return {'sessions': 0, 'seconds': 0.0, 'marks': {}}


class Session:
  """This process's part of a run: its clock, and the earliest step that it went on from.

  Args:
    workdir: of the run.
    began: time.monotonic() when the process began (default: now).
  """

  def __init__(self, workdir: str, began: float | None = None):
    self.watch = stopwatch.Stopwatch('start', began)
    self.first: int | None = None
    self._path = os.path.join(workdir, 'clock.json')
    self._before: Seconds = {}  # parts up to the mark that the run went on from, and lost ones
    self._discarded: Seconds = {}  # of this process, among those lost
    self._marks: dict[str, Seconds] = {}  # {step: parts}
    self._sessions = 1
    self._lock, self._end = threading.Lock(), threading.Event()
    self._beats: threading.Thread | None = None

  def begin(self) -> None:
    """Take up the clock of the sessions before, and write down from here on how far this comes."""
    known = read(self._path)
    self._sessions, self._marks = known['sessions'] + 1, known['marks']
    self._before = {'lost': known['seconds']}  # until it is known what of it was not
    if jax.process_index() == 0:
      self._beats = threading.Thread(target=self._beat, daemon=True)
      self._beats.start()

  def goes_on_from(self, step: int) -> None:
    """Begin at a step, or go on from it: again, after a roll-back; what came after it is lost."""
    with self._lock:
      if self.first is not None:  # all that this process did is before the roll-back
        own = self.watch.clear()
        self._discarded = added(self._discarded, own)
        self._before = added(self._before, own)
      # A roll-back goes on from an earlier one than the process began with, or a later one.
      self.first = step if self.first is None else min(step, self.first)
      self._marks = {at: parts for at, parts in self._marks.items() if int(at) <= step}
      kept = self._marks.get(str(max(map(int, self._marks), default=0)), {})
      lost = sum(self._before.values()) - sum(kept.values())
      self._before = added(kept, {'lost': max(lost, 0.0)})
    self.mark(step)

  def mark(self, step: int) -> None:
    """A run can go on from this step: keep what the clock says."""
    with self._lock:
      self._marks[str(step)] = {name: round(s, 3) for name, s in self.parts().items()}
    self._write()

  def parts(self) -> Seconds:
    """Seconds of the run by part, over all sessions."""
    return added(self._before, self.watch.read())

  def of_steps(self) -> float:
    """Seconds of the run so far, over all sessions, without what was lost.

    So they grow with its steps, wherever it was stopped: the clock of timing.jsonl.
    """
    parts = self.parts()
    return sum(parts.values()) - parts['lost']

  @property
  def seconds(self) -> float:
    """Of this process, since it began."""
    return sum(self._discarded.values()) + sum(self.watch.read().values())

  def _write(self) -> None:
    if jax.process_index() == 0:
      with self._lock:
        total = round(sum(self.parts().values()), 3)
        found = {'sessions': self._sessions, 'seconds': total, 'marks': self._marks}
        files.write_json(self._path, found)

  def _beat(self) -> None:
    while not self._end.wait(BEAT):
      with contextlib.suppress(OSError):  # a full disk is the loop's to say
        self._write()

  def close(self) -> None:
    """Let the next session know how far this one came."""
    self._end.set()
    if self._beats is not None:
      self._beats.join()
      with contextlib.suppress(OSError):
        self._write()

  def words(self, step: int) -> str:
    """What was done up to a step, and how long this process took for its part of that."""
    of_them = f', {step - self.first} of them' if self.first else ''
    return f'{step} steps{of_them} in {progress.duration(self.seconds)}'

  def clock_words(self) -> str:
    """Where the run's wall clock went, in a line; parts below a percent are left out."""
    return clock_words(self.parts(), self._sessions)

  def summary(self) -> dict[str, Any]:
    """For summary.json: seconds, their parts, and how many processes worked on the run."""
    parts = {name: round(seconds, 3) for name, seconds in self.parts().items()}
    return {
      'seconds': round(sum(parts.values()), 3),
      'clock': parts,
      'sessions': self._sessions,
    }


def clock_words(parts: Seconds, sessions: int) -> str:
  """'wall clock: 14m11s in 2 sessions: steps 61 %, compilation 20 %, ...', the largest first."""
  total = sum(parts.values())
  largest = sorted(parts.items(), key=lambda item: -item[1])
  shares = [(name, 100 * seconds / max(total, 1e-9)) for name, seconds in largest]
  shown = [f'{PARTS[name]} {share:.0f} %' for name, share in shares if share >= 1]
  of = '' if sessions == 1 else f' in {sessions} sessions'
  return f'wall clock: {progress.duration(total)}{of}: {", ".join(shown)}'
