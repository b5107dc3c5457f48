"""BigGAN at 16 px on scikit-learn's handwritten digits: everything in minutes, no download.

  bigjax train

Hardware: 2 CPU cores, two and a half minutes. Expected (three seeds): agreement 0.997 or more,
std_ratio 0.91, precision 0.90, coverage 0.90, nearest_ratio 1.03. Nothing is published to compare
with: summary.json has what real images score.
"""

import ml_collections


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Variants: '' (minutes), 'tiny' (seconds: does everything, learns nothing)."""
  config = ml_collections.ConfigDict()
  config.algorithm = 'biggan'
  config.seed = 0
  config.init_from = ''
  config.run = ml_collections.ConfigDict(
    {
      'steps': 700,
      'log_every': 25,
      'eval_every': 175,
      'checkpoint_every': 175,
      'keep': 2,
      'keep_every': 0,
      'best': 'coverage',
      'max_skipped': 10,
      'minibatches': 1,
      'remat': False,
      'forms': 'fast',
      'profile_steps': 0,
    }
  )
  config.data = ml_collections.ConfigDict(
    {
      'source': 'digits',
      'data_dir': '',
      'resolution': 16,
      'channels': 1,
      'num_classes': 10,
      'held_out': 0.25,
      'fraction': 1.0,
      'per_class': 0,
      'crop': 'center',
      'flip': False,
    }
  )
  config.model = ml_collections.ConfigDict(
    {
      'network': 'biggan',
      'ch': 16,
      'z_dim': 60,
      'latent': 'normal',
      'shared_dim': 32,
      'skip_z': True,
      'gen_attention': (),
      'disc_attention': (),
      'disc_widths': (),
      'disc_dropout': 0.0,
      'bn_group': 0,
      'bn_eps': 1e-4,
      'dtype': 'float32',
    }
  )
  config.optim = ml_collections.ConfigDict(
    {
      'batch_size': 64,
      'd_steps': 2,
      'name': 'adam_b1_0',
      'gen_lr': 7e-4,
      'disc_lr': 2e-3,
      'b1': 0.0,
      'b2': 0.99,
      'eps': 1e-8,
      'ortho_beta': 1e-4,
      'spectral_eps': 1e-4,
      'ema_decay': 0.99,
      'ema_start': 200,
      'r1_gamma': 0.0,
      'sigma_tool': 'none',
      'sigma_weight': 0.0,
      'sigma_reg': 0.0,
      'sigma_ratio': 1.0,
      'freeze_disc': 0,
    }
  )
  config.augment = ml_collections.ConfigDict({'name': 'none'})
  config.eval = ml_collections.ConfigDict(
    {
      'name': 'pixels',
      'num_samples': 1000,
      'standing_passes': 16,
      'standing_batch': 128,
      'grid_columns': 10,
      'published': '',
    }
  )
  config.scores = ml_collections.ConfigDict(
    {
      'every': 0,
      'metrics': 'fid,is',
      'num': 10_000,
      'features': 'classifier',
      'weights': '',
      'reference': 'train',
    }
  )
  config.watch = ml_collections.ConfigDict(
    {
      'policy': 'warn',
      'most': 3,
      'patch': '',
      'patience': 2,
      'refused': 1,
      'spike': 20.0,
      'one_sided': 0.01,
      'sigma': 10.0,
      'still': True,
      'data': 0.1,
      'variance': 0.3,
      'score': 0.5,
    }
  )
  config.export = ml_collections.ConfigDict(
    {
      'truncations': ('0.5', '1', '2', 'none'),
      'dialect': 'resample',
    }
  )
  if variant == 'tiny':
    config.run.update({'steps': 4, 'log_every': 1, 'eval_every': 2, 'checkpoint_every': 2})
    config.model.update({'ch': 8, 'z_dim': 12, 'shared_dim': 8})
    config.optim.update({'batch_size': 16, 'ema_start': 2})
    config.eval.update({'num_samples': 40, 'standing_passes': 2, 'standing_batch': 16})
  elif variant:
    raise ValueError(f'unknown variant {variant!r}; known: tiny')
  return config
