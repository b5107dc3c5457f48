"""Scores: functions of arrays in, (name, value) out. One file per kind, found by its name."""

import importlib
import pkgutil
from collections.abc import Callable

from bigjax.core import errors
from bigjax.data import Labelled

NEIGHBOURS = 3  # k of precision and coverage

Scores = dict[str, float]
RealImages = Callable[[int], Labelled]  # at most so many real images, evenly chosen


def load(
  name: str, train: RealImages, held_out: RealImages
) -> tuple[Callable[[Labelled], Scores], Scores]:
  """The evaluator evaluation/quick/NAME.py: (score samples, their real-against-real floor).

  Raises:
    UserError: no such evaluator.
  """
  known = [module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg]
  if name not in known:
    raise errors.UserError(
      f'eval.name is {name!r}{errors.did_you_mean(name, known)}; '
      f'expected one of: {", ".join(known)}.'
    )
  return importlib.import_module(f'{__name__}.{name}').make(train, held_out)
