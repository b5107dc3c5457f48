"""ADM (Dhariwal & Nichol 2021), "Diffusion Models Beat GANs on Image Synthesis".

  bigjax train --config adm --config.data.data_dir=/data/tfds
  bigjax train --config adm:imagenet256 --config.data.data_dir=/data/tfds
  bigjax train --config adm:lsun_cat --config.data.source=folder:/data/lsun/cat
  bigjax sample --workdir WORKDIR --steps ddim25 --sampler ddim

The bare name is `imagenet128`, of 421,529,606 parameters. `imagenet64` has 295,904,454,
`imagenet256` 553,838,086, `imagenet256_uncond` (without labels) 552,814,086, `imagenet512`
558,997,638; `lsun_bedroom`, `lsun_cat` and `lsun_horse` are as `imagenet256_uncond`.
`upsample64_256`, of 311,795,910, and `upsample128_512`, of 308,835,270, enlarge images fourfold:
`bigjax export --cascade` puts them after `imagenet64` and `imagenet128`. Networks and processes are
those that the authors' code states; batches, steps, rates and dropout as we remember the paper's
table, but for the upsamplers' batch and steps, which are a guess.

Published, with guidance by a classifier (`adm_classifier`): FID 2.07, 2.97, 4.59 and 7.72 at 64,
128, 256 and 512 px; without, LSUN bedroom 1.90, cat 5.57, horse 2.57 (1,000 steps).

Hardware: GPUs in the paper. Nothing of it has been run here but `tiny`.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """ImageNet at 128 px."""
  return ml_collections.ConfigDict(
    {
      'algorithm': 'diffusion',
      'run': {'steps': 4_360_000},
      'data': {
        'source': 'tfds:imagenet2012',
        'resolution': 128,
        'num_classes': 1000,
        'flip': True,
      },
      'model': {
        'ch': 256,
        'attention': (32, 16, 8),
        'updown': True,
        'dtype': 'bfloat16',
      },
      'optim': {'batch_size': 256},
    }
  )


IMAGENET256 = {'run.steps': 1_980_000, 'data.resolution': 256, 'model.head_dim': 64}
LSUN = {
  **IMAGENET256,
  'data.num_classes': 1,
  'data.flip': False,
  'model.dropout': 0.1,
  'export.steps': '1000',
}
UPSAMPLE = {'run.steps': 500_000, 'model.ch': 192, 'model.upsampling': 4}
VARIANTS = {
  'imagenet64': {
    'run.steps': 540_000,
    'data.resolution': 64,
    'model.ch': 192,
    'model.blocks': 3,
    'model.head_dim': 64,
    'model.split_first': True,
    'model.dropout': 0.1,
    'model.schedule': 'cosine',
    'optim.batch_size': 2048,
    'optim.lr': 3e-4,
  },
  'imagenet128': {},
  'imagenet256': IMAGENET256,
  'imagenet256_uncond': {**IMAGENET256, 'data.num_classes': 1},
  'imagenet512': {**IMAGENET256, 'run.steps': 1_940_000, 'data.resolution': 512},
  'upsample64_256': {**UPSAMPLE, 'data.resolution': 256},
  'upsample128_512': {
    **UPSAMPLE,
    'data.resolution': 512,
    'model.widths': (1, 1, 2, 2, 4, 4),
    'model.attention': (32, 16),
    'model.head_dim': 64,
  },
  'lsun_bedroom': {**LSUN, 'run.steps': 750_000, 'data.source': 'tfds:lsun/bedroom'},
  'lsun_cat': {**LSUN, 'run.steps': 200_000, 'data.source': 'tfds:lsun/cat'},
  'lsun_horse': {**LSUN, 'run.steps': 250_000, 'data.source': 'tfds:lsun/horse'},
}
