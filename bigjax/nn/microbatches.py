"""A batch in equal parts, one after the other: memory for time, the same numbers."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from bigjax.core import errors
from bigjax.core.device import device_kind


def scan(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any) -> tuple[Any, Any]:
  """`lax.scan`, unrolled on CPUs, where XLA runs convolutions inside a loop five times slower."""
  kind = device_kind()
  if kind == 'cpu' and len(jax.tree.leaves(xs)[0]) == 1:  # which lax.scan would not unroll
    carry, y = step(carry, jax.tree.map(lambda x: x[0], xs))
    return carry, jax.tree.map(lambda leaf: leaf[None], y)
  return lax.scan(step, carry, xs, unroll=kind == 'cpu')


def check(num: int, size: int) -> None:
  """Refuse so many parts of a device's batch of `size` examples.

  Raises:
    UserError: they would not be equal.
  """
  if size % num:
    raise errors.UserError(
      f'run.microbatches is {num}, which does not divide the {size} examples of each device; '
      'use a divisor.'
    )


def microbatched(fn: Callable[[Any], Any], num: int, xs: Any) -> Any:
  """Return `fn(xs)`, run on `num` equal parts of the leading axis, one after the other.

  For functions in which no example sees another. The backward pass runs each part again, so that
  only inputs and outputs of all parts are kept: memory for one more forward pass. Gradients with
  respect to what `fn` closes over add up over the parts.

  Raises:
    UserError: the parts would not be equal.
  """
  if num == 1:
    return fn(xs)
  size = jax.tree.leaves(xs)[0].shape[0]
  check(num, size)
  parts = jax.tree.map(lambda x: x.reshape(num, size // num, *x.shape[1:]), xs)
  part = jax.checkpoint(fn, prevent_cse=False)
  _, out = scan(lambda carry, x: (carry, part(x)), (), parts)
  return jax.tree.map(lambda x: x.reshape(size, *x.shape[2:]), out)
