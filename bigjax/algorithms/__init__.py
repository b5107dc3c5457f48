"""One straight-line file per family, with `make(config)` and `make_generator(architecture)`."""

import importlib
import pkgutil
from typing import Any

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
