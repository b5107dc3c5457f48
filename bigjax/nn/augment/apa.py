"""Adaptive pseudo augmentation (Jiang et al. 2021): fakes shown to D as training images.

With probability p, example by example, D is given a generated image in a training image's place,
so that it cannot be as sure of the training images as it might. p is driven as ADA's is
(adaptive.Controller, the same defaults), by one of the measures of overfitting there.
"""

import jax


def deceive(keys: jax.Array, p: jax.Array | float) -> jax.Array:
  """In which places of a batch the fake stands for the training image, bool [B], from keys [B].

  p [] may be traced. Show such a fake with its own label, and let no gradient reach it: it stands
  for data.
  """
  return jax.vmap(jax.random.uniform)(keys) < p
