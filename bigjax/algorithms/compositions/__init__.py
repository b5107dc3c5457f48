"""Generators that are made of several trained ones; their cards hold the cards of the parts.

A module has `compose(...)`, which makes (gen, card) of others, and `make_generator(architecture)`.
"""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

from bigjax.core import errors

ORIGIN = ('license', 'converted_from', 'config_hash', 'step', 'data')  # of a part, in its card


def find(name: str) -> Any:
  """Return the module of a composition, or None where there is no such one."""
  known = [m.name for m in pkgutil.iter_modules(__path__)]
  return importlib.import_module(f'{__name__}.{name}') if name in known else None


def origins(cards: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """What the cards of the parts say of where each comes from, and what is allowed with it."""
  return [{key: card[key] for key in ORIGIN if key in card} for card in cards]


def check_names(ours: Sequence[str], theirs: Sequence[str], names: tuple[str, str]) -> None:
  """Refuse classes that are not the same ones. Numbers are no names, nor is one class's.

  Args:
    ours, theirs: names of as many classes.
    names: what the user calls whose classes they are.
  Raises:
    UserError: names the first that differ.
  """
  ours, theirs = list(ours), list(theirs)
  numbers = [str(i) for i in range(len(ours))]
  if len(ours) == 1 or ours == theirs or numbers in (ours, theirs):
    return
  at = next(i for i, name in enumerate(ours) if name != theirs[i])
  raise errors.UserError(
    f'class {at} is {ours[at]!r} in {names[0]} and {theirs[at]!r} in {names[1]}; give what was '
    'trained with the same classes in the same order.'
  )
