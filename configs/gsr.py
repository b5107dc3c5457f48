"""gSR (Rangwani et al. 2022): class-conditional GANs on long tails.

  bigjax train --config gsr --config.data.data_dir=/data/tfds
  bigjax train --config gsr:cifar100_lt100 --config.data.data_dir=/data/tfds
  bigjax train --config gsr:inaturalist2019 --config.data.source=folder:/data/inaturalist2019

The bare name is `cifar10_lt100`: BigGAN with LeCam and DiffAugment, as in the authors' code, on
CIFAR-10 whose rarest class has a hundredth of the images of its most frequent one; `cifar10_lt50`,
`cifar10_lt10` and `cifar100_lt100` likewise, and `sngan:cifar10_lt100` is the authors' SN-GAN.
`baseline` after any of them is without gSR. The paper's tables could not be had; it claims the
state of the art on these sets. `lsun_lt` are five of LSUN's categories (bedroom, conference room,
dining room, kitchen, living room) as class folders, of which it takes 50,000 images to 500;
`inaturalist2019` has a tail of its own.

Hardware: one GPU. Nothing of these has been measured here; what `digits` reaches in minutes on two
CPU cores is in docs/papers.md; `digits_lt10` has a long tail of them.
"""

import ml_collections

PAPER = 'gsr'  # that docs/papers.md names its row after


def get_config() -> ml_collections.ConfigDict:
  """CIFAR-10-LT, imbalance 100."""
  return ml_collections.ConfigDict(
    {
      'algorithm': 'biggan',
      'run': {'steps': 120_000},
      'data': {
        'source': 'tfds:cifar10',
        'resolution': 32,
        'num_classes': 10,
        'flip': True,
        'imbalance': 100.0,
      },
      'model': {
        'z_dim': 80,
        'gen_attention': (16,),
        'disc_attention': (16,),
        'disc_widths': (2, 2, 2, 2),
        'dtype': 'float32',
      },
      'optim': {
        'batch_size': 64,
        'd_steps': 5,
        'name': 'adam',
        'gen_lr': 2e-4,
        'b1': 0.5,
        'eps': 1e-6,
        'ortho_beta': 0.0,
        'spectral_eps': 1e-6,
        'ema_start': 1000,
        'lecam_weight': 0.1,
        'gsr_weight': 0.5,
      },
      'augment': {'name': 'color,translation,cutout'},
      'scores': {'num': 10_000},
    }
  )


CIFAR100 = {'data.source': 'tfds:cifar100', 'data.num_classes': 100}
VARIANTS = {
  'cifar10_lt100': {},
  'cifar10_lt50': {'data.imbalance': 50.0},
  'cifar10_lt10': {'data.imbalance': 10.0},
  'cifar100_lt100': CIFAR100,
  'lsun_lt': {
    'run.steps': 200_000,
    'data.source': 'folder:lsun_lt',
    'data.resolution': 64,
    'data.num_classes': 5,
    'data.per_class': 50_000,
    'model.ch': 80,
    'model.z_dim': 120,
    'model.gen_attention': (32,),
    'model.disc_attention': (32,),
    'model.disc_widths': (),
    'optim.b2': 0.9,
    'optim.lecam_weight': 0.3,
  },
  'inaturalist2019': {
    'run.steps': 200_000,
    'data.source': 'folder:inaturalist2019',
    'data.resolution': 64,
    'data.num_classes': 1010,
    'data.imbalance': 0.0,
    'model.ch': 80,
    'model.z_dim': 100,
    'model.gen_attention': (32,),
    'model.disc_attention': (32,),
    'model.disc_widths': (),
    'optim.batch_size': 256,
    'optim.d_steps': 2,
    'optim.b1': 0.0,
    'optim.name': 'adam_b1_0',
    'optim.lecam_weight': 0.01,
    'optim.gsr_weight': 0.01,
    'optim.gsr_beta': 0.999,
    'optim.ema_start': 20_000,
  },
  'baseline': {'optim.gsr_weight': 0.0, 'optim.gsr_beta': 0.99},
  # As every paper's, on all digits, and on a tail of them.
  'digits': ('digits', {'data.imbalance': 0.0, 'augment.name': 'translation'}),
  'digits_lt10': ('digits', {'data.imbalance': 10.0, 'augment.name': 'translation'}),
}
