"""The batches of a run: training ones ahead of their use, and one that is held out."""

import collections
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

from bigjax import data
from bigjax.algorithms.base import configs
from bigjax.algorithms.base.contract import Stage
from bigjax.core import errors, parallel
from bigjax.training import history as histories
from bigjax.training.program import Program

HELD_OUT = 4096  # images, at least, of which a held-out batch is drawn
AT_ONCE = 32  # images in memory at their full size
AHEAD = 3  # batches on the devices: the next stage's are made while the present one still runs


def load_data(config: ml_collections.ConfigDict) -> tuple[ml_collections.ConfigDict, data.Source]:
  """The config, its number of classes read from the data where it is None, and the data.

  Raises:
    UserError: the data cannot be read, or does not fit the config.
  """
  configs.check(config)
  source = data.load(config.data)
  config = config.copy_and_resolve_references()
  config.data.num_classes = len(source.class_names)
  return config, source


def check_data(source: data.Source, program: Program) -> None:
  """Refuse a set that does not fill one minibatch, or cannot be had at a stage's size.

  Raises:
    UserError: names the first such stage.
  """
  for first, stage in program.stages:
    if source.num_train < stage.examples:
      since = f' from step {first:,} on' if first else ''
      raise errors.UserError(
        f'the data has {source.num_train} training images, fewer than one batch of '
        f'{stage.examples}{since}; give more images, or a smaller batch size.'
      )
    for name, size in data.sizes(stage.inputs).items():
      data.check_size(source.size, size, f'the input {name!r} of step {first:,}')


class Batches:
  """The global batch of every step, ahead of its use, and the time spent waiting for them.

  Args:
    program: of the run.
    source: of the images.
    config: of the run.
    history: seeds, and positions in the order of the data.
    step: the first.
    waiting: is told of seconds that were spent waiting, right after them.
  """

  def __init__(
    self,
    program: Program,
    source: data.Source,
    config: ml_collections.ConfigDict,
    history: histories.History,
    step: int,
    waiting: Callable[[float], None] = lambda seconds: None,
  ):
    self._placed = _placed(program, source, config.data.flip, history, step)
    self._ahead: collections.deque[Any] = collections.deque()
    self._waited, self._waiting = 0.0, waiting

  def next(self, previous: Any) -> Any:
    """The next batch. Where `previous` (a step's metrics) is done by then, that was waiting.

    An upper bound: the devices may have finished at any time in between.
    """
    began = time.monotonic()
    while len(self._ahead) < AHEAD:
      self._ahead.append(next(self._placed))
    if all(leaf.is_ready() for leaf in jax.tree.leaves(previous)):
      spent = time.monotonic() - began
      self._waited += spent
      self._waiting(spent)
    return self._ahead.popleft()

  def waited(self) -> float:
    """Seconds in which the devices had nothing to do but wait, since the last call."""
    waited, self._waited = self._waited, 0.0
    return waited


def _placed(
  program: Program, source: data.Source, flip: bool, history: histories.History, step: int
) -> Iterator[Any]:
  """Yields global batches; another stage or another seed begins a new stream."""
  current = None
  for now in itertools.count(step):
    stage, seed = program.stage(now), histories.seed_at(history, now)
    if (stage, seed) != current:
      current = stage, seed
      rows = parallel.local_rows(program.mesh, stage.examples)
      position = histories.position_at(history, now, program.position)
      shape = stage.minibatches, stage.examples
      stream = data.stream(source, seed, position, shape, rows, flip, data.sizes(stage.inputs))
    yield parallel.to_global(program.mesh, only(stage, next(stream)))


def only(stage: Stage, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The arrays of a batch that a stage takes."""
  return {name: batch[name] for name, _ in stage.inputs}


def held_out_batch(program: Program, source: data.Source, stage: Stage) -> Any:
  """One batch shaped as a stage's, from held-out images (repeated where they are few)."""
  rows = parallel.local_rows(program.mesh, stage.examples)
  pick = np.arange(stage.minibatches)[:, None] * stage.examples + rows[None]
  numbers = data.subset(source.num_held_out, max(HELD_OUT, stage.num_images))
  numbers = np.random.RandomState(0).permutation(numbers)[pick % len(numbers)]
  # A few at a time at their full size: a batch of 512 at 4 px is 1.5 GB of photos of 1,024 px.
  parts = [
    {'label': data.one_label(labels)}
    | {name: data.shrunk(images, size) for name, size in data.sizes(stage.inputs).items()}
    for images, labels in data.in_batches(source.held_out_lookup, numbers.reshape(-1), AT_ONCE)
  ]
  whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
  batch = {name: array.reshape(*pick.shape, *array.shape[1:]) for name, array in whole.items()}
  return parallel.to_global(program.mesh, only(stage, batch))
