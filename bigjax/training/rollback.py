"""What a run makes of the watchdog's alarms: a line, an end, or a way back (events.jsonl).

Going back means the newest checkpoint before the trouble, another seed, and the changes of
watch.patch, all of it written in history.json: `train` then runs again under that history.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from bigjax.core import checkpoint, errors, files, processes, ranges
from bigjax.training import history as histories
from bigjax.training import watchdog
from bigjax.training.program import Program
from bigjax.training.records.logs import Say

BACK = 'rolled back'


class RollBack(Exception):
  """The watchdog wants to go back; `alarm` says why."""

  def __init__(self, alarm: watchdog.Alarm):
    super().__init__(alarm.words)
    self.alarm = alarm


class AlarmHandler:
  """Applies `watch.policy` to an alarm: warn, stop, or roll back to before its onset.

  Alarms are kept in events.jsonl.

  Args:
    config: of the run, with its group `watch`.
    program: its stages, and its game, which knows what helps.
    workdir: where it lives.
    history: of the run.
    first: the step that it begins or goes on at.
    say: prints a line.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    program: Program,
    workdir: str,
    history: histories.History,
    first: int,
    say: Say,
  ):
    self._policy, self._most, self._say = config.watch.policy, config.watch.most, say
    self._done = sum(entry['reason'].startswith(BACK) for entry in history)
    self._remedies = program.algorithm.remedies
    begins = [first for first, _ in program.stages]
    self._watchdog = watchdog.Watchdog(
      config.watch, config.run.best, program.algorithm.sampled, begins
    )
    self._path = os.path.join(workdir, 'events.jsonl')
    main = jax.process_index() == 0
    self._events = files.JsonLines(self._path, first) if main else files.Null()
    if self._policy != 'off':
      for row in files.read_rows(os.path.join(workdir, 'metrics.jsonl')):
        if histories.newest(history) <= row['step'] <= first:
          self._watchdog.see(row)

  def see(self, step: int, values: Mapping[str, float]) -> None:
    """Look at a row of numbers.

    Raises:
      RollBack: the run is to go back to before the trouble.
      UserError: it is to end, or has gone back too often.
    """
    if self._policy == 'off':
      return
    for alarm in self._watchdog.see({'step': step, **values}):
      self._events.write({**dataclasses.asdict(alarm), 'policy': self._policy})
      self._say(f'alarm at step {alarm.step}, since {alarm.onset}: {alarm.signal}: {alarm.words}')
      if self._policy == 'rollback' and self._done < self._most:
        raise RollBack(alarm)
      if self._policy != 'warn':
        often = f' after {self._done} roll-backs' if self._policy == 'rollback' else ''
        raise errors.UserError(
          f'the watchdog ends this run{often}: {alarm.words} (since step {alarm.onset}); look at '
          f'vital_signs.png, and {self._remedies} with --change, or set watch.policy=warn.'
        )

  def events(self) -> list[dict[str, Any]]:
    """Return the alarms so far."""
    return files.read_rows(self._path)

  def close(self) -> None:
    self._events.close()


def go_back(
  workdir: str,
  config: ml_collections.ConfigDict,
  history: histories.History,
  alarm: watchdog.Alarm,
  say: Say,
) -> histories.History:
  """Set the checkpoints since the trouble aside, and return the history of a run that begins there.

  It goes on with another seed, and with the changes of watch.patch.
  """
  step = max((s for s in checkpoint.list_steps(workdir) if s < alarm.onset), default=0)
  position = checkpoint.read_meta(workdir, step)['position'] if step else 0
  processes.wait('going back')
  if jax.process_index() == 0:
    checkpoint.set_aside(workdir, step, 'rolled_back', say)
  patch = histories.read_patch(config.watch.patch, config)
  seed = (max(entry['seed'] for entry in history) + 1) % (ranges.SEED.most + 1)
  what = f' with {histories.format_patch(patch)}' if patch else ''
  reason = f'{BACK} from {alarm.step} to {step}{what}: {alarm.signal}: {alarm.words}'
  history = histories.append_entry(history, step, seed, patch, position, reason)
  if jax.process_index() == 0:
    histories.write(workdir, history)
  processes.wait('went back')
  say(f'{reason}; seed {seed}')
  return history
