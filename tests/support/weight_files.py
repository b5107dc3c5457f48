"""Arrays by name, written as the files in which weights are published."""

import numpy as np
import safetensors.numpy

import pickles


def write(path, arrays):
  """Write arrays as .npz, .safetensors or .pth, by the name; return the path."""
  if path.suffix == '.npz':
    np.savez(path, **arrays)
  elif path.suffix == '.safetensors':
    safetensors.numpy.save_file({k: np.array(a, order='C') for k, a in arrays.items()}, path)
  else:
    path.write_bytes(pickles.in_zip(*as_pickle(arrays)))
  return path


def as_pickle(arrays):
  """Return (body of a state dict's pickle, bytes of its storages)."""
  tensors = {}
  for i, (name, a) in enumerate(arrays.items()):
    strides = [stride // a.itemsize for stride in np.array(a, order='C').strides]
    stored = pickles.storage(str(i), a.size)
    tensors[name] = pickles.tensor(a.shape, strides, stored=stored)
  data = {str(i): np.array(a, order='C').tobytes() for i, a in enumerate(arrays.values())}
  return pickles.dict_of(**tensors), data
