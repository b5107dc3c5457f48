"""Penalties against closed forms (specs/biggan.md 2.3, 3.6, T41, T42, T44), and dropout's masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.nn import linalg, optim
from bigjax.nn.objectives import regularizers

# [..., out]: more taps than filters, fewer (both sides of the Gram), square, one filter.
SHAPES = [(3, 3, 4, 8), (5, 40), (1, 1, 6, 6), (9, 1)]


orthogonal = jax.jit(regularizers.orthogonal)
orthogonal_grad = jax.jit(optim.orthogonal_grad)
r1 = jax.jit(regularizers.r1, static_argnums=0)


def rand(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def dense(w):
  """Eq. 3 as printed: |W^T W * (1 - I)|_F^2 with W^T W over filters."""
  m = w.reshape(-1, w.shape[-1])
  return jnp.square((m.T @ m) * (1 - jnp.eye(m.shape[1], dtype=m.dtype))).sum()


@pytest.mark.parametrize('shape', SHAPES)
def test_value_and_gradient_equal_the_dense_form(x64, shape):
  w = rand(*shape)
  value, grad = jax.jit(jax.value_and_grad(dense))(w)
  m = w.reshape(-1, shape[-1])
  off = (m.T @ m) * (1 - np.eye(shape[-1]))
  np.testing.assert_allclose(value, (off**2).sum(), rtol=1e-12)  # the yardstick itself, in NumPy
  scale = float(np.square(m).sum() ** 2)
  np.testing.assert_allclose(orthogonal_grad(w), grad, rtol=1e-10, atol=1e-12 * scale)
  got, through = jax.jit(jax.value_and_grad(regularizers.orthogonal))(w)
  np.testing.assert_allclose(got, value, rtol=1e-12, atol=1e-13 * scale)
  np.testing.assert_allclose(through, grad, rtol=1e-10, atol=1e-12 * scale)
  # The whole gradient, not BigGAN-PyTorch's 2 (W W^T * (1 - I)) W, which is half of it.
  np.testing.assert_allclose(grad, (4 * m @ off).reshape(shape), rtol=1e-10, atol=1e-12 * scale)


@pytest.mark.parametrize('shape', SHAPES[:2])
def test_float32_keeps_the_gradient(shape):
  w = rand(*shape).astype(np.float32)
  want = np.asarray(jax.jit(jax.grad(dense))(w))
  got = orthogonal_grad(w)
  assert got.shape == shape and got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, atol=1e-5 * max(np.abs(want).max(), 1.0))


@pytest.mark.parametrize(('shape', 'filters'), [((3, 3, 4, 8), True), ((5, 40), False)])
def test_gram_is_taken_on_the_small_side(x64, shape, filters):
  m = rand(*shape).reshape(-1, shape[-1])
  got = jax.jit(lambda w: linalg.small_gram(linalg.matrix(w)))(m.reshape(shape))
  np.testing.assert_allclose(got, m.T @ m if filters else m @ m.T, rtol=1e-12)


def test_orthogonal_filters_of_any_length_cost_nothing(x64):
  # The penalty is on cosines, not norms (section 2.3): 0 for any diagonal Gram.
  q = np.linalg.qr(rand(36, 8))[0]
  scaled = q * np.array([1.0, 2.0, 0.1, 5.0, 1.0, 3.0, 0.5, 7.0])
  for w in (q, scaled):
    w = w.reshape(3, 3, 4, 8)
    assert abs(orthogonal(w)) < 1e-10
    assert np.abs(orthogonal_grad(w)).max() < 1e-10
  skewed = q.copy()
  skewed[:, 1] += 0.5 * q[:, 0]  # one pair of filters with inner product 0.5: 2 * 0.25
  np.testing.assert_allclose(orthogonal(skewed), 0.5, rtol=1e-9)


@pytest.mark.parametrize('shape', [(3, 3, 4, 8), (5, 40)])
def test_rotating_the_input_taps_changes_nothing(x64, shape):
  # T42: R(QW) = R(W), so the Gram is over filters; rotating the filters does change it.
  m = rand(*shape).reshape(-1, shape[-1])
  taps = np.linalg.qr(rand(m.shape[0], m.shape[0], seed=1))[0]
  filters = np.linalg.qr(rand(m.shape[1], m.shape[1], seed=2))[0]
  value = float(orthogonal(m))
  rotated = orthogonal((taps @ m).reshape(shape))
  np.testing.assert_allclose(rotated, value, rtol=1e-11)
  assert abs(float(orthogonal(m @ filters)) / value - 1) > 1e-4


def test_first_layer_at_orthogonal_init():
  # Section 2.3: 24,576 vectors in R^20 cannot be orthogonal; R / beta = 19.982 at orthogonal init.
  init = jax.nn.initializers.orthogonal()
  value = jax.jit(lambda key: regularizers.orthogonal(init(key, (20, 24576))))(jax.random.key(0))
  np.testing.assert_allclose(value, 19.982, atol=2e-3)


def test_first_layer_never_builds_the_filters_gram():
  # T44: 24576^2 floats are 2.4 GB. Compiled, not run.
  w = jax.ShapeDtypeStruct((20, 24576), jnp.float32)
  compiled = lambda fn: jax.jit(fn).lower(w).compile()
  for fn in (regularizers.orthogonal, optim.orthogonal_grad):
    program = compiled(fn)
    assert '24576,24576' not in program.as_text()
    assert program.memory_analysis().temp_size_in_bytes < 16e6  # W itself is 2 MB
  assert '24576,24576' in compiled(dense).as_text()  # what the check looks for is there to be seen


def test_total_sums_over_the_mask():
  params = {'a': {'kernel': jnp.full((2, 3), 2.0), 'bias': jnp.ones((3,))}, 'b': jnp.ones((2, 2))}
  value = lambda w: w.sum()
  kernels = lambda path, leaf: path.endswith('kernel')
  assert float(regularizers.total(value, params, kernels)) == 12.0
  assert float(regularizers.total(value, params, lambda path, leaf: leaf.ndim == 2)) == 16.0
  assert float(regularizers.total(value, params, lambda path, leaf: False)) == 0.0


# R1 (Eq. 5): |grad D(x)|^2 / 2 of each image.


def images(num=5):
  return rand(num, 4, 3, 2, seed=3)


def test_r1_of_a_linear_critic_is_half_its_squared_weights(x64):
  w = rand(4, 3, 2)
  critic = lambda x: 0.7 + jnp.einsum('bhwc,hwc->b', x, jnp.asarray(w))
  got = r1(critic, images())
  np.testing.assert_allclose(got, np.full(5, (w**2).sum() / 2), rtol=1e-12)
  clips = images()[:, None]  # [B, T, H, W, C]: one number each, too
  np.testing.assert_allclose(r1(lambda x: critic(x[:, 0]), clips), got, rtol=1e-12)


def quadratic(a):
  """D(x) = x^T A x / 2 + sum(x): its gradient is A x + 1 for a symmetric A."""

  def critic(x):
    x = x.reshape(len(x), -1)
    return 0.5 * jnp.einsum('bi,ij,bj->b', x, a, x) + x.sum(1)

  return critic


def test_r1_of_a_quadratic_critic(x64):
  a = rand(24, 24, seed=4)
  a = a + a.T
  x = images()
  want = (((x.reshape(5, 24) @ a + 1) ** 2).sum(1)) / 2
  np.testing.assert_allclose(r1(quadratic(a), x), want, rtol=1e-12)
  # its own gradient with respect to the critic: d/ds of s^2 |A x|^2 / 2 + ... at s = 1
  value = jax.jit(jax.value_and_grad(lambda s: regularizers.r1(quadratic(s * a), x).sum()))
  slope = (value(1 + 1e-6)[0] - value(1 - 1e-6)[0]) / 2e-6
  np.testing.assert_allclose(value(1.0)[1], slope, rtol=1e-6)


def test_r1_of_an_image_does_not_depend_on_the_others():
  critic = quadratic(rand(24, 24).astype(np.float32))
  x = images().astype(np.float32)
  got = r1(critic, x)
  assert got.shape == (5,) and len(np.unique(got)) == 5
  others = r1(critic, np.concatenate([x[:1], np.full_like(x[1:], 9)]))
  np.testing.assert_allclose(others[0], got[0], rtol=1e-6)
  np.testing.assert_allclose(r1(critic, x[2:3])[0], got[2], rtol=1e-5)
