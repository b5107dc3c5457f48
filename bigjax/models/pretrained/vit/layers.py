"""What vision transformers with published weights are made of: patches, attention, exact products.

Parameters bear the names of each network's checkpoint, so that norms, projections and blocks are in
the networks' own files.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.models.pretrained.inception import EXACT, ZEROS

Array = jax.Array
dense = functools.partial(nn.Dense, precision=EXACT, kernel_init=ZEROS)


def patches(width: int, patch: int, name: str, use_bias: bool = True) -> nn.Conv:
  """A layer of images [B, H, W, 3] -> patches [B, H/p, W/p, C], each by itself."""
  size = (patch, patch)
  return nn.Conv(
    width, size, size, 'VALID', use_bias=use_bias, precision=EXACT, kernel_init=ZEROS, name=name
  )


def attend(q: Array, k: Array, v: Array, heads: int) -> Array:
  """Attention of all tokens to all, [B, N, C] each -> [B, N, C]; heads lie one after the other."""
  b, n, c = q.shape
  q, k, v = (x.reshape(b, n, heads, c // heads) for x in (q * (c // heads) ** -0.5, k, v))
  scores = nn.softmax(jnp.einsum('bqhd,bkhd->bhqk', q, k, precision=EXACT))
  return jnp.einsum('bhqk,bkhd->bqhd', scores, v, precision=EXACT).reshape(b, n, c)
