"""Samples, scores and pictures of the averaged generator while it trains."""

import functools
import os
from typing import Any

import jax
import ml_collections
import numpy as np

from bigjax import data
from bigjax.core import errors
from bigjax.evaluation import quick
from bigjax.nn.latents import How
from bigjax.sampling import image_files
from bigjax.training import program


class Evaluation:
  """Samples, scores and pictures of the averaged generator with standing statistics."""

  def __init__(
    self, program: program.Program, source: data.Source, config: ml_collections.ConfigDict
  ):
    self._program, self._source, self._config = program, source, config.eval
    self._columns = config.eval.grid_columns
    self._how = How(passes=config.eval.standing_passes, batch=config.eval.standing_batch)
    real = [functools.partial(data.labelled, images) for images in (source.train, source.held_out)]
    self._score, self.floor = quick.load(config.eval.name, *real)
    best = config.run.best
    if best and best.removeprefix('-') not in self.floor:
      given = f'{", ".join(self.floor)} (with a leading - where lower is better)'
      raise errors.UserError(
        f'run.best is {best!r}, but eval.name={config.eval.name} gives '
        f'{given if self.floor else "no scores: set run.best= to nothing"}.'
      )

  def ready(self, state: Any) -> Any:
    """Return gen calibrated untruncated."""
    return self._program.sampler.calibrate(self._program.gen(state), 0, self._how)

  def __call__(self, state: Any, workdir: str, step: int) -> tuple[Any, dict[str, float]]:
    """Return (gen calibrated untruncated, scores), and write the class grid of this step."""
    sampler, gen = self._program.sampler, self.ready(state)
    num_classes, num = len(self._source.class_names), self._config.num_samples
    labels = np.arange(num, dtype=np.int32) % num_classes
    images = sampler.images(gen, sampler.latents(1, num, self._how), labels, self._how, batch=256)
    shown = np.repeat(np.arange(min(num_classes, 10), dtype=np.int32), self._columns)
    cells = sampler.images(gen, sampler.latents(0, len(shown), self._how), shown, self._how)
    if jax.process_index() == 0:
      image_files.grid(cells, self._columns).save(
        os.path.join(workdir, 'samples', f'{step:08d}.png')
      )
    return gen, {name: round(value, 6) for name, value in self._score((images, labels)).items()}
