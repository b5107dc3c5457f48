"""A small classifier of images or clips, for scores in features of sets without an Inception.

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
WINDOW = 3  # frames of a clip that are seen at once


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


def windows(x: Array, frames: int) -> Array:
  """Cut clips into windows of WINDOW frames: [B, H, W, T C] -> [B n, H, W, WINDOW C].

  A window begins with the last frame of the one before, so that each pair of frames that follow
  each other is in one; the last window ends with the clip. Of fewer frames there is one window.
  """
  b, h, w, _ = x.shape
  size = min(WINDOW, frames)
  starts = [*range(0, frames - size, WINDOW - 1), frames - size]
  x = x.reshape(b, h, w, frames, -1)
  x = jnp.stack([x[..., i : i + size, :] for i in starts], 1)  # [B, n, H, W, WINDOW, C]
  return x.reshape(b * len(starts), h, w, -1)


class Classifier(nn.Module):
  """uint8 images [B, H, W, C], 4 px or more -> (logits, kinds, features [B, widths[-1]]).

  Of clips, images have the frames as channels, [B, H, W, T C]; features are averages over windows,
  too, in which motion is seen.

  There are two linear heads: logits [B, num_classes], and of what may have been done to an image
  [B, num_kinds]. The features are what both see: averages over the last map of values >= 0. Maps
  are at most LARGEST_MAP wide, then half and a quarter of that for all further `widths`. BatchNorm
  keeps running averages in the collection `batch_stats`.
  """

  num_classes: int
  num_kinds: int
  widths: tuple[int, ...]
  frames: int = 1

  @nn.compact
  def __call__(self, images: Array, train: bool) -> tuple[Array, Array, Array]:
    x = windows(images, self.frames).astype(jnp.float32) / 127.5 - 1
    x = fold(x, math.ceil(x.shape[1] / LARGEST_MAP))
    for i, width in enumerate(self.widths):
      x = mean_pool(x) if i in (1, 2) else x
      x = nn.Conv(width, (3, 3), use_bias=False, precision=EXACT, name=f'conv_{i}')(x)
      x = nn.relu(nn.BatchNorm(not train, momentum=0.9, name=f'norm_{i}')(x))
    features = x.mean((1, 2)).reshape(len(images), -1, x.shape[-1]).mean(1)
    logits = nn.Dense(self.num_classes, precision=EXACT, name='linear')
    kinds = nn.Dense(self.num_kinds, precision=EXACT, name='kinds')
    return logits(features), kinds(features), features
