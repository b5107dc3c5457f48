"""Pictures of scores: against step, and fidelity against variety over truncation."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bigjax.core import plotting
from bigjax.core.plotting import finish

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
  for axis, name in zip(plotting.panels(figure, len(shown)), shown, strict=True):
    for at in dict.fromkeys(point['at'] for point in points):
      some = [point for point in points if point['at'] == at and name in point['scores']]
      steps = [point['step'] for point in some]
      values = [point['scores'][name]['value'] for point in some]
      stds = [point['scores'][name]['std'] or 0 for point in some]
      label = None if at is None or math.isinf(at) else f'truncation {at:g}'
      axis.errorbar(steps, values, stds, marker='o', markersize=3, capsize=2, label=label)
    for other, value in floor.items():
      if _kind(other) == _kind(name):
        axis.axhline(value, color='0.4', linestyle='--', linewidth=0.8)
    better = 'higher' if _kind(name) in HIGHER else 'lower'
    finish(axis, name, f'{better} is better (dashed: real images)')
    axis.set_xlabel('step')
  figure.suptitle(title, parse_math=False)  # a path may hold dollars
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
  stds = lambda name: [point['scores'][name]['std'] or 0 for point in points]
  num = len(pairs) + len(shown)
  figure = Figure(figsize=(15, 4 if num <= 3 else 8), layout='constrained')
  axes = iter(plotting.panels(figure, num))
  for left, right in pairs:
    axis = next(axes)
    axis.errorbar(
      value(right), value(left), stds(left), stds(right), marker='o', markersize=4, capsize=2
    )
    for x, y, word in zip(value(right), value(left), words, strict=True):
      axis.annotate(word, (x, y), textcoords='offset points', xytext=(5, 4), fontsize=8)
    axis.set(xlabel=right, ylabel=left)
    finish(axis, f'{_kind(left)} against {_kind(right)}', 'a point per threshold')
    axis.xaxis.set_major_formatter('{x:g}')
  for name in shown:
    axis = next(axes)
    axis.errorbar(range(len(points)), value(name), stds(name), marker='o', markersize=4, capsize=2)
    for other, height in floor.items():
      if _kind(other) == _kind(name):
        axis.axhline(height, color='0.4', linestyle='--', linewidth=0.8)
    better = 'higher' if _kind(name) in HIGHER else 'lower'
    finish(axis, name, f'{better} is better (dashed: real images)')
    axis.set_xticks(range(len(points)), words)
    axis.set_xlabel('truncation threshold')
  figure.suptitle(title, parse_math=False)  # a path may hold dollars
  figure.savefig(path, dpi=100)
