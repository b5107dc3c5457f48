"""Random weights by recipe: every tensor from its name and shape, so that no file need hold them.

Golden files of other codes' networks (hf_*, hub_*) hold inputs, images and the names and shapes of
the weights; the weights themselves are drawn here, by those who made the files and by the tests.
"""

import json
import re
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

Shapes = Mapping[str, Sequence[int]]


def normal(name: str, shape: Sequence[int]) -> np.ndarray:
  """Return float32 numbers from N(0, 1) that depend on the name and the shape alone."""
  rng = np.random.RandomState(zlib.crc32(name.encode()))
  return rng.normal(size=tuple(shape)).astype(np.float32)


def tensor(name: str, shape: Sequence[int]) -> np.ndarray:
  """Return the tensor of this name, of a size that makes images neither grey nor clipped."""
  x = normal(name, shape)
  # So small a variance of BigGAN-PyTorch's last BatchNorm that its epsilon matters.
  if name.startswith('output_layer.0.stored_var'):
    return 0.02 * np.exp(0.4 * x)
  if name == 'output_layer.0.gain':
    return 0.1 + 0.02 * x
  if re.search(r'(running|accumulated|stored)_var|stack/var', name):
    return np.exp(0.4 * x).astype(np.float32)
  if re.search(r'(running|accumulated|stored)_mean|stack/mean', name):
    return 0.3 * x
  if re.search(r'attention/gamma|\.gamma$', name):
    return np.full(tuple(shape), 0.7, np.float32)
  if re.search(r'(generator\.bn\.weight|/BatchNorm/scale/ema|BN/gamma/ema)', name):
    return 1 + 0.2 * x  # the last BatchNorm's gain
  if re.search(r'(^|\.)(linear|embeddings)\.|^(module/)?linear/', name) or len(shape) < 2:
    return 0.3 * x
  return 0.1 * x


def unit(x: np.ndarray) -> np.ndarray:
  return x / np.linalg.norm(x)


def tensors(shapes: Shapes) -> dict[str, np.ndarray]:
  """Return all tensors of these names and shapes.

  PyTorch's vectors of spectral norm, `weight_u` and `weight_v`, are those after one power
  iteration from a random u: as far from the singular vectors as that leaves them.
  """
  found = {name: tensor(name, shape) for name, shape in shapes.items()}
  for name in [name for name in found if name.endswith('weight_u')]:
    base = name.removesuffix('_u')
    w = found[f'{base}_orig'].reshape(len(found[name]), -1)
    v = unit(w.T @ found[name])
    found[f'{base}_v'], found[name] = v, unit(w @ v)
  return found


def pack(shapes: Shapes) -> np.ndarray:
  """Return names and shapes as one array of characters for an .npz file."""
  text = json.dumps({name: list(shape) for name, shape in shapes.items()})
  return np.frombuffer(text.encode(), np.uint8)


def unpack(array: np.ndarray) -> dict[str, list[int]]:
  """Return names and shapes: the inverse of `pack`."""
  return json.loads(array.tobytes())


def places(num: int, height: int, width: int) -> np.ndarray:
  """Return which pixels of an image are compared: `num` flat indices, ascending."""
  return np.sort(np.random.RandomState(0).permutation(height * width)[:num])
