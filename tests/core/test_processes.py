"""What signals do to a command and to a run."""

import signal
import subprocess
import sys

import pytest

from bigjax.core import processes

BUSY = 'hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)'  # minutes, in which Python runs no handler


class Command:
  """A Python program that has called `listen`, without JAX, and has printed a line."""

  def __init__(self, *lines, stdin=None):
    head = 'import hashlib, signal, sys, time', 'from bigjax.core import processes'
    code = '\n'.join([*head, *lines])
    self.process = subprocess.Popen(
      [sys.executable, '-c', code], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      text=True,
    )  # fmt: skip
    assert self.process.stdout.readline() == 'ready\n', self.process.stderr.read()

  def interrupt(self):
    self.process.send_signal(signal.SIGINT)

  def ended(self):
    """(Its exit status, all that it said on stderr)."""
    try:
      _, said = self.process.communicate(timeout=20)
    finally:
      self.process.kill()
    return self.process.returncode, said


LISTEN = 'processes.INTERRUPTS.listen()'
READY = 'print("ready", flush=True)'


def test_ctrl_c_ends_a_command_that_is_deep_in_some_library():
  command = Command(LISTEN, READY, BUSY)
  command.interrupt()
  assert command.ended() == (130, '\nbigjax: interrupted.\n')


def test_a_first_one_is_for_who_can_save_and_a_second_ends_at_once():
  command = Command(
    LISTEN,
    'heard = []',
    'def hear(signum):',
    '  heard.append(signum)',
    '  print("heard", flush=True)',
    '  return len(heard) == 1',
    'with processes.INTERRUPTS.heard_by(hear, [signal.SIGINT]):',
    f'  {READY}; {BUSY}',
  )
  command.interrupt()
  assert command.process.stdout.readline() == 'heard\n'
  command.interrupt()
  assert command.ended() == (130, '\nbigjax: interrupted.\n')


def test_a_command_in_the_background_of_a_script_stays_deaf():
  command = Command(
    'signal.signal(signal.SIGINT, signal.SIG_IGN)', LISTEN, READY, 'time.sleep(0.5)'
  )
  command.interrupt()
  assert command.ended() == (0, '')


def test_what_libraries_say_in_the_background_is_not_seen():
  command = Command(
    'processes.quiet_libraries()',
    'class Bad:',
    '  def __del__(self):',
    '    raise ValueError("unraisable")',
    'Bad()',
    'import asyncio',
    'asyncio.new_event_loop().call_exception_handler({"message": "never retrieved"})',
    READY,
    'try:',
    '  raise ValueError("of a callback")',
    'except ValueError:',
    '  sys.excepthook(*sys.exc_info())',
  )
  assert command.ended() == (0, '')


def test_a_run_from_python_hears_the_first_and_raises_the_second():
  before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
  with processes.Notice() as notice:
    with pytest.raises(KeyboardInterrupt):
      signal.raise_signal(signal.SIGINT)  # there is no step to save
    assert not notice.reached(1)
    signal.raise_signal(signal.SIGINT)
    assert notice.reached(2)
    with pytest.raises(KeyboardInterrupt):
      signal.raise_signal(signal.SIGINT)
  assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_sigterm_is_heard_before_the_first_step_too():
  with processes.Notice() as notice:
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    assert notice.reached(1)


def test_a_run_goes_on_when_who_reads_it_is_gone():
  """Ctrl-C ends the `tee` of `bigjax train 2>&1 | tee log` at once; the run has yet to save."""
  command = Command(
    'from bigjax.core import progress',
    'line = progress.Progress(0, 9, 1, sys.stderr)',
    READY,
    'sys.stdin.read()',
    'line.say("told to end")',
    'line.say("saved")',
    'print("saved", flush=True)',
    stdin=subprocess.PIPE,
  )
  command.process.stderr.close()
  command.process.stdin.close()
  assert command.process.stdout.read() == 'saved\n' and command.process.wait(20) == 0
