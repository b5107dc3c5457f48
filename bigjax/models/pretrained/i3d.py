"""I3D (Carreira & Zisserman 2017): Inception-v1 with kernels in time, for distances between clips.

The network of the Frechet video distance (Unterthiner et al. 2018), which is computed in the 400
logits of Kinetics, the mean over time. As TensorFlow pads it: SAME, on either side as much, and one
more at the end where that is odd. Names are those of the checkpoints of pytorch-i3d. BatchNorm is
as after training, products are of float32 on every backend, never of bfloat16 or TF32.

A window of the last averages that is larger than the map ends with it, so that smaller frames than
224 px can be looked at, which no published distance does.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from bigjax.core import errors
from bigjax.models.pretrained.inception import EXACT, ZEROS
from bigjax.nn import resizing

Array = jax.Array
EPSILON = 1e-3  # of BatchNorm
SIDE = 224  # pixels, of what the network sees
FEWEST = 9  # frames: of fewer, one is left for the last average of two
CLASSES = 400  # of Kinetics

# Widths of each block's branches: 1x1; 1x1 and 3x3; 1x1 and 3x3; 1x1 after a maximum.
MIXED = {
  '3b': (64, 96, 128, 16, 32, 32),
  '3c': (128, 128, 192, 32, 96, 64),
  '4b': (192, 96, 208, 16, 48, 64),
  '4c': (160, 112, 224, 24, 64, 64),
  '4d': (128, 128, 256, 24, 64, 64),
  '4e': (112, 144, 288, 32, 64, 64),
  '4f': (256, 160, 320, 32, 128, 128),
  '5b': (256, 160, 320, 32, 128, 128),
  '5c': (384, 192, 384, 48, 128, 128),
}
POOLS = {'4b': 3, '5b': 2}  # windows of maxima before a block, in steps of 2 along all axes


def max_pool(x: Array, window: tuple[int, int, int], strides: tuple[int, int, int]) -> Array:
  """Maxima; of values >= 0, what is padded does not count."""
  return nn.max_pool(x, window, strides, 'SAME')


class Unit(nn.Module):
  """Convolution, BatchNorm with stored averages, ReLU."""

  width: int
  kernel: int = 1
  stride: int = 1

  @nn.compact
  def __call__(self, x: Array) -> Array:
    size, steps = (self.kernel,) * 3, (self.stride,) * 3
    conv = nn.Conv(
      self.width, size, steps, 'SAME', use_bias=False, precision=EXACT, kernel_init=ZEROS,
      name='conv3d',
    )  # fmt: skip
    return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=EPSILON, name='bn')(conv(x)))


class Mixed(nn.Module):
  """Four branches side by side, [B, T, H, W, C] -> [B, T, H, W, w0 + w2 + w4 + w5]."""

  widths: tuple[int, ...]

  @nn.compact
  def __call__(self, x: Array) -> Array:
    w = self.widths
    parts = [
      Unit(w[0], name='b0')(x),
      Unit(w[2], 3, name='b1b')(Unit(w[1], name='b1a')(x)),
      Unit(w[4], 3, name='b2b')(Unit(w[3], name='b2a')(x)),
      Unit(w[5], name='b3b')(max_pool(x, (3, 3, 3), (1, 1, 1))),
    ]
    return jnp.concatenate(parts, -1)


class Logits(nn.Module):
  """A linear layer, with its name."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    conv = nn.Conv(CLASSES, (1, 1, 1), precision=EXACT, kernel_init=ZEROS, name='conv3d')
    return conv(x)


class I3D(nn.Module):
  """Clips [B, T, H, W, 3] in 0..255, any size, 9 frames or more -> {'features', 'logits'} [B, 400].

  Both are the same numbers.
  """

  side: int = SIDE
  dim, num_logits, clips, example = CLASSES, CLASSES, True, (FEWEST, 32, 32, 3)

  @nn.compact
  def __call__(self, clips: Array) -> dict[str, Array]:
    b, t, h, w, c = clips.shape
    if t < FEWEST:
      raise errors.UserError(
        f'the network i3d takes clips of {FEWEST} frames or more, and these have {t}; choose '
        'another network, such as --features=classifier.'
      )
    frames = clips.astype(jnp.float32).reshape(b * t, h, w, c)
    x = resizing.resize(frames, self.side, 'tf1_bilinear', EXACT) * (2 / 255) - 1
    x = x.reshape(b, t, self.side, self.side, c)
    x = Unit(64, 7, 2, name='Conv3d_1a_7x7')(x)
    x = max_pool(x, (1, 3, 3), (1, 2, 2))
    x = Unit(64, name='Conv3d_2b_1x1')(x)
    x = Unit(192, 3, name='Conv3d_2c_3x3')(x)
    x = max_pool(x, (1, 3, 3), (1, 2, 2))
    for name, widths in MIXED.items():
      if name in POOLS:
        x = max_pool(x, (POOLS[name],) * 3, (2, 2, 2))
      x = Mixed(widths, name=f'Mixed_{name}')(x)
    window = min(2, x.shape[1]), min(7, x.shape[2]), min(7, x.shape[3])
    total = lax.reduce_window(x, 0.0, lax.add, (1, *window, 1), (1,) * 5, 'VALID')
    x = total / (window[0] * window[1] * window[2])
    logits = Logits(name='logits')(x).mean((1, 2, 3))
    return {'features': logits, 'logits': logits}
