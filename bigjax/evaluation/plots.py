"""Pictures of scores: against step, over truncation, and of each class."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bigjax.core import plotting
from bigjax.core.plotting import finish, real_lines
from bigjax.sampling import lettering

if TYPE_CHECKING:
  from matplotlib.axes import Axes  # slow to import

# Those of which more is better.
HIGHER = ('is', 'precision', 'recall', 'density', 'coverage', 'cas', 'agreement', 'psnr', 'ssim')
NAMED = 40  # classes, at most, whose names there is room for
TRADES = (('fd', 'is'), ('fid', 'is'), ('precision', 'recall'), ('density', 'coverage'))


def _kind(name: str) -> str:
  return re.match(r'[a-z_]*[a-z]', name)[0]


def is_higher_better(name: str) -> bool:
  """Whether more of a score is better; a group of classes is as all (agreement_rare)."""
  return name == 'worst_class' or name.split('_')[0] in HIGHER or _kind(name) in HIGHER


def _scored(points: Sequence[Mapping[str, Any]]) -> list[str]:
  return list(dict.fromkeys(name for point in points for name in point['scores']))


def _real(floor: Mapping[str, float], name: str) -> list[tuple[float, str]]:
  """What real images get of this kind of score, in grey."""
  return [(value, '0.4') for other, value in floor.items() if _kind(other) == _kind(name)]


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
  shown = _scored(points)
  truncations = list(dict.fromkeys(point['at'] for point in points))
  figure, axes = plotting.figure(len(shown), title)
  for axis, name in zip(axes, shown, strict=True):
    for at in truncations:
      some = [point for point in points if point['at'] == at and name in point['scores']]
      steps = [point['step'] for point in some]
      values = [point['scores'][name]['value'] for point in some]
      stds = [point['scores'][name]['std'] or 0 for point in some]
      label = 'untruncated' if at is None or math.isinf(at) else f'truncation {at:g}'
      label = label if len(truncations) > 1 else None
      axis.errorbar(steps, values, stds, marker='o', markersize=3, capsize=2, label=label)
    real_lines(axis, _real(floor, name))
    better = 'higher' if _kind(name) in HIGHER else 'lower'
    finish(axis, name, f'{better} is better (dashed: real images)')
  plotting.save(figure, path)


def truncation(
  path: str, points: Sequence[Mapping[str, Any]], floor: Mapping[str, float], title: str
) -> None:
  """Draw fidelity against variety over truncation, and every score against it, into a PNG.

  Arguments as of `scores`; `at` is infinite where there is no truncation.
  """
  shown = _scored(points)
  by_kind = {_kind(name): name for name in shown}
  pairs = [(by_kind[a], by_kind[b]) for a, b in TRADES if a in by_kind and b in by_kind]
  points = sorted(points, key=lambda point: point['at'])
  words = ['none' if math.isinf(point['at']) else f'{point["at"]:g}' for point in points]
  value = lambda name: [point['scores'][name]['value'] for point in points]
  stds = lambda name: [point['scores'][name]['std'] or 0 for point in points]
  figure, axes = plotting.figure(len(pairs) + len(shown), title)
  axes = iter(axes)
  for left, right in pairs:
    axis = next(axes)
    axis.errorbar(
      value(right), value(left), stds(left), stds(right), marker='o', markersize=4, capsize=2
    )
    for x, y, word in zip(value(right), value(left), words, strict=True):
      axis.annotate(word, (x, y), textcoords='offset points', xytext=(5, 4), fontsize=8)
    axis.set_ylabel(left)
    axis.margins(0.12)  # for the words of the outermost
    finish(axis, f'{_kind(left)} against {_kind(right)}', 'a point per threshold', x=right)
  for name in shown:
    axis = next(axes)
    axis.errorbar(range(len(points)), value(name), stds(name), marker='o', markersize=4, capsize=2)
    real_lines(axis, _real(floor, name))
    better = 'higher' if _kind(name) in HIGHER else 'lower'
    finish(axis, name, f'{better} is better (dashed: real images)', x='truncation threshold')
    axis.set_xticks(range(len(points)), words)
  plotting.save(figure, path)


def by_class(path: str, records: Sequence[Mapping[str, Any]], title: str) -> None:
  """Draw a bar per class, most training images first, in a panel for each score, into a PNG.

  Of more classes than there is room for names of, lines take the place of bars.

  Args:
    path: of the PNG.
    records: {what, name, train_images or None, scores: {name: {value, std}}, real: {name: value}}
      of each class of each generator, the classes of all in the same order.
    title: of the picture.
  """
  whats = list(dict.fromkeys(record['what'] for record in records))
  of_each = {what: [record for record in records if record['what'] == what] for what in whats}
  classes = of_each[whats[0]]
  few, counted = len(classes) <= NAMED, None not in [record['train_images'] for record in classes]
  shown = _scored(records)
  figure, axes = plotting.figure(len(shown) + counted, title)
  if counted:
    _counts(axes[0], classes)
  for axis, name in zip(axes[counted:], shown, strict=True):
    for i, (what, some) in enumerate(of_each.items()):
      height = 0.8 / len(whats) if few else 0
      where = np.arange(len(classes)) + (i - (len(whats) - 1) / 2) * height
      values = [record['scores'].get(name, {}).get('value', math.nan) for record in some]
      stds = [record['scores'].get(name, {}).get('std') or 0 for record in some]
      if few:
        axis.barh(where, values, height, xerr=stds if any(stds) else None, label=what)
      else:
        axis.plot(values, where, label=what, linewidth=1)
    real = [record['real'].get(name, math.nan) for record in classes]
    if not np.isnan(real).all():
      style = {'marker': '|', 'markersize': 8, 'linestyle': ''} if few else {'linewidth': 1}
      axis.plot(real, range(len(classes)), color='black', label='real images', **style)
    _class_names(axis, classes)
    better = 'higher' if _kind(name) in HIGHER else 'lower'
    finish(axis, name, f'{better} is better', x='score')
  plotting.save(figure, path)


def _counts(axis: 'Axes', classes: Sequence[Mapping[str, Any]]) -> None:
  """The training images of each class, on a logarithmic axis."""
  from matplotlib import ticker

  few = len(classes) <= NAMED
  counts = [record['train_images'] for record in classes]
  bars = axis.barh(range(len(classes)), counts, 0.8 if few else 1, color='0.6')
  axis.set_xscale('log')
  axis.set_xlim(0.5, 4 * max(*counts, 1))
  axis.xaxis.set_major_formatter('{x:,.0f}')
  axis.xaxis.set_minor_formatter(ticker.NullFormatter())
  if few:
    axis.bar_label(bars, [f'{count:,}' for count in counts], padding=3, fontsize=8)
  _class_names(axis, classes)
  finish(axis, 'training images', 'of each class', x='images')


def _class_names(axis: 'Axes', classes: Sequence[Mapping[str, Any]]) -> None:
  """Name the bars, from above, where there is room."""
  axis.invert_yaxis()
  if len(classes) > NAMED:
    axis.set_yticks([])
    axis.set_ylabel(f'{len(classes):,} classes, most training images first')
    return
  names = [lettering.fitting(record['name'], 120) for record in classes]
  axis.set_yticks(range(len(names)), names, fontsize=8 if len(names) <= 20 else 6)
