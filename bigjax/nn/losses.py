"""Adversarial losses: logits -> scalar, a mean over the examples, never with a factor 1/2."""

import jax
import jax.numpy as jnp


def hinge_disc(real: jax.Array, fake: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Hinge loss of the discriminator (Lim & Ye 2017; Brock et al. 2019), as its two parts.

  Args:
    real: [B] logits of real images.
    fake: [B] logits of fake images.
  Returns:
    (mean relu(1 - real), mean relu(1 + fake)); the loss is their sum.
  """
  return jnp.mean(jax.nn.relu(1 - real)), jnp.mean(jax.nn.relu(1 + fake))


def hinge_gen(fake: jax.Array) -> jax.Array:
  """Hinge loss of the generator: -mean fake, for logits [B]."""
  return -jnp.mean(fake)
