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
run.microbatches so that each part has 32 examples. algorithms/biggan.py says where its code differs
otherwise. Nothing of either has been measured here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """BigGAN's defaults, bigjax/algorithms/biggan.py, are the values of the paper."""
  return ml_collections.ConfigDict(
    {
      'algorithm': 'biggan',
      'data': {'source': 'tfds:imagenet2012', 'num_classes': 1000},
      'eval': {'published': 'imagenet128_batch2048_studiogan'},
      'export': {'truncations': ('0.04', '0.5', '1', '2', 'none')},
    }
  )


VARIANTS = {
  'gpu8': {
    'run.microbatches': 8,
    'model.bn_group': 32,
    'model.bn_eps': 1e-5,
    'model.dtype': 'float32',
    'optim.d_steps': 1,
    'optim.gen_lr': 1e-4,
    'optim.disc_lr': 4e-4,
    'optim.eps': 1e-6,
    'optim.ortho_beta': 0.0,
    'optim.spectral_eps': 1e-6,
    'eval.published': 'imagenet128_256x8_biggan_pytorch',
  },
  'tiny': {  # seconds per step: does everything, learns nothing
    'run.steps': 2,
    'run.log_every': 1,
    'run.eval_every': 2,
    'run.checkpoint_every': 2,
    'run.microbatches': 1,
    'data.source': 'synthetic:64',
    'data.num_classes': 10,
    'model.ch': 8,
    'model.z_dim': 24,
    'model.shared_dim': 8,
    'model.bn_group': 0,
    'model.dtype': 'float32',
    'optim.batch_size': 8,
    'optim.d_steps': 1,
    'optim.ema_start': 1,
    'eval.num_samples': 20,
    'eval.standing_passes': 2,
    'eval.standing_batch': 8,
    'eval.grid_columns': 2,
    'eval.published': '',
    'export.truncations': ('1', 'none'),
  },
}
