"""The error that a user sees, and the sentences that help to mend it."""

import argparse
import difflib
import importlib.util
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from bigjax.core import paths

# Exit statuses of commands; the last two as shells have them.
DONE, FAILED, MISTAKE, INTERRUPTED, UNREAD = 0, 1, 2, 130, 141
STATUSES = {
  DONE: 'done, or told to end and saved',
  FAILED: 'a check failed, nothing fits, or a defect',
  MISTAKE: 'a sentence says what to mend',
  INTERRUPTED: 'by Ctrl-C',
  UNREAD: 'nobody reads the output any more',
}

FOREIGN = {'--network': '--params', '--outdir': '--out'}  # of other people's generators


class UserError(Exception):
  """A mistake of the user's. `__main__` prints its one sentence and exits with MISTAKE."""


class AbsentData(UserError):
  """The data of a config is not on this machine; what can be checked without it can go on."""


class Arguments(argparse.ArgumentParser):
  """An argument parser whose errors are UserErrors, like all others; a ~ means home in any word."""

  def parse_args(self, *args: Any, **kwargs: Any) -> argparse.Namespace:  # type: ignore[override]  # no namespace of another class
    """As argparse's, but that `--option=` with nothing behind it is a mistake, and ~ is home."""
    given = super().parse_args(*args, **kwargs)
    for action in self._actions:
      if action.nargs is None and action.default != '' and getattr(given, action.dest, 0) == '':
        raise needs_value(action.option_strings[0], self.prog)
    for name, value in vars(given).items():
      if isinstance(value, str):
        setattr(given, name, paths.expanded(value))
    return given

  def error(self, message: str) -> NoReturn:
    hint = ''
    if flag := re.match(r'unrecognized arguments: (--\w+)', message):
      options = [word for action in self._actions for word in action.option_strings]
      here = FOREIGN.get(flag[1])
      hint = f' (did you mean {here}?)' if here in options else did_you_mean(flag[1], options)
    raise UserError(f'{message}{hint}; see {self.prog} --help.')


def needs_value(flag: str, prog: str) -> UserError:
  """The error of an option that is given nothing."""
  return UserError(f'{flag} needs a value: {flag}=...; see {prog} --help.')


def is_installed(module: str) -> bool:
  """Whether a module can be imported; it is not."""
  try:
    return importlib.util.find_spec(module) is not None
  except ImportError:  # of a package around it
    return False


def need(what: str, extra: str, *modules: str) -> None:
  """Refuses what needs modules of an extra that are not here; imports none of them.

  Args:
    what: needs them.
    extra: of the package that brings them.
    modules: by the names that they are imported by.
  Raises:
    UserError: names the missing ones, and how to install them.
  """
  missing = [name for name in modules if not is_installed(name)]
  if missing:
    are = 'which is' if len(missing) == 1 else 'which are'
    raise UserError(
      f'{what} needs {" and ".join(missing)}, {are} not installed; run: '
      f"pip install 'bigjax[{extra}]'"
    )


def did_you_mean(given: str, known: Iterable[str]) -> str:
  """Return ' (did you mean X?)' for the closest known name, or '' when none is close."""
  close = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
  return f' (did you mean {close[0]}?)' if close else ''


def pick(name: str, table: Mapping[str, Any], what: str) -> Any:
  """Look a name up in a table of objects; `what` names the table in the error.

  Raises:
    UserError: the name is not in the table.
  """
  if name not in table:
    raise UserError(
      f'{what} is {name!r}{did_you_mean(str(name), table)}; expected one of: {", ".join(table)}.'
    )
  return table[name]
