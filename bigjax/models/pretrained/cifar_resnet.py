"""The CIFAR ResNet of He et al. 2015, section 4.2, for features that need no download.

As in akamaster/pytorch_resnet_cifar10, whose names it has: shortcuts of option A (every second
pixel, zeros for new channels), input by ImageNet's mean and deviation. BatchNorm is as after
training, products are of float32 on every backend, never of bfloat16 or TF32.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array
EXACT = lax.Precision.HIGHEST
SIDE = 32  # pixels, of what the network sees
CLASSES = (
  'airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck',
)  # fmt: skip
WIDTHS = (16, 32, 64)
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def conv(width: int, stride: int, name: str) -> nn.Conv:
  """A 3x3 convolution with one pixel of zeros around, in steps of 2 too, as torch pads."""
  padding = ((1, 1), (1, 1))
  exact = {'precision': EXACT, 'kernel_init': nn.initializers.zeros}  # weights come from files
  return nn.Conv(width, (3, 3), stride, padding, use_bias=False, name=name, **exact)


def norm(name: str) -> nn.BatchNorm:
  return nn.BatchNorm(use_running_average=True, epsilon=1e-5, name=name)


def shortcut(x: Array, width: int, stride: int) -> Array:
  """Return every `stride`th pixel, with as many zero channels before as after x's: option A."""
  more = width - x.shape[-1]
  x = x[:, ::stride, ::stride]
  return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (more // 2, more // 2)))


class Block(nn.Module):
  """[B, H, W, C] -> [B, H/stride, W/stride, width]."""

  width: int
  stride: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    y = nn.relu(norm('bn1')(conv(self.width, self.stride, 'conv1')(x)))
    y = norm('bn2')(conv(self.width, 1, 'conv2')(y))
    return nn.relu(y + shortcut(x, self.width, self.stride))


class Layer(nn.Module):
  """Blocks named 0, 1, ... of which the first may halve the map."""

  width: int
  stride: int
  num_blocks: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    for i in range(self.num_blocks):
      x = Block(self.width, self.stride if i == 0 else 1, name=str(i))(x)
    return x


class CifarResNet(nn.Module):
  """uint8 images [B, 32, 32, 3] -> {'features': [B, 64], 'logits': [B, num_logits]}, float32."""

  num_blocks: int  # at each resolution: 6 num_blocks + 2 layers
  num_logits: int = 10

  @property
  def dim(self) -> int:
    return WIDTHS[-1]

  @nn.compact
  def __call__(self, images: Array) -> dict[str, Array]:
    mean, std = (np.asarray(v, np.float32).reshape(1, 1, 1, 3) for v in (MEAN, STD))
    x = (images.astype(jnp.float32) / 255 - mean) / std
    x = nn.relu(norm('bn1')(conv(WIDTHS[0], 1, 'conv1')(x)))
    for i, width in enumerate(WIDTHS):
      x = Layer(width, 1 if i == 0 else 2, self.num_blocks, name=f'layer{i + 1}')(x)
    features = x.mean((1, 2))  # [B, 64]
    logits = nn.Dense(self.num_logits, precision=EXACT, name='linear')(features)
    return {'features': features, 'logits': logits}


NETWORKS: dict[str, Callable[[], CifarResNet]] = {
  'resnet56': functools.partial(CifarResNet, num_blocks=9),
  'tiny': functools.partial(CifarResNet, num_blocks=1),
}
