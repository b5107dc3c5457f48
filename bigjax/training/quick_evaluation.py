"""Samples, scores and pictures of the averaged generator while it trains."""

import functools
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np
from PIL import Image, PngImagePlugin

from bigjax import data
from bigjax.algorithms.base.contract import Stage, Stages
from bigjax.algorithms.base.generators.parts import predictor_of
from bigjax.core import errors, files
from bigjax.evaluation import quick, samples
from bigjax.evaluation.during_training import Off, Scoring
from bigjax.evaluation.metrics import by_class
from bigjax.evaluation.samples import BATCH, SEED
from bigjax.sampling import clip_files, grids, lettering
from bigjax.training.program import Program


def check(config: ml_collections.ConfigDict) -> None:
  """Refuse an evaluator that there is not, and a run.best that is no score of it.

  Raises:
    UserError: names the key.
  """
  names, best = quick.scores(config.eval.name, config.data.imbalance > 1), config.run.best
  if best and best.removeprefix('-') not in names:
    given = f'{", ".join(names)} (with a leading - where lower is better)'
    raise errors.UserError(
      f'run.best is {best!r}, but eval.name={config.eval.name} gives '
      f'{given if names else "no scores: set run.best= to nothing"}.'
    )


class Evaluation:
  """Scores a run by what `eval.name` names, and draws its samples.

  Attributes:
    floor: {score: what real images get, or what else the evaluator compares with}.
    floor_name: what that is of, 'real' for real images.
  Raises:
    UserError: the images are not enough for it.
  """

  def __init__(self, program: Program, source: data.Source, config: ml_collections.ConfigDict):
    self._program, self._source, self._config = program, source, config.eval
    _, last = program.stages[-1]
    self._num_classes = program.sampler(last).generator.num_classes
    of_one = self._num_classes == 1  # who knows no classes is scored as of one
    read = unlabelled if of_one else data.labelled
    real = [functools.partial(read, images) for images in (source.reference, source.held_out)]
    groups = by_class.thirds(source.class_counts()) if source.even and not of_one else ()
    self._clips: data.Labelled | None = None
    more = {}
    if quick.predicts(config.eval.name):
      part = predictor_of(program.sampler(last).generator, f'eval.name={config.eval.name}')
      num = config.eval.num_samples
      more = {'num_given': part.num_given, 'num': num}
      clips, labels = real[1](num)
      self._clips = clips[:, : part.num_given], labels
    self.floor_name = quick.floor_name(config.eval.name)
    self._score, self.floor = quick.load(config.eval.name, *real, groups, **more)

  def _prepared(self, state: Any, stage: Stage) -> tuple[Any, Any, Any]:
    """(Sampler, the generator as it is now, prepared for the settings of samples, these)."""
    sampler = self._program.sampler(stage)
    spec = sampler.generator.spec(self._program.algorithm.sampling())
    return sampler, sampler.prepare(self._program.gen(state, stage), 0, spec), spec

  def __call__(
    self, state: Any, stage: Stage, workdir: str, step: int, scorer: Scoring | Off
  ) -> tuple[Any, dict[str, float]]:
    """Score samples, write the class grid of this step, and let the scorer look where it is due.

    Args:
      state: of the run.
      stage: that it is in.
      workdir: with a folder `samples`.
      step: updates done.
      scorer: by protocol; it sees the same samples.
    Returns:
      (the prepared generator, scores).
    """
    sampler, gen, spec = self._prepared(state, stage)
    due = scorer.due(step)
    few = 0 if self._clips else self._config.num_samples  # predictions are scored in their place
    total = max(few, due and scorer.num)
    size = samples.whole_batches(BATCH if due else min(BATCH, total) or 1, sampler.mesh.size)
    batches = samples.draw(sampler, gen, spec, total, SEED, size, self._source.size)
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    seen = _copied(batches, few, kept)
    if due:
      scorer.begin(_first(seen, scorer.num), step)
    for _ in seen:  # what the scorer did not want
      pass
    self._draw(sampler, gen, spec, workdir, step)
    if self._clips:
      side = sampler.generator.shape[-3]
      read = functools.partial(self._predicted, sampler, gen, spec)
    else:
      images, labels = (np.concatenate(parts) for parts in zip(*kept, strict=True))
      side, read = images.shape[-3], lambda: (images, labels)
    scores = self._score(read()) if side == (self._source.size or side) else {}
    return gen, {name: round(value, 6) for name, value in scores.items()}

  def _predicted(self, sampler: Any, gen: Any, spec: Any) -> data.Labelled:
    """How the generator goes on with held-out clips, and their labels."""
    frames, labels = self._clips
    z = sampler.latents(SEED, len(frames), spec)
    return sampler.predicted(gen, frames, z, labels.astype(np.int32), spec), labels

  def catch_up(self, state: Any, stage: Stage, step: int, scorer: Scoring) -> None:
    """Let the scorer look at samples of a step whose scores a run did not live to see."""
    sampler, gen, spec = self._prepared(state, stage)
    size = samples.whole_batches(BATCH, sampler.mesh.size)
    batches = samples.draw(sampler, gen, spec, scorer.num, SEED, size, self._source.size)
    scorer.begin(batches, step)

  def _draw(self, sampler: Any, gen: Any, spec: Any, workdir: str, step: int) -> None:
    """Draw a row per class, of at most ten, with their names; of clips, a film and some strips."""
    columns, rows = self._config.grid_columns, min(max(self._num_classes, 1), 10)
    shown = np.repeat(np.arange(rows, dtype=np.int32), columns)
    cells = sampler.images(gen, sampler.latents(SEED, len(shown), spec), shown, spec)
    if jax.process_index() == 0:
      names = [] if self._num_classes <= 1 else self._source.class_names[:rows]
      caption = f'step {step}, {spec}, seed {SEED}'
      path = os.path.join(workdir, 'samples', f'{step:08d}.png')
      if cells.ndim == 5:
        rate = getattr(self._source, 'frame_rate', 0) or clip_files.RATE
        film = grids.film(cells, columns, names, caption=caption)
        clip_files.save(film, rate, path.removesuffix('.png') + '.webp')
        each = max(1, columns // rows)  # of a class: about as many strips as columns
        cells = cells.reshape(rows, columns, *cells.shape[1:])[:, :each]
        cells = cells.reshape(-1, *cells.shape[2:])
        picture = grids.strips(cells, np.repeat(names, each).tolist(), caption)
      else:
        grid = grids.grid(cells, columns)
        picture = lettering.labelled(grid, rows, columns, names, caption=caption)
      where = PngImagePlugin.PngInfo()
      where.add_text('grid', picture.info['grid'])
      with files.whole(path) as file:
        picture.save(file, format='png', pnginfo=where)


def grid_at(workdir: str, step: int) -> tuple[Image.Image, int] | None:
  """(The class grid of an evaluation without its letters, its rows); None where there is none."""
  path = os.path.join(workdir, 'samples', f'{step:08d}.png')
  if not os.path.exists(path):
    return None
  with Image.open(path) as picture:
    if 'grid' not in picture.info:
      return None
    *box, rows = (int(word) for word in picture.info['grid'].split(','))
    return picture.crop(box), rows


def moved(workdir: str, step: int, every: int) -> dict[str, float]:
  """{'samples_moved': how far the samples of fixed latents are from the evaluation before}.

  The mean squared difference of their pixels in [-1, 1] (MSG-GAN, Fig. 6), between the class grids
  of this step and of the last one before it on the period: what a run that was interrupted has,
  too. {} where there is none, or at another resolution.
  """
  before = (step - 1) // every * every if every else 0
  found = [grid_at(workdir, at) for at in (before, step) if at]
  if len(found) < 2 or None in found:
    return {}
  then, now = (np.asarray(grid, np.float32) / 127.5 for grid, _ in found)
  if then.shape != now.shape:
    return {}
  return {'samples_moved': round(float(np.square(then - now).mean()), 6)}


def draw_growth(workdir: str, stages: Stages, step: int) -> None:
  """Draw growth.png, where there are several stages: the same latents at the end of each so far."""
  names = [name for name in os.listdir(os.path.join(workdir, 'samples')) if name.endswith('.png')]
  steps = [at for at in sorted(int(name[:-4]) for name in names) if at <= step]
  rows = {}
  for (first, stage), (end, _) in zip(stages, [*stages[1:], (math.inf, None)], strict=True):
    last = max((at for at in steps if first < at <= end), default=0)
    if last and (found := grid_at(workdir, last)):
      grid, num = found
      row = grid.crop((0, 0, grid.width, grid.height // num))  # of the first class
      rows[f'{stage.image[-2]} px, step {last:,}'] = row
  if len(rows) < 2:
    return
  width, height = (max(size) for size in zip(*(row.size for row in rows.values()), strict=True))
  strip = Image.new('RGB', (width, height * len(rows)))
  for i, row in enumerate(rows.values()):
    strip.paste(row.resize((width, height), Image.Resampling.NEAREST), (0, i * height))
  picture = lettering.labelled(strip, len(rows), 1, list(rows))
  picture.save(os.path.join(workdir, 'growth.png'))


def unlabelled(images: Callable[..., data.Labelled], most: int) -> data.Labelled:
  """At most so many images, of Source.train or held_out, all of one class."""
  some, labels = images(most)
  return some, np.zeros(len(labels), np.int32)


def _copied(
  batches: Iterator[Any], few: int, kept: list[tuple[np.ndarray, np.ndarray]]
) -> Iterator[Any]:
  """Yields the same batches, and keeps the first few samples of all on the host."""
  have = 0
  for images, labels in batches:
    num = min(few - have, len(labels))
    if num > 0:
      kept.append((whole(images)[:num], labels[:num]))
      have += num
    yield images, labels


def whole(images: jax.Array) -> np.ndarray:
  """All of an array whose examples are on several devices, or hosts."""
  if images.is_fully_addressable:
    return np.asarray(images)
  from jax.experimental import multihost_utils

  return np.asarray(multihost_utils.process_allgather(images, tiled=True))


def _first(batches: Iterator[Any], num: int) -> Iterator[Any]:
  """Yields the batches of the first `num` samples, and takes no more from the iterator."""
  for images, labels in batches:
    yield images, labels[:num]
    num -= len(labels)
    if num <= 0:
      return
