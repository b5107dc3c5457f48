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
std_ratio 0.99, in the features of a classifier that did not yet learn distortions; today's is
stricter. Of the other two nothing has been measured here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """StudioGAN's."""
  return ml_collections.ConfigDict(
    {
      'algorithm': 'biggan',
      'run': {
        'steps': 100_000,
        'eval_every': 2000,
        'checkpoint_every': 2000,
        'keep_every': 0,
        'best': 'coverage',
      },
      'data': {
        'source': 'tfds:cifar10',
        'resolution': 32,
        'num_classes': 10,
        'held_out': 0.1,
        'flip': True,
      },
      'model': {
        'z_dim': 80,
        'gen_attention': (16,),
        'disc_attention': (16,),
        'disc_widths': (2, 2, 2, 2),
        'dtype': 'float32',
      },
      'optim': {
        'batch_size': 64,
        'd_steps': 5,
        'name': 'adam',
        'gen_lr': 2e-4,
        'b1': 0.5,
        'eps': 1e-6,
        'ortho_beta': 0.0,
        'spectral_eps': 1e-6,
        'ema_start': 1000,
      },
      'eval': {
        'name': 'classifier',
        'num_samples': 2000,
        'standing_batch': 256,
        'published': 'cifar10_studiogan',
      },
      'scores': {'num': 10_000},
    }
  )


VARIANTS = {
  'biggan_pytorch': {
    'run.steps': 125_000,
    'data.flip': False,
    'model.ch': 64,
    'model.z_dim': 128,
    'model.shared_dim': 0,
    'model.skip_z': False,
    'model.gen_attention': (),
    'model.disc_attention': (),
    'model.disc_widths': (),
    'model.bn_group': 25,
    'model.bn_eps': 1e-5,
    'optim.batch_size': 50,
    'optim.d_steps': 4,
    'optim.name': 'adam_b1_0',
    'optim.b1': 0.0,
    'optim.eps': 1e-8,
    'optim.spectral_eps': 1e-8,
    'eval.published': '',
  },
  'laptop': {
    'run.steps': 1400,
    'run.log_every': 35,
    'run.eval_every': 70,
    'run.checkpoint_every': 350,
    'run.keep': 2,
    'model.ch': 16,
    'model.shared_dim': 32,
    'model.gen_attention': (),
    'model.disc_attention': (),
    'model.disc_widths': (),
    'optim.batch_size': 32,
    'optim.d_steps': 2,
    'optim.name': 'adam_b1_0',
    'optim.gen_lr': 7e-4,
    'optim.disc_lr': 2e-3,
    'optim.b1': 0.0,
    'optim.b2': 0.99,
    'optim.eps': 1e-8,
    'optim.ortho_beta': 1e-4,
    'optim.spectral_eps': 1e-4,
    'optim.ema_decay': 0.995,
    'optim.ema_start': 100,
    'eval.standing_passes': 8,
    'eval.standing_batch': 128,
    'eval.published': '',
  },
  'tiny': {  # seconds: learns nothing
    'run.steps': 4,
    'run.log_every': 1,
    'run.eval_every': 2,
    'run.checkpoint_every': 2,
    'data.source': 'synthetic:80',
    'model.ch': 8,
    'model.z_dim': 16,
    'model.shared_dim': 8,
    'model.bn_group': 0,
    'optim.batch_size': 16,
    'optim.d_steps': 2,
    'optim.ema_start': 2,
    'eval.num_samples': 40,
    'eval.standing_passes': 2,
    'eval.standing_batch': 16,
    'eval.published': '',
  },
}
