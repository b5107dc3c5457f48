"""A key of a config: its default, what it is, and which values fit."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bigjax.core import ranges


@dataclasses.dataclass(frozen=True)
class Key:
  """One key of a config.

  Attributes:
    default: the value where a config states none; its type is that of the key.
    description: one line, for --dry_run, docs/config.md and errors.
    since: 0 for keys of the first version. Others are left out of a run's identity while at their
      default, so that adding a key changes no run's.
    kind: the type beside None, where None is a value; the default may be None.
    least, most, above, below: the ends of the range of its numbers (core/ranges.py). Where none is
      stated: from 0 on, to LARGEST or LARGEST_FLOAT.
    items: types of the items of a tuple; numbers among them are in that range, too.
    choices: the values allowed, where they are few.
    where: (another key, its values): the key exists only in configs with one of these.
  """

  default: Any
  description: str
  since: int = 0
  kind: type | None = None
  least: float | None = None
  most: float | None = None
  above: float | None = None
  below: float | None = None
  items: tuple[type, ...] = (int,)
  choices: tuple[str, ...] = ()
  where: tuple[str, ...] = ()

  @property
  def value_type(self) -> type:
    return self.kind or type(self.default)

  @property
  def within(self) -> ranges.Range | None:
    """The range of its numbers; None where it has none."""
    types = self.items if self.value_type is tuple else (self.value_type,)
    if not {int, float} & set(types):
      return None
    whole = float not in types
    least = 0 if self.least is None and self.above is None else self.least
    largest = ranges.LARGEST if whole else LARGEST_FLOAT
    most = largest if self.most is None and self.below is None else self.most
    return ranges.Range(least, most, self.above, self.below, whole)

  def like(self, value: Any = None) -> str:
    """What fits, for an error; `value` is an example."""
    words = {int: 'a whole number', float: 'a number', bool: 'True or False', tuple: 'a tuple'}
    such_as = '' if value is None or self.value_type is bool else f', such as {value!r}'
    return words.get(self.value_type, 'a word') + (' or None' if self.kind else '') + such_as


Keys = Mapping[str, Key]
LARGEST_FLOAT = 1e9  # of rates, weights and ratios: far from where float32 ends
