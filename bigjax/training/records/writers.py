"""Where else a run's rows go: TensorBoard by clu's writers, wandb and mlflow by `run.writers`.

TensorBoard is written as the run goes. wandb and mlflow are mirrors of the workdir: a thread sends
what metrics.jsonl, scores.jsonl and samples/ have and the tracker has not, in order, each row once.
So nothing waits for a server, what it missed is sent later, a run may be given a tracker in its
middle, and rows that a killed process had written are not written twice. writers.json says how far
a tracker has come.
"""

import concurrent.futures
import dataclasses
import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np
from PIL import Image

from bigjax.core import config as core_config
from bigjax.core import errors, files
from bigjax.training import history as histories

Row = tuple[int, dict[str, float]]  # step, values
CLOCK = ('seconds', 'time', 'stage_change')  # of timing.jsonl, which are no metrics
MOST = 1000  # values that mlflow takes at once
MARKS = threading.Lock()  # of the one file in which several mirrors keep how far they are


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


# --- Trackers


@dataclasses.dataclass(frozen=True)
class About:
  """What a tracker is told of a run: name, workdir, {'group.key': value}, {tag: text}."""

  name: str
  workdir: str
  config: Mapping[str, Any]
  tags: Mapping[str, str]


class Tracker(Protocol):
  """A run in somebody's tracker.

  Attributes:
    run: its identifier there, by which the next session finds it.
    is_new: whether it was made now, so that it has no rows.
    place: of what a killed process leaves unfinished; '' where there is no such thing.
    keeps: whether a row that was handed over stays there, though the process is killed.
    at_once: how many values it is to be given in one call: of these all arrive, or none.
  """

  run: str
  is_new: bool
  place: str
  keeps: bool
  at_once: int

  def has(self, row: Row) -> bool:
    """Whether it certainly has a row."""

  def write(self, first: int, rows: Sequence[Row]) -> None:
    """Take rows, the first of which is the `first` of all of the run."""

  def picture(self, number: int, step: int, path: str) -> None:
    """Take a class grid, the `number` of all rows and grids of the run."""

  def close(self, done: bool) -> None:
    """End, with the run at its last step or not."""


class Wandb:
  """A run of Weights & Biases, online or offline as wandb is set to be (WANDB_MODE).

  Offline, wandb keeps what it is given in memory until the end: a killed process leaves an empty
  or partial folder, which the next session sets aside (WORKDIR/wandb/set_aside) and sends again.
  """

  def __init__(self, about: About, run: str, unfinished: str):
    import wandb

    if unfinished and os.path.isdir(os.path.join(about.workdir, unfinished)):
      aside = os.path.join(about.workdir, 'wandb', 'set_aside')
      os.makedirs(aside, exist_ok=True)
      os.rename(
        os.path.join(about.workdir, unfinished), os.path.join(aside, os.path.basename(unfinished))
      )
    self._image, self.is_new = wandb.Image, not run
    self._run = wandb.init(
      project=os.environ.get('WANDB_PROJECT', 'bigjax'),
      name=about.name,
      id=run or None,
      resume='allow' if run else None,
      dir=about.workdir,
      config={**about.config, **about.tags},
      allow_val_change=True,
      settings=wandb.Settings(console='off', silent=True),
    )
    # A row's own step lies along the axes: scores come later than rows of later steps.
    self._run.define_metric('step')
    self._run.define_metric('*', step_metric='step')
    self.run, self.keeps, self.at_once = self._run.id, not self._run.offline, 1
    folder = os.path.dirname(self._run.dir)
    self.place = os.path.relpath(folder, about.workdir) if self._run.offline else ''

  def has(self, row: Row) -> bool:
    del row
    return False

  def write(self, first: int, rows: Sequence[Row]) -> None:
    for number, (step, values) in enumerate(rows, first):
      self._run.log({'step': step, **values}, step=number, commit=True)

  def picture(self, number: int, step: int, path: str) -> None:
    self._run.log({'step': step, 'samples': self._image(path)}, step=number, commit=True)

  def close(self, done: bool) -> None:
    self._run.finish(exit_code=0 if done else None)


class Mlflow:
  """A run of MLflow, in the store that MLFLOW_TRACKING_URI names (else mlflow's own default)."""

  def __init__(self, about: About, run: str, unfinished: str):
    del unfinished
    import mlflow
    from mlflow.entities import Metric, Param

    self._metric, self._client, self._known = Metric, mlflow.MlflowClient(), {}
    self.place, self.keeps, self.at_once = 'open', True, MOST
    found = self._find(run)
    self.is_new = found is None
    if found is None:
      name = os.environ.get('MLFLOW_EXPERIMENT_NAME', 'bigjax')
      experiment = self._client.get_experiment_by_name(name)
      number = experiment.experiment_id if experiment else self._client.create_experiment(name)
      found = self._client.create_run(number, tags=dict(about.tags), run_name=about.name)
      params = [Param(key, self._text(value)) for key, value in about.config.items()]
      for i in range(0, len(params), 100):  # which mlflow takes at once
        self._client.log_batch(found.info.run_id, params=params[i : i + 100])
    else:
      self._client.update_run(run, status='RUNNING')
      for key, value in about.config.items():  # a param cannot change: run.steps can
        if found.data.params.get(key) != self._text(value):
          self._client.set_tag(run, f'now.{key}', self._text(value))
    self.run = found.info.run_id

  def _find(self, run: str) -> Any:
    """The run, or None where this store does not have it."""
    from mlflow.exceptions import MlflowException

    try:
      return self._client.get_run(run) if run else None
    except MlflowException as error:
      if error.error_code == 'RESOURCE_DOES_NOT_EXIST':
        return None
      raise

  @staticmethod
  def _text(value: Any) -> str:
    return str(value)[:6000]  # which mlflow takes

  @staticmethod
  def _name(name: str) -> str:
    return re.sub(r'[^\w\-. :/]', '_', name, flags=re.ASCII)  # which mlflow takes

  def has(self, row: Row) -> bool:
    step, values = row
    name = self._name(next(iter(values)))
    if name not in self._known:
      history = self._client.get_metric_history(self.run, name)
      self._known[name] = {(metric.step, metric.value) for metric in history}
    return (step, next(iter(values.values()))) in self._known[name]

  def write(self, first: int, rows: Sequence[Row]) -> None:
    del first
    now = int(1000 * time.time())
    metrics = [
      self._metric(self._name(name), value, now, step)
      for step, values in rows
      for name, value in values.items()
    ]
    for i in range(0, len(metrics), MOST):
      self._client.log_batch(self.run, metrics=metrics[i : i + MOST])

  def picture(self, number: int, step: int, path: str) -> None:
    del number, step
    self._client.log_artifact(self.run, path, 'samples')  # of a step; again, it is the same file

  def close(self, done: bool) -> None:
    self._client.set_terminated(self.run, 'FINISHED' if done else 'KILLED')


WRITERS: Mapping[str, Callable[[About, str, str], Tracker]] = {'wandb': Wandb, 'mlflow': Mlflow}


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
    errors.pick(name, WRITERS, 'run.writers')
    errors.need(f'run.writers={name}', name, name)


# --- Mirrors of a workdir


def taken(rows: Sequence[tuple[int, Row]], most: int) -> int:
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
    name: of WRITERS.
    about: the run.
    history: of the run: where that has changed, what comes after the change is sent anew.
    last: the run's last step.
    say: prints a line.
  Raises:
    UserError: the tracker refuses to begin.
  """

  def __init__(
    self, name: str, about: About, history: histories.History, last: int, say: Callable[[str], None]
  ):
    self._name, self._workdir, self._last, self._say = name, about.workdir, last, say
    self._path, self._history = os.path.join(about.workdir, 'writers.json'), len(history)
    mark = self._read().get(name, {})
    self._sent = {'rows': 0, 'metrics.jsonl': 0, 'scores.jsonl': 0, 'samples': 0}
    self._sent |= mark.get('sent', {})
    try:
      self._tracker = WRITERS[name](about, mark.get('run', ''), mark.get('open', ''))
    except Exception as error:  # whatever that library raises
      why = (str(error).strip().splitlines() or [''])[0][:200]
      raise errors.UserError(
        f'run.writers={name} cannot begin ({type(error).__name__}: {why}); mend that, or set '
        f'WANDB_MODE=offline or MLFLOW_TRACKING_URI, or leave {name} out of run.writers.'
      ) from None
    if self._tracker.is_new:
      self._sent = dict.fromkeys(self._sent, 0)
    elif mark.get('history', 1) != self._history:
      self._forget_after(histories.newest(history))
    self._unsure = {'metrics.jsonl', 'scores.jsonl'} if mark.get('open') else set()
    self._step = 0
    self._from_the_top()
    self._thread = concurrent.futures.ThreadPoolExecutor(1)
    self._pending: concurrent.futures.Future | None = None
    self._warned = ''
    self._write(self._tracker.place)
    say(f'{name}: run {self._tracker.run}')

  def _from_the_top(self) -> None:
    """Read all files from their beginning; what was sent is passed over."""
    names = ('metrics.jsonl', 'scores.jsonl', 'timing.jsonl')
    self._tails = {name: Tail(os.path.join(self._workdir, name)) for name in names}
    self._seen = dict.fromkeys(names, 0)
    self._times: dict[int, dict[str, float]] = {}  # of rows to come, by step

  def _forget_after(self, step: int) -> None:
    """What comes after a step is another run's now: rows of it are sent, whatever was before."""
    for key in ('metrics.jsonl', 'scores.jsonl'):
      rows = files.read_rows(os.path.join(self._workdir, key))
      self._sent[key] = min(self._sent[key], sum(row['step'] <= step for row in rows))
    self._sent['samples'] = min(self._sent['samples'], step)

  def _read(self) -> dict[str, Any]:
    return files.read_json(self._path) if os.path.exists(self._path) else {}

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
      self._pending = self._thread.submit(self._sync)

  def _sync(self) -> None:
    """Send everything that is new; what fails is tried again the next time."""
    try:
      for row in self._tails['timing.jsonl'].read():
        if values := {k: v for k, v in row.items() if k not in ('step', *CLOCK)}:
          self._times[row['step']] = values
      self._send('metrics.jsonl', self._measured)
      self._send('scores.jsonl', scored)
      self._send_pictures()
      self._warned = ''
    except Exception as error:  # days of training must not end for a tracker
      self._from_the_top()
      words = f'warning: {self._name}: {type(error).__name__}: {str(error).strip()[:200]}'
      if words != self._warned:
        self._say(f'{words}; what was not sent will be tried again')
      self._warned = words

  def _measured(self, row: Mapping[str, Any]) -> dict[str, float]:
    """The values of a row of metrics.jsonl, and of the clock where it is the first of its step."""
    return {k: v for k, v in row.items() if k != 'step'} | self._times.pop(row['step'], {})

  def _send(self, key: str, values_of: Callable[[Mapping[str, Any]], dict[str, float]]) -> None:
    """Send the rows of a file that were not sent."""
    rows: list[tuple[int, Row]] = []  # with the numbers of their lines
    for found in self._tails[key].read():
      self._seen[key] += 1
      values = values_of(found)
      if self._seen[key] > self._sent[key] and values:
        rows.append((self._seen[key], (found['step'], values)))
    # What a killed process had handed over, but had not lived to write down.
    while rows and key in self._unsure:
      if not self._tracker.has(rows[0][1]):
        self._unsure.remove(key)
        break
      rows.pop(0)
      self._sent['rows'] += 1
    while rows:
      num = taken(rows, self._tracker.at_once)
      self._tracker.write(self._sent['rows'], [row for _, row in rows[:num]])
      self._sent |= {'rows': self._sent['rows'] + num, key: rows[num - 1][0]}
      self._keep()
      del rows[:num]
    if self._seen[key] > self._sent[key]:
      self._sent[key] = self._seen[key]
      self._keep()

  def _send_pictures(self) -> None:
    folder = os.path.join(self._workdir, 'samples')
    names = os.listdir(folder) if os.path.isdir(folder) else []
    steps = sorted(int(name[:-4]) for name in names if re.fullmatch(r'\d+\.png', name))
    for step in steps:
      if self._sent['samples'] < step <= self._step:
        self._tracker.picture(self._sent['rows'], step, os.path.join(folder, f'{step:08d}.png'))
        self._sent |= {'samples': step, 'rows': self._sent['rows'] + 1}
        self._keep()

  def _keep(self) -> None:
    if self._tracker.keeps:
      self._write(self._tracker.place)

  def close(self) -> None:
    """Send the rest, and end."""
    self._thread.submit(self._sync).result()
    self._thread.shutdown()
    try:
      self._tracker.close(self._step >= self._last)
      self._write('')
    except Exception as error:
      self._say(f'warning: {self._name} did not end well: {type(error).__name__}: {error}')


class Mirrors:
  """Those that run.writers asks for, in the first of all processes."""

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    workdir: str,
    history: histories.History,
    tags: Mapping[str, str],
    say: Callable[[str], None],
  ):
    self._all: list[Mirror] = []
    name = os.path.basename(os.path.abspath(workdir))
    about = About(name, workdir, core_config.flatten(config), tags)
    try:
      for writer in names_of(config) if jax.process_index() == 0 else ():
        self._all.append(Mirror(writer, about, history, config.run.steps, say))
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
