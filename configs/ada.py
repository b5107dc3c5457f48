"""Adaptive discriminator augmentation (Karras et al. 2020) with BigGAN.

  bigjax train --config ada --config.data.data_dir=/data/tfds
  bigjax train --config ada:cifar10_500 --config.data.data_dir=/data/tfds
  bigjax train --config ada:digits

The paper has ADA with StyleGAN2 alone: nothing is published of these. `cifar10` is the recipe of
`diffaug` with ADA's set `bgc`, which the paper took for CIFAR-10 too, its target 0.6 and its speed
of 500 thousand images; BigGAN has 14.73 in the paper's table, from the literature. `cifar10_500` is
trained on fifty images of each class, at 20 thousand images, so that the probability can be seen to
move within minutes.

Hardware: one GPU. Nothing of these has been measured here; what `digits` reaches in minutes on two
CPU cores is in docs/papers.md.
"""

import ml_collections

from bigjax.configs import diffaug

PAPER = 'ada'  # that docs/papers.md names its row after
ADA = {'name': 'ada_bgc', 'target': 0.6}


def get_config() -> ml_collections.ConfigDict:
  """CIFAR-10 with ADA."""
  config = diffaug.get_config()
  config.augment = ADA
  return config


VARIANTS = {
  'cifar10': {},
  'cifar10_500': {'data.per_class': 50, 'augment.kimg': 20.0},
  'digits': (
    'digits',
    {'augment.name': 'ada_bgc', 'augment.target': 0.6, 'augment.kimg': 20.0},
  ),
}
