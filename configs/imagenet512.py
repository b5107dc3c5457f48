"""BigGAN at 512 px on ImageNet, with the values of the paper (Brock et al. 2019, Table 2).

  bigjax train --config imagenet512 --config.data.data_dir=/data/tfds

Hardware: 512 TPU v3 cores, 4 examples on each, in the paper. Published, untruncated: FID 8.1, IS
144.2; neither the number of seeds and samples nor the reference set and the step are stated. As
`imagenet128` but for z, with 20 dimensions for each of eight parts (TF-Hub's module has 16:
model.z_dim=128). Nothing has been measured here.
"""

import ml_collections

from bigjax.configs import imagenet128


def get_config() -> ml_collections.ConfigDict:
  config = imagenet128.get_config()
  config.data.resolution = 512
  config.model = {'z_dim': 160}
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
