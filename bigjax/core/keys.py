"""A key of a config: its default, what it is, and which values fit."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
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

  def read(self, name: str, word: str) -> Any:
    """The number of a word, of a key that is one; see ranges.Range.read."""
    within = self.within
    assert within, name
    return within.read(name, word)

  def like(self, value: Any = None) -> str:
    """What fits, for an error; `value` is an example."""
    words = {int: 'a whole number', float: 'a number', bool: 'True or False', tuple: 'a tuple'}
    such_as = '' if value is None or self.value_type is bool else f', such as {value!r}'
    return words.get(self.value_type, 'a word') + (' or None' if self.kind else '') + such_as


Keys = Mapping[str, Key]
LARGEST_FLOAT = 1e9  # of rates, weights and ratios: far from where float32 ends


def with_defaults(keys: Keys, **of: Any) -> Keys:
  """Keys with other defaults, given as GROUP__KEY."""
  found = dict(keys)
  for name, value in of.items():
    name = name.replace('__', '.', 1)
    found[name] = dataclasses.replace(found[name], default=value)
  return found


# Words of other programs' keys, and what they are called here.
SYNONYMS = {
  'beta1': 'b1', 'beta2': 'b2', 'epochs': 'steps', 'image_size': 'resolution',
  'img_size': 'resolution', 'iterations': 'steps', 'iters': 'steps', 'learning_rate': 'lr',
  'size': 'resolution',
}  # fmt: skip


def suggestion(name: str, known: Iterable[str]) -> str:
  """' (did you mean KEY?)' for the known key that is nearest in meaning, '' where none is near.

  Not the nearest spelling as a whole, which within a group is any short key. The name without its
  group counts: it is misspelt, or shares half of its words (lr, gen_lr). In another group it is the
  very name or such words, never a spelling: data.path is no watch.patch.
  """
  known = list(known)
  group, _, key = name.rpartition('.')
  if of_group := [k for k in (f'{name}.name', f'{name}.source') if k in known]:
    return f' (did you mean {of_group[0]}?)'
  key = SYNONYMS.get(key, key)

  def nearness(other: str) -> tuple[float, bool]:
    its_group, _, its_key = other.rpartition('.')
    same = group in ('', its_group)
    words, its_words = set(key.split('_')), set(its_key.split('_'))
    shared = 0.8 * len(words & its_words) / len(words | its_words)
    spelling = difflib.SequenceMatcher(None, key, its_key).ratio()
    least = 0.7 if same else 0.9
    return max(shared, spelling if spelling >= least else 0), same

  best = max(known, key=nearness, default='')
  return f' (did you mean {best}?)' if best and nearness(best)[0] >= 0.4 else ''
