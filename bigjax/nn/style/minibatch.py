"""Layers through which a discriminator sees how much the examples of a batch differ.

Both give the same on any number of devices, or say why they cannot.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.core import errors, parallel, trees

Array = jax.Array


def stddev(x: Array, group: int | None = 4, features: int = 1, block: int | None = None) -> Array:
  """Minibatch standard deviation (Karras et al. 2018, 3): one more map per feature, constant.

  Of each group of examples, the standard deviation over the group, averaged over pixels and over
  the channels of a feature. In the official codes, where a block is what one GPU holds, example n
  of N is in subset n mod N / group; so it is here.

  Args:
    x: [b, H, W, C], this device's part of the global batch (or all of it).
    group: examples per group, if a block has as many; None: one group, the block.
    features: maps that are added; they divide C.
    block: consecutive examples that are grouped among themselves. None is the global batch, which
      all devices gather: for small maps. One of `group` examples needs no communication.
  Returns:
    [b, H, W, C + features].
  Raises:
    UserError: groups, blocks and devices do not line up.
  """
  b, h, w, _ = x.shape
  num = parallel.num_examples(b)
  block = num if block is None else min(block, num)
  group = block if group is None else min(group, block)
  if num % block or block % group:
    raise errors.UserError(
      f'minibatch standard deviation in groups of {group} among blocks of {block} examples: they '
      f'do not divide the batch of {num}; take a batch or groups that do.'
    )
  if block == num:
    every = _spreads(parallel.gather_examples(x), group, features)
    spread = every[parallel.places(b)]
  elif b % block:
    raise errors.UserError(
      f'minibatch standard deviation among blocks of {block} examples: they do not divide the {b} '
      'examples of a device; take smaller groups, a larger batch or fewer devices.'
    )
  else:
    blocks = x.reshape(b // block, block, *x.shape[1:])
    spread = jax.vmap(lambda part: _spreads(part, group, features))(blocks).reshape(b, features)
  spread = jnp.broadcast_to(spread[:, None, None], (b, h, w, features))
  return jnp.concatenate([x, spread.astype(x.dtype)], -1)


def _spreads(x: Array, group: int, features: int) -> Array:
  """The mean standard deviations of each example's group, [N, features], at least float32."""
  n, h, w, c = x.shape
  x = trees.at_least_float32(x).reshape(group, n // group, h, w, features, c // features)
  x = x - x.mean(0, keepdims=True)
  spread = jnp.sqrt(jnp.square(x).mean(0) + 1e-8).mean((1, 2, 4))  # [subsets, features]
  return jnp.tile(spread, (group, 1))


ITSELF = 1e6  # distance of an example from itself: infinite, as far as exp can tell


class MinibatchDiscrimination(nn.Module):
  """Minibatch discrimination (Salimans et al. 2016, 3.2): [b, in] -> [b, in + kernels], float32.

  Each kernel adds to an example's features how near it is to the other examples of the global
  batch: the sum of exp(-L1 distance) in `dims` dimensions. `fitted` has the initialisation by data.
  """

  kernels: int = 100
  dims: int = 5

  def setup(self):
    self.log_scale = self.param(
      'log_scale', nn.initializers.zeros, (self.kernels, self.dims), jnp.float32
    )
    self.bias = self.param('bias', nn.initializers.constant(-1.0), (self.kernels,), jnp.float32)

  @nn.compact
  def distances(self, h: Array) -> Array:
    """L1 distances [b, kernels, N] of these examples to all N of the global batch."""
    shape = (h.shape[-1], self.kernels, self.dims)
    theta = self.param('theta', nn.initializers.normal(0.05), shape, jnp.float32)
    norm = jnp.sqrt(jnp.square(theta).sum(0))
    weights = (theta * (jnp.exp(self.log_scale) / norm)[None]).astype(h.dtype)
    mine = jnp.einsum('bi,ikd->bkd', h, weights, precision='highest')
    every = parallel.gather_examples(mine)
    apart = jnp.abs(mine[:, :, None] - every.swapaxes(0, 1)[None]).sum(-1)  # [b, kernels, N]
    itself = parallel.places(len(h))[:, None] == jnp.arange(len(every), dtype=jnp.int32)[None]
    return apart + ITSELF * itself[:, None].astype(apart.dtype)

  def __call__(self, h: Array) -> Array:
    h = trees.at_least_float32(h)
    near = jnp.exp(-self.distances(h)).sum(-1) + self.bias[None].astype(h.dtype)
    return jnp.concatenate([h, near], -1)


def fitted(layer: MinibatchDiscrimination, params: dict, h: Array) -> dict:
  """A layer's parameters initialised by data, as Salimans and Kingma's code has it.

  Afterwards an example's nearest neighbour is at a distance of 2 in each kernel, on average, and
  what is added to the features has mean 0 on these examples.

  Args:
    layer: unbound.
    params: fresh ones of the layer.
    h: [B, in], features of real images (PGGAN takes 500).
  """
  h = trees.at_least_float32(h)
  nearest = layer.apply({'params': params}, h, method='distances').min(-1)  # [B, kernels]
  nearest = parallel.global_mean(nearest)[0]
  log_scale = params['log_scale'] - jnp.log(nearest / 2)[:, None]
  params = {**params, 'log_scale': log_scale, 'bias': jnp.zeros_like(params['bias'])}
  near = layer.apply({'params': params}, h)[:, h.shape[-1] :]
  return {**params, 'bias': -parallel.global_mean(near)[0]}
