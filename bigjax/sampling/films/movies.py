"""Films of still images as `bigjax sample` asks for them, from the options to a file."""

import argparse
import os

import numpy as np

from bigjax.sampling import clip_files, grids, options
from bigjax.sampling.films.layout import Movie
from bigjax.sampling.films.loops import loop
from bigjax.sampling.films.sweeps import sweep
from bigjax.sampling.loaded import Loaded

RATE = 24.0  # pictures per second, unless told
CLASSES = 25  # shown, unless they or the number of images are given


def wanted(args: argparse.Namespace, shape: tuple[int, ...]) -> bool:
  """Whether the options ask for a film of a generator of still images."""
  return len(shape) == 3 and args.out.lower().endswith(options.FILMS)


def write(movie: Movie, args: argparse.Namespace) -> str:
  """Write a film as --out; return what was written."""
  rate, layout, num = args.fps or RATE, movie.layout, movie.num
  os.makedirs(os.path.dirname(args.out) or '.', exist_ok=True)
  above = movie.names or ([layout.names] * num if layout.names else ())
  words = ((), (), (), ()) if args.plain else (layout.rows, layout.heads, above, movie.captions)
  clip_files.save(grids.moving(movie.frames, layout.columns, *words), rate, args.out, num)
  images = f'{len(layout.places)} images side by side, {layout.columns} in a row'
  return f'{args.out}: {num} frames, {rate:g} per second, {num / rate:.3g} s, {images}'


def run(loaded: Loaded, args: argparse.Namespace, labels: np.ndarray) -> str:
  """Make and write the film that the options ask for; return what is to be said of it.

  Raises:
    UserError: there is none.
  """
  said, num = '', len(labels)
  if args.classes == 'all' and args.num is None and num > CLASSES:
    labels, said = labels[np.arange(CLASSES) * num // CLASSES], f', {CLASSES} of {num:,} classes'
  make = sweep if args.sweep else loop
  return write(make(loaded, args, labels), args) + said
