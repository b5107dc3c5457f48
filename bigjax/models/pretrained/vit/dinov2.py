"""DINOv2 (Oquab et al. 2023): vision transformers without labels, for distances (FD-DINOv2).

Stein et al. 2023 (Exposing flaws of generative model evaluation metrics) found the Frechet distance
in the features of ViT-L/14 to agree with people, where that of the Inception does not. As their
code, dgm-eval, computes it: Pillow's bicubic resize of uint8 images to 224 px, ImageNet's mean and
deviation, and of the last norm the class token. Names are those of the official checkpoints, which
have no registers. Products are of float32 on every backend, never of bfloat16 or TF32.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bigjax.models.pretrained.inception import EXACT, ZEROS
from bigjax.models.pretrained.vit.layers import attend, dense, patches
from bigjax.nn import resizing

Array = jax.Array
EPSILON = 1e-6  # of layer norms
SIDE = 224  # pixels, of what the network sees
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of pixels in 0..1


def position_matrix(grid: int, new: int) -> np.ndarray:
  """The matrix [new, grid] by which the official code brings positions to another grid.

  Torch's bicubic `interpolate` without antialias, by the factor (new + 0.1) / grid, which it also
  takes for where the new positions lie: they are not spread evenly over the old grid.
  """
  at = (np.arange(new) + 0.5) * (grid / (new + 0.1)) - 0.5
  low = np.floor(at).astype(int)
  matrix = np.zeros((new, grid))
  for tap in range(-1, 3):
    column = np.clip(low + tap, 0, grid - 1)  # beyond the edge lies its last value
    np.add.at(matrix, (np.arange(new), column), resizing.cubic(at - low - tap, -0.75))
  return matrix


norm = functools.partial(nn.LayerNorm, epsilon=EPSILON, use_fast_variance=False)


class Attention(nn.Module):
  """Attention with its projections, [B, N, C] -> [B, N, C]."""

  heads: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    c = x.shape[-1]
    q, k, v = jnp.split(dense(3 * c, name='qkv')(x), 3, axis=-1)
    return dense(c, name='proj')(attend(q, k, v, self.heads))


class Mlp(nn.Module):
  """Two layers, the hidden one four times as wide, with the exact GELU."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    c = x.shape[-1]
    return dense(c, name='fc2')(nn.gelu(dense(4 * c, name='fc1')(x), approximate=False))


class LayerScale(nn.Module):
  """A factor for each channel."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    gamma = self.param('gamma', nn.initializers.ones, (x.shape[-1],), jnp.float32)
    return x * gamma[None, None]


class Block(nn.Module):
  """Attention, then the MLP, each behind a norm and added with a factor."""

  heads: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = x + LayerScale(name='ls1')(Attention(self.heads, name='attn')(norm(name='norm1')(x)))
    return x + LayerScale(name='ls2')(Mlp(name='mlp')(norm(name='norm2')(x)))


class Blocks(nn.Module):
  """All blocks, named 0, 1, ..."""

  depth: int
  heads: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    for i in range(self.depth):
      x = Block(self.heads, name=f'{i}')(x)
    return x


class PatchEmbed(nn.Module):
  """Images [B, H, W, 3] -> patches [B, H/p, W/p, C]."""

  width: int
  patch: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return patches(self.width, self.patch, 'proj')(x)


class DINOv2(nn.Module):
  """Images [B, H, W, 3] with pixels in 0..255, of any size -> {'features': float32 [B, width]}.

  Attributes:
    width, depth, heads: of the blocks.
    patch: pixels a side of what is one token.
    grid: patches a side that it has positions for, 37: of images of 518 px.
    side: pixels that images are resized to.
  """

  width: int
  depth: int
  heads: int
  patch: int = 14
  grid: int = 37
  side: int = SIDE
  num_logits = 0  # it tells no classes apart

  @property
  def dim(self) -> int:
    return self.width

  def prepare(self, images: Array) -> Array:
    """What the network sees: float32 [B, side, side, 3]."""
    x = resizing.resize_uint8(images.astype(jnp.float32), self.side, 'pil_bicubic', EXACT)
    mean, std = (np.asarray(v, np.float32).reshape(1, 1, 1, 3) for v in (MEAN, STD))
    return (x / 255 - mean) / std

  def positions(self, stored: Array, new: int) -> Array:
    """Positions [1, 1 + new^2, C] of the class token and a grid of `new` patches a side."""
    own, rest = stored[:, :1], stored[:, 1:].reshape(self.grid, self.grid, -1)
    if new != self.grid:
      matrix = jnp.asarray(position_matrix(self.grid, new), jnp.float32)
      rest = jnp.einsum('yh,xw,hwc->yxc', matrix, matrix, rest, precision=EXACT)
    return jnp.concatenate([own, rest.reshape(1, new * new, -1)], axis=1)

  @nn.compact
  def __call__(self, images: Array) -> dict[str, Array]:
    x = PatchEmbed(self.width, self.patch, name='patch_embed')(self.prepare(images))
    b, new, _, c = x.shape  # [B, 16, 16, C]
    token = self.param('cls_token', ZEROS, (1, 1, c), jnp.float32)
    stored = self.param('pos_embed', ZEROS, (1, 1 + self.grid**2, c), jnp.float32)
    x = jnp.concatenate([jnp.broadcast_to(token, (b, 1, c)), x.reshape(b, new * new, c)], axis=1)
    x = Blocks(self.depth, self.heads, name='blocks')(x + self.positions(stored, new))
    return {'features': norm(name='norm')(x[:, 0])}


NETWORKS = {
  'vits14': functools.partial(DINOv2, width=384, depth=12, heads=6),
  'vitb14': functools.partial(DINOv2, width=768, depth=12, heads=12),
  'vitl14': functools.partial(DINOv2, width=1024, depth=24, heads=16),
}
