"""Fashion-MNIST at 16 px, grey, with the networks of `digits`: small enough for a laptop.

  bigjax train --config fashion_mnist --config.data.data_dir=/data/tfds
  bigjax train --config fashion_mnist --config.init_from=runs/digits

The set must have been prepared with TFDS (bigjax says how). Hardware: 2 CPU cores, some minutes.
The second line begins from the weights of a digits run, with new tables for the new classes.
Nothing is published to compare with at this size: summary.json has what real images score.
"""

import ml_collections

from bigjax.configs import digits


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Variants: those of `digits`; 'tiny' uses synthetic images."""
  config = digits.get_config(variant)
  config.data.update({'source': 'tfds:fashion_mnist', 'held_out': 0.1})
  config.run.update({'steps': 1500, 'eval_every': 100, 'checkpoint_every': 500})
  if variant == 'tiny':
    config.data.source = 'synthetic:80'
    config.run.update({'steps': 4, 'eval_every': 2, 'checkpoint_every': 2})
  return config
