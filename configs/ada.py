"""Adaptive discriminator augmentation (Karras et al. 2020b), with StyleGAN2 and with BigGAN.

  bigjax train --config ada --config.data.data_dir=/data/tfds
  bigjax train --config ada:cifar10_500 --config.data.data_dir=/data/tfds
  bigjax train --config ada:stylegan2_cifar10_cond --config.data.data_dir=/data/tfds
  bigjax train --config ada:stylegan2_paper256 --config.data.source=folder:/data/ffhq256
  bigjax train --config ada:stylegan2_auto256,transfer --config.init_from=/runs/ffhq256
  bigjax train --config ada:digits

The paper has ADA with StyleGAN2 alone. Published for CIFAR-10, FID (of 50,000 samples against the
50,000 training images, not mirrored) and Inception Score, without classes and with them:

                                         FID           IS             FID           IS
  StyleGAN2                              8.32         9.21            6.96         9.53
  + ADA         stylegan2_cifarbaseline  5.33 +-.35  10.02 +-.07      3.49 +-.17  10.24 +-.07
  + tuning      stylegan2_cifar10        2.92 +-.05   9.83 +-.04      2.42 +-.04  10.14 +-.09
  BigGAN (from the literature)                                       14.73         9.22

`stylegan2_cifar10_cond` is the last row with classes; its discriminator projects on the embedding
of a class itself, as in the paper's code, where the later PyTorch code has eight layers between
(model.disc_mapping_layers). `noaug` after any name is without augmentation. `stylegan2_paper256`,
`_paper512`, `_paper1024` are the paper's settings by resolution, for mirrored images of a folder
(one in a hundred is held out, for scores);
`stylegan2_auto256` those that the authors' code picks for eight GPUs. `transfer` after a name is
for training on from other weights (--config.init_from): p moves five times as fast, and the average
is as long from the start; --config.optim.freeze_disc=10 holds the first ten layers of D.

BigGAN, the bare name: `cifar10` is the recipe of `diffaug` with ADA's set `bgc`, which the paper
took for CIFAR-10 too, its target 0.6 and its speed of 500 thousand images; nothing is published of
it. `cifar10_500`, which may also follow a name of StyleGAN2, is trained on fifty images of each
class, at 20 thousand images, so that the probability can be seen to move within minutes.

Hardware: one GPU for BigGAN; StyleGAN2 on CIFAR-10 took the authors days on two V100s. Nothing of
these has been measured here; what `digits` reaches in minutes on two CPU cores is in
docs/papers.md.
"""

import ml_collections

from bigjax.configs import diffaug

PAPER = 'ada'  # that docs/papers.md names its row after
ADA = {'name': 'ada_bgc', 'target': 0.6}


def get_config() -> ml_collections.ConfigDict:
  """CIFAR-10 with ADA."""
  config = diffaug.get_config()
  config.augment = ADA
  return config


# StyleGAN2. Of the values above, those that all games share stay where these say nothing.
STYLEGAN2 = {
  'algorithm': 'stylegan2',
  **{f'augment.{name}': value for name, value in ADA.items()},
  'scores.num': 50_000,
  'scores.reference': 'train',
}
BASELINE = {
  **STYLEGAN2,
  'run.steps': 1_562_500,  # 100 million images
  'data.num_classes': 1,
  'data.flip': False,
  'model.disc_mapping_layers': 0,
  'model.stddev_group': 32,
  'optim.batch_size': 64,
  'optim.gen_lr': 2.5e-3,
  'optim.disc_lr': 2.5e-3,
  'optim.r1_gamma': 0.01,
  'optim.ema_half_life': 500.0,
  'optim.ema_ramp': 0.05,
}
TUNED = {
  **BASELINE,
  'model.mapping_layers': 2,
  'model.disc_architecture': 'orig',
  'optim.pl_weight': 0.0,
  'optim.style_mixing': 0.0,
}


def photos(resolution: int, fmap_base: int, batch: int, rate: float, **of) -> dict:
  """A folder of images without classes, 25 million of them."""
  return {
    **STYLEGAN2,
    'run.steps': 25_000_000 // batch,
    'data.source': 'folder:',
    'data.resolution': resolution,
    'data.num_classes': 1,
    'data.held_out': 0.01,
    'data.flip': True,
    'model.fmap_base': fmap_base,
    'optim.batch_size': batch,
    'optim.gen_lr': rate,
    'optim.disc_lr': rate,
    'optim.ema_half_life': batch * 10 / 32,
    **of,
  }


AUTO = {
  'data.flip': False,
  'model.mapping_layers': 2,
  'optim.r1_gamma': 2e-4 * 256**2 / 64,
  'optim.ema_ramp': 0.05,
}

VARIANTS = {
  'cifar10': {},
  'cifar10_500': {'data.per_class': 50, 'augment.kimg': 20.0},
  'stylegan2_cifar10': TUNED,
  'stylegan2_cifar10_cond': {**TUNED, 'data.num_classes': 10},
  'stylegan2_cifarbaseline': BASELINE,
  'stylegan2_auto256': photos(256, 8192, 64, 2.5e-3, **AUTO),
  'stylegan2_paper256': photos(
    256, 8192, 64, 2.5e-3, **{'model.stddev_group': 8, 'optim.r1_gamma': 1.0}
  ),
  'stylegan2_paper512': photos(
    512, 16_384, 64, 2.5e-3, **{'model.stddev_group': 8, 'optim.r1_gamma': 0.5}
  ),
  'stylegan2_paper1024': photos(1024, 16_384, 32, 2e-3, **{'optim.r1_gamma': 2.0}),
  'transfer': {'augment.kimg': 100.0, 'optim.ema_ramp': 0.0},
  'noaug': {'augment.name': 'none', 'augment.target': 0.0, 'augment.kimg': 500.0},
  'digits': (
    'digits',
    {'augment.name': 'ada_bgc', 'augment.target': 0.6, 'augment.kimg': 20.0},
  ),
}
