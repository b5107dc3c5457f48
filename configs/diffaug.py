"""DiffAugment (Zhao et al. 2020), with BigGAN and StyleGAN2: the generator sees through it.

  bigjax train --config diffaug --config.data.data_dir=/data/tfds
  bigjax train --config diffaug:cifar100_10 --config.data.data_dir=/data/tfds
  bigjax train --config diffaug:imagenet128_25 --config.data.data_dir=/data/tfds
  bigjax train --config diffaug:lowshot --config.data.source=folder:/data/100-shot-panda
  bigjax train --config diffaug:stylegan2_cifar10 --config.data.data_dir=/data/tfds
  bigjax train --config diffaug:stylegan2_lowshot100 --config.data.source=folder:/data/obama
  bigjax train --config diffaug:digits

The bare name is `cifar10`; `_20` and `_10` are trained on that many per cent of each class (of the
first of a fixed shuffle), `_baseline` without augmentation, `_cr` with consistency regularisation
on top (CR; Zhang et al. 2020), `_cr_baseline` with CR alone. Published, of one run each, Inception
Score and FID of 10,000 samples against CIFAR's 10,000 test images:

                    100 %        20 %         10 %
  cifar10 baseline  9.06 9.59    8.41 21.58   7.62 39.78
  cifar10           9.16 8.70    8.65 14.04   8.09 22.40
  cifar10 CR alone  9.20 9.06    8.43 20.62   7.66 37.45
  cifar10 CR        9.17 8.49    8.61 12.84   8.49 18.70
  cifar100 baseline 10.92 12.87  9.11 33.11   5.94 66.71
  cifar100          10.66 12.00  9.47 22.14   8.38 33.70
  cifar100 CR alone 10.95 11.26  8.44 36.91   7.91 47.16
  cifar100 CR       10.81 11.25  9.12 20.28   8.70 26.90

`imagenet128`, translation alone, against 50,000 validation images: 100.8 and 6.80 (baseline 94.5
and 7.62); half of the images, `_50`: 91.9 and 8.88 (89.9 and 9.64); a quarter, `_25`: 74.2 and
13.28 (46.5 and 25.37). The authors' code crops at random where ours crops at the centre, and its
images are in [0, 1], so that what leaves the frame is black and not grey. CIFAR's networks begin
from N(0, 0.02) there, and from orthogonal weights here.

`lowshot` is BigGAN at 256 px on a hundred images, of which one in twenty is held out; the paper's
sets by the names of their folders are `lowshot_obama`, `lowshot_grumpy_cat` and `lowshot_panda`,
and AnimalFace's `lowshot_cat` (160 images) and `lowshot_dog` (389). The paper has StyleGAN2 for
them: no result of BigGAN is published. `baseline` after any name is without augmentation.

StyleGAN2: `stylegan2_cifar10` without classes, R1 in every step by the augmented images and no path
length; `stylegan2_ffhq` at 256 px, one image in a hundred held out; `stylegan2_lowshot100`, on a
hundred images of which one in twenty is held out, R1 by the images themselves. FIDs as published
(baseline first), the low-shot ones of 5,000 samples against the images trained on: CIFAR-10 11.07,
9.89 (on 20 % 23.08, 12.15; on 10 % 36.02, 14.50: these have `color,translation,cutout`); FFHQ 3.81,
4.24 of 70,000 images, 14.75, 7.86 of 10,000, 62.16, 25.66 of 1,000; Obama 80.20, 46.87, grumpy cat
48.90, 27.08, panda 34.27, 12.06, AnimalFace's cat 71.71, 42.44 and dog 130.19, 58.85. Their first
million images have no average of weights on CIFAR.

Hardware: one GPU for CIFAR, a v3-128 for ImageNet. Nothing of these has been measured here; what
`digits` reaches in minutes on two CPU cores is in docs/papers.md.
"""

import ml_collections

PAPER = 'diffaug'  # that docs/papers.md names its row after


def get_config() -> ml_collections.ConfigDict:
  """CIFAR-10, all of it."""
  return ml_collections.ConfigDict(
    {
      'algorithm': 'biggan',
      'run': {'steps': 250_000},
      'data': {'source': 'tfds:cifar10', 'resolution': 32, 'num_classes': 10, 'flip': True},
      'model': {
        'ch': 64,
        'z_dim': 128,
        'shared_dim': 0,
        'skip_z': False,
        'gen_attention': (),
        'disc_attention': (),
        'bn_eps': 1e-5,
        'dtype': 'float32',
      },
      'optim': {
        'batch_size': 50,
        'd_steps': 4,
        'gen_lr': 2e-4,
        'ortho_beta': 0.0,
        'spectral_eps': 1e-8,
        'ema_start': 1000,
      },
      'augment': {'name': 'translation,cutout'},
      'scores': {'num': 10_000, 'reference': 'test'},
    }
  )


# Share of the images, and steps: the epochs of the authors' script, in batches of 4 x 50.
AMOUNTS = {'': (1.0, 250_000), '_20': (0.2, 250_000), '_10': (0.1, 125_000)}
AMOUNTS_100 = {**AMOUNTS, '': (1.0, 500_000)}
BASELINE = {'augment.name': 'none'}
# On all images, CR has a policy of its own on top of cutout; on fewer, images are compared with
# those that have not been augmented.
CR = {
  '': {'augment.name': 'cutout', 'optim.cr_augment': 'flip,translation'},
  '_20': {'optim.cr_augment': 'none'},
  '_10': {'optim.cr_augment': 'none'},
}
CR_ALONE = {**BASELINE, 'optim.cr_weight': 10.0, 'optim.cr_augment': 'flip,translation'}
VARIANTS = {}
for name, amounts in (('cifar10', AMOUNTS), ('cifar100', AMOUNTS_100)):
  classes = int(name.removeprefix('cifar'))
  for part, (share, steps) in amounts.items():
    of = {'data.source': f'tfds:{name}', 'data.num_classes': classes}
    of |= {'data.fraction': share, 'run.steps': steps}
    VARIANTS |= {
      f'{name}{part}': of,
      f'{name}{part}_baseline': {**of, **BASELINE},
      f'{name}{part}_cr': {**of, 'optim.cr_weight': 10.0, **CR[part]},
      f'{name}{part}_cr_baseline': {**of, **CR_ALONE},
    }

IMAGENET = {
  'data.source': 'tfds:imagenet2012',
  'data.num_classes': 1000,
  'data.resolution': 128,
  'data.flip': False,
  'model.ch': 96,
  'model.z_dim': 120,
  'model.shared_dim': 128,
  'model.skip_z': True,
  'model.gen_attention': (64,),
  'model.disc_attention': (64,),
  'model.dtype': 'bfloat16',
  'optim.batch_size': 2048,
  'optim.d_steps': 2,
  'optim.gen_lr': 1e-4,
  'optim.spectral_eps': 1e-4,
  'optim.ema_start': 40_000,
  'augment.name': 'translation',
  'scores.num': 50_000,
  'scores.reference': 'test',
}
for part, (share, steps, rate) in {
  '': (1.0, 250_000, 4e-4),
  '_50': (0.5, 150_000, 2e-4),
  '_25': (0.25, 60_000, 2e-4),
}.items():
  of = {**IMAGENET, 'data.fraction': share, 'run.steps': steps}
  VARIANTS |= {
    f'imagenet128{part}': {**of, 'optim.disc_lr': rate},
    f'imagenet128{part}_baseline': {**of, **BASELINE, 'optim.disc_lr': 5e-4},
  }

LOWSHOT = {
  'run.steps': 20_000,
  'data.source': 'folder:100-shot',
  'data.resolution': 256,
  'data.num_classes': 1,
  'model.gen_attention': (64,),
  'model.disc_attention': (64,),
  'optim.batch_size': 16,
  'augment.name': 'color,translation,cutout',
  'scores.num': 5000,
  'scores.reference': 'train',
}
FOLDERS = ('100-shot-obama', '100-shot-grumpy_cat', '100-shot-panda')
for folder in (*FOLDERS, 'AnimalFace-cat', 'AnimalFace-dog'):
  name = folder.rpartition('-')[2]
  VARIANTS[f'lowshot_{name}'] = {**LOWSHOT, 'data.source': f'folder:{folder}'}

# StyleGAN2. Of the values above, those that all games share stay where these say nothing.
STYLEGAN2 = {
  'algorithm': 'stylegan2',
  'data.num_classes': 1,
  'augment.name': 'color,translation,cutout',
  'optim.lazy': False,
  'optim.pl_weight': 0.0,
  'optim.r1_plain': False,
}
FFHQ = {
  **STYLEGAN2,
  'run.steps': 781_250,  # 25 million images
  'data.source': 'folder:',
  'data.resolution': 256,
  'data.held_out': 0.01,
  'model.fmap_base': 8192,
  'optim.r1_gamma': 1.0,
  'scores.num': 50_000,
  'scores.reference': 'train',
}
VARIANTS |= {
  'stylegan2_cifar10': {
    **STYLEGAN2,
    'run.steps': 781_250,
    'model.fmap_base': 2048,
    'optim.r1_gamma': 0.1,
    'optim.ema_half_life': 1000.0,
    'optim.ema_start': 31_250,
    'augment.name': 'color,cutout',
  },
  'stylegan2_ffhq': FFHQ,
  'stylegan2_lowshot100': {
    **FFHQ,
    'run.steps': 18_750,  # 300,000 images
    'data.source': 'folder:100-shot',
    'data.held_out': 0.05,
    'model.fmap_base': 16_384,
    'optim.batch_size': 16,
    'optim.r1_gamma': 10.0,
    'optim.r1_plain': True,
    'scores.num': 5000,
  },
}

VARIANTS |= {
  'lowshot': LOWSHOT,
  'baseline': BASELINE,
  'digits': ('digits', {'augment.name': 'translation,cutout'}),
}
