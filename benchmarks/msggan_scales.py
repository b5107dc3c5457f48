"""Whether an MSG-GAN's small images are its large ones made smaller.

  python benchmarks/msggan_scales.py --params runs/msggan/export/generator.safetensors

Prints, for each scale, the mean squared difference (pixels in [-1, 1]) between its images and the
largest ones of the same latents, averaged down to it, beside that to the largest ones of other
latents of the same class: 0 against 1 of it is agreement, 1 is none.
"""

import argparse

import numpy as np

from bigjax.core import device, errors
from bigjax.nn.style import resampling
from bigjax.sampling import loaded

NUM = 500


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--params', required=True, help='an exported MSG-GAN')
  args = parser.parse_args()
  device.use_compilation_cache()
  gen = loaded.load(args.params)
  generator, spec = gen.sampler.generator, gen.spec()
  if not hasattr(generator, 'scales'):
    raise errors.UserError(f'--params={args.params} makes images of one scale only.')
  z = gen.sampler.latents(0, NUM, spec)
  y = np.arange(NUM, dtype=np.int32) % gen.num_classes
  images = [np.asarray(x) for x in generator.images(gen.stored, z, y, spec, z)]
  down = [np.asarray(x) for x in resampling.pyramid(images[-1], len(images))]
  other = [np.roll(x, gen.num_classes, 0) for x in down]
  print('| pixels | same latents | other latents | share |\n|---|---|---|---|')
  for ours, same, others in list(zip(images, down, other, strict=True))[:-1]:
    near, far = (float(np.square(ours - x).mean()) for x in (same, others))
    print(f'| {ours.shape[1]} | {near:.4f} | {far:.4f} | {near / far:.3f} |')


if __name__ == '__main__':
  main()
