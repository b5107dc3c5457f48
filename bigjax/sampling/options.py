"""Command-line options that name a generator and say how to sample it. Imports no JAX."""

import argparse
from collections.abc import Sequence
from typing import Any

from bigjax.core import errors


def add_generator(parser: argparse.ArgumentParser, several: bool = False) -> Any:
  """Adds --workdir and --params, of which one must be given, and --checkpoint.

  Args:
    parser: of a verb.
    several: whether there may be several checkpoints: the option is then called --checkpoints.
  Returns:
    The group of the first two, to which a verb may add.
  """
  name = '--checkpoints' if several else '--checkpoint'
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument('--workdir', help=f'of a run: its newest checkpoint (see {name})')
  source.add_argument('--params', help='an exported or converted generator, .safetensors or .npz')
  which = 'last (default), best, ' + ('all, or steps: 1000,2000' if several else 'or a step')
  parser.add_argument(name, dest='checkpoint', help=f'of the workdir: {which}')
  return source


def check_generator(args: argparse.Namespace) -> None:
  """Refuses a checkpoint of what has none.

  Raises:
    UserError: says so.
  """
  if args.checkpoint and not args.workdir:
    raise errors.UserError(
      f'--checkpoint {args.checkpoint} is one of a --workdir; without a --workdir, leave it out.'
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
  """Adds --truncation, and `--sampling NAME=VALUE` for options that only some generators have."""
  parser.add_argument(
    '--truncation',
    metavar='t[:dialect]',
    help='0.5, 0.4:truncnorm (dialects: resample, truncnorm, scale, clamp), or none',
  )
  parser.add_argument(
    '--sampling',
    action='append',
    default=[],
    metavar='NAME=VALUE',
    help='another sampling option of this generator, such as standing_passes=16; a wrong name '
    'lists those that it has',
  )


def parse_sampling(words: Sequence[str]) -> dict[str, str]:
  """What --sampling was given, by name.

  Raises:
    UserError: a word is not NAME=VALUE.
  """
  found = {}
  for word in words:
    name, equals, value = word.partition('=')
    if not (name and equals and value):
      raise errors.UserError(f'--sampling={word}: give NAME=VALUE, such as standing_passes=16.')
    found[name] = value
  return found


def parse_seeds(text: str) -> list[int]:
  """The seeds of '0-9', '0,1,2' or '3,10-12'.

  Raises:
    UserError: it is not like that.
  """
  found = []
  for word in text.split(','):
    first, dash, last = word.partition('-')
    last = last if dash else first
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
      raise errors.UserError(
        f'--seeds={text}: {word!r} is no seed and no range; write for example 0-9 or 3,10-12.'
      )
    found += range(int(first), int(last) + 1)
  return found
