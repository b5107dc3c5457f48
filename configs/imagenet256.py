"""BigGAN at 256 px on ImageNet, with the values of the paper (Brock et al. 2019, Table 2).

  bigjax train --config imagenet256 --config.data.data_dir=/data/tfds

Hardware: 256 TPU v3 cores, 8 examples on each, in the paper. Published, untruncated: FID 8.7
(+-0.1), IS 142.3 (+-2), of at least three seeds; the number of samples, the reference set and the
step are not stated. As `imagenet128` but for z, with 20 dimensions for each of seven parts, and the
generator's attention, which is at 128 px. Nothing has been measured here.
"""

import ml_collections

from bigjax.configs import imagenet128


def get_config() -> ml_collections.ConfigDict:
  config = imagenet128.get_config()
  config.data.resolution = 256
  config.model = {'z_dim': 140, 'gen_attention': (128,)}
  config.eval.published = ''
  return config


VARIANTS = {
  'tiny': {  # at 32 px: larger ones take long to compile on a laptop
    **imagenet128.VARIANTS['tiny'],
    'data.resolution': 32,
    'model.z_dim': 16,
    'model.gen_attention': (16,),
    'model.disc_attention': (16,),
  },
}
