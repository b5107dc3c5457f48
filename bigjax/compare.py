"""Compare runs: scores with mean and spread over seeds, what their configs differ in, their time.

  bigjax compare runs/a runs/b runs/c
  bigjax compare runs/* --scores coverage,precision --out compared.png

Runs that differ in their seed alone are one group, and share a line of the table and a colour of
the picture. Runs that are still going, or were never finished, are compared as far as they came.
"""

import argparse

from bigjax.core import errors, files


def arguments() -> errors.Arguments:
  parser = errors.Arguments(
    prog='bigjax compare',
    usage='bigjax compare RUN [RUN ...] [--scores NAME,NAME] [--out FILE.png] [--json FILE.json] '
    '[--csv FILE.csv]',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('runs', nargs='+', metavar='RUN', help='workdirs, or URLs of some')
  parser.add_argument('--scores', help='those that are shown (default: all that the runs have)')
  parser.add_argument('--out', help='.png of the scores against step: mean, and least to most')
  parser.add_argument('--json', help='where to write everything as JSON')
  parser.add_argument('--csv', help='where to write a line per run')
  return parser


def parse(argv: list[str]) -> argparse.Namespace:
  """The arguments, checked.

  Raises:
    UserError: they make no sense.
  """
  args = arguments().parse_args(argv)
  for option, ends in (('out', '.png'), ('json', '.json'), ('csv', '.csv')):
    if getattr(args, option) is not None:
      files.ending(f'--{option}', getattr(args, option), (ends,))
  if args.out is not None:
    errors.need('--out', 'train', 'matplotlib')
  return args


def main(argv: list[str]) -> None:
  """`bigjax compare`."""
  args = parse(argv)
  from bigjax.training.records import comparison  # and with it JAX

  comparison.run(args)
