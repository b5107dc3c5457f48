"""Curves, vital signs, scores and plans as PNG."""

import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bigjax.core import plotting
from bigjax.core.plotting import (
  Points,
  Rows,
  finish,
  line,
  log_scale,
  names,
  series,
  stretches,
)
from bigjax.training import reference_curves as tables

if TYPE_CHECKING:
  from matplotlib.axes import Axes  # slow to import
  from matplotlib.figure import Figure
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
  for axis, (heading, shown) in zip(
    plotting.panels(figure, len(panels)), panels.items(), strict=True
  ):
    for i, name in enumerate(shown):
      line(axis, series(rows, name), name, **{'color': f'C{i}', **STYLES.get(name, {})})
      if name in floor:
        axis.axhline(floor[name], color=f'C{i}', linestyle='--', linewidth=0.8)
    if curve and heading in curve.metrics:
      _published(axis, curve, heading, max((row['step'] for row in rows), default=0))
    if heading in (*kinds, 'fd'):
      log_scale(axis)
    finish(axis, headings.get(heading, heading))
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
    line(axis, series(rows, name), name, **STYLES.get(name, {}))


def _sigmas(axis: 'Axes', rows: Rows, lines: Mapping[str, Points], named: int = 5) -> None:
  """Draw sigma0 of every kernel thin; name those that are largest at the end."""
  largest = sorted(lines, key=lambda name: -lines[name][-1][1])[:named]
  for name in sorted(set(lines) - set(largest)):
    line(axis, lines[name], '_', color='0.65', linewidth=0.6, marker='')
  for name in largest:
    line(axis, lines[name], name)
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
  finish(losses, 'losses', 'a sudden jump is a collapse')

  _lines(accuracies, rows, [n for n in known if '_accuracy_' in n])
  accuracies.set_ylim(-0.03, 1.03)
  hint = 'held_out far below train: it knows its training images by heart'
  finish(accuracies, "share of images a discriminator's sign gets right", hint)

  steps, _, _, highest = stretches(series(rows, 'skipped')).T
  if len(steps):  # one refusal must not drown in a mean
    most = list(zip(steps, highest, strict=True))
    line(refused, most, '_', color='C3', drawstyle='steps-pre')
    refused.set_ylim(-0.05, max(1.05, 1.1 * highest.max()))
  finish(refused, 'updates refused in a row', 'for numbers that are not finite; should stay 0')

  sigma0 = {n.removeprefix('sigma0_gen/'): series(rows, n) for n in known if 'sigma0_gen/' in n}
  _sigmas(sigmas, rows, sigma0)
  log_scale(sigmas)
  hint = 'of its raw weights: some grow all along; one that explodes is a collapse'
  finish(sigmas, "sigma0 of the generator's kernels", hint, unprobed)

  path = 'linear/kernel' if 'linear/kernel' in sigma0 else next(iter(sigma0), '')
  _lines(first, rows, [n for n in known if n.startswith('sigma') and n.endswith(f'_gen/{path}')])
  log_scale(first)
  hint = 'typically the one that explodes (Brock et al. 2019, Section 4.1)'
  finish(first, f"singular values of the generator's {path or 'first kernel'}", hint, unprobed)

  _lines(norms, rows, [n for n in known if n.endswith('_grad_norm') or 'weight_norm_' in n])
  log_scale(norms)
  finish(norms, 'norms of gradients and weights', 'gradients solid, weights dashed')

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
      line(axis, points, '_', color='C2')
      axis.set_ylim(0, 1.1 * max(value for _, value in points) or 1)
    finish(axis, heading, hint, nothing or 'nothing logged yet')
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
