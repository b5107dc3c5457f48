"""The z whose image is nearest to a given one, of any generator that gradients flow through.

Adam moves several z for each image at once: the nearest of many random latents, of whatever class
each of them is, and what an encoder makes of the image, where there is one. What is made small is
a distance of images, named by its network, and the squared difference of pixels; after each step z
is put back where latents lie: between the smallest and largest numbers, and lengths, that 10,000 of
them have. As in StyleGAN2's projection, whose rate it has, a noise on z fades away. The nearest of
what was found, or begun with, is the result.
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
from bigjax.nn import optim
from bigjax.sampling.latents import projection
from bigjax.sampling.latents.random_samples import Nearness, RandomSamples
from bigjax.sampling.loaded import Loaded

Array = jax.Array

VERB = '`bigjax project`'


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


class LatentSearch:
  """Looks for images in the z of a generator.

  Args:
    loaded: the generator.
    distance: of images.
    steps: of Adam.
    seed: of random latents and of all noise.
    labels: int32 [n], classes among which the result's is found: those of the nearest samples.
    spec: sampling settings; None: the card's.
    num_random: latents, of these classes in turn, of which the nearest are begun with.
    num_starts: how many of them for each image.
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
    generator, sampler = loaded.sampler.generator, loaded.sampler
    searchable_of(generator, VERB)
    self.loaded, self.distance, self.steps, self.seed = loaded, distance, steps, seed
    self.spec = loaded.spec() if spec is None else spec
    loaded.prepare(self.spec)
    self.num_starts, self.pixel_weight = min(num_starts, num_random), pixel_weight
    self.name = distance.name_at(loaded.resolution)
    self.place = place_of(sampler.latents(seed, projection.NUM_MEAN, self.spec))
    self.noise_of = sampler.latents(seed, 1, self.spec)
    given = seed, labels, self.spec, self.noise_of
    self.random = RandomSamples(loaded, distance, num_random, *given)
    self._adam = optim.adam(lambda step: projection.learning_rate(step, steps), 0.9, 0.999, 1e-8)
    self._variables = jax.device_put(distance.variables, parallel.replicated(sampler.mesh))

  def _away(self, z: Array, gen: Any, variables: Any, y: Array, target: Any, pixels: Array):
    """Distances and squared differences [B] of z's images, and the images."""
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
      # One noise for all images: what is found of one does not depend on those beside it.
      key = jax.random.fold_in(jax.random.key(self.seed), step)
      added = jax.random.normal(key, (1, *z.shape[1:])) * self.place.deviation[None]
      added = added * projection.w_noise(step, self.steps)
      given = gen, variables, y, target, pixels
      slopes, away = jax.grad(loss, has_aux=True)(z + added, *given)
      updates, state = self._adam.update(slopes, state)
      return self.place.nearest(z + updates), state, away.mean()

    return jax.jit(run, donate_argnums=(0, 1))

  def _encoded(self, images: np.ndarray) -> np.ndarray | None:
    """What an encoder makes of images; None: there is none, or of another size."""
    encoder = getattr(self.loaded.sampler.generator, 'encoder', None)
    if encoder is None or encoder.shape[0] % images.shape[1]:
      return None
    times = encoder.shape[0] // images.shape[1]
    z = self.loaded.encode(images.repeat(times, 1).repeat(times, 2), len(images))
    return np.asarray(self.place.nearest(z))

  def _starts(self, images: np.ndarray, near: Nearness) -> tuple[np.ndarray, np.ndarray]:
    """Latents and classes to begin with, [n * num_starts, ...]: several for each image."""
    best = near.nearest(self.pixel_weight)[:, : self.num_starts]
    z, y = self.random.z[best], self.random.y[best]
    encoded = self._encoded(images)
    if encoded is not None:
      z[:, -1], y[:, -1] = encoded, y[:, 0]
    return z.reshape(-1, *z.shape[2:]), y.reshape(-1)

  def __call__(self, images: np.ndarray, what: str = 'images') -> Found:
    """Looks for uint8 images [n, H, W, C], all at once, and says how far it is.

    `what` they are called in the line of progress.
    """
    sampler, gen = self.loaded.sampler, self.loaded.gen
    z, y = self._starts(images, self.random.near(images))
    each = np.repeat(images, self.num_starts, axis=0)
    pad = lambda x: np.concatenate([x, np.repeat(x[-1:], -len(x) % sampler.mesh.size, axis=0)])
    starts, rows = z, len(z)
    with jax.set_mesh(sampler.mesh):
      z, y, each = parallel.shard_batch(sampler.mesh, tuple(map(pad, (z, y, each))))
      given = gen, self._variables, y, *self._look(self._variables, each)
      measured = lambda z: [x[:rows] for x in jax.device_get(self._measure(z, *given))]
      before = measured(z)
      step = lambda z, state, number: self._step(z, state, *given, number)
      words = f'{what}: {self.steps:,} steps by {self.name}'
      z = projection.descend(step, z, self._adam.init(z), self.steps, len(z), words)
      after = measured(z)
      z, y = (np.asarray(x)[:rows] for x in jax.device_get((z, y)))
    return self._chosen(images, (starts, *before), (z, *after), y)

  def _chosen(self, images: np.ndarray, begun: tuple, ended: tuple, y: np.ndarray) -> Found:
    """The nearest for each image, of starts and ends: (z, distances, squares) each, in rows."""
    num, rows = len(images), np.arange(len(images)) * self.num_starts
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

  def in_parts(self, images: np.ndarray, batch: int, what: str) -> Found:
    """Looks for uint8 images [n, H, W, C], so many at a time."""
    return projection.in_parts(self, Found, images, batch, what)
