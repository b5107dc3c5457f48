"""Pictures of a trained generator as `bigjax sample` asks for them: by class, seed, truncation."""

import argparse

import numpy as np

from bigjax.algorithms.base.contract import Spec
from bigjax.sampling import options
from bigjax.sampling.image_files import Wanted, ready
from bigjax.sampling.interpolation import first_of_each, interpolation
from bigjax.sampling.loaded import Loaded


def spec_of(loaded: Loaded, args: argparse.Namespace, truncation: str | None) -> Spec:
  """Sampling settings of the options, at one truncation."""
  return loaded.spec(truncation, **options.parse_sampling(args.sampling))


def plain(loaded: Loaded, args: argparse.Namespace, labels: np.ndarray, num: int) -> Wanted:
  """Return samples class by class; those of an ADM file are in random order."""
  spec, seeds = spec_of(loaded, args, args.truncation), None
  loaded.prepare(spec, args.recalibrate)
  if args.seeds:
    each = options.parse_seeds(args.seeds)
    z = first_of_each(loaded, each, spec)
    z = np.tile(z, (len(labels), *[1] * (z.ndim - 1)))
    y, seeds = np.repeat(labels, len(each)), np.tile(np.array(each, np.int64), len(labels))
    columns = len(each) if len(labels) > 1 else min(len(each), 10)
  else:
    z = loaded.sampler.latents(args.seed, num, spec)
    y, columns = labels[np.sort(np.arange(num) % len(labels))], -(-num // len(labels))
    if args.layout == 'adm':  # its evaluator takes every 5,000 in a row for one sample of all
      y = y[np.random.RandomState(args.seed % 2**32).permutation(num)]
  make = lambda start: loaded.one_batch(z, y, spec, args.batch, start)
  return Wanted(len(y), make, y, columns, seeds)


def sweep(loaded: Loaded, args: argparse.Namespace, labels: np.ndarray) -> Wanted:
  """Return a row of the same samples at each truncation."""
  specs = [spec_of(loaded, args, t) for t in args.sweep.split(',')]
  seeds = options.parse_seeds(args.seeds) if args.seeds else None
  columns = len(seeds) if seeds else args.num or max(10, len(labels))
  y = labels[np.arange(columns) % len(labels)]
  rows = []
  for spec in specs:
    loaded.prepare(spec, args.recalibrate)
    z = (
      first_of_each(loaded, seeds, spec)
      if seeds
      else loaded.sampler.latents(args.seed, columns, spec)
    )
    rows.append(loaded.images(z, y, spec, args.batch))
  return ready(np.concatenate(rows), np.tile(y, len(specs)), columns)


def interpolate(loaded: Loaded, args: argparse.Namespace, labels: np.ndarray) -> Wanted:
  """Return a row from one sample to another for each class."""
  spec = spec_of(loaded, args, args.truncation)
  loaded.prepare(spec, args.recalibrate)
  columns = max(-(-(args.num or 10 * len(labels)) // len(labels)), 3)
  return ready(
    interpolation(loaded, args.interpolate, labels, columns, args.seed, spec), None, columns
  )
