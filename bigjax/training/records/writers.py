"""Where else a run's rows go: TensorBoard by clu's writers, wandb and mlflow by `run.writers`.

TensorBoard is written as the run goes. wandb and mlflow are mirrors of the workdir: a thread sends
what metrics.jsonl, scores.jsonl and samples/ have and the tracker has not, in order, each row once.
So nothing waits for a server, what it missed is sent later, a run may be given a tracker in its
middle, and rows that a killed process had written are not written twice. writers.json says how far
a tracker has come.
"""

import concurrent.futures
import json
import os
import queue
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from PIL import Image

from bigjax.core import config as core_config
from bigjax.core import errors, files, progress
from bigjax.training import history as histories
from bigjax.training.records.trackers import TRACKERS, About, Row

CLOCK = ('seconds', 'time', 'stage_change')  # of timing.jsonl, which are no metrics
MARKS = threading.Lock()  # of the one file in which several mirrors keep how far they are
ROWS = ('metrics.jsonl', 'scores.jsonl')  # the files that a mirror sends
NONE = [0, 0]  # of a file's rows: before the first
NOTHING = {'rows': 0, 'samples': 0, **dict.fromkeys(ROWS, NONE)}  # has been sent
MANY = 2**31  # more rows than a step has
PATIENCE = 60.0  # seconds without a row sent, after which the end of a run waits no longer


class TensorBoard:
  """TensorBoard events through clu, which is imported when the first of them is written."""

  def __init__(self, logdir: str):
    self._logdir, self._opened = logdir, None

  @property
  def _writer(self) -> Any:
    if self._opened is None:
      from clu import metric_writers  # imports TensorFlow

      self._opened = metric_writers.SummaryWriter(self._logdir)
    return self._opened

  def write(self, row: Mapping[str, Any]) -> None:
    self._writer.write_scalars(row['step'], {k: v for k, v in row.items() if k != 'step'})

  def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
    """Write an image, uint8 [height, width, 1 or 3]."""
    self._writer.write_images(step, {name: pixels})

  def describe(self, step: int, config: Mapping[str, Any], texts: Mapping[str, str]) -> None:
    """Write what a run is: its config as hyperparameters, and texts in Markdown."""
    self._writer.write_texts(step, dict(texts))
    plain = {key: v if isinstance(v, bool | int | float | str) else str(v)
             for key, v in config.items()}  # fmt: skip
    self._writer.write_hparams(plain)
    self._writer.flush()

  def close(self) -> None:
    if self._opened is not None:
      self._opened.close()


def config_table(config: ml_collections.ConfigDict, defaults: Mapping[str, Any]) -> str:
  """A config as a table in Markdown; what is not the default is bold."""
  lines = ['| key | value |', '|---|---|']
  for key, value in core_config.flat(config).items():
    words = f'`{value!r}`'.replace('|', '\\|')
    is_default = key in defaults and defaults[key] == value
    lines.append(f'| {key} | {words if is_default else f"**{words}**"} |')
  return '\n'.join(lines)


def read_picture(path: str) -> np.ndarray:
  """A PNG as uint8 [height, width, 1 or 3]."""
  with Image.open(path) as picture:
    pixels = np.asarray(picture if picture.mode in ('L', 'RGB') else picture.convert('RGB'))
  return pixels if pixels.ndim == 3 else pixels[..., None]


def names_of(config: ml_collections.ConfigDict) -> list[str]:
  """The words of run.writers, whatever they are, each once."""
  words = (word.strip() for word in config.run.writers.split(','))
  return list(dict.fromkeys(word for word in words if word))


def check(config: ml_collections.ConfigDict) -> None:
  """Refuse writers that there are not, or that are not installed; imports none.

  Raises:
    UserError: names the first.
  """
  for name in names_of(config):
    errors.pick(name, TRACKERS, 'run.writers')
    errors.need(f'run.writers={name}', name, name)


# --- Mirrors of a workdir


class Worker:
  """A thread that does one thing after another, and that the end of a process does not wait for."""

  def __init__(self):
    self._queue: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=self._work, name='tracker', daemon=True).start()

  def submit(self, do: Callable[[], None]) -> concurrent.futures.Future:
    future: concurrent.futures.Future = concurrent.futures.Future()
    self._queue.put((do, future))
    return future

  def _work(self) -> None:
    while (found := self._queue.get()) is not None:
      do, future = found
      try:
        future.set_result(do())
      except BaseException as error:
        future.set_exception(error)

  def end(self) -> None:
    """Do nothing more once all is done."""
    self._queue.put(None)


def is_sent(found: Any) -> bool:
  """Whether this is what `NOTHING` grows to."""
  number = lambda value: isinstance(value, int)
  return (
    isinstance(found, dict)
    and found.keys() == NOTHING.keys()
    and all(isinstance(found[key], list) and list(map(number, found[key])) == [True] * 2
            for key in ROWS)
    and all(number(found[key]) for key in found if key not in ROWS)
  )  # fmt: skip


def taken(rows: Sequence[tuple[Any, Row]], most: int) -> int:
  """How many rows, at least one, have at most so many values."""
  num, values = 1, len(rows[0][1][1])
  while num < len(rows) and values + len(rows[num][1][1]) <= most:
    values += len(rows[num][1][1])
    num += 1
  return num


def scored(row: Mapping[str, Any]) -> dict[str, float]:
  """The values of a row of scores.jsonl."""
  return {name: score['value'] for name, score in row['scores'].items()}


class Tail:
  """Rows that a file of JSON lines has got since the last look; it may not be there yet."""

  def __init__(self, path: str):
    self._path, self._at = path, 0

  def read(self) -> list[dict[str, Any]]:
    if not os.path.exists(self._path):
      return []
    with open(self._path, encoding='utf-8') as file:
      file.seek(self._at)
      lines = file.read()
    whole = lines[: lines.rfind('\n') + 1]  # the last one may be half written
    self._at += len(whole.encode())
    return [json.loads(line) for line in whole.splitlines()]


class Mirror:
  """Sends what a workdir has to a tracker, each row and class grid once, in a thread.

  Args:
    name: of TRACKERS.
    about: the run.
    history: of the run: where that has changed, what comes after the change is sent anew.
    first, last: the step that this process begins or goes on at, and the run's last.
    say: prints a line.
  Raises:
    UserError: the tracker refuses to begin.
  """

  def __init__(
    self,
    name: str,
    about: About,
    history: histories.History,
    first: int,
    last: int,
    say: Callable[[str], None],
  ):
    self._name, self._workdir, self._say = name, about.workdir, say
    self._path = os.path.join(about.workdir, 'writers.json')
    self._history = json.loads(json.dumps(history))  # as it is read again
    self._step, self._last = first, last
    mark = self._read().get(name)
    mark = mark if isinstance(mark, dict) else {}
    # Rows and grids that were sent, the step of the last grid, and of the last row of each file its
    # step and which of that step's it is: whatever run.log_every was, and is now.
    self._sent = mark.get('sent') or dict(NOTHING)
    if not is_sent(self._sent):
      raise errors.UserError(
        f'{self._path!r} is damaged, or of another version of bigjax; without it, {name} gets a '
        'new run with all rows.'
      )
    try:
      self._tracker = TRACKERS[name](about, mark.get('run', ''), mark.get('open', ''))
    except Exception as error:  # whatever that library raises
      why = (str(error).strip().splitlines() or [''])[0][:200]
      raise errors.UserError(
        f'run.writers={name} cannot begin ({type(error).__name__}: {why}); mend that, or set '
        f'WANDB_MODE=offline or MLFLOW_TRACKING_URI, or leave {name} out of run.writers.'
      ) from None
    if self._tracker.is_new:
      self._sent = dict(NOTHING)
    else:
      self._forget_after(histories.differ_after(mark.get('history'), self._history))
    self._unsure = set(ROWS) if mark.get('open') else set()
    self._from_the_top()
    self._worker, self._left = Worker(), False
    self._pending: concurrent.futures.Future | None = None
    self._warned = ''
    self._write(self._tracker.place)
    say(f'{name}: run {self._tracker.run}')

  def _from_the_top(self) -> None:
    """Read all files from their beginning; what was sent is passed over."""
    names = (*ROWS, 'timing.jsonl')
    self._tails = {name: Tail(os.path.join(self._workdir, name)) for name in names}
    self._seen = dict.fromkeys(names, NONE)
    self._times: dict[int, dict[str, float]] = {}  # of rows to come, by step

  def _forget_after(self, step: float) -> None:
    """What comes after a step is another run's now: rows of it are sent, whatever was before."""
    for key in ROWS:
      if self._sent[key][0] > step:
        self._sent[key] = [step, MANY]
    self._sent['samples'] = min(self._sent['samples'], step)

  def _read(self) -> dict[str, Any]:
    found = files.read_json(self._path) if os.path.exists(self._path) else {}
    return found if isinstance(found, dict) else {}

  def _write(self, unfinished: str) -> None:
    """Keep how far the tracker is; `unfinished` is what it leaves behind if killed from here on."""
    mark = {
      'run': self._tracker.run, 'open': unfinished, 'history': self._history, 'sent': self._sent,
    }  # fmt: skip
    with MARKS:
      files.write_json(self._path, {**self._read(), self._name: mark})

  def push(self, step: int) -> None:
    """Begin to send what there is up to a step, unless that is still under way."""
    self._step = step
    if self._pending is None or self._pending.done():
      self._pending = self._worker.submit(self._sync)

  def _sync(self) -> None:
    """Send everything that is new; what fails is tried again the next time."""
    try:
      # The clock's rows last: each is written before the row that it is of.
      measured, later = (list(self._tails[f'{of}.jsonl'].read()) for of in ('metrics', 'scores'))
      for row in self._tails['timing.jsonl'].read():
        if values := {k: v for k, v in row.items() if k not in ('step', *CLOCK)}:
          self._times[row['step']] = values
      self._send('metrics.jsonl', measured, self._measured)
      self._send('scores.jsonl', later, scored)
      self._send_pictures()
      self._warned = ''
    except Exception as error:  # days of training must not end for a tracker
      self._from_the_top()
      self._unsure = set(ROWS)  # only the answer may have been lost
      words = f'warning: {self._name}: {type(error).__name__}: {str(error).strip()[:200]}'
      if words != self._warned:
        self._say(f'{words}; what was not sent will be tried again')
      self._warned = words

  def _measured(self, row: Mapping[str, Any]) -> dict[str, float]:
    """The values of a row of metrics.jsonl, and of the clock where it is the first of its step."""
    return {k: v for k, v in row.items() if k != 'step'} | self._times.pop(row['step'], {})

  def _send(
    self,
    key: str,
    new: Sequence[Mapping[str, Any]],
    values_of: Callable[[Mapping[str, Any]], dict[str, float]],
  ) -> None:
    """Send those of a file's new rows that were not sent."""
    rows: list[tuple[list[int], Row]] = []  # with their step, and which of its rows they are
    for found in new:
      step, num = self._seen[key]
      self._seen[key] = [found['step'], num + 1 if found['step'] == step else 1]
      values = values_of(found)
      if self._seen[key] > self._sent[key] and values:
        rows.append((self._seen[key], (found['step'], values)))
    # What a killed process had handed over, but had not lived to write down.
    while rows and key in self._unsure:
      if not self._tracker.has(rows[0][1]):
        self._unsure.remove(key)
        break
      self._sent |= {'rows': self._sent['rows'] + 1, key: rows.pop(0)[0]}
    while rows and not self._left:
      num = taken(rows, self._tracker.at_once)
      self._tracker.write(self._sent['rows'], [row for _, row in rows[:num]])
      self._sent |= {'rows': self._sent['rows'] + num, key: rows[num - 1][0]}
      self._keep()
      del rows[:num]

  def _send_pictures(self) -> None:
    folder = os.path.join(self._workdir, 'samples')
    names = os.listdir(folder) if os.path.isdir(folder) else []
    steps = sorted(int(name[:-4]) for name in names if re.fullmatch(r'\d+\.png', name))
    for step in steps:
      if self._sent['samples'] < step <= self._step and not self._left:
        self._tracker.picture(self._sent['rows'], step, os.path.join(folder, f'{step:08d}.png'))
        self._sent |= {'samples': step, 'rows': self._sent['rows'] + 1}
        self._keep()

  def _keep(self) -> None:
    if self._tracker.keeps:
      self._write(self._tracker.place)

  def _end(self) -> None:
    """Send the rest, and end."""
    self._sync()
    if self._left:
      return
    try:
      self._tracker.close(self._step >= self._last)
      self._write('')
    except Exception as error:
      self._say(f'warning: {self._name} did not end well: {type(error).__name__}: {error}')

  def close(self) -> None:
    """Send the rest, and end; what a tracker does not take is left to the next session."""
    ended, before = self._worker.submit(self._end), None
    self._worker.end()
    while before != (before := dict(self._sent)):  # as long as it takes some
      if concurrent.futures.wait([ended], PATIENCE).done:
        return
    self._left = True
    self._say(
      f'warning: {self._name} has taken nothing for {progress.duration(PATIENCE)}; what was not '
      'sent will be when the same command is given again'
    )


class Mirrors:
  """Those that run.writers asks for, in the first of all processes."""

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    workdir: str,
    history: histories.History,
    first: int,
    tags: Mapping[str, str],
    say: Callable[[str], None],
  ):
    self._all: list[Mirror] = []
    name = os.path.basename(os.path.abspath(workdir))
    about = About(name, workdir, core_config.flatten(config), tags)
    try:
      for writer in names_of(config) if jax.process_index() == 0 else ():
        self._all.append(Mirror(writer, about, history, first, config.run.steps, say))
    except BaseException:
      self.close()
      raise

  def push(self, step: int) -> None:
    """Begin to send what there is up to a step."""
    for mirror in self._all:
      mirror.push(step)

  def close(self) -> None:
    for mirror in self._all:
      mirror.close()
