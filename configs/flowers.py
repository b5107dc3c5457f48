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


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Variants: '' (64 px), '128', '256', 'tiny' (32 px, synthetic images: learns nothing)."""
  if variant not in ('', '128', '256', 'tiny'):
    raise ValueError(f'unknown variant {variant!r}; known: 128, 256, tiny')
  config = folder.get_config('tiny' if variant == 'tiny' else '')
  config.data.num_classes = 5
  if variant != 'tiny':
    config.data.source = 'folder:flowers'
  if variant == '':
    config.run.update({'steps': 2000, 'eval_every': 250, 'checkpoint_every': 250})
    config.optim.update({'gen_lr': 4e-4, 'disc_lr': 1e-3, 'ema_decay': 0.99, 'ema_start': 500})
  elif variant == '128':
    config.run.steps = 20_000
    config.data.resolution = 128
    config.model.update({'ch': 32, 'z_dim': 120, 'gen_attention': (64,), 'disc_attention': (64,)})
  elif variant == '256':
    config.run.update({'steps': 20_000, 'remat': True})
    config.data.resolution = 256
    config.model.update({'ch': 32, 'z_dim': 140, 'gen_attention': (64,), 'disc_attention': (64,)})
    config.model.dtype = 'bfloat16'
  return config
