"""Arrays of OpenAI's diffusion codes <-> ours, by rename and transpose.

openai/improved-diffusion and openai/guided-diffusion, the networks of models/unet.py. Kernels of
1-d convolutions, in their attention, are ours of one pixel.
"""

import re
from collections.abc import Mapping

import numpy as np

from bigjax.core import errors, trees

Arrays = Mapping[str, np.ndarray]
LEAVES = {'kernel': 'weight', 'scale': 'weight', 'embedding': 'weight'}
ONE_DIMENSIONAL = ('qkv', 'proj_out', 'qkv_proj', 'c_proj')


def their_name(path: str) -> str:
  """'input_blocks_1_0/in_layers_2/kernel' -> 'input_blocks.1.0.in_layers.2.weight'."""
  *modules, leaf = path.split('/')
  modules = [re.sub(r'_(\d+)', r'.\1', name) for name in modules]
  return '.'.join([*modules, LEAVES.get(leaf, leaf)])


def leaf_out(path: str, w: np.ndarray) -> np.ndarray:
  """One of our parameters in their layout."""
  *modules, leaf = path.split('/')
  if leaf == 'positional_embedding':
    return w.T
  if leaf != 'kernel':
    return w
  if modules[-1] in ONE_DIMENSIONAL:
    return w.reshape(w.shape[-2:]).T[..., None]
  return w.transpose(3, 2, 0, 1) if w.ndim == 4 else w.T  # HWIO -> OIHW


def leaf_in(path: str, w: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """One of their parameters in our layout and shape: the inverse of `leaf_out`."""
  *_, leaf = path.split('/')
  if leaf == 'positional_embedding':
    return w.T
  if leaf != 'kernel':
    return w
  if w.ndim == 4:
    return w.transpose(2, 3, 1, 0)
  return w.reshape(w.shape[:2]).T.reshape(shape)


def params_out(params: dict) -> dict[str, np.ndarray]:
  """Our parameters by their names, in their layout."""
  flat = trees.flat(params)
  return {their_name(path): leaf_out(path, np.asarray(w)) for path, w in flat.items()}


def params_in(arrays: Arrays, shapes: dict, what: str) -> dict:
  """Their arrays as our parameters, float32.

  Args:
    arrays: {their name: array}.
    shapes: of our parameters, a tree.
    what: they are, for the sentence.
  Raises:
    UserError: an array is missing, more than there should be, or of another shape.
  """
  wanted = {path: tuple(leaf.shape) for path, leaf in trees.flat(shapes).items()}
  names = {their_name(path): path for path in wanted}
  for found, expected, words in (
    (arrays, names, 'is no part of'),
    (names, arrays, 'is missing in'),
  ):
    strange = [name for name in found if name not in expected]
    if strange:
      raise errors.UserError(
        f'{strange[0]!r} {words} the weights of {what}, as are {len(strange) - 1} others; '
        'give weights and settings that belong together.'
      )
  loaded = {}
  for name, path in names.items():
    w = np.asarray(arrays[name], np.float32)
    theirs = leaf_out(path, np.broadcast_to(np.float32(0), wanted[path])).shape
    if w.shape != theirs:
      raise errors.UserError(
        f'{name!r} of the weights of {what} is {list(w.shape)}, and should be {list(theirs)}; give '
        'weights and settings that belong together.'
      )
    loaded[path] = leaf_in(path, w, wanted[path])
  return trees.map_paths(lambda path, _: loaded[path], shapes)
