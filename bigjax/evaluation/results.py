"""What `bigjax evaluate` leaves of scores: rows with their protocol, pictures, tables."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from bigjax import data
from bigjax.algorithms.base.contract import Spec
from bigjax.core import errors
from bigjax.core.progress import say
from bigjax.evaluation import class_scores, patch_scores, plots
from bigjax.evaluation.class_scores import ByClass, Record
from bigjax.evaluation.feature_pass import FeaturePass
from bigjax.evaluation.metrics import registry
from bigjax.evaluation.of_networks import prediction_scores
from bigjax.evaluation.protocol import cell, protocol
from bigjax.sampling.sharing import addresses


@dataclasses.dataclass(frozen=True)
class Generated:
  """One column of the table: a generator at one truncation, scored with every seed."""

  what: str  # 'step 700', 'step 700, 0.5 (resample)'
  step: int | None
  spec: Spec | None
  card: Mapping[str, Any]
  scores: Mapping[str, Mapping[str, Any]]
  digest: str | None = None  # of the generator and of all that it is made of
  classes: Sequence[Record] = ()  # of --by_class
  about: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # more of its protocol


@dataclasses.dataclass(frozen=True)
class Floor:
  """What real images get that are not the reference: {score: value}, of how many, what is seen."""

  scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
  num: int = 0
  seen: Any = None


def write(folder: str, rows: Sequence[Mapping[str, Any]], name: str = 'scores.jsonl') -> None:
  """Add the rows to a file: of scores.jsonl, the protocol of each lies beside its scores.

  Raises:
    UserError: the folder cannot be written.
  """
  path = os.path.join(folder, name)
  try:
    os.makedirs(folder, exist_ok=True)
    with open(path, 'a', encoding='utf-8') as file:
      for row in rows:
        file.write(json.dumps(row) + '\n')
  except OSError as error:
    raise errors.UserError(
      f'{path!r} cannot be written ({error.strerror}); give another folder with --out.'
    ) from None


def at(spec: Spec | None) -> float | None:
  """The truncation of sampling settings, None where they have none."""
  return None if spec is None else spec.described().get('truncation') and spec.truncation


def draw(args: Any, rows: Sequence[Generated], floor: Mapping[str, float], title: str) -> None:
  """Draw scores against steps where there are several, and what truncation trades for what."""
  frame = prediction_scores.is_of_one_frame  # drawn apart
  scores = [{n: score for n, score in row.scores.items() if not frame(n)} for row in rows]
  points = [
    {'step': row.step, 'at': at(row.spec), 'scores': some}
    for row, some in zip(rows, scores, strict=True)
  ]
  if len({row.step for row in rows}) > 1:
    path = os.path.join(args.out, 'scores.png')
    plots.scores(path, points, floor, title)
    say(f'{path}: scores against step')
  if args.sweep:
    path = os.path.join(args.out, 'truncation.png')
    plots.truncation(path, points, floor, f'{title}, truncation by {rows[0].spec.dialect}')
    say(f'{path}: what truncation trades for what')
  classes = [record for row in rows for record in row.classes]
  if classes:
    path = os.path.join(args.out, 'by_class.png')
    plots.by_class(path, classes, title)
    say(f'{path}: scores of each class')


def shares(seconds: Mapping[str, float]) -> str:
  """Return where the time went."""
  total = max(sum(seconds.values()), 1e-9)
  words = ', '.join(f'{name} {value / total:.0%}' for name, value in seconds.items())
  return f'{total:.0f} s on the devices and with their results: {words}'


def overview(rows: Sequence[Mapping[str, Any]], floor: Mapping[str, float], num: int) -> str:
  """Return a Markdown table: a column per generator, a row per score, `num` real images last.

  Scores of patches and pairs follow in a table of their own layout (evaluation/patch_scores.py).
  """
  names = list(dict.fromkeys(name for row in rows for name in row['scores']))
  apart = [name for name in names if patch_scores.is_one(name)]
  predicted = [name for name in names if prediction_scores.is_one(name)]  # a table of their own
  names = [name for name in names if name not in (*apart, *predicted)]
  tables = [by_score(names, rows, floor, num)] if names else []
  if apart:
    shown = [(row['what'], {n: cell(score) for n, score in row['scores'].items()}) for row in rows]
    real_ones = (f'{num:,} real images', {n: f'{value:.4g}' for n, value in floor.items()})
    tables.append(patch_scores.table([*shown, *([real_ones] if floor else [])]))
  return '\n\n'.join(tables)


def by_score(
  names: Sequence[str], rows: Sequence[Mapping[str, Any]], floor: Mapping[str, float], num: int
) -> str:
  """A Markdown table with a row for each of these scores."""
  heads = ['score', *[row['what'] for row in rows], *([f'{num:,} real images'] if floor else [])]
  lines = ['| ' + ' | '.join(heads) + ' |', '|---' * len(heads) + '|']
  for name in names:
    cells = [cell(row['scores'][name]) if name in row['scores'] else '' for row in rows]
    kind = registry.without_num(name)
    real_ones = [f'{v:.4g}' for n, v in floor.items() if registry.without_num(n) == kind][:1]
    lines.append('| ' + ' | '.join([name, *cells, *(real_ones or [''] if floor else [])]) + ' |')
  return '\n'.join(lines)


def report(
  args: Any,
  rows: Sequence[Generated],
  look: FeaturePass,
  reference: Any,
  measures: Sequence[Any],
  floor: Floor,
  by_class: ByClass | None,
) -> None:
  """Write the records, each with its protocol; draw pictures, and print tables.

  Args:
    args: of the command.
    rows: what was scored.
    look, measures: what saw it; they know their part of the protocol.
    reference: what it was compared with.
    floor: what real images get.
    by_class: what scored each class; None where that was not asked for.
  Raises:
    UserError: the folder cannot be written.
  """
  written = []
  for row in rows:
    record = {
      'what': row.what, 'scores': row.scores, 'floor': floor.scores, 'floor_num': floor.num,
    }  # fmt: skip
    about = protocol(
      look, reference, args.num, args.seeds, row.spec, {**row.card, 'step': row.step}
    )
    about |= {'generator_digest': row.digest, **row.about}
    for one in measures:
      about |= one.about()
    written.append({**record, 'protocol': about})
  write(args.out, written)
  if by_class:
    write(args.out, [record for row in rows for record in row.classes], 'by_class.jsonl')
  given = args.workdir or addresses.shown(args.params or '') or args.images
  name = data.printable(os.path.basename(os.path.normpath(given)))
  draw(args, rows, floor.scores, f'{name}, {args.num:,} samples')
  if told := overview(written, floor.scores, floor.num):
    print(told)
  predictions = [(row.what, row.scores) for row in rows]
  prediction_scores.report(args.out, predictions, f'{name}, predictions')
  for row in rows if by_class else ():
    groups = by_class.groups(row.classes)
    print(f'\n{row.what}, by class\n\n{class_scores.table(row.classes, groups)}\n')
  if any(look.seconds.values()):
    print(shares(look.seconds))
