"""PGGAN (Karras et al. 2018): progressive growing from 4 px, and the paper's Table 1 row by row.

  bigjax train --config pggan --config.data.data_dir=/data/tfds
  bigjax train --config pggan:celeba_hq,v2 --config.data.data_dir=/data/tfds
  bigjax train --config pggan:lsun_bedroom --config.data.data_dir=/data/tfds
  bigjax train --config pggan:table1_e_star,bedroom --config.data.data_dir=/data/tfds
  bigjax train --config pggan:digits

The bare name is `celeba_hq`, 1024 px: published FID 7.30. Its images are made from CelebA by a
construction that is not rebuilt here: docs/data.md says how to get them. `v2` after it has the
batches, learning rates and shorter stages of the authors' later release for eight devices; those of
the paper, down to 3 images, fit one to three. `lsun_CATEGORY` is any category of LSUN at 256 px
(FID 8.34 of bedrooms, 6.42 of churches): bedrooms and dogs are all of their set, others 100,000 of
it, mirrored. `cifar10` is without classes: Inception Score 8.80 at best, 8.56 on average.

`table1_a` ... `table1_h` and `table1_e_star` are the rows of Table 1 at 128 px on CelebA, or on
LSUN with `bedroom` after them; each stops at 10 million images, and `h`, of which the paper says
that it trained longer, at the 19 million of CelebA-HQ. Sliced Wasserstein distance times 1000,
averaged over levels, and MS-SSIM, as published (CelebA's images there are another cut of the
photos than the central square, so distances to them do not compare):

                                     CelebA           LSUN bedroom
  a       WGAN-GP                     9.28  0.2854    11.25  0.0587
  b       + growing                   4.28  0.2838     7.60  0.0615
  c       + batches of 16            46.23  0.4065    49.52  0.1061
  d       + revised parameters        8.07  0.3027     6.54  0.0662
  e_star  + minibatch discrimination  9.84  0.3057     8.43  0.0648
  e       d + minibatch deviation     7.04  0.2950     6.48  0.0671
  f       + equalised learning rate   4.39  0.2902     4.02  0.0668
  g       + pixel norm                3.56  0.2845     4.01  0.0640
  h       converged (full capacity)   3.12  0.2880     3.32  0.0633

Hardware: CelebA-HQ took the authors days on eight GPUs; `bigjax plan --config pggan:celeba_hq,v2`
says what TPUs would take. Nothing of these has been measured here; what `digits` reaches in minutes
on two CPU cores is in docs/papers.md.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """CelebA-HQ at 1024 px."""
  return ml_collections.ConfigDict(
    {
      'algorithm': 'pggan',
      'run': {'steps': 3_264_287},  # 19 million images
      'data': {
        'source': 'tfds:celeb_a_hq/1024',
        'resolution': 1024,
        'num_classes': 1,
        'flip': True,
      },
      'optim': {
        'batch_size': 16,
        'batch_at': ('256:14', '512:6', '1024:3'),
        'hold_kimg': 800.0,
        'fade_kimg': 800.0,
        'ramp': True,
      },
    }
  )


# The categories of LSUN, scenes and objects.
LSUN = (
  'bedroom', 'bridge', 'church_outdoor', 'classroom', 'conference_room', 'dining_room', 'kitchen',
  'living_room', 'restaurant', 'tower', 'airplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus',
  'car', 'cat', 'chair', 'cow', 'dining_table', 'dog', 'horse', 'motorbike', 'person',
  'potted_plant', 'sheep', 'sofa', 'train', 'tv-monitor',
)  # fmt: skip
WHOLE = ('bedroom', 'dog')
PLAIN = {'optim.batch_at': (), 'optim.ramp': False}


def lsun(category: str) -> dict:
  whole = category in WHOLE
  return {
    'run.steps': 1_250_000,
    'data.source': f'tfds:lsun/{category}',
    'data.resolution': 256,
    'data.flip': not whole,
    'data.per_class': 0 if whole else 100_000,
    'optim.batch_at': (),
  }


# Table 1: each row says what it switches of the row before it.
TABLE1_A = {
  **PLAIN,
  'run.steps': 31_250,
  'data.source': 'tfds:celeb_a',
  'data.resolution': 128,
  'model.first_resolution': 128,
  'model.fmap_base': 2048,
  'model.z_dim': 128,
  'model.gen_norm': 'batch',
  'model.gen_activation': 'relu',
  'model.gen_tanh': True,
  'model.normalize_latents': False,
  'model.disc_norm': 'layer',
  'model.minibatch': 'none',
  'optim.equalized': False,
  'optim.batch_size': 64,
  'optim.d_steps': 5,
  'optim.gen_lr': 1e-4,
  'optim.disc_lr': 1e-4,
  'optim.b2': 0.9,
  'optim.drift': 0.0,
  'optim.ema_decay': 0.999**20,
}
TABLE1_B = {**TABLE1_A, 'model.first_resolution': 4}
TABLE1_C = {**TABLE1_B, 'run.steps': 125_000, 'optim.batch_size': 16, 'optim.ema_decay': 0.999**5}
TABLE1_D = {
  **TABLE1_C,
  'run.steps': 625_000,
  'model.z_dim': 512,
  'model.gen_norm': 'none',
  'model.gen_activation': 'lrelu',
  'model.gen_tanh': False,
  'model.normalize_latents': True,
  'model.disc_norm': 'none',
  'optim.d_steps': 1,
  'optim.b2': 0.99,
  'optim.drift': 0.001,
  'optim.ema_decay': 0.999,
}
TABLE1_E_STAR = {**TABLE1_D, 'model.minibatch': 'discrimination'}
TABLE1_E = {**TABLE1_D, 'model.minibatch': 'stddev'}
TABLE1_F = {**TABLE1_E, 'optim.equalized': True, 'optim.gen_lr': 1e-3, 'optim.disc_lr': 1e-3}
TABLE1_G = {**TABLE1_F, 'model.gen_norm': 'pixel'}
TABLE1_H = {**TABLE1_G, 'run.steps': 1_187_500, 'model.fmap_base': 8192}

VARIANTS = {
  'celeba_hq': {},
  # The later release's preset for eight devices.
  'v2': {
    'run.steps': 277_735,  # 12 million images
    'model.normalize_labels': True,
    'model.order': 'tf',
    'model.stddev_group': 4,
    'optim.batch_size': 32,
    'optim.batch_at': ('4:512', '8:256', '16:128', '32:64', '64:32'),
    'optim.lr_at': ('128:0.0015', '256:0.002', '512:0.003', '1024:0.003'),
    'optim.hold_kimg': 600.0,
    'optim.fade_kimg': 600.0,
    'optim.ramp': False,
  },
  'cifar10': {
    **PLAIN,
    'run.steps': 1_250_000,
    'data.source': 'tfds:cifar10',
    'data.resolution': 32,
    'data.flip': False,
    'model.fmap_base': 4096,
    'model.fmap_max': 128,
    'model.z_dim': 128,
    'optim.hold_kimg': 400.0,
    'optim.fade_kimg': 400.0,
    'optim.simultaneous': True,
    'optim.gp_target': 750.0,
  },
  **{f'lsun_{category}': lsun(category) for category in LSUN},
  'table1_a': TABLE1_A,
  'table1_b': TABLE1_B,
  'table1_c': TABLE1_C,
  'table1_d': TABLE1_D,
  'table1_e_star': TABLE1_E_STAR,
  'table1_e': TABLE1_E,
  'table1_f': TABLE1_F,
  'table1_g': TABLE1_G,
  'table1_h': TABLE1_H,
  'bedroom': {'data.source': 'tfds:lsun/bedroom', 'data.flip': False},  # of Table 1
}
