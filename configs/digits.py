"""BigGAN at 16 px on scikit-learn's handwritten digits."""

import ml_collections


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict()
  c.algorithm = 'biggan'
  c.seed = 0
  c.run = ml_collections.ConfigDict(dict(steps=1500))
  c.data = ml_collections.ConfigDict(dict(source='digits', resolution=16, channels=1, num_classes=10, held_out=0.25))
  c.model = ml_collections.ConfigDict(dict(ch=16, z_dim=60, shared_dim=32, gen_attention=(), disc_attention=(), bn_group=0, dtype='float32'))
  c.optim = ml_collections.ConfigDict(dict(batch_size=64, d_steps=2, name='adam_b1_0', gen_lr=2e-4, disc_lr=8e-4, b1=0.0, b2=0.99, eps=1e-8, ortho_beta=1e-4, spectral_eps=1e-4, ema_decay=0.99, ema_start=200))
  c.augment = ml_collections.ConfigDict(dict(name='none'))
  return c
