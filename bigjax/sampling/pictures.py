"""Pictures of a trained generator as `bigjax sample` asks for them: by class, seed, setting."""

import argparse
import dataclasses
from collections.abc import Sequence

import numpy as np

from bigjax.algorithms.base.contract import Spec
from bigjax.algorithms.base.generators.parts import styles_of
from bigjax.core import errors, files, ranges
from bigjax.sampling import clip_files, grids, image_files, options
from bigjax.sampling.image_files import Wanted, ready
from bigjax.sampling.interpolation import interpolation, mixed
from bigjax.sampling.loaded import Loaded

MIXED = 5  # sources on either side of a mixing grid, unless told


def spec_of(loaded: Loaded, args: argparse.Namespace, truncation: str | None) -> Spec:
  """Sampling settings of the options, at one truncation."""
  return loaded.spec(truncation, **options.parse_sampling(args.sampling))


def swept(loaded: Loaded, args: argparse.Namespace) -> list[tuple[str, Spec]]:
  """What each row of --sweep is called, and its sampling settings.

  Of each truncation, or of each value of the option that it names.
  """
  name, equals, values = args.sweep.partition('=')
  if not equals or name == 'truncation':
    found = [spec_of(loaded, args, t) for t in args.sweep.removeprefix('truncation=').split(',')]
    return [(str(spec), spec) for spec in found]
  others = options.parse_sampling(args.sampling)
  spec = lambda value: loaded.spec(args.truncation, **{**others, name: value})
  return [(f'{name}={value}', spec(value)) for value in values.split(',')]


def check(args: argparse.Namespace, shape: tuple[int, ...]) -> None:
  """Refuse films in which nothing moves, and what is of clips, or of still images, alone.

  Raises:
    UserError: says so.
  """
  kind = files.ending('--out', args.out, image_files.ENDINGS, folder=True)
  if len(shape) == 4:
    still = {'--neighbours': args.neighbours is not None, '--layout=adm': args.layout == 'adm'}
    for option in (option for option, given in still.items() if given):
      raise errors.UserError(
        f'{option} is for still images, and this generator makes clips: leave it out.'
      )
    if args.frames:
      raise errors.UserError(
        f'--frames={args.frames} is for a film of still images, and this generator makes clips of '
        f'{shape[0]} frames: leave it out.'
      )
    if args.seeds and args.interpolate:
      raise errors.UserError(
        f'--interpolate={args.interpolate} goes through --seeds in a film of still images, and '
        'this generator makes clips: leave one of them out.'
      )
  elif kind in options.FILMS and not (args.seeds or args.interpolate or args.sweep):
    raise errors.UserError(
      f'--out={args.out} is a film, and this generator makes still images: say what moves with '
      '--interpolate, --seeds or --sweep, or give a name that ends in .png or .npz, or a folder.'
    )
  elif args.fps and not kind:
    raise errors.UserError(
      f'--fps={args.fps:g} is of a film, and this generator makes still images: give an --out '
      f'ending in {" or ".join(options.FILMS)}.'
    )


def check_grid(num: int, columns: int, loaded: Loaded, out: str) -> None:
  """grids.check_grid, of what is drawn into a file of that name: a picture or a film."""
  if out.lower().endswith(('.png', *options.FILMS)):
    grids.check_grid(num, columns, loaded.shape, film=not out.lower().endswith('.png'))


def plain(loaded: Loaded, args: argparse.Namespace, labels: np.ndarray, num: int) -> Wanted:
  """Return samples class by class; those of an ADM file are in random order."""
  spec = spec_of(loaded, args, args.truncation)
  seeds = options.parse_seeds(args.seeds) if args.seeds else None
  num = len(seeds) * len(labels) if seeds else num
  ranges.IMAGES.check('the number of images is ', num)
  columns = -(-num // len(labels))
  if seeds and len(labels) == 1:
    columns = min(len(seeds), 10)
  check_grid(num, columns, loaded, args.out)
  loaded.prepare(spec, args.recalibrate)
  if seeds:
    y = np.repeat(labels, len(seeds))
    of = lambda i: seeds[i % len(seeds)]
    latents = lambda first, n: loaded.sampler.first_of_each(map(of, range(first, first + n)), spec)
  else:
    y = np.repeat(labels, num // len(labels) + (np.arange(len(labels)) < num % len(labels)))
    latents = lambda first, n: loaded.sampler.latents(args.seed, n, spec, first)
    if args.layout == 'adm':  # its evaluator takes every 5,000 in a row for one sample of all
      y = y[np.random.RandomState(args.seed).permutation(num)]
  make = lambda start: loaded.one_batch(latents, y, spec, args.batch, start)
  return Wanted(num, make, y, columns, seeds)


def sweep(loaded: Loaded, args: argparse.Namespace, labels: np.ndarray) -> Wanted:
  """Return a row of the same samples at each setting."""
  specs = [spec for _, spec in swept(loaded, args)]
  seeds = options.parse_seeds(args.seeds) if args.seeds else None
  columns = len(seeds) if seeds else args.num or max(10, len(labels))
  check_grid(columns * len(specs), columns, loaded, args.out)
  y = labels[np.arange(columns) % len(labels)]
  rows = []
  for spec in specs:
    loaded.prepare(spec, args.recalibrate)
    z = (
      loaded.sampler.first_of_each(seeds, spec)
      if seeds
      else loaded.sampler.latents(args.seed, columns, spec)
    )
    rows.append(loaded.images(z, y, spec, args.batch))
  return ready(np.concatenate(rows), np.tile(y, len(specs)), columns)


def interpolate(loaded: Loaded, args: argparse.Namespace, labels: np.ndarray) -> Wanted:
  """Return a row from one sample to another for each class."""
  spec = spec_of(loaded, args, args.truncation)
  if args.interpolate == 'w':
    styles_of(loaded.sampler.generator, '--interpolate=w')
  columns = max(-(-(args.num or 10 * len(labels)) // len(labels)), 3)
  check_grid(columns * len(labels), columns, loaded, args.out)
  loaded.prepare(spec, args.recalibrate)
  return ready(
    interpolation(loaded, args.interpolate, labels, columns, args.seed, spec), None, columns
  )


def mixing(loaded: Loaded, args: argparse.Namespace, labels: np.ndarray) -> Wanted:
  """Return sources (the first row and the first column) and what they are mixed to."""
  layers = styles_of(loaded.sampler.generator, '--mixing').num_layers
  theirs = options.parse_layers(args.mixing, layers)
  spec, num = spec_of(loaded, args, args.truncation), args.num or MIXED
  check_grid((num + 1) ** 2, num + 1, loaded, args.out)
  loaded.prepare(spec, args.recalibrate)
  of_rows, of_columns = (labels[(np.arange(num) + i) % len(labels)] for i in (0, num))
  images = mixed(loaded, theirs, of_rows, of_columns, args.seed, spec)
  of = lambda label: loaded.class_names[label] if loaded.num_classes > 1 else ''
  rows, heads = (['', *map(of, some)] for some in (of_rows, of_columns))
  whole = dataclasses.replace(ready(images, None, num + 1), rows=rows if any(rows) else ())
  return dataclasses.replace(whole, heads=heads if any(heads) else ())


def about(loaded: Loaded, spec: Spec | None = None) -> list[str]:
  """Words for below a picture: the step of the generator, and the settings."""
  step = [f'step {loaded.card["step"]}'] if 'step' in loaded.card else []
  return step + ([] if spec is None else [str(spec)])


def frame_rate(loaded: Loaded, args: argparse.Namespace) -> float:
  """Frames per second of a film of clips: --fps, or what the card says."""
  return args.fps or clip_files.frame_rate(loaded.card)


def seeds_of(row: Sequence[int]) -> str:
  """What a row of images of these seeds is called."""
  first, last = row[0], row[-1]
  if len(row) > 1 and list(row) == list(range(first, first + len(row))):
    return f'seeds {first}-{last}'
  return f'seed{"s" if len(row) > 1 else ""} {", ".join(map(str, row))}'


def named(wanted: Wanted, loaded: Loaded, args: argparse.Namespace, labels: np.ndarray) -> Wanted:
  """With words for a grid: what its rows and its columns have in common, and all of its images.

  `labels` are the classes asked for.
  """
  rate = frame_rate(loaded, args) if len(loaded.shape) == 4 else 0.0
  if args.plain:
    return dataclasses.replace(wanted, rows=(), heads=(), rate=rate, plain=True)
  columns, classes = wanted.columns, loaded.class_names
  starts = range(0, wanted.num, columns)
  of = lambda label: classes[label] if len(classes) > 1 else ''
  seeds = options.parse_seeds(args.seeds) if args.seeds else ()
  heads = [f'seed {seed}' for seed in seeds] if len(seeds) == columns else []
  if args.sweep:
    rows = [name for name, _ in swept(loaded, args)]
    classes_of = [of(label) for label in wanted.classes()[:columns]]
    heads = heads or (classes_of if len(set(classes_of)) > 1 else [])
  elif args.mixing:
    rows, heads = list(wanted.rows), list(wanted.heads)
  elif args.interpolate:
    ends = labels if args.interpolate in ('z', 'w') else np.roll(labels, -1)
    pairs = zip(labels, ends, strict=True)
    rows = [of(a) if a == b else f'{of(a)} → {of(b)}' for a, b in pairs]
  else:
    ones = [set(wanted.classes()[start : start + columns].tolist()) for start in starts]
    rows = [of(*one) if len(one) == 1 else '' for one in ones]
    if seeds and not heads:  # more of one class than a row holds
      some = [[seeds[i] for i in range(wanted.num)[start:][:columns]] for start in starts]
      rows = [', '.join(filter(None, pair)) for pair in zip(rows, map(seeds_of, some), strict=True)]
  words = about(loaded, None if args.sweep else spec_of(loaded, args, args.truncation))
  words += [] if heads and args.seeds else [f'seed{"s" if seeds else ""} {args.seeds or args.seed}']
  words += [f'layers {args.mixing} of the upper row'] if args.mixing else []
  if len(set(labels.tolist())) == 1 and args.sweep and of(labels[0]):
    words.append(f'class {of(labels[0])}')
  rows = rows if any(rows) else []
  caption = ', '.join(words)
  return dataclasses.replace(wanted, rows=rows, heads=heads, caption=caption, rate=rate)
