"""Leading singular values and what holds them down, against NumPy's SVD (specs/biggan.md 3.6)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.nn import singular_values


def rand(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def flat(w):
  return np.asarray(w, np.float64).reshape(-1, w.shape[-1])


def with_spectrum(values, rows, columns, seed=0):
  """A random matrix with these singular values and no others."""
  left = np.linalg.qr(rand(rows, len(values), seed=seed))[0]
  right = np.linalg.qr(rand(columns, len(values), seed=seed + 1))[0]
  return left * np.asarray(values) @ right.T


def spectrum(w):
  return np.linalg.svd(flat(w), compute_uv=False)


@functools.partial(jax.jit, static_argnums=1)
def leading(w, k=3):
  return singular_values.leading(w, k)


def spec_example():
  """A 64x200 matrix with the three values of section 2.2, then those of a Gaussian."""
  rest = np.linalg.svd(rand(64, 200), compute_uv=False)[3:]
  return with_spectrum([29.734, 28.240, 27.393, *rest * 26.7 / rest[0]], 64, 200)


MATRICES = {
  'gaussian_wide': rand(96, 864),
  'gaussian_tall': rand(512, 200),
  'conv': rand(3, 3, 16, 24),
  'first_layer': rand(4, 1024),
  'orthogonal': np.linalg.qr(rand(90, 60))[0],
  'orthogonal_rows': np.linalg.qr(rand(96, 40))[0].T,
  # What Section 4.1 watches for: one direction explodes.
  'explosion': with_spectrum([1e4, *np.linspace(1, 0.2, 59)], 90, 60),
  # Directions without anything in them, as behind dead filters, are rounding to Gram-Schmidt.
  'rank_two': with_spectrum([5.0, 0.3], 90, 60),
  'rank_one': with_spectrum([5.0], 90, 60),
  # Ten values within a percent of the first: no start vector can tell them apart in 32 iterations.
  'nearly_equal': with_spectrum([*np.linspace(1, 0.99, 10), *np.linspace(0.5, 0.1, 30)], 90, 60),
  'spec': spec_example(),
}


@pytest.mark.parametrize('name', list(MATRICES))
def test_values_and_vectors_against_svd(name):
  w = MATRICES[name]
  m, s = flat(w), spectrum(w)
  values, left, right = (np.asarray(x, np.float64) for x in leading(jnp.asarray(w, jnp.float32)))
  assert values.shape == (3,) and left.shape == (3, len(m)) and right.shape == (3, m.shape[1])
  assert (np.diff(values) <= 1e-6 * s[0]).all()
  there = s[:3] > 1e-9 * s[0]
  assert (values[~there] < 1e-3 * s[0]).all()  # the root of float32's rounding
  values, left, right = values[there], left[there], right[there]
  np.testing.assert_allclose(values, s[: len(values)], rtol=1e-3)
  assert (values <= s[: len(values)] + 2e-6 * s[0]).all()  # from below
  np.testing.assert_allclose(right @ right.T, np.eye(len(values)), atol=1e-5)
  np.testing.assert_allclose(left @ left.T, np.eye(len(values)), atol=1e-4)
  # |M u - s v| is rounding; |M^T v - s u| is how far they are from singular vectors: its square is
  # of the order of the values' error.
  np.testing.assert_allclose(right @ m.T, values[:, None] * left, atol=1e-5 * s[0])
  assert np.linalg.norm(left @ m - values[:, None] * right, axis=1).max() < 0.02 * s[0]


def test_example_of_the_spec_to_three_decimals():
  # Section 2.2: the reference's Gram-Schmidt iteration needs 100 steps, and has (29.644, 28.262,
  # 27.428) after 20.
  got = leading(jnp.asarray(MATRICES['spec'], jnp.float32)).values
  np.testing.assert_allclose(got, [29.734, 28.240, 27.393], atol=5e-4)


def test_separated_directions_are_found_exactly():
  w = with_spectrum([4.0, 3.0, 2.0, *np.linspace(1, 0.1, 20)], 90, 60)
  v, s, u = np.linalg.svd(w)
  values, left, right = leading(jnp.asarray(w, jnp.float32))
  np.testing.assert_allclose(values, s[:3], rtol=1e-6)
  for i in range(3):  # up to a common sign
    np.testing.assert_allclose(np.outer(left[i], right[i]), np.outer(v[:, i], u[i]), atol=1e-5)


@pytest.mark.parametrize('shape', [(9, 1), (1, 1, 2, 30), (3, 3, 1, 5)])
def test_small_sides(shape):
  w = rand(*shape).astype(np.float32)
  k = singular_values.at_most(w, 3)
  assert k == min(3, *flat(w).shape)
  np.testing.assert_allclose(leading(w, k).values, spectrum(w)[:k], rtol=1e-5)


def test_number_of_values_is_what_is_asked_for():
  w = jnp.asarray(rand(30, 20), jnp.float32)
  k = singular_values.at_most(w, 50)
  assert k == 20
  np.testing.assert_allclose(leading(w, k).values, spectrum(w), rtol=1e-3)


def test_float64(x64):
  w = rand(3, 3, 16, 24)
  got = leading(jnp.asarray(w))
  assert got.values.dtype == jnp.float64
  # As below: gaps decide, not rounding. 32 iterations, the eighth next to the third value.
  np.testing.assert_allclose(got.values, spectrum(w)[:3], rtol=1e-6)
  separated = with_spectrum([4.0, 3.0, 2.0, *np.linspace(1, 0.1, 20)], 50, 40)
  np.testing.assert_allclose(leading(jnp.asarray(separated)).values, [4, 3, 2], rtol=1e-12)


def test_any_scale():
  w = rand(90, 60)
  for factor in (1e-6, 1e6):
    got = leading(jnp.asarray(factor * w, jnp.float32)).values
    np.testing.assert_allclose(got, factor * spectrum(w)[:3], rtol=1e-3)


def test_nothing_gives_zero():
  got = leading(jnp.zeros((90, 60)))
  assert all(np.isfinite(x).all() for x in got) and not got.values.any()


# Eq. 4. Separated values: the direction that is clamped is the one that NumPy clamps.

SPECTRUM = [4.0, 3.0, 2.0, *np.linspace(1, 0.1, 9)]


def separated(shape=(3, 3, 4, 12)):
  return with_spectrum(SPECTRUM, np.prod(shape[:-1]), shape[-1]).reshape(shape)


def clamped(w, bound):
  """W - max(0, s0 - bound) v0 u0^T in NumPy."""
  v, s, u = np.linalg.svd(flat(w))
  return (flat(w) - max(0, s[0] - bound) * np.outer(v[:, 0], u[0])).reshape(w.shape)


@functools.partial(jax.jit, static_argnums=(1, 2))
def clamp(w, fixed=0.0, ratio=1.0):
  return singular_values.clamp(w, fixed, ratio)


# (fixed, ratio, the bound they mean); a fixed bound wins.
@pytest.mark.parametrize(
  ('fixed', 'ratio', 'bound'),
  [(3.5, 0.5, 3.5), (1.5, 7.0, 1.5), (0.0, 1.0, 3.0), (0.0, 0.5, 1.5)],
)
def test_clamp_against_svd(fixed, ratio, bound):
  w = separated()
  got = np.asarray(clamp(jnp.asarray(w, jnp.float32), fixed, ratio))
  assert got.shape == w.shape
  np.testing.assert_allclose(got, clamped(w, bound), atol=1e-5)
  np.testing.assert_allclose(spectrum(got), sorted([bound, *SPECTRUM[1:]])[::-1], atol=1e-5)


def test_clamp_of_a_gaussian():
  # Directions may mix where values are close; what matters is where sigma0 ends.
  w = rand(96, 864)
  s = spectrum(w)
  got = spectrum(clamp(jnp.asarray(w, jnp.float32), 0.9 * s[1]))
  np.testing.assert_allclose(got[0], s[1], rtol=1e-3)  # the second is now the first
  np.testing.assert_allclose(got[1:], np.sort([*s[2:], 0.9 * s[1]])[::-1], rtol=1e-3)


@pytest.mark.parametrize(('fixed', 'ratio'), [(4.1, 1.0), (0.0, 1.4)])
def test_clamp_does_nothing_below_the_bound(fixed, ratio):
  w = jnp.asarray(separated(), jnp.float32)
  np.testing.assert_array_equal(clamp(w, fixed, ratio), w)


@pytest.mark.parametrize(('fixed', 'ratio', 'bound'), [(5.0, 0.5, 5.0), (0.0, 0.5, 1.5)])
def test_penalty_and_its_gradient(x64, fixed, ratio, bound):
  """(s0 - bound)^2 and 2 (s0 - bound) v0 u0^T; with r sigma1 as the bound, that is a constant."""
  w = separated((4, 3, 12))
  v, s, u = np.linalg.svd(flat(w))
  want = 2 * (s[0] - bound) * np.outer(v[:, 0], u[0]).reshape(w.shape)

  @jax.jit
  def run(w):
    both = jax.value_and_grad(lambda w: singular_values.penalty(w, fixed, ratio))
    return *both(w), singular_values.penalty_grad(w, fixed, ratio)

  value, through, grad = run(jnp.asarray(w))
  np.testing.assert_allclose(value, (s[0] - bound) ** 2, rtol=1e-10)
  assert grad.dtype == jnp.float64
  np.testing.assert_allclose(grad, want, atol=1e-10)
  np.testing.assert_allclose(through, want, atol=1e-8)
  # The yardstick itself, by finite differences of the SVD along random directions.
  for seed in range(4):
    d, h = rand(*w.shape, seed=10 + seed), 1e-6
    value = lambda w: (spectrum(w)[0] - bound) ** 2
    slope = (value(w + h * d) - value(w - h * d)) / (2 * h)
    np.testing.assert_allclose((want * d).sum(), slope, rtol=1e-6, atol=1e-8)


def test_bound_is_a_constant():
  values = jnp.array([3.0, 2.0])
  assert (
    singular_values.bound(values, 0.0, 1.5) == 3.0
    and singular_values.bound(values, 0.7, 1.5) == 0.7
  )
  assert not jax.jit(jax.grad(lambda v: singular_values.bound(v, 0.0, 1.5)))(values).any()


def test_gradient_is_finite_where_all_values_coincide():
  # Orthogonal initialisation: every direction is the first.
  w = jnp.asarray(np.linalg.qr(rand(36, 8))[0].reshape(3, 3, 4, 8), jnp.float32)
  grad = jax.jit(singular_values.penalty_grad, static_argnums=(1, 2))
  assert np.abs(grad(w, 0.0, 1.0)).max() < 1e-5
  np.testing.assert_allclose(np.linalg.norm(grad(w, 0.5, 1.0)), 1.0, rtol=1e-4)
  np.testing.assert_allclose(clamp(w), w, atol=1e-5)
