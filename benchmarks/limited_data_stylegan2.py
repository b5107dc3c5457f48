"""Fifty images of each class of CIFAR-10 and StyleGAN2: does ADA keep its discriminator honest?

  nice -n 15 python benchmarks/limited_data_stylegan2.py --data_dir /data/tfds

ADA's tuned recipe for CIFAR-10 with narrow networks, without augmentation and with it, three seeds
each; what is printed and drawn is limited_data.py's. An interrupted run goes on; a finished one is
read.
"""

import limited_data

from bigjax.algorithms.base import configs
from bigjax.core import config as core_config

# D learns fast, as in limited_data.py: at the recipe's 0.0025 it does not know 500 images after
# 25,000 were shown, and ADA has nothing to do.
SMALL = {
  'data.per_class': 50, 'model.fmap_base': 512, 'model.fmap_max': 32, 'model.w_dim': 64,
  'model.z_dim': 64, 'model.stddev_group': 4, 'optim.batch_size': 32, 'optim.disc_lr': 0.01,
  'optim.ema_half_life': 1.0, 'augment.kimg': 20.0, 'run.log_every': 10, 'run.eval_every': 400,
  'run.checkpoint_every': 400, 'run.keep': 1, 'eval.name': 'none', 'eval.num_samples': 100,
}  # fmt: skip
STEPS = 3600  # 230 visits to each image, as there: after 64, r_t is still below its target


def main() -> None:
  base = core_config.changed(configs.read('ada:stylegan2_cifar10_cond'), SMALL)
  tried = {name: limited_data.RECIPES[name] for name in ('no augmentation', 'ADA')}
  limited_data.measured(__doc__, 'limited_data_stylegan2', STEPS, base, tried)


if __name__ == '__main__':
  main()
