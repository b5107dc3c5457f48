"""The error that a user sees, and the sentences that help to mend it."""

import argparse
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn


class UserError(Exception):
  """A mistake of the user's. `__main__` prints its one sentence and exits with status 2."""


class Arguments(argparse.ArgumentParser):
  """An argument parser whose errors are UserErrors, like all others."""

  def parse_args(self, *args, **kwargs) -> argparse.Namespace:
    """As argparse's, but that `--option=` with nothing behind it is a mistake."""
    given = super().parse_args(*args, **kwargs)
    for action in self._actions:
      if action.nargs is None and action.default != '' and getattr(given, action.dest, 0) == '':
        raise needs_value(action.option_strings[0], self.prog)
    return given

  def error(self, message: str) -> NoReturn:
    raise UserError(f'{message}; see {self.prog} --help.')


def needs_value(flag: str, prog: str) -> UserError:
  """The error of an option that is given nothing."""
  return UserError(f'{flag} needs a value: {flag}=...; see {prog} --help.')


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
