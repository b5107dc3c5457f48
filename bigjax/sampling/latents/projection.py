"""The w whose image is nearest to a given one: StyleGAN2's projection (Karras et al. 2020, App. D).

Adam moves one w, which all layers are given, and the noise of the layers, from the mean w on. To w
a noise is added that fades away, so that it wanders at first; the noise maps are held back from
carrying the image's own structure, by a penalty on what neighbours in them have in common. Of any
generator with styles (parts.Styles), by any distance of images. As in the authors' code, and not
in their text, halved noise maps are means that are not scaled up again.
"""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.algorithms.base.contract import Spec
from bigjax.algorithms.base.generators.parts import styles_of
from bigjax.core import parallel
from bigjax.core.progress import PATIENCE, Progress
from bigjax.models.pretrained.taps import ImageDistance
from bigjax.nn import optim
from bigjax.sampling.loaded import Loaded
from bigjax.sampling.sampler import to_uint8

Array = jax.Array

NUM_MEAN = 10_000  # latents that the mean and the deviation of w are of
RATE = 0.1
UP, DOWN = 0.05, 0.25  # shares of the steps in which the rate rises and falls
NOISE, NOISE_END = 0.05, 0.75  # what is added to w, in deviations; the share of the steps it is for
NOISE_WEIGHT = 1e5  # of the penalty on noise maps
NOISE_SIDE = 8  # pixels a side at which these are no longer halved
VERB = '`bigjax project`'


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


def learning_rate(step: Array | float, steps: int) -> Array:
  """The rate of a step, counted from 0: a linear rise, and a fall along a cosine at the end."""
  done = jnp.asarray(step, jnp.float32) / steps
  down = jnp.minimum(1.0, (1 - done) / DOWN)
  return RATE * (0.5 - 0.5 * jnp.cos(jnp.pi * down)) * jnp.minimum(1.0, done / UP)


def w_noise(step: Array | float, steps: int) -> Array:
  """The deviation of what is added to w in a step, in deviations of w."""
  done = jnp.asarray(step, jnp.float32) / steps
  return NOISE * jnp.square(jnp.maximum(0.0, 1 - done / NOISE_END))


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


def descend(
  run: Callable[[Any, Any, Any], tuple[Any, Any, Array]],
  moved: Any,
  state: Any,
  steps: int,
  num: int,
  words: str,
) -> Any:
  """What so many steps make of what is moved; says how far they are, and how long the rest takes.

  Args:
    run: (moved, state of the optimizer, int32 number of the step) -> the first two after it, and
      the distance.
    moved, state: before the first.
    steps: how many.
    num: of images.
    words: said at the start.
  """
  line = Progress(0, steps, num, sys.stderr)
  line.say(words)
  patience, said = 0.5 if sys.stderr.isatty() else PATIENCE, time.monotonic()
  for step in range(steps):
    moved, state, away = run(moved, state, np.int32(step))
    if not step:
      jax.block_until_ready(moved)
      line.restart(1)
    elif time.monotonic() - said > patience or step + 1 == steps:
      line.update(step + 1, {'distance': float(away)})
      said = time.monotonic()  # after what is under way has been waited for
  if sys.stderr.isatty():
    line.say('', temporary=True)
  return moved


def in_parts(
  search: Callable[[np.ndarray, str], Any],
  kind: type,
  images: np.ndarray,
  batch: int,
  what: str,
) -> Any:
  """What a search finds of uint8 images [n, H, W, C], so many at a time.

  Args:
    search: (images, what they are called) -> a dataclass of arrays [n, ...].
    kind: this dataclass.
    images, batch: these.
    what: they are called.
  """
  parts, num = [], len(images)
  for start in range(0, num, batch):
    stop = min(start + batch, num)
    first = max(stop - batch, 0)  # a last batch of another shape would be compiled anew
    words = what if num <= batch else f'{what} {start + 1:,} to {stop:,} of {num:,}'
    part = dict(vars(search(images[first:stop], words)))
    parts.append(jax.tree.map(lambda x, skip=start - first: x[skip:], part))
  return kind(**jax.tree.map(lambda *each: np.concatenate(each), *parts))


class Projector:
  """Projects images into the w of a generator with styles.

  Args:
    loaded: the generator.
    distance: of images.
    steps: of Adam.
    seed: of the latents that the mean w is of, of the first noise and of that of w.
    labels: int32 [n], classes of which the mean w is, in turn.
    spec: sampling settings; None: the card's.
  Raises:
    UserError: the generator has no styles.
  """

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
    self.loaded, self.distance, self.steps, self.seed = loaded, distance, steps, seed
    self._adam = optim.adam(lambda step: learning_rate(step, steps), 0.9, 0.999, 1e-8)
    self.name = distance.name_at(loaded.resolution)
    self.spec, sampler = spec or loaded.spec(), loaded.sampler
    z = sampler.latents(seed, NUM_MEAN, self.spec)
    w = sampler.mapped(loaded.gen, z, labels[np.arange(NUM_MEAN) % len(labels)], batch=1000)
    self.mean = w.mean(0)
    self.deviation = np.sqrt(np.square(w - self.mean).sum() / NUM_MEAN).astype(np.float32)
    self._variables = jax.device_put(distance.variables, parallel.replicated(sampler.mesh))

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
      return target, moved, self._adam.init(moved)

    return jax.jit(run)

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
      # One noise for all images: what is found of one does not depend on those beside it.
      key = jax.random.fold_in(jax.random.key(self.seed), step)
      added = jax.random.normal(key, (1, len(self.mean)))
      added = added * (self.deviation * w_noise(step, self.steps))
      slopes, away = jax.grad(loss, has_aux=True)(moved, gen, variables, target, added)
      updates, state = self._adam.update(slopes, state)
      moved = jax.tree.map(jnp.add, moved, updates)
      moved['noise'] = tuple(map(normalized, moved['noise']))
      return moved, state, away.mean()

    return jax.jit(run, donate_argnums=(0, 1))

  def __call__(self, images: np.ndarray, what: str = 'images') -> Projected:
    """Projects uint8 images [n, H, W, C], all at once, and says how far it is.

    `what` they are called in the line of progress.
    """
    sampler, gen, num = self.loaded.sampler, self.loaded.gen, len(images)
    padded = np.concatenate([images, np.repeat(images[-1:], -num % sampler.mesh.size, axis=0)])
    with jax.set_mesh(sampler.mesh):
      z = sampler.latents(self.seed, 1, self.spec)
      padded = parallel.shard_batch(sampler.mesh, padded)
      target, moved, state = self._begin(gen, self._variables, padded, z)
      starts, before = jax.device_get(self._show(gen, self._variables, target, moved))
      given = gen, self._variables, target
      step = lambda moved, state, number: self._step(moved, state, *given, number)
      words = f'{what}: {self.steps:,} steps by {self.name}'
      moved = descend(step, moved, state, self.steps, len(padded), words)
      results, after = jax.device_get(self._show(gen, self._variables, target, moved))
      moved = jax.device_get(moved)
    cut = lambda x: np.asarray(x)[:num]
    noise = [cut(x) for x in moved['noise']]
    return Projected(
      images, cut(starts), cut(results), cut(moved['w']), noise, cut(before), cut(after)
    )

  def in_parts(self, images: np.ndarray, batch: int, what: str) -> Projected:
    """Projects uint8 images [n, H, W, C], so many at a time."""
    return in_parts(self, Projected, images, batch, what)
