"""BigGAN at 32 px on CIFAR-10, as StudioGAN trains it, and two more recipes.

  bigjax train --config cifar10 --config.data.data_dir=/data/tfds
  bigjax train --config cifar10:biggan_pytorch --config.data.data_dir=/data/tfds
  bigjax train --config cifar10:laptop --config.data.data_dir=/data/tfds

The set must have been prepared with TFDS (bigjax says how).

Hardware: one GPU. The paper says of CIFAR-10 only that with the settings of Table 1, row 8, IS is
9.22 and FID 14.73, untruncated; the networks, the number of samples and the reference set are not
stated. StudioGAN's run, whose learning curve is drawn beside ours: FID 18.4 at step 16,000, 10.9 at
32,000, 9.2 at 48,000, 8.5 at 64,000 and 8.05 (IS 9.77) at 90,000, of 10,000 samples against the
10,000 test images, with TensorFlow's Inception weights in PyTorch; twelve and a half hours with
evaluations. Images are flipped, there are five discriminator steps and no orthogonal penalty, and
Adam averages gradients, unlike in the paper.

`biggan_pytorch` is BigGAN-PyTorch's launch_cifar_ema.sh, for its 500 epochs: the conditioning of
Table 1, row 5, no attention, and BatchNorm over the 25 examples of each of two GPUs, or halves of
the batch on one. It begins from N(0, 0.02), this from orthogonal weights. No result is published.

`laptop` takes half an hour on two CPU cores (33m33s beside other work, one seed, on the 20,000
first training images of a fixed shuffle): agreement 0.36 (real images: 0.76),
fd_held_out_classifier 7.4 (from 59 at step 70; real: 0.38), precision 0.89, coverage 0.71,
std_ratio 0.99. Of the other two nothing has been measured here.
"""

import ml_collections


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Variants: '' (StudioGAN's), 'biggan_pytorch', 'laptop', 'tiny' (seconds: learns nothing)."""
  config = ml_collections.ConfigDict()
  config.algorithm = 'biggan'
  config.seed = 0
  config.init_from = ''
  config.run = ml_collections.ConfigDict(
    {
      'steps': 100_000,
      'log_every': 100,
      'eval_every': 2000,
      'checkpoint_every': 2000,
      'keep': 3,
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
      'source': 'tfds:cifar10',
      'data_dir': '',
      'resolution': 32,
      'channels': 3,
      'num_classes': 10,
      'held_out': 0.1,
      'fraction': 1.0,
      'per_class': 0,
      'crop': 'center',
      'flip': True,
    }
  )
  config.model = ml_collections.ConfigDict(
    {
      'network': 'biggan',
      'ch': 96,
      'z_dim': 80,
      'latent': 'normal',
      'shared_dim': 128,
      'skip_z': True,
      'gen_attention': (16,),
      'disc_attention': (16,),
      'disc_widths': (2, 2, 2, 2),
      'disc_dropout': 0.0,
      'bn_group': 0,
      'bn_eps': 1e-4,
      'dtype': 'float32',
    }
  )
  config.optim = ml_collections.ConfigDict(
    {
      'batch_size': 64,
      'd_steps': 5,
      'name': 'adam',
      'gen_lr': 2e-4,
      'disc_lr': 2e-4,
      'b1': 0.5,
      'b2': 0.999,
      'eps': 1e-6,
      'ortho_beta': 0.0,
      'spectral_eps': 1e-6,
      'ema_decay': 0.9999,
      'ema_start': 1000,
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
      'name': 'classifier',
      'num_samples': 2000,
      'standing_passes': 100,
      'standing_batch': 256,
      'grid_columns': 10,
      'published': 'cifar10_studiogan',
    }
  )
  config.scores = ml_collections.ConfigDict(
    {
      'every': 0,
      'metrics': 'fid,is',
      'num': 10_000,
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
      'truncations': ('0.5', '1', '2', 'none'),
      'dialect': 'resample',
    }
  )
  if variant:
    config.eval.published = ''
  if variant == 'biggan_pytorch':
    config.run.steps = 125_000
    config.data.flip = False
    config.model.update(
      {
        'ch': 64,
        'z_dim': 128,
        'shared_dim': 0,
        'skip_z': False,
        'gen_attention': (),
        'disc_attention': (),
        'disc_widths': (),
        'bn_group': 25,
        'bn_eps': 1e-5,
      }
    )
    config.optim.update(
      {
        'batch_size': 50,
        'd_steps': 4,
        'name': 'adam_b1_0',
        'b1': 0.0,
        'eps': 1e-8,
        'spectral_eps': 1e-8,
      }
    )
  elif variant == 'laptop':
    config.run.update(
      {'steps': 1400, 'log_every': 35, 'eval_every': 70, 'checkpoint_every': 350, 'keep': 2}
    )
    config.model.update({'ch': 16, 'gen_attention': (), 'disc_attention': (), 'disc_widths': ()})
    config.model.shared_dim = 32
    config.optim.update(
      {
        'batch_size': 32,
        'd_steps': 2,
        'name': 'adam_b1_0',
        'gen_lr': 7e-4,
        'disc_lr': 2e-3,
        'b1': 0.0,
        'b2': 0.99,
        'eps': 1e-8,
        'ortho_beta': 1e-4,
        'spectral_eps': 1e-4,
        'ema_decay': 0.995,
        'ema_start': 100,
      }
    )
    config.eval.update({'num_samples': 2000, 'standing_passes': 8, 'standing_batch': 128})
  elif variant == 'tiny':
    config.run.update({'steps': 4, 'log_every': 1, 'eval_every': 2, 'checkpoint_every': 2})
    config.data.source = 'synthetic:80'
    config.model.update({'ch': 8, 'z_dim': 16, 'shared_dim': 8})
    config.optim.update({'batch_size': 16, 'd_steps': 2, 'ema_start': 2})
    config.eval.update({'num_samples': 40, 'standing_passes': 2, 'standing_batch': 16})
  elif variant:
    raise ValueError(f'unknown variant {variant!r}; known: biggan_pytorch, laptop, tiny')
  return config
