"""Beginning a run from the weights of another: what fits is loaded, the rest is drawn anew.

Weights come from the checkpoint of a workdir, or from an exported or converted generator. A table
over classes (a leaf `embedding`) is loaded only where the classes are the same ones.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import safetensors.numpy

from bigjax.algorithms import generator_of
from bigjax.core import buckets, checkpoint, errors, files, trees
from bigjax.sampling import generator_file as cards
from bigjax.sampling.generator_file import is_weight, players_path

WeightsByPlayer = dict[str, dict[str, Any]]  # {player or 'ema': {path: array}}


class Row(NamedTuple):
  """A row of the report, of a module of a player: how many of its scalars were taken."""

  module: str
  loaded: int  # numbers of scalars
  new: int
  dropped: int
  why: str


def read(path: str) -> tuple[WeightsByPlayer, list[str]]:
  """Return the weights and class names at a workdir or an exported .safetensors file.

  An export alone has the averaged generator, whose norms stay folded in; it serves as the
  generator's weights too. A converted one also has the players.

  Raises:
    UserError: it is neither, or cannot be read.
  """
  if cards.is_workdir(path):
    path = buckets.local(path)
    _, card = cards.load_workdir(path)
    weights: WeightsByPlayer = {}
    for name, value in checkpoint.restore_part(path, card['step'], is_weight).items():
      player, _, leaf = name.removeprefix('players/').replace('/params/', '/', 1).partition('/')
      weights.setdefault(player, {})[leaf] = value
    return weights, card['class_names']
  gen, card = cards.load(path)
  generator = generator_of(card)
  params = trees.flat(generator.weights(gen))
  weights = {card['player']: dict(params), 'ema': dict(params)}
  if os.path.isfile(players_path(path)):
    try:
      stored = safetensors.numpy.load_file(players_path(path))
    except Exception as error:  # of safetensors: a type NumPy has not
      raise cards.damaged(repr(players_path(path)), error) from None
    files.check_weights(stored, players_path(path))
    for name, value in stored.items():
      player, _, leaf = name.partition('/')
      weights.setdefault(player, {})[leaf] = value
  return weights, card['class_names']


def match(
  weights: WeightsByPlayer, wanted: WeightsByPlayer, same_classes: bool
) -> tuple[WeightsByPlayer, list[Row]]:
  """Return the weights that fit a freshly made state, and what became of each module.

  Args:
    weights: as `read` returns them.
    wanted: arrays or shapes of the new run, by player and path.
    same_classes: whether a class index means the same in both.
  """
  given: WeightsByPlayer = {}
  rows: dict[str, Row] = {}
  for player in wanted:
    theirs = weights.get(player, {})
    given[player] = {}
    for path in [*wanted[player], *(p for p in theirs if p not in wanted[player])]:
      counts, why = [0, 0, 0], ''
      ours, other = wanted[player].get(path), theirs.get(path)
      if ours is None:
        counts[2], why = other.size, 'the new network has no such tensor'
      elif other is None:
        counts[1], why = ours.size, 'not among the weights'
      elif tuple(other.shape) != tuple(ours.shape):
        counts[1], counts[2] = ours.size, other.size
        why = f'{list(other.shape)} became {list(ours.shape)}'
      elif trees.is_table(path) and not same_classes:
        counts[1], counts[2], why = ours.size, other.size, 'other classes'
      else:
        counts[0] = ours.size
        given[player][path] = other.astype(ours.dtype)
      module = f'{player}/{path.split("/")[0]}'
      before = rows.get(module, Row(module, 0, 0, 0, ''))
      sums = [a + b for a, b in zip(before[1:4], counts, strict=True)]
      rows[module] = Row(module, *sums, before.why or why)
  return given, list(rows.values())


def summary(rows: Sequence[Row]) -> str:
  """Return the rows as text, with sums."""
  lines = [f'{"":24}{"loaded":>12}{"new":>12}{"dropped":>12}']
  for row in rows:
    lines.append(
      f'{row.module:24}{row.loaded:12,}{row.new:12,}{row.dropped:12,}  {row.why}'.rstrip()
    )
  sums = [sum(row[i] for row in rows) for i in (1, 2, 3)]
  lines.append(f'{"all":24}{sums[0]:12,}{sums[1]:12,}{sums[2]:12,}')
  return '\n'.join(lines)


def begin(
  path: str, state: Mapping[str, Any], class_names: Sequence[str]
) -> tuple[WeightsByPlayer, str]:
  """Return (weights to begin with, the table for people) for a run whose state is `state`.

  Args:
    path: of a workdir or an exported generator.
    state: of the new run, or its shapes.
    class_names: of the new run.
  Raises:
    UserError: nothing at `path` fits.
  """
  weights, their_classes = read(path)
  wanted = {name: trees.flat(player['params']) for name, player in state['players'].items()}
  wanted['ema'] = trees.flat(state['ema'])
  given, rows = match(weights, wanted, list(class_names) == list(their_classes))
  if not any(
    leaf.ndim > 1 and not trees.is_table(p) for v in given.values() for p, leaf in v.items()
  ):
    raise errors.UserError(
      f'init_from={path}: none of its kernels has the name and shape of one in this network; '
      'give the weights of a network of the same kind, width and resolution.'
    )
  return given, summary(rows)
