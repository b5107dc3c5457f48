"""BigGAN-deep at 512 px on ImageNet, with the values of the paper (Brock et al. 2019, Table 2).

  bigjax train --config imagenet512_deep --config.data.data_dir=/data/tfds

Hardware: 512 TPU v3 cores, 4 examples on each, in the paper. Published, untruncated: FID 7.5, IS
152.8; neither the number of seeds and samples nor the reference set and the step are stated. As
`imagenet128_deep`, but both learning rates are 2.5e-5. Nothing has been measured here.
"""

import ml_collections

from bigjax.configs import imagenet128_deep


def get_config() -> ml_collections.ConfigDict:
  config = imagenet128_deep.get_config()
  config.data.resolution = 512
  config.optim = {'gen_lr': 2.5e-5, 'disc_lr': 2.5e-5}
  return config


VARIANTS = imagenet128_deep.VARIANTS  # 'tiny' is at 64 px too
