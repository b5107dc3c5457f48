"""STransGAN (Xu et al. 2023), Transformers in both players; what the paper leaves open is ours.

  bigjax train --config stransgan --config.data.data_dir=/data/tfds
  bigjax train --config stransgan:celeba64 --config.data.data_dir=/data/tfds
  bigjax train --config stransgan:ffhq256 --config.data.source=folder:/data/ffhq/images1024x1024
  bigjax train --config stransgan:imagenet128 --config.data.data_dir=/data/tfds
  bigjax train --config stransgan:digits

The bare name is `cifar10`, with its classes. Published on the authors' project page: `cifar10` FID
2.77 and Inception Score 11.62, `celeba64` FID 2.03, `ffhq256` 4.84, `imagenet128` 16.05 and 47.17
(BigGAN there: 8.70 and 98.80); how many samples, and against which images, is not said there, nor
whether CIFAR-10 was with its classes.

No code and no table of settings was at hand, so that these figures are not to be expected of what
follows, which is ours: widths (512 channels up to 16 px, then halved), two blocks at a resolution,
windows of 8 px, 16 from 64 px on, heads of 32 channels, global attention up to 16 px, where the
critic's convolutions end (32 px), the place of AdaNorm-T (`model.adanorm_t`), batches, steps,
learning rates, R1 (every 16 steps) and its weight, averages; and DiffAugment on `cifar10`, balanced
consistency (bCR) on the others. All but ImageNet are flipped; of FFHQ's images one in a hundred is
held out, for scores.

Hardware: `digits` takes 19 minutes of CPU time, compilation included. Expected (one seed):
agreement 0.99, std_ratio 0.83, precision 0.81, coverage 0.74, nearest_ratio 1.09; agreement is 0.56
at step 900. It has WGAN-GP's penalty (why: `bigjax/algorithms/stransgan.py`). Nothing of the others
has been measured here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """CIFAR-10 with its classes."""
  return ml_collections.ConfigDict(
    {
      'algorithm': 'stransgan',
      'run': {'steps': 400_000},
      'data': {'source': 'tfds:cifar10', 'resolution': 32, 'num_classes': 10, 'flip': True},
      'optim': {'r1_gamma': 0.1, 'r1_every': 16, 'ema_half_life': 10.0},
      'augment': {'name': 'color,translation,cutout'},
    }
  )


# Balanced consistency, of images changed as DiffAugment does, in its place.
BCR = {
  'augment.name': 'none',
  'optim.cr_weight': 10.0,
  'optim.cr_fake_weight': 10.0,
  'optim.cr_augment': 'color,translation,cutout',
}
VARIANTS = {
  'cifar10': {},
  'celeba64': {
    **BCR,
    'data.source': 'tfds:celeb_a',
    'data.resolution': 64,
    'data.num_classes': 1,
    'optim.r1_gamma': 1.0,
  },
  'ffhq256': {
    **BCR,
    'run.steps': 780_000,
    'run.remat': True,
    'data.source': 'folder:',
    'data.resolution': 256,
    'data.num_classes': 1,
    'data.held_out': 0.01,
    'optim.batch_size': 32,
    'optim.r1_gamma': 10.0,
  },
  'imagenet128': {
    **BCR,
    'run.remat': True,
    'data.source': 'tfds:imagenet2012',
    'data.resolution': 128,
    'data.num_classes': 1000,
    'data.flip': False,
    'optim.batch_size': 256,
    'optim.r1_gamma': 1.0,
  },
}
