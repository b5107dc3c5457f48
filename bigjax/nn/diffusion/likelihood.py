"""How likely images are by a diffusion: the variational bound over all of its steps.

As OpenAI's codes evaluate it (`calc_bpd_loop`): each step has noise of its own; what the network
says of x_0 is held in [-1, 1]. One `scan`, as a walk is.
"""

import jax
import jax.numpy as jnp

from bigjax.nn.diffusion.process import Process
from bigjax.nn.diffusion.sampling import Network

Array = jax.Array


def bits(process: Process, network: Network, images: Array, keys: Array) -> Array:
  """A bound above -log2 p(image), in bits for each of its numbers, [B].

  Args:
    process: of the kept steps.
    network: what it says of x_t; t are steps of the whole process.
    images: 8-bit levels [B, H, W, C] as numbers from -1 to 1.
    keys: of the noise, one for each image, [B].
  """

  def add(total, t):
    draw = lambda key: jax.random.normal(jax.random.fold_in(key, t), images.shape[1:])
    return total + step_bits(process, network, images, t, jax.vmap(draw)(keys)), None

  return jax.lax.scan(add, process.prior_bits(images), jnp.arange(process.num_steps))[0]


def step_bits(process: Process, network: Network, images: Array, t: Array, noise: Array) -> Array:
  """The term [B] of kept step t, of images with this noise."""
  t = jnp.full(images.shape[:1], t)
  x = process.noised(images, t, noise)
  told = jnp.asarray(process.tables.timesteps)[t]
  return process.bits(process.reverse(network(x, told), x, t), images, x, t)
