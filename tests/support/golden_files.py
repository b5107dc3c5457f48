"""Numbers of the official codes: in tests/golden, or in shared/ where they are too large."""

import functools

import numpy as np
import pytest

import places

HERE = places.GOLDEN


SHARED = places.SHARED / 'golden'


NAMES = ('biggan32_ch8', 'biggan128_ch8', 'biggandeep128_ch8')


@functools.cache
def golden(name):
  """Return the arrays of a golden file; skip the test where it is absent."""
  for folder in (SHARED, HERE):
    if (folder / f'{name}.npz').is_file():
      with np.load(folder / f'{name}.npz') as file:
        return {key: file[key] for key in file.files}
  pytest.skip(f'needs shared/golden/{name}.npz, which is not part of the project')


def under(arrays, prefix):
  """Return the arrays below a prefix, without it."""
  return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
