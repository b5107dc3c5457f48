"""MSG-GAN (Karnewar & Wang 2020): every scale of the generator is judged from the first step on.

  bigjax train --config msggan --config.data.data_dir=/data/tfds
  bigjax train --config msggan:flowers102,progan --config.data.data_dir=/data/tfds
  bigjax train --config msggan:cifar10,lr_01 --config.data.data_dir=/data/tfds
  bigjax train --config msggan:digits

The bare name is `celeba_hq` at 1024 px, whose images docs/data.md says how to get, with StyleGAN's
networks: MSG-StyleGAN. `flowers102` are Oxford's flowers at 256 px, trained on the largest of TFDS'
splits (6,149 photos; the set has 8,189). `progan` after either is MSG-ProGAN, with WGAN-GP, and
`relativistic` after that has the loss and the combine function of the authors' BMSG-GAN. Published
FIDs of 50,000 samples: CelebA-HQ 6.37 (MSG-ProGAN 8.02), flowers 19.60 (28.27; ProGAN 60.40,
StyleGAN 64.70).

`scales_none`, `scales_coarse`, `scales_middle`, `scales_fine`, `scales_all` are the ablation of
what D is given (FFHQ, MSG-ProGAN: 14.20, 10.84, 9.17, 9.74, 8.36). `cifar10` is MSG-ProGAN, whose
Inception Score the paper reports for learning rates `lr_001`, `lr_003`, `lr_005`, `lr_01`: 8.24,
8.63, 8.33, 7.92. The paper says RMSprop where its authors' codes have Adam: `rmsprop` switches.

Hardware: eight GPUs for 1024 px. Nothing of these has been measured here; what `digits` reaches in
minutes on two CPU cores is in docs/papers.md.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """CelebA-HQ at 1024 px with StyleGAN's networks."""
  return ml_collections.ConfigDict(
    {
      'algorithm': 'msggan',
      'run': {'steps': 781_250},  # 25 million images
      'data': {
        'source': 'tfds:celeb_a_hq/1024',
        'resolution': 1024,
        'num_classes': 1,
        'flip': True,
      },
      'optim': {
        'batch_size': 32,
        'r1_gamma': 10.0,
        'ema_decay': 0.0,
        'ema_half_life': 10.0,
      },
    }
  )


# MSG-ProGAN, as the paper trains it.
PROGAN = {
  'model.network': 'progan',
  'model.combine': 'simple',
  'model.stddev_group': 0,
  'optim.loss': 'wasserstein',
  'optim.r1_gamma': 0.0,
  'optim.gp_weight': 10.0,
  'optim.ema_decay': 0.999,
  'optim.ema_half_life': 0.0,
}

VARIANTS = {
  'celeba_hq': {},
  'flowers102': {
    'run.steps': 50_000,  # 1.6 million images
    'data.source': 'tfds:oxford_flowers102',
    'data.split': 'test',
    'data.resolution': 256,
  },
  'cifar10': {
    **PROGAN,
    'run.steps': 625_000,
    'data.source': 'tfds:cifar10',
    'data.resolution': 32,
    'data.flip': False,
    'optim.batch_size': 32,
  },
  'progan': PROGAN,
  'relativistic': {
    'model.combine': 'lin_cat',
    'optim.loss': 'relativistic_average_hinge',
    'optim.r1_gamma': 0.0,
    'optim.gp_weight': 0.0,
    'optim.same_latents': True,
  },
  'rmsprop': {'optim.name': 'rmsprop'},
  **{
    f'scales_{name}': {'model.scales': name}
    for name in ('none', 'coarse', 'middle', 'fine', 'all')
  },
  **{
    f'lr_{name}': {'optim.gen_lr': rate, 'optim.disc_lr': rate}
    for name, rate in (('001', 1e-3), ('003', 3e-3), ('005', 5e-3), ('01', 1e-2))
  },
  # Conditional, and with the smaller networks, so that it is done in minutes.
  'digits': ('digits', {**PROGAN, 'optim.loss': 'logistic', 'optim.r1_gamma': 1.0,
                        'optim.gp_weight': 0.0, 'optim.ema_decay': 0.99}),
}  # fmt: skip
