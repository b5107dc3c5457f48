"""Directions in which a generator's images change most: principal components, and closed forms.

Of z: images of many latents are seen by a network, or as pixels; the principal components of what
is seen are regressed on the latents by least squares, and each component's slope is a direction
(for z of N(0, I) the one of Härkönen et al. 2020, GANSpace, who regress the other way round). Of w:
the components of w themselves (GANSpace). Classes are told apart neither way: each one's mean is
taken off first. In closed form (Shen & Zhou 2021, SeFa): eigenvectors of A A^T, where A are the
kernels of the layers that see a latent first, each output of length 1, as in their code; other than
there, each layer counts for as much as any other, however many outputs it has.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.algorithms.base.contract import Spec
from bigjax.algorithms.base.generators.parts import linear_layers_of, styles_of
from bigjax.core import errors, parallel, progress
from bigjax.models.pretrained import taps
from bigjax.models.pretrained.taps import ImageDistance
from bigjax.sampling.loaded import Loaded

Array = jax.Array

LATENTS = 'latents'  # what is seen of samples: their w itself
SIDE = 32  # pixels a side as which images are seen, at most, without a network
PARTS = 2  # a side of a network's maps, of each part of which the mean is seen
PER_NUMBER = 2  # samples for each number of a latent, at least, that something is regressed on


@dataclasses.dataclass(frozen=True)
class Directions:
  """Directions in a generator's latents, those that change images most first.

  Attributes:
    space: z or w.
    vectors: float32 [k, *latent_shape] or [k, w_dim], of length 1.
    scales: float32 [k], the standard deviation of latents along each: the unit of strengths.
    explained: float32 [k]. Of principal components, the share of the variance of what is seen that
      follows from latents along it: that of the component, times how much of it is linear in them.
      In closed form, the share of the eigenvalues.
    linear: float32 [k], how much of its component's variance is linear in the latents, beyond what
      chance makes of so few samples (the adjusted R^2, not below 0); else 1.
    method: how they were found, in words.
  """

  space: str
  vectors: np.ndarray
  scales: np.ndarray
  explained: np.ndarray
  linear: np.ndarray
  method: str

  def __len__(self) -> int:
    return len(self.vectors)


# --- What is seen of images


def pooled(maps: Array, side: int) -> Array:
  """Means of the parts of maps [B, h, w, C], `side` a side where there are as many: [B, ...]."""
  b, h, w, c = maps.shape
  rows, columns = min(side, h), min(side, w)
  maps = maps[:, : h // rows * rows, : w // columns * columns]
  return maps.reshape(b, rows, h // rows, columns, w // columns, c).mean((2, 4)).reshape(b, -1)


def seen(distance: ImageDistance, variables: Any, images: Array) -> Array:
  """What a distance sees of images [B, H, W, C] in [-1, 1], as numbers [B, p]."""
  if not distance.digest:
    return pooled(images, SIDE)
  maps = distance.look(variables, images)
  return jnp.concatenate([pooled(tap, PARTS) for tap in maps], axis=1)


def seen_name(distance: ImageDistance, side: int) -> str:
  """What `seen` sees of images of so many pixels, in words."""
  if distance.digest:
    return distance.name_at(side).removeprefix('perceptual_')
  return 'pixels' + (f'_at{SIDE}px' if side > SIDE else '')


# --- Moments


class Moments:
  """Sums over samples of latents [d] and of what is seen of them [p], by class; float64."""

  def __init__(self, num_classes: int):
    self._classes = num_classes
    self._num = np.zeros(num_classes)
    self._sums: dict[str, Any] = {}

  def add(self, z: np.ndarray, seen: np.ndarray, y: np.ndarray) -> None:
    """Count samples: latents [n, d], what is seen [n, p], labels [n]."""
    z, seen = z.astype(np.float64), seen.astype(np.float64)
    of = np.eye(self._classes)[y]
    new = {
      'z': of.T @ z, 'seen': of.T @ seen, 'z_z': z.T @ z, 'z_seen': z.T @ seen,
      'seen_seen': seen.T @ seen,
    }  # fmt: skip
    self._num += of.sum(0)
    self._sums = {name: self._sums.get(name, 0) + x for name, x in new.items()}

  @property
  def num(self) -> float:
    return float(self._num.sum())

  @property
  def free(self) -> float:
    """How many samples there are beyond those that the classes' means take up."""
    return self.num - (self._num > 0).sum()

  def covariances(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of latents [d, d], of them and what is seen [d, p], of that [p, p], within classes."""
    means = {name: self._sums[name] / np.maximum(self._num, 1)[:, None] for name in ('z', 'seen')}

    def within(a, b):
      return (self._sums[f'{a}_{b}'] - self._sums[a].T @ means[b]) / self.num

    return within('z', 'z'), within('z', 'seen'), within('seen', 'seen')


def eigen(matrix: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
  """The largest eigenvalues [k] of a symmetric matrix, not below 0, and its eigenvectors [k, d]."""
  values, vectors = np.linalg.eigh(matrix)
  return np.maximum(values[::-1][:num], 0), vectors.T[::-1][:num]


def pointed(vectors: np.ndarray) -> np.ndarray:
  """Vectors [k, d] of length 1, whose largest numbers are positive: signs mean nothing else."""
  largest = np.take_along_axis(vectors, np.abs(vectors).argmax(1)[:, None], 1)
  lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
  return vectors * np.where(largest < 0, -1, 1) / np.maximum(lengths, 1e-30)


def regressed(moments: Moments, num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Principal components of what is seen, each by its slope in the latents.

  Args:
    moments: of samples.
    num: how many of the components.
  Returns:
    directions [k, d], the latents' deviations along them, the shares that they explain, and how
    much of each component is linear; in descending order of what they explain.
  """
  zz, z_seen, seen_seen = moments.covariances()
  values, components = eigen(seen_seen, num)
  slopes = np.linalg.pinv(zz, rcond=1e-6, hermitian=True) @ z_seen @ components.T  # [d, k]
  linear = np.einsum('dk,de,ek->k', slopes, zz, slopes) / np.maximum(values, 1e-30)
  linear = adjusted(linear, moments.free, np.linalg.matrix_rank(zz, hermitian=True))
  explained = linear * values / max(np.trace(seen_seen), 1e-30)
  order = np.argsort(-explained, kind='stable')
  vectors = pointed(slopes.T[order])
  return vectors, deviations(zz, vectors), explained[order], linear[order]


def adjusted(linear: np.ndarray, free: float, numbers: int) -> np.ndarray:
  """Shares of a variance that are linear in so many numbers, without what chance explains of it.

  Of nothing that is linear in d numbers, n samples show d / n: half of it at two for each number.
  """
  return np.maximum(1 - (1 - linear) * free / max(free - numbers, 1), 0)


def deviations(zz: np.ndarray, vectors: np.ndarray) -> np.ndarray:
  """Standard deviations [k] of latents with this covariance along directions [k, d]."""
  return np.sqrt(np.maximum(np.einsum('kd,de,ke->k', vectors, zz, vectors), 0))


def closed_form(kernels: Sequence[np.ndarray], num: int) -> tuple[np.ndarray, np.ndarray]:
  """SeFa's directions [k, d] of kernels [d, outputs], and their shares of the eigenvalues."""
  d = len(kernels[0])
  total = np.zeros((d, d))
  for kernel in kernels:
    kernel = np.asarray(kernel, np.float64)
    unit = kernel / np.maximum(np.linalg.norm(kernel, axis=0, keepdims=True), 1e-30)
    total = total + unit @ unit.T / kernel.shape[1]
  values, vectors = eigen(total, num)
  return pointed(vectors), values / np.trace(total)


# --- Of a generator


class Finder:
  """Finds directions in z or w of a generator.

  Args:
    loaded: the generator.
    space: z or w.
    spec: sampling settings.
    labels: int32 [k], classes of the samples, in turn.
    seed: of their latents.
    num: of samples.
    batch: that are made at a time.
  Raises:
    UserError: it has no w.
  """

  def __init__(
    self,
    loaded: Loaded,
    space: str,
    spec: Spec,
    labels: np.ndarray,
    seed: int,
    num: int,
    batch: int = 64,
  ):
    if space == 'w':
      styles_of(loaded.sampler.generator, '--space=w')
    self.loaded, self.space, self.spec, self.labels = loaded, space, spec, labels
    self.seed, self.num, self.batch = seed, num, batch

  def _samples(self, start: int, num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """z, labels and the latents that directions are of, [n, ...], of samples `start` and on."""
    sampler = self.loaded.sampler
    z = sampler.latents(self.seed, num, self.spec, start)
    y = self.labels[(start + np.arange(num)) % len(self.labels)]
    return z, y, z if self.space == 'z' else sampler.mapped(self.loaded.gen, z, y, num)

  def of_latents(self, count: int) -> Directions:
    """Principal components of the latents themselves: of w, as those of z say nothing."""
    moments = Moments(self.loaded.num_classes)
    for start in range(0, self.num, 1000):
      _, y, w = self._samples(start, min(1000, self.num - start))
      moments.add(w, np.zeros((len(w), 1)), y)
    zz, *_ = moments.covariances()
    values, vectors = eigen(zz, count)
    vectors = pointed(vectors)
    share = values / max(np.trace(zz), 1e-30)
    method = f'principal components of {self.space}, {self.num:,} samples'
    return self._made(vectors, np.sqrt(values), share, np.ones(len(values)), method)

  def of_images(self, count: int, distance: ImageDistance) -> Directions:
    """Principal components of what a distance sees of images, regressed on the latents.

    Raises:
      UserError: there are too few samples for so many numbers of a latent.
    """
    sampler, name = self.loaded.sampler, seen_name(distance, self.loaded.resolution)
    size = int(np.prod(self._samples(0, 1)[2].shape[1:]))
    if self.num < PER_NUMBER * size:
      raise errors.UserError(
        f'--num={self.num} samples are too few to regress something on the {size:,} numbers of '
        f'{self.space}; give at least {PER_NUMBER * size:,}.'
      )
    look = jax.jit(
      lambda variables, images: seen(distance, variables, images.astype(jnp.float32) / 127.5 - 1),
      in_shardings=(None, parallel.batched(sampler.mesh)),
      out_shardings=parallel.replicated(sampler.mesh),
    )
    variables = jax.device_put(distance.variables, parallel.replicated(sampler.mesh))
    moments, see = Moments(self.loaded.num_classes), lambda part: look(variables, part)
    self.loaded.prepare(self.spec)
    batch = min(self.batch, self.num)
    starts = range(0, self.num, batch)
    for start in progress.counted(starts, f'batches of {batch} samples', progress.PATIENCE):
      # Whole batches, of which the last may have more than are counted: one program for all.
      z, y, latents = self._samples(start, batch)
      images = self.loaded.images(z, y, self.spec, batch)
      numbers = sampler.in_batches(see, (images,), batch)
      kept = slice(0, self.num - start)
      moments.add(latents.reshape(len(z), -1)[kept], numbers[kept], y[kept])
    method = f'principal components of {name}, {self.num:,} samples'
    return self._made(*regressed(moments, count), method)

  def closed(self, count: int) -> Directions:
    """SeFa's directions.

    Raises:
      UserError: the generator does not say which layers see a latent first, or they see another.
    """
    layers = linear_layers_of(self.loaded.sampler.generator, '--method=sefa')
    if layers.space != self.space:
      raise errors.UserError(
        f'--method=sefa finds directions in {layers.space} of this generator, not in {self.space}; '
        'leave out --space.'
      )
    kernels = layers.kernels(self.loaded.stored)
    vectors, share = closed_form([np.asarray(x) for x in kernels.values()], count)
    num = min(self.num, 10_000)
    _, y, latents = self._samples(0, num)
    moments = Moments(self.loaded.num_classes)
    moments.add(latents.reshape(num, -1), np.zeros((num, 1)), y)
    scales = deviations(moments.covariances()[0], vectors)
    method = f'closed form, of {len(kernels)} layers'
    return self._made(vectors, scales, share, np.ones(len(share)), method)

  def _made(
    self,
    vectors: np.ndarray,
    scales: np.ndarray,
    explained: np.ndarray,
    linear: np.ndarray,
    method: str,
  ) -> Directions:
    generator = self.loaded.sampler.generator
    shape = generator.latent_shape if self.space == 'z' else vectors.shape[1:]
    cast = lambda x: np.asarray(x, np.float32)
    vectors = cast(vectors).reshape(len(vectors), *shape)
    scales, explained, linear = cast(scales), cast(explained), cast(linear)
    return Directions(self.space, vectors, scales, explained, linear, method)


def find(
  finder: Finder, method: str, features: str | None, weights: str | None, count: int
) -> Directions:
  """Directions by a method.

  Args:
    finder: of a generator.
    method: pca or sefa.
    features: LATENTS, or of published.DISTANCES; None: w itself in w, else what taps says.
    weights: the file of the network.
    count: how many.
  Raises:
    UserError: the generator has not what that needs.
  """
  if method == 'sefa':
    return finder.closed(count)
  if features == LATENTS or (features is None and finder.space == 'w'):
    return finder.of_latents(count)
  return finder.of_images(count, taps.image_distance(features, weights))
