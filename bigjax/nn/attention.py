"""Attention in several equal forms, and which is fastest where."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bigjax.core import device, trees
from bigjax.nn.convolution import Array


def attend_plain(queries: Array, keys: Array, values: Array) -> Array:
  """Softmax attention without scaling: [B, Q, d], [B, K, d], [B, K, c] -> [B, Q, c].

  Queries and keys may be bfloat16, their products and the softmax are not.
  """
  logits = _logits(queries, keys)
  beta = jax.nn.softmax(logits, axis=-1).astype(values.dtype)
  return jnp.einsum('bqk,bkc->bqc', beta, values)


def _logits(queries: Array, keys: Array) -> Array:
  wide = trees.wide_dtype(queries)
  return jnp.einsum('bqc,bkc->bqk', queries, keys, preferred_element_type=wide)


SAMPLE = 8  # one in so many keys is looked at for a row's shift
ABOVE, BELOW = 40.0, 64.0  # a shift is at most so far above a row's largest logit, and below it


def row_shifts(queries: Array, keys: Array) -> Array:
  """What is taken off each row's logits before they are exponentiated: [B, Q, 1].

  Any shift gives the same softmax, so that the largest logit is not needed, which would be a pass
  over all of them. It lies between the largest of a sample of keys and |q| max|k|, by Cauchy and
  Schwarz; where that leaves the shift so uncertain that a sum might overflow or vanish, the largest
  logits of all rows are found after all.
  """
  norms = lambda x: jnp.sqrt(jnp.square(trees.at_least_float32(x)).sum(-1, keepdims=True))
  highest = norms(queries) * norms(keys).max(1, keepdims=True)
  lowest = _logits(queries, keys[:, ::SAMPLE]).max(-1, keepdims=True)

  def exact() -> Array:
    with jax.named_scope(device.SELDOM):
      return _logits(queries, keys).max(-1, keepdims=True)

  certain = jnp.all(highest - lowest <= ABOVE + BELOW)
  return lax.cond(certain, lambda: jnp.minimum(highest, lowest + ABOVE), exact)


def _weights(queries: Array, keys: Array) -> Array:
  """exp(logits - shift) in the dtype of the queries: [B, Q, K].

  The shift is two more columns of the queries, of which the second is what rounds off the first.
  """
  shifts = lax.stop_gradient(row_shifts(queries, keys))
  rounded = shifts.astype(queries.dtype)
  rest = (shifts - rounded.astype(shifts.dtype)).astype(queries.dtype)
  ones = jnp.ones_like(keys[..., :1])
  shifted = _logits(
    jnp.concatenate([queries, -rounded, -rest], -1), jnp.concatenate([keys, ones, ones], -1)
  )
  return jnp.exp(shifted).astype(queries.dtype)


def _weighted(weights: Array, values: Array) -> tuple[Array, Array]:
  """The means of values [B, Q, c] and the sums of weights [B, Q, 1]: a column more of values."""
  more = jnp.concatenate([values, jnp.ones_like(values[..., :1])], -1)
  wide = trees.wide_dtype(values)
  out = jnp.einsum('bqk,bkc->bqc', weights, more, preferred_element_type=wide)
  return out[..., :-1] / out[..., -1:], out[..., -1:]


@jax.custom_vjp
def attend_lean(queries: Array, keys: Array, values: Array) -> Array:
  """The same as `attend_plain`; of its [B, Q, K] maps, one at most is ever in memory.

  Forward none is, as both products and the exponential are one operation. For the gradient
  exp(logits - shift) is kept, and the gradient of the logits formed once for each product that it
  enters, which is again one operation. The softmax's sum is one more column of values, so that no
  map is read to normalise it.
  """
  return _weighted(_weights(queries, keys), values)[0].astype(values.dtype)


def _attend_forward(queries: Array, keys: Array, values: Array) -> tuple[Array, tuple]:
  weights = lax.optimization_barrier(_weights(queries, keys))  # or it would be formed twice
  out, total = _weighted(weights, values)
  return out.astype(values.dtype), (queries, keys, values, weights, out, total)


def _attend_backward(saved: tuple, d_out: Array) -> tuple[Array, Array, Array]:
  queries, keys, values, weights, out, total = saved
  d_out = (d_out.astype(total.dtype) / total).astype(values.dtype)
  across = (d_out.astype(total.dtype) * out).sum(-1, keepdims=True)  # what the sum takes back

  def d_logits(values: Array, d_out: Array, across: Array) -> Array:
    d_weights = jnp.einsum('bqc,bkc->bqk', d_out, values, preferred_element_type=total.dtype)
    return ((d_weights - across) * weights.astype(total.dtype)).astype(values.dtype)

  again = lax.optimization_barrier((values, d_out, across))  # or it would be stored
  return (
    jnp.einsum('bqk,bkc->bqc', d_logits(values, d_out, across), keys),
    jnp.einsum('bqk,bqc->bkc', d_logits(*again), queries),
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
