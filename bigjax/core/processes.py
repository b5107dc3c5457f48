"""The processes of one run: how they find each other, and how they end together.

On Cloud TPU slices, GKE, Slurm and Open MPI, JAX finds the others by itself. Elsewhere each process
is told through JAX_COORDINATOR_ADDRESS (host:port of the first), JAX_NUM_PROCESSES, JAX_PROCESS_ID.
"""

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from bigjax.core import errors

PATIENCE = 60  # seconds without a sign of life after which a host counts as dead


def connect() -> None:
  """Join the other processes, where there are any; to be called before anything else of JAX.

  Raises:
    UserError: the environment names others but not how to find them.
  """
  if jax.distributed.is_initialized():
    return
  address = os.environ.get('JAX_COORDINATOR_ADDRESS')
  told = {}
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
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Within, an error on one of several hosts ends its process at once.

  An orderly exit would wait for the others, who wait for this one in the middle of a step; they
  end when they find it gone: on CPUs and GPUs at once, on TPUs after PATIENCE seconds.
  """
  try:
    yield
  except BaseException as error:
    if jax.process_count() == 1:
      raise
    who = f'bigjax: process {jax.process_index()} of {jax.process_count()}'
    if isinstance(error, errors.UserError):
      status, words = 2, f'{who}: {error}'
    elif isinstance(error, KeyboardInterrupt):
      status, words = 130, f'{who}: interrupted.'
    else:
      traceback.print_exc()
      status = 1
      words = (
        f'{who} ends, for the reason above. Where that is another host which died, start all of '
        'them again: the run goes on from its last checkpoint.'
      )
    print(words, file=sys.stderr, flush=True)
    os._exit(status)


class Notice:
  """Whether a run was told to end: by SIGTERM, here or on any of its hosts, as before preemption.

  Among several processes JAX listens, and all of them hear at the same step.
  """

  def __init__(self):
    self._told = threading.Event()
    self._before = None

  def __enter__(self) -> 'Notice':
    main = threading.current_thread() is threading.main_thread()  # others may not set handlers
    if jax.process_count() == 1 and main:
      self._before = signal.signal(signal.SIGTERM, lambda *_: self._told.set())
    return self

  def __exit__(self, *_) -> None:
    if self._before is not None:
      signal.signal(signal.SIGTERM, self._before)

  def reached(self, step: int) -> bool:
    """Return whether all hosts are to save at this step and end; called after every step."""
    if jax.process_count() == 1:
      return self._told.is_set()
    return multihost_utils.reached_preemption_sync_point(step)
