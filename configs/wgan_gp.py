"""WGAN-GP (Gulrajani et al. 2017).

  bigjax train --config wgan_gp --config.data.data_dir=/data/tfds
  bigjax train --config wgan_gp:cifar10_acgan --config.data.data_dir=/data/tfds
  bigjax train --config wgan_gp:lsun64 --config.data.data_dir=/data/tfds
  bigjax train --config wgan_gp:digits

The bare name is `cifar10`: the unconditional ResNet, Inception Score 7.86 +- .07; `cifar10_acgan`
knows the classes, by BatchNorms of its own and a head of the critic: 8.42 +- .10.
`cifar10_gradinit` begins from scaled weights, see `gradinit`. `lsun64` are the 64 px networks,
whose critic has LayerNorm, on LSUN's bedrooms; `resnet101` the networks of 101 layers there, of
which the paper shows samples. Its character-level language model is out of scope.

Hardware: one GPU. Nothing of these has been measured here. `digits` takes minutes on two CPU cores:
docs/papers.md has what it reaches.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """CIFAR-10 without its classes."""
  return ml_collections.ConfigDict(
    {
      'algorithm': 'wgan_gp',
      'run': {'steps': 100_000},
      'data': {'source': 'tfds:cifar10', 'resolution': 32, 'num_classes': 1},
      'model': {'dtype': 'float32'},
    }
  )


LSUN = {
  'run.steps': 200_000,
  'data.source': 'tfds:lsun/bedroom',
  'data.resolution': 64,
  'data.flip': False,
  'model.ch': 64,
  'optim.gen_lr': 1e-4,
  'optim.disc_lr': 1e-4,
  'optim.gen_batch_times': 1,
  'optim.schedule': 'constant',
}
VARIANTS = {
  'cifar10': {},
  'cifar10_acgan': {'data.num_classes': 10, 'model.class_head': True},
  'cifar10_gradinit': {'gradinit.optimizer': 'sgd'},
  'lsun64': LSUN,
  'resnet101': {**LSUN, 'model.network': 'wgan_gp_resnet101', 'model.ch': 32},
  # Without the head its critic would know no classes; the generator has few steps to hear of them.
  'digits': ('digits', {'model.class_head': True, 'optim.class_gen_weight': 1.0}),
}
