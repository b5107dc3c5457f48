"""FLOPs counted in what JAX traces, against closed forms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bigjax.algorithms.base import configs
from bigjax.nn import kernels
from bigjax.preflight import flops, step_cost

F32 = jnp.float32


def shape(*dims):
  return jax.ShapeDtypeStruct(dims, F32)


def by_hand(size, taps, out, stride, low, dilation):
  """Count the pairs of output and tap that meet a pixel, one by one."""
  met = 0
  for i in range(out):
    for k in range(taps):
      at = i * stride - low + k
      met += 0 <= at < (size - 1) * dilation + 1 and at % dilation == 0
  return met


@pytest.mark.parametrize(
  ('size', 'taps', 'stride', 'pad', 'dilation'),
  [(8, 3, 1, (1, 1), 1), (8, 4, 2, (1, 1), 1), (4, 4, 1, (2, 2), 2), (5, 2, 1, (1, 0), 1)],
)
def test_convolutions_count_taps_that_meet_pixels(size, taps, stride, pad, dilation):
  def run(x, k):
    return lax.conv_general_dilated(
      x, k, (stride,) * 2, (pad,) * 2, (dilation,) * 2, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )

  x, k = shape(2, size, size, 5), shape(taps, taps, 5, 7)
  out = jax.eval_shape(run, x, k).shape[1]
  want = 2 * 2 * 5 * 7 * by_hand(size, taps, out, stride, pad[0], dilation) ** 2
  assert flops.needed(run, x, k) == want


def test_products_in_loops_branches_and_scopes():
  def run(x, w):
    def body(x, _):
      return x @ w, None

    x, _ = lax.scan(body, x, None, length=5)
    x = lax.cond(x[0, 0] > 0, lambda x: x @ w, lambda x: x + (x @ w) @ w, x)
    with jax.named_scope('penalty'):
      return x @ w

  x, w = shape(3, 4), shape(4, 4)
  one = 2 * 3 * 4 * 4
  assert flops.needed(run, x, w) == (5 + 2 + 1) * one
  assert flops.needed(run, x, w, without=('penalty',)) == (5 + 2) * one


def test_while_loops_that_hold_products_are_refused():
  run = lambda x: lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x @ x, x)
  with pytest.raises(ValueError, match='while'):
    flops.needed(run, shape(4, 4))


@pytest.mark.parametrize(('form', 'times'), [('plain', 1), ('fewest', 2.25)])
def test_resampling_forms_differ_by_nine_quarters(form, times):
  """Inside the image: borders, where taps meet padding, are left out by a large side."""
  form, side = kernels.KERNELS[form], 64
  up = flops.needed(form.up, shape(1, side, side, 3), shape(3, 3, 3, 5))
  down = flops.needed(form.down, shape(1, side, side, 3), shape(3, 3, 3, 5))
  np.testing.assert_allclose(up * times, 2 * 9 * 15 * (2 * side) ** 2, rtol=0.03)
  np.testing.assert_allclose(down * times, 2 * 9 * 15 * side**2, rtol=0.05)


@pytest.mark.slow
def test_model_flops_of_biggan_128_are_the_closed_form():
  """k D steps of G forward, D forward and backward on two batches; G forward and backward, D's
  forward and its gradient with respect to images alone."""
  config = configs.read('imagenet128')
  wide = [16, 16, 8, 4, 2, 1]
  gen = 2 * 20 * 16 * 16 * 1536  # linear
  for i, (a, b) in enumerate(itertools.pairwise(wide)):
    a, b, side = 96 * a, 96 * b, 8 << i
    up = (4 * (side // 2) - 2) ** 2  # of four 2x2 convolutions, each loses a tap at a border
    gen += 2 * a * b * up + 2 * b * b * (3 * side - 2) ** 2 + 2 * a * b * (side // 2) ** 2
    gen += 2 * 148 * 2 * (a + b)  # gains and biases
  c = 96 * 2
  gen += 2 * (c * c // 8 + c * c // 8 + c * c // 2 + c // 2 * c) * 64**2
  gen += 2 * 64**2 * 32**2 * (c // 8 + c // 2)
  gen += 2 * 96 * 3 * (3 * 128 - 2) ** 2
  total = step_cost.model_flops(config)
  d_steps, batch = config.optim.d_steps, config.optim.batch_size
  disc, first = 0, 0
  wide = [None, 1, 2, 4, 8, 16, 16]
  for i, (a, b) in enumerate(itertools.pairwise(wide)):
    a, b, side = 96 * a if a else 3, 96 * b, 128 >> i
    down = i < 5
    at = side // 2 if down else side
    conv1 = 2 * a * b * (3 * side - 2) ** 2
    conv2 = 2 * b * b * ((4 * at - 2) ** 2 if down else (3 * side - 2) ** 2)
    shortcut = 2 * a * b * at**2 if down else 0
    disc += conv1 + conv2 + shortcut
    first = conv1 + shortcut if i == 0 else first
  c = 96
  disc += 2 * (c * c // 8 + c * c // 8 + c * c // 2 + c // 2 * c) * 64**2
  disc += 2 * 64**2 * 32**2 * (c // 8 + c // 2)
  disc += 2 * 1536
  want = batch * (d_steps * (gen + 2 * (3 * disc - first)) + 3 * gen + 2 * disc)
  np.testing.assert_allclose(total, want, rtol=2e-3)
