"""What a run writes down while it trains."""

from bigjax.core import files
from bigjax.training.records import logs


def test_a_clock_that_is_set_changes_no_duration(monkeypatch, tmp_path):
  """An hour back and a year forward: only the column that tells the clock follows."""
  clock, spent = iter([5e8, 5e8 - 3600, 5e8 + 3e7]), iter(range(0, 1000, 10))
  monkeypatch.setattr(logs.time, 'time', lambda: next(clock))
  monkeypatch.setattr(logs.time, 'monotonic', lambda: next(spent))
  monkeypatch.setattr(logs, 'TensorBoard', lambda path: files.Null())
  log = logs.Log(str(tmp_path), 0, 3, 64, lambda: next(spent))
  for step in (1, 2, 3):
    log.metrics(step, {'d_loss': 1.0}, waited=0.0)
  log.close()
  rows = files.read_rows(str(tmp_path / 'timing.jsonl'))
  seconds = [row['seconds'] for row in rows]
  assert seconds == sorted(seconds) and 0 < seconds[0] < seconds[-1] < 1000
  assert [row['time'] for row in rows] == [5e8, 5e8 - 3600, 5e8 + 3e7]
  assert all(row['images_per_second'] > 0 and 0 <= row['waiting'] <= 1 for row in rows)
