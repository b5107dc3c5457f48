"""Photos of your own at 64 px: a folder with a folder of images for each class.

  bigjax train --config folder --config.data.source=folder:/my/photos
  bigjax train --config folder:laptop --config.data.source=folder:/my/photos

Class names are those of the folders; photos that lie all in one folder are one class. Where there
are `train` and `test` (or `val`) folders above them, the latter is held out, else a share of each
class. Hardware: one GPU; two CPU cores need two to three seconds a step. For some hundreds or
thousands of photos: images are flipped and shifted, and the learning rates lie between those of the
paper and those of `digits`. To begin from a trained generator: --config.init_from=WORKDIR. No
result at 64 px has been measured.

`laptop` is for two CPU cores: 32 px, 1,400 steps, about half an hour where they have nothing else
to do, for some hundreds of photos; `laptop_few` is for less than two hundred, `laptop_many` for
five thousand or more, which need no shifts: the recipe of `cifar10:laptop`. Expected of 500 photos
of five kinds of flowers: agreement 0.77 (photos never seen: 0.69), coverage 0.88 (0.73); see
docs/data.md. Of `laptop_few` nothing has been measured.
"""

import ml_collections

from bigjax.configs import digits


def get_config() -> ml_collections.ConfigDict:
  config = digits.get_config()
  config.run = {
    'steps': 10_000,
    'log_every': 50,
    'eval_every': 500,
    'checkpoint_every': 500,
    'keep': 2,
    'keep_every': 0,
  }
  config.data = {'source': 'folder:', 'resolution': 64, 'flip': True}  # classes: as many as folders
  config.model.update({'z_dim': 100, 'shared_dim': 64})
  config.optim.update(
    {
      'd_steps': 1,
      'gen_lr': 2e-4,
      'disc_lr': 5e-4,
      'b2': 0.999,
      'ema_decay': 0.999,
      'ema_start': 1000,
    }
  )
  config.augment = {'name': 'translation'}
  config.eval.update({'name': 'none', 'num_samples': 500})
  return config


LAPTOP = {  # at 32 px: what `cifar10:laptop` does, for photos
  'run.steps': 1400,
  'run.log_every': 35,
  'run.eval_every': 70,
  'run.checkpoint_every': 70,
  'run.best': 'coverage',
  'data.resolution': 32,
  'data.held_out': 0.1,
  'model.z_dim': 80,
  'model.shared_dim': 32,
  'optim.batch_size': 32,
  'optim.d_steps': 2,
  'optim.gen_lr': 7e-4,
  'optim.disc_lr': 2e-3,
  'optim.b2': 0.99,
  'optim.ema_decay': 0.995,
  'optim.ema_start': 100,
  'eval.name': 'classifier',
  'eval.num_samples': 1000,
  'eval.standing_passes': 8,
  'eval.standing_batch': 128,
}
VARIANTS = {
  'laptop': LAPTOP,
  'laptop_few': {  # smaller batches, which 32 photos fill; ends before it knows them all
    **LAPTOP,
    'run.steps': 700,
    'optim.batch_size': 16,
    'eval.num_samples': 500,
  },
  'laptop_many': {**LAPTOP, 'augment.name': 'none', 'eval.num_samples': 2000},
  'tiny': {  # at 32 px
    **digits.VARIANTS['tiny'],
    'run.best': '',
    'run.remat': False,
    'data.source': 'synthetic:40',
    'data.resolution': 32,
    'data.num_classes': 5,
    'model.z_dim': 16,
    'model.gen_attention': (),
    'model.disc_attention': (),
    'model.dtype': 'float32',
    'optim.d_steps': 2,
    'optim.gen_lr': 7e-4,
    'optim.disc_lr': 2e-3,
    'optim.b2': 0.99,
    'optim.ema_decay': 0.99,
  },
}
