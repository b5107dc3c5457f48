"""How many parameters a tree has, and the players of a config."""

import jax


def num_params(tree):
  """Number of scalars in a tree of arrays or shapes."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def of_players(algorithm, names=('gen', 'disc')):
  """Numbers of parameters of an algorithm's players; nothing is computed."""
  players = jax.eval_shape(algorithm.init, jax.random.key(0))['players']
  return tuple(num_params(players[name]['params']) for name in names)
