"""Adaptive pseudo augmentation (Jiang et al. 2021): fakes shown to D as training images.

With probability p, example by example, D is given a generated image in a training image's place,
so that it cannot be as sure of the training images as it might. p is driven as ADA's is
(adaptive.Controller, the same defaults) by one of three measures of overfitting; `lambda_r` is what
the paper's results and its code have.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bigjax.nn.augment import adaptive


def deceive(keys: jax.Array, real: jax.Array, fake: jax.Array, p: jax.Array | float) -> jax.Array:
  """Training images [B, H, W, C], each replaced by the fake of its place with probability p.

  No gradient reaches the fakes: they stand for data. They are judged with the training images'
  labels, so draw them with these where there are labels.

  Args:
    keys: [B].
    p: [], may be traced.
  """
  pseudo = jax.vmap(jax.random.uniform)(keys) < p
  fake = jax.lax.stop_gradient(fake).astype(real.dtype)
  return jnp.where(pseudo[:, None, None, None], fake, real)


# Each is 0 when D is at a loss and 1 when it is sure, of logits [B] of what it was shown as
# training images (pseudo ones among them) and of fakes.


def lambda_r(real: jax.Array, fake: jax.Array) -> jax.Array:
  """E[sign D(real)]: ADA's r_t."""
  del fake
  return adaptive.mean_sign(real)


def lambda_f(real: jax.Array, fake: jax.Array) -> jax.Array:
  """-E[sign D(fake)]."""
  del real
  return -adaptive.mean_sign(fake)


def lambda_rf(real: jax.Array, fake: jax.Array) -> jax.Array:
  """The mean of both."""
  return (lambda_r(real, fake) + lambda_f(real, fake)) / 2


MEASURES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
  'lambda_r': lambda_r, 'lambda_f': lambda_f, 'lambda_rf': lambda_rf,
}  # fmt: skip
