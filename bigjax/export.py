"""The generator for people who only want images: safetensors with a JSON card beside it.

`bigjax export` writes the generator of a run's checkpoint; `bigjax train` does so when it ends. The
tensors are averaged weights with spectral norm folded in and BatchNorm's standing statistics at
every truncation of `export.truncations`.
"""

import os

import jax

from bigjax import build, utils
from bigjax import card as cards


def main(argv: list[str]) -> None:
  """`bigjax export`."""
  parser = utils.Arguments(prog='bigjax export', description=__doc__.splitlines()[0])
  parser.add_argument('--workdir', required=True, help='of a run')
  parser.add_argument('--checkpoint', default='last', help='last, best or a step (default: last)')
  parser.add_argument(
    '--out', help='the .safetensors file (default: WORKDIR/export/generator.safetensors)'
  )
  args = parser.parse_args(argv)
  out = args.out or os.path.join(args.workdir, 'export', 'generator.safetensors')
  if not out.endswith('.safetensors'):
    raise utils.UserError(f'--out={out}: give a name that ends in .safetensors.')
  sampler, gen, card = build.from_card(*cards.load_workdir(args.workdir, args.checkpoint))
  gen = sampler.calibrate_all(gen, card)
  cards.save(out, gen, card)
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(gen)) / 1e6
  print(f'wrote {out} ({size:.1f} MB, step {card["step"]}) and {cards.card_path(out)}')
