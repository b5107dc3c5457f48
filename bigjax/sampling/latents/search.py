"""The z whose image is nearest to a given one, of any generator that gradients flow through.

Adam moves several z for each image at once: the nearest of many random latents, of whatever class
each of them is, and beside them what an encoder makes of the image, where there is one. What is
made small is a distance of images, named by its network, and the squared difference of pixels;
after each step z is put back where latents lie: between the smallest and largest numbers, and
lengths, that 10,000 of them have. The nearest of what was found, or begun with, is the result.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.algorithms.base.contract import Spec
from bigjax.algorithms.base.draws import with_noise_of
from bigjax.algorithms.base.generators.parts import searchable_of
from bigjax.core import parallel
from bigjax.models.pretrained.taps import ImageDistance
from bigjax.sampling.latents.descent import NUM_MEAN, VERB, Descent
from bigjax.sampling.latents.random_samples import Nearness, RandomSamples
from bigjax.sampling.loaded import Loaded

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Found:
  """Images and the nearest ones that a generator makes of z.

  Attributes:
    targets, starts, results: uint8 [n, H, W, C]: given, the nearest that was begun with, and found.
    z: float32 [n, ...].
    labels: int32 [n].
    noise_of: float32 [n, ...], the latents whose noise the results have.
    before, after: distances [n] of starts and results from the targets.
    lengths: [n], the root mean square of z's numbers in deviations from their means: 1 is usual.
  """

  targets: np.ndarray
  starts: np.ndarray
  results: np.ndarray
  z: np.ndarray
  labels: np.ndarray
  noise_of: np.ndarray
  before: np.ndarray
  after: np.ndarray
  lengths: np.ndarray


@dataclasses.dataclass(frozen=True)
class Place:
  """Where latents lie.

  Attributes:
    mean, deviation, least, most: of each of their numbers, [...] each.
    short, long: the least and the greatest of their lengths.
  """

  mean: np.ndarray
  deviation: np.ndarray
  least: np.ndarray
  most: np.ndarray
  short: float = 0.0
  long: float = float('inf')

  def length(self, z: Array | np.ndarray) -> Array:
    """Root mean squares [B] of z's numbers in deviations from their means: about 1."""
    away = (z - self.mean[None]) / self.deviation[None]
    return jnp.sqrt(jnp.square(away).mean(tuple(range(1, z.ndim))))

  def nearest(self, z: Array | np.ndarray) -> Array:
    """z [B, ...], each put back to a length that latents have, and then to such numbers."""
    length = jnp.maximum(self.length(z), 1e-6)
    scale = jnp.clip(length, self.short, self.long) / length
    moved = self.mean[None] + (z - self.mean[None]) * scale.reshape(-1, *[1] * (z.ndim - 1))
    return jnp.clip(moved, self.least[None], self.most[None])


def place_of(z: np.ndarray) -> Place:
  """Where latents [n, ...] lie."""
  place = Place(z.mean(0), np.maximum(z.std(0), 1e-6), z.min(0), z.max(0))
  lengths = np.asarray(place.length(z))
  return dataclasses.replace(place, short=float(lengths.min()), long=float(lengths.max()))


class LatentSearch(Descent[Found]):
  """Looks for images in the z of a generator.

  Args:
    loaded, distance, steps, spec: see Descent.
    seed: of random latents and of all noise.
    labels: int32 [n], classes among which the result's is found: those of the nearest samples.
    num_random: latents, of these classes in turn, of which the nearest are begun with.
    num_starts: how many of them for each image; what an encoder says is one more.
    pixel_weight: of the squared difference of pixels in [-1, 1], beside the distance.
  Raises:
    UserError: latents of the generator cannot be looked for.
  """

  def __init__(
    self,
    loaded: Loaded,
    distance: ImageDistance,
    steps: int,
    seed: int,
    labels: np.ndarray,
    spec: Spec | None = None,
    num_random: int = 1000,
    num_starts: int = 4,
    pixel_weight: float = 1.0,
  ):
    searchable_of(loaded.sampler.generator, VERB)
    super().__init__(loaded, distance, steps, seed, spec)
    self.num_starts, self.pixel_weight = min(num_starts, num_random), pixel_weight
    self.place = place_of(loaded.sampler.latents(seed, NUM_MEAN, self.spec))
    self.noise_of = loaded.sampler.latents(seed, 1, self.spec)
    encoder = getattr(loaded.sampler.generator, 'encoder', None)
    side, resolution = encoder.shape[0] if encoder else 0, loaded.resolution
    self._times = 0 if side % resolution else side // resolution  # as large, for an encoder
    self.begins_with = 'start' if self._times else f'best of {num_random:,}'
    given = seed, labels, self.spec, self.noise_of
    self.random = RandomSamples(loaded, distance, num_random, *given)

  def _away(self, z: Array, gen: Any, variables: Any, y: Array, target: Any, pixels: Array):
    """Distances and squared differences [B] of z's images from others."""
    noise = jnp.broadcast_to(self.noise_of, z.shape)
    images = with_noise_of(self.loaded.sampler.generator, gen, z, y, self.spec, noise)
    away = self.distance.between(self.distance.look(variables, images), target)
    return away, jnp.square(images - pixels).mean((1, 2, 3))

  @functools.cached_property
  def _look(self):
    def run(variables, images):
      pixels = images.astype(jnp.float32) / 127.5 - 1
      return self.distance.look(variables, pixels), pixels

    return jax.jit(run)

  @functools.cached_property
  def _measure(self):
    return jax.jit(self._away, out_shardings=parallel.replicated(self.loaded.sampler.mesh))

  @functools.cached_property
  def _step(self):
    def loss(z, *given):
      away, square = self._away(z, *given)
      return (away + self.pixel_weight * square).sum(), away

    def run(z, state, gen, variables, y, target, pixels, step):
      added = self._added(z.shape[1:], step) * self.place.deviation[None]
      given = gen, variables, y, target, pixels
      slopes, away = jax.grad(loss, has_aux=True)(z + added, *given)
      updates, state = self._adam.update(slopes, state)
      return self.place.nearest(z + updates), state, away.mean()

    return self._jitted(run)

  def _starts(self, images: np.ndarray, near: Nearness) -> tuple[np.ndarray, np.ndarray]:
    """Latents and classes to begin with, [n * k, ...]: k for each image, one after the other."""
    best = near.nearest(self.pixel_weight)[:, : self.num_starts]
    z, y = self.random.z[best], self.random.y[best]
    if self._times:
      large = images.repeat(self._times, 1).repeat(self._times, 2)
      encoded = np.asarray(self.place.nearest(self.loaded.encode(large, len(images))))
      # Of the class of the nearest: an encoder tells none.
      z, y = np.append(z, encoded[:, None], 1), np.append(y, y[:, :1], 1)
    return z.reshape(-1, *z.shape[2:]), y.reshape(-1)

  def __call__(self, images: np.ndarray, what: str = 'images') -> Found:
    sampler, gen = self.loaded.sampler, self.loaded.gen
    z, y = self._starts(images, self.random.near(images))
    each = np.repeat(images, len(z) // len(images), axis=0)
    starts, rows = z, len(z)
    with jax.set_mesh(sampler.mesh):
      z, y, each = parallel.shard_batch(sampler.mesh, tuple(map(self._padded, (z, y, each))))
      given = gen, self._variables, y, *self._look(self._variables, each)
      measured = lambda z: [x[:rows] for x in jax.device_get(self._measure(z, *given))]
      before = measured(z)
      step = lambda z, state, number: self._step(z, state, *given, number)
      z = self._descended(step, z, len(z), what)
      after = measured(z)
      z, y = (np.asarray(x)[:rows] for x in jax.device_get((z, y)))
    return self._chosen(images, (starts, *before), (z, *after), y)

  def _chosen(self, images: np.ndarray, begun: tuple, ended: tuple, y: np.ndarray) -> Found:
    """The nearest for each image, of starts and ends: (z, distances, squares) each, in rows."""
    num, rows = len(images), np.arange(0, len(y), len(y) // len(images))
    goal = lambda some: some[1] + self.pixel_weight * some[2]
    first = rows + goal(begun).reshape(num, -1).argmin(1)
    better = goal(ended) < goal(begun)
    pick = lambda a, b: np.where(better.reshape(-1, *[1] * (a.ndim - 1)), a, b)
    z, away, square = (pick(a, b) for a, b in zip(ended, begun, strict=True))
    last = rows + goal((z, away, square)).reshape(num, -1).argmin(1)
    noise = np.repeat(self.noise_of, num, axis=0)
    made = lambda z, at: self.loaded.sampler.images_with_noise_of(
      self.loaded.gen, z[at], y[at], self.spec, noise
    )
    lengths = np.asarray(self.place.length(z[last]))
    return Found(
      images, made(begun[0], first), made(z, last), z[last], y[last], noise, begun[1][first],
      away[last], lengths,
    )  # fmt: skip
