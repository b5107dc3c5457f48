"""docs/papers.md and its picture, from the rows that benchmarks/papers.py keeps."""

import base64
import io
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

import corruptions  # tests/support, which papers.py puts on the path
from papers_scores import FIGURES, SETS, Referee, Scores, mean_of

SHOWN = 2  # samples of each class in the strip of a system
UNTRAINED = 0  # the budget of one step

Row = dict[str, Any]
Groups = Mapping[tuple[str, int], Sequence[Row]]  # by (paper, budget)

TEXT = """# Every paper on the digits, at equal cost

Written by `python benchmarks/papers.py`, which says what is measured and how; do not edit.

Budget 1x is BigGAN's run of `digits`, {flops:.3g} FLOPs (traced, penalties included). Every system
has the number of steps that comes nearest to it and, for 4x, to four times that; *untrained* is
after one step. Figures are mean ± standard deviation over seeds. Each compares {num} samples with
{num} held-out digits, averaged over {sets} sets of samples and both halves of the held-out digits:
figures of this table compare with each other, and with nothing else. Agreement is the share of
samples that the classifier takes for the class asked for, of conditional systems. The distance to
training images is 1 for real images and 0 for copies. Seconds are of a busy machine with two CPU
cores, compilation included: they tell orders of magnitude.

{table}

![real digits, samples of each system at each budget, corruptions](images/papers.png)

## Which figure sees which corruption

Real digits that no network has seen are clearly better than a corruption by the figures marked:
agreement, precision and coverage by more than 0.1, the Frechet distance by a factor of 2, the
distance to training images 1.25 times nearer to 1.

{seen}

- `noise`: Gaussian, of {sigma} grey levels. `blur`: Gaussian, of {radius:g} pixels. `mosaic`:
  {tiles}x{tiles} tiles shuffled. `repeated`: one real image. `mean`: the mean image. *untrained*:
  BigGAN's network after one step.
- `raw_pixels`: for each image, the training image nearest in raw pixels. Nothing is as real as a
  copy: only the distance to training images tells. For figures of representations it is the
  baseline without learning: the copies' classes are those of a 1-nearest-neighbour classifier.
- Precision is 1 for one good image repeated, and agreement, precision, coverage and the Frechet
  distance see no copying: no claim rests on one column.
"""


# Samples as text, so that the picture can be drawn where the runs are not.


def encoded(images: np.ndarray) -> str:
  """Writes uint8 images [n, H, W, C] side by side as a PNG in base64."""
  row = np.concatenate(images, 1)
  file = io.BytesIO()
  Image.fromarray(row[..., 0] if row.shape[-1] == 1 else row).save(file, 'png', optimize=True)
  return base64.b64encode(file.getvalue()).decode()


def decoded(text: str) -> np.ndarray:
  """Reads what `encoded` wrote: uint8 [H, n W] or [H, n W, C]."""
  return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


# The table.


def budget_name(times: int) -> str:
  return 'untrained' if times == UNTRAINED else f'{times}x'


def spread(values: Sequence[float], digits: int) -> str:
  """Writes a mean, and the standard deviation of one value where there are several."""
  text = f'{statistics.fmean(values):.{digits}f}'
  return text + (f' ± {statistics.stdev(values):.{digits}f}' if len(values) > 1 else '')


def table_line(
  name: str, rows: Sequence[Row], labels: bool = True, cost: tuple[str, str] = ('', '')
) -> str:
  """Writes a line of the table: a system at a budget, real images or a corruption.

  Args:
    name: what it begins with.
    rows: one per seed, none of which failed.
    labels: whether agreement means anything.
    cost: steps and seeds.
  """
  cells = [name, *cost]
  for figure, of in FIGURES.items():
    shown = rows and (labels or figure != 'agreement')
    cells.append(spread([row[figure] for row in rows], of.digits) if shown else '')
  times = [row['seconds'] for row in rows if row.get('seconds')]
  cells.append(spread(times, 0) if times else '')
  return f'| {" | ".join(cells)} |'


def table(groups: Groups, real: Scores, others: Mapping[str, Scores]) -> list[str]:
  """Writes the table of systems between real images and corruptions, and below it what failed."""
  titles = ['system', 'steps', 'seeds', *(of.title for of in FIGURES.values()), 'seconds']
  lines = [f'| {" | ".join(titles)} |', '|---' * len(titles) + '|']
  lines.append(table_line('real images', [real]))
  failures = []
  conditional = {p for (p, _), rows in groups.items() if any(r.get('conditional') for r in rows)}
  for (paper, times), rows in groups.items():
    good = [row for row in rows if 'failed' not in row]
    bad = [row for row in rows if 'failed' in row]
    seeds = f'{len(good)}' + (f', {len(bad)} failed' if bad else '')
    name = f'`{paper}` {budget_name(times)}'
    cost = f'{rows[0]["steps"]:,}', seeds
    lines.append(table_line(name, good, paper in conditional, cost))
    failures += [f'- {name}, seed {row["seed"]}, failed: {row["failed"]}' for row in bad]
  lines += [table_line(f'corruption: {name}', [scores]) for name, scores in others.items()]
  notes = failures + unlearnt(groups, others)
  return [*lines, '', *notes] if notes else lines


def unlearnt(groups: Groups, others: Mapping[str, Scores]) -> list[str]:
  """Writes which conditional systems had not learnt at a budget what tells a class from noise."""
  lines = []
  for (paper, times), rows in groups.items():
    agreements = [r['agreement'] for r in rows if r.get('conditional') and 'failed' not in r]
    if times == UNTRAINED or not agreements:
      continue
    mean = statistics.fmean(agreements)
    if not FIGURES['agreement'].better(mean, others['noise']['agreement']):
      text = f'has not learnt yet: its agreement, {mean:.3f}, is no better than noise.'
      lines.append(f'- `{paper}` {budget_name(times)} {text}')
  return lines


def seen(real: Scores, others: Mapping[str, Scores]) -> list[str]:
  """Writes the table of which figure puts real images clearly before which corruption."""
  lines = [f'| corruption | {" | ".join(of.title for of in FIGURES.values())} |']
  lines.append('|---' * (len(FIGURES) + 1) + '|')
  for name, scores in others.items():
    marks = ['sees' if of.better(real[f], scores[f]) else '' for f, of in FIGURES.items()]
    lines.append(f'| {name} | {" | ".join(marks)} |')
  return lines


def strips(groups: Groups, referee: Referee) -> dict[str, np.ndarray]:
  """Collects what the picture shows: real images, each system at each budget, corruptions.

  Args:
    groups: their rows hold the samples.
    referee: has the real images.
  """
  _, (images, labels) = referee.folds[0]
  pick = np.concatenate([np.flatnonzero(labels == c)[:SHOWN] for c in np.unique(labels)])
  shown = {'real images': decoded(encoded(images[pick]))}
  for (paper, times), rows in groups.items():
    for row in rows:
      if 'strip' in row:
        shown[f'{paper} {budget_name(times)}'] = decoded(row['strip'])
  for name, change in corruptions.CORRUPTIONS.items():
    shown[name] = decoded(encoded(change(images, referee.train[0])[pick]))
  return shown


def draw(shown: Mapping[str, np.ndarray], path: str) -> None:
  """Draws strips of samples below each other, with their names."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(11, 0.52 * len(shown)))
  axes = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
  for axis, (name, image) in zip(axes, shown.items(), strict=True):
    axis.imshow(image, cmap='gray', vmin=0, vmax=255, interpolation='nearest')
    axis.set_ylabel(name, rotation=0, ha='right', va='center', fontsize=9)
    axis.set(xticks=[], yticks=[])
  figure.savefig(path, dpi=110, bbox_inches='tight', pad_inches=0.05)  # with names, however long


def write(docs: str, groups: Groups, referee: Referee, flops: int, yardstick: str) -> None:
  """Writes papers.md and images/papers.png.

  Args:
    docs: the folder.
    groups: the rows that count.
    referee: scores real images and their corruptions.
    flops: of budget 1.
    yardstick: the paper whose untrained network stands among the corruptions.
  """
  real = referee.made_of(None)
  others = {name: referee.made_of(change) for name, change in corruptions.CORRUPTIONS.items()}
  untrained = [r for r in groups.get((yardstick, UNTRAINED), ()) if 'failed' not in r]
  text = TEXT.format(
    flops=flops,
    num=len(referee.folds[0][1][1]),
    sets=SETS,
    table='\n'.join(table(groups, real, others)),
    seen='\n'.join(seen(real, others | ({'untrained': mean_of(untrained)} if untrained else {}))),
    sigma=corruptions.SIGMA,
    radius=corruptions.RADIUS,
    tiles=corruptions.TILES,
  )
  os.makedirs(os.path.join(docs, 'images'), exist_ok=True)
  with open(os.path.join(docs, 'papers.md'), 'w') as f:
    f.write(text)
  draw(strips(groups, referee), os.path.join(docs, 'images', 'papers.png'))
