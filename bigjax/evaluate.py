"""`bigjax evaluate`: scores of a run's checkpoints, of an exported generator, of any images.

Every score is named by its protocol, and what else decides it is written beside it: the weights'
digest, the resizer, the reference's digest, truncation and its dialect, standing statistics, seeds.
"""

from typing import Any

from bigjax.core import errors, files, ranges
from bigjax.evaluation.metrics.registry import (
  METRICS,
  OF_ENCODER,
  OF_GENERATOR,
  OF_LIKELIHOOD,
  OF_PREDICTION,
)
from bigjax.models.pretrained.published import PUBLISHED
from bigjax.sampling import options

NUM = ranges.Range(2, 10**7)  # samples
LABELS = ranges.Range(0, 10**6)  # of a class; 0: all
MOST_SEEDS = 1000
KNOWN = (
  f'of {", ".join(METRICS)}; of a generator itself, {", ".join(OF_GENERATOR)}; of its encoder, '
  f'{", ".join(OF_ENCODER)}; of the likelihood it gives images, {", ".join(OF_LIKELIHOOD)}; of the '
  f'frames it predicts of clips, {", ".join(OF_PREDICTION)}'
)


def arguments() -> errors.Arguments:
  parser = errors.Arguments(prog='bigjax evaluate', description=__doc__.splitlines()[0])
  what = options.add_generator(parser, several=True)
  what.add_argument('--images', help='a folder of images of one size, or an .npz of them')
  parser.add_argument('--metrics', default='fid,is,pr', help=f'{KNOWN} (default: fid,is,pr)')
  ranges.add_option(parser, '--num', NUM, 'samples, by default 50,000; of --images, all')
  parser.add_argument(
    '--reference',
    help='real images: tfds:NAME[/train|/test], folder:PATH, digits, or stats.npz with mu and '
    "sigma, for sfid mu_s and sigma_s (default: the training images of the run's data)",
  )
  parser.add_argument('--data_dir', help="of tfds: sets (default: the run's, or TFDS's own)")
  parser.add_argument(
    '--features',
    default='inception',
    help=f'{", ".join(PUBLISHED)} (default: inception), or classifier: a small one trained '
    'on the reference',
  )
  parser.add_argument('--weights', help="the network's file (default: kept ones, or a download)")
  parser.add_argument(
    '--by_class', action='store_true', help='scores of each class, too: a table and by_class.png'
  )
  options.add_distance(parser, 'of path lengths (ppl)')
  parser.add_argument(
    '--crop', action='store_true', help='path lengths of the faces in aligned portraits alone'
  )
  ranges.add_option(
    parser,
    '--labels_per_class',
    LABELS,
    'training images of each class whose labels probes know',
    0,
  )
  options.add_sampling(parser)
  parser.add_argument('--sweep', metavar='t,t,...', help='truncations to compare: 0.2,0.5,1,none')
  parser.add_argument(
    '--seeds',
    default='0,1,2',
    help=f'to sample with; the spread is theirs ({ranges.SEED}; default: 0,1,2)',
  )
  ranges.add_option(parser, '--batch', ranges.BATCH, 'images at a time', 256)
  parser.add_argument(
    '--out', help='folder for scores.jsonl and pictures (default: WORKDIR/evaluation, evaluation)'
  )
  parser.add_argument('--no_floor', action='store_true', help='do not score real images, too')
  return parser


def parse(argv: list[str]) -> Any:
  """Return the arguments, lists split and checked.

  Raises:
    UserError: they make no sense.
  """
  args = arguments().parse_args(argv)
  options.check_generator(args)
  options.parse_sampling(args.sampling)
  errors.pick(args.features, {**PUBLISHED, 'classifier': None}, '--features')
  args.metrics = [word.strip() for word in args.metrics.split(',') if word.strip()]
  for name in args.metrics:
    others = dict.fromkeys((*OF_ENCODER, *OF_LIKELIHOOD, *OF_PREDICTION))
    errors.pick(name, {**METRICS, **OF_GENERATOR, **others}, '--metrics')
  if not args.metrics:
    raise errors.UserError(f'--metrics is empty; give some {KNOWN}.')
  args.of_generator = [name for name in args.metrics if name in OF_GENERATOR]
  args.of_encoder = [name for name in args.metrics if name in OF_ENCODER]
  args.of_likelihood = [name for name in args.metrics if name in OF_LIKELIHOOD]
  args.of_prediction = [name for name in args.metrics if name in OF_PREDICTION]
  args.metrics = [name for name in args.metrics if name in METRICS]
  options.check_distance(args)
  paths = [name for name in args.of_generator if not OF_GENERATOR[name].separates]
  for option in ('distance', 'crop'):
    if getattr(args, option) and not paths:
      raise errors.UserError(
        f'--{option} is of path lengths: ask for one with --metrics, such as ppl_w_full, or leave '
        'it out.'
      )
  if len(paths) < len(args.of_generator):
    errors.need('linear separability', 'train', 'sklearn')
  args.seeds = list(options.parse_seeds(args.seeds, MOST_SEEDS))
  if args.images and args.sweep:
    raise errors.UserError('--sweep asks for truncations of a generator; --images are as they are.')
  several = args.checkpoint == 'all' or ',' in (args.checkpoint or '')
  if args.sweep or args.by_class or several or args.of_prediction:
    errors.need('a picture of scores', 'train', 'matplotlib')
  if args.out:
    files.ending('--out', args.out, (), folder=True)
  args.num = args.num or (None if args.images else 50_000)
  return args


def main(argv: list[str]) -> None:
  """`bigjax evaluate`."""
  args = parse(argv)
  from bigjax.evaluation import after_training  # and with it JAX

  after_training.run(args)
