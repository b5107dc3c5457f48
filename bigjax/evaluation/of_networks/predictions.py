"""Held-out clips gone on with from their first frames, drawn beside what really followed."""

import argparse
import os
from typing import Any

import numpy as np

from bigjax import data
from bigjax.algorithms.base.contract import Spec
from bigjax.algorithms.base.generators.parts import predictor_of
from bigjax.core import errors
from bigjax.evaluation import image_sets
from bigjax.sampling import clip_files, grids, pictures

SHOWN = 8  # clips, unless told
HEADS = ('truth', 'prediction')


def held_out(
  loaded: Any, name: str, data_dir: str | None, workdir: str | None, num: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
  """Clips that a generator was not trained on.

  Args:
    loaded: a generator of clips, loaded.
    name, data_dir, workdir: see image_sets.as_of_run.
    num: how many at most, evenly chosen.
  Returns:
    (uint8 [n, T, H, W, C], the generator's classes of these int32 [n], what these are called [n]).
  Raises:
    UserError: the source cannot be read, or has other classes than the generator.
  """
  if not name:
    raise errors.UserError(
      'the card does not say what this generator was trained on; name a source of clips, as in '
      '--predict synthetic.'
    )
  blind = 1 if loaded.num_classes == 1 else None  # else as many as there are, checked below
  source = image_sets.as_of_run(
    name, loaded.shape, data_dir, workdir, num_classes=blind, fit=loaded.fit
  )
  known = len(source.class_names)
  if loaded.num_classes not in (1, known):
    raise errors.UserError(
      f'--predict needs the classes that the generator knows: it has {loaded.num_classes}, '
      f'{name} has {known}; name the source that it was trained on.'
    )
  clips, labels = data.labelled(source.held_out, num)
  names = [source.class_names[label] if known > 1 else '' for label in labels]
  return clips, labels if loaded.num_classes > 1 else np.zeros_like(labels), names


def strips(
  truth: np.ndarray,
  made: np.ndarray,
  given: int,
  names: list[str],
  caption: str,
  plain: bool = False,
) -> Any:
  """A picture of clips uint8 [n, T, H, W, C], each above its prediction, whose first are marked.

  Names, a caption, and numbers of the frames are beside it, where it is not to be plain.
  """
  num, times = truth.shape[:2]
  pairs = np.stack([truth, made], axis=1).reshape(2 * num, *truth.shape[1:])
  marked = np.broadcast_to(np.arange(times) < given, (2 * num, times))
  if plain:
    return grids.strips(pairs, marked=marked, plain=True)
  rows = [', '.join(filter(None, (name, head))) for name in names for head in HEADS]
  return grids.strips(pairs, rows, caption, marked)


def film(
  truth: np.ndarray, made: np.ndarray, given: int, caption: str, plain: bool = False
) -> list[Any]:
  """Pictures [T] of the same, each clip beside its prediction."""
  num, times = truth.shape[:2]
  columns = grids.columns_of_film(2 * num, together=2)
  pairs = np.stack([truth, made], axis=1).reshape(2 * num, *truth.shape[1:])
  marked = np.broadcast_to(np.arange(times) < given, (2 * num, times))
  heads, caption = ((), '') if plain else (HEADS * (columns // 2), caption)
  return grids.film(pairs, columns, heads=heads, caption=caption, marked=marked)


def run(loaded: Any, args: argparse.Namespace, spec: Spec) -> str:
  """`bigjax sample --predict`: draw what the options ask for; return what is to be said of it.

  Raises:
    UserError: the generator does not go on with clips, or there are none that it can.
  """
  given = predictor_of(loaded.sampler.generator, '--predict').num_given
  num = args.num or SHOWN
  still = args.out.lower().endswith('.png')
  columns = grids.columns_of_film(2 * num, together=2)
  grids.check_grid(2 * num, columns, loaded.shape, film=not still)
  name = args.predict or loaded.card.get('data', '')
  truth, y, names = held_out(loaded, name, args.data_dir, args.workdir, num)
  z = loaded.sampler.latents(args.seed, len(truth), spec)
  loaded.prepare(spec, args.recalibrate)
  rest = loaded.sampler.predicted(loaded.gen, truth[:, :given], z, y, spec, args.batch)
  made = np.concatenate([truth[:, :given], rest], axis=1)
  words = [f'step {loaded.card["step"]}'] if 'step' in loaded.card else []
  frames = f'frame{"s" if given > 1 else ""}'
  words += [str(spec), f'seed {args.seed}', f'{given} {frames} given, in colour']
  caption = ', '.join(filter(None, words))
  os.makedirs(os.path.dirname(args.out) or '.', exist_ok=True)
  if still:
    strips(truth, made, given, names, caption, args.plain).save(args.out)
  else:
    rate = pictures.frame_rate(loaded, args)
    clip_files.save(film(truth, made, given, caption, args.plain), rate, args.out)
  times = truth.shape[1] - given
  return f'{args.out}: {len(truth)} held-out clips of {name}, {times} of {times + given} predicted'
