"""BigGAN-deep at 128 px on ImageNet, with the values of the paper (Brock et al. 2019, Table 2).

  bigjax train --config imagenet128_deep --config.data.data_dir=/data/tfds

Hardware: 128 TPU v3 cores. Published, untruncated: FID 5.7 (+-0.3), IS 124.5 (+-2), of at least
three seeds; the number of samples and the reference set are not stated. As `imagenet128` but for
the networks: 128 channels, z of 128 joined to the class embedding everywhere. BigGAN-PyTorch's
script for these networks, never run to the end by its author, has twice the learning rates and one
discriminator step. TF-Hub's generator computes 128 channels where the image has 3:
model.rgb_filters=128.
"""

import ml_collections

from bigjax.configs import imagenet128


def get_config() -> ml_collections.ConfigDict:
  config = imagenet128.get_config()
  config.model = {'network': 'biggan_deep', 'ch': 128, 'z_dim': 128}
  config.eval.published = ''
  return config


VARIANTS = {
  'tiny': {  # at 64 px, the smallest of this family
    **imagenet128.VARIANTS['tiny'],
    'data.resolution': 64,
    'model.z_dim': 16,
    'model.disc_attention': (32,),
  },
}
