"""Several runs beside each other: what they differ in, their scores over seeds, their time."""

import argparse
import csv
import dataclasses
import math
import os
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bigjax.algorithms.base import configs
from bigjax.core import buckets, checkpoint, errors, files, plotting, progress
from bigjax.core import config as core_config
from bigjax.evaluation import plots, quick
from bigjax.training import history as histories
from bigjax.training.records import session as sessions

ASIDE = ('seed', 'data.data_dir', 'eval.published')  # what makes no other group
COUNTS = 'run.steps'  # of the keys that may change in a run, the one that makes another result
COLOURS = 10  # which matplotlib has in turn
BESIDE = 6  # differing keys that are columns of the table; more have a table of their own
IN_WORDS = 4  # of them in a legend
Curve = list[tuple[int, float]]  # (step, score), ascending


@dataclasses.dataclass(frozen=True)
class Run:
  """A run as its workdir tells it.

  Attributes:
    workdir: as given.
    seed: that it began with.
    config: {'group.key': value} as it is now, the seed and what changes no result left out.
    step: the last one that it has logged; 0 for none.
    last: that it is to have.
    images: real ones seen by its newest checkpoint, None before there is one.
    seconds: of wall clock, over all sessions; None where that was not kept.
    clock: these by part; {} where that was not kept.
    scores: {name: curve}.
    real: {name: what real images get}; {} of a run that has not ended.
    real_of: what that is of where it is not of real images; 'real'.
  """

  workdir: str
  seed: int
  config: Mapping[str, Any]
  step: int
  last: int
  images: int | None
  seconds: float | None
  clock: Mapping[str, float]
  scores: Mapping[str, Curve]
  real: Mapping[str, float]
  real_of: str


def read(workdir: str) -> Run:
  """The run of a workdir.

  Raises:
    UserError: there is none, or it is damaged.
  """
  try:
    return _read(workdir)
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise errors.UserError(
      f'{workdir!r} is damaged, or of another version of bigjax ({type(error).__name__}: {error}).'
    ) from None


def _read(workdir: str) -> Run:
  folder = buckets.local(workdir)
  if not os.path.isdir(folder):
    raise errors.UserError(f'there is no folder {workdir!r}; give workdirs of runs.')
  path = os.path.join(folder, 'config.json')
  if not os.path.exists(path):
    raise errors.UserError(f'{workdir!r} is no workdir of a run: it has no config.json.')
  config, history = files.read_json(path), histories.read(folder)
  if not isinstance(config, dict) or 'algorithm' not in config or history is None:
    raise errors.UserError(f'{workdir!r} is no workdir of a run: config.json or history.json.')
  for entry in history:
    config |= entry['patch']
  rows = files.read_rows(os.path.join(folder, 'metrics.jsonl'))
  later = files.read_rows(os.path.join(folder, 'scores.jsonl'))
  path = os.path.join(folder, 'summary.json')
  summary = files.read_json(path) if os.path.exists(path) else {}
  scores = {name: plotting.series(rows, name) for name in names_of(config)}
  for row in later:
    for name, score in row['scores'].items():
      scores.setdefault(name, []).append((row['step'], score['value']))
  end = summary.get('step', 0)
  for name, curve in scores.items():  # a last step off the periods has no row
    if name in summary and (not curve or curve[-1][0] < end):
      curve.append((end, summary[name]))
  clock = sessions.read(os.path.join(folder, 'clock.json'))
  return Run(
    workdir=workdir,
    seed=config.get('seed', 0),
    config=essence(config),
    step=max([end, *(row['step'] for row in rows)], default=0),
    last=config.get(COUNTS, 0),
    images=_position(folder),
    seconds=clock['seconds'] if clock['sessions'] else None,
    clock=summary.get('clock', {}),
    scores={
      name: [(int(step), float(value)) for step, value in curve]
      for name, curve in scores.items()
      if curve
    },
    real=summary.get('real', {}),
    real_of=summary.get('floor_of', 'real'),
  )


def _position(workdir: str) -> int | None:
  """Real images that a run had seen at its newest checkpoint; None where that does not say."""
  saved = checkpoint.list_steps(workdir)
  try:
    return checkpoint.read_meta(workdir, saved[-1]).get('position') if saved else None
  except errors.UserError:
    return None


def names_of(config: Mapping[str, Any]) -> Sequence[str]:
  """The scores that a run's evaluations give, by its config."""
  try:
    return quick.scores(config.get('eval.name', 'none'), config.get('data.imbalance', 1) > 1)
  except errors.UserError:  # another version's
    return ()


def essence(config: Mapping[str, Any]) -> dict[str, Any]:
  """What of a config makes another run: keys that a version before did not have, too."""
  try:
    config = core_config.completed(config, configs.keys(config))
  except errors.UserError:  # a family that this version does not have
    config = dict(config)
  keep = lambda key: key == COUNTS or not key.startswith((*core_config.FREE, *ASIDE))
  return {key: value for key, value in config.items() if keep(key)}


@dataclasses.dataclass(frozen=True)
class Figures:
  """One score of a run, or of a group's: at its last evaluation, and where it was best."""

  final: float
  final_step: int
  best: float
  best_step: int


def better(name: str) -> str:
  """What is better of a score: 'higher', 'lower', or of ratios to real images 'nearer to 1'."""
  if 'ratio' in name:
    return 'nearer to 1'
  return 'higher' if plots.is_higher_better(name) else 'lower'


WORSE = {  # (value) -> the less the better
  'higher': lambda value: -value, 'lower': lambda value: value,
  'nearer to 1': lambda value: abs(value - 1),
}  # fmt: skip


def figures(curve: Curve, name: str) -> Figures:
  """The last value of a score and its best one, by what is better."""
  finite = [point for point in curve if math.isfinite(point[1])] or curve
  best = min(finite, key=lambda point: WORSE[better(name)](point[1]))
  return Figures(curve[-1][1], curve[-1][0], best[1], best[0])


def grouped(runs: Iterable[Run]) -> list[list[Run]]:
  """Runs that differ in nothing but their seed together, in the order given."""
  groups: list[list[Run]] = []
  for run in runs:
    for group in groups:
      if group[0].config == run.config:
        group.append(run)
        break
    else:
      groups.append([run])
  return groups


def differing(groups: Sequence[Sequence[Run]]) -> list[str]:
  """Keys in whose values groups differ.

  One that only some families have is among them where those that have it differ.
  """
  every = [group[0].config for group in groups]
  keys = dict.fromkeys(key for config in every for key in config)
  found = {key: [config[key] for config in every if key in config] for key in keys}
  return [key for key, some in found.items() if any(value != some[0] for value in some)]


def values(group: Sequence[Run], name: str, which: str) -> list[float]:
  """A score of those runs of a group that have it, `which` final or best."""
  curves = [run.scores[name] for run in group if name in run.scores]
  return [getattr(figures(curve, name), which) for curve in curves]


def deviation(some: Sequence[float]) -> float:
  """The standard deviation of several values; NaN of one, or where one is not finite."""
  known = len(some) > 1 and all(map(math.isfinite, some))
  return statistics.stdev(some) if known else math.nan


def spread(some: Sequence[float]) -> str:
  """'mean +- standard deviation' of several values, the value of one, '-' of none."""
  if len(some) < 2:
    return f'{some[0]:.4g}' if some else '-'
  return f'{statistics.fmean(some):.4g} +- {deviation(some):.2g}'


def label(number: int, group: Sequence[Run], keys: Sequence[str]) -> str:
  """What a group is called in a legend."""
  words = [f'{key}={group[0].config[key]}' for key in keys if key in group[0].config]
  more = ', ...' if len(words) > IN_WORDS else ''
  num = f'{len(group)} run{"s" if len(group) > 1 else ""}'
  return f'{number}: {", ".join(words[:IN_WORDS]) or "all"}{more} ({num})'


# --- As text and files


def columns(rows: Sequence[Sequence[str]]) -> str:
  """Rows of cells, the first of them headings, in columns that are as wide as they must be."""
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  line = lambda row: '  '.join(
    f'{cell:{"<" if i == 0 else ">"}{n}}'
    for i, (cell, n) in enumerate(zip(row, widths, strict=True))
  )
  return '\n'.join(line(row).rstrip() for row in rows)


def table(groups: Sequence[Sequence[Run]], keys: Sequence[str], names: Sequence[str]) -> str:
  """What groups are and how far they came; below it their scores, at the end and at best."""
  number = [str(i + 1) for i in range(len(groups))]
  cell = lambda group, key: str(group[0].config.get(key, '-'))
  many, keys = (keys, ()) if len(keys) > BESIDE else ((), keys)
  about = [['', *keys, 'seeds', 'step', 'images', 'time', 'unfinished']]
  for i, group in zip(number, groups, strict=True):
    images = [run.images for run in group if run.images is not None]
    clock = [run.seconds for run in group if run.seconds is not None]
    going = sum(run.step < run.last for run in group)
    about.append([
      i, *(cell(group, key) for key in keys),
      ','.join(str(run.seed) for run in group),
      between([run.step for run in group]), between(images),
      progress.duration(statistics.fmean(clock)) if clock else '-', str(going) if going else '',
    ])  # fmt: skip
  if not any(row[-1] for row in about[1:]):
    about = [row[:-1] for row in about]
  parts = [columns(about)]
  if many:
    parts.append(
      columns([['', *number], *([key, *(cell(group, key) for group in groups)] for key in many)])
    )
  real = {name: value for group in groups for run in group for name, value in run.real.items()}
  for heading in ('final', 'best'):
    rows = [[heading, *names]]
    for i, group in zip(number, groups, strict=True):
      rows.append([i, *(spread(values(group, name, heading)) for name in names)])
    if any(name in real for name in names):
      rows.append(
        [real_of(groups), *(f'{real[name]:.4g}' if name in real else '-' for name in names)]
      )
    if names:
      parts.append(columns(rows))
  if any(len(group) > 1 for group in groups):
    parts.append('+-: standard deviation over the runs of a group')
  return '\n\n'.join(parts)


def real_of(groups: Sequence[Sequence[Run]]) -> str:
  """What those scores are of that are no run's."""
  return ' or '.join(dict.fromkeys(run.real_of for group in groups for run in group if run.real))


def between(numbers: Sequence[int]) -> str:
  """'1,000', or '800-1,000' where they differ; '-' of none."""
  low, high = min(numbers, default=None), max(numbers, default=None)
  return '-' if low is None else f'{low:,}' if low == high else f'{low:,}-{high:,}'


def as_json(
  groups: Sequence[Sequence[Run]], keys: Sequence[str], names: Sequence[str]
) -> dict[str, Any]:
  """Everything, as JSON has it: what is not finite is null."""
  number = lambda value: value if math.isfinite(value) else None
  of = lambda run: {name: figures(run.scores[name], name) for name in names if name in run.scores}
  found = []
  for group in groups:
    every = [of(run) for run in group]
    scores = {}
    for name in names:
      for which in ('final', 'best'):
        if some := values(group, name, which):
          mean, std = number(statistics.fmean(some)), number(deviation(some))
          about = {'mean': mean, 'std': std, 'num': len(some)}
          scores.setdefault(name, {})[which] = about
    runs = [
      {
        **{key: getattr(run, key) for key in ('workdir', 'seed', 'step', 'last', 'images')},
        **{key: getattr(run, key) for key in ('seconds', 'clock')},
        'scores': {
          name: {key: number(value) for key, value in dataclasses.asdict(one).items()}
          for name, one in its.items()
        },
      }
      for run, its in zip(group, every, strict=True)
    ]
    config = {key: group[0].config.get(key) for key in keys}
    found.append({'config': config, 'runs': runs, 'scores': scores})
  return {'differing': list(keys), 'scores': list(names), 'groups': found}


def write_csv(
  path: str, groups: Sequence[Sequence[Run]], keys: Sequence[str], names: Sequence[str]
) -> None:
  """Write a line per run: its group, what that is, and its scores at the end and at best."""
  heads = [f'{name}_{which}' for name in names for which in ('final', 'best')]
  with files.whole(path, 'w') as file:
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(['workdir', 'group', *keys, 'seed', 'step', 'images', 'seconds', *heads])
    for i, group in enumerate(groups, 1):
      for run in group:
        cells: list[Any] = []
        for name in names:
          one = figures(run.scores[name], name) if name in run.scores else None
          cells += [one.final, one.best] if one else ['', '']
        mine = [run.config.get(key, '') for key in keys]
        writer.writerow(
          [run.workdir, i, *mine, run.seed, run.step, run.images, run.seconds, *cells]
        )


# --- As a picture


def draw(
  path: str, groups: Sequence[Sequence[Run]], keys: Sequence[str], names: Sequence[str]
) -> None:
  """Draw a panel per score against step: a colour per group, its mean, and least to most."""
  figure, axes = plotting.figure(len(names), f'{sum(map(len, groups))} runs')
  labels = [label(i, group, keys) for i, group in enumerate(groups, 1)]
  for axis, name in zip(axes, names, strict=True):
    for i, (group, words) in enumerate(zip(groups, labels, strict=True)):
      curves = [dict(run.scores[name]) for run in group if name in run.scores]
      steps = sorted({step for curve in curves for step in curve})
      at = [[curve[step] for curve in curves if step in curve] for step in steps]
      style = {'color': f'C{i % COLOURS}', 'linestyle': '-' if i < COLOURS else '--'}
      marker = 'o' if len(steps) < 40 else ''
      means = [statistics.fmean(some) for some in at]
      axis.plot(steps, means, label=words, linewidth=1.4, marker=marker, markersize=3, **style)
      low, high = [min(some) for some in at], [max(some) for some in at]
      axis.fill_between(steps, low, high, color=style['color'], alpha=0.2, linewidth=0)
    reals = {run.real[name] for group in groups for run in group if name in run.real}
    plotting.real_lines(axis, [(value, '0.4') for value in reals])
    if name.startswith(('fid', 'fd_')):
      plotting.log_scale(axis)
    real = f'; dashed: {real_of(groups)}' if reals else ''
    plotting.finish(axis, name, f'{better(name)} is better; mean, least to most{real}')
  for axis in axes:
    if legend := axis.get_legend():
      legend.remove()
  # One legend for all panels, a line per group: names of keys are long.
  handles, _ = axes[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc='outside lower left', fontsize=8, frameon=False)
  figure.set_figheight(figure.get_figheight() + 0.2 * len(groups))
  plotting.save(figure, path)


# --- The verb


def chosen(runs: Sequence[Run], given: str | None) -> list[str]:
  """The scores that are shown: those given, or all that any run has.

  Raises:
    UserError: one is given that no run has.
  """
  known = list(dict.fromkeys(name for run in runs for name in run.scores))
  if given is None:
    return known
  names = [name.strip() for name in given.split(',') if name.strip()]
  for name in names:
    if not known:
      raise errors.UserError(f'--scores={name}: none of these runs has any score yet.')
    errors.pick(name, dict.fromkeys(known), '--scores')
  return names


def run(args: argparse.Namespace) -> None:
  """Print the table, and write what is asked for.

  Raises:
    UserError: none of what is given is a run, or a score is unknown.
  """
  runs: list[Run] = []
  # Each once, though given as runs/* and as runs/a/ too: a run has no spread with itself.
  places: dict[str, str] = {}
  for given in args.runs:
    places.setdefault(os.path.realpath(given), given)
  for workdir in places.values():
    try:
      runs.append(read(workdir))
    except errors.UserError as error:
      if not os.path.exists(workdir) or len(args.runs) == 1:
        raise  # a typing error is not passed over
      print(f'left out: {error}', file=sys.stderr)
  if not runs:
    raise errors.UserError('none of the folders given is the workdir of a run; see above.')
  groups = grouped(runs)
  keys, names = differing(groups), chosen(runs, args.scores)
  print(table(groups, keys, names))
  if not names:
    print('\nno scores yet: they come with the first evaluation (eval.name, run.eval_every)')
  try:
    if args.json is not None:
      files.write_json(args.json, as_json(groups, keys, names))
    if args.csv is not None:
      write_csv(args.csv, groups, keys, names)
    if args.out is not None:
      if not names:
        raise errors.UserError('--out draws scores, and none of these runs has any yet.')
      draw(args.out, groups, keys, names)
  except OSError as error:
    raise errors.UserError(f'{error.filename!r} cannot be written ({error.strerror}).') from None
