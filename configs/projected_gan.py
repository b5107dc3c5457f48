"""Projected GAN (Sauer et al. 2021): features of a frozen network make GANs learn fast.

  pip install -e '.[train,features]'
  bigjax train --config projected_gan --config.data.source=folder:/data/ffhq256
  bigjax train --config projected_gan:fastgan_lite256 --config.data.source=folder:/data/pokemon
  bigjax train --config projected_gan:flowers --config.data.source=folder:/data/flowers
  bigjax train --config projected_gan:digits

The bare name is `fastgan256`; `fastgan_lite256` is for small sets, `fastgan1024` for large images,
`stylegan2_256` has StyleGAN2's generator and separable discriminators.

`flowers` is for some hundred photos at 64 px on a few cores, which lie where the config `flowers`
expects them. Features are of 64 px, too, without enlarging, which is another protocol than the
paper's, and scores are in another network's features, not in those that the discriminators see.
After 800 steps, 20 minutes of one CPU core, five hundred photos of flowers have petals and leaves,
and a texture of blocks; benchmarks/README.md has the figures beside BigGAN's and StyleGAN2's.

`tiny` and `digits` have a network of drawn weights, `efficientnet_lite0_random`: it shows that the
game works, and what ImageNet is good for. `bigjax plan` needs no weights with
--config.model.features of that name: the program is the same.

One image in a hundred of a folder is held out, for scores; that of `flowers` has a test split.

Published FIDs of 50,000 samples against all training images (FastGAN but where said): FFHQ-256
3.39, LSUN church 1.59, bedroom 1.52, CLEVR 0.56, Cityscapes 3.41; of small sets Art 27.96,
Landscape 6.92, AnimalFace dog 17.88, Flowers 13.86, Pokemon 26.36. The released code is said to
reach 3.89 on FFHQ, and FastGAN-lite 26.44 on Pokemon.

Hardware: eight GPUs in the paper, with eight images and BatchNorm's moments of their own on each,
which `model.bn_group` keeps on any number of devices. Nothing of these has been measured here, but
for `flowers`.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """FastGAN at 256 px."""
  return ml_collections.ConfigDict(
    {
      'algorithm': 'projected_gan',
      'run': {'steps': 390_625},  # 25 million images at most
      'data': {
        'source': 'folder:',
        'resolution': 256,
        'num_classes': 1,
        'held_out': 0.01,
        'flip': True,
      },
      'model': {'bn_group': 8},
      'optim': {'batch_size': 64},
    }
  )


VARIANTS = {
  'fastgan256': {},
  'fastgan_lite256': {'model.network': 'fastgan_lite'},
  'stylegan2_256': {
    'model.network': 'stylegan2',
    'model.z_dim': 64,
    'model.separable': True,
    'optim.gen_lr': 2e-3,
    'optim.disc_lr': 2e-3 * 16 / 17,
  },
  'fastgan1024': {'data.resolution': 1024},
  'flowers': {
    'run.steps': 4000,
    'run.log_every': 20,
    'run.eval_every': 500,
    'run.checkpoint_every': 500,
    'data.source': 'folder:flowers',
    'data.resolution': 64,
    'data.num_classes': 5,
    'data.held_out': 0.05,  # the default: its folder has a test split
    'eval.name': 'classifier',
    'eval.standing_passes': 16,
    'eval.standing_batch': 128,
    'scores.features': 'classifier',
    'model.network': 'fastgan_lite',
    'model.z_dim': 128,
    'model.ngf': 16,
    'model.proj_width': 32,
    'model.disc_width': 32,
    'model.features_side': 0,
    'model.bn_group': 0,
    'optim.gen_lr': 5e-4,
    'optim.disc_lr': 5e-4,
    'optim.batch_size': 16,
    'optim.ema_half_life': 1.0,
    'optim.ema_ramp': 0.0,
  },
  # Conditional, and with small networks, so that it is done in minutes.
  'digits': ('digits', {}),
}
