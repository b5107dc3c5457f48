"""Descent by Adam in a generator's latents: what searches for w and for z have in common.

Rates and noise are those of StyleGAN2's projection (Karras et al. 2020, App. D): a rate that rises,
and falls along a cosine at the end; a noise on the latents that fades away, so that they wander at
first.
"""

import abc
import sys
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.algorithms.base.contract import Spec
from bigjax.core import parallel
from bigjax.core.progress import PATIENCE, Progress
from bigjax.models.pretrained.taps import ImageDistance
from bigjax.nn import optim
from bigjax.sampling.loaded import Loaded

Array = jax.Array
Result = TypeVar('Result')  # a dataclass of arrays [n, ...], of n images

VERB = '`bigjax project`'
NUM_MEAN = 10_000  # latents that means and deviations are of
RATE = 0.1
UP, DOWN = 0.05, 0.25  # shares of the steps in which the rate rises and falls
NOISE, NOISE_END = 0.05, 0.75  # of latents, in deviations; the share of the steps it is for


def learning_rate(step: Array | float, steps: int) -> Array:
  """The rate of a step, counted from 0: a linear rise, and a fall along a cosine at the end."""
  done = jnp.asarray(step, jnp.float32) / steps
  down = jnp.minimum(1.0, (1 - done) / DOWN)
  return RATE * (0.5 - 0.5 * jnp.cos(jnp.pi * down)) * jnp.minimum(1.0, done / UP)


def noise_scale(step: Array | float, steps: int) -> Array:
  """The deviation of what is added to latents in a step, in deviations of theirs."""
  done = jnp.asarray(step, jnp.float32) / steps
  return NOISE * jnp.square(jnp.maximum(0.0, 1 - done / NOISE_END))


class Descent(abc.ABC, Generic[Result]):
  """Looks for images among those of a generator.

  Args:
    loaded: the generator; it is prepared for the settings.
    distance: of images.
    steps: of Adam.
    seed: of all that is drawn.
    spec: sampling settings; None: the card's.
  Attributes:
    name: of the distance, at the size at which images are shown.
    begins_with: what the search begins with, in words.
  """

  begins_with: str

  def __init__(
    self, loaded: Loaded, distance: ImageDistance, steps: int, seed: int, spec: Spec | None = None
  ):
    self.loaded, self.distance, self.steps, self.seed = loaded, distance, steps, seed
    self.spec = loaded.spec() if spec is None else spec
    loaded.prepare(self.spec)
    self.name = distance.name_at(loaded.resolution)
    self._adam = optim.adam(lambda step: learning_rate(step, steps), 0.9, 0.999, 1e-8)
    mesh = loaded.sampler.mesh
    self._variables = jax.device_put(distance.variables, parallel.replicated(mesh))

  @abc.abstractmethod
  def __call__(self, images: np.ndarray, what: str = 'images') -> Result:
    """Looks for uint8 images [n, H, W, C], all at once, and says how far it is.

    `what` they are called in the line of progress.
    """

  def in_parts(self, images: np.ndarray, batch: int, what: str) -> Result:
    """Looks for uint8 images [n, H, W, C], so many at a time."""
    parts, num = [], len(images)
    for start in range(0, num, batch):
      stop = min(start + batch, num)
      first = max(stop - batch, 0)  # a last batch of another shape would be compiled anew
      words = what if num <= batch else f'{what} {start + 1:,} to {stop:,} of {num:,}'
      found = self(images[first:stop], words)
      parts.append(jax.tree.map(lambda x, skip=start - first: x[skip:], dict(vars(found))))
    return type(found)(**jax.tree.map(lambda *each: np.concatenate(each), *parts))

  def _padded(self, x: np.ndarray) -> np.ndarray:
    """Rows [n, ...] and the last one again, so that devices have equally many."""
    return np.concatenate([x, np.repeat(x[-1:], -len(x) % self.loaded.sampler.mesh.size, axis=0)])

  def _added(self, shape: tuple[int, ...], step: Array) -> Array:
    """The noise on latents [1, ...] in a step, in deviations of theirs.

    It is one for all images: what is found of one does not depend on those beside it.
    """
    key = jax.random.fold_in(jax.random.key(self.seed), step)
    return jax.random.normal(key, (1, *shape)) * noise_scale(step, self.steps)

  def _jitted(self, run: Callable[..., tuple[Any, Any, Array]]) -> Callable[..., Any]:
    """A step: (moved, state of Adam, ...) -> the first two after it, and the distance.

    What comes out lies on the devices as what went in, or the second step would be compiled anew.
    """
    mesh = self.loaded.sampler.mesh
    split, whole = parallel.batched(mesh), parallel.replicated(mesh)
    state = jax.eval_shape(self._adam.init, jax.ShapeDtypeStruct((1,), jnp.float32))
    of_state = jax.tree.map(lambda x: split if x.ndim else whole, state)
    return jax.jit(run, donate_argnums=(0, 1), out_shardings=(split, of_state, whole))

  def _descended(
    self, run: Callable[[Any, Any, Any], tuple[Any, Any, Array]], moved: Any, num: int, what: str
  ) -> Any:
    """What all steps make of what is moved; says how far they are, and how long the rest takes.

    Args:
      run: (moved, state of Adam, int32 number of the step) -> as of `_jitted`.
      moved: before the first, arrays [B, ...] split over the devices.
      num: of images.
      what: they are called.
    """
    line, state = Progress(0, self.steps, num, sys.stderr), self._adam.init(moved)
    line.say(f'{what}: {self.steps:,} steps by {self.name}')
    patience, said = 0.5 if sys.stderr.isatty() else PATIENCE, time.monotonic()
    for step in range(self.steps):
      moved, state, away = run(moved, state, np.int32(step))
      if not step:
        jax.block_until_ready(moved)
        line.restart(1)
      elif time.monotonic() - said > patience or step + 1 == self.steps:
        line.update(step + 1, {'distance': float(away)})
        said = time.monotonic()  # after what is under way has been waited for
    if sys.stderr.isatty():
      line.say('', temporary=True)
    return moved
