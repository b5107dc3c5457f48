"""Blocks over time: the convolution of images is that of clips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bigjax.nn.kernels import FAST, PLAIN
from bigjax.nn.video.blocks import Conv3D, DiscBlock3D
from bigjax.nn.video.frames import pool_space, pool_time


@pytest.mark.parametrize('down', [False, True])
def test_conv_is_the_one_over_time(down):
  x = jax.random.normal(jax.random.key(0), (2, 5, 4, 4, 3))
  conv = Conv3D(6, down, FAST)
  params = conv.init(jax.random.key(1), x)['params']
  params['bias'] = jnp.arange(6.0)
  expected = lax.conv_general_dilated(
    x, params['kernel'], (1, 1, 1), 'SAME', dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'),
    precision='highest',
  )  # fmt: skip
  expected = pool_time(pool_space(expected, 2)) if down else expected
  found = jax.jit(conv.apply)({'params': params}, x)
  np.testing.assert_allclose(found, np.asarray(expected) + np.arange(6.0), atol=1e-4)


def test_a_block_of_one_frame_is_that_of_an_image():
  """With kernels whose first and last thirds are 0, time does not matter."""
  x = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 2))
  block = DiscBlock3D(4, False, True, PLAIN, jnp.float32)
  params = block.init(jax.random.key(1), x)['params']
  for name in ('conv1', 'conv2'):
    params[name]['kernel'] = params[name]['kernel'].at[jnp.array([0, 2])].set(0)
  run = lambda x: block.apply({'params': params}, x)
  np.testing.assert_allclose(run(x)[:, 1:2], run(x[:, 1:2]), atol=1e-5)
