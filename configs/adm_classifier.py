"""ADM's classifiers of noisy images (Dhariwal & Nichol 2021), which guide its diffusions.

  bigjax train --config adm_classifier --config.data.data_dir=/data/tfds
  bigjax train --config adm_classifier:imagenet256 --config.data.data_dir=/data/tfds
  bigjax train --config adm_classifier:digits
  bigjax sample --workdir DIFFUSION --classifier WORKDIR --guidance 1 --steps 25

The bare name is `imagenet128`, of 42,568,040 parameters. `imagenet64` has 65,438,568, `imagenet256`
54,096,360, `imagenet512` 54,448,360. Each is trained along the process of the diffusion of the same
name in `adm`; `digits` is of `adm:digits`, `imagenet64,digits` of `iddpm:digits`, whose noise is
`cosine`, too. Networks, optimizer, batch and steps are those that the
authors' code states, which it trains in float32; their crops are random ones of 80 % of an image at
least, ours of the longer side. `export.guidance` is the scale that they sample with: of
`imagenet128` with 250 steps (with 25 of DDIM, 1), of `imagenet256` with labels (of
`adm:imagenet256_uncond`, 10).

Published, with guidance: FID 2.07, 2.97, 4.59 and 7.72 at 64, 128, 256 and 512 px.

Hardware: GPUs in the paper. `digits` takes seven minutes of one CPU core; of a cosine, it told 0.72
of held-out digits over all steps of the process, and guided by it `iddpm:digits` has an agreement
of 1.00 in place of 0.97 (benchmarks/README.md). Nothing of the others has been run here but `tiny`.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """ImageNet at 128 px."""
  return ml_collections.ConfigDict(
    {
      'algorithm': 'noised_classifier',
      'run': {'steps': 300_000},
      'data': {
        'source': 'tfds:imagenet2012',
        'resolution': 128,
        'num_classes': 1000,
        'crop': 'random',
        'flip': True,
      },
      'export': {'guidance': 0.5},
    }
  )


VARIANTS = {
  'imagenet64': {
    'data.resolution': 64,
    'model.blocks': 4,
    'model.schedule': 'cosine',
    'export.guidance': 1.0,
  },
  'imagenet128': {},
  'imagenet256': {'data.resolution': 256, 'export.guidance': 1.0},
  'imagenet512': {'data.resolution': 512, 'export.guidance': 4.0},
}
