"""Numbers that people give, on command lines, in configs and in files, held to their ranges."""

import argparse
import dataclasses
import math
import numbers
import operator
import re
from typing import Any

from bigjax.core import errors


@dataclasses.dataclass(frozen=True)
class Range:
  """The finite numbers between two ends; `str` says which, for --help and docs.

  Attributes:
    least, most: the ends, themselves allowed.
    above, below: the ends where they are not.
    whole: whether only whole numbers are meant.
  """

  least: float | None = None
  most: float | None = None
  above: float | None = None
  below: float | None = None
  whole: bool = True

  def __str__(self) -> str:
    low = f'above {text(self.above)}' if self.least is None else text(self.least)
    return f'{low} to {f"below {text(self.below)}" if self.most is None else text(self.most)}'

  def refusal(self, value: float) -> str:
    """What to give instead of a number out of range, '' for one within."""
    if not (isinstance(value, int) or math.isfinite(value)):
      return f'give a finite number, {self}'
    for end, outside, words in (
      (self.least, operator.lt, 'at least'),
      (self.most, operator.gt, 'at most'),
      (self.above, operator.le, 'more than'),
      (self.below, operator.ge, 'less than'),
    ):
      if end is not None and outside(value, end):
        return f'give {words} {text(end)}'
    return ''

  def check(self, name: str, value: float) -> None:
    """Refuse a number out of range.

    Raises:
      UserError: names it.
    """
    wrong = self.refusal(value)
    if wrong:
      raise errors.UserError(f'{name}{value!s:.80}; {wrong}.')

  def read(self, name: str, word: str) -> Any:
    """The number of a word, int or float.

    Args:
      name: of what it is for, such as '--num='; the errors begin with it.
      word: as it was given.
    Raises:
      UserError: it is none, or out of range.
    """
    try:
      value = whole_number(word) if self.whole else float(word)
    except ValueError:
      kind = 'a whole number' if self.whole else 'a number'
      raise errors.UserError(f'{name}{word[:80]}: give {kind}, {self}.') from None
    wrong = self.refusal(value)
    if wrong:
      raise errors.UserError(f'{name}{word[:80]}: {wrong}.')
    return value


LARGEST = 2**31 - 1  # what 32 bits hold: steps and sizes on the devices
SEED = Range(0, 2**32 - 1)  # of jax.random and NumPy: larger ones would repeat smaller ones' images
COUNT = Range(1, LARGEST)
FRAMES = Range(2, 100_000)  # of a film
FPS = Range(0.1, 240, whole=False)  # of a film, per second
EMA_STD = Range(above=0, below=0.289, whole=False)  # widths of averages; near its end, a plain mean
MOST_IMAGES = 10**8
IMAGES = Range(1, MOST_IMAGES)  # that one command makes or looks at
BATCH = Range(1, 2**20)  # examples at a time, over all devices


def text(number: float | None) -> str:
  """A number for people: 4,294,967,295, 0.5, 1e+09."""
  return f'{number:,}' if isinstance(number, int) else f'{number:g}'


def whole_number(word: str) -> int:
  """The whole number of a word of digits, perhaps with a sign.

  Raises:
    ValueError: it is none, or has thousands of digits.
  """
  if not re.fullmatch(r'\s*[+-]?\d[\d_]*\s*', word, re.ASCII):
    raise ValueError(word)
  return int(word)


UNITS = {'GiB': 2**30, 'GB': 10**9, 'MiB': 2**20, 'MB': 10**6}


def read_bytes(name: str, word: str) -> float:
  """The bytes of a word such as 24GiB.

  Args:
    name: of what it is for, such as '--memory='; the error begins with it.
    word: as it was given.
  Raises:
    UserError: it is none.
  """
  found = re.fullmatch(r'(\d{1,9}(?:\.\d{1,9})?) ?(\w+)', word, re.ASCII)
  if not found or found[2] not in UNITS or not float(found[1]):
    raise errors.UserError(f'{name}{word:.80}: give a size with its unit, such as 24GiB or 80GB.')
  return float(found[1]) * UNITS[found[2]]


def whole(name: str, given: Any, within: Range) -> int:
  """A whole number that Python code gave, as int.

  Raises:
    UserError: it is none, or out of range.
  """
  if isinstance(given, bool) or not isinstance(given, numbers.Integral):
    raise errors.UserError(f'{name} is {given!r}; give a whole number, {within}.')
  within.check(f'{name} is ', int(given))
  return int(given)


@dataclasses.dataclass(frozen=True)
class Reader:
  """The `type` of an option of argparse that takes a number of a range."""

  flag: str
  within: Range

  def __call__(self, word: str) -> Any:
    return self.within.read(f'{self.flag}=', word)


def add_option(
  parser: argparse.ArgumentParser, flag: str, within: Range, words: str, default: Any = None
) -> None:
  """Add an option that takes a number; --help says which, beside `words`."""
  words += f' ({within}{"" if default is None else f"; default: {default}"})'
  parser.add_argument(flag, type=Reader(flag, within), default=default, metavar='N', help=words)
