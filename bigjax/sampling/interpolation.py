"""Paths between latents, styles and classes; styles of two samples mixed."""

from collections.abc import Sequence

import numpy as np

from bigjax.algorithms.base.contract import Spec
from bigjax.sampling.loaded import Loaded


def slerp(a: np.ndarray, b: np.ndarray, way: np.ndarray) -> np.ndarray:
  """Points on the arc between latents a and b of any shape, at `way` [n] in [0, 1]: [n, ...].

  The norm goes linearly from one's to the other's, so that every point is as likely as its ends.
  """
  shape, (a, b) = a.shape, (a.reshape(-1), b.reshape(-1))
  norm_a, norm_b = (max(float(np.linalg.norm(x)), 1e-12) for x in (a, b))
  angle = np.arccos(np.clip(a @ b / (norm_a * norm_b), -1, 1))
  if angle < 1e-4:
    return (a[None] + way[:, None] * (b - a)[None]).reshape(-1, *shape)
  unit = np.sin((1 - way) * angle)[:, None] * (a / norm_a) + np.sin(way * angle)[:, None] * (
    b / norm_b
  )
  norms = (1 - way) * norm_a + way * norm_b
  points = (unit / np.sin(angle) * norms[:, None]).astype(np.float32)
  points[way == 0], points[way == 1] = a, b  # not rounded: they are samples themselves
  return points.reshape(-1, *shape)


def between(
  kind: str, z: np.ndarray, y: Sequence[int] | np.ndarray, way: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
  """What lies at `way` [n] between two samples: latents [n, ...], and their classes.

  Args:
    kind: what changes: z, class, both.
    z, y: latents [2, ...] and classes of the two.
    way: from 0, the first, to 1.
    num_classes: of the generator.
  Returns:
    the latents, and labels int32 [n] where classes stay, else weights float32 [n, num_classes].
  """
  moved = np.repeat(z[:1], len(way), 0) if kind == 'class' else slerp(z[0], z[1], way)
  if kind == 'z':
    return moved, np.full(len(way), y[0], np.int32)
  ends = np.eye(num_classes, dtype=np.float32)[list(y)]
  return moved, (1 - way)[:, None] * ends[0] + way[:, None] * ends[1]


def interpolation(
  loaded: Loaded, kind: str, labels: np.ndarray, columns: int, seed: int, spec: Spec
) -> np.ndarray:
  """Rows of `columns` images from one sample to another: z, class, both, or w change.

  Rows start at each class of `labels`; the class changes to the next one of them. In w, where it
  stays, the way is straight. The noise of the layers is the first sample's, all the way.
  """
  way = np.linspace(0, 1, columns, dtype=np.float32)
  starts = loaded.sampler.latents(seed, 2 * len(labels), spec)
  rows = []
  for i, label in enumerate(labels):
    a, b = starts[2 * i], starts[2 * i + 1]
    if kind == 'w':
      rows.append(straight(loaded, np.stack([a, b]), label, way, spec))
      continue
    following = labels[(i + 1) % len(labels)]
    z, y = between(kind, np.stack([a, b]), [label, following], way, loaded.num_classes)
    noise_of = np.repeat(a[None], columns, 0)
    rows.append(loaded.sampler.images_with_noise_of(loaded.gen, z, y, spec, noise_of))
  return np.concatenate(rows)


def straight(loaded: Loaded, z: np.ndarray, label: int, way: np.ndarray, spec: Spec) -> np.ndarray:
  """Images at `way` [n] of the straight line between the w of two latents z [2, ...]."""
  w = loaded.sampler.mapped(loaded.gen, z, np.full(2, label, np.int32))
  points = (1 - way)[:, None] * w[:1] + way[:, None] * w[1:]
  noise_of = np.repeat(z[:1], len(way), 0)
  return loaded.sampler.synthesized(loaded.gen, points, noise_of, spec)


def mixed(
  loaded: Loaded,
  layers: Sequence[int],
  of_rows: np.ndarray,
  of_columns: np.ndarray,
  seed: int,
  spec: Spec,
) -> np.ndarray:
  """A grid as Figure 3 of the StyleGAN paper, uint8 [(n + 1) (m + 1), H, W, C], its corner white.

  Args:
    loaded: a generator with styles, prepared for `spec`.
    layers: that have the styles of the columns; the others, and all noise, are the rows'.
    of_rows, of_columns: classes [n] and [m] of the sources, which are samples 0 and on of the seed.
    seed: of their latents.
    spec: sampling settings.
  """
  sampler, gen, num = loaded.sampler, loaded.gen, len(of_rows)
  y = np.concatenate([of_rows, of_columns]).astype(np.int32)
  z = sampler.latents(seed, len(y), spec)
  w, sources = sampler.mapped(gen, z, y), loaded.images(z, y, spec)
  white = np.full_like(sources[:1], 255)
  rows = [np.concatenate([white, sources[num:]])]
  for i in range(num):
    each = lambda x, i=i: np.repeat(x[i : i + 1], len(of_columns), 0)
    made = sampler.synthesized(gen, each(w), each(z), spec, w[num:], layers)
    rows.append(np.concatenate([sources[i : i + 1], made]))
  return np.concatenate(rows)
