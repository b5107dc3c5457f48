"""The batches of a run: training ones ahead of their use, and one that is held out."""

import collections
import itertools
import time
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

from bigjax import data
from bigjax.algorithms.base import configs
from bigjax.core import errors, parallel
from bigjax.training import history as histories
from bigjax.training import program

HELD_OUT = 4096  # images, at least, of which a held-out batch is drawn


def load_data(config: ml_collections.ConfigDict) -> tuple[ml_collections.ConfigDict, data.Source]:
  """Return the config, its number of classes read from the data where it is None, and the data.

  Raises:
    UserError: the data cannot be read, or does not fit the config.
  """
  configs.check(config)
  source = data.load(config.data)
  config = config.copy_and_resolve_references()
  config.data.num_classes = len(source.class_names)
  return config, source


def refuse_too_few(source: data.Source, program: program.Program) -> None:
  """Refuse a set that does not fill one minibatch.

  Raises:
    UserError: it does not.
  """
  _, num_examples = program.algorithm.stage(0).batch
  if source.num_train < num_examples:
    raise errors.UserError(
      f'the data has {source.num_train} training images, fewer than one batch of {num_examples}; '
      'give more images, or a smaller batch size.'
    )


class Batches:
  """The global batch of every step, two ahead of their use, and the time spent waiting for them."""

  def __init__(
    self,
    program: program.Program,
    source: data.Source,
    config: ml_collections.ConfigDict,
    history: histories.History,
    step: int,
  ):
    self._placed = _placed(program, source, config.data.flip, history, step)
    self._ahead: collections.deque[Any] = collections.deque()
    self._waited = 0.0

  def next(self, previous: Any) -> Any:
    """Return the next batch. Where `previous` (a step's metrics) is done by then, that was waiting.

    An upper bound: the devices may have finished at any time in between.
    """
    began = time.monotonic()
    while len(self._ahead) < 3:
      self._ahead.append(next(self._placed))
    if all(leaf.is_ready() for leaf in jax.tree.leaves(previous)):
      self._waited += time.monotonic() - began
    return self._ahead.popleft()

  def waited(self) -> float:
    """Return the seconds in which the devices had nothing to do but wait, since the last call."""
    waited, self._waited = self._waited, 0.0
    return waited


def _placed(
  program: program.Program, source: data.Source, flip: bool, history: histories.History, step: int
) -> Iterator[Any]:
  """Yield global batches; another batch shape or another seed begins a new stream."""
  algorithm, current = program.algorithm, None
  for now in itertools.count(step):
    shape, seed = algorithm.stage(now).batch, histories.seed_at(history, now)
    if (shape, seed) != current:
      current = shape, seed
      rows = parallel.local_rows(program.mesh, shape[1])
      position = histories.position_at(history, now, algorithm)
      stream = data.stream(source, seed, position, shape, rows, flip)
    yield parallel.to_global(program.mesh, next(stream))


def held_out_batch(program: program.Program, source: data.Source) -> Any:
  """Return one batch shaped as the step's, from held-out images (repeated where they are few)."""
  num_minibatches, num_examples = program.algorithm.stage(0).batch
  images, labels = source.held_out(max(HELD_OUT, num_minibatches * num_examples))
  labels = data.one_label(labels)
  rows = parallel.local_rows(program.mesh, num_examples)
  pick = np.arange(num_minibatches)[:, None] * num_examples + rows[None]
  pick = np.random.RandomState(0).permutation(len(images))[pick % len(images)]
  return parallel.to_global(program.mesh, {'image': images[pick], 'label': labels[pick]})
