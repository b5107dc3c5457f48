"""CDM (Ho et al. 2022), "Cascaded Diffusion Models for High Fidelity Image Generation".

  bigjax train --config cdm:base32 --config.data.data_dir=/data/tfds
  bigjax train --config cdm:sr32_64 --config.data.data_dir=/data/tfds
  bigjax train --config cdm:sr64_256 --config.data.data_dir=/data/tfds
  bigjax export --cascade BASE32 SR32_64 SR64_256 --out cascade.safetensors

  bigjax train --config cdm:digits --config.data.resolution=8 --workdir runs/small
  bigjax train --config cdm:sr32_64,digits --workdir runs/larger
  bigjax export --cascade runs/small runs/larger --out digits.safetensors

Stages are trained apart, each by a command, and made one generator afterwards. ImageNet, with
labels in all stages: `base32` or `base64`, then `sr32_64` (noised images, as below 128 px in the
paper), then `sr64_128` or `sr64_256` (blurred ones). The bare name is `base32`. `digits` makes 16
px, or 8 as above, and of a stage one that enlarges 8 to 16 px (by 2) or 4 to 16 px (by 4).

The authors published no code. From the paper's text: that all stages have labels, Gaussian noise of
all levels s for 64 px, blur of half of the images for 128 and 256 px. From memory of its appendix,
which could not be looked up: widths, blocks, attention, batches, rates, numbers of steps, dropout,
4,000 steps of a cosine for up to 64 px and 2,000 linear ones for more, the blur's 3x3 pixels of
deviation 0.4 to 0.6. Not known, and ADM's here: how maps are halved and doubled, which loss weighs
the learned variance (L_hybrid here), and how many levels s may have (all steps here).

Published: FID 1.48 at 64 px, 3.52 at 128, 4.88 at 256; the classification accuracy score at 256 px
is 63.02 %. Hardware: TPUs in the paper. Run here so far: `tiny`, and `digits`
as above, at 8 px for 2,000 steps and the larger one for 1,200: half an hour of one CPU core, for a
Frechet distance of 12 in place of the 57 of the small ones enlarged (benchmarks/README.md).
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """ImageNet at 32 px, the first stage."""
  return ml_collections.ConfigDict(
    {
      'algorithm': 'diffusion',
      'run': {'steps': 700_000},
      'data': {
        'source': 'tfds:imagenet2012',
        'resolution': 32,
        'num_classes': 1000,
        'flip': True,
      },
      'model': {
        'ch': 256,
        'widths': (1, 2, 3, 4),
        'blocks': 6,
        'updown': True,
        'dropout': 0.1,
        'schedule': 'cosine',
        'num_steps': 4000,
        'dtype': 'bfloat16',
      },
      'optim': {'batch_size': 2048},
      'export': {'steps': '256'},
    }
  )


LARGE = {
  'run.steps': 500_000,
  'model.ch': 128,
  'model.blocks': 3,
  'model.attention': (16,),
  'model.heads': 1,
  'model.dropout': 0.0,
  'model.schedule': 'linear',
  'model.num_steps': 2000,
  'model.augmentation': 'blur',
  'optim.batch_size': 1024,
}
VARIANTS = {
  'base32': {},
  'base64': {'data.resolution': 64, 'model.blocks': 3, 'model.attention': (32, 16, 8)},
  'sr32_64': {
    'run.steps': 400_000,
    'data.resolution': 64,
    'model.blocks': 5,
    'model.upsampling': 2,
    'model.augmentation': 'gaussian',
  },
  'sr64_128': {
    **LARGE,
    'data.resolution': 128,
    'model.widths': (1, 2, 4, 8, 8),
    'model.upsampling': 2,
  },
  'sr64_256': {
    **LARGE,
    'data.resolution': 256,
    'model.widths': (1, 2, 4, 4, 8, 8),
    'model.upsampling': 4,
  },
}
