"""The w whose image is nearest to a given one: StyleGAN2's projection (Karras et al. 2020, App. D).

Adam moves one w, which all layers are given, and the noise of the layers, from the mean w on. The
noise maps are held back from carrying the image's own structure, by a penalty on what neighbours in
them have in common. Of any generator with styles (parts.Styles), by any distance of images. As in
the authors' code, and not in their text, halved noise maps are means that are not scaled up again.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.algorithms.base.contract import Spec
from bigjax.algorithms.base.generators.parts import styles_of
from bigjax.core import parallel
from bigjax.models.pretrained.taps import ImageDistance
from bigjax.sampling.latents.descent import NUM_MEAN, VERB, Descent
from bigjax.sampling.loaded import Loaded
from bigjax.sampling.sampler import to_uint8

Array = jax.Array

NOISE_WEIGHT = 1e5  # of the penalty on noise maps
NOISE_SIDE = 8  # pixels a side at which these are no longer halved


@dataclasses.dataclass(frozen=True)
class Projected:
  """Images and the nearest ones that a generator has.

  Attributes:
    targets, starts, results: uint8 [n, H, W, C]: given, of the mean w, and found.
    w: float32 [n, w_dim].
    noise: the layers' maps, float32 [n, h, w, 1] each.
    before, after: distances [n] of starts and results from the targets.
  """

  targets: np.ndarray
  starts: np.ndarray
  results: np.ndarray
  w: np.ndarray
  noise: Sequence[np.ndarray]
  before: np.ndarray
  after: np.ndarray


def noise_penalty(noise: Sequence[Array]) -> Array:
  """What neighbours in noise maps [B, h, w, 1] have in common, at every scale down to 8 px: [B]."""
  total = jnp.zeros(())
  for maps in noise:
    while True:
      for axis in (1, 2):
        total += jnp.square((maps * jnp.roll(maps, 1, axis)).mean((1, 2, 3)))
      b, h, w, _ = maps.shape
      if min(h, w) <= NOISE_SIDE:
        break
      maps = maps.reshape(b, h // 2, 2, w // 2, 2, 1).mean((2, 4))
  return total


def normalized(maps: Array) -> Array:
  """Noise maps [B, h, w, 1] with mean 0 and deviation 1 each."""
  maps = maps - maps.mean((1, 2, 3), keepdims=True)
  return maps * jax.lax.rsqrt(jnp.square(maps).mean((1, 2, 3), keepdims=True))


class Projector(Descent[Projected]):
  """Projects images into the w of a generator with styles.

  Args:
    loaded, distance, steps, spec: see Descent.
    seed: of the latents that the mean w is of, of the first noise and of that of w.
    labels: int32 [n], classes of which the mean w is, in turn.
  Raises:
    UserError: the generator has no styles.
  """

  begins_with = 'the mean w'

  def __init__(
    self,
    loaded: Loaded,
    distance: ImageDistance,
    steps: int,
    seed: int,
    labels: np.ndarray,
    spec: Spec | None = None,
  ):
    self.styles = styles_of(loaded.sampler.generator, VERB)
    super().__init__(loaded, distance, steps, seed, spec)
    z = loaded.sampler.latents(seed, NUM_MEAN, self.spec)
    y = labels[np.arange(NUM_MEAN) % len(labels)]
    w = loaded.sampler.mapped(loaded.gen, z, y, batch=1000)
    self.mean = w.mean(0)
    self.deviation = np.sqrt(np.square(w - self.mean).sum() / NUM_MEAN).astype(np.float32)

  def _image(self, gen: Any, moved: dict[str, Any], added: Array | float = 0.0) -> Array:
    ws = self.styles.layers(gen, moved['w'] + added, self.spec)
    return self.styles.synthesize(gen, ws, moved['noise'], self.spec)

  @functools.cached_property
  def _begin(self):
    def run(gen, variables, images, z):
      target = self.distance.look(variables, images.astype(jnp.float32) / 127.5 - 1)
      each = lambda one: jnp.broadcast_to(one, (len(images), *one.shape[1:]))
      noise = tuple(each(normalized(maps)) for maps in self.styles.noise(gen, z, self.spec))
      moved = {'w': each(jnp.asarray(self.mean)[None]), 'noise': noise}
      return target, moved

    return jax.jit(run, out_shardings=parallel.batched(self.loaded.sampler.mesh))

  @functools.cached_property
  def _show(self):
    def run(gen, variables, target, moved):
      images = self._image(gen, moved)
      return to_uint8(images), self.distance.between(self.distance.look(variables, images), target)

    return jax.jit(run, out_shardings=parallel.replicated(self.loaded.sampler.mesh))

  @functools.cached_property
  def _step(self):
    distance = self.distance

    def loss(moved, gen, variables, target, added):
      images = self._image(gen, moved, added)
      away = distance.between(distance.look(variables, images), target)
      return (away + NOISE_WEIGHT * noise_penalty(moved['noise'])).sum(), away

    def run(moved, state, gen, variables, target, step):
      added = self._added(self.mean.shape, step) * self.deviation
      slopes, away = jax.grad(loss, has_aux=True)(moved, gen, variables, target, added)
      updates, state = self._adam.update(slopes, state)
      moved = jax.tree.map(jnp.add, moved, updates)
      moved['noise'] = tuple(map(normalized, moved['noise']))
      return moved, state, away.mean()

    return self._jitted(run)

  def __call__(self, images: np.ndarray, what: str = 'images') -> Projected:
    sampler, gen, num = self.loaded.sampler, self.loaded.gen, len(images)
    with jax.set_mesh(sampler.mesh):
      z = sampler.latents(self.seed, 1, self.spec)
      padded = parallel.shard_batch(sampler.mesh, self._padded(images))
      target, moved = self._begin(gen, self._variables, padded, z)
      starts, before = jax.device_get(self._show(gen, self._variables, target, moved))
      given = gen, self._variables, target
      step = lambda moved, state, number: self._step(moved, state, *given, number)
      moved = self._descended(step, moved, len(padded), what)
      results, after = jax.device_get(self._show(gen, self._variables, target, moved))
      moved = jax.device_get(moved)
    cut = lambda x: np.asarray(x)[:num]
    noise = [cut(x) for x in moved['noise']]
    return Projected(
      images, cut(starts), cut(results), cut(moved['w']), noise, cut(before), cut(after)
    )
