"""What all pictures of curves share: series out of rows, panels, axes, legends."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bigjax.core import files

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
  """Make the values' axis logarithmic with plain numbers, where there is anything above 0.

  Within a decade the ticks are those of an even axis, of which there are always several.
  """
  from matplotlib import ticker

  values = [np.asarray(line.get_ydata(), float) for line in axis.get_lines()]
  shown = np.concatenate([v[np.isfinite(v) & (v > 0)] for v in values] or [np.zeros(0)])
  if not len(shown):
    return
  axis.set_yscale('log')
  if shown.max() < 10 * shown.min():
    axis.yaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.yaxis.set_minor_locator(ticker.NullLocator())
  elif shown.max() < 1000 * shown.min():
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  axis.yaxis.set_major_formatter('{x:g}')
  axis.yaxis.set_minor_formatter(ticker.NullFormatter())


def real_lines(axis: 'Axes', values: Sequence[tuple[float, str]]) -> None:
  """Draw what real images get, (value, colour), dashed across the panel.

  Lines that would lie on each other are drawn as one, whose dashes have their colours in turn.
  """
  low, high = axis.get_ylim()
  near = abs(high - low) / 100
  groups: list[list[tuple[float, str]]] = []
  for value, colour in sorted(v for v in values if math.isfinite(v[0])):
    if groups and value - groups[-1][0][0] < near:
      groups[-1].append((value, colour))
    else:
      groups.append([(value, colour)])
  for group in groups:
    on, off = 5, 5 * len(group)
    for i, (value, colour) in enumerate(group):
      style = (i * on * 1.5, (on, 1.5 * off - on))
      axis.axhline(value, color=colour, linestyle=style, linewidth=0.9)


def finish(
  axis: 'Axes',
  heading: str,
  hint: str = '',
  nothing: str = 'nothing logged yet',
  x: str = 'step',
) -> None:
  """Give a panel its title, grid, and below it the legend; where it has no line, words for that.

  `x` is what lies along; of steps, only whole ones are ticks.
  """
  from matplotlib import ticker

  axis.set_title(heading, loc='left', fontsize=10, fontweight='bold', pad=16 if hint else None)
  axis.text(0, 1.015, hint, transform=axis.transAxes, fontsize=8, color='0.35')
  axis.set_xlabel(x)
  if x == 'step':
    axis.xaxis.set_major_locator(ticker.MaxNLocator(8, steps=[1, 2, 5, 10], integer=True))
    axis.xaxis.set_major_formatter(lambda x, _: f'{x:,.0f}' if abs(x - round(x)) < 1e-6 else '')
  axis.grid(alpha=0.3)
  labels = axis.get_legend_handles_labels()[1]
  if not axis.has_data():
    axis.text(0.5, 0.5, nothing, transform=axis.transAxes, ha='center', va='center', color='0.5')
    axis.set_yticks([])
  elif labels:
    columns = max(1, min(len(labels), 66 // (max(map(len, labels)) + 6)))
    below: dict[str, Any] = {
      'loc': 'upper center',
      'bbox_to_anchor': (0.5, -0.16),
      'borderaxespad': 0,
    }
    axis.legend(fontsize=8, ncols=columns, frameon=False, **below)


def figure(number: int, title: str) -> tuple['Figure', list['Axes']]:
  """A figure of so many panels, at most three in a row and all of one size, and its panels."""
  import matplotlib
  from matplotlib.figure import Figure

  matplotlib.rcParams['text.parse_math'] = False  # a $ in a name is a $
  columns = 2 if number in (2, 4) else min(number, 3)
  rows = -(-number // columns)
  made = Figure(figsize=(5.5 * max(columns, 2), 4.4 * rows + 0.3), layout='constrained')
  axes = list(made.subplots(rows, columns, squeeze=False).flat)
  for axis in axes[number:]:
    axis.remove()
  made.suptitle(title, parse_math=False)  # a path may hold dollars
  return made, axes[:number]


def save(figure: 'Figure', path: str) -> None:
  """Write a figure as a PNG, whole; letters its font lacks are boxes in it, and no warnings."""
  with warnings.catch_warnings(), files.whole(path) as file:
    warnings.filterwarnings('ignore', message='Glyph')
    figure.savefig(file, dpi=100, format='png')
