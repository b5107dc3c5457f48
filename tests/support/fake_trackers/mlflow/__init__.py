"""What bigjax uses of mlflow: a store in memory, which has a row as soon as it is handed over."""

import itertools
from types import SimpleNamespace

from mlflow.exceptions import MlflowException

RUNS, EXPERIMENTS = {}, {}
NUMBERS = itertools.count()


class MlflowClient:
  def get_experiment_by_name(self, name):
    return EXPERIMENTS.get(name)

  def create_experiment(self, name):
    EXPERIMENTS[name] = SimpleNamespace(experiment_id=str(len(EXPERIMENTS)))
    return EXPERIMENTS[name].experiment_id

  def create_run(self, experiment_id, tags, run_name):
    number = f'run{next(NUMBERS)}'
    RUNS[number] = SimpleNamespace(
      info=SimpleNamespace(run_id=number, status='RUNNING', run_name=run_name),
      data=SimpleNamespace(params={}, tags=tags), metrics=[], artifacts=[],
    )  # fmt: skip
    return RUNS[number]

  def get_run(self, run_id):
    if run_id not in RUNS:
      raise MlflowException(f'no run {run_id}', 'RESOURCE_DOES_NOT_EXIST')
    return RUNS[run_id]

  def update_run(self, run_id, status):
    RUNS[run_id].info.status = status

  set_terminated = update_run

  def set_tag(self, run_id, key, value):
    RUNS[run_id].data.tags[key] = value

  def log_batch(self, run_id, metrics=(), params=()):
    assert len(metrics) <= 1000 and len(params) <= 100
    for param in params:
      assert RUNS[run_id].data.params.setdefault(param.key, param.value) == param.value
    RUNS[run_id].metrics.extend(metrics)

  def get_metric_history(self, run_id, name):
    return [metric for metric in RUNS[run_id].metrics if metric.key == name]

  def log_artifact(self, run_id, path, folder):
    RUNS[run_id].artifacts.append((folder, path))
