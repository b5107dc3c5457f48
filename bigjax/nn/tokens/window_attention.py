"""Attention within windows of a map, as Swin Transformers have it (Liu et al. 2021).

A map [B, H, W, C] is cut into squares; tokens of one see each other and no others. Every second
layer shifts the squares by half their side, around the edges, where a mask keeps apart what was not
adjacent. A position enters as a bias of the logits that depends on the offset of two tokens alone.
Parameters have the names of the authors' code, and map to it by transposes.

The program differs from that code's: the bias is two small products with constants and no gather
(whose gradient is a scatter), the mask is a comparison of numbers of regions within the softmax and
no array of [windows, tokens, tokens], heads are an axis of the kernels and no transpose of the
maps. By the compiler for TPU v3, the whole layer takes 7 to 19 % less time so
(benchmarks/window_attention.py), with more memory at 32 px and less at 128; which of the three
saves what was not taken apart, and no chip ran it. Where there is neither bias nor mask, 256 tokens
and more have BigGAN's attention with heads for examples (nn/attention.py); 64 take longer with it.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bigjax.core import trees
from bigjax.nn import attention
from bigjax.nn.layers import Initializer, glorot

Array = jax.Array
MASKED = -1e9  # a logit; exp of it is 0 in any dtype, and softmax's rows are never all masked
MANY = 256  # tokens from which on a map without a bias has the attention that BigGAN's have


def partition(x: Array, side: int) -> Array:
  """Cuts maps into windows: [B, H, W, C] -> [B, H W / side^2, side^2, C], both row by row."""
  b, h, w, c = x.shape
  x = x.reshape(b, h // side, side, w // side, side, c).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, h * w // side**2, side**2, c)


def merge(x: Array, height: int, width: int) -> Array:
  """Puts windows together again, the inverse of `partition`: -> [B, height, width, C]."""
  b, _, tokens, c = x.shape
  side = round(tokens**0.5)
  x = x.reshape(b, height // side, width // side, side, side, c).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, height, width, c)


def regions(height: int, width: int, side: int, shift: int) -> np.ndarray:
  """Numbers, int32 [windows, side^2], of tokens of a map that is shifted: equal where adjacent.

  After a shift towards the origin the last `shift` rows and columns come from the other edge, so
  that the windows there hold up to four pieces of the map.
  """
  rows = np.arange(height) >= height - shift
  columns = np.arange(width) >= width - shift
  number = 2 * rows[:, None].astype(np.int32) + columns[None]
  cut = number.reshape(height // side, side, width // side, side).transpose(0, 2, 1, 3)
  return cut.reshape(-1, side**2).astype(np.int32)


def relative_bias(table: Array, side: int) -> Array:
  """The bias of every pair of tokens of a window, [heads, side^2, side^2], query before key.

  Args:
    table: [(2 side - 1)^2, heads], of offsets from key to query, row by row, from the most negative
      on.
    side: of a window.
  """
  offsets = np.arange(side)[:, None] - np.arange(side)[None] + side - 1
  which = jnp.asarray(np.eye(2 * side - 1)[offsets], table.dtype)  # [query, key, offset]
  table = table.reshape(2 * side - 1, 2 * side - 1, -1)
  einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)  # it only picks
  bias = einsum('yYa,xXah->hyxYX', which, einsum('abh,xXb->xXah', table, which))
  return bias.reshape(-1, side**2, side**2)


def attend(
  queries: Array, keys: Array, values: Array, bias: Array | None, region: np.ndarray | None
) -> Array:
  """Softmax attention in windows, scaled: three [B, windows, heads, tokens, d] -> the same.

  Logits and softmax are at least float32.

  Args:
    queries, keys, values: as above.
    bias: [heads, tokens, tokens] of the logits; None: none.
    region: of each token, [windows, tokens]: those of others are not seen; None: all are.
  """
  wide = trees.wide_dtype(queries)
  queries = queries * queries.shape[-1] ** -0.5
  if bias is None and region is None and queries.shape[-2] >= MANY:
    fold = lambda x: x.reshape(-1, *x.shape[-2:])
    return attention.attend(fold(queries), fold(keys), fold(values)).reshape(values.shape)
  logits = jnp.einsum('bnhqd,bnhkd->bnhqk', queries, keys, preferred_element_type=wide)
  if bias is not None:
    logits = logits + bias.astype(wide)[None, None]
  if region is not None:
    number = jnp.asarray(region)
    seen = number[:, :, None] == number[:, None, :]
    logits = jnp.where(seen[None, :, None], logits, MASKED)
  weights = jax.nn.softmax(logits, axis=-1).astype(values.dtype)
  return jnp.einsum('bnhqk,bnhkd->bnhqd', weights, values)


class Affine(nn.Module):
  """The kernel [in, out] and the bias [out] of a linear layer, for whoever shapes its product."""

  features: int
  initializer: Initializer

  @nn.compact
  def __call__(self, in_features: int) -> tuple[Array, Array]:
    shape = (in_features, self.features)
    bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
    return self.param('kernel', self.initializer, shape, jnp.float32), bias


class WindowAttention(nn.Module):
  """Self-attention of several heads within windows of a map [B, H, W, C].

  A window that is no smaller than the map is the map: global attention, which nothing shifts.
  `relative` adds the bias by offset; without it, attention knows no positions.
  """

  heads: int
  window: int
  shift: int = 0
  relative: bool = True
  dtype: Any = jnp.float32
  initializer: Initializer = glorot()

  @nn.compact
  def __call__(self, x: Array) -> Array:
    _, h, w, c = x.shape
    side = min(self.window, h, w)
    shift = self.shift if side < min(h, w) else 0
    by_head = (self.heads, c // self.heads)
    kernel, bias = Affine(3 * c, self.initializer, name='qkv')(c)
    kernel, bias = (part.astype(self.dtype) for part in (kernel, bias))
    x = x.astype(self.dtype)
    if shift:
      x = jnp.roll(x, (-shift, -shift), (1, 2))
    x = partition(x, side)  # [B, windows, tokens, C]
    x = jnp.einsum('bntc,cshd->sbnhtd', x, kernel.reshape(c, 3, *by_head))
    queries, keys, values = x + bias.reshape(3, 1, 1, by_head[0], 1, by_head[1])
    offsets = None
    if self.relative:
      shape = ((2 * side - 1) ** 2, self.heads)
      table = nn.initializers.truncated_normal(0.02)
      table = self.param('relative_position_bias_table', table, shape, jnp.float32)
      offsets = relative_bias(table, side)
    x = attend(queries, keys, values, offsets, regions(h, w, side, shift) if shift else None)
    kernel, bias = Affine(c, self.initializer, name='proj')(c)
    x = jnp.einsum('bnhtd,hdc->bntc', x, kernel.reshape(*by_head, c).astype(self.dtype))
    x = merge(x + bias.astype(self.dtype)[None, None, None], h, w)
    return jnp.roll(x, (shift, shift), (1, 2)) if shift else x
