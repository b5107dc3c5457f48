"""Penalties of critics that look at several scales of an image at once (Karnewar & Wang 2020).

A critic takes a tuple of images [B, r, r, C], one of each scale. Its slope is measured by each
scale's image apart, and what a penalty makes of the slopes is averaged over the scales, not summed:
with more of them each weighs less.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from bigjax.core import trees
from bigjax.nn.objectives import regularizers, scores

Array = jax.Array
Pyramid = Sequence[Array]
Score = Callable[[Pyramid], Array]  # -> [B]
Penalty = Callable[[Score, Pyramid, Pyramid, Array], Array]  # (score, real, fake, keys [B]) -> [B]


def squared_slopes(score: Score, images: Pyramid, looked_at: Sequence[bool] | None = None) -> Array:
  """The squared norms [scales, B] of the gradients of sum(scores) by each scale's images.

  Args:
    score: the critic.
    images: one array for each scale.
    looked_at: which of the scales count; None is all. A critic that is not given some of them has
      no slope there that could be judged.
  """
  gradients = jax.grad(lambda xs: score(xs).sum())(tuple(images))
  counted = [True] * len(gradients) if looked_at is None else looked_at
  pairs = zip(gradients, counted, strict=True)
  return jnp.stack([scores.squares(trees.at_least_float32(g)) for g, counts in pairs if counts])


def r1_penalty(gamma: float = 10.0, looked_at: Sequence[bool] | None = None) -> Penalty:
  """R1 over scales, as MSG-StyleGAN's code has it: gamma / 2 times the mean of |grad_s D|^2."""

  def penalty(score, real, fake, keys):
    del fake, keys
    return gamma / 2 * squared_slopes(score, real, looked_at).mean(0)

  return penalty


def gradient_penalty(
  weight: float = 10.0, target: float = 1.0, looked_at: Sequence[bool] | None = None
) -> Penalty:
  """WGAN-GP over scales, as MSG-ProGAN has it: weight times the mean of (|grad_s D| - target)^2.

  One number of each pair says how far from the real to the fake image all its scales lie.
  """

  def penalty(score, real, fake, keys):
    alpha = jax.vmap(jax.random.uniform)(keys)
    pairs = zip(real, fake, strict=True)
    between = [regularizers.between(r, f, alpha) for r, f in pairs]
    slopes = scores.safe_sqrt(squared_slopes(score, between, looked_at))
    return weight * jnp.square(slopes - target).mean(0)

  return penalty
