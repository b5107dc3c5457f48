"""A generator where somebody looks at it: one line of what it is, pictures of its samples.

What is shown is the `Loaded` of sampling/loaded.py, which imports this file for its own methods.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from bigjax.core import errors, ranges, trees
from bigjax.core.ranges import whole
from bigjax.sampling import grids

EACH = 10  # images of each class in a grid, unless told


def num_parameters(loaded: Any) -> int:
  """Numbers that were learnt: what lies under `params`; of a tree without that, all real ones."""
  leaves = trees.flat(loaded.sampler.generator.bare(loaded.stored))
  learnt = [leaf for path, leaf in leaves.items() if 'params' in path.split('/')]
  real = [leaf for leaf in leaves.values() if leaf.dtype.kind in 'fV']
  return sum(int(np.size(leaf)) for leaf in learnt or real)


def size_of(loaded: Any) -> str:
  """'16 px', of other than squares '16x32 px', of clips '8 frames of 16 px'."""
  *frames, height, width, _ = loaded.shape
  size = f'{height} px' if height == width else f'{height}x{width} px'
  return f'{frames[0]} frames of {size}' if frames else size


def described(loaded: Any) -> str:
  """Family, size, classes, how it samples unless told, parameters, step, digest of the weights."""
  classes = f'{loaded.num_classes} class' + ('es' if loaded.num_classes > 1 else '')
  words = [loaded.card['algorithm'], size_of(loaded), 'grey' if loaded.shape[-1] == 1 else 'colour']
  words += [classes, *filter(None, [str(loaded.spec())])]
  words += [f'{num_parameters(loaded):,} parameters']
  words += [f'step {loaded.card["step"]}'] if 'step' in loaded.card else []
  said = ', '.join([*words, f'digest {loaded.digest}'])
  return '<bigjax generator: ' + ''.join(c if c.isprintable() else '\ufffd' for c in said) + '>'


def picture(image: np.ndarray) -> Image.Image:
  """A uint8 image [H, W, C] for Pillow: mode L where it is grey, else RGB."""
  return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def grid(
  loaded: Any,
  labels: np.ndarray,
  spec: Any,
  seed: int = 0,
  seeds: Sequence[int] | None = None,
  num: int | None = None,
  names: bool = True,
) -> Image.Image:
  """A picture of samples, as of Loaded.grid, whose arguments these are.

  Args:
    loaded: the Loaded.
    labels: of the rows, int32 [rows].
    spec: sampling settings.
    seed, seeds, num, names: as there.
  Raises:
    UserError: they make no sense together, or are too many for a picture.
  """
  if labels.ndim != 1:
    raise errors.UserError('a grid has a row per class: give numbers or names, not weights.')
  rows = len(labels)
  if seeds is not None:
    if num is not None or not len(seeds):
      raise errors.UserError('seeds say how many images there are: give some, and leave out num.')
    seeds = [whole('seed', one, ranges.SEED) for one in seeds]
    y, columns = np.repeat(labels, len(seeds)), len(seeds)
    columns = min(columns, EACH) if rows == 1 else columns
  else:
    num = EACH * rows if num is None else whole('num', num, ranges.IMAGES)
    y, columns = np.repeat(labels, num // rows + (np.arange(rows) < num % rows)), -(-num // rows)
  grids.check_grid(len(y), columns, loaded.shape)
  loaded.prepare(spec)
  if seeds is not None:
    z = loaded.sampler.first_of_each(seeds * rows, spec)
  else:
    z = loaded.sampler.latents(whole('seed', seed, ranges.SEED), len(y), spec)
  images = loaded.images(z, y, spec)
  if not names:
    return grids.grid(images, columns)
  return grids.sheet(images, columns, *words_of(loaded, y, columns, seeds, f'{spec}', seed))


def words_of(
  loaded: Any, y: np.ndarray, columns: int, seeds: Sequence[int] | None, spec: str, seed: int
) -> tuple[list[str], list[str], str]:
  """(Names of rows, of columns, a line below) of a grid of samples with labels y."""
  rows = [set(y[start : start + columns].tolist()) for start in range(0, len(y), columns)]
  named = [loaded.class_names[min(row)] if len(row) == 1 else '' for row in rows]
  named = named if loaded.num_classes > 1 and any(named) else []
  heads = [f'seed {one}' for one in seeds or ()]
  heads = heads if len(heads) == columns else []
  words = [f'step {loaded.card["step"]}'] if 'step' in loaded.card else []
  words += [spec] if spec else []
  if not heads:
    words.append(f'seed {seed}' if seeds is None else f'seeds {", ".join(map(str, seeds))}')
  return named, heads, ', '.join(words)
