"""BigGAN at 32 px on CIFAR-100: the recipes of `cifar10` with 100 classes.

  bigjax train --config cifar100 --config.data.data_dir=/data/tfds
  bigjax train --config cifar100:laptop --config.data.data_dir=/data/tfds

The set must have been prepared with TFDS (bigjax says how). Hardware: as `cifar10`. StudioGAN and
BigGAN-PyTorch train on it with the values that they have for CIFAR-10; the paper does not. No
published result is compared with, and nothing has been measured here.
"""

import ml_collections

from bigjax.configs import cifar10


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Variants: those of `cifar10`; 'tiny' has synthetic images of 20 classes."""
  config = cifar10.get_config(variant)
  config.data.update({'source': 'tfds:cifar100', 'num_classes': 100})
  config.eval.published = ''
  if variant == 'tiny':
    config.data.update({'source': 'synthetic:80', 'num_classes': 20})
  return config
