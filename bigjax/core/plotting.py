"""What all pictures of curves share: series out of rows, panels, axes, legends."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
  from matplotlib.axes import Axes  # slow to import
  from matplotlib.figure import Figure

Points = list[tuple[int, float]]  # (step, value), ascending
Rows = Sequence[Mapping[str, Any]]
STRETCHES = 250  # a longer line is drawn as so many means, within a band of what they hide


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


def line(axis: 'Axes', points: Points, label: str, **style: Any) -> None:
  steps, lowest, mean, highest = stretches(points).T
  style = {'linewidth': 1.2, 'markersize': 3, 'marker': 'o' if len(steps) < 40 else '', **style}
  (line,) = axis.plot(steps, mean, label=label, **style)
  if len(points) > len(steps):
    axis.fill_between(steps, lowest, highest, color=line.get_color(), alpha=0.25, linewidth=0)


def log_scale(axis: 'Axes') -> None:
  """Make the values' axis logarithmic with plain numbers, where there is anything above 0."""
  from matplotlib import ticker

  class Plain(ticker.LogFormatter):
    def __call__(self, x, pos=None):
      return f'{x:g}' if super().__call__(x, pos) else ''

  if any((np.asarray(line.get_ydata()) > 0).any() for line in axis.get_lines()):
    axis.set_yscale('log')
    axis.yaxis.set_major_formatter(Plain())
    axis.yaxis.set_minor_formatter(Plain(minor_thresholds=(3, 0.5)))


def finish(axis: 'Axes', heading: str, hint: str = '', nothing: str = 'nothing logged yet') -> None:
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


def panels(figure: 'Figure', number: int) -> list['Axes']:
  """Return so many panels: three side by side, more in two rows of the same width."""
  rows = [number] if number <= 3 else [-(-number // 2), number // 2]
  width = math.lcm(*rows)
  grid = figure.add_gridspec(len(rows), width)
  return [
    figure.add_subplot(grid[i, width // columns * j : width // columns * (j + 1)])
    for i, columns in enumerate(rows)
    for j in range(columns)
  ]
