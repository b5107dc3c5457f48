"""Laws of time: learning rates by name, and decays of averaged weights; all are functions of steps.

Numbers are float32 scalars inside a program, of any integer count of steps.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bigjax.core import errors

Array = jax.Array
Schedule = Callable[[Array], Array]  # count of updates, int32 -> factor or learning rate
# (step from 0, examples of a step) -> decay of an average.
Decay = Callable[[Array, int], Array | float]


def _left(step: Array, start: int, steps: int) -> Array:
  """The share of the steps from `start` to `steps` that lies ahead, 1 before and 0 after."""
  return jnp.clip((steps - step.astype(jnp.float32)) / (steps - start), 0, 1)


def constant(start: int, steps: int) -> Schedule:
  """1 throughout."""
  del start, steps
  return lambda step: jnp.ones((), jnp.float32)


def linear(start: int, steps: int) -> Schedule:
  """1 until `start`, then straight to 0 at `steps`, as SN-GAN's and WGAN-GP's."""
  return lambda step: _left(step, start, steps)


def cosine(start: int, steps: int) -> Schedule:
  """1 until `start`, then half a cosine to 0 at `steps` (Loshchilov & Hutter 2017)."""
  return lambda step: (1 - jnp.cos(jnp.pi * _left(step, start, steps))) / 2


SCHEDULES: dict[str, Callable[[int, int], Schedule]] = {
  'constant': constant,
  'linear': linear,
  'cosine': cosine,
}


def learning_rate(
  lr: float, name: str, steps: int, start: int = 0, warmup: int = 0, updates: int = 1
) -> float | Schedule:
  """A learning rate over a run, as optim's optimizers and optax take it.

  Args:
    lr: its highest value.
    name: one of SCHEDULES.
    steps: of the run; where linear and cosine end at 0.
    start: step at which they begin to fall.
    warmup: steps over which it rises from lr / warmup to lr; 0: none.
    updates: of this player in a step (the discriminator's d_steps): the count is of updates.
  Returns:
    `lr` itself where nothing changes, which leaves a program as it is without schedules.

  Raises:
    UserError: no such name, or no step is left between `start` and `steps`.
  """
  law = errors.pick(name, SCHEDULES, 'optim.schedule')
  if name != 'constant' and not 0 <= start < steps:
    raise errors.UserError(
      f'a {name} learning rate falls from step {start} to step {steps}; give a start that is '
      f'from 0 to below the {steps} steps of the run.'
    )
  if name == 'constant' and not warmup:
    return lr
  factor = law(start, steps)

  def schedule(count):
    step = count // updates
    rise = jnp.minimum((step.astype(jnp.float32) + 1) / warmup, 1) if warmup else 1
    return lr * factor(step) * rise

  return schedule


def ema_decay(decay: float) -> Decay:
  """The same decay at every step, whatever the batch."""
  return lambda step, examples: decay


def ema_half_life(images: float, ramp: float | None = None) -> Decay:
  """Decay by half-life (Karras et al. 2018): a weight's share halves after so many images.

  Args:
    images: the half-life, in images that the generator's player has seen.
    ramp: while the run is young, the half-life is at most this share of the images seen before the
      step, so that the first weights are soon forgotten (StyleGAN2: 0.05); None: no ramp.
  """

  def law(step, examples):
    seen = step.astype(jnp.float32) * examples
    half_life = images if ramp is None else jnp.minimum(images, ramp * seen)
    # Raised to a power that overflows to infinity, 1/2 is 0: the average is a copy at first.
    return jnp.exp2(-examples / jnp.maximum(half_life, 1e-8))

  return law
