"""TensorFlow's flower_photos: daisies, dandelions, roses, sunflowers and tulips, CC BY 2.0.

  bigjax train --config flowers
  bigjax train --config flowers:256 --config.data.source=folder:/data/flowers

Expects a folder `flowers` in the working directory, with `train` and `test` folders of one folder
of photos for each class. Hardware: for 64 px a laptop (two CPU cores: two to three seconds a step),
for `128` and `256` one GPU. The recipe is that of `folder`, at 64 px with fewer steps and higher
learning rates. Nothing is published to compare with, and no result has been measured.
"""

import ml_collections

from bigjax.configs import folder


def get_config() -> ml_collections.ConfigDict:
  config = folder.get_config()
  config.run.update({'steps': 2000, 'eval_every': 250, 'checkpoint_every': 250})
  config.data.update({'source': 'folder:flowers', 'num_classes': 5})
  config.optim.update({'gen_lr': 4e-4, 'disc_lr': 1e-3, 'ema_decay': 0.99, 'ema_start': 500})
  return config


ON_A_GPU = {  # as `folder`, but for
  'run.steps': 20_000,
  'run.eval_every': 500,
  'run.checkpoint_every': 500,
  'model.ch': 32,
  'model.gen_attention': (64,),
  'model.disc_attention': (64,),
  'optim.gen_lr': 2e-4,
  'optim.disc_lr': 5e-4,
  'optim.ema_decay': 0.999,
  'optim.ema_start': 1000,
}
VARIANTS = {
  '128': {**ON_A_GPU, 'data.resolution': 128, 'model.z_dim': 120},
  '256': {
    **ON_A_GPU,
    'run.remat': True,
    'data.resolution': 256,
    'model.z_dim': 140,
    'model.dtype': 'bfloat16',
  },
  'tiny': folder.VARIANTS['tiny'],
}
