"""Equalised learning rate (Karras et al. 2018, 4.1) as a function on the parameter tree.

Parameters are of unit variance and Adam moves all of them alike; what a network uses is each kernel
times He's constant, gain / sqrt(fan in). Networks know nothing of it. Applied once, to fresh
parameters, `scale` is He's initialisation: what rows without the equalised rate start from.
"""

import fnmatch
import math
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax

from bigjax.core import trees

Gains = Callable[[str, jax.Array], float | None]  # (path, leaf) -> its gain; None: left alone

RELU_GAIN = 2**0.5  # of whatever a (leaky) ReLU follows
NOTHING: Mapping[str, float] = types.MappingProxyType({})


def gains(
  default: float = RELU_GAIN,
  others: Mapping[str, float | None] = NOTHING,
  lrmul: Mapping[str, float] = NOTHING,
) -> Gains:
  """The rule of kernels' gains, by patterns of their paths; `*` stands for anything, '/' included.

  Args:
    default: gain of leaves named `kernel`; biases and all other leaves are left alone.
    others: {pattern: gain} of the kernels that have another one, and of leaves of other names that
      have one, biases apart; None leaves a kernel alone. The first that matches counts.
    lrmul: {pattern: multiplier} of layers that learn so much slower, as StyleGAN's mapping does by
      0.01: kernel and bias times it. Their kernels start at N(0, 1) / multiplier.
  """

  def first(given, path, otherwise):
    return next((value for at, value in given.items() if fnmatch.fnmatchcase(path, at)), otherwise)

  def gain(path, leaf):
    del leaf
    name, slower = path.rsplit('/', 1)[-1], first(lrmul, path, None)
    if name == 'bias':  # whatever pattern its layer's kernel matches
      return slower
    own = first(others, path, default if name == 'kernel' else None)
    return own if own is None or slower is None else own * slower

  return gain


def scale(params: Any, gains: Gains) -> Any:
  """The weights that a network uses: each leaf with a gain times gain / sqrt(fan in).

  The fan in is the product of all axes but the last; that of a bias is 1.
  """

  return trees.map_paths(lambda path, w: w * constant(path, w, gains), params)


def unscale(weights: Any, gains: Gains) -> Any:
  """The parameters that `scale` makes these weights of."""
  return trees.map_paths(lambda path, w: w / constant(path, w, gains), weights)


def constant(path: str, leaf: Any, gains: Gains) -> float:
  """What a tensor is multiplied by."""
  gain = gains(path, leaf)
  return 1.0 if gain is None else gain / math.sqrt(math.prod(leaf.shape[:-1]))
