"""PyTorch's names and layouts of the weights of feature networks."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bigjax.core import errors, trees

# Torch's state dicts in our layout.

_LEAVES = {  # ours -> torch's, where they differ
  ('params', 'kernel'): 'weight',
  ('params', 'scale'): 'weight',
  ('params', 'bias'): 'bias',
  ('batch_stats', 'mean'): 'running_mean',
  ('batch_stats', 'var'): 'running_var',
}
# Axes of kernels: [out, in, (t,) h, w] -> [(t,) h, w, in, out].
_FROM_TORCH = {5: (2, 3, 4, 1, 0), 4: (2, 3, 1, 0), 2: (1, 0)}
_TO_TORCH = {5: (4, 3, 0, 1, 2), 4: (3, 2, 0, 1), 2: (1, 0)}


def shapes(network: nn.Module, side: int = 32) -> dict[str, tuple[int, ...]]:
  """Return the shapes of a network's variables by their path, such as 'params/fc/kernel'.

  Args:
    network: of images, or with an `example`, the shape of what it takes.
    side: px of an image.
  """
  images = jax.ShapeDtypeStruct((1, *getattr(network, 'example', (side, side, 3))), jnp.uint8)
  # The key is drawn within: where devices are only planned for, nothing can be computed.
  variables = jax.eval_shape(lambda images: network.init(jax.random.key(0), images), images)
  return {path: leaf.shape for path, leaf in trees.flat(variables).items()}


def torch_name(path: str) -> str:
  """PyTorch's name of a variable: 'params/a/conv/kernel' -> 'a.conv.weight'."""
  collection, *modules, leaf = path.split('/')
  return '.'.join([*modules, _LEAVES.get((collection, leaf), leaf)])


def torch_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """Return the shape that a variable of ours has in torch."""
  if path.endswith('kernel'):
    return tuple(shape[axis] for axis in _TO_TORCH[len(shape)])
  return shape


def _some(names: list[str]) -> str:
  return ', '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')


def from_torch(
  tensors: Mapping[str, np.ndarray],
  expected: Mapping[str, tuple[int, ...]],
  unused: tuple[str, ...] = (),
) -> dict[str, Any]:
  """Return a torch state dict as variables of a network: renamed, transposed, float32.

  Args:
    tensors: by torch's names.
    expected: shapes of ours by path, of `shapes`.
    unused: beginnings of names that may be there for nothing.

  Raises:
    UserError: tensors are missing, left over, or of another shape; a sentence without the file.
  """
  ours = {torch_name(path): path for path in expected}
  missing = [name for name in ours if name not in tensors]
  more = [
    name
    for name in tensors
    if name not in ours
    and not name.startswith(tuple(unused))
    and not name.endswith('num_batches_tracked')
  ]
  if missing or more:
    words = [f'lacks {_some(missing)}'] if missing else []
    words += [f'has {_some(more)}, which the network has not'] if more else []
    raise errors.UserError(' and '.join(words))
  variables = {}
  for name, path in ours.items():
    tensor, wanted = tensors[name], torch_shape(path, expected[path])
    if tensor.shape != wanted:
      raise errors.UserError(f'has {name} of shape {tensor.shape}, where {wanted} was expected')
    axes = _FROM_TORCH[tensor.ndim] if path.endswith('kernel') else range(tensor.ndim)
    variables[path] = np.ascontiguousarray(tensor.transpose(*axes), np.float32)
  return trees.nest(variables)
