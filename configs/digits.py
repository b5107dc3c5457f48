"""BigGAN at 16 px on scikit-learn's handwritten digits: everything in minutes, no download.

  bigjax train

Hardware: 2 CPU cores, two and a half minutes. Expected (three seeds): agreement 0.997 or more,
std_ratio 0.91, precision 0.90, coverage 0.90, nearest_ratio 1.03. Nothing is published to compare
with: summary.json has what real images score.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(
    {
      'algorithm': 'biggan',
      'run': {
        'steps': 700,
        'log_every': 25,
        'eval_every': 175,
        'checkpoint_every': 175,
        'keep': 2,
        'keep_every': 0,
        'best': 'coverage',
      },
      'data': {
        'source': 'digits',
        'resolution': 16,
        'channels': 1,
        'num_classes': 10,
        'held_out': 0.25,
      },
      'model': {
        'ch': 16,
        'z_dim': 60,
        'shared_dim': 32,
        'gen_attention': (),
        'disc_attention': (),
        'dtype': 'float32',
      },
      'optim': {
        'batch_size': 64,
        'gen_lr': 7e-4,
        'disc_lr': 2e-3,
        'b2': 0.99,
        'ema_decay': 0.99,
        'ema_start': 200,
      },
      'eval': {
        'name': 'pixels',
        'num_samples': 1000,
        'standing_passes': 16,
        'standing_batch': 128,
      },
      'scores': {'num': 10_000, 'features': 'classifier'},
    }
  )


VARIANTS = {
  'tiny': {  # seconds: does everything, learns nothing
    'run.steps': 4,
    'run.log_every': 1,
    'run.eval_every': 2,
    'run.checkpoint_every': 2,
    'model.ch': 8,
    'model.z_dim': 12,
    'model.shared_dim': 8,
    'optim.batch_size': 16,
    'optim.ema_start': 2,
    'eval.num_samples': 40,
    'eval.standing_passes': 2,
    'eval.standing_batch': 16,
  },
}
