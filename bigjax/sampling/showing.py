"""A generator where somebody looks at it: one line of what it is, pictures of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from bigjax.core import errors, ranges, trees
from bigjax.core.ranges import whole
from bigjax.sampling import grids

if TYPE_CHECKING:
  from bigjax.sampling.loaded import Labels, Loaded

EACH = 10  # images of each class in a grid, unless told


def num_parameters(loaded: Loaded) -> int:
  """Numbers that were learnt: what lies under `params`; of a tree without that, all real ones."""
  leaves = trees.flat(loaded.sampler.generator.bare(loaded.stored))
  learnt = [leaf for path, leaf in leaves.items() if 'params' in path.split('/')]
  real = [leaf for leaf in leaves.values() if np.asarray(leaf).dtype.kind in 'fV']
  return sum(int(np.size(leaf)) for leaf in learnt or real)


def size_of(loaded: Loaded) -> str:
  """'16 px', of other than squares '16x32 px', of clips '8 frames of 16 px'."""
  *frames, height, width, _ = loaded.shape
  size = f'{height} px' if height == width else f'{height}x{width} px'
  return f'{frames[0]} frames of {size}' if frames else size


def described(loaded: Loaded) -> str:
  """Family, size, classes, how it samples unless told, parameters, step, digest of the weights."""
  classes = f'{loaded.num_classes} class' + ('es' if loaded.num_classes > 1 else '')
  words = [loaded.card['algorithm'], size_of(loaded), 'grey' if loaded.shape[-1] == 1 else 'colour']
  words += [classes, *filter(None, [str(loaded.spec())])]
  words += [f'{num_parameters(loaded):,} parameters']
  words += [f'step {loaded.card["step"]}'] if 'step' in loaded.card else []
  said = ', '.join([*words, f'digest {loaded.digest}'])
  return '<bigjax generator: ' + ''.join(c if c.isprintable() else '\ufffd' for c in said) + '>'


def image(
  loaded: Loaded,
  label: Labels = 0,
  seed: int = 0,
  truncation: float | str | None = None,
  **options: Any,
) -> Image.Image:
  """See Loaded.image."""
  if len(loaded.shape) == 4:
    raise errors.UserError(
      'this generator makes clips, of which none is an image: .grid(...) shows their frames side '
      'by side, a call gives them as arrays.'
    )
  weights = np.ndim(label) == 1 and np.asarray(label).dtype.kind == 'f'
  images = loaded([label] if weights or np.ndim(label) == 0 else label, truncation, seed, **options)
  if len(images) != 1:
    raise errors.UserError(f'{len(images)} labels are several images: .grid(...) shows these.')
  return Image.fromarray(images[0, ..., 0] if images.shape[-1] == 1 else images[0])


def grid(
  loaded: Loaded,
  classes: Labels = 'all',
  seed: int = 0,
  seeds: Sequence[int] | None = None,
  num: int | None = None,
  truncation: float | str | None = None,
  names: bool = True,
  **options: Any,
) -> Image.Image:
  """See Loaded.grid."""
  from bigjax.sampling.loaded import read_labels  # which has imported this file

  labels = read_labels(classes, loaded.class_names, None)
  if labels.ndim != 1:
    raise errors.UserError('a grid has a row per class: give numbers or names, not weights.')
  spec = loaded.spec(truncation, **options)
  num_labels = len(labels)
  if seeds is not None:
    if num is not None or not len(seeds):
      raise errors.UserError('seeds already say how many images there are; leave out num.')
    seeds = [whole('seed', one, ranges.SEED) for one in seeds]
    y, columns = np.repeat(labels, len(seeds)), len(seeds)
    columns = min(columns, EACH) if num_labels == 1 else columns
  else:
    num = EACH * num_labels if num is None else whole('num', num, ranges.IMAGES)
    shares = num // num_labels + (np.arange(num_labels) < num % num_labels)
    y, columns = np.repeat(labels, shares), -(-num // num_labels)
  grids.check_grid(len(y), columns, loaded.shape)
  loaded.prepare(spec)
  if seeds is not None:
    z = loaded.sampler.first_of_each(seeds * num_labels, spec)
  else:
    z = loaded.sampler.latents(whole('seed', seed, ranges.SEED), len(y), spec)
  images = loaded.images(z, y, spec)
  if not names:
    return grids.grid(images, columns)
  rows, heads, caption = words_of(loaded, y, columns, seeds, f'{spec}', seed)
  return grids.sheet(images, columns, rows, heads, caption)


def words_of(
  loaded: Loaded, y: np.ndarray, columns: int, seeds: Sequence[int] | None, spec: str, seed: int
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
