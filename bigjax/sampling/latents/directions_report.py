"""What `bigjax directions` writes: the directions, and a picture of what each of them changes."""

import argparse
import os

import numpy as np

from bigjax.core import buckets, errors, files
from bigjax.sampling import grids, options
from bigjax.sampling.latents import direction_files, edits
from bigjax.sampling.latents.directions import LATENTS, Directions, Finder, find
from bigjax.sampling.loaded import Loaded, of_options, parse_classes

MOST_ROWS = 20  # directions in the picture
VERB = '`bigjax directions`'


def draw(
  path: str, found: Directions, loaded: Loaded, args: argparse.Namespace, labels: np.ndarray
) -> None:
  """Draw a row for each direction: sample 0 of the first class, moved along it."""
  spec, num = loaded.spec(**options.settings(args)), min(len(found), MOST_ROWS)
  strengths = options.parse_strengths(options.STRENGTH)
  sample = edits.drawn(loaded, found.space, spec, labels[:1], args.seed, 1)
  made = [edits.swept(loaded, sample, found, i, strengths, spec, args.batch) for i in range(num)]
  rows = [f'{i}: {found.explained[i]:.1%}' for i in range(num)]
  of = f' of class {loaded.class_names[labels[0]]}' if loaded.num_classes > 1 else ''
  caption = f'sample 0{of}; {found.method}; {edits.UNIT.format(space=found.space)}'
  heads = edits.heads(strengths)
  grids.sheet(np.concatenate(made), len(strengths), rows, heads, caption).save(path, format='png')


def run(args: argparse.Namespace) -> None:
  """Finds what the options of `bigjax directions` ask for, and prints what was written.

  Raises:
    UserError: that cannot be done.
  """
  args.workdir = args.workdir and buckets.local(args.workdir)
  loaded = of_options(args)
  generator, labels = loaded.sampler.generator, parse_classes(args.classes, loaded.class_names)
  edits.check_still(loaded, VERB)
  space = args.space or ('w' if getattr(generator, 'styles', None) else 'z')
  if space == 'z' and args.features == LATENTS:
    raise errors.UserError(
      '--features=latents are those of w: all directions of z are alike. Give another, such as '
      'pixels, or --space w.'
    )
  spec = loaded.spec(**options.settings(args))
  files.prepare_folder('--out', args.out)
  finder = Finder(loaded, space, spec, labels, args.seed, args.num, args.batch)
  found = find(finder, args.method, args.features, args.features_weights, args.count)
  loaded.prepare(spec)
  base = os.path.splitext(args.out)[0]
  try:
    direction_files.write(base + '.npz', found, loaded, options.settings(args), labels)
    draw(base + '.png', found, loaded, args, labels)
  except OSError as error:
    raise errors.UserError(f'--out={args.out} cannot be written ({error.strerror}).') from None
  what = 'of the eigenvalues' if args.method == 'sefa' else 'of the variance'
  for i, share in enumerate(found.explained):
    whole = found.linear[i] == 1
    words = '' if whole else f'; {found.linear[i]:.0%} of its component is linear in {space}'
    print(f'{i}: {share:.2%} {what}{words}')
  total = f'together {found.explained.sum():.1%}'
  print(f'{base}.npz, .png: {len(found)} directions in {space}, {found.method}; {total}')
