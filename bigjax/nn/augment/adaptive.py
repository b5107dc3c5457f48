"""The strength of an augmentation, driven by how far D overfits (Karras et al. 2020b).

r_t is the mean sign of what D says of the training images, as it sees them (augmented), since the
last adjustment: 0 when it is at a loss, 1 when it knows them by heart. Every `interval` steps the
strength p goes up or down by what would lead it from 0 to 1 in `kimg` thousand images.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

State = dict[str, jax.Array]
Measure = Callable[[jax.Array, jax.Array], jax.Array]


def mean_sign(logits: jax.Array) -> jax.Array:
  """The mean sign [] of D's logits [B]; of the global batch, it is the mean over the devices."""
  return jnp.sign(logits).mean()


# Each is 0 when D is at a loss and 1 when it is sure, of logits [B] of what it was shown as
# training images and of fakes.


def lambda_r(real: jax.Array, fake: jax.Array) -> jax.Array:
  """E[sign D(real)]: ADA's r_t, and what APA's results and its code have."""
  del fake
  return mean_sign(real)


def lambda_f(real: jax.Array, fake: jax.Array) -> jax.Array:
  """-E[sign D(fake)]."""
  del real
  return -mean_sign(fake)


def lambda_rf(real: jax.Array, fake: jax.Array) -> jax.Array:
  """The mean of both."""
  return (lambda_r(real, fake) + lambda_f(real, fake)) / 2


MEASURES: dict[str, Measure] = {'lambda_r': lambda_r, 'lambda_f': lambda_f, 'lambda_rf': lambda_rf}


@dataclasses.dataclass(frozen=True)
class Controller:
  """How p is adjusted; the published values, which APA shares.

  Attributes:
    batch: training images of a step, of all discriminator steps.
    target: r_t above which p grows, and below which it falls.
    kimg: thousand images in which p goes from 0 to 1; the paper's transfer runs have 100.
    interval: steps from one adjustment to the next.
    measure: (logits of training images [B], of fakes [B]) -> []: r_t's, ADA's or one of APA's.
  """

  batch: int
  target: float = 0.6
  kimg: float = 500.0
  interval: int = 4
  measure: Measure = lambda_r

  def init(self, p: float = 0.0) -> State:
    """{'p', 'r_t', 'signs', 'logits': float32 [], 'steps': int32 []}, all of it to be saved.

    p is at least 0 and may pass 1, where every coin shows heads; r_t is that of the last
    adjustment, 0 before the first.
    """
    state = {name: jnp.zeros((), jnp.float32) for name in ('r_t', 'signs', 'logits')}
    return {**state, 'p': jnp.asarray(p, jnp.float32), 'steps': jnp.zeros((), jnp.int32)}

  def update(self, state: State, sign: jax.Array, num: int) -> State:
    """The state after a step in which D judged `num` training images; `sign` [] is the measure's.

    All of its judgements count, those of several discriminator steps and of a lazy penalty too.
    """
    signs, logits = state['signs'] + num * sign, state['logits'] + num
    steps = state['steps'] + 1
    r_t = signs / jnp.maximum(logits, 1)
    change = self.batch * self.interval / (1000 * self.kimg)
    adjusted = {
      'p': jnp.maximum(state['p'] + jnp.sign(r_t - self.target) * change, 0),
      'r_t': r_t,
      'signs': jnp.zeros_like(signs),
      'logits': jnp.zeros_like(logits),
      'steps': jnp.zeros_like(steps),
    }
    waiting = {**state, 'signs': signs, 'logits': logits, 'steps': steps}
    due = steps >= self.interval
    return {name: jnp.where(due, adjusted[name], waiting[name]) for name in waiting}
