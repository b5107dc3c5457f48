"""StyleGAN2 (Karras et al. 2020): the paper's ladder on FFHQ, and its LSUN sets.

  bigjax train --config stylegan2 --config.data.source=folder:/data/ffhq/images1024x1024
  bigjax train --config stylegan2:e --config.data.source=folder:/data/ffhq/images1024x1024
  bigjax train --config stylegan2:church --config.data.data_dir=/data/tfds
  bigjax train --config stylegan2:digits

The bare name is `f`, the paper's best, on 70,000 faces at 1024 px (a folder of PNG files, as their
authors hand it out). `car` (512 px), `cat`, `church` and `horse` (256 px) are sets of LSUN, all of
each. Published, of 50,000 samples without truncation: FID on FFHQ, then FID and path length on
FFHQ, FID and path length on cars:

                                     FFHQ            LSUN car
  a   StyleGAN                       4.40   212.1    3.27   1484.5
  b   + weight demodulation          4.39   175.4    3.04    862.4
  c   + lazy regularisation          4.38   158.0    2.83    981.6
  d   + path length regularisation   4.34   122.5    3.43    651.2
  e   + no growing, new G and D      3.31   124.5    3.19    471.2
  f   + large networks               2.84   145.0    2.32    415.5

and FID 6.93 on cats, 3.86 on churches, 3.43 on horses. Rows A to D of the paper grow as StyleGAN
does, from 8 px: `a` is that paper's own game, `--config stylegan`, and `b`, `c`, `d` have what else
they switch (weight demodulation, when R1 is due, path length, networks of StyleGAN's shape, widths
and learning rate) but train at 1024 px from the start, so that the FIDs above are not theirs.
`g_orig`, `g_skip`, `g_resnet` and `d_orig`, `d_skip`, `d_resnet` after `e` are the nine of the
paper's Table 2. `ada` and `diffaug` have the games of those papers with these networks.

Different from the paper: of FFHQ's images, and of others that have no test split, one in a hundred
is held out, for scores; cars are squares cut out of the middle, where the paper fills 512x384 up
with black. `a` is FFHQ's alone: its steps and stages go with no other set here.

Hardware: FFHQ took the authors nine days on eight V100s (`f`); `bigjax plan --config stylegan2`
says what TPUs would take. Nothing of these has been measured here; what `digits` reaches in minutes
on two CPU cores is in docs/papers.md.
"""

import ml_collections

from bigjax.configs import stylegan


def get_config() -> ml_collections.ConfigDict:
  """FFHQ at 1024 px, config F."""
  return ml_collections.ConfigDict(
    {
      'algorithm': 'stylegan2',
      'run': {'steps': 781_250},  # 25 million images
      'data': {
        'source': 'folder:',
        'resolution': 1024,
        'num_classes': 1,
        'held_out': 0.01,
        'flip': True,
      },
      'model': {'fmap_base': 16_384},
      'optim': {'batch_size': 32, 'r1_gamma': 10.0, 'ema_half_life': 10.0},
    }
  )


# The ladder, from its last row up: each says what it lacks of the row after it.
F = {}
E = {'model.fmap_base': 8192, 'optim.r1_gamma': 100.0}
D = {
  **E,
  'model.gen_architecture': 'orig',
  'model.disc_architecture': 'orig',
  'optim.r1_gamma': 10.0,
  'optim.gen_lr': 3e-3,  # of StyleGAN's last resolution
  'optim.disc_lr': 3e-3,
}
C = {**D, 'optim.pl_weight': 0.0}
B = {**C, 'optim.lazy': False}
# What StyleGAN's config states, which switches to its game.
A = {'algorithm': 'stylegan'} | {
  f'{group}.{key}': value
  for group in ('run', 'data', 'model', 'optim')
  for key, value in stylegan.get_config()[group].items()
}


def lsun(name: str, million: int, resolution: int = 256, **of) -> dict:
  """A set of LSUN, trained on for so many million images."""
  return {
    'run.steps': million * 1_000_000 // 32,
    'data.source': f'tfds:lsun/{name}',
    'data.resolution': resolution,
    'data.flip': False,
    **of,
  }


VARIANTS = {
  'a': A,
  'b': B,
  'c': C,
  'd': D,
  'e': E,
  'f': F,
  'car': lsun('car', 57, 512),
  'cat': lsun('cat', 88),
  'church': lsun('church_outdoor', 88, **{'optim.r1_gamma': 100.0}),
  'horse': lsun('horse', 100, **{'optim.r1_gamma': 100.0}),
  **{f'g_{shape}': {'model.gen_architecture': shape} for shape in ('orig', 'skip', 'resnet')},
  **{f'd_{shape}': {'model.disc_architecture': shape} for shape in ('orig', 'skip', 'resnet')},
  # Conditional; the heuristic weight of R1 for such small images, and a short memory.
  'digits': ('digits', {'optim.r1_gamma': 0.1, 'optim.gen_lr': 5e-3, 'optim.disc_lr': 5e-3}),
}
