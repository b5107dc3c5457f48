"""GraN (Bhaskara et al. 2022) and GN (Wu et al. 2021): scores over the norm of their own gradient.

  bigjax train --config gran --config.data.data_dir=/data/tfds
  bigjax train --config gran:cifar10,gn --config.data.data_dir=/data/tfds
  bigjax train --config gran:celeba --config.data.data_dir=/data/tfds
  bigjax train --config gran:digits

The bare name is `cifar10`; `cifar100`, `stl10` (48 px), `lsun_bedroom` and `celeba` (128 px) are
the paper's other sets. Networks are SN-GAN's, unconditional, without spectral norm, with the non-
saturating loss: the paper's GraND; `critic` has the Wasserstein loss of its GraNC. `gn` after any
of them is GN-GAN's recipe: hinge loss, learning rates 2e-4 and 4e-4, 200,000 steps, averaged
weights. Published are FIDs of 10.8 for GraND, 13.2 for SN-GAN and 13.6 for WGAN-GP, we believe on
LSUN bedrooms; other tables and the paper's code could not be had, so that K, epsilon and the
learning rates of each data set are ours. K is to be tuned against Adam's epsilon.

Hardware: one GPU. Nothing of these has been measured here; what `digits` reaches in minutes on two
CPU cores is in docs/papers.md.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """CIFAR-10 without its classes."""
  return ml_collections.ConfigDict(
    {
      'algorithm': 'sngan',
      'run': {'steps': 100_000},
      'data': {'source': 'tfds:cifar10', 'resolution': 32, 'num_classes': 1},
      'model': {'ch': 128, 'dtype': 'float32'},
      'optim': {'loss': 'logistic', 'scores': 'gran', 'spectral_norm': 'none'},
    }
  )


VARIANTS = {
  'cifar10': {},
  'cifar100': {'data.source': 'tfds:cifar100'},
  'stl10': {
    'data.source': 'tfds:stl10',
    'data.split': 'unlabelled',
    'data.resolution': 48,
    'model.ch': 64,
  },
  'lsun_bedroom': {
    'data.source': 'tfds:lsun/bedroom',
    'data.resolution': 128,
    'model.ch': 64,
  },
  'celeba': {'data.source': 'tfds:celeb_a', 'data.resolution': 128, 'model.ch': 64},
  'critic': {'optim.loss': 'wasserstein'},
  'gn': {
    'run.steps': 200_000,
    'optim.loss': 'hinge',
    'optim.scores': 'gn',
    'optim.gen_lr': 2e-4,
    'optim.disc_lr': 4e-4,
    'optim.ema_decay': 0.9999,
  },
  # Faster than SN-GAN's there: at half of these rates 700 steps are too few.
  'digits': ('digits', {'optim.gen_lr': 1e-3, 'optim.disc_lr': 2e-3}),
}
