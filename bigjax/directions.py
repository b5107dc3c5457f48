"""Find directions in a generator's latents along which its images change most, and draw them.

  bigjax directions --workdir runs/digits --classes 3 --out directions.npz
  bigjax sample --workdir runs/digits --classes 3 --direction 0 --strength 3
  bigjax directions --workdir runs/digits --method sefa

Principal components of images, or of what a network sees of them, regressed on z; of generators
with styles, those of w (GANSpace); or, in closed form, of the layers that see latents first (SeFa).
"""

import argparse

from bigjax.core import errors, files, ranges
from bigjax.models.pretrained.published import DISTANCES
from bigjax.sampling import options

NUM = ranges.Range(2, 10**7)
COUNT = ranges.Range(1, 1000)
ENDINGS = ('.npz', '.png')


def arguments() -> errors.Arguments:
  parser = errors.Arguments(
    prog='bigjax directions',
    description=__doc__.splitlines()[0],
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  options.add_generator(parser)
  parser.add_argument(
    '--classes',
    default='all',
    help="of the samples, in turn, as in bigjax sample: '3', or 'all' (default); what tells "
    'classes apart is left out',
  )
  parser.add_argument(
    '--method',
    choices=('pca', 'sefa'),
    default='pca',
    help='principal components (default), or a closed form of the layers that see latents first',
  )
  parser.add_argument(
    '--space',
    choices=('z', 'w'),
    help='where the directions are: w, of generators with styles (which is their default), or z',
  )
  parser.add_argument(
    '--features',
    help=f'whose principal components: {", ".join(DISTANCES)}, or latents, of w itself (the '
    f'default in w; in z: {DISTANCES[0]} where its weights are at hand, else pixels)',
  )
  parser.add_argument(
    '--features_weights', help="the file of that network (default: its package's, or the cache's)"
  )
  options.add_settings(parser)
  ranges.add_option(parser, '--num', NUM, 'samples', 10_000)
  ranges.add_option(parser, '--count', COUNT, 'directions that are kept', 10)
  ranges.add_option(parser, '--seed', ranges.SEED, 'of all latents', 0)
  ranges.add_option(parser, '--batch', ranges.BATCH, 'images at a time', 64)
  parser.add_argument(
    '--out',
    default=options.DIRECTIONS,
    help='the directions, .npz, and a picture of them beside it, .png '
    f'(default: {options.DIRECTIONS})',
  )
  return parser


def parse(argv: list[str]) -> argparse.Namespace:
  """The arguments, checked.

  Raises:
    UserError: they make no sense.
  """
  args = arguments().parse_args(argv)
  options.check_generator(args)
  options.parse_sampling(args.sampling)
  files.ending('--out', args.out, ENDINGS)
  if args.features is not None:
    errors.pick(args.features, dict.fromkeys((*DISTANCES, 'latents')), '--features')
    if args.method == 'sefa':
      raise errors.UserError(
        f'--method=sefa looks at no images: leave out --features={args.features}.'
      )
  if args.features_weights and args.features in (None, 'latents', 'pixels'):
    raise errors.UserError('--features_weights are of a network: name it with --features.')
  return args


def main(argv: list[str]) -> None:
  """`bigjax directions`."""
  args = parse(argv)
  from bigjax.sampling.latents import directions_report  # and with it JAX

  directions_report.run(args)
