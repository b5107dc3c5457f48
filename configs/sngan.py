"""SN-GAN (Miyato et al. 2018) and its projection discriminator (Miyato & Koyama 2018).

  bigjax train --config sngan --config.data.data_dir=/data/tfds
  bigjax train --config sngan:cifar10_uncond --config.data.data_dir=/data/tfds
  bigjax train --config sngan:imagenet128 --config.data.data_dir=/data/tfds
  bigjax train --config sngan:digits

The bare name is `cifar10`: the ten classes by projection (networks of 4,304,387 and 1,055,104
parameters). `cifar10_uncond` and `stl10` are the first paper's unconditional networks: Inception
Score 8.22 +- .05 and FID 21.7 on CIFAR-10, 9.10 +- .04 and 40.1 on STL-10. `imagenet128` is the
second paper's: Inception Score 29.7 and intra-FID 103.1 (5,000 samples a class) at step 450,000,
36.8 and 92.4 at 850,000; `imagenet128_concat` its baseline, which joins an embedding of the class
to D's maps: 21.1 and 141.2. `cifar10_lt100` is gSR on these networks, with the optimizer of its
authors' code, see `gsr`. Numbers are those of the papers and their code's README.

Hardware: one GPU for 32 and 48 px, four for 128 px; nothing of these has been measured here.
`digits` takes minutes on two CPU cores: docs/papers.md has what it reaches.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """CIFAR-10 with its classes."""
  return ml_collections.ConfigDict(
    {
      'algorithm': 'sngan',
      'run': {'steps': 50_000},
      'data': {'source': 'tfds:cifar10', 'resolution': 32, 'num_classes': 10},
      'model': {'ch': 128, 'dtype': 'float32'},
    }
  )


IMAGENET = {
  'run.steps': 450_000,
  'data.source': 'tfds:imagenet2012',
  'data.resolution': 128,
  'data.num_classes': 1000,
  'model.ch': 64,
  'optim.batch_size': 64,
  'optim.schedule_start': 400_000,
}
VARIANTS = {
  'cifar10': {},
  'cifar10_uncond': {'data.num_classes': 1},
  'cifar10_lt100': {
    'run.steps': 120_000,
    'data.imbalance': 100.0,
    'data.flip': True,
    'optim.gen_batch_times': 1,
    'optim.name': 'adam',
    'optim.schedule': 'constant',
    'optim.b1': 0.5,
    'optim.eps': 1e-6,
    'optim.lecam_weight': 0.3,
    'optim.gsr_weight': 0.5,
    'optim.gsr_beta': 0.999,
    'augment.name': 'color,translation,cutout',
  },
  'stl10': {
    'data.source': 'tfds:stl10',
    'data.split': 'unlabelled',
    'data.resolution': 48,
    'data.num_classes': 1,
    'model.ch': 64,
  },
  'imagenet128': IMAGENET,
  'imagenet128_concat': {**IMAGENET, 'model.class_input': 'concat'},
}
