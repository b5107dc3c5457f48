"""Published weights of BigGAN, StyleGAN2, SN-GAN, Improved DDPM and ADM <-> ours.

`bigjax convert` turns a generator (.pth, .bin, .npz or .safetensors of BigGAN-PyTorch, Hugging
Face's pytorch-pretrained-BigGAN, TF-Hub or SN-GAN's authors, .pkl of StyleGAN2-ADA, .pt of OpenAI's
diffusions) into one that `bigjax sample` and `--config.init_from` read, or writes a run's networks
under the names of BigGAN-PyTorch or StyleGAN2-ADA.
"""

import argparse

from bigjax.core import errors, files, ranges

GEN_HELP = (
  'a generator of BigGAN-PyTorch (G_ema.pth), of pytorch-pretrained-BigGAN (pytorch_model.bin), '
  "of SN-GAN's authors (ResNetGenerator_450000.npz) or the variables of a TF-Hub module (.npz); "
  '.pth, .bin, .npz or .safetensors; the networks of StyleGAN2-ADA in PyTorch (.pkl), or their '
  "arrays (.npz); a network of OpenAI's diffusion codes: a diffusion (64x64_diffusion.pt), one "
  'that enlarges (64_256_upsampler.pt), a classifier that guides (64x64_classifier.pt)'
)


def arguments() -> errors.Arguments:
  parser = errors.Arguments(prog='bigjax convert', description=__doc__.split('\n\n')[0])
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument('--gen', help=GEN_HELP)
  source.add_argument(
    '--workdir', help='a run, to be written as BigGAN-PyTorch or StyleGAN2-ADA has it'
  )
  parser.add_argument('--disc', default='', help='with --gen: the discriminator, to train on')
  parser.add_argument(
    '--raw_gen', default='', help='with --gen: the generator before averaging, to train on'
  )
  ranges.add_option(
    parser,
    '--bn_eps',
    ranges.Range(above=0, most=1, whole=False),
    "epsilon of the generator's BatchNorms, by default 1e-5 for BigGAN-PyTorch, as its scripts "
    'train with; that of config.json, or 1e-4, for the others',
  )
  parser.add_argument(
    '--config',
    help="with --gen of OpenAI's: the config whose network and process it is, such as "
    'adm:imagenet64 (default: that of the published network it can be)',
  )
  parser.add_argument('--class_names', default='', help='with --gen: a text file, one per line')
  parser.add_argument('--checkpoint', help='with --workdir: last (default), best or a step')
  parser.add_argument(
    '--out', required=True, help='with --gen: x.safetensors; with --workdir: a folder'
  )
  return parser


def check(args: argparse.Namespace) -> None:
  """Refuse options that mean nothing together.

  Raises:
    UserError: names them.
  """
  of_gen = ('disc', 'raw_gen', 'bn_eps', 'config', 'class_names')
  for name in ('checkpoint',) if args.gen else of_gen:
    if getattr(args, name) not in (None, ''):
      there, here = ('--workdir', '--gen') if args.gen else ('--gen', '--workdir')
      raise errors.UserError(f'--{name} goes with {there}, not with {here}; leave it out.')
  if args.config == '':
    raise errors.UserError(
      '--config is empty; give a config, such as adm:imagenet64, or leave it out.'
    )
  if args.gen and not args.out.endswith('.safetensors'):
    raise errors.UserError(f'--out={args.out}: give a name that ends in .safetensors.')
  if args.workdir:
    files.ending('--out', args.out, (), folder=True)


def parse(argv: list[str]) -> argparse.Namespace:
  """The arguments, checked.

  Raises:
    UserError: they make no sense.
  """
  args = arguments().parse_args(argv)
  check(args)
  return args


def main(argv: list[str]) -> None:
  """`bigjax convert`."""
  args = parse(argv)
  from bigjax.sampling.importers import conversion  # and with it JAX

  try:
    (conversion.bring_in if args.gen else conversion.take_out)(args)
  except OSError as error:
    raise errors.UserError(f'--out={args.out} cannot be written ({error.strerror}).') from None
