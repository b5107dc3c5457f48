"""What a run writes down while it trains: rows, clock, events, curves, a profile."""

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from bigjax.algorithms.base.metrics import LOSS
from bigjax.core import files, progress
from bigjax.evaluation import reference_curves
from bigjax.training import plots

Say = Callable[[str], None]


@dataclasses.dataclass
class Session:
  """This process's part of a run: when it began, and the earliest step that it went on from."""

  began: float
  first: int | None = None

  def goes_on_from(self, step: int) -> None:
    """A roll-back goes on from an earlier one than the process began with, or a later one."""
    self.first = step if self.first is None else min(step, self.first)

  @property
  def seconds(self) -> float:
    """Since it began."""
    return time.monotonic() - self.began

  def words(self, step: int) -> str:
    """What was done up to a step, and how long this process took for its part of that."""
    of_them = f', {step - self.first} of them' if self.first else ''
    return f'{step} steps{of_them} in {progress.duration(self.seconds)}'


class Log:
  """metrics.jsonl (values), timing.jsonl (clock), TensorBoard and the progress line."""

  def __init__(self, workdir: str, first: int, last: int, images_per_step: int):
    main = jax.process_index() == 0
    self._path = os.path.join(workdir, 'metrics.jsonl')
    self._values = files.JsonLines(self._path, first) if main else files.Null()
    self._clock = (
      files.JsonLines(os.path.join(workdir, 'timing.jsonl'), first) if main else files.Null()
    )
    self._events = TensorBoard(os.path.join(workdir, 'tensorboard')) if main else files.Null()
    self.progress = progress.Progress(first, last, images_per_step, sys.stderr if main else None)
    self._start = time.monotonic()  # no clock that somebody sets
    self._last = time.monotonic()  # when the time began that the next row's `waiting` is a share of

  def restart(self, step: int, images_per_step: int) -> None:
    """Count the clock from here on, at so many images per step."""
    self.progress.restart(step, images_per_step)
    self._last = time.monotonic()

  def changed_stage(self, step: int, seconds: float) -> None:
    """Say and keep what a change of stage cost, its first step included, which `step` ends."""
    self.progress.say(f'{seconds:.1f} s from the stage before to the end of the first step of this')
    self._write_clock(step, {'stage_change': round(seconds, 3)})

  def _write_clock(self, step: int, values: Mapping[str, float]) -> None:
    """Write a row of timing.jsonl, with the run's clock and the machine's."""
    clock = {'seconds': round(time.monotonic() - self._start, 3), 'time': round(time.time(), 3)}
    self._clock.write({'step': step, **values, **clock})

  def skip(self, seconds: float) -> None:
    """Leave this much time, spent on something else than steps, out of the clock."""
    self.progress.skip(seconds)
    self._last += seconds

  def metrics(self, step: int, metrics: Mapping[str, Any], waited: float) -> dict[str, float]:
    """Write a step's metrics, move the progress line, and return them.

    `waited` is in seconds, for data.
    """
    values = {name: float(value) for name, value in sorted(jax.device_get(metrics).items())}
    losses = {name: value for name, value in values.items() if name in LOSS}
    self.progress.update(step, losses)
    self.write(step, values)
    now = time.monotonic()
    shown = {
      'images_per_second': round(self.progress.rate, 2),
      'waiting': round(min(waited / max(now - self._last, 1e-9), 1), 4),
      **device_memory(),
    }
    self._last = now
    self._write_clock(step, shown)
    self._events.write({'step': step, **shown})
    return values

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Write a row of values."""
    self._values.write({'step': step, **values})
    self._events.write({'step': step, **values})

  def scores(self, step: int, found: Mapping[str, float]) -> None:
    """Show scores that were computed beside later steps; during_training.py keeps them."""
    words = '  '.join(f'{name} {value:.4g}' for name, value in found.items())
    self.progress.say(f'scores of step {step}: {words}')
    self._events.write({'step': step, **found})

  def draw(
    self,
    floor: Mapping[str, float],
    curve: reference_curves.Curve | None,
    events: Sequence[tuple[int, str]],
    title: str,
    player: str,
  ) -> None:
    """Draw curves.png and vital_signs.png from all rows so far."""
    if isinstance(self._values, files.Null):
      return
    folder = os.path.dirname(self._path)
    rows = files.read_rows(self._path)
    plots.curves(os.path.join(folder, 'curves.png'), rows, floor, title, published=curve)
    clock = files.read_rows(os.path.join(folder, 'timing.jsonl'))
    plots.vital_signs(os.path.join(folder, 'vital_signs.png'), rows, clock, events, title, player)

  def close(self) -> None:
    for writer in (self._values, self._clock, self._events):
      writer.close()


def device_memory() -> dict[str, float]:
  """Return the most memory in use so far on this process's first device; {} where it is unknown."""
  stats = jax.local_devices()[0].memory_stats() or {}
  peak = stats.get('peak_bytes_in_use')
  return {} if peak is None else {'device_memory_gib': round(peak / 2**30, 3)}


class Profile:
  """A profiler trace of `num` steps, a few after the first, for TensorBoard; none for 0."""

  SETTLED = 3  # steps after the first, which compiles

  def __init__(self, workdir: str, first: int, num: int, say: Say):
    begin = first + self.SETTLED
    self._begin, self._end = (begin, begin + num) if num else (None, None)
    self._folder, self._say = os.path.join(workdir, 'tensorboard'), say
    self._tracing = False

  def before(self, step: int) -> None:
    if step == self._begin:
      jax.profiler.start_trace(self._folder)
      self._tracing = True

  def after(self, done: int, state: Any) -> None:
    if self._tracing and done >= self._end:
      jax.block_until_ready(state)
      self.close()

  def close(self) -> None:
    if self._tracing:
      self._tracing = False
      jax.profiler.stop_trace()
      self._say(f'profile in {self._folder}: tensorboard --logdir {self._folder}')


class TensorBoard:
  """TensorBoard events through clu, which is imported when the first row is written."""

  def __init__(self, logdir: str):
    self._logdir, self._writer = logdir, None

  def write(self, row: Mapping[str, Any]) -> None:
    if self._writer is None:
      from clu import metric_writers  # imports TensorFlow

      self._writer = metric_writers.SummaryWriter(self._logdir)
    self._writer.write_scalars(row['step'], {k: v for k, v in row.items() if k != 'step'})

  def close(self) -> None:
    if self._writer is not None:
      self._writer.close()
