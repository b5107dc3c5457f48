"""TrIVD-GAN (Luc et al. 2020): DVD-GAN's game with units that warp, and critics of fewer pixels.

  bigjax train --config trivdgan --config.data.source=folder:/data/kinetics600
  bigjax train --config trivdgan:bair --config.data.data_dir=/data/tfds
  bigjax train --config trivdgan:moving_digits_fp

The bare name is `kinetics600_fp`, which predicts 11 frames of 64 px from 5; `bair` predicts 15 from
one. `kinetics600` and `ucf101` generate 48 and 16 frames of 128 px by class. The digits are those
of the config `dvdgan`; `moving_digits_fp`, whose frames are seen whole at their 32 px and whose
rates fall to 0, takes three quarters of an hour of a CPU core.

Its critics see frames at half their size, and a crop of all frames at full detail: of 48 frames of
128 px, 229,376 pixels in place of DVD-GAN's 327,680. The unit is TSRU in sequence. What a third
discriminator of the title would see could not be verified; `model.critics` takes as many views as
you give.

Published: predicting Kinetics-600 from 5 frames, FVD 25.7 (0.66); BAIR, 103.3.

Hardware: TPU v3 in the paper. Nothing of these has been run here but the digits;
benchmarks/README.md has their figures, and what the large ones take by plan.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Kinetics-600, 11 frames of 64 px predicted from 5."""
  return ml_collections.ConfigDict(
    {
      'algorithm': 'dvdgan',
      'run': {'steps': 300_000},
      'data': {
        'source': 'folder:',
        'frames': 16,
        'resolution': 64,
        'num_classes': 1,
        'held_out': 0.01,
        'flip': True,
      },
      'model': {
        'ch': 128,
        'unit': 'tsru_s',
        'num_given': 5,
        'critics': ('frames:8/2', 'crop/2'),
      },
      'optim': {'batch_size': 512},
    }
  )


GENERATED = {'data.resolution': 128, 'model.num_given': 0}
OURS = {'model.unit': 'tsru_s', 'model.critics': ('frames:2/2', 'crop/2')}

VARIANTS = {
  'kinetics600_fp': {},
  'kinetics600': {
    **GENERATED, 'run.remat': True, 'data.frames': 48, 'data.num_classes': 600,
  },
  'ucf101': {**GENERATED, 'data.source': 'tfds:ucf101', 'data.num_classes': 101},
  'bair': {
    'data.source': 'tfds:bair_robot_pushing_small', 'data.flip': False, 'model.num_given': 1,
  },
  'moving_digits': ('digits', OURS),
  'moving_digits_fp': (
    'digits',
    {
      **OURS, 'data.source': 'moving_digits:2', 'data.resolution': 32, 'data.num_classes': 1,
      'model.num_given': 4, 'model.critics': ('frames:2', 'clip/2'), 'optim.batch_size': 16,
      'optim.schedule': 'linear', 'optim.schedule_start': 1400,
      'run.steps': 2900, 'run.eval_every': 400, 'run.checkpoint_every': 400,
    },
  ),
}  # fmt: skip
