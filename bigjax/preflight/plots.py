"""Stacked bars."""

import textwrap
from collections.abc import Mapping

from bigjax.core import plotting


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
    total = sum(row.values())
    words = f' {total:,.0f}' if total >= 100 else f' {total:.3g}'
    plot.text(total, y, words, va='center', fontsize=9)
  plot.invert_yaxis()
  plot.margins(x=0.08)
  plot.set_xlabel(axis)
  plot.legend(fontsize=8, loc='center left', bbox_to_anchor=(1, 0.5))
  figure.supxlabel(textwrap.fill(note, 150), fontsize=7.5, color='0.35')
  plotting.save(figure, path)
