"""Which steps of a diffusion process a batch is trained at, and what its losses weigh for it.

L_vlb is estimated with less noise where steps are drawn as often as the root of their loss's second
moment says (Nichol & Dhariwal 2021, section 3.3); everything else draws them evenly.
"""

import dataclasses

import jax
import jax.numpy as jnp

Array = jax.Array
History = dict[str, Array]  # what is known of the losses: part of the state


@dataclasses.dataclass(frozen=True)
class Uniform:
  """All steps are as likely; there is nothing to know."""

  num_steps: int

  def start(self) -> History:
    return {}

  def draw(self, keys: Array, known: History) -> tuple[Array, Array]:
    """(Steps int32 [B], weights [B] of their losses), each of its own key."""
    del known
    t = jax.vmap(lambda key: jax.random.randint(key, (), 0, self.num_steps))(keys)
    return t, jnp.ones(t.shape, jnp.float32)

  def learn(self, known: History, t: Array, losses: Array) -> History:
    """What is known after losses [B] of steps [B], before they are weighed."""
    del t, losses
    return known


@dataclasses.dataclass(frozen=True)
class SecondMoment:
  """Steps by the root mean square of their last losses, once all have been seen often enough.

  Attributes:
    num_steps: of the process.
    history: losses of a step that are kept.
    uniform: share of draws that stay even.
  """

  num_steps: int
  history: int = 10
  uniform: float = 0.001

  def start(self) -> History:
    return {
      'losses': jnp.zeros((self.num_steps, self.history), jnp.float32),
      'seen': jnp.zeros((self.num_steps,), jnp.int32),
    }

  def probabilities(self, known: History) -> Array:
    """Of each step, [num_steps]."""
    weights = jnp.sqrt(jnp.square(known['losses']).mean(1))
    total = weights.sum()
    weights = weights / jnp.where(total > 0, total, 1) * (1 - self.uniform)
    weights = weights + self.uniform / self.num_steps
    full = (known['seen'] == self.history).all()
    return jnp.where(full, weights, 1 / self.num_steps)

  def draw(self, keys: Array, known: History) -> tuple[Array, Array]:
    p = self.probabilities(known)
    logits = jnp.log(p)
    t = jax.vmap(lambda key: jax.random.categorical(key, logits))(keys).astype(jnp.int32)
    return t, 1 / (self.num_steps * p[t])

  def learn(self, known: History, t: Array, losses: Array) -> History:
    def one(known, pair):
      step, loss = pair
      row, seen = known['losses'][step], known['seen'][step]
      shifted = jnp.append(row[1:], loss)
      row = jnp.where(seen == self.history, shifted, row.at[seen].set(loss, mode='drop'))
      return {
        'losses': known['losses'].at[step].set(row),
        'seen': known['seen'].at[step].set(jnp.minimum(seen + 1, self.history)),
      }, None

    return jax.lax.scan(one, known, (t, losses))[0]


SAMPLERS = {'uniform': Uniform, 'second_moment': SecondMoment}
