"""Fashion-MNIST, grey, with networks like those of `digits`: small enough for a laptop.

  bigjax train --config fashion_mnist --config.data.data_dir=/data/tfds
  bigjax train --config fashion_mnist:16px --config.init_from=runs/digits

The set must have been prepared with TFDS (bigjax says how).

Hardware: 2 CPU cores, a quarter of an hour (14m44s, one seed, on the 20,000 first training images
of a fixed shuffle). Expected: agreement 0.82 (real images: 0.90), fd_held_out_classifier 7.2 (from
68 at step 32; real: 0.20), precision 0.86, coverage 0.50, std_ratio 0.80, worst_class 0.17
(shirts), in the features of a classifier that did not yet learn distortions; today's is stricter.
Nothing is published to compare with.

`16px` takes some minutes there, and has the networks of `digits`: the second line begins from the
weights of a digits run, with new tables for the new classes.
"""

import ml_collections

from bigjax.configs import digits


def get_config() -> ml_collections.ConfigDict:
  config = digits.get_config()
  config.run.update({'steps': 640, 'log_every': 32, 'eval_every': 32, 'checkpoint_every': 160})
  config.data.update({'source': 'tfds:fashion_mnist', 'resolution': 32, 'held_out': 0.1})
  config.model.z_dim = 80
  config.optim.update({'batch_size': 32, 'ema_start': 100})
  config.eval.update({'name': 'classifier', 'num_samples': 2000, 'standing_passes': 8})
  return config


AT_16_PX = {  # as `digits`
  'run.log_every': 25,
  'data.resolution': 16,
  'model.z_dim': 60,
  'optim.batch_size': 64,
  'optim.ema_start': 200,
  'eval.name': 'pixels',
  'eval.num_samples': 1000,
  'eval.standing_passes': 16,
}
VARIANTS = {
  '16px': {
    **AT_16_PX,
    'run.steps': 1500,
    'run.eval_every': 100,
    'run.checkpoint_every': 500,
  },
  'tiny': {**AT_16_PX, **digits.VARIANTS['tiny'], 'data.source': 'synthetic:80'},
}
