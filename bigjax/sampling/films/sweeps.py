"""Sweeps there and back: the same samples at one setting after the other."""

import argparse
from collections.abc import Iterator

import numpy as np

from bigjax.core import errors
from bigjax.sampling import options, pictures
from bigjax.sampling.films.layout import Movie, arranged, check_size, images_of, names_of, num_of
from bigjax.sampling.films.loops import stations
from bigjax.sampling.loaded import Loaded

HELD = 12  # pictures of each setting, unless told


def sweep(loaded: Loaded, args: argparse.Namespace, labels: np.ndarray) -> Movie:
  """The same samples at one setting after the other, there and back, each for a while.

  Raises:
    UserError: there is but one setting, or there are fewer pictures than settings there and back.
  """
  settings = pictures.swept(loaded, args)
  if len(settings) < 2:
    raise errors.UserError(f'--sweep={args.sweep} is one setting, and nothing moves: give more.')
  order = [*range(len(settings)), *range(len(settings) - 2, 0, -1)]
  num = num_of(args, HELD, len(order), 'settings, there and back')
  which = stations(num, len(order))[0]
  seeds = options.parse_seeds(args.seeds) if args.seeds else ()
  count = images_of(args, labels, len(seeds))
  layout = arranged(loaded, labels, count, [f'seed {seed}' for seed in seeds])
  y = labels[layout.places]
  words = pictures.about(loaded) + ([] if seeds else [f'seed {args.seed}'])
  if len(labels) == 1:
    words += [f'class {name}' for name in names_of(loaded, labels) if name]
  captions = [', '.join([*words, settings[order[stop]][0]]) for stop in which]
  check_size(args, loaded, layout, num)

  def frames() -> Iterator[np.ndarray]:
    made: dict[int, np.ndarray] = {}
    for i in (order[stop] for stop in which):
      if i not in made:
        spec = settings[i][1]
        loaded.prepare(spec, args.recalibrate)
        if seeds:
          z = loaded.sampler.first_of_each(seeds, spec)
          z = np.concatenate([z] * len(labels))
        else:
          z = loaded.sampler.latents(args.seed, len(y), spec)
        made[i] = loaded.images(z, y, spec, args.batch)
      yield made[i]

  return Movie(num, frames(), layout, captions)
