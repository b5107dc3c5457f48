"""What PGGAN's family is built of: widths, and a critic's block."""

import jax
import numpy as np
import pytest

from bigjax.core import errors
from bigjax.nn import kernels
from bigjax.nn.convolution import mean_pool
from bigjax.nn.style import blocks
from bigjax.nn.style.resampling import blur

from networks import pictures, weights


def test_resolutions():
  assert [blocks.level_of(px) for px in (4, 8, 1024)] == [2, 3, 10]
  for px in (2, 3, 0, 48):
    with pytest.raises(errors.UserError, match=f'not {px}; take a power of 2'):
      blocks.level_of(px)
  maps = [blocks.num_maps(level, 8192, 512) for level in range(1, 11)]
  assert maps == [512, 512, 512, 512, 512, 256, 128, 64, 32, 16]
  assert blocks.resolutions(4) == (4,) and blocks.resolutions(32) == (4, 8, 16, 32)
  assert blocks.num_maps(4, 256, 32) == 32 and blocks.num_maps(5, 256, 32) == 16
  with pytest.raises(errors.UserError, match='at least 64'):
    blocks.num_maps(7, 32, 8)


def test_averages_of_activations_are_not_activated_averages():
  x = pictures(2, 8, 4)
  both = {order: blocks.DiscBlock(4, 4, order=order) for order in blocks.ORDERS}
  params = weights(jax.eval_shape(both['tf'].init, jax.random.key(0), x)['params'])
  outputs = {name: jax.jit(block.apply)({'params': params}, x) for name, block in both.items()}
  assert np.abs(outputs['tf'] - outputs['theano']).max() > 0.01
  leaky = lambda x: np.where(x > 0, x, 0.2 * x)
  pool = lambda x: x.reshape(2, 4, 2, 4, 2, -1).mean((2, 4))
  plain = jax.jit(kernels.PLAIN.conv)
  conv = lambda x, p: np.asarray(plain(x, p['kernel'])) + np.asarray(p['bias'])
  h = conv(leaky(conv(x, params['Conv0'])), params['Conv1'])
  np.testing.assert_allclose(outputs['theano'], pool(leaky(h)), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(outputs['tf'], leaky(pool(h)), rtol=1e-4, atol=1e-5)


def test_the_second_convolution_sees_a_blurred_map():
  x = pictures(2, 8, 4)
  plain, blurred = blocks.DiscBlock(4, 4), blocks.DiscBlock(4, 4, blurred=True)
  params = weights(jax.eval_shape(plain.init, jax.random.key(0), x)['params'])
  got, state = blurred.apply({'params': params}, x, capture_intermediates=True)
  (first,) = state['intermediates']['Conv0']['__call__']
  kernel, bias = params['Conv1']['kernel'], params['Conv1']['bias']
  second = blurred.kernels.conv(blur(blocks.leaky_relu(first)), kernel) + bias[None, None, None]
  np.testing.assert_allclose(got, mean_pool(blocks.leaky_relu(second)), rtol=1e-5, atol=1e-5)
