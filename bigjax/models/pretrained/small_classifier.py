"""A small image classifier, for scores that need features of real images and have no Inception.

Ours, after no paper: plain enough to train in a minute or so on two CPU cores. Pooling goes before
convolutions, which costs little accuracy and saves most of the work. Products are of float32 on
every backend, never of bfloat16 or TF32.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array
EXACT = lax.Precision.HIGHEST
LARGEST_MAP = 16  # pixels along a side, of what the first convolution sees


def fold(x: Array, factor: int) -> Array:
  """Put squares of pixels into channels: [B, H, W, C] -> [B, H/f, W/f, f f C], zeros on the rim."""
  b, h, w, c = x.shape
  x = jnp.pad(x, ((0, 0), (0, -h % factor), (0, -w % factor), (0, 0)))
  h, w = -(-h // factor), -(-w // factor)
  x = x.reshape(b, h, factor, w, factor, c).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, h, w, factor * factor * c)


def mean_pool(x: Array) -> Array:
  """2x2 average pooling: [B, H, W, C] -> [B, H/2, W/2, C]; an odd last row or column is cut."""
  b, h, w, c = x.shape
  x = x[:, : h // 2 * 2, : w // 2 * 2]
  return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


class Classifier(nn.Module):
  """uint8 images [B, H, W, C], 4 px or more -> (logits, kinds, features [B, widths[-1]]).

  There are two linear heads: logits [B, num_classes], and of what may have been done to an image
  [B, num_kinds]. The features are what both see: averages over the last map of values >= 0. Maps
  are at most LARGEST_MAP wide, then half and a quarter of that for all further `widths`. BatchNorm
  keeps running averages in the collection `batch_stats`.
  """

  num_classes: int
  num_kinds: int
  widths: tuple[int, ...]

  @nn.compact
  def __call__(self, images: Array, train: bool) -> tuple[Array, Array, Array]:
    x = images.astype(jnp.float32) / 127.5 - 1
    x = fold(x, math.ceil(x.shape[1] / LARGEST_MAP))
    for i, width in enumerate(self.widths):
      x = mean_pool(x) if i in (1, 2) else x
      x = nn.Conv(width, (3, 3), use_bias=False, precision=EXACT, name=f'conv_{i}')(x)
      x = nn.relu(nn.BatchNorm(not train, momentum=0.9, name=f'norm_{i}')(x))
    features = x.mean((1, 2))
    logits = nn.Dense(self.num_classes, precision=EXACT, name='linear')
    kinds = nn.Dense(self.num_kinds, precision=EXACT, name='kinds')
    return logits(features), kinds(features), features
