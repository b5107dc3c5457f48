"""Command-line options that name a generator and say how to sample it. Imports no JAX."""

import argparse
import bisect
import itertools
from collections.abc import Sequence
from typing import Any

from bigjax.core import errors, ranges
from bigjax.models.pretrained.published import DISTANCES
from bigjax.sampling.sharing import addresses

WAY = ranges.Range(-1000, 1000, whole=False)  # along a direction, in standard deviations
DIRECTIONS = 'directions.npz'  # where `bigjax directions` writes, and --direction looks
STRENGTH = '3'  # of --direction, unless told
STEPS = 7  # of a sweep over strengths of which only the ends are given
FILMS = ('.webp', '.gif', '.mp4', '.apng')  # endings of files in which pictures move
MOST_RATE_OF_GIF = 50  # pictures per second: viewers show none for less than two hundredths


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
  source.add_argument(
    '--params',
    help='an exported or converted generator, .safetensors or .npz: a file, or at hf://OWNER/NAME, '
    'https://, gs:// or s3://',
  )
  which = 'last (default), best, ' + ('all, or steps: 1000,2000' if several else 'or a step')
  parser.add_argument(name, dest='checkpoint', help=f'of the workdir: {which}')
  return source


def check_generator(args: argparse.Namespace) -> None:
  """Refuses a checkpoint of what has none, a classifier beside no generator, addresses of nothing.

  Raises:
    UserError: says so.
  """
  if getattr(args, 'classifier', None) and not (args.workdir or args.params):
    raise errors.UserError(
      f'--classifier={args.classifier} guides a generator: give one with --workdir or --params.'
    )
  if args.checkpoint and not args.workdir:
    raise errors.UserError(
      f'--checkpoint {args.checkpoint} is one of a --workdir; without a --workdir, leave it out.'
    )
  if args.workdir and addresses.is_one(args.workdir):
    raise errors.UserError(
      f'--workdir={addresses.shown(args.workdir)} is the address of an exported generator: give it '
      'with --params.'
    )
  for option, path in named_files(args):
    if addresses.is_one(path):
      addresses.parse(path, option)


def named_files(args: argparse.Namespace) -> list[tuple[str, str]]:
  """[(option as it is written, what it names)] of the options that name generators' files."""
  given = [('--params=', args.params), ('--classifier=', getattr(args, 'classifier', None))]
  given += [('--cascade ', path) for path in getattr(args, 'cascade', None) or ()]
  return [(option, path) for option, path in given if path]


class ByItsName(argparse.Action):
  """`--NAME WORD` for `--sampling NAME=WORD`."""

  def __call__(self, parser, namespace, values, option_string=None):
    name = self.option_strings[0].removeprefix('--')
    namespace.sampling = [*namespace.sampling, f'{name}={values}']


def add_settings(parser: argparse.ArgumentParser) -> None:
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


def settings(args: argparse.Namespace) -> dict[str, str]:
  """The options of `add_settings` as they were given, {option: word}."""
  truncation = {} if args.truncation is None else {'truncation': args.truncation}
  return {**parse_sampling(args.sampling), **truncation}


def add_sampling(parser: argparse.ArgumentParser) -> None:
  """Adds the options of `add_settings`, and what is of diffusions.

  Options of theirs that everybody knows have names of their own, and what guides them is given
  here.
  """
  parser.add_argument(
    '--classifier',
    help='of a diffusion: the workdir, or the exported file or its address (see --params), of a '
    'classifier of noisy images that guides it (see --guidance)',
  )
  add_settings(parser)
  for name, words in (
    ('steps', 'of a diffusion: calls of the network for a sample: 25, ddim25, logsnr10'),
    ('sampler', 'of a diffusion: ancestral, ddim, dpm'),
    ('guidance', 'of what a --classifier guides: the scale of its gradient, 0 for none'),
  ):
    parser.add_argument(
      f'--{name}', dest='sampling', action=ByItsName, default=[], metavar='WORD', help=words
    )


LAYERS = {'coarse': '0-3', 'middle': '4-7', 'fine': '8-'}  # 4 and 8 px, 16 and 32 px, the rest
MOST_LAYERS = 100


def parse_layers(text: str, num: int = MOST_LAYERS) -> list[int]:
  """The layers of 'coarse', 'middle', 'fine', '0-3', '2,8-' among so many, in ascending order.

  Raises:
    UserError: it is not like that, or there are not as many layers.
  """
  found: set[int] = set()
  for word in LAYERS.get(text, text).split(','):
    first, dash, last = (part.strip() for part in word.partition('-'))
    last = last or (f'{max(num - 1, 0)}' if dash else first)
    if not (first.isdecimal() and last.isdecimal()) or len(first + last) > 9:
      raise errors.UserError(
        f'--mixing={text:.80}: {word[:80]!r} is no layer and no range of them; write '
        f'{", ".join(LAYERS)}, or numbers from 0 on, for example 0-3 or 2,8-.'
      )
    if int(first) > int(last) or int(last) >= num:
      raise errors.UserError(
        f'--mixing={text:.80}: {word[:80]!r} is none of the layers 0 to {num - 1}; give some of '
        'these.'
      )
    found.update(range(int(first), int(last) + 1))
  return sorted(found)


def add_distance(parser: argparse.ArgumentParser, what: str) -> None:
  """Adds --distance, of what it says, and --distance_weights."""
  parser.add_argument(
    '--distance',
    help=f'{what}: {", ".join(DISTANCES)} (default: {DISTANCES[0]} where its weights are at hand, '
    'else pixels)',
  )
  parser.add_argument(
    '--distance_weights', help="the file of its network (default: its package's, or the cache's)"
  )


def check_distance(args: argparse.Namespace) -> None:
  """Refuses a distance that there is not, and weights of one that has none.

  Raises:
    UserError: says so.
  """
  if args.distance is not None:
    errors.pick(args.distance, dict.fromkeys(DISTANCES), '--distance')
  if args.distance_weights and not args.distance:
    raise errors.UserError('--distance_weights are of a network: name it with --distance.')


def parse_sampling(words: Sequence[str]) -> dict[str, str]:
  """Parses the words of --sampling, by name.

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


def parse_strengths(text: str) -> list[float]:
  """Strengths of '3' (from -3 to 3), or of '-2,0,2'.

  Raises:
    UserError: it is not like that, or a strength is out of range.
  """
  found = [WAY.read(f'--strength={text:.80}: ', word) for word in text.split(',')]
  if len(found) > 1:
    return found
  end = abs(found[0])
  return [end * (2 * i - STEPS + 1) / (STEPS - 1) for i in range(STEPS)]


class Seeds(Sequence):
  """Seeds of several ranges one after the other, none of which is written out."""

  def __init__(self, parts: Sequence[range]):
    self._parts = parts
    self._ends = list(itertools.accumulate(map(len, parts)))

  def __len__(self) -> int:
    return self._ends[-1]

  def __getitem__(self, index: int) -> int:  # type: ignore[override]  # none cuts a slice
    if not 0 <= index < len(self):
      raise IndexError(index)
    part = bisect.bisect_right(self._ends, index)
    return self._parts[part][index - self._ends[part]]


def parse_seeds(text: str, most: int = ranges.MOST_IMAGES) -> Seeds:
  """The seeds of '0-9', '0,1,2' or '3,10-12', at most so many.

  Raises:
    UserError: it is not like that, or a seed is out of range.
  """
  parts = []
  for word in text.split(','):
    first, dash, last = (part.strip() for part in word.partition('-'))
    last = last if dash else first
    if not (first.isdecimal() and last.isdecimal()):
      raise errors.UserError(
        f'--seeds={text:.80}: {word[:80]!r} is no seed and no range; write whole numbers, for '
        'example 0-9 or 3,10-12.'
      )
    first, last = (ranges.SEED.read(f'--seeds={text:.80}: seed ', word) for word in (first, last))
    if first > last:
      raise errors.UserError(f'--seeds={text:.80}: {word!r} is no seed and no range: it is empty.')
    parts.append(range(first, last + 1))
  found = Seeds(parts)
  if len(found) > most:
    raise errors.UserError(f'--seeds={text:.80} are {len(found):,} seeds; give at most {most:,}.')
  return found
