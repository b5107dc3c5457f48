"""How many parameters a tree has."""

import jax


def num_params(tree):
  """Number of scalars in a tree of arrays or shapes."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))
