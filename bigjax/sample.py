"""Images and clips of a trained generator: grids, paths, mixed styles, sweeps, predictions.

  from bigjax import sample
  gen = sample.load('runs/digits')
  images = gen(labels=[3, 7], truncation=0.5, seed=0)

Needs neither TensorFlow nor the training state, nor the dataset (but to look for neighbours in it).
Many images are written as they are made, so that memory holds one batch of them.
"""

import argparse
from typing import Any

from bigjax.core import errors, files, ranges
from bigjax.sampling import options

SHOWN = 10  # samples whose neighbours are looked for, unless told
ASKED = (  # what decides the images: a folder is gone on with where all of it is the same
  'classes', 'truncation', 'seed', 'seeds', 'num', 'interpolate', 'mixing', 'sweep',
  'sampling', 'recalibrate',
)  # fmt: skip


def __getattr__(name: str) -> Any:
  """`load` and `Loaded` of `from bigjax import sample`; JAX comes with them, not with --help."""
  if name in ('load', 'Loaded'):
    from bigjax.sampling import loaded

    return getattr(loaded, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def arguments() -> errors.Arguments:
  parser = errors.Arguments(
    prog='bigjax sample',
    description=__doc__.splitlines()[0],
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  options.add_generator(parser)
  parser.add_argument(
    '--classes',
    default='all',
    help="numbers from 0 on or names, '3,7', or 'all' (default); where classes are named by other "
    'numbers: number:3 or name:3',
  )
  options.add_sampling(parser)
  ranges.add_option(parser, '--seed', ranges.SEED, 'of all latents', 0)
  parser.add_argument(
    '--seeds',
    metavar='a-b,c,...',
    help='the first image of each seed, for every class: a row per class, a column per seed '
    f'({ranges.SEED})',
  )
  ranges.add_option(
    parser,
    '--num',
    ranges.IMAGES,
    'number of images, shared evenly among the classes, by default ten of each; with --sweep, '
    'images in a row',
  )
  parser.add_argument(
    '--out',
    default='samples.png',
    help='x.png (a grid), x.npz (arrays) or a folder (a PNG each; the same command again resumes); '
    'of clips x.webp, x.gif or x.mp4 (a grid that moves), x.png (a strip of frames each), or a '
    'folder (a WebP each)',
  )
  parser.add_argument(
    '--layout',
    choices=('bigjax', 'adm'),
    default='bigjax',
    help="of an .npz: adm is what guided-diffusion's evaluator reads, classes in random order",
  )
  ranges.add_option(parser, '--batch', ranges.BATCH, 'images at a time', 64)
  parser.add_argument(
    '--interpolate',
    choices=('z', 'class', 'both', 'w'),
    help='a row per class, from one sample to another; w: in a straight line between their styles',
  )
  parser.add_argument(
    '--mixing',
    metavar='LAYERS',
    help='a grid of samples (rows) with the styles of others (columns) in the layers coarse (the '
    'first four), middle (four more), fine (the rest), or 0-3, 2,8-; --num of each, by default 5',
  )
  parser.add_argument(
    '--sweep',
    metavar='[NAME=]v,v,...',
    help='a row per truncation, 0.02,0.5,1,2, or per value of another option, scale=4,8,16',
  )
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
  ranges.add_option(
    parser, '--nearest', ranges.Range(1, 1000), 'how many --neighbours of each sample', 5
  )
  parser.add_argument(
    '--predict',
    nargs='?',
    const='',
    metavar='SOURCE',
    help='go on with the first frames of --num held-out clips (by default 8) of SOURCE, and draw '
    'the truth beside that; without SOURCE, of what was trained on',
  )
  return parser


def check(args: argparse.Namespace) -> None:
  """Refuse options that mean nothing together.

  Raises:
    UserError: names them.
  """
  options.check_generator(args)
  options.parse_sampling(args.sampling)
  pictures = [
    name
    for name in ('sweep', 'interpolate', 'mixing', 'neighbours', 'predict')
    if getattr(args, name) is not None
  ]
  if len(pictures) > 1:
    raise errors.UserError(
      f'--{pictures[0]} and --{pictures[1]} are two pictures: ask for one at a time.'
    )
  others = [n for n in ('num', 'interpolate', 'mixing') if getattr(args, n) is not None]
  if args.seeds and others:
    raise errors.UserError(
      f'--seeds already says how many images there are; leave out --{others[0]}.'
    )
  if args.predict is not None and (args.seeds or args.classes != 'all'):
    raise errors.UserError(
      f'--predict takes the classes of the clips, and --seed: leave out '
      f'--{"seeds" if args.seeds else "classes"}.'
    )
  if args.mixing is not None:
    options.parse_layers(args.mixing)
  if args.seeds:
    options.parse_seeds(args.seeds)
  kind = files.ending('--out', args.out, ('.png', '.npz', *options.FILMS), folder=True)
  if args.layout != 'bigjax' and kind != '.npz':
    raise errors.UserError(f'--layout={args.layout} is for an .npz file, not --out={args.out}.')
  drawn = [name for name in pictures if name in ('mixing', 'neighbours', 'predict')]
  endings = ('.png', *(options.FILMS if args.predict is not None else ()))
  if drawn and kind not in endings:
    raise errors.UserError(
      f'--{drawn[0]} draws a picture; give an --out ending in {" or ".join(endings)}.'
    )
  if kind == '.mp4':
    errors.need(f'--out={args.out}', 'video', 'av')


def parse(argv: list[str]) -> argparse.Namespace:
  """The arguments, checked.

  Raises:
    UserError: they make no sense.
  """
  args = arguments().parse_args(argv)
  check(args)
  return args


def main(argv: list[str]) -> None:
  """`bigjax sample`."""
  run(parse(argv))


def run(args: argparse.Namespace) -> None:
  """Make what the options ask for.

  Raises:
    UserError: that cannot be done.
  """
  from bigjax.core import buckets
  from bigjax.sampling import image_files, pictures
  from bigjax.sampling.loaded import generator_digest, of_options, parse_classes

  args.workdir = args.workdir and buckets.local(args.workdir)
  loaded = of_options(args)
  labels = parse_classes(args.classes, loaded.class_names)
  pictures.check(args, loaded.shape)
  try:
    if args.predict is not None:
      from bigjax.evaluation.of_networks import predictions

      print(predictions.run(loaded, args, pictures.spec_of(loaded, args, args.truncation)))
      return
    if args.neighbours is not None:
      print(neighbours(args, loaded, labels))
      return
    batch = image_files.BATCH
    if args.sweep:
      wanted = pictures.sweep(loaded, args, labels)
    elif args.interpolate:
      wanted = pictures.interpolate(loaded, args, labels)
    elif args.mixing:
      wanted = pictures.mixing(loaded, args, labels)
    else:
      wanted, batch = pictures.plain(loaded, args, labels, args.num or 10 * len(labels)), args.batch
    wanted = pictures.named(wanted, loaded, args, labels)
    ask = {'generator': generator_digest(loaded), **{key: getattr(args, key) for key in ASKED}}
    print(image_files.write(wanted, batch, args.out, args.layout, ask))
  except OSError as error:
    raise errors.UserError(f'--out={args.out} cannot be written ({error.strerror}).') from None


def neighbours(args: argparse.Namespace, loaded: Any, labels: Any) -> str:
  """Draw samples beside the training images nearest to them; return what is to be said of them."""
  import numpy as np

  from bigjax.evaluation import nearest_neighbours
  from bigjax.sampling import grids, pictures

  source = nearest_neighbours.reference(
    args.neighbours or loaded.card.get('data', ''),
    args.data_dir,
    loaded.shape,
    args.workdir,
    loaded.fit,
  )
  if args.num is None and len(labels) > SHOWN:
    labels = labels[np.arange(SHOWN) * len(labels) // SHOWN]
  wanted = pictures.plain(loaded, args, labels, args.num or SHOWN)
  grids.check_grid(wanted.num * (args.nearest + 1), args.nearest + 1, loaded.shape)
  starts = range(0, wanted.num, args.batch)
  images = np.concatenate([wanted.make(start) for start in starts])
  names = [loaded.class_names[label] for label in wanted.labels]
  return nearest_neighbours.report(images, names, source, args.nearest, args.out)
