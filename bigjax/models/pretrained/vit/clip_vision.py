"""CLIP's image tower (Radford et al. 2021), ViT-L/14 at 336 px: what CMMD is a distance in.

Jayasumana et al. 2024 (Rethinking FID) compare its unit embeddings. As their code: the image's
central square, Pillow's bicubic resize of uint8, CLIP's own mean and deviation, the class token
behind the last norm and the projection, divided by its length. Names are those of transformers'
checkpoints, of which the text tower is left out. Products are of float32 on every backend, never of
bfloat16 or TF32.
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
EPSILON = 1e-5  # of layer norms
MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, of pixels in 0..1
STD = (0.26862954, 0.26130258, 0.27577711)
UNUSED = (  # beginnings of what else is in a checkpoint
  'text_model.', 'text_projection.', 'logit_scale', 'vision_model.embeddings.position_ids',
)  # fmt: skip

norm = functools.partial(nn.LayerNorm, epsilon=EPSILON, use_fast_variance=False)


def quick_gelu(x: Array) -> Array:
  """The GELU that CLIP was trained with."""
  return x * nn.sigmoid(1.702 * x)


class Table(nn.Module):
  """A vector for each place."""

  num: int
  width: int

  @nn.compact
  def __call__(self) -> Array:
    return self.param('weight', ZEROS, (self.num, self.width), jnp.float32)


class Embeddings(nn.Module):
  """Images [B, H, W, 3] -> the class token and patches, with their places, [B, 1 + N, C]."""

  width: int
  patch: int

  @nn.compact
  def __call__(self, images: Array) -> Array:
    x = patches(self.width, self.patch, 'patch_embedding', use_bias=False)(images)
    b, h, w, c = x.shape
    token = self.param('class_embedding', ZEROS, (c,), jnp.float32)
    x = jnp.concatenate([jnp.broadcast_to(token, (b, 1, c)), x.reshape(b, h * w, c)], axis=1)
    return x + Table(1 + h * w, c, name='position_embedding')()[None]


class Attention(nn.Module):
  """Attention with its projections, [B, N, C] -> [B, N, C]."""

  heads: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    c = x.shape[-1]
    q, k, v = (dense(c, name=f'{name}_proj')(x) for name in 'qkv')
    return dense(c, name='out_proj')(attend(q, k, v, self.heads))


class Mlp(nn.Module):
  """Two layers, the hidden one four times as wide."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    c = x.shape[-1]
    return dense(c, name='fc2')(quick_gelu(dense(4 * c, name='fc1')(x)))


class Layer(nn.Module):
  """Attention, then the MLP, each behind a norm."""

  heads: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = x + Attention(self.heads, name='self_attn')(norm(name='layer_norm1')(x))
    return x + Mlp(name='mlp')(norm(name='layer_norm2')(x))


class Layers(nn.Module):
  """All layers, named 0, 1, ..."""

  depth: int
  heads: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    for i in range(self.depth):
      x = Layer(self.heads, name=f'{i}')(x)
    return x


class Encoder(nn.Module):
  """The layers, under their name."""

  depth: int
  heads: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return Layers(self.depth, self.heads, name='layers')(x)


class Tower(nn.Module):
  """Images [B, H, W, 3], normalised -> the class token behind the last norm, [B, C]."""

  width: int
  depth: int
  heads: int
  patch: int

  @nn.compact
  def __call__(self, images: Array) -> Array:
    x = Embeddings(self.width, self.patch, name='embeddings')(images)
    x = norm(name='pre_layrnorm')(x)  # as it is spelt there
    x = Encoder(self.depth, self.heads, name='encoder')(x)
    return norm(name='post_layernorm')(x[:, 0])


class CLIPVision(nn.Module):
  """Images [B, H, W, 3] with pixels in 0..255, of any size -> {'features': float32 [B, dim]}.

  Attributes:
    dim: of the embeddings, which have length 1.
    width, depth, heads: of the layers.
    patch: pixels a side of what is one token.
    side: pixels that images are resized to, and the only size that it has places for.
  """

  dim: int = 768
  width: int = 1024
  depth: int = 24
  heads: int = 16
  patch: int = 14
  side: int = 336
  num_logits = 0  # it tells no classes apart

  def prepare(self, images: Array) -> Array:
    """What the network sees: float32 [B, side, side, 3]."""
    _, h, w, _ = images.shape
    least = min(h, w)
    top, left = (h - least) // 2, (w - least) // 2
    images = images[:, top : top + least, left : left + least]
    x = resizing.resize_uint8(images.astype(jnp.float32), self.side, 'pil_bicubic', EXACT)
    mean, std = (np.asarray(v, np.float32).reshape(1, 1, 1, 3) for v in (MEAN, STD))
    return (x / 255 - mean) / std

  @nn.compact
  def __call__(self, images: Array) -> dict[str, Array]:
    tower = Tower(self.width, self.depth, self.heads, self.patch, name='vision_model')
    x = dense(self.dim, use_bias=False, name='visual_projection')(tower(self.prepare(images)))
    return {'features': x / jnp.linalg.norm(x, axis=-1, keepdims=True)}
