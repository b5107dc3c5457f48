"""Generators that are made of several trained ones; their cards hold the cards of the parts.

A module has `compose(...)`, which makes (gen, card) of others, and `make_generator(architecture)`.
"""

import importlib
import pkgutil
from typing import Any


def find(name: str) -> Any:
  """Return the module of a composition, or None where there is no such one."""
  known = [m.name for m in pkgutil.iter_modules(__path__)]
  return importlib.import_module(f'{__name__}.{name}') if name in known else None
