"""DVD-GAN (Clark et al. 2019): BigGAN on clips, with a critic of frames and one of motion.

  bigjax train --config dvdgan --config.data.source=folder:/data/kinetics600
  bigjax train --config dvdgan:ucf101 --config.data.data_dir=/data/tfds
  bigjax train --config dvdgan:bair --config.data.data_dir=/data/tfds
  bigjax train --config dvdgan:moving_digits
  bigjax train --config dvdgan:moving_digits_fp

The bare name is `kinetics600`: 48 frames of 128 px. `kinetics600_fp` predicts 11 frames of 64 px
from 5, `bair` 15 from one. `moving_digits` are one digit of 16 px in 8 frames, by class, and
`moving_digits_fp` two digits of 32 px, of which 4 frames are given and 4 predicted: minutes of a
laptop, with data that is made on the spot.

Published: Inception scores and FIDs of Kinetics-600 at 12 and 48 frames, UCF-101 27.38 (Inception
score); predicting Kinetics-600 from 5 frames, FVD 69.1 (0.78); BAIR, 109.8.

Hardware: 32 to 512 TPU v3 cores in the paper; batch and rates are as we remember its appendix.
Nothing of these has been run here but the digits; benchmarks/README.md has their figures, and what
`kinetics600` takes by plan.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Kinetics-600, 48 frames of 128 px."""
  return ml_collections.ConfigDict(
    {
      'algorithm': 'dvdgan',
      'run': {'steps': 300_000, 'remat': True},
      'data': {
        'source': 'folder:',
        'frames': 48,
        'resolution': 128,
        'num_classes': 600,
        'held_out': 0.01,
        'flip': True,
      },
      'model': {'ch': 128},
      'optim': {'batch_size': 512},
    }
  )


FEW_FRAMES = {'run.remat': False, 'data.resolution': 64}
# Scores and pictures of what is trained in minutes.
SMALL = {
  'run.steps': 700, 'run.log_every': 20, 'run.eval_every': 100, 'run.checkpoint_every': 100,
  'run.keep': 2, 'run.keep_every': 0, 'run.best': '',
}  # fmt: skip

VARIANTS = {
  'kinetics600': {},
  'kinetics600_fp': {
    **FEW_FRAMES, 'data.frames': 16, 'data.num_classes': 1, 'model.num_given': 5,
  },
  'ucf101': {
    'data.source': 'tfds:ucf101', 'data.frames': 16, 'data.num_classes': 101, 'run.remat': False,
  },
  'bair': {
    **FEW_FRAMES, 'data.source': 'tfds:bair_robot_pushing_small', 'data.frames': 16,
    'data.num_classes': 1, 'data.flip': False, 'model.num_given': 1,
  },
  'moving_digits': ('digits', {}),
  'moving_digits_fp': (
    'digits',
    {
      'data.source': 'moving_digits:2', 'data.resolution': 32, 'data.num_classes': 1,
      'model.num_given': 4, 'optim.batch_size': 16,
    },
  ),
}  # fmt: skip
