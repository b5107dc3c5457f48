"""Curves and vital signs of a run as PNG: losses, accuracies, scores, singular values, speed."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bigjax.algorithms.base import metrics
from bigjax.core import plotting
from bigjax.core.plotting import (
  Points,
  Rows,
  finish,
  line,
  log_scale,
  names,
  real_lines,
  series,
  stretches,
)
from bigjax.evaluation import reference_curves as tables

if TYPE_CHECKING:
  from matplotlib.axes import Axes  # slow to import
  from matplotlib.figure import Figure
EVENTS = 12  # that are told in words, the first and the last of them
FIRST_FEW = 3  # published points that are shown however short the run is
PREDICTED = {'psnr': 'PSNR of predictions, dB', 'ssim': 'SSIM of predictions'}
BEST = 'the best without a network'
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
  """Draws what `curves` saves: only panels that have something to show."""
  rows = list(rows)
  scores = [name for name in names(rows) if name in floor]
  kinds = {
    kind: [name for name in scores if tables.kind(name) == kind]
    for kind in ('fid', 'is')
    if any(tables.kind(name) == kind for name in scores) or (curve and kind in curve.metrics)
  }
  distances = [name for name in scores if name.startswith('fd_')]
  predicted = {name: [name] for name in scores if name in PREDICTED}
  apart = (*distances, *predicted)
  others = [name for name in scores if tables.kind(name) not in kinds and name not in apart]
  shares = metrics.ACCURACY.among(names(rows))
  panels = {
    'losses': metrics.LOSS.among(names(rows)),
    **({"share of images a discriminator's sign gets right": shares} if shares else {}),
    **({'scores (dashed: real images)': others} if others else {}),
    **({'fd': distances} if distances else {}),
    **kinds,
    **predicted,
  }
  headings = {
    'fd': 'Frechet distances: lower is better (dashed: real images)',
    'fid': 'FID: lower is better (dashed: real images)',
    'is': 'Inception score: higher is better (dashed: real images)',
    **{kind: f'{words}: higher is better (dashed: {BEST})' for kind, words in PREDICTED.items()},
  }
  figure, axes = plotting.figure(len(panels), title)
  for axis, (heading, shown) in zip(axes, panels.items(), strict=True):
    for i, name in enumerate(shown):
      line(axis, series(rows, name), name, **{'color': f'C{i}', **STYLES.get(name, {})})
    real_lines(axis, [(floor[name], f'C{i}') for i, name in enumerate(shown) if name in floor])
    if curve and heading in curve.metrics:
      _published(axis, curve, heading, max((row['step'] for row in rows), default=0))
    if heading in ('fid', 'is', 'fd'):
      log_scale(axis)
    finish(axis, headings.get(heading, heading))
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
  plotting.save(curves_figure(rows, floor, title, published), path)


def _lines(axis: 'Axes', rows: Rows, shown: Iterable[str]) -> None:
  for name in shown:
    line(axis, series(rows, name), name, **STYLES.get(name, {}))


def _largest(axis: 'Axes', lines: Mapping[str, Points], named: int = 5) -> None:
  """Draw all lines thin; name those that are largest at the end."""
  largest = sorted(lines, key=lambda name: -lines[name][-1][1])[:named]
  for name in sorted(set(lines) - set(largest)):
    line(axis, lines[name], '_', color='0.65', linewidth=0.6, marker='')
  for name in largest:
    line(axis, lines[name], name)


def _ratios(axis: 'Axes', lines: Mapping[str, Points]) -> None:
  _largest(axis, lines)
  log_scale(axis)


def _sigmas(axis: 'Axes', rows: Rows, lines: Mapping[str, Points]) -> None:
  """Draw sigma0 of every kernel, and the largest norm that the discriminator divides by."""
  _largest(axis, lines)
  _lines(axis, rows, [name for name in metrics.SIGMA_MAX.among(names(rows)) if name in STYLES])
  log_scale(axis)


def _events(axis: 'Axes', events: Sequence[tuple[int, str]]) -> None:
  """Draw events as lines with their numbers; those that lie together share a place for these."""
  low, high = axis.get_xlim()
  places: list[tuple[float, list[str]]] = []
  for i, (step, _) in enumerate(events, 1):
    axis.axvline(step, color='C3', linestyle='--', linewidth=0.8)
    if places and step - places[-1][0] < (high - low) / 25:
      places[-1][1].append(str(i))
    else:
      places.append((step, [str(i)]))
  for step, numbers in places:
    where = {'transform': axis.get_xaxis_transform(), 'ha': 'left', 'va': 'top'}
    words = ','.join(numbers) if len(numbers) < 4 else f'{numbers[0]}-{numbers[-1]}'
    axis.text(step, 0.99, f' {words}', color='C3', fontsize=8, fontweight='bold', **where)


def _legend_of(events: Sequence[tuple[int, str]], width: int) -> str:
  """What the numbers of events mean, once for all panels, in whole words."""
  lines = [
    f'{i}: step {step:,}, {" ".join(words.split())}' for i, (step, words) in enumerate(events, 1)
  ]
  if len(lines) > EVENTS:
    rest = f'{len(lines) - EVENTS} more in between: see events.jsonl and history.json'
    lines = [*lines[: EVENTS // 2], rest, *lines[-EVENTS // 2 :]]
  return '\n'.join(textwrap.fill(text, width, subsequent_indent='    ') for text in lines)


def vital_signs_figure(
  rows: Iterable[Mapping[str, Any]],
  clock: Iterable[Mapping[str, Any]],
  events: Iterable[tuple[int, str]],
  title: str,
  player: str = 'gen',
) -> 'Figure':
  """Draws what `vital_signs` saves: only panels that have something to show, three in a row."""
  rows, clock, events = list(rows), list(clock), sorted(events)
  known = names(rows)
  beginning = metrics.singular_value(0, player)
  sigma0 = {n.removeprefix(beginning): series(rows, n) for n in known if n.startswith(beginning)}
  path = 'linear/kernel' if 'linear/kernel' in sigma0 else next(iter(sigma0), '')
  values = [n for n in metrics.SIGMA.among(known) if n.endswith(f'_{player}/{path}')]
  norms = [n for n in known if n in metrics.GRAD_NORM or n in metrics.WEIGHT_NORM]
  by_size = sorted(metrics.RGB_SHARE.among(known), key=lambda n: int(n.rpartition('_')[2]))
  prefix = metrics.NORM_RATIO.pattern.partition('*')[0]
  ratios = {n.removeprefix(prefix): series(rows, n) for n in metrics.NORM_RATIO.among(known)}
  skipped = series(rows, metrics.SKIPPED.pattern)
  speed = [point for point in series(clock, 'images_per_second') if point[1] > 0]
  waiting, memory = series(clock, 'waiting'), series(clock, 'device_memory_gib')

  # Each panel: heading, hint, whether there is anything to draw, and how.
  panels = (
    ('losses', 'a sudden jump is a collapse', True,
     lambda axis: _lines(axis, rows, metrics.LOSS.among(known))),
    ("share of images a discriminator's sign gets right",
     'held_out far below train: it knows its training images by heart',
     metrics.ACCURACY.among(known), lambda axis: _shares(axis, rows, metrics.ACCURACY)),
    ('share of images whose class a classifier tells', 'held_out should be near train',
     metrics.CLASS_ACCURACY.among(known),
     lambda axis: _shares(axis, rows, metrics.CLASS_ACCURACY)),
    ('strength of the augmentation', 'p grows while r_t is above its target',
     metrics.AUGMENT.among(known), lambda axis: _lines(axis, rows, metrics.AUGMENT.among(known))),
    ("each resolution's share of the output",
     'deviation of what it adds (Karras et al. 2020, Figure 8); should move to the last ones',
     by_size, lambda axis: _lines(axis, rows, by_size)),
    ('shortcuts over the branches beside them, by norm',
     'far above 1, a layer passes on what it is given (Xu et al. 2023)',
     ratios, lambda axis: _ratios(axis, ratios)),
    ('updates refused in a row', 'for numbers that are not finite; should stay 0',
     skipped, lambda axis: _refused(axis, skipped)),
    (f'sigma0 of the kernels of {player}',
     'of its raw weights: some grow all along; one that explodes is a collapse',
     sigma0, lambda axis: _sigmas(axis, rows, sigma0)),
    (f'singular values of {player}/{path}',
     'typically the one that explodes (Brock et al. 2019, Section 4.1)',
     values, lambda axis: _logarithmic(axis, rows, values)),
    ('cosine of latents and what the encoder makes of their images', 'should grow from about 0',
     metrics.LATENT_COSINE.among(known),
     lambda axis: _lines(axis, rows, metrics.LATENT_COSINE.among(known))),
    ('norms of gradients and weights', 'gradients solid, weights dashed',
     norms, lambda axis: _logarithmic(axis, rows, norms)),
    ('images per second', 'evaluations and checkpoints left out',
     speed, lambda axis: _from_zero(axis, speed)),
    ('share of time waiting for data', 'should stay near 0',
     waiting, lambda axis: _from_zero(axis, waiting, 1)),
    ('device memory in GiB', 'the peak so far', memory, lambda axis: _from_zero(axis, memory)),
  )  # fmt: skip
  shown = [(heading, hint, drawn) for heading, hint, any_, drawn in panels if any_]
  figure, axes = plotting.figure(len(shown), title)
  last = max([1, *(row['step'] for row in [*rows, *clock]), *(step for step, _ in events)])
  for axis, (heading, hint, drawn) in zip(axes, shown, strict=True):
    drawn(axis)
    axis.set_xlim(-0.03 * last, 1.03 * last)
    finish(axis, heading, hint)
    _events(axis, events)
  if events:
    width = int(15 * figure.get_figwidth())
    figure.supxlabel(_legend_of(events, width), x=0.01, ha='left', fontsize=8, color='C3')
    figure.set_figheight(figure.get_figheight() + 0.15 * len(figure.get_supxlabel().splitlines()))
  return figure


def _shares(axis: 'Axes', rows: Rows, which: metrics.Metric) -> None:
  _lines(axis, rows, which.among(names(rows)))
  axis.set_ylim(-0.03, 1.03)


def _refused(axis: 'Axes', skipped: Points) -> None:
  """One refusal must not drown in a mean."""
  steps, _, _, highest = stretches(skipped).T
  most = list(zip(steps, highest, strict=True))
  line(axis, most, '_', color='C3', drawstyle='steps-pre')
  axis.set_ylim(-0.05, max(1.05, 1.1 * highest.max()))


def _logarithmic(axis: 'Axes', rows: Rows, shown: Iterable[str]) -> None:
  _lines(axis, rows, shown)
  log_scale(axis)


def _from_zero(axis: 'Axes', points: Points, top: float = 0) -> None:
  line(axis, points, '_', color='C2')
  top = top or 1.1 * max(value for _, value in points) or 1
  axis.set_ylim(-0.03 * top, top)  # a line at 0 is not the frame


def vital_signs(
  path: str,
  rows: Iterable[Mapping[str, Any]],
  clock: Iterable[Mapping[str, Any]],
  events: Iterable[tuple[int, str]],
  title: str,
  player: str = 'gen',
) -> None:
  """Draw into a PNG what tells whether a run is healthy, in panels over the same steps.

  Losses, accuracies, refused updates; sigma0 of every kernel of the generator, the singular values
  of its first, norms; speed, waiting for data, memory.

  Args:
    path: of the PNG.
    rows: of metrics.jsonl.
    clock: rows of timing.jsonl.
    events: (step, words), drawn as vertical lines with numbers; below are the words.
    title: of the picture.
    player: whose kernels are shown.
  """
  plotting.save(vital_signs_figure(rows, clock, events, title, player), path)


def scales_figure(by_player: Mapping[str, Mapping[str, float]], title: str) -> 'Figure':
  """Draws what `scales` saves: a panel per player, a dot per tensor in the network's order."""
  from matplotlib.figure import Figure

  longest = max(len(scales) for scales in by_player.values())
  made = Figure(figsize=(6.5 * max(len(by_player), 2), 1.5 + 0.19 * max(longest, 8)))
  made.set_layout_engine('constrained')
  axes = made.subplots(1, len(by_player), squeeze=False)[0]
  for axis, (player, scales) in zip(axes, by_player.items(), strict=True):
    rows, values = range(len(scales)), list(scales.values())
    axis.axvline(1, color='0.35', linewidth=0.9)
    axis.hlines(rows, 1, values, color='0.75', linewidth=0.9)
    axis.plot(values, rows, 'o', markersize=4, color='C1' if player == 'gen' else 'C0')
    finish(axis, f'player {player}', 'line at 1: as drawn', x='scale')
    axis.set_yticks(rows, labels=list(scales), fontsize=7)
    axis.set_ylim(len(scales) - 0.5, -0.5)
    axis.set_xlim(left=0)
  made.suptitle(title, parse_math=False)
  return made


def scales(path: str, by_player: Mapping[str, Mapping[str, float]], title: str) -> None:
  """Draw the scales that GradInit found into a PNG.

  Args:
    path: of the PNG.
    by_player: {player: {tensor: scale}}.
    title: of the picture.
  """
  plotting.save(scales_figure(by_player, title), path)
