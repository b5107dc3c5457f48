"""How well a generator's latents hold images that it has never seen, and which way they lie.

  bigjax train                                                        # runs/digits
  python benchmarks/own_latents.py --workdir runs/digits --folder own

Held-out images of the run, so many of each class, are written as PNG; `bigjax project` looks for
them, and for as many of the generator's own, and `bigjax directions` finds directions among all
classes, and of the first class alone. Prints the commands and what they say; what they write is in
the folder.
"""

import argparse
import os

import numpy as np
from PIL import Image

from bigjax import __main__ as bigjax
from bigjax.evaluation import image_sets
from bigjax.sampling.loaded import load


def held_out(workdir: str, folder: str, num: int, data_dir: str | None) -> list[str]:
  """Write held-out images of a run, so many of each class, as PNG; return the class names."""
  generator = load(workdir)
  source = image_sets.as_of_run(generator.card['data'], generator.shape, data_dir, workdir)
  images, labels = source.held_out()
  os.makedirs(folder, exist_ok=True)
  for number, name in enumerate(source.class_names):
    for i in np.flatnonzero(labels == number)[:num]:
      image = images[i].squeeze()
      Image.fromarray(image).save(os.path.join(folder, f'{name}_{i:05d}.png'))
  return list(source.class_names)


def run(*words: str) -> None:
  """Run a verb as on the command line."""
  print('$ bigjax', *words, flush=True)
  if bigjax.main(list(words)):
    raise SystemExit(f'bigjax {words[0]} failed.')


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--folder', required=True)
  parser.add_argument('--data_dir')
  parser.add_argument('--num', type=int, default=2, help='images of each class')
  parser.add_argument('--steps', type=int, default=200)
  parser.add_argument('--distance', default='efficientnet_lite0')
  args = parser.parse_args()
  at = lambda name: os.path.join(args.folder, name)
  names = held_out(args.workdir, at('photos'), args.num, args.data_dir)
  of, seen = f'--workdir={args.workdir}', f'--distance={args.distance}'
  run(
    'project', of, f'--images={at("photos")}', seen, f'--steps={args.steps}',
    f'--batch={len(names)}', '--attribute', f'--out={at("projected.png")}',
  )  # fmt: skip
  run('sample', of, f'--latents={at("projected.npz")}', f'--out={at("again.png")}')
  one = f'--classes=name:{names[0]}'
  for what, classes in (('all', '--classes=all'), ('first', one)):
    out = f'--out={at(f"directions_{what}.npz")}'
    run('directions', of, classes, f'--features={args.distance}', out)
    found = f'--directions={at(f"directions_{what}.npz")}'
    run('sample', of, classes, '--direction=0', found, f'--out={at(f"along_{what}.png")}')
  run('directions', of, '--method=sefa', f'--out={at("directions_sefa.npz")}')


if __name__ == '__main__':
  main()
