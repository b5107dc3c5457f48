"""Attention in several equal forms, and which is fastest where."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bigjax.core import device
from bigjax.nn.convolution import Array


def attend_plain(queries: Array, keys: Array, values: Array) -> Array:
  """Softmax attention without scaling: [B, Q, d], [B, K, d], [B, K, c] -> [B, Q, c].

  Queries and keys may be bfloat16, their products and the softmax are not.
  """
  logits = _logits(queries, keys)
  beta = jax.nn.softmax(logits, axis=-1).astype(values.dtype)
  return jnp.einsum('bqk,bkc->bqc', beta, values)


def _logits(queries: Array, keys: Array) -> Array:
  wide = jnp.float64 if queries.dtype == jnp.float64 else jnp.float32
  return jnp.einsum('bqc,bkc->bqk', queries, keys, preferred_element_type=wide)


@jax.custom_vjp
def attend_lean(queries: Array, keys: Array, values: Array) -> Array:
  """The same as `attend_plain`; of its [B, Q, K] maps, one is kept: exp(logits - max), rounded.

  The maximum is found from logits that are computed twice rather than stored. The softmax's sum is
  one more column of values, so that no map is read to normalise it, forward or backward.
  """
  return _attend_forward(queries, keys, values)[0]


def _attend_forward(queries: Array, keys: Array, values: Array) -> tuple[Array, tuple]:
  again = lax.optimization_barrier((queries, keys))  # or the logits would be stored
  largest = _logits(*again).max(-1, keepdims=True)
  weights = jnp.exp(_logits(queries, keys) - largest).astype(values.dtype)
  more = jnp.concatenate([values, jnp.ones_like(values[..., :1])], -1)
  out = jnp.einsum('bqk,bkc->bqc', weights, more, preferred_element_type=largest.dtype)
  out, total = out[..., :-1] / out[..., -1:], out[..., -1:]
  return out.astype(values.dtype), (queries, keys, values, weights, out, total)


def _attend_backward(saved: tuple, d_out: Array) -> tuple[Array, Array, Array]:
  queries, keys, values, weights, out, total = saved
  d_out = d_out.astype(total.dtype) / total
  across = (d_out * out).sum(-1, keepdims=True)  # what the softmax's sum takes back
  d_out = d_out.astype(values.dtype)
  d_weights = jnp.einsum('bqc,bkc->bqk', d_out, values, preferred_element_type=total.dtype)
  d_logits = ((d_weights - across) * weights.astype(total.dtype)).astype(values.dtype)
  return (
    jnp.einsum('bqk,bkc->bqc', d_logits, keys),
    jnp.einsum('bqk,bqc->bkc', d_logits, queries),
    jnp.einsum('bqk,bqc->bkc', weights, d_out),
  )


attend_lean.defvjp(_attend_forward, _attend_backward)


def _cudnn(queries: Array, keys: Array, values: Array) -> Array:
  c = values.shape[-1]
  width = -(-max(c, queries.shape[-1]) // 8) * 8
  q, k, v = (
    jnp.pad(x, ((0, 0), (0, 0), (0, width - x.shape[-1])))[:, :, None]  # one head
    for x in (queries, keys, values)
  )
  return jax.nn.dot_product_attention(q, k, v, scale=1.0, implementation='cudnn')[:, :, 0, :c]


def _lean_grads(queries: Array, keys: Array, values: Array, d_out: Array) -> tuple[Array, ...]:
  return jax.vjp(attend_lean, queries, keys, values)[1](d_out)


def _with_derivatives_of(twin: Callable[..., Any], fn: Callable[..., Any]) -> Callable[..., Any]:
  """Return `fn` where it is computed, and its equal `twin` where it is differentiated."""
  fn = jax.custom_vjp(fn)
  fn.defvjp(lambda *args: jax.vjp(twin, *args), lambda pullback, d: pullback(d))
  return fn


# Both contain cuDNN's forward pass, as the same operations: XLA runs it once.
_fused_out = _with_derivatives_of(attend_lean, lambda *args: jax.vjp(_cudnn, *args)[0])
_fused_grads = _with_derivatives_of(
  _lean_grads, lambda *args: jax.vjp(_cudnn, *args[:3])[1](args[3])
)


@jax.custom_vjp
def attend_fused(queries: Array, keys: Array, values: Array) -> Array:
  """The same as `attend_plain`, by cuDNN: none of its [B, Q, K] maps is ever in memory.

  For bfloat16 on NVIDIA's Ampere and later. cuDNN wants queries, keys and values of one width:
  zeros are appended, and change no product. cuDNN's gradient cannot be differentiated; where that
  is asked for, it is that of `attend_lean`.
  """
  return _cudnn(queries, keys, values)


attend_fused.defvjp(
  lambda *args: (_fused_out(*args), args), lambda args, d_out: _fused_grads(*args, d_out)
)

WIDEST = 128  # columns of values that cuDNN's fused attention takes on all GPUs that have it


def attend(queries: Array, keys: Array, values: Array) -> Array:
  """`attend_plain`, `attend_lean` or `attend_fused`, whichever is faster."""
  if device.device_kind() in ('cpu', device.ANY):
    return attend_plain(queries, keys, values)
  fused = device.has_fused_attention() and values.dtype == jnp.bfloat16
  fused = fused and values.shape[-1] <= WIDEST
  return (attend_fused if fused else attend_lean)(queries, keys, values)
