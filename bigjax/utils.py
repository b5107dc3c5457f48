"""Small things for every floor: the error a user sees, tree paths, periods, durations."""

import argparse
import difflib
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp


class UserError(Exception):
  """A mistake of the user's. `__main__` prints its one sentence and exits with status 2."""


class Arguments(argparse.ArgumentParser):
  """An argument parser whose errors are UserErrors, like all others."""

  def error(self, message: str) -> NoReturn:
    raise UserError(f'{message}; see {self.prog} --help.')


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


def path_str(path: tuple) -> str:
  """Return a jax key path as 'a/b/c': dict keys, sequence indices and attribute names."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def flat(tree: Any) -> dict[str, Any]:
  """Return the leaves of a tree by their path, in tree order."""
  return {path_str(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def map_paths(fn: Callable[[str, Any], Any], tree: Any) -> Any:
  """Map `fn(path, leaf)` over a tree."""
  return jax.tree_util.tree_map_with_path(lambda path, leaf: fn(path_str(path), leaf), tree)


def is_table(path: str) -> bool:
  """Return whether a parameter has a row per class: layers.Embed's leaf `embedding`."""
  return path.rsplit('/', 1)[-1] == 'embedding'


def only(tree: Any, kind: type, what: str) -> Any:
  """Return the one node of this type in a tree, such as a link's state in an optimizer's.

  Raises:
    ValueError: there is none, or several; `what` names it.
  """
  is_one = lambda x: isinstance(x, kind)
  found = [node for node in jax.tree.leaves(tree, is_leaf=is_one) if is_one(node)]
  if len(found) != 1:
    raise ValueError(f'expected one {what} in the optimizer chain, found {len(found)}.')
  return found[0]


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Return the nested dict whose leaves lie at these paths: the inverse of `flat` on dicts."""
  tree: dict[str, Any] = {}
  for path, leaf in leaves.items():
    *parents, last = path.split('/')
    node = tree
    for name in parents:
      node = node.setdefault(name, {})
    node[last] = leaf
  return tree


def num_params(tree: Any) -> int:
  """Return the number of scalars in a tree of arrays or shapes."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def stable_hash(name: str) -> int:
  """Return 31 bits of a name, the same in every process (Python's `hash` is not)."""
  return zlib.crc32(name.encode()) & 0x7FFFFFFF


def at_least_float32(x: jax.Array) -> jax.Array:
  """Return x in at least float32: for moments, softmax, scores and reductions."""
  return x if x.dtype.itemsize >= 4 else x.astype(jnp.float32)


def all_finite(tree: Any) -> jax.Array:
  """Return whether every element of every leaf is finite, as a scalar bool."""
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def select(keep: jax.Array, new: Any, old: Any) -> Any:
  """Return `new` where the scalar bool `keep` holds, else `old`, leaf by leaf."""
  return jax.tree.map(lambda n, o: jnp.where(keep, n, o), new, old)


def due(step: int, every: int) -> bool:
  """Return whether a period ends at `step`; 0 switches it off."""
  return every > 0 and step % every == 0


def duration(seconds: float) -> str:
  """Return a duration for people: '41s', '3m05s', '2h07m', '3d04h'."""
  seconds = round(seconds)
  if seconds < 60:
    return f'{seconds}s'
  if seconds < 3600:
    return f'{seconds // 60}m{seconds % 60:02d}s'
  if seconds < 86400:
    return f'{seconds // 3600}h{seconds % 3600 // 60:02d}m'
  return f'{seconds // 86400}d{seconds % 86400 // 3600:02d}h'


def counted(items: Sequence[Any], what: str, patience: float = 3.0) -> Iterator[Any]:
  """Yield the items, and say on stderr every `patience` seconds how far it is and what is left."""
  began = said = time.monotonic()
  for i, item in enumerate(items):
    now = time.monotonic()
    if i and now - said > patience:
      said = now
      left = duration((now - began) * (len(items) - i) / i)
      print(f'{what}: {i:,} of {len(items):,}, {left} left', file=sys.stderr, flush=True)
    yield item


def cache_dir() -> str:
  """Return bigjax's cache folder: $BIGJAX_CACHE, $XDG_CACHE_HOME/bigjax or ~/.cache/bigjax."""
  base = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  return os.environ.get('BIGJAX_CACHE') or os.path.join(base, 'bigjax')
