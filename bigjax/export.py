"""The generator for use elsewhere: safetensors or npz, a StableHLO program, a folder for the hub.

`bigjax export` writes the generator of a run's checkpoint, or one exported or converted before;
`bigjax train` writes safetensors when it ends; `--cascade BASE STAGE ...` makes one of a generator
of small images and of others that enlarge them (Ho et al. 2022). Tensors are averaged weights with
spectral norm folded in and BatchNorm's standing statistics at every truncation of
`export.truncations`; with --ema_std, another average of the weights, made of those that a run with
`ema.posthoc` has stored (training/posthoc/).

`--hub DIR` writes a folder that the Hugging Face hub understands, and `--push OWNER/NAME` sends it
there (sampling/sharing/).

The program, of jax.export, makes images where bigjax is not installed: it needs jax and flatbuffers
alone, on CPU, CUDA or TPU, for batches of any size. Weights, and the statistics of one truncation,
are constants inside it, so that it is one file that cannot meet other weights. (As arguments they
would make a small program beside a large file, and two ways to hold it wrong. On two CPU cores, 74
MB of them inside compile in 4.4 s in place of 2.6.) Its card says how latents are drawn. JAX
promises to read such programs for six months only: keep the tensors too.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bigjax.core import errors, ranges
from bigjax.sampling import options
from bigjax.sampling.sharing import addresses

FORMATS = ('safetensors', 'npz', 'stablehlo')


def places(
  out: str | None,
  formats: str | None,
  workdir: str | None,
  params: str | None,
  cascade: Sequence[str] = (),
  classifier: str | None = None,
  name: str = 'generator',
) -> dict[str, str]:
  """Return {format: where to write}, from what the command line says.

  Args:
    out, formats, workdir, params, cascade, classifier: the options.
    name: of the file, unless told otherwise.
  Raises:
    UserError: there is no such format, the name of --out ends otherwise or is that of a part, or
      there is none for a generator made of several.
  """
  elsewhere = params and addresses.is_one(params)
  if (cascade or classifier) and not out:
    option = '--cascade' if cascade else f'--classifier={addresses.shown(classifier)}'
    raise errors.UserError(f'{option} makes a new generator: say with --out where it is to lie.')
  if elsewhere and not out:
    raise errors.UserError(
      f'--params={addresses.shown(params)} is on another machine: say with --out where the file is '
      'to lie.'
    )
  base, dot = os.path.splitext(out or params or os.path.join(workdir or '', 'export', f'{name}.'))
  known = dot[1:] in FORMATS
  asked = (formats or (dot[1:] if out and known else FORMATS[0])).split(',')
  for name in asked:
    errors.pick(name, dict.fromkeys(FORMATS), '--format')
  if out and (not known if formats is None else len(asked) == 1 and dot[1:] != asked[0]):
    expected = ' or '.join('.' + name for name in (FORMATS if formats is None else asked))
    raise errors.UserError(f'--out={out}: give a name that ends in {expected}.')
  if out and not known:
    base = out
  found = {name: f'{base}.{name}' for name in asked}
  given = [('--params=', params), *(('--cascade ', path) for path in cascade)]
  for option, path in [*given, ('--classifier=', classifier)]:
    if path and os.path.abspath(path) in map(os.path.abspath, found.values()):
      raise errors.UserError(
        f'{option}{path} is that file already; give another --format or --out.'
      )
  return found


def places_of(args: argparse.Namespace) -> dict[str, str]:
  """`places` of what the options say."""
  name = 'generator' if args.ema_std is None else f'generator_std{args.ema_std:g}'
  return places(
    args.out, args.format, args.workdir, args.params, args.cascade, args.classifier, name
  )


def arguments() -> errors.Arguments:
  parser = errors.Arguments(prog='bigjax export', description=__doc__.splitlines()[0])
  options.add_generator(parser).add_argument(
    '--cascade',
    nargs='+',
    default=[],
    metavar='GENERATOR',
    help='workdirs, exported files or addresses: a generator, then those that enlarge its samples, '
    'in order; --sampling then sets what the cascade does unless told otherwise: '
    '1.augmentation=100',
  )
  parser.add_argument(
    '--format', help=f'{", ".join(FORMATS)}, or several with commas (default: safetensors)'
  )
  options.add_sampling(parser)
  ranges.add_option(
    parser,
    '--ema_std',
    ranges.EMA_STD,
    'of a --workdir whose run kept ema.posthoc: the width of the average of its weights, '
    'relative to the steps so far',
  )
  parser.add_argument(
    '--labels',
    choices=('numbers', 'weights'),
    help='what a stablehlo program takes: class numbers (default), or weights over the classes',
  )
  parser.add_argument(
    '--out',
    help='the file (default: generator.FORMAT in WORKDIR/export, or beside --params; with '
    '--ema_std generator_stdN.FORMAT; a --cascade, what a --classifier guides, and what is at an '
    'address have none)',
  )
  parser.add_argument(
    '--hub',
    metavar='DIR',
    help='write a folder for the Hugging Face hub: a page with scores and their protocol, samples, '
    'the generator as safetensors, its card and config',
  )
  parser.add_argument(
    '--push',
    metavar='OWNER/NAME',
    help='send that folder to this repository of the hub, with the token of `hf auth login` or '
    "$HF_TOKEN (pip install 'bigjax[hub]')",
  )
  parser.add_argument(
    '--private', action='store_true', help='a repository that --push makes is private'
  )
  parser.add_argument(
    '--license',
    metavar='ID',
    help='of the weights, as the hub names it: apache-2.0, cc-by-4.0, ..., other (default: '
    "unknown); the data's is in the card",
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
  check_hub(args)
  if args.ema_std is not None and not args.workdir:
    raise errors.UserError(
      f'--ema_std={args.ema_std:g} is of the averages that a run has stored: give its --workdir.'
    )
  paths = {} if args.hub else places_of(args)
  if 'stablehlo' in paths:
    errors.need('--format=stablehlo', 'export', 'flatbuffers')
    return args
  asked = set(options.parse_sampling(args.sampling)) - ({'guidance'} if args.classifier else set())
  if args.labels or ((args.truncation or asked) and not args.cascade):
    raise errors.UserError(
      '--truncation, --sampling and --labels are for --format=stablehlo; of all these, a file of '
      'tensors has the --guidance of its --classifier, and --cascade the first two.'
    )
  return args


def check_hub(args: argparse.Namespace) -> None:
  """Refuse options of the hub that mean nothing, or nothing together.

  Raises:
    UserError: names them.
  """
  for option in ('push', 'private', 'license'):
    if getattr(args, option) and not args.hub:
      raise errors.UserError(f'--{option} is of a folder for the hub: give one with --hub=DIR.')
  if not args.hub:
    return
  for option in ('out', 'format'):
    if getattr(args, option):
      raise errors.UserError(
        f'--hub writes a folder of its own, with safetensors: leave out --{option}.'
      )
  if args.ema_std is not None:
    raise errors.UserError(
      "--hub shows a run's scores, which are of its own average: leave out "
      f'--ema_std={args.ema_std:g}.'
    )
  if args.private and not args.push:
    raise errors.UserError('--private is of the repository that --push=OWNER/NAME makes.')
  from bigjax.sampling.sharing import licences

  licences.check(args.license)
  if args.push:
    addresses.check_repo('--push=', args.push)
    errors.need('--push', 'hub', 'huggingface_hub')


def main(argv: list[str]) -> None:
  """`bigjax export`."""
  run(parse(argv))


def run(args: argparse.Namespace) -> None:
  """Write what the options ask for.

  Raises:
    UserError: that cannot be done.
  """
  from bigjax.core import buckets

  with buckets.copied(args.workdir, state=args.ema_std is not None) as args.workdir:
    if args.hub:
      write_hub(args)
    else:
      write(args, places_of(args))


def loaded_of(args: argparse.Namespace) -> Any:
  """The generator that the options name, averaged, guided or composed as they say."""
  from bigjax.sampling.loaded import of_cascade, of_options

  given = options.parse_sampling(args.sampling)
  truncation = {'truncation': args.truncation} if args.truncation else {}
  if args.cascade:
    return of_cascade(args.cascade, given | truncation)
  return of_options(args, None if args.ema_std is None else of_average(args))


def write_hub(args: argparse.Namespace) -> None:
  """Write the folder for the hub, and send it where that was asked for."""
  from bigjax.sampling.sharing import hub_folder

  hub_folder.check_folder(args.hub)
  loaded = loaded_of(args)
  if args.workdir:
    loaded.stored = loaded.sampler.prepare_all(loaded.stored, loaded.card['sampling'])
  title = os.path.basename(os.path.abspath(args.push or args.hub))
  where, licence = args.push or 'OWNER/NAME', args.license or 'unknown'
  try:
    names = hub_folder.write(args.hub, loaded, args.workdir, title, where, licence)
  except OSError as error:
    raise errors.UserError(f'--hub={args.hub} cannot be written ({error.strerror}).') from None
  print(f'wrote {", ".join(names)} to {args.hub}')
  if licence == 'unknown':
    print('others may use the weights only by a licence: name yours with --license.')
  if args.push:
    from bigjax.sampling.sharing import push

    print(f'sent to {push.push(args.hub, names, args.push, args.private)}')
    print(f'bigjax sample --params hf://{args.push}')


def of_average(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
  """(gen, card) of --ema_std, once it has been said what it is made of.

  Raises:
    UserError: the run has no averages, or they are damaged.
  """
  from bigjax.algorithms.base.posthoc.tracking import NAME
  from bigjax.training.posthoc import reconstruction

  gen, card = reconstruction.load(args.workdir, args.checkpoint or 'last', args.ema_std)
  about = card[NAME]
  met = f'met to {100 * about["profile_error"]:.2g} %'
  print(f'an average of width {args.ema_std:g} of {about["snapshots"]} stored steps: {met}')
  if about['profile_error'] > reconstruction.ROUGH:
    print(
      f'warning: the profile of --ema_std={args.ema_std:g} is {met} only; give a width nearer to '
      'those that were tracked.',
      file=sys.stderr,
    )
  return gen, card


def write(args: argparse.Namespace, paths: Mapping[str, str]) -> None:
  """Write the generator in every format asked for."""
  import jax

  from bigjax.sampling import generator_file as cards
  from bigjax.sampling.stablehlo import write_program

  loaded = loaded_of(args)
  spec = loaded.spec(args.truncation, **options.parse_sampling(args.sampling))
  try:
    for name, path in paths.items():
      os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
      if name == 'stablehlo':
        loaded.prepare(spec)
        write_program(path, loaded, spec, args.labels == 'weights')
        continue
      if args.workdir:
        loaded.stored = loaded.sampler.prepare_all(loaded.stored, loaded.card['sampling'])
      {'safetensors': cards.save, 'npz': cards.save_npz}[name](path, loaded.stored, loaded.card)
      size = sum(leaf.nbytes for leaf in jax.tree.leaves(loaded.stored)) / 1e6
      beside = '' if name == 'npz' else f' and {cards.card_path(path)}'
      step = f', step {loaded.card["step"]}' if 'step' in loaded.card else ''
      print(f'wrote {path} ({size:.1f} MB{step}){beside}')
  except OSError as error:
    raise errors.UserError(f'{path} cannot be written ({error.strerror}).') from None
