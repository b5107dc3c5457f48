"""Curves, vital signs, scores and plans as PNG."""

import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bigjax import published as tables

if TYPE_CHECKING:
  from matplotlib.axes import Axes  # slow to import
  from matplotlib.figure import Figure

Points = list[tuple[int, float]]  # (step, value), ascending
Rows = Sequence[Mapping[str, Any]]
STRETCHES = 250  # a longer line is drawn as so many means, within a band of what they hide
FIRST_FEW = 3  # published points that are shown however short the run is
# Those of the discriminator and of real images are blue, of the generator and its images orange.
STYLES = {
  'd_accuracy_real': {'color': 'C0'},
  'd_accuracy_fake': {'color': 'C1'},
  'probe_accuracy_train': {'color': 'C0', 'linestyle': '--'},
  'probe_accuracy_fake': {'color': 'C1', 'linestyle': '--'},
  'probe_accuracy_held_out': {'color': 'C3', 'linewidth': 2},
  'weight_norm_disc': {'color': 'C0', 'linestyle': '--'},
  'weight_norm_gen': {'color': 'C1', 'linestyle': '--'},
  'sigma_max_disc': {'color': 'black', 'linestyle': ':'},
}


def stretches(points: Points) -> np.ndarray:
  """Return rows of (last step, lowest, mean, highest), NaN where nothing is finite.

  A row is a point, or at most STRETCHES rows are stretches of the line.
  """
  if not points:
    return np.zeros((0, 4))
  rows = []
  for part in np.array_split(np.array(points, float), min(len(points), STRETCHES)):
    values = part[np.isfinite(part[:, 1]), 1]
    signs = (values.min(), values.mean(), values.max()) if len(values) else (np.nan,) * 3
    rows.append((part[-1, 0], *signs))
  return np.array(rows)


def series(rows: Rows, name: str) -> Points:
  """Return the points of one metric."""
  return [(row['step'], row[name]) for row in rows if name in row]


def names(rows: Rows) -> list[str]:
  """Return the names of all metrics, sorted."""
  return sorted({name for row in rows for name in row} - {'step'})


def _line(axis: 'Axes', points: Points, label: str, **style: Any) -> None:
  steps, lowest, mean, highest = stretches(points).T
  style = {'linewidth': 1.2, 'markersize': 3, 'marker': 'o' if len(steps) < 40 else '', **style}
  (line,) = axis.plot(steps, mean, label=label, **style)
  if len(points) > len(steps):
    axis.fill_between(steps, lowest, highest, color=line.get_color(), alpha=0.25, linewidth=0)


def _log_scale(axis: 'Axes') -> None:
  """Make the values' axis logarithmic with plain numbers, where there is anything above 0."""
  from matplotlib import ticker

  class Plain(ticker.LogFormatter):
    def __call__(self, x, pos=None):
      return f'{x:g}' if super().__call__(x, pos) else ''

  if any((np.asarray(line.get_ydata()) > 0).any() for line in axis.get_lines()):
    axis.set_yscale('log')
    axis.yaxis.set_major_formatter(Plain())
    axis.yaxis.set_minor_formatter(Plain(minor_thresholds=(3, 0.5)))


def _finish(
  axis: 'Axes', heading: str, hint: str = '', nothing: str = 'nothing logged yet'
) -> None:
  """Give a panel its title, grid and legend; where it has no line, the words for that."""
  axis.set_title(heading, loc='left', fontsize=10, fontweight='bold', pad=16 if hint else None)
  axis.text(0, 1.015, hint, transform=axis.transAxes, fontsize=8, color='0.35')
  axis.xaxis.set_major_formatter(lambda x, _: f'{x:,.0f}' if abs(x - round(x)) < 1e-6 else '')
  axis.grid(alpha=0.3)
  if not axis.get_lines():
    axis.text(0.5, 0.5, nothing, transform=axis.transAxes, ha='center', va='center', color='0.5')
    axis.set_yticks([])
  elif axis.get_legend_handles_labels()[1]:
    axis.legend(fontsize=8)


def _published(axis: 'Axes', curve: tables.Curve, kind: str, last: int) -> None:
  """Draw a published curve to our last step, or to its third point where we are not there yet."""
  points = curve.metrics[kind]
  limit = max(last, points[:FIRST_FEW][-1][0])
  shown = [point for point in points if point[0] <= limit]
  to_the_edge = tables.at(points, limit)
  ends = [] if to_the_edge is None or shown[-1][0] == limit else [(limit, to_the_edge)]
  axis.plot(
    *zip(*shown, *ends, strict=True),
    color='0.3',
    linestyle=':',
    linewidth=1.5,
    marker='o',
    markersize=4,
    markerfacecolor='white',
    markevery=range(len(shown)),  # the end between two points was not published
    label=f'published: {curve.source}',
  )
  axis.set_xlim(-0.02 * limit, 1.02 * limit)


def _panels(figure: 'Figure', number: int) -> list['Axes']:
  """Return so many panels: three side by side, more in two rows of the same width."""
  rows = [number] if number <= 3 else [-(-number // 2), number // 2]
  width = math.lcm(*rows)
  grid = figure.add_gridspec(len(rows), width)
  return [
    figure.add_subplot(grid[i, width // columns * j : width // columns * (j + 1)])
    for i, columns in enumerate(rows)
    for j in range(columns)
  ]


def curves_figure(
  rows: Iterable[Mapping[str, Any]],
  floor: Mapping[str, float],
  title: str,
  curve: tables.Curve | None = None,
) -> 'Figure':
  """Return what `curves` saves."""
  from matplotlib.figure import Figure

  rows = list(rows)
  scores = [name for name in names(rows) if name in floor]
  kinds = {
    kind: [name for name in scores if tables.kind(name) == kind]
    for kind in ('fid', 'is')
    if any(tables.kind(name) == kind for name in scores) or (curve and kind in curve.metrics)
  }
  distances = [name for name in scores if name.startswith('fd_')]
  others = [name for name in scores if tables.kind(name) not in kinds and name not in distances]
  panels = {
    'losses': [n for n in names(rows) if n.endswith('_loss')],
    "share of images a discriminator's sign gets right": [
      n for n in names(rows) if '_accuracy_' in n
    ],
    **({'scores (dashed: real images)': others} if others or not (kinds or distances) else {}),
    **({'fd': distances} if distances else {}),
    **kinds,
  }
  headings = {
    'fd': 'Frechet distances: lower is better (dashed: real images)',
    'fid': 'FID: lower is better (dashed: real images)',
    'is': 'Inception score: higher is better (dashed: real images)',
  }
  figure = Figure(figsize=(15, 4 if len(panels) <= 3 else 8), layout='constrained')
  for axis, (heading, shown) in zip(_panels(figure, len(panels)), panels.items(), strict=True):
    for i, name in enumerate(shown):
      _line(axis, series(rows, name), name, **{'color': f'C{i}', **STYLES.get(name, {})})
      if name in floor:
        axis.axhline(floor[name], color=f'C{i}', linestyle='--', linewidth=0.8)
    if curve and heading in curve.metrics:
      _published(axis, curve, heading, max((row['step'] for row in rows), default=0))
    if heading in (*kinds, 'fd'):
      _log_scale(axis)
    _finish(axis, headings.get(heading, heading))
    axis.set_xlabel('step')
  figure.suptitle(title)
  if curve:
    words = textwrap.fill(f'published: {curve.source}: {curve.protocol}.', 230)
    figure.supxlabel(words, fontsize=7.5, color='0.35')
  return figure


def curves(
  path: str,
  rows: Iterable[Mapping[str, Any]],
  floor: Mapping[str, float],
  title: str,
  *,
  published: tables.Curve | None = None,
) -> None:
  """Draw losses, the discriminator's accuracies and the scores against step into a PNG.

  Frechet distances, FID and the Inception score have panels of their own, on logarithmic axes.

  Args:
    path: of the PNG.
    rows: of metrics.jsonl.
    floor: what real images score, drawn dashed.
    title: of the picture.
    published: a run to compare with, drawn dotted as far as ours has come, and at least to its
      third point, whether or not there are scores of ours.
  """
  curves_figure(rows, floor, title, published).savefig(path, dpi=110)


def _lines(axis: 'Axes', rows: Rows, shown: Iterable[str]) -> None:
  for name in shown:
    _line(axis, series(rows, name), name, **STYLES.get(name, {}))


def _sigmas(axis: 'Axes', rows: Rows, lines: Mapping[str, Points], named: int = 5) -> None:
  """Draw sigma0 of every kernel thin; name those that are largest at the end."""
  largest = sorted(lines, key=lambda name: -lines[name][-1][1])[:named]
  for name in sorted(set(lines) - set(largest)):
    _line(axis, lines[name], '_', color='0.65', linewidth=0.6, marker='')
  for name in largest:
    _line(axis, lines[name], name)
  _lines(axis, rows, [name for name in names(rows) if name == 'sigma_max_disc'])


def _events(axis: 'Axes', events: Iterable[tuple[int, str]]) -> None:
  for step, word in events:
    axis.axvline(step, color='C3', linestyle='--', linewidth=0.8)
    where = {'transform': axis.get_xaxis_transform(), 'rotation': 90, 'ha': 'right', 'va': 'top'}
    short = textwrap.shorten(word, 36, placeholder='...')
    axis.text(step, 0.97, short, color='C3', fontsize=7, clip_on=True, **where)


def vital_signs_figure(
  rows: Iterable[Mapping[str, Any]],
  clock: Iterable[Mapping[str, Any]],
  events: Iterable[tuple[int, str]],
  title: str,
) -> 'Figure':
  """Return what `vital_signs` saves."""
  from matplotlib.figure import Figure

  rows, clock, events = list(rows), list(clock), list(events)
  figure = Figure(figsize=(18, 12))
  figure.subplots_adjust(0.035, 0.045, 0.985, 0.925, wspace=0.12, hspace=0.22)
  panels = figure.subplots(3, 3, sharex=True)
  (losses, accuracies, refused), (sigmas, first, norms), (speed, waiting, memory) = panels
  known, unprobed = names(rows), 'measured at evaluations: none yet'

  _lines(losses, rows, [n for n in known if n.endswith('_loss')])
  _finish(losses, 'losses', 'a sudden jump is a collapse')

  _lines(accuracies, rows, [n for n in known if '_accuracy_' in n])
  accuracies.set_ylim(-0.03, 1.03)
  hint = 'held_out far below train: it knows its training images by heart'
  _finish(accuracies, "share of images a discriminator's sign gets right", hint)

  steps, _, _, highest = stretches(series(rows, 'skipped')).T
  if len(steps):  # one refusal must not drown in a mean
    most = list(zip(steps, highest, strict=True))
    _line(refused, most, '_', color='C3', drawstyle='steps-pre')
    refused.set_ylim(-0.05, max(1.05, 1.1 * highest.max()))
  _finish(refused, 'updates refused in a row', 'for numbers that are not finite; should stay 0')

  sigma0 = {n.removeprefix('sigma0_gen/'): series(rows, n) for n in known if 'sigma0_gen/' in n}
  _sigmas(sigmas, rows, sigma0)
  _log_scale(sigmas)
  hint = 'of its raw weights: some grow all along; one that explodes is a collapse'
  _finish(sigmas, "sigma0 of the generator's kernels", hint, unprobed)

  path = 'linear/kernel' if 'linear/kernel' in sigma0 else next(iter(sigma0), '')
  _lines(first, rows, [n for n in known if n.startswith('sigma') and n.endswith(f'_gen/{path}')])
  _log_scale(first)
  hint = 'typically the one that explodes (Brock et al. 2019, Section 4.1)'
  _finish(first, f"singular values of the generator's {path or 'first kernel'}", hint, unprobed)

  _lines(norms, rows, [n for n in known if n.endswith('_grad_norm') or 'weight_norm_' in n])
  _log_scale(norms)
  _finish(norms, 'norms of gradients and weights', 'gradients solid, weights dashed')

  measured = [point for point in series(clock, 'images_per_second') if point[1] > 0]
  for axis, points, heading, hint, nothing in (
    (speed, measured, 'images per second', 'evaluations and checkpoints left out', ''),
    (waiting, series(clock, 'waiting'), 'share of time waiting for data', 'should stay near 0', ''),
    (
      memory,
      series(clock, 'device_memory_gib'),
      'device memory in GiB',
      'the peak so far',
      'not reported by this device' if clock else '',
    ),
  ):
    if points:
      _line(axis, points, '_', color='C2')
      axis.set_ylim(0, 1.1 * max(value for _, value in points) or 1)
    _finish(axis, heading, hint, nothing or 'nothing logged yet')
    axis.set_xlabel('step')
  waiting.set_ylim(0, 1)
  for axis in panels.flat:
    _events(axis, events)
  figure.suptitle(title)
  return figure


def vital_signs(
  path: str,
  rows: Iterable[Mapping[str, Any]],
  clock: Iterable[Mapping[str, Any]],
  events: Iterable[tuple[int, str]],
  title: str,
) -> None:
  """Draw into a PNG what tells whether a run is healthy, in nine panels over the same steps.

  Losses, accuracies, refused updates; sigma0 of every kernel of the generator, the singular values
  of its first, norms; speed, waiting for data, memory.

  Args:
    path: of the PNG.
    rows: of metrics.jsonl.
    clock: rows of timing.jsonl.
    events: (step, words), drawn as vertical lines.
    title: of the picture.
  """
  vital_signs_figure(rows, clock, events, title).savefig(path, dpi=100)


HIGHER = ('is', 'precision', 'recall', 'density', 'coverage', 'cas')  # is better
TRADES = (('fd', 'is'), ('fid', 'is'), ('precision', 'recall'), ('density', 'coverage'))


def _kind(name: str) -> str:
  return re.match(r'[a-z_]*[a-z]', name)[0]


def _scored(points: Sequence[Mapping[str, Any]]) -> list[str]:
  return list(dict.fromkeys(name for point in points for name in point['scores']))


def scores(
  path: str, points: Sequence[Mapping[str, Any]], floor: Mapping[str, float], title: str
) -> None:
  """Draw a panel for each score against step, with the spread over seeds, into a PNG.

  Args:
    path: of the PNG.
    points: {step, at: truncation or None, scores: {name: {value, std}}}.
    floor: {name: what real images get}; those of the same kind are drawn.
    title: of the picture.
  """
  from matplotlib.figure import Figure

  shown = _scored(points)
  figure = Figure(figsize=(15, 4 if len(shown) <= 3 else 8), layout='constrained')
  for axis, name in zip(_panels(figure, len(shown)), shown, strict=True):
    for at in dict.fromkeys(point['at'] for point in points):
      some = [point for point in points if point['at'] == at and name in point['scores']]
      steps = [point['step'] for point in some]
      values = [point['scores'][name]['value'] for point in some]
      spread = [point['scores'][name]['std'] or 0 for point in some]
      label = None if at is None or math.isinf(at) else f'truncation {at:g}'
      axis.errorbar(steps, values, spread, marker='o', markersize=3, capsize=2, label=label)
    for other, value in floor.items():
      if _kind(other) == _kind(name):
        axis.axhline(value, color='0.4', linestyle='--', linewidth=0.8)
    better = 'higher' if _kind(name) in HIGHER else 'lower'
    _finish(axis, name, f'{better} is better (dashed: real images)')
    axis.set_xlabel('step')
  figure.suptitle(title)
  figure.savefig(path, dpi=100)


def truncation(
  path: str, points: Sequence[Mapping[str, Any]], floor: Mapping[str, float], title: str
) -> None:
  """Draw fidelity against variety over truncation, and every score against it, into a PNG.

  Arguments as of `scores`; `at` is infinite where there is no truncation.
  """
  from matplotlib.figure import Figure

  shown = _scored(points)
  by_kind = {_kind(name): name for name in shown}
  pairs = [(by_kind[a], by_kind[b]) for a, b in TRADES if a in by_kind and b in by_kind]
  points = sorted(points, key=lambda point: point['at'])
  words = ['none' if math.isinf(point['at']) else f'{point["at"]:g}' for point in points]
  value = lambda name: [point['scores'][name]['value'] for point in points]
  spread = lambda name: [point['scores'][name]['std'] or 0 for point in points]
  num = len(pairs) + len(shown)
  figure = Figure(figsize=(15, 4 if num <= 3 else 8), layout='constrained')
  axes = iter(_panels(figure, num))
  for left, right in pairs:
    axis = next(axes)
    axis.errorbar(
      value(right), value(left), spread(left), spread(right), marker='o', markersize=4, capsize=2
    )
    for x, y, word in zip(value(right), value(left), words, strict=True):
      axis.annotate(word, (x, y), textcoords='offset points', xytext=(5, 4), fontsize=8)
    axis.set(xlabel=right, ylabel=left)
    _finish(axis, f'{_kind(left)} against {_kind(right)}', 'a point per threshold')
    axis.xaxis.set_major_formatter('{x:g}')
  for name in shown:
    axis = next(axes)
    axis.errorbar(
      range(len(points)), value(name), spread(name), marker='o', markersize=4, capsize=2
    )
    for other, height in floor.items():
      if _kind(other) == _kind(name):
        axis.axhline(height, color='0.4', linestyle='--', linewidth=0.8)
    better = 'higher' if _kind(name) in HIGHER else 'lower'
    _finish(axis, name, f'{better} is better (dashed: real images)')
    axis.set_xticks(range(len(points)), words)
    axis.set_xlabel('truncation threshold')
  figure.suptitle(title)
  figure.savefig(path, dpi=100)


def bars(path: str, rows: Mapping[str, Mapping[str, float]], axis: str, note: str = '') -> None:
  """Draw a stacked bar per row into a PNG, one colour per part.

  Args:
    path: of the PNG.
    rows: {name: {part: length}}.
    axis: what the lengths are.
    note: small print below.
  """
  from matplotlib.figure import Figure

  parts = list(dict.fromkeys(part for row in rows.values() for part in row))
  figure = Figure(figsize=(11, 1.6 + 0.55 * len(rows)), layout='constrained')
  plot = figure.subplots()
  for i, part in enumerate(parts):
    lengths = [row.get(part, 0) for row in rows.values()]
    before = [sum(row.get(other, 0) for other in parts[:i]) for row in rows.values()]
    plot.barh(
      list(rows), lengths, left=before, label=part, color=f'C{i % 10}', hatch='//' * (i // 10)
    )
  for y, row in enumerate(rows.values()):
    plot.text(sum(row.values()), y, f' {sum(row.values()):.3g}', va='center', fontsize=9)
  plot.invert_yaxis()
  plot.margins(x=0.08)
  plot.set_xlabel(axis)
  plot.legend(fontsize=8, loc='center left', bbox_to_anchor=(1, 0.5))
  figure.supxlabel(textwrap.fill(note, 150), fontsize=7.5, color='0.35')
  figure.savefig(path, dpi=110)
