"""Where the wall clock goes: seconds by part, of which one always runs, so that they add up."""

import contextlib
import threading
import time
from collections.abc import Iterator

import jax

COMPILING = '/jax/core/compile/'  # what JAX calls its tracing, lowering and compiling


class Stopwatch:
  """Wall-clock seconds by part; parts exclude each other, and their sum is all the time there was.

  Args:
    part: that runs first, and whenever no other does.
    began: time.monotonic() from which on it runs (default: now).
  """

  def __init__(self, part: str, began: float | None = None):
    self._running = [part]
    self._spent: dict[str, float] = {}
    self._marked = time.monotonic() if began is None else began
    self._lock = threading.Lock()  # a thread may read while another works

  def _charge(self) -> str:
    """Charge the time since the last charge to the part that runs, and return that."""
    now, part = time.monotonic(), self._running[-1]
    self._spent[part] = self._spent.get(part, 0.0) + now - self._marked
    self._marked = now
    return part

  def read(self) -> dict[str, float]:
    """{part: seconds so far}."""
    with self._lock:
      self._charge()
      return dict(self._spent)

  def clear(self) -> dict[str, float]:
    """As `read`, and count from 0 on."""
    with self._lock:
      self._charge()
      spent, self._spent = self._spent, {}
      return spent

  def goes_on(self, part: str) -> None:
    """From here on this part runs in place of the one that did."""
    with self._lock:
      self._charge()
      self._running[-1] = part

  @contextlib.contextmanager
  def part(self, name: str) -> Iterator[None]:
    """Within, this part runs; the one around it does not."""
    with self._lock:
      self._charge()
      self._running.append(name)
    try:
      yield
    finally:
      with self._lock:
        self._charge()
        self._running.pop()

  def move(self, seconds: float, part: str) -> None:
    """The last so many seconds of what runs were another part's, as is known only now."""
    with self._lock:
      running = self._charge()
      if part != running:
        seconds = min(seconds, self._spent[running])
        self._spent[running] -= seconds
        self._spent[part] = self._spent.get(part, 0.0) + seconds


@contextlib.contextmanager
def compilations(watch: Stopwatch, part: str) -> Iterator[None]:
  """Within, what JAX traces, lowers and compiles in this thread is time of `part`.

  Whatever asks for it; what other threads compile meanwhile keeps nobody waiting.
  """
  thread = threading.get_ident()
  seen: list[tuple[float, float]] = []  # (when it began, seconds) of those that lie in no other

  def listen(event: str, seconds: float, **_) -> None:
    if not event.startswith(COMPILING) or threading.get_ident() != thread:
      return
    began, inside = time.monotonic() - seconds, 0.0
    while seen and seen[-1][0] >= began:  # traced within this one, which ends after it
      inside += seen.pop()[1]
    seen.append((began, seconds))
    watch.move(max(seconds - inside, 0.0), part)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
