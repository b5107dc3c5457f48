"""Images and clips of a trained generator: grids, paths, mixed styles, sweeps, films, predictions.

  from bigjax import sample
  gen = sample.load('runs/digits')
  images = gen(labels=[3, 7], truncation=0.5, seed=0)

Needs neither TensorFlow nor the training state, nor the dataset (but to look for neighbours in it).
Many images are written as they are made, so that memory holds one batch of them.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from bigjax.core import errors, files, ranges
from bigjax.sampling import options

SHOWN = 10  # samples whose neighbours are looked for, unless told
ASKED = (  # what decides the images: a folder is gone on with where all of it is the same
  'classes', 'truncation', 'seed', 'seeds', 'num', 'interpolate', 'mixing', 'sweep',
  'sampling', 'recalibrate', 'fps', 'latents', 'direction', 'strength',
  'directions',
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
    help='the first image of each seed, for every class: a row per class, a column per seed; in a '
    f'film, a closed loop from one to the next ({ranges.SEED})',
  )
  ranges.add_option(
    parser,
    '--num',
    ranges.IMAGES,
    'number of images, shared evenly among the classes, by default ten of each; with --sweep, '
    'images in a row; in a film, images side by side, by default six, or one of each class',
  )
  parser.add_argument(
    '--out',
    default='samples.png',
    help='x.png (a grid), x.npz (arrays) or a folder (a PNG each; the same command again resumes); '
    'a film of what --interpolate, --seeds or --sweep goes through: x.webp, x.apng (both exact), '
    'x.gif or x.mp4; of clips a film (a grid that moves), x.png (a strip of frames each), or a '
    'folder (a WebP each)',
  )
  ranges.add_option(
    parser,
    '--frames',
    ranges.FRAMES,
    'of a film of still images: how many in all, by default 24 from one sample to the next, and 12 '
    'of each setting',
  )
  ranges.add_option(
    parser,
    '--fps',
    ranges.FPS,
    'of a film: frames per second, by default 24, or what clips were trained with',
  )
  parser.add_argument(
    '--plain',
    action='store_true',
    help='no classes, seeds and settings beside the images of a picture or a film',
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
    help='a row per class, from one sample to another, or in a film a closed loop through several; '
    'w: in a straight line between their styles',
  )
  parser.add_argument(
    '--mixing',
    metavar='LAYERS',
    help='a grid of samples (rows) with the styles of others (columns) in the layers coarse (the '
    'first four), middle (four more), fine (the rest), or 0-3, 2,8-; --num of each, by default 5',
  )
  parser.add_argument(
    '--latents',
    metavar='FILE',
    help='images of latents of your own, .npz: what bigjax project found, or an array z [n, ...]',
  )
  ranges.add_option(
    parser,
    '--direction',
    ranges.Range(0, 10**6),
    'a row per sample, or per latent of --latents, moved along this direction of --directions',
  )
  parser.add_argument(
    '--strength',
    metavar='s[,s,...]',
    help='how far along --direction, in standard deviations: 3 is seven steps from -3 to 3 (the '
    'default), --strength=-2,0,2 is these',
  )
  parser.add_argument(
    '--directions',
    metavar='FILE',
    help=f'what bigjax directions found (default: {options.DIRECTIONS})',
  )
  parser.add_argument(
    '--sweep',
    metavar='[NAME=]v,v,...',
    help='a row per truncation, 0.02,0.5,1,2, or per value of another option, scale=4,8,16; in a '
    'film, there and back',
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
    for name in ('sweep', 'interpolate', 'mixing', 'neighbours', 'predict', 'direction')
    if getattr(args, name) is not None
  ]
  if len(pictures) > 1:
    raise errors.UserError(
      f'--{pictures[0]} and --{pictures[1]} are two pictures: ask for one at a time.'
    )
  kind = files.ending('--out', args.out, ('.png', '.npz', *options.FILMS), folder=True)
  check_seeds(args, kind)
  if args.predict is not None and (args.seeds or args.classes != 'all'):
    raise errors.UserError(
      f'--predict takes the classes of the clips, and --seed: leave out '
      f'--{"seeds" if args.seeds else "classes"}.'
    )
  if args.mixing is not None:
    options.parse_layers(args.mixing)
  check_latents(args, pictures)
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
  check_film(args, kind)


def check_seeds(args: argparse.Namespace, kind: str) -> None:
  """Refuse --seeds beside what says otherwise how many images there are; `kind` is --out's ending.

  Raises:
    UserError: names it.
  """
  if not args.seeds:
    return
  through = kind in options.FILMS and args.interpolate != 'class'  # a loop through their samples
  others = ['num', 'mixing'] if through else ['num', 'interpolate', 'mixing']
  for name in (name for name in others if getattr(args, name) is not None):
    raise errors.UserError(f'--seeds already says how many images there are; leave out --{name}.')
  options.parse_seeds(args.seeds)


def check_film(args: argparse.Namespace, kind: str) -> None:
  """Refuse options of films, and of pictures, where --out, whose ending is `kind`, is none.

  Raises:
    UserError: names them.
  """
  films = ' or '.join(options.FILMS)
  if args.frames and kind not in options.FILMS:
    raise errors.UserError(f'--frames={args.frames} is of a film: give an --out ending in {films}.')
  if args.fps and kind in ('.png', '.npz'):
    raise errors.UserError(f'--fps={args.fps:g} is of a film: give an --out ending in {films}.')
  if args.fps and kind == '.gif' and args.fps > options.MOST_RATE_OF_GIF:
    raise errors.UserError(
      f'--fps={args.fps:g} is more than a GIF shows, {options.MOST_RATE_OF_GIF} frames per second: '
      'give fewer of them, or an --out ending in .webp.'
    )
  if args.plain and kind not in ('.png', *options.FILMS):
    raise errors.UserError(
      f'--plain is of a picture or a film: --out={args.out} has no words beside its images.'
    )
  if args.plain and args.neighbours is not None:
    raise errors.UserError('--plain would leave out what --neighbours is for: leave it out.')


def check_latents(args: argparse.Namespace, pictures: Sequence[str]) -> None:
  """Refuse what means nothing beside --latents, or without --direction.

  Args:
    args: of the command line.
    pictures: that it asks for, by the names of the options.
  Raises:
    UserError: names it.
  """
  others = [name for name in pictures if name != 'direction']
  others += [name for name in ('num', 'seeds') if getattr(args, name) is not None]
  if args.latents and others:
    raise errors.UserError(f'--latents says which images there are; leave out --{others[0]}.')
  for name in ('strength', 'directions'):
    if getattr(args, name) is not None and args.direction is None:
      raise errors.UserError(f'--{name} is of a --direction: give its number, 0 for the first.')
  if args.strength is not None:
    options.parse_strengths(args.strength)


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
  from bigjax.sampling.films import movies
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
    if movies.wanted(args, loaded.shape):
      print(movies.run(loaded, args, labels))
      return
    batch = image_files.BATCH
    if args.latents or args.direction is not None:
      from bigjax.sampling.latents import edits

      wanted, batch = edits.of_options(loaded, args, labels), args.batch
    elif args.sweep:
      wanted = pictures.sweep(loaded, args, labels)
    elif args.interpolate:
      wanted = pictures.interpolate(loaded, args, labels)
    elif args.mixing:
      wanted = pictures.mixing(loaded, args, labels)
    else:
      wanted, batch = pictures.plain(loaded, args, labels, args.num or 10 * len(labels)), args.batch
    if not (args.latents or args.direction is not None):  # which have their names
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
