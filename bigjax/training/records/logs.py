"""What a run writes down while it trains: rows, clock, events, curves, a profile."""

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
from bigjax.training.records.writers import TensorBoard, read_picture

Say = Callable[[str], None]


class Log:
  """metrics.jsonl (values), timing.jsonl (clock), TensorBoard and the progress line.

  Args:
    workdir: of the run.
    first, last: the steps between which this process works; rows after the first are dropped.
    images_per_step: real images consumed by a step.
    clock: seconds of the run so far, over all sessions.
  """

  def __init__(
    self,
    workdir: str,
    first: int,
    last: int,
    images_per_step: int,
    clock: Callable[[], float],
  ):
    self._main = main = jax.process_index() == 0
    self._path = os.path.join(workdir, 'metrics.jsonl')
    self._values = files.JsonLines(self._path, first) if main else files.Null()
    self._clock = (
      files.JsonLines(os.path.join(workdir, 'timing.jsonl'), first) if main else files.Null()
    )
    self._events = TensorBoard(os.path.join(workdir, 'tensorboard')) if main else files.Null()
    self.progress = progress.Progress(first, last, images_per_step, sys.stderr if main else None)
    self._seconds = clock  # none that somebody sets
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
    clock = {'seconds': round(self._seconds(), 3), 'time': round(time.time(), 3)}
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
    now = time.monotonic()
    shown = {
      'images_per_second': round(self.progress.rate, 2),
      'waiting': round(min(waited / max(now - self._last, 1e-9), 1), 4),
      **device_memory(),
    }
    self._last = now
    self._write_clock(step, shown)
    self.write(step, values)  # after its clock, so that who reads the row finds that
    self._events.write({'step': step, **shown})
    return values

  def describe(self, step: int, config: Mapping[str, Any], texts: Mapping[str, str]) -> None:
    """Show what the run is from this step on: {'group.key': value}, and texts in Markdown."""
    if self._main:
      self._events.describe(step, config, texts)

  def picture(self, step: int) -> None:
    """Show the class grid of an evaluation."""
    path = os.path.join(os.path.dirname(self._path), 'samples', f'{step:08d}.png')
    if self._main and os.path.exists(path):
      self._events.picture(step, 'samples', read_picture(path))

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
    if not self._main:
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
