"""The critic and generator of shared/golden/critic_penalties.npz, in plain JAX.

32 px residual networks in the layout of mimicry (SN-GAN's without spectral norm, mean pooling): a
second writing of them, from that file's description, in the dtype of the weights.
"""

import jax
import jax.numpy as jnp
from jax import lax


def conv(params, name, x):
  """NHWC by an OIHW kernel, SAME."""
  kernel = jnp.transpose(params[f'{name}.weight'], (2, 3, 1, 0))
  dims = ('NHWC', 'HWIO', 'NHWC')
  y = lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=dims)
  return y + params[f'{name}.bias'][None, None, None]


def pool(x):
  b, h, w, c = x.shape
  return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def up(x):
  return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)


def score(params, x, act=jax.nn.relu):
  """Images [B, 32, 32, 3] -> [B]."""
  first = conv(params, 'block1.c2', act(conv(params, 'block1.c1', x)))
  h = pool(first) + conv(params, 'block1.c_sc', pool(x))
  for block in ('block2', 'block3', 'block4'):
    branch = conv(params, f'{block}.c2', act(conv(params, f'{block}.c1', act(h))))
    if block == 'block2':
      branch, h = pool(branch), pool(conv(params, f'{block}.c_sc', h))
    h = h + branch
  features = act(h).mean((1, 2))
  return (features @ params['l5.weight'].T)[:, 0] + params['l5.bias']


def norm(params, name, x):
  """BatchNorm with the batch's moments, epsilon 1e-5."""
  mean, var = x.mean((0, 1, 2), keepdims=True), x.var((0, 1, 2), keepdims=True)
  gain, bias = (params[f'{name}.{leaf}'][None, None, None] for leaf in ('weight', 'bias'))
  return (x - mean) / jnp.sqrt(var + 1e-5) * gain + bias


def generate(params, z):
  """Latents [B, 16] -> images [B, 32, 32, 3]."""
  h = z @ params['l1.weight'].T + params['l1.bias'][None]
  h = jnp.transpose(h.reshape(len(z), -1, 4, 4), (0, 2, 3, 1))
  for block in ('block2', 'block3', 'block4'):
    branch = conv(params, f'{block}.c1', up(jax.nn.relu(norm(params, f'{block}.b1', h))))
    branch = conv(params, f'{block}.c2', jax.nn.relu(norm(params, f'{block}.b2', branch)))
    h = branch + conv(params, f'{block}.c_sc', up(h))
  return jnp.tanh(conv(params, 'c5', jax.nn.relu(norm(params, 'b5', h))))
