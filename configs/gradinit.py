"""GradInit (Zhu et al. 2021) before a GAN: scales of the first weights, learned.

  bigjax train --config gradinit --config.data.data_dir=/data/tfds
  bigjax train --config gradinit:digits

The paper has classifiers and translators, and no GAN: nothing is published of these. The bare name
is `cifar10`: the BigGAN of `cifar10` without spectral norm, which would divide the scales out;
`baseline` after it begins from plain weights, to compare with. `wgan_gp:cifar10_gradinit` is the
same for WGAN-GP. Iterations, gamma and eta are the paper's defaults, with the gradient's length for
its norm: the sum of its absolute values, which the paper takes for Adam, is hundreds in a GAN. How
fast the scales are learned (0.01) is ours.

Hardware: one GPU. Nothing of these has been measured here; what `digits` reaches in minutes on two
CPU cores is in docs/papers.md.
"""

import ml_collections

from bigjax.configs import cifar10

PAPER = 'gradinit'  # that docs/papers.md names its row after


def get_config() -> ml_collections.ConfigDict:
  """CIFAR-10."""
  config = cifar10.get_config()
  config.gradinit = {'optimizer': 'sgd'}
  config.optim.spectral_norm = 'none'
  del config.optim['spectral_eps']
  config.eval.published = ''
  return config


VARIANTS = {
  'cifar10': {},
  'baseline': {'gradinit.optimizer': 'none'},
}
