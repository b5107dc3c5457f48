"""Keys that all of PGGAN's family have in their configs, and what follows from these alone."""

from typing import Any

import ml_collections

from bigjax.algorithms.base.residual_config import DTYPES
from bigjax.core import config as core_config
from bigjax.core import errors
from bigjax.core.keys import Key, Keys
from bigjax.core.ranges import BATCH
from bigjax.nn import kernels

# fmt: off
KEYS: Keys = {
  'model.fmap_base': Key(
    8192, 'feature maps are this over half the resolution', least=8, most=65_536,
  ),
  'model.fmap_max': Key(512, 'and at most this many', least=1, most=8192),
  'model.z_dim': Key(512, 'dimensions of z', least=1, most=65_536),
  'model.dtype': Key('float32', 'of the computation', choices=tuple(DTYPES)),
  'optim.batch_size': Key(
    16, "examples of a discriminator's step, over all devices", least=1, most=BATCH.most,
  ),
  'optim.d_steps': Key(1, "discriminator steps to one of the generator's", least=1, most=1000),
  'optim.gen_lr': Key(1e-3, 'learning rate of the generator', most=1000),
  'optim.disc_lr': Key(1e-3, 'learning rate of the discriminator', most=1000),
  'optim.b2': Key(0.99, "Adam's decay of squared gradients", below=1),
  'optim.eps': Key(1e-8, "Adam's epsilon", above=0, most=1),
  'optim.ema_decay': Key(0.999, 'decay of the averaged weights, per step; 0: none', below=1),
  **{key: core_config.WAYS[key] for key in ('run.remat', 'run.kernels')},
}
# fmt: on


def of_both(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The fields that a generator and its discriminator have in common."""
  data, model = config.data, config.model
  return {
    'resolution': data.resolution,
    'num_classes': data.num_classes,
    'fmap_base': model.fmap_base,
    'fmap_max': model.fmap_max,
    'remat': config.run.remat,
    'kernels': errors.pick(config.run.kernels, kernels.KERNELS, 'run.kernels'),
    'dtype': errors.pick(model.dtype, DTYPES, 'model.dtype'),
  }
