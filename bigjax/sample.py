"""Images from a trained generator: grids, seeds, interpolations, truncation sweeps, neighbours.

  from bigjax import sample
  gen = sample.load('runs/digits')
  images = gen(labels=[3, 7], truncation=0.5, seed=0)

Needs neither TensorFlow nor the training state, nor the dataset (but to look for neighbours in it).
Many images are written as they are made, so that memory holds one batch of them.
"""

import argparse
import os
from collections.abc import Sequence

import numpy as np

from bigjax.algorithms.base.contract import Spec
from bigjax.core import buckets, errors
from bigjax.evaluation import nearest_neighbours
from bigjax.sampling.image_files import BATCH, Wanted, ready, write
from bigjax.sampling.interpolation import first_of_each, interpolation
from bigjax.sampling.loaded import (
  LISTED,
  Loaded,
  add_sampling,
  generator_digest,
  of_options,
  options,
  parse_classes,
)
from bigjax.sampling.loaded import load as load  # sample.load, as above

SHOWN = 10  # samples whose neighbours are looked for, unless told


def parse_seeds(text: str) -> list[int]:
  """Read '0-9', '0,1,2' or '3,10-12' into seeds.

  Raises:
    UserError: it is not like that.
  """
  seeds = []
  for word in text.split(','):
    first, dash, last = word.partition('-')
    last = last if dash else first
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
      raise errors.UserError(
        f'--seeds={text}: {word!r} is no seed and no range; write for example 0-9 or 3,10-12.'
      )
    seeds += range(int(first), int(last) + 1)
  return seeds


def arguments() -> errors.Arguments:
  parser = errors.Arguments(
    prog='bigjax sample',
    description=__doc__.splitlines()[0],
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument('--workdir', help='of a run: its newest checkpoint (see --checkpoint)')
  source.add_argument('--params', help='an exported generator, .safetensors or .npz')
  parser.add_argument('--checkpoint', help='of the workdir: last (default), best or a step')
  parser.add_argument(
    '--classes', default='all', help="numbers or names, '3,7', or 'all' (default)"
  )
  parser.add_argument(
    '--truncation',
    metavar='t[:dialect]',
    help='0.5, 0.4:truncnorm (dialects: resample, truncnorm, scale, clamp), or none',
  )
  add_sampling(parser)
  parser.add_argument('--seed', type=int, default=0, help='of all latents (default: 0)')
  parser.add_argument(
    '--seeds',
    metavar='a-b,c,...',
    help='the first image of each seed, for every class: a row per class, a column per seed',
  )
  parser.add_argument(
    '--num',
    type=int,
    help='number of images, shared evenly among the classes (default: ten of each); '
    'with --sweep, images in a row',
  )
  parser.add_argument(
    '--out',
    default='samples.png',
    help='x.png (a grid), x.npz (arrays) or a folder (a PNG each; the same command again resumes)',
  )
  parser.add_argument(
    '--layout',
    choices=('bigjax', 'adm'),
    default='bigjax',
    help="of an .npz: adm is what guided-diffusion's evaluator reads, classes in random order",
  )
  parser.add_argument('--batch', type=int, default=BATCH, help='images at a time (default: 64)')
  parser.add_argument(
    '--interpolate',
    choices=('z', 'class', 'both'),
    help='a row per class, from one sample to another',
  )
  parser.add_argument('--sweep', metavar='t,t,...', help='a row per truncation, 0.02,0.5,1,2')
  parser.add_argument('--recalibrate', action='store_true', help='measure standing statistics anew')
  parser.add_argument(
    '--neighbours',
    nargs='?',
    const='',
    metavar='SOURCE',
    help='a row per sample: the training images nearest to it, in pixels and in features. SOURCE '
    'is as data.source: tfds:cifar10, folder:PATH, ...; without it, what was trained on',
  )
  parser.add_argument('--data_dir', help='where TFDS has prepared SOURCE')
  parser.add_argument(
    '--nearest', type=int, default=5, help='how many --neighbours of each sample (default: 5)'
  )
  return parser


def check(args: argparse.Namespace) -> None:
  """Refuse options that mean nothing together.

  Raises:
    UserError: names them.
  """
  for name in ('num', 'batch', 'nearest'):
    given = getattr(args, name)
    if given is not None and given < 1:
      raise errors.UserError(f'--{name}={given}: give at least 1.')
  pictures = [n for n in ('sweep', 'interpolate', 'neighbours') if getattr(args, n) is not None]
  if len(pictures) > 1:
    raise errors.UserError(
      f'--{pictures[0]} and --{pictures[1]} are two pictures: ask for one at a time.'
    )
  if args.seeds and (args.num or args.interpolate):
    raise errors.UserError(
      f'--seeds already says how many images there are; leave out '
      f'{"--num" if args.num else "--interpolate"}.'
    )
  if args.layout != 'bigjax' and not args.out.endswith('.npz'):
    raise errors.UserError(f'--layout={args.layout} is for an .npz file, not --out={args.out}.')
  if args.neighbours is not None and not args.out.endswith('.png'):
    raise errors.UserError('--neighbours draws a picture; give an --out ending in .png.')


def spec_of(loaded: Loaded, args: argparse.Namespace, truncation: str | None) -> Spec:
  """Sampling settings of the options, at one truncation."""
  return loaded.spec(truncation, **options(args.sampling))


def plain(loaded: Loaded, args: argparse.Namespace, labels: np.ndarray, num: int) -> Wanted:
  """Return samples class by class; those of an ADM file are in random order."""
  spec, seeds = spec_of(loaded, args, args.truncation), None
  loaded.prepare(spec, args.recalibrate)
  if args.seeds:
    each = parse_seeds(args.seeds)
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
  seeds = parse_seeds(args.seeds) if args.seeds else None
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


def look_for_neighbours(loaded: Loaded, args: argparse.Namespace, labels: np.ndarray) -> str:
  """Draw samples beside the training images nearest to them; return what is to be said of them."""
  source = nearest_neighbours.reference(
    args.neighbours or loaded.card.get('data', ''), args.data_dir, loaded.shape, args.workdir
  )
  if args.num is None and len(labels) > SHOWN:
    labels = labels[np.arange(SHOWN) * len(labels) // SHOWN]
  wanted = plain(loaded, args, labels, args.num or SHOWN)
  starts = range(0, wanted.num, args.batch)
  images = np.concatenate([wanted.make(start) for start in starts])
  spaces = {
    'pixels': nearest_neighbours.pixels,
    'features': nearest_neighbours.of_classifier(source),
  }
  found = nearest_neighbours.search(images, source, spaces, args.nearest)
  os.makedirs(os.path.dirname(args.out) or '.', exist_ok=True)
  names = [loaded.class_names[label] for label in wanted.labels]
  nearest_neighbours.draw(images, names, found).save(args.out)
  return '\n'.join([f'{args.out}: {nearest_neighbours.words(source, found)}', *table(names, found)])


def table(names: Sequence[str], found: Sequence[nearest_neighbours.Found]) -> list[str]:
  """Return a line per sample: its class, and how near its nearest training image is."""
  if len(names) > LISTED:
    return []
  width = max(len('class'), *(len(name) for name in names)) + 2
  head = f'{"sample":8}{"class":{width}}' + ''.join(f'{one.space:>10}' for one in found)
  return [head] + [
    f'{i:<8}{name:{width}}' + ''.join(f'{one.ratios[i, 0]:10.2f}' for one in found)
    for i, name in enumerate(names)
  ]


def main(argv: list[str]) -> None:
  """`bigjax sample`."""
  args = arguments().parse_args(argv)
  check(args)
  args.workdir = args.workdir and buckets.local(args.workdir)
  loaded = of_options(args)
  labels = parse_classes(args.classes, loaded.class_names)
  try:
    if args.neighbours is not None:
      print(look_for_neighbours(loaded, args, labels))
      return
    if args.sweep:
      wanted, batch = sweep(loaded, args, labels), BATCH
    elif args.interpolate:
      wanted, batch = interpolate(loaded, args, labels), BATCH
    else:
      wanted, batch = plain(loaded, args, labels, args.num or 10 * len(labels)), args.batch
    keys = (
      'classes',
      'truncation',
      'seed',
      'seeds',
      'num',
      'interpolate',
      'sweep',
      'sampling',
      'recalibrate',
    )
    ask = {'generator': generator_digest(loaded), **{key: getattr(args, key) for key in keys}}
    print(write(wanted, batch, args.out, args.layout, ask))
  except OSError as error:
    raise errors.UserError(f'--out={args.out} cannot be written ({error.strerror}).') from None
