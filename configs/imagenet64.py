"""BigGAN at 64 px on ImageNet: the values of the paper, which has no model of this size.

  bigjax train --config imagenet64 --config.data.data_dir=/data/tfds

Layers are BigGAN-PyTorch's. Attention is at 32 px, as others have it who train at 64: at
BigGAN-PyTorch's default of 64 its discriminator silently has none. z has 20 dimensions for each of
its five parts. Nothing is published with these values; nothing has been measured here.
"""

import ml_collections

from bigjax.configs import imagenet128


def get_config() -> ml_collections.ConfigDict:
  config = imagenet128.get_config()
  config.data.resolution = 64
  config.model = {'z_dim': 100, 'gen_attention': (32,), 'disc_attention': (32,)}
  config.eval.published = ''
  return config


VARIANTS = {'tiny': {**imagenet128.VARIANTS['tiny'], 'model.z_dim': 20}}
