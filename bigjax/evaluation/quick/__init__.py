"""Scores: functions of arrays in, (name, value) out. One file per kind, found by its name."""

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType

import numpy as np

from bigjax.core import errors
from bigjax.data import Labelled
from bigjax.evaluation.metrics.by_class import GROUPS, Groups

NEIGHBOURS = 3  # k of precision and coverage
BY_GROUP = ('agreement', 'std_ratio')  # told of groups of classes, too

Scores = dict[str, float]
RealImages = Callable[[int], Labelled]  # at most so many real images, evenly chosen


def _evaluator(name: str) -> ModuleType:
  """evaluation/quick/NAME.py, which has `make` and the names of its SCORES.

  Raises:
    UserError: no such evaluator.
  """
  known = [module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg]
  if name not in known:
    raise errors.UserError(
      f'eval.name is {name!r}{errors.did_you_mean(name, known)}; '
      f'expected one of: {", ".join(known)}.'
    )
  return importlib.import_module(f'{__name__}.{name}')


def scores(name: str, grouped: bool = False) -> tuple[str, ...]:
  """Names of the scores of an evaluator.

  Args:
    name: of it.
    grouped: whether it is told groups of classes.
  Raises:
    UserError: no such evaluator.
  """
  names = _evaluator(name).SCORES
  more = [f'{one}_{group}' for group in GROUPS for one in BY_GROUP if one in names]
  return (*names, *(more if grouped else ()))


def predicts(name: str) -> bool:
  """Whether an evaluator scores predictions of held-out clips, in the place of samples.

  Raises:
    UserError: no such evaluator.
  """
  return getattr(_evaluator(name), 'PREDICTS', False)


def floor_name(name: str) -> str:
  """What an evaluator's floor is of, in a few words: 'real' where it does not say.

  Raises:
    UserError: no such evaluator.
  """
  return getattr(_evaluator(name), 'FLOOR_OF', 'real')


def of_groups(groups: Groups, labels: np.ndarray, score: Callable[[np.ndarray], Scores]) -> Scores:
  """{NAME_GROUP: a score of the samples of these classes alone}; none of a group without samples.

  Args:
    groups: of classes.
    labels: int [n], of the samples.
    score: (bool [n], which samples) -> {NAME: value}.
  """
  found = {}
  for group, classes in groups:
    of = np.isin(labels, classes)
    if of.any():
      found |= {f'{name}_{group}': float(value) for name, value in score(of).items()}
  return found


def load(
  name: str, train: RealImages, held_out: RealImages, groups: Groups = (), **more: int
) -> tuple[Callable[[Labelled], Scores], Scores]:
  """An evaluator: (score samples, their real-against-real floor).

  Args:
    name: of it.
    train, held_out: real images.
    groups: of classes, whose agreement and std_ratio are told by themselves, too.
    more: of one that `predicts`: num_given frames, num clips.
  Raises:
    UserError: no such evaluator, or not enough images for it.
  """
  return _evaluator(name).make(train, held_out, groups, **more)
