"""Find photos among a generator's images: the latents whose image is nearest to each of them.

  bigjax project --workdir runs/digits --images photos/ --out projected.png
  bigjax sample --workdir runs/digits --latents projected.npz
  bigjax project --workdir runs/faces --images photos/ --attribute

writes a strip of each photo, of what the search began with, what it found and what is lost; the
latents as .npz, and the figures as .json, beside those of random latents. Of a generator with
styles it looks for w, as StyleGAN2's authors do (their App. D), of any other GAN for z and a class.
With --attribute, as many of the generator's own images are projected: it finds those again.
"""

import argparse

from bigjax.core import errors, files, ranges
from bigjax.sampling import options

STEPS = ranges.Range(1, 10**6)
RANDOM = ranges.Range(1, 10**6)
STARTS = ranges.Range(1, 1000)
WEIGHT = ranges.Range(0, 10**6, whole=False)


def arguments() -> errors.Arguments:
  parser = errors.Arguments(
    prog='bigjax project',
    description=__doc__.splitlines()[0],
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  options.add_generator(parser)
  parser.add_argument('--images', required=True, help='a photo, or a folder or a zip of them')
  parser.add_argument(
    '--classes',
    default='all',
    help="among which the photo's is found, as in bigjax sample: '3', '3,7', or 'all' (default); "
    'with --space w, whose mean w the search begins with',
  )
  parser.add_argument(
    '--space',
    choices=('z', 'w'),
    help='where to look: w, of generators with styles (which is their default), or z',
  )
  options.add_settings(parser)
  options.add_distance(parser, 'by which images are near')
  ranges.add_option(parser, '--steps', STEPS, 'of the search for each photo', 1000)
  ranges.add_option(
    parser, '--random', RANDOM,
    'random latents that the results are compared with; the search for z begins with the nearest '
    'of them', 1000,
  )  # fmt: skip
  ranges.add_option(parser, '--starts', STARTS, 'of a search for z, of which the best counts')
  ranges.add_option(
    parser, '--pixel_weight', WEIGHT,
    'of the squared difference of pixels, beside the distance, in a search for z (default: 1)',
  )  # fmt: skip
  ranges.add_option(parser, '--seed', ranges.SEED, 'of random latents, and of noise', 123)
  ranges.add_option(parser, '--batch', ranges.BATCH, 'photos at a time', 8)
  parser.add_argument(
    '--attribute',
    action='store_true',
    help='whether the images are of this generator: a histogram of distances of projections, '
    'beside those of images that it has made',
  )
  ranges.add_option(
    parser, '--num', ranges.IMAGES, 'generated images of --attribute, by default as many as photos'
  )
  parser.add_argument(
    '--out',
    default='projected.png',
    help='the strip; latents (.npz) and figures (.json) are beside it (default: projected.png)',
  )
  return parser


def parse(argv: list[str]) -> argparse.Namespace:
  """The arguments, checked.

  Raises:
    UserError: they make no sense.
  """
  args = arguments().parse_args(argv)
  options.check_generator(args)
  options.check_distance(args)
  options.parse_sampling(args.sampling)
  files.ending('--out', args.out, ('.png',))
  if args.num and not args.attribute:
    raise errors.UserError('--num is how many images --attribute makes; add that, or leave it out.')
  if args.attribute:
    errors.need('--attribute', 'train', 'matplotlib')
  return args


def main(argv: list[str]) -> None:
  """`bigjax project`."""
  args = parse(argv)
  from bigjax.sampling.latents import projection_report  # and with it JAX

  projection_report.run(args)
