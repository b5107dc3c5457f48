"""Averages of the sampled player beside the one that is sampled, for any family (post-hoc EMA).

Karras et al. 2024: two averages by power functions are tracked and stored now and then, and after
training an average of any width is made of them (training/posthoc/). Here is the tracking: a
game around a game, which families need not know of. It lies in `aux`, as nothing that training
reads.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bigjax.algorithms.base.contract import (
  NONE_DUE,
  NOTHING,
  Algorithm,
  Batch,
  Due,
  Gen,
  Given,
  Loss,
  Metrics,
  Stage,
  State,
)
from bigjax.algorithms.base.posthoc import power_functions
from bigjax.core import errors

NAME = 'posthoc_ema'  # of the averages, in `aux`: {width: tree of weights}
KEY = 'ema.posthoc'


def width(std: float) -> str:
  """The name of an average by its width."""
  return f'{std:g}'


def bare(state: State) -> State:
  """The state as the game itself knows it."""
  return {**state, 'aux': {name: x for name, x in state['aux'].items() if name != NAME}}


@dataclasses.dataclass(frozen=True)
class Tracking:
  """A game that also keeps averages of its sampled player; all else is the game's own.

  Attributes:
    game: whose.
    stds: widths of their profiles.
  """

  game: Algorithm
  stds: tuple[float, ...]

  def __getattr__(self, name: str) -> Any:
    return getattr(self.game, name)

  def init(self, key: jax.Array, given: Given = NOTHING) -> State:
    state = self.game.init(key, given)
    params = state['players'][self.game.sampled]['params']
    copies = {width(std): jax.tree.map(jnp.copy, params) for std in self.stds}
    return {**state, 'aux': {**state['aux'], NAME: copies}}

  def step(
    self, state: State, batch: Batch, stage: Stage, due: Due = NONE_DUE
  ) -> tuple[State, Metrics]:
    new, metrics = self.game.step(bare(state), batch, stage, due)
    # Where an update was refused, the weights of this step are those of the one before.
    params, averages = new['players'][self.game.sampled]['params'], state['aux'][NAME]
    averages = {
      width(std): power_functions.updated(averages[width(std)], params, state['step'], std)
      for std in self.stds
    }
    return {**new, 'aux': {**new['aux'], NAME: averages}}, metrics

  def losses(self, state: State, batch: Batch, stage: Stage) -> dict[str, Loss]:
    return self.game.losses(bare(state), batch, stage)

  def probe(self, state: State, batch: Batch, held_out: Batch, stage: Stage) -> Metrics:
    return self.game.probe(bare(state), batch, held_out, stage)

  def generator(self, state: State, stage: Stage) -> Gen:
    return self.game.generator(bare(state), stage)


def tracking(game: Algorithm, stds: Sequence[float]) -> Algorithm:
  """The game, which keeps averages of these widths; itself where there are none.

  Raises:
    UserError: two are the same.
  """
  if len({width(std) for std in stds}) < len(stds):
    raise errors.UserError(
      f'{KEY} is {tuple(stds)}; give widths that differ, such as 0.05,0.1, or () for none.'
    )
  return Tracking(game, tuple(stds)) if stds else game
