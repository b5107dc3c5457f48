"""Who holds a workdir: one run at a time writes there, on however many hosts.

A folder is held by a lock of the operating system, which is free as soon as the process that has it
ends, however it ends. Buckets, and file systems without locks, know no such thing: there a run
rewrites its file HELD every BEAT seconds, and whoever finds one watches it for PATIENCE seconds. A
file that does not change is a dead run's. Nobody's clock is compared with another's.
"""

import contextlib
import datetime
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from bigjax.core import buckets, errors, processes
from bigjax.core.buckets import HELD

try:
  import fcntl
except ImportError:  # no such locks on Windows
  fcntl = None

BEAT = 20.0  # seconds between two signs of life
PATIENCE = 60.0  # seconds without one after which a holder counts as dead
SETTLE = 1.0  # seconds after which of two that came at once the later one is seen

Check = Callable[[], None]


class Holder(NamedTuple):
  """A run, as it writes itself down."""

  host: str
  process: int
  since: str
  token: str  # of this run alone
  machine: str  # within which a process number means something; '' where that is unknown
  beats: int = 0

  def __str__(self) -> str:
    return f'process {self.process} on {self.host}, since {self.since}'

  def is_dead(self) -> bool:
    """Whether it ran on this machine, and its process is gone."""
    if not self.machine or self.machine != machine():
      return False
    try:
      os.kill(self.process, 0)
    except ProcessLookupError:
      return True
    except OSError:  # another user's
      return False
    return False


def machine() -> str:
  """Identifies this machine, since it booted, and container; '' where that is unknown."""
  try:
    with open('/proc/sys/kernel/random/boot_id', encoding='utf-8') as file:
      return f'{file.read().strip()}:{os.stat("/proc/self/ns/pid").st_ino}'
  except OSError:
    return ''


def this_run() -> Holder:
  now = datetime.datetime.now(datetime.UTC)
  return Holder(
    socket.gethostname(), os.getpid(), f'{now:%Y-%m-%d %H:%M:%S} UTC', secrets.token_hex(8),
    machine(),
  )  # fmt: skip


def parsed(text: str | bytes) -> Holder | None:
  """Who wrote a file HELD; None where it is not whole."""
  try:
    return Holder(**json.loads(text))
  except (ValueError, TypeError):
    return None


def refusal(workdir: str, holder: Holder | None) -> errors.UserError:
  return errors.UserError(
    f'the workdir {workdir!r} is held by another run ({holder or "which has just begun"}); wait '
    'for its end, or end it, or give another --workdir.'
  )


@contextlib.contextmanager
def hold(workdir: str, say: Callable[[str], None]) -> Iterator[Check]:
  """Within, this run alone holds a workdir, a folder or a URL; all its hosts count as one.

  Yields:
    What raises a UserError once another run has taken a bucket over: this one had shown no sign of
    life, as on a machine that slept.
  Raises:
    UserError: another run holds it, or it cannot be written; on all hosts.
  """
  with contextlib.ExitStack() as stack:
    check, refused = (lambda: None), ''
    if jax.process_index() == 0:
      try:
        check = stack.enter_context(
          beating(workdir, say) if buckets.is_url(workdir) else locked(workdir, say)
        )
      except errors.UserError as error:
        refused = str(error)
    refused = processes.of_first(refused)
    if refused:
      raise errors.UserError(refused)
    yield check


@contextlib.contextmanager
def locked(folder: str, say: Callable[[str], None]) -> Iterator[Check]:
  """Within, the lock of a folder is held; see `hold`."""
  path, new = os.path.join(folder, HELD), missing(folder)
  with writing(folder):
    os.makedirs(folder, exist_ok=True)
    file = lock(path)
  if file is None:
    with beating(folder, say) as check:
      yield check
    return
  with file:
    try:
      with writing(folder):
        os.write(file.fileno(), json.dumps(this_run()._asdict()).encode())  # full disks say it here
      yield lambda: None
    finally:
      with contextlib.suppress(OSError):
        os.remove(path)
        for made in new:
          os.rmdir(made)  # where nothing was written to it


@contextlib.contextmanager
def writing(folder: str) -> Iterator[None]:
  """Within, a folder that is locked, or cannot be written, is refused in a sentence."""
  try:
    yield
  except BlockingIOError:
    raise refusal(folder, holder_of(folder)) from None
  except OSError as error:
    raise errors.UserError(
      f'the workdir {folder!r} cannot be written ({error.strerror}); give another with --workdir.'
    ) from None


def missing(folder: str) -> list[str]:
  """A folder that there is not yet, and those above it that there are not."""
  found, folder = [], os.path.abspath(folder)
  while not os.path.isdir(folder) and folder != os.path.dirname(folder):
    found.append(folder)
    folder = os.path.dirname(folder)
  return found


def lock(path: str) -> Any:
  """The file, locked and empty; None where its file system knows no locks.

  Raises:
    BlockingIOError: another process has locked it.
    OSError: it cannot be written.
  """
  if fcntl is None:
    return None
  for tries_left in reversed(range(5)):
    file = open(path, 'a', encoding='utf-8')  # noqa: SIM115 - it is locked as long as it is open
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      # Who held it may have removed it since it was opened.
      if os.path.exists(path) and os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
        file.truncate(0)
        return file
    except BlockingIOError:
      if not tries_left:
        file.close()
        raise
    except OSError:
      file.close()
      return None
    file.close()
    time.sleep(0.05)  # it was removed, or somebody only looks
  raise BlockingIOError


def holder_of(folder: str) -> Holder | None:
  """Who has locked a folder, by what it wrote there; None where that cannot be told."""
  for _ in range(10):
    with contextlib.suppress(OSError), open(os.path.join(folder, HELD), encoding='utf-8') as file:
      if found := parsed(file.read()):
        return found
    time.sleep(0.1)  # between its lock and its words
  return None


def is_locked(folder: str) -> bool:
  """Whether a run holds a folder now; looks only."""
  if fcntl is None:
    return False
  try:
    with open(os.path.join(folder, HELD), encoding='utf-8') as file:
      fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except BlockingIOError:
    return True
  except OSError:
    return False
  return False


@contextlib.contextmanager
def beating(url: str, say: Callable[[str], None]) -> Iterator[Check]:
  """Within, a thread shows that this run holds a bucket; see `hold`."""
  heart = Heart(url)
  heart.take(say)
  thread = threading.Thread(target=heart.beat, name='heart', daemon=True)
  thread.start()
  try:
    yield heart.check
  finally:
    heart.over.set()
    thread.join()
    heart.leave()


class Heart:
  """The file HELD of a bucket, or of a folder without locks, and this run's words in it."""

  def __init__(self, url: str):
    self._url = url
    files, root = buckets.filesystem(url.rstrip('/'))
    self._files, self._path = files, f'{root.rstrip("/")}/{HELD}'
    self._me = this_run()
    self._other: Holder | None = None  # which took over
    self.over = threading.Event()

  def take(self, say: Callable[[str], None]) -> None:
    """Become the holder.

    Raises:
      UserError: another run is, or the bucket cannot be read or written.
    """
    try:
      found = self._read()
      if found and not found.is_dead():
        say(f'{self._url} was held by {found}: waiting up to {PATIENCE:.0f} s for a sign of life')
        self._watch(found)
      self._write()
      time.sleep(SETTLE)
      found = self._read()
    except errors.UserError:
      raise
    except Exception as error:  # whatever that library raises
      raise errors.UserError(
        f'{self._url!r} cannot be written ({type(error).__name__}: {error}); does the bucket '
        'exist, and may you write to it?'
      ) from None
    if found is None or found.token != self._me.token:
      raise refusal(self._url, found)

  def _watch(self, found: Holder) -> None:
    """Wait until a holder has gone, or has been silent for long enough.

    Raises:
      UserError: it lives.
    """
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
      time.sleep(min(2.0, PATIENCE / 10))
      now = self._read()
      if now is None:
        return
      if now != found:
        raise refusal(self._url, now)

  def beat(self) -> None:
    """Show that this run lives, until it is over or another has taken its place."""
    while not self.over.wait(BEAT):
      with contextlib.suppress(Exception):  # no network: the next beat may come through
        found = self._read()
        if found and found.token != self._me.token:
          self._other = found
          return
        self._me = self._me._replace(beats=self._me.beats + 1)
        self._write()

  def check(self) -> None:
    """Raises:
    UserError: another run has taken over.
    """
    if self._other:
      raise errors.UserError(
        f'the workdir {self._url!r} was taken over by another run ({self._other}) while this one '
        f'showed no sign of life for {PATIENCE:.0f} s; what it has saved is there.'
      )

  def leave(self) -> None:
    """Let the next run begin at once."""
    with contextlib.suppress(Exception):
      found = self._read()
      if found and found.token == self._me.token:
        self._files.rm_file(self._path)

  def _read(self) -> Holder | None:
    """Who holds it; None where there is no file, or where it stays damaged."""
    for _ in range(3):
      try:
        text = self._files.cat_file(self._path)
      except FileNotFoundError:
        return None
      if found := parsed(text):
        return found
      time.sleep(0.2)  # being written, where that is not done at once
    return None

  def _write(self) -> None:
    self._files.pipe_file(self._path, json.dumps(self._me._asdict()).encode())
