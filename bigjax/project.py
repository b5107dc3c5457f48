"""Find photos among a generator's images: the w whose image is nearest to each (StyleGAN2, App. D).

  bigjax project --workdir runs/faces --images photos/ --out projected.png
  bigjax project --workdir runs/faces --images photos/ --attribute

writes a strip of each photo, where the search began and what it found, and every w as .npz. With
--attribute, as many of the generator's own images are projected: it finds those again.
"""

import argparse

from bigjax.core import errors, files, ranges
from bigjax.sampling import options

STEPS = ranges.Range(1, 10**6)


def arguments() -> errors.Arguments:
  parser = errors.Arguments(
    prog='bigjax project',
    description=__doc__.splitlines()[0],
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  options.add_generator(parser)
  parser.add_argument('--images', required=True, help='a photo, or a folder of them')
  parser.add_argument(
    '--classes',
    default='all',
    help="whose mean w the search begins with, as in bigjax sample: '3', or 'all' (default)",
  )
  options.add_distance(parser, 'by which images are near')
  ranges.add_option(parser, '--steps', STEPS, 'of the search for each photo', 1000)
  ranges.add_option(parser, '--seed', ranges.SEED, 'of the mean w, and of noise', 123)
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
    '--out', default='projected.png', help='the strip; w are beside it (default: projected.png)'
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
  files.ending('--out', args.out, ('.png',))
  if args.num and not args.attribute:
    raise errors.UserError('--num is how many images --attribute makes; add that, or leave it out.')
  if args.attribute:
    errors.need('--attribute', 'train', 'matplotlib')
  return args


def main(argv: list[str]) -> None:
  """`bigjax project`."""
  args = parse(argv)
  from bigjax.sampling import projection_report  # and with it JAX

  projection_report.run(args)
