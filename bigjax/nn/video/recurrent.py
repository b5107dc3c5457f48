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
class Convolution:
  """The weights of a convolution of [h; x], whose first `hidden` inputs are h's."""

  kernel: Array
  bias: Array
  hidden: int


class Gate(nn.Module):
  """The parameters of a convolution of [h; x], with `hidden` and `inputs` channels."""

  hidden: int
  inputs: int
  features: int
  size: int = 3
  initializer: Initializer = orthogonal

  @nn.compact
  def __call__(self) -> Convolution:
    shape = (self.size, self.size, self.hidden + self.inputs, self.features)
    kernel = self.param('kernel', self.initializer, shape, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
    return Convolution(kernel, bias, self.hidden)


def of_x(kernels: Kernels, x: Array, gates: Sequence[Convolution]) -> list[Array]:
  """What gates make of x [B, T, H, W, D], all frames at once, biases and all: T maps of each."""
  kernel = jnp.concatenate([gate.kernel[:, :, gate.hidden :] for gate in gates], -1)
  bias = jnp.concatenate([gate.bias for gate in gates]).astype(x.dtype)
  every = each(lambda images: kernels.conv(images, kernel), x) + bias[None, None, None, None]
  return jnp.split(every, len(gates), -1)


def of_h(kernels: Kernels, h: Array, *gates: Convolution) -> list[Array]:
  """What gates make of h [B, H, W, C], one frame: a map of each, to be added to that of x."""
  kernel = jnp.concatenate([gate.kernel[:, :, : gate.hidden] for gate in gates], -1)
  return jnp.split(kernels.conv(h, kernel), len(gates), -1)


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
    gate = functools.partial(Gate, h.shape[-1], x.shape[-1], self.features, self.size)
    reset, update, candidate = (gate(name=name)() for name in ('reset', 'update', 'candidate'))
    of = functools.partial(of_h, self.kernels)

    def step(h, parts):
      x_reset, x_update, x_candidate = parts
      h_reset, h_update = of(h, reset, update)
      r, u = nn.sigmoid(x_reset + h_reset), nn.sigmoid(x_update + h_update)
      (h_candidate,) = of(r * h, candidate)
      return u * h + (1 - u) * self.activation(x_candidate + h_candidate)

    parts = of_x(self.kernels, x, (reset, update, candidate))
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
    gate = lambda name, hidden, inputs, features: Gate(hidden, inputs, features, name=name)()
    before = gate('transformation_hidden', hidden, inputs, self.features)
    transformation = gate('transformation', self.features, 0, self.size**2)
    candidate = gate('candidate', hidden, inputs, self.features)
    beside = self.features if self.order == 's' else inputs  # h, in the update's convolution
    update = gate('update', hidden, beside, self.features)
    of = functools.partial(of_h, self.kernels)

    def warped(h, shape):
      (logits,) = of(nn.relu(shape), transformation)
      return warp(h, logits + transformation.bias.astype(self.dtype)[None, None, None])

    def mixed(u, h, moved, c):
      return u * (moved if self.mix_warped else h) + (1 - u) * c

    def step_c(h, parts):
      x_before, x_candidate, x_update = parts
      h_before, h_update = of(h, before, update)
      moved = warped(h, x_before + h_before)
      (h_candidate,) = of(moved, candidate)
      c, u = nn.relu(x_candidate + h_candidate), nn.sigmoid(x_update + h_update)
      return mixed(u, h, moved, c)

    def step_p(h, parts):
      x_before, x_candidate, x_update = parts
      h_before, h_candidate, h_update = of(h, before, candidate, update)
      moved = warped(h, x_before + h_before)
      c, u = nn.relu(x_candidate + h_candidate), nn.sigmoid(x_update + h_update)
      return mixed(u, h, moved, c)

    def step_s(h, parts):
      x_before, x_candidate = parts
      moved = warped(h, x_before + of(h, before)[0])
      h_candidate, h_update = of(moved, candidate, update)
      c = nn.relu(x_candidate + h_candidate)
      (c_update,) = of_x(self.kernels, c[:, None], (update,))
      return mixed(nn.sigmoid(h_update + c_update[:, 0]), h, moved, c)

    step = {'c': step_c, 'p': step_p, 's': step_s}[self.order]
    gates = (before, candidate) if self.order == 's' else (before, candidate, update)
    parts = of_x(self.kernels, x, gates)
    return unroll(step, h, parts, self.frames, self.recompute)


def unit(name: str) -> Callable[..., nn.Module]:
  """(features, frames, ...) -> the unit of a name of UNITS."""
  if name == 'gru':
    return ConvGRU
  return functools.partial(TSRU, order=name.removeprefix('tsru_'))


UNITS = ('gru', *(f'tsru_{order}' for order in ORDERS))
