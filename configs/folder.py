"""Photos of your own at 64 px: a folder with a folder of images for each class.

  bigjax train --config folder --config.data.source=folder:/my/photos

Class names are those of the folders; photos that lie all in one folder are one class. Where there
are `train` and `test` (or `val`) folders above them, the latter is held out, else a share of each
class. Hardware: one GPU; two CPU cores need two to three seconds a step. For some hundreds or
thousands of photos: images are flipped and shifted, and the learning rates lie between those of the
paper and those of `digits`. To begin from a trained generator: --config.init_from=WORKDIR. No
result has been measured.
"""

import ml_collections
from ml_collections import config_dict

from bigjax.configs import digits


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Variants: '', 'tiny' (32 px, synthetic images: seconds, learns nothing)."""
  if variant not in ('', 'tiny'):
    raise ValueError(f'unknown variant {variant!r}; known: tiny')
  config = digits.get_config(variant)
  config.data.update(
    {'source': 'folder:', 'resolution': 64, 'channels': 3, 'held_out': 0.05, 'flip': True}
  )
  del config.data.num_classes
  config.data.num_classes = config_dict.placeholder(int)  # None: as many as there are folders
  config.augment.name = 'translation'
  if variant == 'tiny':
    config.run.best = ''
    config.data.update({'source': 'synthetic:40', 'resolution': 32, 'num_classes': 5})
    config.model.z_dim = 16
    config.eval.name = 'none'
    return config
  config.run.update(
    {
      'steps': 10_000,
      'log_every': 50,
      'eval_every': 500,
      'checkpoint_every': 500,
      'best': '',
    }
  )
  config.model.update({'ch': 16, 'z_dim': 100, 'shared_dim': 64})
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
  config.eval.update({'name': 'none', 'num_samples': 500})
  return config
