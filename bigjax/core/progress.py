"""Time for people: periods, durations, counted loops and the progress line of a run."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from bigjax.core import processes

PATIENCE = 15.0  # seconds to the first line about one thing, where lines cannot be rewritten


def say(text: str) -> None:
  """Print a line on stderr, from one process of all."""
  Progress(0, 0, 0, out()).say(text)


def out() -> TextIO | None:
  """Where people read: stderr in the first of all processes, None in the others."""
  import jax  # only where something is said, so that a verb's --help need not wait for it

  return sys.stderr if jax.process_index() == 0 else None


@contextlib.contextmanager
def ticking(what: str, usual: float | None = None, shown: bool = True) -> Iterator[None]:
  """Say, while something runs, how long it has taken and how long it usually takes.

  From one process of all, on stderr.

  Args:
    what: is being done.
    usual: seconds, None where nobody knows.
    shown: False says nothing.
  """
  line = Progress(0, 0, 0, out() if shown else None)
  terminal, done, start = sys.stderr.isatty(), threading.Event(), time.monotonic()

  def tick():
    pause = 1.0 if terminal else PATIENCE
    while not done.wait(pause):
      pause = pause if terminal else min(2 * pause, 8 * PATIENCE)
      spent = time.monotonic() - start
      known = '' if usual is None else f', usually {duration(usual)}'
      line.say(f'{what}, {duration(spent)} so far{known}', temporary=True)

  thread = threading.Thread(target=tick, daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
    if terminal:
      line.say('', temporary=True)


class Progress:
  """One line about a run: step, rate, time left, losses. Rewritten in place on a terminal.

  Args:
    first, last: the steps between which this process works.
    images_per_step: real images consumed by a step.
    out: where to, None for nowhere.
  """

  def __init__(self, first: int, last: int, images_per_step: int, out: Any = sys.stderr):
    self._last, self._images, self._out = last, images_per_step, out
    self._step, self._time = first, time.monotonic()
    self.rate = 0.0  # images per second between the last two updates

  def restart(self, step: int, images_per_step: int | None = None) -> None:
    """Count from here on: the first step, which compiles, is no measure of the rate."""
    self._step, self._time = step, time.monotonic()
    self._images = self._images if images_per_step is None else images_per_step

  def skip(self, seconds: float) -> None:
    """Leave this much time, spent on something else than steps, out of the rate."""
    self._time += seconds

  def update(self, step: int, losses: Mapping[str, float]) -> None:
    """Show that `step` steps are done."""
    now = time.monotonic()
    words = ' '.join(f'{name} {value:.3f}' for name, value in losses.items())
    steps, seconds = step - self._step, now - self._time
    if steps > 0 and seconds > 0:
      self.rate = steps * self._images / seconds
      left = duration((self._last - step) * seconds / steps)
      words = f'{self.rate:,.0f} images/s  {left} left  {words}'
      self._step, self._time = step, now
    done = int(20 * step / max(self._last, 1))
    self.say(f'[{"#" * done}{"." * (20 - done)}] step {step}/{self._last}  {words}', temporary=True)

  def say(self, text: str, temporary: bool = False) -> None:
    """Print a line; a temporary one gives way to the next on a terminal."""
    if self._out is None:
      return
    if self._out.isatty():
      text = f'\r\033[K{text}' + ('' if temporary else '\n')
    else:
      text += '\n'
    try:
      self._out.write(text)
      self._out.flush()
    except BrokenPipeError:  # Ctrl-C ends the `tee` beside a run, too, which has yet to save
      processes.drop_unread()


def due(step: int, every: int) -> bool:
  """Return whether a period ends at `step`; 0 switches it off."""
  return every > 0 and step % every == 0


def duration(seconds: float) -> str:
  """Return a duration for people: '41s', '3m05s', '2h07m', '3d04h'."""
  seconds = round(seconds)
  if seconds < 60:
    return f'{seconds}s'
  if seconds < 3600:
    return f'{seconds // 60}m{seconds % 60:02d}s'
  if seconds < 86400:
    return f'{seconds // 3600}h{seconds % 3600 // 60:02d}m'
  return f'{seconds // 86400}d{seconds % 86400 // 3600:02d}h'


def counted(items: Sequence[Any], what: str, patience: float = 3.0) -> Iterator[Any]:
  """Yield the items, and say on stderr every `patience` seconds how far it is and what is left."""
  began = said = time.monotonic()
  for i, item in enumerate(items):
    now = time.monotonic()
    if i == 1:
      began = now  # what the first of them sets up is no measure of the others
    elif i and now - said > patience:
      said = now
      left = duration((now - began) * (len(items) - i) / (i - 1))
      print(f'{what}: {i:,} of {len(items):,}, {left} left', file=sys.stderr, flush=True)
    yield item


def size(num_bytes: float) -> str:
  """A number of bytes for people: '3.25 GiB', '41 MiB'."""
  return f'{num_bytes / 2**30:.2f} GiB' if num_bytes >= 2**30 else f'{num_bytes / 2**20:.0f} MiB'
