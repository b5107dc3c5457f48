"""StyleGAN2's resampling: numbers of the official code, and the phases against the plain form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import device
from bigjax.nn import upfirdn
from bigjax.nn.style import fir

X = jnp.arange(16, dtype=jnp.float32).reshape(1, 4, 4, 1)
KERNEL = jnp.arange(9, dtype=jnp.float32).reshape(3, 3, 1, 1)


@jax.jit
def everything(x, kernel):
  turned = kernel[::-1, ::-1]
  found = {
    'up': fir.upsample(x), 'down': fir.downsample(x),
    'up_conv': fir.up_conv(x, turned), 'down_conv': fir.down_conv(x, kernel),
  }  # fmt: skip
  return {name: y[0, :, :, 0] for name, y in found.items()}


def test_the_official_numbers():
  """The official up-convolution does not correlate: its kernel is ours, turned."""
  found = everything(X, KERNEL)
  np.testing.assert_allclose(found['down'], [[2.734375, 3.9375], [7.546875, 8.75]])
  rows = [[0, 0.1875, 0.5625, 0.9375, 1.3125, 1.6875, 2.0625, 1.6875],
          [0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 3]]  # fmt: skip
  np.testing.assert_allclose(found['up'][:2], rows)
  want = [[157.20312, 173.51562], [212.70312, 210.64062]]
  np.testing.assert_allclose(found['down_conv'], want, rtol=1e-6)
  rows = [[2.1875, 6.75, 13.9375, 22.5625, 31.1875, 39.8125, 44.6875, 39.8125],
          [43.5, 73.5, 96, 114, 132, 150, 155.25, 129.75]]  # fmt: skip
  np.testing.assert_allclose(found['up_conv'][:3:2], rows, rtol=1e-6)


def test_phases_are_the_plain_form_and_so_are_their_gradients(x64):
  rng = np.random.default_rng(0)
  x, kernel = jnp.asarray(rng.normal(size=(2, 5, 6, 3))), jnp.asarray(rng.normal(size=(3, 3, 3, 2)))

  def values(x, kernel, up):
    """The result, and a gradient's gradient, as R1 has one."""
    slope = jax.grad(lambda x, kernel: jnp.sin(up(x, kernel)).sum(), (0, 1))
    squares = lambda x, kernel: sum(jnp.square(g).sum() for g in slope(x, kernel))
    return up(x, kernel), jax.grad(squares, (0, 1))(x, kernel)

  run = jax.jit(lambda *of: (values(*of, fir.up_conv), values(*of, fir.up_conv_plain)))
  found, want = map(jax.tree.leaves, run(x, kernel))
  assert found[0].shape == (2, 10, 12, 2)
  for a, b in zip(found, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_a_1x1_convolution_commutes_with_the_filter():
  net = fir.DownConv(2, 1, use_bias=False)
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(1, 6, 6, 3)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(1, 1, 3, 2)), jnp.float32)

  @jax.jit
  def both(x, kernel):
    after = fir.downsample(jnp.einsum('bhwc,cn->bhwn', x, kernel[0, 0], precision='highest'))
    return net.apply({'params': {'kernel': kernel}}, x), after

  np.testing.assert_allclose(*both(x, kernel), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_tpus_are_given_products_with_matrices(monkeypatch, dtype):
  """With the results of shifted sums, and of their gradients: no value of a matrix is rounded."""
  x = jnp.asarray(np.random.RandomState(0).randn(2, 8, 6, 3), dtype)
  names = 'upsample', 'downsample'

  def both(x):
    results = {name: jax.vjp(getattr(fir, name), x) for name in names}
    return {name: (y, *pullback(jnp.cos(y))) for name, (y, pullback) in results.items()}

  primitives = lambda: {eqn.primitive.name for eqn in jax.make_jaxpr(lambda x: both(x))(x).eqns}
  want = both(x)
  assert 'dot_general' not in primitives()
  monkeypatch.setattr(device, 'on_tpu', lambda: True)
  assert 'dot_general' in primitives()
  rounding = 1e-6 if dtype == 'float32' else 2e-2
  for one, other in zip(jax.tree.leaves(both(x)), jax.tree.leaves(want), strict=True):
    one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
    np.testing.assert_allclose(one, other, rtol=rounding, atol=rounding)


def test_only_digits_that_a_matrix_does_not_have_are_dropped_on_tpus(monkeypatch):
  """In gradients of any order the map, or its cotangent, is the operand whose digits count."""
  monkeypatch.setattr(device, 'on_tpu', lambda: True)

  def penalty(x):
    slope = jax.grad(lambda x: jnp.square(fir.upsample(fir.downsample(x))).sum())
    return jnp.square(slope(x)).sum()

  closed = jax.make_jaxpr(jax.grad(penalty))(jnp.ones((2, 8, 6, 3)))
  dots = [eqn for eqn in closed.eqns if eqn.primitive.name == 'dot_general']
  assert len(dots) >= 12
  for eqn in dots:
    x, matrix = (v.aval for v in eqn.invars)
    assert x.ndim == 4 and matrix.ndim == 2
    assert eqn.params['precision'] == (jax.lax.Precision.HIGHEST, jax.lax.Precision.DEFAULT)
  assert not [value for value in closed.consts if np.ndim(value) == 2]  # see matrix_of


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize(
  ('up', 'down', 'pad'), [(2, 1, (2, 1)), (2, 1, (3, 2)), (1, 2, (1, 1)), (1, 1, (2, 2))]
)
def test_matrices_on_tpus_are_those_of_the_filter(up, down, pad, dtype):
  """Exactly, whatever the dtype: all values have few digits."""
  for size in (5, 8):
    found = fir.matrix_of(size, up, down, pad, dtype)
    assert found.dtype == dtype
    want = upfirdn.fir(size, fir.TAPS, up, down, pad)
    np.testing.assert_array_equal(np.asarray(found, np.float64), want)
