"""BigGAN-deep at 256 px on ImageNet, with the values of the paper (Brock et al. 2019, Table 2).

  bigjax train --config imagenet256_deep --config.data.data_dir=/data/tfds

Hardware: 256 TPU v3 cores, 8 examples on each, in the paper. Published, untruncated: FID 6.9
(+-0.2), IS 171.4 (+-2), of at least three seeds; the number of samples, the reference set and the
step are not stated. As `imagenet128_deep`, but both learning rates are 2.5e-5. Nothing has been
measured here.
"""

import ml_collections

from bigjax.configs import imagenet128_deep


def get_config() -> ml_collections.ConfigDict:
  config = imagenet128_deep.get_config()
  config.data.resolution = 256
  config.optim = {'gen_lr': 2.5e-5, 'disc_lr': 2.5e-5}
  return config


VARIANTS = imagenet128_deep.VARIANTS  # 'tiny' is at 64 px too
