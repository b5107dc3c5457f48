"""Sliced Wasserstein distances and MS-SSIM side by side, as in Table 1 of Karras et al. 2018.

A row for each generator: the distance x 1e3 of every level of the Laplacian pyramid, the largest
first, their mean, and MS-SSIM. `of_run` and `of_images` are what a benchmark calls.
"""

import os
import re
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from bigjax.core import files, paths
from bigjax.evaluation import image_sets, samples
from bigjax.evaluation.metrics import frechet
from bigjax.evaluation.metrics.ms_ssim import PAIRS
from bigjax.evaluation.metrics.registry import FeatureStats
from bigjax.evaluation.protocol import scored
from bigjax.evaluation.reference import Reference
from bigjax.sampling.loaded import of_workdir

METRICS = ('swd', 'ms_ssim')
NUM = 2 * PAIRS  # samples: all of them in pairs, 16,384 against as many real images
NAME = re.compile(r'((?:swd|ms_ssim)\d+k?(?:_(?:train|test|all))?)(?:_(\d+))?')


def of_images(
  images: np.ndarray, real: np.ndarray, split: str = 'train', seed: int = 0
) -> dict[str, float]:
  """Scores of samples by full name: 'swd16384_train', 'swd16384_train_128', ..., 'ms_ssim20k'.

  Args:
    images, real: uint8 [n, H, W, C]; compared at equal numbers, 16,384 at most.
    split: of the real images, for the names.
    seed: of patches, directions and pairs.
  Raises:
    UserError: the images have another shape than the real ones, or are too few or too small.
  """
  seen = [FeatureStats(len(some), frechet.Moments(1), images=some) for some in (images, real)]
  return scored(seen[0], Reference('', split, '', seen[1]), METRICS, '', seed)


def of_run(
  workdir: str, checkpoint: str = 'last', num: int = NUM, seed: int = 0
) -> dict[str, float]:
  """Scores of a run's checkpoint against its training images, as `bigjax evaluate --seeds SEED`.

  Args:
    workdir: of the run, on this machine.
    checkpoint: a step, 'last' or 'best'.
    num: of samples: untruncated, classes in turn.
    seed: of latents, patches, directions and pairs.
  Raises:
    UserError: there is no such checkpoint, or the data of the run is not here.
  """
  workdir = paths.expanded(os.fspath(workdir))
  loaded = of_workdir(workdir, checkpoint)
  config = files.read_json(os.path.join(workdir, 'config.json'))
  known = {k.removeprefix('data.'): v for k, v in config.items() if k.startswith('data.')}
  real = image_sets.open_source(known['source'], loaded.shape, known.get('data_dir', ''), known)
  spec = loaded.spec()
  loaded.prepare(spec, anew=True)
  batch = samples.whole_batches(samples.BATCH, loaded.sampler.mesh.size)
  drawn = samples.draw(loaded.sampler, loaded.gen, spec, num, seed, batch)
  images = np.concatenate([jax.device_get(some)[: len(labels)] for some, labels in drawn])
  return of_images(images, real['train'].some(num)[0], seed=seed)


def is_one(name: str) -> bool:
  """Whether a score's full name is that of a column here."""
  return bool(NAME.fullmatch(name))


def table(rows: Sequence[tuple[str, Mapping[str, str]]]) -> str:
  """A Markdown table.

  Args:
    rows: (what is scored, {full name of a score: it, as text}); other scores are left out. A row
      whose numbers of images are not those of the first names its own: these do not compare.
  """
  each = [(what, *_columns(scores)) for what, scores in rows]
  columns = list(dict.fromkeys(column for _, _, cells in each for column in cells))
  names = each[0][1]
  heads = [', '.join(names), *columns]
  lines = ['| ' + ' | '.join(heads) + ' |', '|---' * len(heads) + '|']
  for what, own, cells in each:
    words = what if own == names else f'{what} ({", ".join(own)})'
    lines.append('| ' + ' | '.join([words, *(cells.get(c, '') for c in columns)]) + ' |')
  return '\n'.join(lines)


def _columns(scores: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
  """(Names without their level, {heading: cell}), levels from the largest on."""
  found: dict[str, dict[int, str]] = {}  # by name and level, 0 for none
  for name, text in scores.items():
    if match := NAME.fullmatch(name):
      found.setdefault(match[1], {})[int(match[2] or 0)] = text
  names, cells = [], {}
  for name, levels in sorted(found.items(), reverse=True):  # swd before ms_ssim
    is_swd = name.startswith('swd')
    names.append(f'{name} x 1e3' if is_swd else name)
    cells |= {f'{side} px': levels[side] for side in sorted(levels, reverse=True) if side}
    cells['average' if is_swd else 'MS-SSIM'] = levels[0]
  return names, cells
