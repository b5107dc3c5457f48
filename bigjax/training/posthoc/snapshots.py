"""Stored averages of the weights, from which others are made (post-hoc EMA).

algorithms/base/posthoc/ tracks averages by power functions. While training, they are written
to the workdir's folder `posthoc_ema`, a file whenever the step has grown by a twentieth, and
removed once they are older than a thousandth of it: at most some 150 files, however long the run.
Nothing is lost by that: how fine a profile can be told grows with its age. Every checkpoint has the
averages of its own step. A run that goes on from an earlier step forgets what came after it.
"""

import math
import os
import re
from collections.abc import Callable
from typing import Any

import jax

from bigjax.algorithms.base.posthoc.tracking import NAME
from bigjax.core import buckets, parallel, processes
from bigjax.sampling import generator_file as cards
from bigjax.training.program import Program, on_mesh

FOLDER = buckets.SNAPSHOTS
GROWTH = 1.05  # of the step, between two files
OLDEST = 1000  # times as old a step needs no such file


def stored(workdir: str) -> dict[int, str]:
  """{step: path} of the stored averages, ascending."""
  folder = os.path.join(workdir, FOLDER)
  names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
  found = [(re.fullmatch(r'(\d+)\.safetensors', name), name) for name in names]
  return {int(match[1]): os.path.join(folder, name) for match, name in found if match}


def due(step: int) -> bool:
  """Whether the averages after so many steps are stored."""
  age = lambda n: math.floor(math.log(n) / math.log(GROWTH))
  return step == 1 or age(step) > age(step - 1)


class Off:
  """Of runs that keep no such averages."""

  def take(self, state: Any, done: int) -> None:
    del state, done


class Snapshots:
  """Stores the averages of a run at the steps that are due.

  Args:
    program: of the run.
    workdir: where it lives; files of steps after the first are removed.
    first: the step that the run begins or goes on at.
  """

  def __init__(self, program: Program, workdir: str, first: int):
    self._workdir = workdir
    whole = jax.jit(lambda tree: tree, out_shardings=parallel.replicated(program.mesh))
    self._whole = on_mesh(program.mesh, whole)
    if jax.process_index() == 0:
      self._remove(lambda step: step > first)
    processes.wait('averages of later steps')

  def _remove(self, old: Callable[[int], bool]) -> None:
    for step, path in stored(self._workdir).items():
      if old(step):
        os.remove(path)

  def take(self, state: Any, done: int) -> None:
    """Write the averages after a step, where they are due."""
    if due(done):
      averages = self._whole(state['aux'][NAME])
      if jax.process_index() == 0:
        path = os.path.join(self._workdir, FOLDER, f'{done:08d}.safetensors')
        cards.save_tensors(path, jax.device_get(averages))
        self._remove(lambda step: step * OLDEST < done)


def make_snapshots(program: Program, workdir: str, first: int) -> Snapshots | Off:
  """What stores a run's averages, where it has any."""
  kept = NAME in program.shapes()['aux']
  return Snapshots(program, workdir, first) if kept else Off()
