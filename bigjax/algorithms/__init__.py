"""One straight-line file per family, with `make(config)` and `make_generator(architecture)`.

`compositions/` has what is made of several trained networks: `make_generator(architecture)` alone.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from bigjax.algorithms import compositions
from bigjax.core import errors


def family(name: str) -> Any:
  """Return the module bigjax/algorithms/NAME.py.

  Raises:
    UserError: no such algorithm.
  """
  known = [m.name for m in pkgutil.iter_modules(__path__) if not m.ispkg]
  if name not in known:
    raise errors.UserError(
      f'algorithm is {name!r}{errors.did_you_mean(name, known)}; '
      f'expected one of: {", ".join(known)}.'
    )
  return importlib.import_module(f'{__name__}.{name}')


def generator_of(card: Mapping[str, Any]) -> Any:  # its type would bring JAX with it
  """Return the contract.Generator that a card describes: a family's, or one composed of others.

  Raises:
    UserError: no such algorithm.
  """
  name = card['algorithm']
  module = compositions.find(name) or family(name)
  return module.make_generator(dict(card['architecture']))
