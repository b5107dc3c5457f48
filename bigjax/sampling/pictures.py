"""Pictures of a trained generator as `bigjax sample` asks for them: by class, seed, truncation."""

import argparse
import dataclasses

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


def named(wanted: Wanted, loaded: Loaded, args: argparse.Namespace, labels: np.ndarray) -> Wanted:
  """With words for a grid: what its rows and its columns have in common, and all of its images.

  `labels` are the classes asked for.
  """
  columns, classes = wanted.columns, loaded.class_names
  starts = range(0, wanted.num, columns)
  of = lambda label: classes[label] if len(classes) > 1 else ''
  seeds = options.parse_seeds(args.seeds) if args.seeds else ()
  heads = [f'seed {seed}' for seed in seeds] if len(seeds) == columns else []
  if args.sweep:
    rows = [str(spec_of(loaded, args, t)) for t in args.sweep.split(',')]
    classes_of = [of(label) for label in wanted.labels[:columns]]
    heads = heads or (classes_of if len(set(classes_of)) > 1 else [])
  elif args.interpolate:
    ends = labels if args.interpolate == 'z' else np.roll(labels, -1)
    pairs = zip(labels, ends, strict=True)
    rows = [of(a) if a == b else f'{of(a)} → {of(b)}' for a, b in pairs]
  else:
    some = [set(wanted.labels[start : start + columns].tolist()) for start in starts]
    rows = [of(*one) if len(one) == 1 else '' for one in some]
  words = [f'step {loaded.card["step"]}'] if 'step' in loaded.card else []
  words += [] if args.sweep else [str(spec_of(loaded, args, args.truncation))]
  words += [] if heads and args.seeds else [f'seed{"s" if seeds else ""} {args.seeds or args.seed}']
  if len(set(labels.tolist())) == 1 and args.sweep and of(labels[0]):
    words.append(f'class {of(labels[0])}')
  rows = rows if any(rows) else ()
  return dataclasses.replace(wanted, rows=rows, heads=heads, caption=', '.join(words))
