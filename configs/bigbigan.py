"""BigBiGAN (Donahue & Simonyan 2019): BigGAN without labels, and an encoder learned beside it.

  bigjax train --config bigbigan --config.data.data_dir=/data/tfds
  bigjax train --config bigbigan:revnet50x4 --config.data.data_dir=/data/tfds
  bigjax train --config bigbigan:cifar10 --config.data.data_dir=/data/tfds
  bigjax train --config bigbigan:digits
  bigjax evaluate --workdir WORKDIR --metrics linear_probe,knn_probe,reconstruction
  bigjax evaluate --workdir WORKDIR --metrics reconstruction --features classifier

The last command also tells how many reconstructions show the class of their image.

The bare name is `imagenet128`: images of 128 px, which a ResNet-50 of 91,608,880 parameters
(23,500,352 without the perceptron) sees at 256 px, and learns at ten times the generator's rate;
generator and discriminator have 70,306,116 and 160,375,076. `revnet50x4` is the paper's best
encoder, 204,205,808 (85,765,632). Published for it: 61.3 % top-1 on ImageNet of a linear classifier
on its features after BatchNorm and CReLU, 60.8 % on the plain ones, about 43 % of the nearest
neighbours; FID 22.34 at step 500,000 and 20.32 at 1,000,000, against 23.2 of BigGAN with clusters
for classes. `imagenet256` makes images of 256 px, with the
generator's attention at 128 px as BigGAN's `imagenet256` has it. The rows with a RevNet compute
activations again in the backward pass (`run.remat`), from the input of each stage: its units are
not inverted, which would spare that input as well. On a v3-128 that saves `revnet50` 0.13 of 2.35
GiB per device, by the compiler, and costs a sixth of its time: run.remat=False is better there.

The other variants make the rows of the paper's ablation. Those that begin with `base` (the encoder
at 128 px, no faster than the generator): `base,deterministic` and `base,uniform` latents,
`base,x_unary`, `base,z_unary` and `base,no_unaries` (BiGAN's loss), generators of `base,gen_ch32`
and `base,gen_ch64`. And those with `enc256` (the encoder at 256 px, as slow): `enc256,gen64`,
`enc256,imagenet256`, `enc256,resnet101`, `enc256,resnet50x2`, `enc256,revnet50`,
`enc256,revnet50x2` and `enc256,revnet50x4`. What they change is as we remember it of the paper, and
so are steps, discriminator steps, the encoder's rate and the widths of perceptrons: nothing of its
code is public, and its numbers of these rows were not at hand. Its row without an encoder is
BigGAN's `imagenet128` with data.num_classes=1.

`cifar10` and `digits` have small networks, whose encoder sees the same images as the others.

Hardware: TPU v3 pod slices in the paper. By the compiler, `imagenet128` takes 320 ms a step on a
v3-128. `digits` takes half an hour of one CPU core for 2,000 steps. Expected (one seed): precision
0.89, coverage 0.90, reconstructions of the right class 0.90; of a probe that knows one label of
each class 0.65, no more than pixels have; `cifar10` is above the untrained encoder by 2.5 points
after 1,200 steps, an hour, and not above pixels. Nothing of the others has been measured here.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """ResNet-50 at 256 px, learning fast."""
  return ml_collections.ConfigDict(
    {
      'algorithm': 'bigbigan',
      'run': {'steps': 500_000},
      'data': {
        'source': 'tfds:imagenet2012',
        'resolution': 256,
        'num_classes': 1,
        'crop': 'random',
        'flip': True,
      },
      'model': {'resolution': 128},
    }
  )


REVNET = {'model.encoder': 'revnet50', 'run.remat': True}

VARIANTS = {
  'imagenet128': {},
  'imagenet256': {'model.resolution': 0, 'model.z_dim': 140, 'model.gen_attention': (128,)},
  # Rows of the ablation are `base` or `enc256` and one of these.
  'base': {'data.resolution': 128, 'model.resolution': 0, 'optim.enc_lr_times': 1.0},
  'enc256': {'optim.enc_lr_times': 1.0},
  'deterministic': {'model.posterior': 'deterministic'},
  'uniform': {
    'model.latent': 'uniform',
    'model.posterior': 'tanh',
    'export.dialect': 'scale',  # the one that means something for it
  },
  'x_unary': {'model.unaries': ('x',)},
  'z_unary': {'model.unaries': ('z',)},
  'no_unaries': {'model.unaries': ()},
  'gen_ch32': {'model.ch': 32, 'model.disc_ch': 96},
  'gen_ch64': {'model.ch': 64, 'model.disc_ch': 96},
  'gen64': {
    'model.resolution': 64,
    'model.gen_attention': (32,),
    'model.disc_attention': (32,),
  },
  'resnet101': {'model.encoder': 'resnet101'},
  'resnet50x2': {'model.enc_ch': 128},
  'revnet50': REVNET,
  'revnet50x2': {**REVNET, 'model.enc_ch': 128},
  'revnet50x4': {**REVNET, 'model.enc_ch': 256},
  # Small.
  'cifar10': {
    'run.steps': 3000,
    'run.log_every': 50,
    'run.eval_every': 1000,
    'run.checkpoint_every': 500,
    'run.keep': 2,
    'run.keep_every': 0,
    'data.source': 'tfds:cifar10',
    'data.resolution': 32,
    'data.crop': 'center',
    'eval.name': 'classifier',
    'eval.num_samples': 2000,
    'scores.num': 10_000,
    'model.resolution': 0,
    'model.ch': 16,
    'model.z_dim': 80,
    'model.shared_dim': 32,
    'model.gen_attention': (),
    'model.disc_attention': (),
    'model.encoder': 'resnet14',
    'model.enc_ch': 16,
    'model.enc_mlp': 256,
    'model.disc_mlp': 256,
    'model.dtype': 'float32',
    'optim.batch_size': 32,
    'optim.gen_lr': 7e-4,
    'optim.disc_lr': 2e-3,
    'optim.enc_lr_times': 1.0,
    'optim.b2': 0.99,
    'optim.ema_decay': 0.995,
    'optim.ema_start': 100,
    'eval.standing_passes': 8,
    'eval.standing_batch': 128,
  },
}
