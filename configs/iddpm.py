"""Improved DDPM (Nichol & Dhariwal 2021): denoising diffusion with learned variances.

  bigjax train --config iddpm --config.data.data_dir=/data/tfds
  bigjax train --config iddpm:imagenet64_cond --config.data.data_dir=/data/tfds
  bigjax train --config iddpm:lsun256 --config.data.source=folder:/data/lsun/bedroom
  bigjax train --config iddpm:digits
  bigjax sample --workdir WORKDIR --steps ddim25 --sampler ddim

The bare name is `cifar10`, unconditional, of 52,546,438 parameters. `imagenet64` has 121,063,942,
`imagenet64_cond` 273,049,350 and classes, `lsun256` (bedrooms) 113,676,678. Their settings are
those that the authors' code states for its checkpoints; `vlb` on the first two is L_vlb with steps
drawn by their losses (`cifar10,vlb`), in place of L_hybrid. `scale64`, `scale96`, `scale128` and
`scale192` are the networks of the paper's claim about sizes: `imagenet64` of other widths, with a
rate that falls with the root of the width.

Published, as we remember the paper: FID 2.90 on CIFAR-10, 2.92 on ImageNet-64 with classes; 2.94
bits per dimension with L_vlb on CIFAR-10, 3.53 on ImageNet-64. They sample with all 4,000 steps, or
250, which these configs do.

Hardware: GPUs in the paper, which does not say how many. `digits` takes half an hour of one busy
CPU core. Expected (one seed, 450 samples of 25 steps, beside other digits): precision 0.85 (0.91),
recall 0.77 (0.92), fd450_train_classifier 0.38 (0.24); of 10 steps of DPM-Solver++ agreement is
0.96, and coverage of the held-out digits 0.67. docs/papers.md has it with fewer
steps. Nothing of the others has been run here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """CIFAR-10, L_hybrid."""
  return ml_collections.ConfigDict(
    {
      'algorithm': 'diffusion',
      'run': {'steps': 500_000},
      'data': {'source': 'tfds:cifar10', 'resolution': 32, 'num_classes': 1, 'flip': True},
      'model': {
        'blocks': 3,
        'dropout': 0.3,
        'schedule': 'cosine',
        'num_steps': 4000,
        'rescale_steps': True,
      },
    }
  )


IMAGENET64 = {
  'run.steps': 1_500_000,
  'data.source': 'tfds:imagenet2012',
  'data.resolution': 64,
  'model.dropout': 0.0,
}
VARIANTS = {
  'cifar10': {},
  'imagenet64': IMAGENET64,
  'imagenet64_cond': {
    **IMAGENET64,
    'run.steps': 250_000,
    'data.num_classes': 1000,
    'model.ch': 192,
    'model.rescale_steps': False,
    'optim.batch_size': 2048,
    'optim.lr': 3e-4,
    'optim.loss': 'mse',
  },
  'lsun256': {
    'run.steps': 2_400_000,
    'data.source': 'tfds:lsun/bedroom',
    'data.resolution': 256,
    'data.flip': False,
    'model.blocks': 2,
    'model.attention': (16,),
    'model.heads': 1,
    'model.scale_shift': False,
    'model.dropout': 0.0,
    'model.schedule': 'linear',
    'model.num_steps': 1000,
    'model.rescale_steps': False,
    'optim.lr': 2e-5,
    'optim.loss': 'mse',
  },
  'vlb': {'optim.loss': 'rescaled_kl', 'optim.steps_law': 'second_moment'},
  **{
    f'scale{ch}': {**IMAGENET64, 'model.ch': ch, 'optim.lr': 1e-4 * (128 / ch) ** 0.5}
    for ch in (64, 96, 128, 192)
  },
}
