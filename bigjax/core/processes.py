"""The processes of one run: how they find each other, what ends them, and how they end together.

On Cloud TPU slices, GKE, Slurm and Open MPI, JAX finds the others by itself. Elsewhere each process
is told through JAX_COORDINATOR_ADDRESS (host:port of the first), JAX_NUM_PROCESSES, JAX_PROCESS_ID.
JAX is imported where it is used: every command listens to Ctrl-C, `bigjax --help` too.
"""

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from bigjax.core import errors

PATIENCE = 60  # seconds without a sign of life after which a host counts as dead
INTERRUPTED, UNREAD = errors.INTERRUPTED, errors.UNREAD


def connect() -> None:
  """Join the other processes, where there are any; to be called before anything else of JAX.

  Raises:
    UserError: the environment names others but not how to find them.
  """
  import jax

  if jax.distributed.is_initialized():
    return
  address = os.environ.get('JAX_COORDINATOR_ADDRESS')
  told: dict[str, Any] = {}
  if address:
    try:
      num, mine = (int(os.environ[f'JAX_{name}']) for name in ('NUM_PROCESSES', 'PROCESS_ID'))
    except (KeyError, ValueError):
      raise errors.UserError(
        f'JAX_COORDINATOR_ADDRESS is {address!r}, but JAX_NUM_PROCESSES and JAX_PROCESS_ID are not '
        'both whole numbers; give all three, or none.'
      ) from None
    told = {'coordinator_address': address, 'num_processes': num, 'process_id': mine}
  try:
    jax.distributed.initialize(**told, heartbeat_timeout_seconds=PATIENCE)
  except ValueError:  # JAX found no cluster, and nobody named one
    if told:
      raise


def wait(what: str) -> None:
  """Wait until all processes are here; `what` names the place."""
  import jax
  from jax.experimental import multihost_utils

  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


def of_first(text: str) -> str:
  """Broadcasts a text of the first process to all; at most 2000 bytes of UTF-8."""
  import jax
  import numpy as np
  from jax.experimental import multihost_utils

  if jax.process_count() == 1:
    return text
  sent = np.zeros(2000, np.uint8)
  coded = np.frombuffer(text.encode()[: len(sent)], np.uint8)
  sent[: len(coded)] = coded
  got = np.asarray(multihost_utils.broadcast_one_to_all(sent))
  return got.astype(np.uint8).tobytes().rstrip(b'\0').decode(errors='ignore')


def end(words: str, status: int) -> NoReturn:
  """End this process at once, from whatever thread; nothing can come after its last words."""
  with contextlib.suppress(OSError, ValueError):
    if select.select([], [2], [], 1)[1]:  # who reads may have stopped reading
      os.write(2, f'{words}\n'.encode(errors='replace'))
  os._exit(status)


def unread() -> list[int]:
  """The numbers of stdout and stderr, where who read them has gone, as `head` and `tee` do."""
  poll = select.poll()
  for number in (1, 2):
    poll.register(number, 0)
  return [number for number, event in poll.poll(0) if event & select.POLLERR]


def drop_unread() -> None:
  """Send what nobody reads any more nowhere; what is being done goes on."""
  nowhere = os.open(os.devnull, os.O_WRONLY)
  for number in unread():
    os.dup2(nowhere, number)
  os.close(nowhere)


def quiet_libraries() -> None:
  """Keep what libraries' own threads and tasks print of their errors for logging's debug level.

  Whatever of it matters to a run is raised where the run waits for it, and is said there.
  """
  logging.getLogger('asyncio').setLevel(logging.CRITICAL)
  log = logging.getLogger(__name__).debug
  sys.excepthook = lambda *error: log('in the background', exc_info=error)  # tensorstore
  sys.unraisablehook = lambda it: log(
    'in the background',
    exc_info=it.exc_value and (it.exc_type, it.exc_value, it.exc_traceback),
  )


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Within, an error on one of several hosts ends its process at once.

  An orderly exit would wait for the others, who wait for this one in the middle of a step; they
  end when they find it gone: on CPUs and GPUs at once, on TPUs after PATIENCE seconds.
  """
  import jax

  try:
    yield
  except BaseException as error:
    if jax.process_count() == 1:
      raise
    who = f'bigjax: process {jax.process_index()} of {jax.process_count()}'
    if isinstance(error, errors.UserError):
      end(f'{who}: {error}', errors.MISTAKE)
    if isinstance(error, KeyboardInterrupt):
      end(f'{who}: interrupted.', INTERRUPTED)
    traceback.print_exc()
    end(
      f'{who} ends, for the reason above. Where that is another host which died, start all of '
      'them again: the run goes on from its last checkpoint.',
      errors.FAILED,
    )


Hear = Callable[[int], bool]  # a signal -> whether it will be seen to


class Interrupts:
  """Hears signals at once, whatever the main thread is busy with, and ends a command in a sentence.

  By itself Python raises KeyboardInterrupt in the main thread: minutes late where that is in XLA's
  compiler, and else in the middle of some library, which may swallow it or print pages about it.
  Here the signal wakes a thread. In programs that never called `listen`, Ctrl-C stays what it is,
  but within `heard_by`.
  """

  def __init__(self):
    self._listening = False
    self._hear: Hear = lambda signum: False

  def listen(self) -> None:
    """From now on, Ctrl-C is heard; called once, by the main thread of a command."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a script
      return
    self._listening = True
    read, self._write = socket.socketpair()
    self._write.setblocking(False)
    signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, lambda *_: None)
    threading.Thread(target=self._act, args=[read], name='interrupts', daemon=True).start()

  def _act(self, read: socket.socket) -> None:
    """Deal with the numbers of signals as they come."""
    while True:
      for signum in read.recv(1):
        if signum == signal.SIGINT and not self._hear(signum):
          end('\nbigjax: interrupted.', INTERRUPTED)
        if signum == signal.SIGTERM:
          self._hear(signum)

  @contextlib.contextmanager
  def heard_by(self, hear: Hear, signals: Sequence[int]) -> Iterator[None]:
    """Within, `hear` is asked first about these signals; what it leaves is done as before."""
    if threading.current_thread() is not threading.main_thread():  # which may not set handlers
      yield
      return
    before = {s: signal.getsignal(s) for s in signals if signal.getsignal(s) != signal.SIG_IGN}

    def handler(signum, frame):
      known = before[signum]
      if not hear(signum) and callable(known):
        known(signum, frame)

    for signum in before:
      signal.signal(signum, (lambda *_: None) if self._listening else handler)
    self._hear, outer = hear, self._hear
    try:
      yield
    finally:
      self._hear = outer
      for signum, known in before.items():
        signal.signal(signum, known)


INTERRUPTS = Interrupts()  # signals are the process's


class Notice:
  """Whether a run was told to end: by SIGTERM, as before preemption, or Ctrl-C, on any host.

  A second Ctrl-C ends the process at once, and so does the first where there is no step to save.
  Among several processes JAX listens to SIGTERM, and all of them hear at the same step.

  Args:
    check: called after every step; raises where the run must not go on.
  """

  def __init__(self, check: Callable[[], None] = lambda: None):
    import jax

    self._check = check

    self._told, self._alone = threading.Event(), jax.process_count() == 1
    self._stepped = False
    self._stack = contextlib.ExitStack()

  def __enter__(self) -> 'Notice':
    signals = [signal.SIGINT, *([signal.SIGTERM] if self._alone else [])]
    self._stack.enter_context(INTERRUPTS.heard_by(self._hear, signals))
    return self

  def __exit__(self, *_) -> None:
    self._stack.close()

  def _hear(self, signum: int) -> bool:
    """Whether the run will save and end for this signal."""
    if signum == signal.SIGINT and (self._told.is_set() or not self._stepped):
      return False
    if signum == signal.SIGINT:
      with contextlib.suppress(OSError):  # print may be what was interrupted
        os.write(2, b'\ntold to end: saving; Ctrl-C again ends at once, from the last checkpoint\n')
      if not self._alone:
        os.kill(os.getpid(), signal.SIGTERM)
    self._told.set()
    return True

  def reached(self, step: int) -> bool:
    """Whether all hosts are to save at this step and end; called after every step."""
    from jax.experimental import multihost_utils

    self._check()
    self._stepped = True
    if self._alone:
      return self._told.is_set()
    return multihost_utils.reached_preemption_sync_point(step)
