"""Random samples of a generator, as what a search for an image begins with, and has to beat.

How near an image is to a random sample, and to the nearest of so many, is what a search costs
nothing to reach: its result is worth what it is nearer.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.algorithms.base.contract import Spec
from bigjax.core import parallel
from bigjax.models.pretrained.taps import ImageDistance
from bigjax.sampling.loaded import Loaded

BATCH = 64  # samples that are made, and compared, at a time


def psnr(square: np.ndarray | float) -> np.ndarray:
  """Peak signal-to-noise ratios in dB, of mean squared differences of pixels in [-1, 1]."""
  return 10 * np.log10(4 / np.maximum(square, 1e-12))


def squares(images: np.ndarray, others: np.ndarray) -> np.ndarray:
  """Mean squared differences [n] of uint8 images and others [n, ...], as pixels in [-1, 1]."""
  apart = (images.astype(np.float64) - others.astype(np.float64)) / 127.5
  return np.square(apart).mean(tuple(range(1, apart.ndim)))


@dataclasses.dataclass(frozen=True)
class Nearness:
  """How far images are from each of N samples: distances and squared differences, [n, N] each."""

  distance: np.ndarray
  square: np.ndarray

  def nearest(self, pixel_weight: float) -> np.ndarray:
    """Numbers of the samples [n, N], the nearest first, by the distance and weighted pixels."""
    return np.argsort(self.distance + pixel_weight * self.square, axis=1, kind='stable')


class RandomSamples:
  """Samples of a generator, and how near they are to images.

  Args:
    loaded: prepared for the settings.
    distance: of images.
    num: of samples.
    seed: of their latents.
    labels: int32 [k], their classes in turn.
    spec: sampling settings.
    noise_of: latents [1, ...] whose noise all have; None: each its own.
  """

  def __init__(
    self,
    loaded: Loaded,
    distance: ImageDistance,
    num: int,
    seed: int,
    labels: np.ndarray,
    spec: Spec,
    noise_of: np.ndarray | None = None,
  ):
    self.distance, self.sampler, self.num = distance, loaded.sampler, num
    self.z = self.sampler.latents(seed, num, spec)
    self.y = labels[np.arange(num) % len(labels)]
    noise = self.z if noise_of is None else np.repeat(noise_of, num, axis=0)
    self.images = self.sampler.images_with_noise_of(
      loaded.gen, self.z, self.y, spec, noise, min(BATCH, num)
    )
    self._variables = jax.device_put(distance.variables, parallel.replicated(self.sampler.mesh))

  @functools.cached_property
  def _compare(self):
    look, between = self.distance.look, self.distance.between

    def run(variables, targets, images):
      targets, images = (x.astype(jnp.float32) / 127.5 - 1 for x in (targets, images))
      seen = look(variables, images)

      def of_one(one):
        target, looked = one
        each = lambda x: jnp.broadcast_to(x[None], (len(images), *x.shape))
        square = jnp.square(images - target[None]).mean((1, 2, 3))
        return between(seen, jax.tree.map(each, looked)), square

      return jax.lax.map(of_one, (targets, look(variables, targets)))

    mesh = self.sampler.mesh
    given = None, None, parallel.batched(mesh)
    return jax.jit(run, in_shardings=given, out_shardings=parallel.replicated(mesh))

  def near(self, targets: np.ndarray) -> Nearness:
    """How far uint8 images [n, H, W, C] are from the samples."""
    size, parts = self.sampler.mesh.size, []
    batch = -(-min(BATCH, self.num) // size) * size
    rest = np.repeat(self.images[-1:], -self.num % batch, axis=0)
    images = np.concatenate([self.images, rest])
    with jax.set_mesh(self.sampler.mesh):
      for i in range(0, len(images), batch):
        part = parallel.shard_batch(self.sampler.mesh, images[i : i + batch])
        parts.append(jax.device_get(self._compare(self._variables, targets, part)))
    both = [np.concatenate(some, axis=1)[:, : self.num] for some in zip(*parts, strict=True)]
    return Nearness(*both)


def summary(near: Nearness, pixel_weight: float) -> Sequence[dict[str, Any]]:
  """Of each image, what is of a random sample, on average, and of the nearest of all, by name."""
  best = near.nearest(pixel_weight)[:, 0]
  rows = []
  for distance, square, i in zip(near.distance, near.square, best, strict=True):
    rows.append({
      'random': {'distance': float(distance.mean()), 'psnr': float(psnr(square).mean())},
      f'best_of_{len(distance)}': {
        'distance': float(distance[i]), 'psnr': float(psnr(square[i])), 'sample': int(i),
      },
    })  # fmt: skip
  return rows
