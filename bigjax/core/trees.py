"""Small things for every floor: the error a user sees, tree paths, periods, durations."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp


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


def stable_hash(name: str) -> int:
  """Return 31 bits of a name, the same in every process (Python's `hash` is not)."""
  return zlib.crc32(name.encode()) & 0x7FFFFFFF


def wide_dtype(x: jax.Array) -> Any:
  """The dtype that `at_least_float32` gives x."""
  return x.dtype if x.dtype.itemsize >= 4 else jnp.float32


def at_least_float32(x: jax.Array) -> jax.Array:
  """Return x in at least float32: for moments, softmax, scores and reductions."""
  return x if x.dtype.itemsize >= 4 else x.astype(jnp.float32)


def select(keep: jax.Array, new: Any, old: Any) -> Any:
  """Return `new` where the scalar bool `keep` holds, else `old`, leaf by leaf."""
  return jax.tree.map(lambda n, o: jnp.where(keep, n, o), new, old)
