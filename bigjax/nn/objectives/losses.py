"""Adversarial losses: scores -> scalars, means over the examples, as their papers print them.

The halves of the least squares are the paper's; no other loss here has a factor 1/2.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bigjax.core import parallel

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Loss:
  """A pair of losses, of this device's scores.

  Attributes:
    disc: (real [B], fake [B]) -> the discriminator's loss in its two parts, scalars: their sum is
      what it minimises.
    gen: (fake [B], real [B] or None) -> the generator's loss, a scalar.
    needs_real: whether `gen` looks at scores of real images, which is one more pass of those
      through the discriminator in the generator's step.
    has_sides: whether positive scores say real and negative ones fake; where it is False, the zero
      of the scores is anywhere, or means something else.
  """

  disc: Callable[[Array, Array], tuple[Array, Array]]
  gen: Callable[[Array, Array | None], Array]
  needs_real: bool = False
  has_sides: bool = True


def hinge_disc(real: Array, fake: Array) -> tuple[Array, Array]:
  """Hinge loss of the discriminator (Lim & Ye 2017; Brock et al. 2019), as its two parts.

  Args:
    real: [B] logits of real images.
    fake: [B] logits of fake images.
  Returns:
    (mean relu(1 - real), mean relu(1 + fake)); the loss is their sum.
  """
  return jnp.mean(jax.nn.relu(1 - real)), jnp.mean(jax.nn.relu(1 + fake))


def hinge_gen(fake: Array, real: Array | None = None) -> Array:
  """Hinge loss of the generator: -mean fake, for logits [B]."""
  del real
  return -jnp.mean(fake)


def logistic_disc(real: Array, fake: Array) -> tuple[Array, Array]:
  """Cross-entropy of the discriminator (Goodfellow et al. 2014), on logits [B]."""
  return jnp.mean(jax.nn.softplus(-real)), jnp.mean(jax.nn.softplus(fake))


def logistic_gen(fake: Array, real: Array | None = None) -> Array:
  """The non-saturating loss, -mean log D(G(z)): a gradient also where D is sure of a fake."""
  del real
  return jnp.mean(jax.nn.softplus(-fake))


def saturating_gen(fake: Array, real: Array | None = None) -> Array:
  """The minimax game's own loss, mean log(1 - D(G(z)))."""
  del real
  return -jnp.mean(jax.nn.softplus(fake))


def least_squares_disc(real: Array, fake: Array) -> tuple[Array, Array]:
  """Least squares (Mao et al. 2017, Eq. 9): half the squares of real - 1 and of fake scores."""
  return jnp.mean(jnp.square(real - 1)) / 2, jnp.mean(jnp.square(fake)) / 2


def least_squares_gen(fake: Array, real: Array | None = None) -> Array:
  """Least squares of the generator: half the squared distance of fake scores to 1."""
  del real
  return jnp.mean(jnp.square(fake - 1)) / 2


def wasserstein_disc(real: Array, fake: Array) -> tuple[Array, Array]:
  """The critic's estimate of minus the Wasserstein distance (Arjovsky et al. 2017)."""
  return -jnp.mean(real), jnp.mean(fake)


def _relative(real: Array, fake: Array) -> tuple[Array, Array]:
  """Scores less the mean score of the other kind, which is taken over the global batch."""
  return real - parallel.global_mean(fake), fake - parallel.global_mean(real)


def relativistic(pair: Callable[[Array, Array], tuple[Array, Array]]) -> Loss:
  """The relativistic average form (Jolicoeur-Martineau 2019) of a discriminator's loss.

  Real images shall score above the average fake one, and fake ones below the average real one; the
  generator minimises the same with real and fake exchanged, so that its gradient has a part through
  the average that real images are compared with.

  Args:
    pair: (real, fake) -> the discriminator's loss in two parts.
  """

  def disc(real, fake):
    return pair(*_relative(real, fake))

  def gen(fake, real):
    real, fake = _relative(real, fake)
    return sum(pair(fake, real))

  return Loss(disc, gen, needs_real=True, has_sides=False)


def class_entropy(logits: Array, labels: Array) -> Array:
  """Cross-entropy [B] of logits [B, classes] and the true labels [B]: an ACGAN's (Odena 2017)."""
  return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]


LOSSES: dict[str, Loss] = {
  'hinge': Loss(hinge_disc, hinge_gen),
  'logistic': Loss(logistic_disc, logistic_gen),
  'logistic_saturating': Loss(logistic_disc, saturating_gen),
  'least_squares': Loss(least_squares_disc, least_squares_gen, has_sides=False),
  'wasserstein': Loss(wasserstein_disc, hinge_gen, has_sides=False),
  'relativistic_average': relativistic(logistic_disc),
  'relativistic_average_hinge': relativistic(hinge_disc),
}
