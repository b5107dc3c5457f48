"""BigGAN at 128 px on ImageNet, with the values of the paper (Brock et al. 2019, Table 1, row 8).

  bigjax train --config imagenet128 --config.data.data_dir=/data/tfds
  bigjax train --config imagenet128:gpu8 --config.data.data_dir=/data/tfds

Hardware: 128 TPU v3 cores, 24 to 48 hours in the paper. Published, untruncated, at the checkpoint
before collapse (near step 165,000): FID 8.51 (+-0.32), IS 99.31 (+-2.10); the number of samples and
the reference set are not stated there. The paper does not say when averaging begins: 20,000 steps
is BigGAN-PyTorch's; nor Adam's epsilon: 1e-8 was TensorFlow's default. Images are not flipped, as
the paper does not say that they were. The learning curve beside ours is StudioGAN's, which flips,
crops at random and has no orthogonal penalty; of 50,000 samples at step 198,000, scored after
training, FID is 7.9 against the validation images and IS 99.7.

`gpu8` is BigGAN-PyTorch's launch_BigGAN_bs256x8.sh: 8 GPUs, 32 examples on each at a time, eight
times accumulated, BatchNorm over those 32; twice the learning rates, one discriminator step, no
orthogonal penalty. Published: 15 days on 8 V100 to step 150,000; IS 97.35 (+-1.79) just before
collapse, with TensorFlow's Inception network; at step 138,000, with torchvision's, IS 93.1 and FID
9.9 against the training images; of 50,000 samples. On another number of GPUs, choose
run.minibatches so that each part has 32 examples. algorithms/biggan.py says where its code differs
otherwise. Nothing of either has been measured here.
"""

import ml_collections


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Variants: '', 'gpu8', 'tiny' (seconds per step: does everything, learns nothing)."""
  config = ml_collections.ConfigDict()
  config.algorithm = 'biggan'
  config.seed = 0
  config.init_from = ''
  config.run = ml_collections.ConfigDict(
    {
      'steps': 150_000,
      'log_every': 100,
      'eval_every': 2500,
      'checkpoint_every': 1000,
      'keep': 3,
      'keep_every': 10_000,
      'best': '',
      'max_skipped': 10,
      'minibatches': 1,
      'remat': False,
      'forms': 'fast',
      'profile_steps': 0,
    }
  )
  config.data = ml_collections.ConfigDict(
    {
      'source': 'tfds:imagenet2012',
      'data_dir': '',
      'resolution': 128,
      'channels': 3,
      'num_classes': 1000,
      'held_out': 0.05,
      'fraction': 1.0,
      'per_class': 0,
      'crop': 'center',
      'flip': False,
    }
  )
  config.model = ml_collections.ConfigDict(
    {
      'network': 'biggan',
      'ch': 96,
      'z_dim': 120,
      'latent': 'normal',
      'shared_dim': 128,
      'skip_z': True,
      'gen_attention': (64,),
      'disc_attention': (64,),
      'disc_widths': (),
      'disc_dropout': 0.0,
      'bn_group': 0,
      'bn_eps': 1e-4,
      'dtype': 'bfloat16',
    }
  )
  config.optim = ml_collections.ConfigDict(
    {
      'batch_size': 2048,
      'd_steps': 2,
      'name': 'adam_b1_0',
      'gen_lr': 5e-5,
      'disc_lr': 2e-4,
      'b1': 0.0,
      'b2': 0.999,
      'eps': 1e-8,
      'ortho_beta': 1e-4,
      'spectral_eps': 1e-4,
      'ema_decay': 0.9999,
      'ema_start': 20_000,
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
      'name': 'none',
      'num_samples': 512,
      'standing_passes': 100,
      'standing_batch': 2048,
      'grid_columns': 10,
      'published': 'imagenet128_batch2048_studiogan',
    }
  )
  config.scores = ml_collections.ConfigDict(
    {
      'every': 0,
      'metrics': 'fid,is',
      'num': 50_000,
      'features': 'inception',
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
      'truncations': ('0.04', '0.5', '1', '2', 'none'),
      'dialect': 'resample',
    }
  )
  if variant == 'gpu8':
    config.run.minibatches = 8
    config.model.update({'bn_group': 32, 'bn_eps': 1e-5, 'dtype': 'float32'})
    config.optim.update(
      {
        'd_steps': 1,
        'gen_lr': 1e-4,
        'disc_lr': 4e-4,
        'eps': 1e-6,
        'ortho_beta': 0.0,
        'spectral_eps': 1e-6,
      }
    )
    config.eval.published = 'imagenet128_256x8_biggan_pytorch'
  elif variant == 'tiny':
    config.run.update({'steps': 2, 'log_every': 1, 'eval_every': 2, 'checkpoint_every': 2})
    config.data.update({'source': 'synthetic:64', 'num_classes': 10})
    config.model.update({'ch': 8, 'z_dim': 24, 'shared_dim': 8, 'dtype': 'float32'})
    config.optim.update({'batch_size': 8, 'd_steps': 1, 'ema_start': 1})
    config.eval.update(
      {
        'num_samples': 20,
        'standing_passes': 2,
        'standing_batch': 8,
        'grid_columns': 2,
        'published': '',
      }
    )
    config.export.update({'truncations': ('1', 'none')})
  elif variant:
    raise ValueError(f'unknown variant {variant!r}; known: gpu8, tiny')
  return config
