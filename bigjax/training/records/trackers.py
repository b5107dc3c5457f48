"""A run in somebody's tracker, Weights & Biases or MLflow, imported where they are asked for.

What is sent, and when, is writers.py's to say; here is how each of them takes rows and pictures,
and what becomes of these where the process is killed.
"""

import dataclasses
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from bigjax.core import progress

Row = tuple[int, dict[str, float]]  # step, values
MOST = 1000  # values that mlflow takes at once


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

  @progress.ticking('mlflow begins')  # which may wait for its server for minutes
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
    self._known.clear()
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


TRACKERS: Mapping[str, Callable[[About, str, str], Tracker]] = {'wandb': Wandb, 'mlflow': Mlflow}
