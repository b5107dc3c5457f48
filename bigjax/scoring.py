"""Scores of sets of images by name, and those of a run while it trains.

`evaluate` scores what lies on disk, `Scoring` the generator in training: the devices make and look
at samples between two steps; roots of matrices and distances between all pairs are the business of
a thread, beside the steps that follow.
"""

import concurrent.futures
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

import bigjax
from bigjax import build, data, parallel, plots, real, report, utils
from bigjax import features as networks
from bigjax.evaluators.scores import table
from bigjax.evaluators.scores.table import METRICS, Seen
from bigjax.latents import How
from bigjax.looker import Looker, Reference, cached_reference, chosen, open_network, say
from bigjax.real import Images

BATCH = 256  # images at a time, of a run's scores
SEED = 0  # of their latents


def refuse(metrics: Sequence[str], split: str, num_classes: int) -> None:
  """Refuse scores that cannot be had, before anything is computed.

  Args:
    metrics: asked for.
    split: of the reference, 'stats' where only its mean and covariance are known, '' for none.
    num_classes: of the samples, 0 where they have no labels.
  Raises:
    UserError: names the first.
  """
  for name in metrics:
    metric = METRICS[name]
    if metric.compares and not split:
      raise utils.UserError(
        f'--metrics={name} compares with real images; give --reference, such as tfds:cifar10/train.'
      )
    needs = [kept for kept in metric.keeps if kept != 'logits']
    if metric.compares and needs and split == 'stats':
      raise utils.UserError(
        f'--metrics={name} needs the real images themselves, --reference has only their mean and '
        'covariance; give a source such as tfds:cifar10/train.'
      )
    if 'labels' in needs and not num_classes:
      raise utils.UserError(f'--metrics={name} needs labels, which these images have not.')


def scored(
  samples: Seen, reference: Reference | None, metrics: Sequence[str], network: str, seed: int
) -> dict[str, float]:
  """Return {full name: value} of one set of samples."""
  split = reference.split if reference else ''
  found = {}
  for name in metrics:
    metric = METRICS[name]
    against = reference.seen if metric.compares else None
    for short, value in metric.score(samples, against, seed).items():
      found[table.full_name(short, metric, samples.num, split, network)] = float(value)
  return found


def warn(samples: Seen, reference: Reference | None, metrics: Sequence[str]) -> None:
  """Say what makes scores of so many samples doubtful."""
  for warning in table.warnings(samples, reference and reference.seen, metrics):
    say(f'warning: {warning}')


def over_seeds(each: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
  """Return {name: {value: mean over seeds, std: their standard deviation, seeds: each}}."""
  return {
    name: {
      'value': float(np.mean([scores[name] for scores in each])),
      'std': float(np.std([scores[name] for scores in each], ddof=1)) if len(each) > 1 else None,
      'each': [scores[name] for scores in each],
    }
    for name in each[0]
  }


def floor_of(
  look: Looker, other: Images, reference: Reference, metrics: Sequence[str], num: int
) -> tuple[dict[str, float], int]:
  """Return the scores of real images that are not in the reference, and their number.

  No generator need be better; `fid` of the reference and itself is there, too, and is 0.
  """
  kept = np.isin(np.arange(other.num), data.spread(other.num, num))
  most = min(num, other.num)
  batches = chosen(other.batches(look.batch), kept, look.batch)
  seen = look(batches, most, f'floor: {other.name}/{other.split}')
  return scored(seen, reference, metrics, look.network.name, 0), most


def protocol(
  look: Looker,
  reference: Reference | None,
  num: int,
  seeds: Sequence[int],
  how: How | None,
  card: Mapping[str, Any],
) -> dict[str, Any]:
  """Return everything that a score depends on, for whoever wants the same one again.

  Args:
    look: with the network.
    reference: that samples were compared with.
    num: of samples.
    seeds: of their latents.
    how: they were sampled; None of images that no generator made.
    card: of the generator, {} where there is none.
  """
  return {
    'bigjax': bigjax.__version__,
    'network': look.network.name,
    'network_digest': look.network.digest,
    'resizer': look.network.resizer,
    'reference': reference and f'{reference.name}/{reference.split}',
    'reference_digest': reference and reference.digest,
    'reference_num': reference and reference.seen.num,
    'num': num,
    'seeds': list(seeds) if how else None,
    'labels': 'every class in turn' if how else None,
    'truncation': str(how) if how else None,
    'dialect': how and how.dialect,
    'standing_passes': how and how.passes,
    'standing_batch': how and how.batch,
    'config_hash': card.get('config_hash'),
    'step': card.get('step'),
  }


class Off:
  """No scores while training."""

  def due(self, step: int) -> bool:
    del step
    return False

  def missing(self, step: int) -> bool:
    del step
    return False

  def finished(self, wait_for: int | None = None) -> list[tuple[int, dict[str, float]]]:
    del wait_for
    return []

  def close(self) -> None:
    pass


class Scoring:
  """Scores of the generator in training: WORKDIR/scores.jsonl and scores.png.

  Args:
    program: that trains.
    config: of the run; its group `scores` says what.
    workdir: of the run.
    card: of its generator.
    first: the step that the run begins or goes on at; rows after it are dropped.
  Raises:
    UserError: weights of the network, or the data, cannot be had.
  """

  def __init__(
    self,
    program: build.Program,
    config: ml_collections.ConfigDict,
    workdir: str,
    card: Mapping[str, Any],
    first: int,
  ):
    self._asked, self._sampler, self._card = config.scores, program.sampler, card
    self._metrics, split = check(config), config.scores.reference
    self._how = How(passes=config.eval.standing_passes, batch=config.eval.standing_batch)
    splits = real.open_source(
      config.data.source,
      config.data.resolution,
      config.data.channels,
      config.data.data_dir,
      config.data,
    )
    network = open_network(config.scores.features, config.scores.weights or None, splits['train'])
    keeps = frozenset(kept for name in self._metrics for kept in METRICS[name].keeps)
    self._look = Looker(network, keeps, program.mesh, BATCH)
    num = config.scores.num
    self._reference = cached_reference(self._look, splits[split], keeps, num)
    other = splits[{'train': 'test', 'test': 'train'}[split]]
    self._floor, self._floor_num = floor_of(self._look, other, self._reference, self._metrics, num)
    self._png = os.path.join(workdir, 'scores.png')
    self._title = f'{config.algorithm} on {config.data.source}, {num:,} samples'
    path = os.path.join(workdir, 'scores.jsonl')
    self._main = jax.process_index() == 0
    self._rows = report.JsonLines(path, first) if self._main else report.Null()
    self._points = [point(row) for row in report.read_rows(path)] if self._main else []
    self._steps = {row['step'] for row in self._points}
    self._thread = concurrent.futures.ThreadPoolExecutor(1)
    self._pending: dict[int, concurrent.futures.Future] = {}

  def due(self, step: int) -> bool:
    """Return whether a run is to be scored at this step."""
    return utils.due(step, self._asked.every)

  def missing(self, step: int) -> bool:
    """Return whether a run that goes on here ended before it had the scores of this step."""
    return step > 0 and self.due(step) and parallel.agreed(step not in self._steps)

  def begin(self, gen: Any, step: int) -> None:
    """Sample from a calibrated generator, look at the samples, and leave the rest to the thread."""
    num, classes = self._asked.num, len(self._card['class_names'])
    seen = self._look.samples(self._sampler, gen, self._how, num, classes, SEED)
    if not self._pending and not self._points:
      warn(seen, self._reference, self._metrics)
    if self._main:
      self._pending[step] = self._thread.submit(self._finish, seen, step)

  def _finish(self, seen: Seen, step: int) -> dict[str, Any]:
    """Compute the scores and return their row; in the thread."""
    scores = scored(seen, self._reference, self._metrics, self._look.network.name, SEED)
    card = {**self._card, 'step': step}
    return {
      'step': step,
      'what': f'step {step:,}',
      'scores': over_seeds([scores]),
      'floor': self._floor,
      'floor_num': self._floor_num,
      'protocol': protocol(self._look, self._reference, self._asked.num, [SEED], self._how, card),
    }

  def finished(self, wait_for: int | None = None) -> list[tuple[int, dict[str, float]]]:
    """Write the scores that the thread has computed since, and return them with their steps.

    Args:
      wait_for: wait for those of all steps before this one.
    """
    found = []
    for step, future in list(self._pending.items()):
      if not future.done() and (wait_for is None or step >= wait_for):
        break
      del self._pending[step]
      try:
        row = future.result()
      except Exception as error:  # days of training must not end for a score
        say(f'warning: no scores of step {step}: {type(error).__name__}: {error}')
        continue
      self._rows.write(row)
      self._points.append(point(row))
      found.append((step, {name: score['value'] for name, score in row['scores'].items()}))
    if found:
      plots.scores(self._png, self._points, self._floor, self._title)
    return found

  def close(self) -> None:
    self._thread.shutdown(cancel_futures=True)
    self._rows.close()


def point(row: Mapping[str, Any]) -> dict[str, Any]:
  """Return of a row what is drawn."""
  return {'step': row['step'], 'at': None, 'scores': row['scores']}


def check(config: ml_collections.ConfigDict) -> list[str]:
  """Return the scores that a config asks for, none where they are off.

  Raises:
    UserError: its group `scores` makes no sense.
  """
  asked = config.scores
  if not asked.every:
    return []
  names = [word.strip() for word in asked.metrics.split(',') if word.strip()]
  for name in names:
    utils.pick(name, METRICS, 'scores.metrics')
  utils.pick(asked.features, {**networks.NETWORKS, 'classifier': None}, 'scores.features')
  utils.pick(asked.reference, {'train': None, 'test': None}, 'scores.reference')
  if asked.num < 2:
    raise utils.UserError(f'scores.num is {asked.num}; give at least 2 (50,000 are usual).')
  if asked.every % config.run.eval_every:
    raise utils.UserError(
      f'scores.every is {asked.every}, which is not a multiple of run.eval_every, '
      f'{config.run.eval_every}: what is scored is what an evaluation made ready.'
    )
  return names


def start(
  program: build.Program,
  config: ml_collections.ConfigDict,
  workdir: str,
  card: Mapping[str, Any],
  first: int,
) -> Scoring | Off:
  """Return what scores a run; see Scoring."""
  if not config.scores.every:
    return Off()
  return Scoring(program, config, workdir, card, first)
