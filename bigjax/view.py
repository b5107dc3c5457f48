"""A page to look at a generator: sliders for what it makes, its run's pictures and scores beside.

  bigjax view runs/digits                       # prints an address for a browser on this machine
  bigjax view generator.safetensors --port 8000
  bigjax view runs/digits --html digits.html    # one file that needs no server

PATH is a workdir, while it is still being trained, too, or an exported generator. The page is
served on 127.0.0.1 alone; ssh -L brings it to another machine.
"""

import argparse

from bigjax.core import errors, files, ranges

PORT = ranges.Range(0, 65535)


def arguments() -> errors.Arguments:
  parser = errors.Arguments(
    prog='bigjax view',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    'path', metavar='PATH', help='a workdir, or an exported generator, .safetensors or .npz'
  )
  parser.add_argument(
    '--checkpoint',
    help='of the workdir, to begin with: last (default), best, or a step; the page has all of them',
  )
  parser.add_argument('--classifier', help='of a diffusion: what guides it, as of bigjax sample')
  ranges.add_option(parser, '--port', PORT, 'of 127.0.0.1; 0, the default: a free one')
  parser.add_argument(
    '--html', help='write a report of the run, pictures inside, instead of serving a page'
  )
  return parser


def parse(argv: list[str]) -> argparse.Namespace:
  """The arguments, checked.

  Raises:
    UserError: they make no sense.
  """
  args = arguments().parse_args(argv)
  if args.html is not None:
    files.ending('--html', args.html, ('.html', '.htm'))
    if args.port is not None:
      raise errors.UserError(
        '--port is of a page that is served, and --html writes a file: leave one out.'
      )
  if args.checkpoint and args.path.lower().endswith(('.safetensors', '.npz')):
    raise errors.UserError(
      f'--checkpoint {args.checkpoint} is of a workdir, and {args.path} is a file: leave it out.'
    )
  return args


def main(argv: list[str]) -> None:
  """`bigjax view`."""
  args = parse(argv)
  from bigjax.sampling.page import showing  # and with it JAX

  showing.run(args)
