"""SA-GAN (Zhang et al. 2019) as published: self-attention and spectral norm in both networks.

  bigjax train --config sagan --config.data.data_dir=/data/tfds

ImageNet at 128 px, batch 256, one discriminator step, learning rates 1e-4 and 4e-4, a million
steps. The bare name is `imagenet128`, with attention at 64 px: Inception Score 52.52, FID 18.65,
intra-FID 83.7, of 50,000 samples. `imagenet128_f32` has it at 32 px, as the authors' code does:
51.43 and 18.28 (from memory of the paper's table of places). The first row of BigGAN's Table 1
(`table1:row1`) calls itself SA-GAN, but differs in initialisation, BatchNorm's epsilon, learning
rates and discriminator steps. Averaged weights are not in the paper.

Hardware: four GPUs. It has not been measured here. `digits` takes minutes on two CPU cores:
docs/papers.md has what it reaches.
"""

import ml_collections

PAPER = 'sagan'  # that docs/papers.md names its row after


def get_config() -> ml_collections.ConfigDict:
  """The paper's ImageNet."""
  return ml_collections.ConfigDict(
    {
      'algorithm': 'biggan',
      'run': {'steps': 1_000_000},
      'data': {'source': 'tfds:imagenet2012', 'resolution': 128, 'num_classes': 1000},
      'model': {
        'network': 'sagan',
        'ch': 64,
        'z_dim': 128,
        'gen_attention': (64,),
        'disc_attention': (64,),
        'bn_eps': 1e-5,
      },
      'optim': {
        'batch_size': 256,
        'd_steps': 1,
        'gen_lr': 1e-4,
        'disc_lr': 4e-4,
        'b2': 0.9,
        'ortho_beta': 0.0,
        'spectral_eps': 1e-12,
        'ema_decay': 0.0,
        'ema_start': 0,
      },
    }
  )


VARIANTS = {
  'imagenet128': {},
  'imagenet128_f32': {'model.gen_attention': (32,), 'model.disc_attention': (32,)},
  'digits': (
    'digits',
    {
      'model.network': 'sagan',
      'model.gen_attention': (8,),
      'model.disc_attention': (8,),
      'optim.d_steps': 1,
      'optim.ortho_beta': 0.0,
      'optim.gen_lr': 7e-4,
      'optim.disc_lr': 2e-3,
    },
  ),
  'tiny': (
    'tiny',
    {'data.resolution': 16, 'model.gen_attention': (8,), 'model.disc_attention': (8,)},
  ),
}
