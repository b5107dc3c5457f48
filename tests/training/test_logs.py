"""What a run says of itself when it ends."""

import pytest

from bigjax.core import files
from bigjax.training import logs


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
def test_the_time_is_that_of_the_steps_it_is_said_with(monkeypatch, firsts, words):
  monkeypatch.setattr(logs.time, 'monotonic', lambda: 1000 + 851)
  session = logs.Session(began=1000)
  for first in firsts:
    session.goes_on_from(first)
  assert session.words(44) == words


def test_a_clock_that_is_set_changes_no_duration(monkeypatch, tmp_path):
  """An hour back and a year forward: only the column that tells the clock follows."""
  clock, spent = iter([5e8, 5e8 - 3600, 5e8 + 3e7]), iter(range(0, 1000, 10))
  monkeypatch.setattr(logs.time, 'time', lambda: next(clock))
  monkeypatch.setattr(logs.time, 'monotonic', lambda: next(spent))
  monkeypatch.setattr(logs, 'TensorBoard', lambda path: files.Null())
  log = logs.Log(str(tmp_path), 0, 3, 64)
  for step in (1, 2, 3):
    log.metrics(step, {'d_loss': 1.0}, waited=0.0)
  log.close()
  rows = files.read_rows(str(tmp_path / 'timing.jsonl'))
  seconds = [row['seconds'] for row in rows]
  assert seconds == sorted(seconds) and 0 < seconds[0] < seconds[-1] < 1000
  assert [row['time'] for row in rows] == [5e8, 5e8 - 3600, 5e8 + 3e7]
  assert all(row['images_per_second'] > 0 and 0 <= row['waiting'] <= 1 for row in rows)
