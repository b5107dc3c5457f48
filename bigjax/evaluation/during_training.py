"""Scores of a run while it trains.

The devices make and look at samples between two steps; roots of matrices and distances between all
pairs are the business of a thread, beside the steps that follow.
"""

import concurrent.futures
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import ml_collections

from bigjax.core import errors, files, parallel, progress
from bigjax.core.progress import say
from bigjax.evaluation import image_sets, plots
from bigjax.evaluation.feature_pass import FeaturePass, fitted
from bigjax.evaluation.image_sets import ImageBatch
from bigjax.evaluation.metrics import registry
from bigjax.evaluation.metrics.registry import METRICS, FeatureStats
from bigjax.evaluation.protocol import (
  about_generator,
  floor_of,
  over_seeds,
  protocol,
  refuse_clips,
  scored,
  warn,
)
from bigjax.evaluation.reference import cached_reference, no_network, open_network
from bigjax.evaluation.samples import BATCH, SEED
from bigjax.models.pretrained import registry as networks
from bigjax.sampling.sampler import Sampler


class Off:
  """No scores while training."""

  num = 0

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
    sampler: of the generator that is trained.
    config: of the run; its group `scores` says what.
    workdir: of the run.
    card: of its generator.
    first: the step that the run begins or goes on at; rows after it are dropped.
  Raises:
    UserError: weights of the network, or the data, cannot be had.
  """

  def __init__(
    self,
    sampler: Sampler,
    config: ml_collections.ConfigDict,
    workdir: str,
    card: Mapping[str, Any],
    first: int,
  ):
    self._every, self._card = config.scores.every, card
    self._metrics, split = check(config), config.scores.reference
    self._spec = sampler.generator.spec(card['sampling'])
    self._about = about_generator(sampler.generator)
    *frames, side, _, channels = sampler.generator.shape
    side = config.data.resolution or side  # samples of smaller stages are enlarged
    splits = image_sets.open_source(
      config.data.source, (*frames, side, side, channels), config.data.data_dir, config.data
    )
    network, weights = no_network(), config.scores.weights or None
    if registry.need_network(self._metrics):
      network = open_network(config.scores.features, weights, splits['train'])
    keeps = frozenset(kept for name in self._metrics for kept in METRICS[name].keeps)
    network = fitted(network, sampler.generator.shape)
    self._look = FeaturePass(network, keeps, sampler.mesh, BATCH)
    self.num = num = config.scores.num
    self._reference = cached_reference(self._look, splits[split], keeps, num)
    other = splits[{'train': 'test', 'test': 'train'}[split]]
    self._floor, seen = floor_of(self._look, other, self._reference, self._metrics, num)
    self._floor_num = seen.num
    self._png = os.path.join(workdir, 'scores.png')
    self._title = f'{config.algorithm} on {config.data.source}, {num:,} samples'
    path = os.path.join(workdir, 'scores.jsonl')
    self._main = jax.process_index() == 0
    self._rows = files.JsonLines(path, first) if self._main else files.Null()
    self._points = [point(row) for row in files.read_rows(path)] if self._main else []
    self._steps = {row['step'] for row in self._points}
    self._thread = concurrent.futures.ThreadPoolExecutor(1)
    self._pending: dict[int, concurrent.futures.Future] = {}

  def due(self, step: int) -> bool:
    """Return whether a run is to be scored at this step."""
    return progress.due(step, self._every)

  def missing(self, step: int) -> bool:
    """Return whether a run that goes on here ended before it had the scores of this step."""
    return step > 0 and self.due(step) and parallel.agreed(step not in self._steps)

  def begin(self, batches: Iterator[ImageBatch], step: int) -> None:
    """Look at samples, and leave the rest to the thread.

    Args:
      batches: of `num` samples, as `samples.draw` yields them with SEED and BATCH.
      step: that they are of.
    """
    seen = self._look(batches, self.num, f'samples of step {step:,}')
    if not self._pending and not self._points:
      warn(seen, self._reference, self._metrics)
    if self._main:
      self._pending[step] = self._thread.submit(self._finish, seen, step)

  def _finish(self, seen: FeatureStats, step: int) -> dict[str, Any]:
    """Compute the scores and return their row; in the thread."""
    scores = scored(seen, self._reference, self._metrics, self._look.network.name, SEED)
    card = {**self._card, 'step': step}
    about = protocol(self._look, self._reference, self.num, [SEED], self._spec, card)
    return {
      'step': step,
      'what': f'step {step:,}',
      'scores': over_seeds([scores]),
      'floor': self._floor,
      'floor_num': self._floor_num,
      'protocol': about | self._about,
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


def metrics_of(config: ml_collections.ConfigDict) -> list[str]:
  """The words of scores.metrics, whatever they are."""
  return [word.strip() for word in config.scores.metrics.split(',') if word.strip()]


def check(config: ml_collections.ConfigDict) -> list[str]:
  """The scores that a checked config asks for, none where they are off.

  Raises:
    UserError: its group `scores` makes no sense.
  """
  asked = config.scores
  if not asked.every:
    return []
  names = metrics_of(config)
  for name in names:
    errors.pick(name, METRICS, 'scores.metrics')
  if config.data.frames:
    refuse_clips(names, 'scores.metrics=')
  errors.pick(asked.features, {**networks.NETWORKS, 'classifier': None}, 'scores.features')
  errors.pick(asked.reference, {'train': None, 'test': None}, 'scores.reference')
  if not config.run.eval_every or asked.every % config.run.eval_every:
    raise errors.UserError(
      f'scores.every is {asked.every}, which is not a multiple of run.eval_every, '
      f'{config.run.eval_every}: what is scored is what an evaluation made ready.'
    )
  return names


def make_scorer(
  sampler: Sampler,
  config: ml_collections.ConfigDict,
  workdir: str,
  card: Mapping[str, Any],
  first: int,
) -> Scoring | Off:
  """The scorer of a run while it trains; one that does nothing where scores.every is 0."""
  if not config.scores.every:
    return Off()
  return Scoring(sampler, config, workdir, card, first)
