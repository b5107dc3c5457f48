"""How many FLOPs a function needs, counted in what JAX traces: nothing is compiled or run."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval


def pairs(
  sizes: tuple[int, int, int], stride: int, low: int, in_dilation: int, kernel_dilation: int
) -> int:
  """Return how many pairs of output pixel and tap, along one axis, meet a pixel of the input.

  Args:
    sizes: of input, kernel and output.
    stride, low, in_dilation, kernel_dilation: of the convolution; `low` is the padding before.
  """
  num_in, num_taps, num_out = sizes
  at = np.arange(num_out)[:, None] * stride - low + np.arange(num_taps) * kernel_dilation
  return int(((at >= 0) & (at % in_dilation == 0) & (at // in_dilation < num_in)).sum())


def needed(fn: Callable[..., Any], *args: Any, without: tuple[str, ...] = ()) -> int:
  """Return 2 x the multiply-adds of all convolutions and matrix products in `fn(*args)`.

  Loops count as often as they run, of branches the dearest; what no result depends on, and taps of
  a convolution that meet padding or the zeros of a dilated input, do not count.

  Args:
    fn: any function that JAX can trace.
    args: arrays, or shapes.
    without: names of scopes (`jax.named_scope`) whose work is left out.
  """
  jaxpr = jax.make_jaxpr(fn)(*args).jaxpr
  used, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return _of(used, without)


def _of(jaxpr: core.Jaxpr, without: tuple[str, ...]) -> int:
  total = 0
  for eqn in jaxpr.eqns:
    scopes = str(eqn.source_info.name_stack).split('/')
    if any(name in scope for name in without for scope in scopes):
      continue
    name = eqn.primitive.name
    if name == 'dot_general':
      total += _dot(eqn)
    elif name == 'conv_general_dilated':
      total += _convolution(eqn)
    elif name == 'cond':
      total += max(_of(branch.jaxpr, without) for branch in eqn.params['branches'])
    elif name == 'while':
      if any(_of(eqn.params[part].jaxpr, without) for part in ('body_jaxpr', 'cond_jaxpr')):
        raise ValueError('a while loop holds products, and how often it runs is not known')
    else:
      times = eqn.params['length'] if name == 'scan' else 1
      inner = [_inner(value) for value in eqn.params.values()]
      total += times * sum(_of(found, without) for found in inner if found is not None)
  return total


def _inner(value: Any) -> core.Jaxpr | None:
  if isinstance(value, core.ClosedJaxpr):
    return value.jaxpr
  return value if isinstance(value, core.Jaxpr) else None


def _dot(eqn: Any) -> int:
  (contracted, _), _ = eqn.params['dimension_numbers']
  left = eqn.invars[0].aval.shape
  return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[d] for d in contracted)


def _convolution(eqn: Any) -> int:
  numbers, given = eqn.params['dimension_numbers'], eqn.params
  left, right = (v.aval.shape for v in eqn.invars[:2])
  out = eqn.outvars[0].aval.shape
  met = 1
  for i, (axis_in, axis_k, axis_out) in enumerate(
    zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)
  ):
    met *= pairs(
      (left[axis_in], right[axis_k], out[axis_out]),
      given['window_strides'][i],
      given['padding'][i][0],
      given['lhs_dilation'][i],
      given['rhs_dilation'][i],
    )
  examples, features = out[numbers.out_spec[0]], out[numbers.out_spec[1]]
  return 2 * met * examples * features * right[numbers.rhs_spec[1]]
