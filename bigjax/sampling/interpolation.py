"""Paths between latents and classes."""

import numpy as np

from bigjax.algorithms.base.contract import Spec
from bigjax.sampling.loaded import Loaded


def slerp(a: np.ndarray, b: np.ndarray, way: np.ndarray) -> np.ndarray:
  """Points on the arc between latents a and b of any shape, at `way` [n] in [0, 1]: [n, ...].

  The norm goes linearly from one's to the other's, so that every point is as likely as its ends.
  """
  shape, (a, b) = a.shape, (a.reshape(-1), b.reshape(-1))
  norm_a, norm_b = (max(np.linalg.norm(x), 1e-12) for x in (a, b))
  angle = np.arccos(np.clip(a @ b / (norm_a * norm_b), -1, 1))
  if angle < 1e-4:
    return (a[None] + way[:, None] * (b - a)[None]).reshape(-1, *shape)
  unit = np.sin((1 - way) * angle)[:, None] * (a / norm_a) + np.sin(way * angle)[:, None] * (
    b / norm_b
  )
  norms = (1 - way) * norm_a + way * norm_b
  return (unit / np.sin(angle) * norms[:, None]).astype(np.float32).reshape(-1, *shape)


def interpolation(
  loaded: Loaded, kind: str, labels: np.ndarray, columns: int, seed: int, spec: Spec
) -> np.ndarray:
  """Rows of `columns` images from one sample to another: z, class, or both change.

  Rows start at each class of `labels`; the class changes to the next one of them.
  """
  way = np.linspace(0, 1, columns, dtype=np.float32)
  starts = loaded.sampler.latents(seed, 2 * len(labels), spec)
  rows = []
  for i, label in enumerate(labels):
    a, b = starts[2 * i], starts[2 * i + 1]
    z = np.repeat(a[None], columns, 0) if kind == 'class' else slerp(a, b, way)
    ends = np.eye(loaded.num_classes, dtype=np.float32)[[label, labels[(i + 1) % len(labels)]]]
    mix = np.zeros_like(way) if kind == 'z' else way
    rows.append(loaded.images(z, (1 - mix)[:, None] * ends[0] + mix[:, None] * ends[1], spec))
  return np.concatenate(rows)
