"""BigGAN at 32 px on CIFAR-100: the recipes of `cifar10` with 100 classes.

  bigjax train --config cifar100 --config.data.data_dir=/data/tfds
  bigjax train --config cifar100:laptop --config.data.data_dir=/data/tfds

The set must have been prepared with TFDS (bigjax says how). Hardware: as `cifar10`. StudioGAN and
BigGAN-PyTorch train on it with the values that they have for CIFAR-10; the paper does not. No
published result is compared with, and nothing has been measured here.
"""

import ml_collections

from bigjax.configs import cifar10


def get_config() -> ml_collections.ConfigDict:
  config = cifar10.get_config()
  config.data.update({'source': 'tfds:cifar100', 'num_classes': 100})
  config.eval.published = ''
  return config


VARIANTS = {
  **cifar10.VARIANTS,
  'tiny': {**cifar10.VARIANTS['tiny'], 'data.num_classes': 20},  # of synthetic images
}
