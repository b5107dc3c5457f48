"""Directions in files: what `bigjax directions` finds, and `bigjax sample --direction` goes along.

An .npz with `directions` [k, ...] of length 1, and [k] each, `scales` (deviations of latents along
them), `explained` and `linear` (see directions.Directions); `space`, z or w; `method`, in words.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigjax.core import errors, files
from bigjax.sampling.latents import latent_files
from bigjax.sampling.latents.directions import Directions
from bigjax.sampling.loaded import Loaded, generator_digest


def write(
  path: str, found: Directions, loaded: Loaded, words: Mapping[str, str], labels: np.ndarray
) -> None:
  """Write directions as .npz, whole or not at all.

  Args:
    path: of the file.
    found: the directions.
    loaded: whose they are.
    words: sampling options {name: word} that they were found with.
    labels: classes of the samples.
  """
  arrays: dict[str, Any] = {
    'directions': found.vectors, 'scales': found.scales, 'explained': found.explained,
    'linear': found.linear, 'labels': labels, 'sampling': json.dumps(dict(words)),
    'space': found.space, 'method': found.method, 'generator': generator_digest(loaded),
  }  # fmt: skip
  with files.whole(path) as file:
    np.savez(file, **arrays)


def read(path: str, loaded: Loaded) -> Directions:
  """Directions of a file, for this generator.

  Raises:
    UserError: it is no such file, or its arrays do not fit the generator.
  """
  if not os.path.isfile(path):
    raise errors.UserError(
      f'--directions={path}: there is no such file; `bigjax directions` writes it.'
    )
  arrays = latent_files.arrays_of(path, '--directions')
  text = lambda name: latent_files.text_of(arrays, name)
  names = 'directions', 'scales', 'explained', 'linear'
  missing = [name for name in names if name not in arrays]
  if missing or text('space') not in latent_files.SPACES:
    what = missing[0] if missing else 'the space'
    raise errors.UserError(
      f'--directions={path} lacks {what}; give what `bigjax directions` wrote.'
    )
  space = text('space')
  shape = latent_files.latent_shape(loaded, space, f'--directions={path}, of w,')
  vectors = latent_files.numbers(path, 'directions', arrays['directions'], shape)
  others = [latent_files.numbers(path, name, arrays[name], ()) for name in names[1:]]
  scales, explained, linear = others
  if any(len(x) != len(vectors) for x in others):
    raise errors.UserError(f'--directions={path}: its arrays are of different lengths.')
  latent_files.note_if_of_another(loaded, text('generator'), f'{path} has directions')
  return Directions(space, vectors, scales, explained, linear, text('method'))
