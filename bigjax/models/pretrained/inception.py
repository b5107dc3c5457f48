"""Inception-v3 (Szegedy et al. 2015) as the network of FID and Inception score, in four recipes.

Scores depend on more than weights. `fid` is the TensorFlow graph of 2015-12-05, as torch-fidelity
runs it: TensorFlow 1's bilinear resize, then (x - 128) / 128. `pytorch_fid` is the same network
behind torch's resize, then x / 127.5 - 1, as pytorch-fid runs it. `clean` is the same network again
behind Pillow's bicubic resize, which widens its filter where images become smaller, of each channel
in floats that are not rounded, cut off at 0 and 255: clean-fid's (Parmar et al. 2022).
`torchvision` has other weights and poolings, and is fed as BigGAN-PyTorch feeds it: normalised by
ImageNet's mean and deviation (which torchvision itself undoes, `transform_input`), resized with
corners aligned.

Names are those of the torch checkpoints. BatchNorm is as after training, products are of float32 on
every backend, never of bfloat16 or TF32.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bigjax.nn import resizing

Array = jax.Array
EXACT = lax.Precision.HIGHEST
EPSILON = 1e-3  # of BatchNorm
SIDE = 299  # pixels, of what the network sees
SPATIAL = 7  # channels of a map of 17x17 that are features of places
ZEROS = nn.initializers.zeros  # weights come from files


def resize(images: Array, side: int, resizer: str) -> Array:
  """Resize float32 images [B, H, W, C] of any size to [B, side, side, C]."""
  return resizing.resize(images, side, resizer, EXACT)


def max_pool(x: Array) -> Array:
  """3x3 max pooling in steps of 2, without padding."""
  return nn.max_pool(x, (3, 3), (2, 2))


def average_pool(x: Array, padded: bool) -> Array:
  """3x3 averages in steps of 1; beyond the edge lie zeros that count (`padded`), or nothing."""
  _, h, w, _ = x.shape
  total = lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), 'SAME')
  if padded:
    return total / 9
  rows, columns = (np.convolve(np.ones(n), np.ones(3), 'same') for n in (h, w))
  return total / np.outer(rows, columns).astype(np.float32)[None, :, :, None]


# Poolings in steps of 1, [B, H, W, C] -> [B, H, W, C]. TensorFlow averages what lies within the
# edges, torchvision the padding too. The graph of 2015 has one maximum, as if by mistake, where all
# others average.
POOLS: dict[str, Callable[[Array], Array]] = {
  'average': functools.partial(average_pool, padded=False),
  'average_of_padded': functools.partial(average_pool, padded=True),
  'max': functools.partial(nn.max_pool, window_shape=(3, 3), padding='SAME'),
}


class ConvNorm(nn.Module):
  """Convolution, BatchNorm with stored averages, ReLU; in steps of 2 there is no padding."""

  width: int
  kernel: tuple[int, int]
  stride: int = 1
  padding: str = 'SAME'

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = nn.Conv(
      self.width,
      self.kernel,
      self.stride,
      'VALID' if self.stride > 1 else self.padding,
      use_bias=False,
      precision=EXACT,
      kernel_init=ZEROS,
      name='conv',
    )(x)
    return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=EPSILON, name='bn')(x))


def chain(x: Array, name: str, *convs: tuple) -> Array:
  """Apply convolutions `name`_1, `name`_2, ..., each (width, kernel[, stride])."""
  for i, conv in enumerate(convs, 1):
    x = ConvNorm(*conv, name=f'{name}_{i}')(x)
  return x


class BlockA(nn.Module):
  """[B, 35, 35, C] -> [B, 35, 35, 224 + pooled]."""

  pooled: int
  pool: str

  @nn.compact
  def __call__(self, x: Array) -> Array:
    parts = [
      ConvNorm(64, (1, 1), name='branch1x1')(x),
      chain(x, 'branch5x5', (48, (1, 1)), (64, (5, 5))),
      chain(x, 'branch3x3dbl', (64, (1, 1)), (96, (3, 3)), (96, (3, 3))),
      ConvNorm(self.pooled, (1, 1), name='branch_pool')(POOLS[self.pool](x)),
    ]
    return jnp.concatenate(parts, -1)


class BlockB(nn.Module):
  """[B, 35, 35, C] -> [B, 17, 17, C + 480]."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    parts = [
      ConvNorm(384, (3, 3), 2, name='branch3x3')(x),
      chain(x, 'branch3x3dbl', (64, (1, 1)), (96, (3, 3)), (96, (3, 3), 2)),
      max_pool(x),
    ]
    return jnp.concatenate(parts, -1)


class BlockC(nn.Module):
  """[B, 17, 17, C] -> [B, 17, 17, 768]; 7x7 convolutions in two, within `inner` channels."""

  inner: int
  pool: str

  @nn.compact
  def __call__(self, x: Array) -> Array:
    inner, across, down = self.inner, (1, 7), (7, 1)
    parts = [  # the first part is what features of places are of
      ConvNorm(192, (1, 1), name='branch1x1')(x),
      chain(x, 'branch7x7', (inner, (1, 1)), (inner, across), (192, down)),
      chain(
        x,
        'branch7x7dbl',
        (inner, (1, 1)),
        (inner, down),
        (inner, across),
        (inner, down),
        (192, across),
      ),
      ConvNorm(192, (1, 1), name='branch_pool')(POOLS[self.pool](x)),
    ]
    return jnp.concatenate(parts, -1)


class BlockD(nn.Module):
  """[B, 17, 17, C] -> [B, 8, 8, C + 512]."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    parts = [
      chain(x, 'branch3x3', (192, (1, 1)), (320, (3, 3), 2)),
      chain(x, 'branch7x7x3', (192, (1, 1)), (192, (1, 7)), (192, (7, 1)), (192, (3, 3), 2)),
      max_pool(x),
    ]
    return jnp.concatenate(parts, -1)


def fork(x: Array, name: str) -> list[Array]:
  """Return a 3x3 convolution's two halves side by side, `name`a across and `name`b down."""
  return [
    ConvNorm(384, (1, 3), name=f'{name}a')(x),
    ConvNorm(384, (3, 1), name=f'{name}b')(x),
  ]


class BlockE(nn.Module):
  """[B, 8, 8, C] -> [B, 8, 8, 2048]."""

  pool: str

  @nn.compact
  def __call__(self, x: Array) -> Array:
    double = chain(x, 'branch3x3dbl', (448, (1, 1)), (384, (3, 3)))
    parts = [
      ConvNorm(320, (1, 1), name='branch1x1')(x),
      *fork(chain(x, 'branch3x3', (384, (1, 1))), 'branch3x3_2'),
      *fork(double, 'branch3x3dbl_3'),
      ConvNorm(192, (1, 1), name='branch_pool')(POOLS[self.pool](x)),
    ]
    return jnp.concatenate(parts, -1)


class Linear(nn.Module):
  """A linear layer that may leave its bias out, though it has one."""

  width: int
  add_bias: bool

  @nn.compact
  def __call__(self, x: Array) -> Array:
    shape = (x.shape[-1], self.width)
    kernel = self.param('kernel', ZEROS, shape, jnp.float32)
    bias = self.param('bias', ZEROS, (self.width,), jnp.float32)
    x = jnp.matmul(x, kernel, precision=EXACT)
    return x + bias[None] if self.add_bias else x


class Inception(nn.Module):
  """uint8 images [B, H, W, 3] of any size -> {'features': [B, 2048], 'logits', 'spatial'}.

  Float32 all. The logits [B, num_logits] are those that the recipe's reference computes the
  Inception score of: TensorFlow's code, and torch-fidelity after it, leave out the last bias.
  Features of places, 'spatial' [B, 2023], are the first 7 channels of mixed_6/conv of the graph of
  2015, the 1x1 branch of Mixed_6d after its ReLU: what guided-diffusion's evaluator has sFID in.
  """

  resizer: str
  mean: tuple[float, float, float]  # of pixels in 0..255
  std: tuple[float, float, float]
  pool: str  # of all blocks but the last
  last_pool: str
  num_logits: int
  bias_of_logits: bool
  clip: bool = False  # to 0..255, what a filter with negative weights leads out of that

  @property
  def dim(self) -> int:
    return 2048

  @property
  def spatial(self) -> int:
    return 17 * 17 * SPATIAL

  def prepare(self, images: Array) -> Array:
    """Input of the first convolution: float32 [B, 299, 299, 3]."""
    x = resize(images.astype(jnp.float32), SIDE, self.resizer)
    x = jnp.clip(x, 0, 255) if self.clip else x
    mean, std = (np.asarray(v, np.float32).reshape(1, 1, 1, 3) for v in (self.mean, self.std))
    return (x - mean) / std

  @nn.compact
  def __call__(self, images: Array) -> dict[str, Array]:
    x = self.prepare(images)
    x = ConvNorm(32, (3, 3), 2, name='Conv2d_1a_3x3')(x)  # [B, 149, 149, 32]
    x = ConvNorm(32, (3, 3), padding='VALID', name='Conv2d_2a_3x3')(x)
    x = max_pool(ConvNorm(64, (3, 3), name='Conv2d_2b_3x3')(x))  # [B, 73, 73, 64]
    x = ConvNorm(80, (1, 1), name='Conv2d_3b_1x1')(x)
    x = max_pool(ConvNorm(192, (3, 3), padding='VALID', name='Conv2d_4a_3x3')(x))
    for name, pooled in (('5b', 32), ('5c', 64), ('5d', 64)):
      x = BlockA(pooled, self.pool, name=f'Mixed_{name}')(x)  # [B, 35, 35, 256 or 288]
    x = BlockB(name='Mixed_6a')(x)
    spatial = None
    for name, inner in (('6b', 128), ('6c', 160), ('6d', 160), ('6e', 192)):
      x = BlockC(inner, self.pool, name=f'Mixed_{name}')(x)  # [B, 17, 17, 768]
      spatial = x[..., :SPATIAL] if name == '6d' else spatial
    x = BlockD(name='Mixed_7a')(x)
    x = BlockE(self.pool, name='Mixed_7b')(x)
    x = BlockE(self.last_pool, name='Mixed_7c')(x)  # [B, 8, 8, 2048]
    features = x.mean((1, 2))
    logits = Linear(self.num_logits, self.bias_of_logits, name='fc')(features)
    spatial = spatial.reshape(-1, self.spatial)
    return {'features': features, 'logits': logits, 'spatial': spatial}


def _scaled(values: tuple[float, ...]) -> tuple[float, ...]:
  return tuple(255 * value for value in values)


_FID = functools.partial(
  Inception,
  resizer='tf1_bilinear',
  mean=(128.0,) * 3,
  std=(128.0,) * 3,
  pool='average',
  last_pool='max',
  num_logits=1008,
  bias_of_logits=False,
)
RECIPES: dict[str, Callable[[], Inception]] = {
  'fid': _FID,
  'pytorch_fid': functools.partial(
    _FID,
    resizer='torch_bilinear',
    mean=(127.5,) * 3,
    std=(127.5,) * 3,
    bias_of_logits=True,  # pytorch-fid has no Inception score: all of the network
  ),
  # clean-fid has no Inception score: logits are those of `fid`.
  'clean': functools.partial(_FID, resizer='pil_bicubic', clip=True),
  'torchvision': functools.partial(
    Inception,
    resizer='torch_bilinear_corners',
    mean=_scaled((0.485, 0.456, 0.406)),
    std=_scaled((0.229, 0.224, 0.225)),
    pool='average_of_padded',
    last_pool='average_of_padded',
    num_logits=1000,
    bias_of_logits=True,
  ),
}
