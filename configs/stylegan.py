"""StyleGAN (Karras et al. 2019): its best generator, and Table 1 from PGGAN to it row by row.

  bigjax train --config stylegan --config.data.source=folder:/data/ffhq/images1024x1024
  bigjax train --config stylegan:celeba_hq --config.data.data_dir=/data/tfds
  bigjax train --config stylegan:c --config.data.source=folder:/data/ffhq/images1024x1024
  bigjax train --config stylegan:celeba_hq,c --config.data.data_dir=/data/tfds
  bigjax train --config stylegan:digits

The bare name is `ffhq`, 70,000 faces at 1024 px (a folder of PNG files, as its authors hand it
out), with the non-saturating loss and R1; `celeba_hq`, whose images docs/data.md says how to get,
has WGAN-GP, as in the paper. `a` ... `f` are the rows of Table 1, on FFHQ or after `celeba_hq`:
each switches one thing of the row before it, but that (b) tunes several. FIDs of 50,000 samples
without truncation, the lowest of each run, as published:

                                    CelebA-HQ   FFHQ
  a   PGGAN                              7.79   8.04
  b   + tuning (blurred resampling)      6.11   5.25
  c   + mapping and styles               5.34   4.85
  d   + constant input                   5.07   4.88
  e   + noise                            5.06   4.42
  f   + mixed styles                     5.17   4.40

(a) has WGAN-GP on both sets, begins at 4 px and ends after 12 million images, (b) on from 8 px with
25 million. All rows have the authors' batches and learning rates for eight GPUs. Different from the
paper: one image in a hundred is held out, for scores, where a set has no test split.

Samples are truncated by --truncation 0.7:8, say: psi 0.7 in the first eight layers.

Hardware: FFHQ took the authors a week on eight V100s; `bigjax plan --config stylegan` says what
TPUs would take. Nothing of these has been measured here; what `digits` reaches in minutes on two
CPU cores is in docs/papers.md.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """FFHQ at 1024 px, row (f)."""
  return ml_collections.ConfigDict(
    {
      'algorithm': 'stylegan',
      'run': {'steps': 717_967},  # 25 million images
      'data': {
        'source': 'folder:',
        'resolution': 1024,
        'num_classes': 1,
        'held_out': 0.01,
        'flip': True,
      },
      'model': {'first_resolution': 8},
      'optim': {
        'batch_size': 32,
        'batch_at': ('4:512', '8:256', '16:128', '32:64', '64:32'),
        'lr_at': ('128:0.0015', '256:0.002', '512:0.003', '1024:0.003'),
        'hold_kimg': 600.0,
        'fade_kimg': 600.0,
      },
    }
  )


WGAN_GP = {
  'optim.loss': 'wasserstein',
  'optim.r1_gamma': 0.0,
  'optim.gp_weight': 10.0,
  'optim.drift': 0.001,
}

# Table 1, from its last row up: each says what it lacks of the row after it.
F = {}
E = {**F, 'optim.style_mixing': 0.0}
D = {**E, 'model.noisy': False}
C = {**D, 'model.constant': False}
B = {**C, 'model.styled': False, 'model.mapping_layers': 0}
A = {
  **B,
  **WGAN_GP,
  'run.steps': 277_729,  # 12 million images
  'model.blurred': False,
  'model.first_resolution': 4,
  'optim.lr_at': ('128:0.0015', '256:0.002', '512:0.003', '1024:0.003'),
}

VARIANTS = {
  'ffhq': {},
  'celeba_hq': {
    **WGAN_GP,
    'data.source': 'tfds:celeb_a_hq/1024',
    'optim.lr_at': ('128:0.0015', '256:0.002', '512:0.002', '1024:0.002'),
  },
  'a': A,
  'b': B,
  'c': C,
  'd': D,
  'e': E,
  'f': F,
  # Conditional, which the paper's are not, with a gentler penalty, so that it is done in minutes.
  'digits': ('digits', {'optim.r1_gamma': 1.0, 'optim.gen_lr': 5e-3, 'optim.disc_lr': 5e-3}),
}
