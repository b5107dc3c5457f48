"""PConv (Park et al. 2022): a discriminator whose convolutions see perturbed features.

  bigjax train --config pconv --config.data.data_dir=/data/tfds
  bigjax train --config pconv:tiny_imagenet --config.data.source=folder:tiny-imagenet-200/train
  bigjax train --config pconv:digits

The paper's formula, amounts and code are not public: this is our reading of its abstract (see
bigjax/nn/objectives/perturbations.py), with SN-GAN's networks and game. Published: Tiny ImageNet's
FID from 58.59 to 50.42; of its folders, as they are distributed, only `train` has classes.
`cifar10`, the bare name, and `celeba` have no published number that we know of. `baseline` after
any of them leaves the perturbation out.

Hardware: one GPU. Nothing of these has been measured here; what `digits` reaches in minutes on two
CPU cores is in docs/papers.md.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """CIFAR-10 with its classes."""
  return ml_collections.ConfigDict(
    {
      'algorithm': 'sngan',
      'run': {'steps': 50_000},
      'data': {'source': 'tfds:cifar10', 'resolution': 32, 'num_classes': 10},
      'model': {'ch': 128, 'disc_perturb': 'gauss_mult', 'dtype': 'float32'},
    }
  )


VARIANTS = {
  'cifar10': {},
  'celeba': {
    'run.steps': 100_000,
    'data.source': 'tfds:celeb_a',
    'data.resolution': 128,
    'data.num_classes': 1,
    'model.ch': 64,
  },
  'tiny_imagenet': {
    'run.steps': 100_000,
    'data.source': 'folder:tiny-imagenet-200/train',
    'data.resolution': 64,
    'data.num_classes': 200,
    'model.ch': 64,
  },
  'baseline': {'model.disc_perturb': 'none'},
}
