"""Scores: functions of arrays in, (name, value) out. One file per kind, found by its name."""

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType

from bigjax.core import errors
from bigjax.data import Labelled

NEIGHBOURS = 3  # k of precision and coverage

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


def scores(name: str) -> tuple[str, ...]:
  """What an evaluator scores.

  Raises:
    UserError: no such evaluator.
  """
  return _evaluator(name).SCORES


def load(
  name: str, train: RealImages, held_out: RealImages
) -> tuple[Callable[[Labelled], Scores], Scores]:
  """An evaluator: (score samples, their real-against-real floor).

  Raises:
    UserError: no such evaluator, or not enough images for it.
  """
  return _evaluator(name).make(train, held_out)
