"""Recurrent units over the frames of a clip, as maps of one size (Clark et al.; Luc et al. 2020).

`ConvGRU` carries h from frame to frame through gates. `TSRU` moves h first, by a small kernel for
every pixel that it predicts: motion is then a matter of warping, not of writing h anew. Brackets
[h; x] of the papers are channels side by side, h first. What a gate makes of x is computed for all
frames at once; only what it makes of h waits for the frame before. Spectral norm is of the whole
kernel of a gate, and none of its business: weights come normalised, once for all frames.

Differences from the papers: what predicts TSRU's transformation is "shallow" there, one hidden
layer here.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.core import parallel, trees
from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.layers import Initializer, orthogonal
from bigjax.nn.microbatches import scan
from bigjax.nn.video.frames import each

Array = jax.Array
Step = Callable[[Array, Sequence[Array]], Array]  # (h, what gates make of x) -> h of the next frame


@dataclasses.dataclass(frozen=True)
class Halves:
  """A convolution of [h; x] in two parts: `of_x` has the bias, and `of_h` is added to it."""

  kernel: Array
  bias: Array
  hidden: int
  convolve: Callable[[Array, Array], Array]

  def of_x(self, x: Array) -> Array:
    """Of all frames [B, T, H, W, inputs]."""
    convolved = each(lambda images: self.convolve(images, self.kernel[:, :, self.hidden :]), x)
    return convolved + self.bias.astype(x.dtype)[None, None, None, None]

  def of_h(self, h: Array) -> Array:
    """Of one frame [B, H, W, hidden]."""
    return self.convolve(h, self.kernel[:, :, : self.hidden])


class Gate(nn.Module):
  """The parameters of a convolution of [h; x], with `hidden` and `inputs` channels."""

  hidden: int
  inputs: int
  features: int
  kernels: Kernels = FAST
  size: int = 3
  initializer: Initializer = orthogonal

  @nn.compact
  def __call__(self) -> Halves:
    shape = (self.size, self.size, self.hidden + self.inputs, self.features)
    kernel = self.param('kernel', self.initializer, shape, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
    return Halves(kernel, bias, self.hidden, self.kernels.conv)


def unroll(step: Step, h: Array, parts: Sequence[Array], frames: int, recompute: bool) -> Array:
  """h of every frame [B, T, H, W, C], from h before the first.

  Args:
    step: h of one frame from that of the frame before.
    h: [B, H, W, C].
    parts: what gates make of x, [B, T, H, W, ...], or [B, 1, ...] of an x that stays.
    frames: T.
    recompute: whether the backward pass computes a frame's gates again, and only h is kept.
  """
  later = [jnp.moveaxis(part, 1, 0) for part in parts]
  later = [jnp.broadcast_to(part, (frames, *part.shape[1:])) for part in later]
  step = jax.checkpoint(step, prevent_cse=False) if recompute else step

  def one(h, parts):
    h = step(h, parts)
    return h, h

  _, every = scan(one, parallel.to_varying(h), later)
  return jnp.moveaxis(every, 0, 1)


class ConvGRU(nn.Module):
  """h' = u h + (1 - u) c, with c of [r h; x]: (h [B, H, W, C], x [B, T or 1, H, W, D]) -> every h.

  Attributes:
    features: C.
    frames: T.
    size: of the gates' kernels.
    activation: of c; the paper's is ReLU.
  """

  features: int
  frames: int
  recompute: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32
  size: int = 3
  activation: Callable[[Array], Array] = nn.relu

  @nn.compact
  def __call__(self, h: Array, x: Array) -> Array:
    h, x = h.astype(self.dtype), x.astype(self.dtype)
    of_gate = h.shape[-1], x.shape[-1], self.features, self.kernels, self.size
    gate = functools.partial(Gate, *of_gate)
    reset, update, candidate = (gate(name=name)() for name in ('reset', 'update', 'candidate'))

    def step(h, parts):
      of_reset, of_update, of_candidate = parts
      r = nn.sigmoid(of_reset + reset.of_h(h))
      u = nn.sigmoid(of_update + update.of_h(h))
      c = self.activation(of_candidate + candidate.of_h(r * h))
      return u * h + (1 - u) * c

    parts = [gate.of_x(x) for gate in (reset, update, candidate)]
    return unroll(step, h, parts, self.frames, self.recompute)


def warp(h: Array, logits: Array) -> Array:
  """Every pixel as a mean of those around it: maps [B, H, W, C], logits [B, H, W, k k] -> maps.

  The weights are the logits' softmax, in at least float32; number p k + q is of the pixel p - k//2
  below and q - k//2 to the right. Beyond the border there are zeros.
  """
  size = round(logits.shape[-1] ** 0.5)
  weights = nn.softmax(trees.at_least_float32(logits), -1).astype(h.dtype)
  height, width, low = h.shape[1], h.shape[2], size // 2
  padded = jnp.pad(h, ((0, 0), (low, size - 1 - low), (low, size - 1 - low), (0, 0)))
  moved = [
    padded[:, p : p + height, q : q + width] * weights[..., p * size + q, None]
    for p in range(size)
    for q in range(size)
  ]
  return sum(moved[1:], moved[0])


ORDERS = ('c', 'p', 's')


class TSRU(nn.Module):
  """h' = u w(h) + (1 - u) c, where w warps h as [h; x] says; arguments as of ConvGRU.

  Orders: `c`, c is of [w(h); x] and u of [h; x]; `p`, in parallel, c and u are of [h; x]; `s`, in
  sequence, c is of [w(h); x] and u of [w(h); c].

  Attributes:
    order: one of ORDERS.
    size: k, of the kernel that warps a pixel.
    mix_warped: whether u keeps w(h); else h as it was, as the equations are sometimes printed.
  """

  features: int
  frames: int
  order: str = 's'
  size: int = 3
  mix_warped: bool = True
  recompute: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, h: Array, x: Array) -> Array:
    h, x = h.astype(self.dtype), x.astype(self.dtype)
    hidden, inputs = h.shape[-1], x.shape[-1]
    gate = lambda name, hidden, inputs, features: Gate(
      hidden, inputs, features, self.kernels, name=name
    )()
    before = gate('transformation_hidden', hidden, inputs, self.features)
    transformation = gate('transformation', self.features, 0, self.size**2)
    candidate = gate('candidate', hidden, inputs, self.features)
    of_update = self.features if self.order == 's' else inputs  # what is beside h
    update = gate('update', hidden, of_update, self.features)

    def step(h, parts):
      of_before, of_candidate, *of_update = parts
      shape = nn.relu(of_before + before.of_h(h))
      bias = transformation.bias.astype(self.dtype)[None, None, None]
      warped = warp(h, transformation.of_h(shape) + bias)
      c = nn.relu(of_candidate + candidate.of_h(h if self.order == 'p' else warped))
      if self.order == 's':
        u = nn.sigmoid(update.of_x(c[:, None])[:, 0] + update.of_h(warped))
      else:
        u = nn.sigmoid(of_update[0] + update.of_h(h))
      return u * (warped if self.mix_warped else h) + (1 - u) * c

    gates = (before, candidate) if self.order == 's' else (before, candidate, update)
    parts = [gate.of_x(x) for gate in gates]
    return unroll(step, h, parts, self.frames, self.recompute)


def unit(name: str) -> Callable[..., nn.Module]:
  """(features, frames, ...) -> the unit of a name of UNITS."""
  if name == 'gru':
    return ConvGRU
  return functools.partial(TSRU, order=name.removeprefix('tsru_'))


UNITS = ('gru', *(f'tsru_{order}' for order in ORDERS))
