"""Scores of what a generator predicts of held-out clips, frame by frame: PSNR and SSIM.

It is given the first frames of each clip, with the latent that has the clip's number, so that what
it predicts depends on neither the batch nor other clips. psnr1k_test_2given is the mean over all
frames that follow 2 given ones and over 1,000 clips, psnr1k_test_2given_t3 that of the third that
follows; psnr1k_test_2given_best_of3 is of the best of 3 predictions of each clip, one per seed, as
Denton & Fergus (2018) choose them. Beside these stand predictions that need no network, of the same
clips: psnr_of_last_frame1k_test_2given (the last given frame, again and again),
psnr_of_mean_image... (the mean over the frames of training clips) and psnr_of_black...
"""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigjax import data
from bigjax.algorithms.base.contract import Spec
from bigjax.algorithms.base.generators.parts import predictor_of
from bigjax.core import plotting
from bigjax.core.progress import say
from bigjax.evaluation.image_sets import ImageSet
from bigjax.evaluation.metrics import registry
from bigjax.evaluation.of_networks import predicted_frames, refusals
from bigjax.evaluation.protocol import cell
from bigjax.evaluation.reference import chosen
from bigjax.sampling.loaded import Loaded

NAME = re.compile(
  r'(?P<score>psnr|ssim)(_of_(?P<of>[a-z_]+?))?\d+k?_test_\d+given(_best_of(?P<best>\d+))?'
  r'(_t(?P<t>\d+))?'
)
UNITS = {'psnr': 'PSNR, dB', 'ssim': 'SSIM'}


def refuse(metrics: Sequence[str], loaded: Loaded | None) -> None:
  """Refuse scores that this generator cannot have.

  Args:
    metrics: of registry.OF_PREDICTION.
    loaded: the generator; None where images are scored.
  Raises:
    UserError: names the first.
  """
  need = lambda generator, name: predictor_of(generator, f'--metrics={name}')
  refusals.refuse(metrics, loaded, 'of the frames that a generator predicts', need, clips=True)


@dataclasses.dataclass(frozen=True)
class Measure:
  """What these scores are measured with.

  Attributes:
    metrics: of registry.OF_PREDICTION; () measures nothing.
    splits: real clips of the generator's size: 'train', 'test'.
    num: of the test clips, at most.
    batch: clips at a time.
  """

  metrics: Sequence[str]
  splits: dict[str, ImageSet]
  num: int
  batch: int

  def about(self) -> dict[str, Any]:
    """What of it a score depends on, for its protocol."""
    return {'prediction_digest': self.splits['test'].digest} if self.metrics else {}

  def scored(self, loaded: Loaded, spec: Spec | None, seeds: Sequence[int]) -> list[dict]:
    """{Full name: value} of a generator, prepared for its settings, for each seed."""
    if not self.metrics:
      return [{} for _ in seeds]
    generator, sampler = loaded.sampler.generator, loaded.sampler
    given = predictor_of(generator, self.metrics[0]).num_given
    train, test = self.splits['train'], self.splits['test']
    some, _ = train.some(predicted_frames.num_of_mean(train.size))
    mean = predicted_frames.mean_image(some)
    kept = np.isin(np.arange(test.num), data.subset(test.num, self.num))
    total, first = int(kept.sum()), 0
    say(f'predictions of {total:,} clips of {test.name}/{test.split}, {given} frames given')
    latents = [sampler.latents(seed, total, spec) for seed in seeds]
    found: dict[str, list[np.ndarray]] = {}  # of each batch, [n, T], or [n, seeds, T]
    for clips, labels in chosen(test.batches(self.batch), kept, self.batch):
      y = np.asarray(labels if loaded.num_classes > 1 else np.zeros(len(clips)), np.int32)
      predicted = [
        sampler.predicted(
          loaded.gen, clips[:, :given], z[first : first + len(clips)], y, spec, self.batch
        )
        for z in latents
      ]
      beside = predicted_frames.baselines(clips, given, mean)
      came = clips[:, given:]
      for metric in self.metrics:
        score = predicted_frames.SCORES[metric]
        found.setdefault(metric, []).append(np.stack([score(one, came) for one in predicted], 1))
        for name, frames in beside.items():
          found.setdefault(f'{metric}_of_{name}', []).append(score(frames, came))
      first += len(clips)
    whole = {name: np.concatenate(parts) for name, parts in found.items()}
    return _named(whole, self.metrics, f'{registry.thousands(total)}_test_{given}given', len(seeds))


def _named(
  found: Mapping[str, np.ndarray], metrics: Sequence[str], words: str, num_seeds: int
) -> list[dict[str, float]]:
  """{Full name: mean over clips} for each seed, of scores [n, T] or, of samples, [n, seeds, T]."""
  common, each = {}, [{} for _ in range(num_seeds)]
  for name, values in found.items():
    if name not in metrics:
      common |= _curve(f'{name}{words}', values)
      continue
    for seed, scores in enumerate(each):
      scores |= _curve(f'{name}{words}', values[:, seed])
    if num_seeds > 1:
      best = values.mean(2).argmax(1)
      of_best = values[np.arange(len(values)), best]
      common |= _curve(f'{name}{words}_best_of{num_seeds}', of_best)
  return [scores | common for scores in each]


def _curve(name: str, values: np.ndarray) -> dict[str, float]:
  """The mean of scores [n, T], and that of each frame after the given ones."""
  frames = {f'{name}_t{t}': float(value) for t, value in enumerate(values.mean(0), 1)}
  return {name: float(values.mean()), **frames}


def is_one(name: str) -> bool:
  """Whether a score's full name is of a prediction."""
  return bool(NAME.fullmatch(name))


def is_of_one_frame(name: str) -> bool:
  """Whether it is of a prediction's single frame, not the mean over frames."""
  parts = NAME.fullmatch(name)
  return bool(parts and parts['t'])


def curves(scores: Mapping[str, Any], metric: str) -> dict[str, dict[int, Any]]:
  """{What predicts: {frame after the given ones: score}}, frame 0 being the mean, of a metric."""
  found: dict[str, dict[int, Any]] = {}
  for name, score in scores.items():
    parts = NAME.fullmatch(name)
    if parts and parts['score'] == metric:
      who = (parts['of'] or 'generator').replace('_', ' ')
      who = f'best of {parts["best"]}' if parts['best'] else who
      found.setdefault(who, {})[int(parts['t'] or 0)] = score
  return found


def table(what: str, scores: Mapping[str, Any]) -> str:
  """Markdown tables of one generator's scores: a row per frame, a column per prediction."""
  tables = []
  for metric, unit in UNITS.items():
    columns = curves(scores, metric)
    if not columns:
      continue
    lines = ['| ' + ' | '.join([f'{what}: {unit} of frame', *columns]) + ' |']
    lines.append('|---' * (1 + len(columns)) + '|')
    order = sorted(columns['generator'], key=lambda t: (t == 0, t))
    for t in order:
      cells = [cell(curve[t]) for curve in columns.values()]
      lines.append('| ' + ' | '.join([f'+{t}' if t else 'all', *cells]) + ' |')
    tables.append('\n'.join(lines))
  return '\n\n'.join(tables)


def draw(path: str, rows: Sequence[tuple[str, Mapping[str, Any]]], title: str) -> None:
  """Draw each score over the frame after the given ones into a PNG; what needs no network, dashed.

  Args:
    path: of the PNG.
    rows: (what, {full name: {value, std}}) of each generator.
    title: of the picture.
  """
  shown = [metric for metric in UNITS if curves(rows[0][1], metric)]
  figure, axes = plotting.figure(len(shown), title)
  for axis, metric in zip(axes, shown, strict=True):
    for what, scores in rows:
      for who, curve in curves(scores, metric).items():
        own = who == 'generator' or who.startswith('best')
        if not own and what != rows[0][0]:
          continue  # the same clips, the same baselines
        label = who if not own else what if who == 'generator' else f'{what}, {who}'
        times = sorted(t for t in curve if t)
        values = [curve[t]['value'] for t in times]
        style = {'marker': 'o', 'markersize': 3} if own else {'linestyle': '--', 'linewidth': 1}
        axis.plot(times, values, label=label, **style)
    plotting.finish(axis, UNITS[metric], 'higher is better', x='frame after the given ones')
  plotting.save(figure, path)


def report(out: str, rows: Sequence[tuple[str, Mapping[str, Any]]], title: str) -> None:
  """Print tables and draw prediction.png in a folder, where there are such scores."""
  rows = [(what, scores) for what, scores in rows if any(map(is_one, scores))]
  if not rows:
    return
  for row in rows:
    print(f'\n{table(*row)}\n')
  path = os.path.join(out, 'prediction.png')
  draw(path, rows, title)
  say(f'{path}: scores of predictions over frames')


def of_none() -> Measure:
  """In the place of one where no score is of a prediction."""
  return Measure((), {}, 0, 1)
