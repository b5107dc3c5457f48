"""BigGAN at 64 px on ImageNet: the values of the paper, which has no model of this size.

  bigjax train --config imagenet64 --config.data.data_dir=/data/tfds

Layers are BigGAN-PyTorch's. Attention is at 32 px, as others have it who train at 64: at
BigGAN-PyTorch's default of 64 its discriminator silently has none. z has 20 dimensions for each of
its five parts. Nothing is published with these values; nothing has been measured here.
"""

import ml_collections

from bigjax.configs import imagenet128


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Variants: '', 'tiny'."""
  if variant not in ('', 'tiny'):
    raise ValueError(f'unknown variant {variant!r}; known: tiny')
  config = imagenet128.get_config(variant)
  config.data.resolution = 64
  config.model.update({'z_dim': 100, 'gen_attention': (32,), 'disc_attention': (32,)})
  config.eval.published = ''
  if variant == 'tiny':
    config.model.z_dim = 20
  return config
