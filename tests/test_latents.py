"""The four laws called truncation, and weights between knots (specs/biggan.md 2.6, T51, T52)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax import latents, utils
from bigjax.latents import How

DIM, NUM = 100, 4000  # 400,000 numbers: the std of their std is 1.1e-3 of it


@pytest.fixture(scope='module')
def keys():
  return jax.random.split(jax.random.key(0), NUM)


def sample(keys, t, dialect):
  z = np.asarray(jax.jit(latents.draw, static_argnums=1)(keys, DIM, How(t, dialect)))
  assert z.shape == (len(keys), DIM) and z.dtype == np.float32
  return z.astype(np.float64)


def cdf(t):
  return 0.5 * (1 + math.erf(t / math.sqrt(2)))


def truncated_std(t):
  """Std of N(0, 1) given |z| <= t: sqrt(1 - 2 t phi(t) / (2 Phi(t) - 1))."""
  phi = math.exp(-t * t / 2) / math.sqrt(2 * math.pi)
  return math.sqrt(1 - 2 * t * phi / (2 * cdf(t) - 1))


# (t, dialect, std, bound); the stds of the first two laws are printed in section 2.6 and T51.
@pytest.mark.parametrize(
  ('t', 'dialect', 'std', 'bound'),
  [
    (0.5, 'resample', 0.2839, 0.5),
    (1.0, 'resample', 0.5396, 1.0),
    (2.0, 'resample', 0.8796, 2.0),
    (0.25, 'truncnorm', 0.2199, 0.5),
    (0.5, 'truncnorm', 0.4398, 1.0),
    (1.0, 'truncnorm', 0.8796, 2.0),
    (0.3, 'scale', 0.3, math.inf),
    (1.5, 'scale', 1.5, math.inf),
    # clamp: E z^2 = (2 Phi(1) - 1) s^2 + 2 (1 - Phi(1)), s = 0.5396: 0.19877 + 0.31731
    (1.0, 'clamp', 0.71839, 1.0),
  ],
)
def test_law_of_each_dialect(keys, t, dialect, std, bound):
  z = sample(keys, t, dialect)
  assert np.abs(z).max() <= bound  # T51: always
  assert np.abs(z).max() > 0.99 * min(bound, 4 * t)  # and the range is used
  np.testing.assert_allclose(z.std(), std, rtol=5e-3)
  np.testing.assert_allclose(z.mean(), 0, atol=5 * std / math.sqrt(z.size))
  if dialect == 'resample':
    np.testing.assert_allclose(truncated_std(t), std, atol=5e-5)
    # The law between: the share within t/2.
    share = (2 * cdf(t / 2) - 1) / (2 * cdf(t) - 1)
    np.testing.assert_allclose((np.abs(z) < t / 2).mean(), share, atol=5e-3)
  if dialect == 'clamp':
    np.testing.assert_allclose((np.abs(z) == t).mean(), 2 * (1 - cdf(t)), atol=5e-3)


@pytest.mark.parametrize('dialect', list(latents.DIALECTS))
def test_untruncated_is_normal_in_every_dialect(keys, dialect):
  # T54: N(0, I), not TF-Hub's t = 1 with |z| <= 2.
  z = sample(keys, math.inf, dialect)
  np.testing.assert_array_equal(z, np.asarray(jax.jit(latents.normal, static_argnums=1)(keys, DIM)))
  np.testing.assert_allclose(z.std(), 1, rtol=5e-3)
  np.testing.assert_allclose((np.abs(z) > 2).mean(), 2 * (1 - cdf(2)), atol=2e-3)


@pytest.mark.parametrize('dialect', list(latents.DIALECTS))
def test_a_sample_depends_on_its_own_key_alone(keys, dialect):
  draw = jax.jit(lambda keys: latents.draw(keys, 8, How(0.7, dialect)))
  some = draw(keys[:5])
  np.testing.assert_array_equal(draw(keys[2:4]), some[2:4])
  assert len(np.unique(np.asarray(some), axis=0)) == 5


@pytest.mark.parametrize('dialect', list(latents.DIALECTS))
def test_a_sweep_compiles_once(keys, dialect):
  # The truncation is traced, inf included; as a constant it gives the same numbers.
  draw = jax.jit(lambda keys, how: latents.draw(keys, 8, how))
  constant = jax.jit(lambda keys: latents.draw(keys, 8, How(0.3, dialect)))
  np.testing.assert_allclose(draw(keys[:3], How(0.3, dialect)), constant(keys[:3]), rtol=1e-6)
  for t in (1.7, math.inf):
    assert np.isfinite(draw(keys[:3], How(t, dialect))).all()
  assert draw._cache_size() == 1


@pytest.mark.parametrize('dialect', ['truncnorm', 'scale', 'clamp'])
def test_zero_is_the_mode_where_it_has_a_meaning(keys, dialect):
  assert not np.any(latents.draw(keys[:2], 4, How(0.0, dialect)))


@pytest.mark.parametrize(
  ('text', 'how'),
  [
    ('0.5', How(0.5, 'resample')),
    ('2', How(2.0, 'resample')),
    ('1:scale', How(1.0, 'scale')),
    ('0.4:truncnorm', How(0.4, 'truncnorm')),
    ('none', How(math.inf)),
    ('inf', How(math.inf)),
    ('0:scale', How(0.0, 'scale')),
  ],
)
def test_parse(text, how):
  assert latents.parse(text) == how


def test_parse_takes_the_dialect_that_is_meant_where_none_is_named():
  assert latents.parse('0.5', 'truncnorm') == How(0.5, 'truncnorm')
  assert latents.parse('0.5:clamp', 'truncnorm') == How(0.5, 'clamp')


def test_printed_truncation_names_its_law():
  # T51: "truncation 0.5" alone means two different things.
  for dialect in latents.DIALECTS:
    assert '0.5' in str(How(0.5, dialect)) and dialect in str(How(0.5, dialect))
  assert str(How()) == 'untruncated'


@pytest.mark.parametrize('text', ['', 'half', '0.5;scale', ':scale'])
def test_parse_refuses_what_is_no_number(text):
  with pytest.raises(utils.UserError, match='write t or t:dialect'):
    latents.parse(text)


@pytest.mark.parametrize('text', ['-0.5', 'nan:scale', '0', '-inf:clamp'])
def test_parse_refuses_a_truncation_without_meaning(text):
  with pytest.raises(utils.UserError, match='leaves nothing to draw'):
    latents.parse(text)


def test_parse_refuses_an_unknown_dialect_and_suggests():
  with pytest.raises(utils.UserError, match='did you mean truncnorm'):
    latents.parse('0.5:truncnrom')
  with pytest.raises(utils.UserError, match='expected one of: resample'):
    latents.parse('0.5', 'gauss')


@pytest.mark.parametrize(
  ('knots', 't', 'want'),
  [
    # T52: a quarter of the way up the lower knot weighs 0.75; Hugging Face's port has 0.25.
    ([0.2, 0.4], 0.25, [0.75, 0.25]),
    ([0.2, 0.4, 1.0], 0.85, [0, 0.25, 0.75]),
    ([0.2, 0.4], 0.3, [0.5, 0.5]),
    ([0.2, 0.4, 1.0], 0.4, [0, 1, 0]),
    ([0.2, 0.4, 1.0], 0.2, [1, 0, 0]),  # on a knot
    ([0.2, 0.4, 1.0], 1.0, [0, 0, 1]),
    ([0.2, 0.4], 0.1, [1, 0]),
    ([0.2, 0.4], 3.0, [0, 1]),
    ([0.2, 0.4], math.inf, [0, 1]),  # ends
    ([0.5, 1.0, math.inf], 0.75, [0.5, 0.5, 0]),
    ([0.5, 1.0, math.inf], 1.5, [0, 1, 0]),  # towards inf: the last finite one
    ([0.5, 1.0, math.inf], math.inf, [0, 0, 1]),
    ([math.inf], 0.5, [1]),
    ([math.inf], math.inf, [1]),
    ([0.5], 0.1, [1]),
    ([0.5], 0.9, [1]),
  ],
)
def test_knot_weights(knots, t, want):
  got = jax.jit(latents.knot_weights)(jnp.array(knots, jnp.float32), t)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_knot_weights_interpolate_linearly():
  # What they are for: a quantity linear between knots is read exactly, and the weights sum to 1.
  knots = jnp.array([0.02, 0.3, 0.5, 1.0])
  weights_at = jax.jit(latents.knot_weights)
  for t in np.linspace(0.02, 1.0, 23):
    weights = np.asarray(weights_at(knots, float(t)), np.float64)
    np.testing.assert_allclose(weights.sum(), 1, atol=1e-6)
    np.testing.assert_allclose(weights @ np.asarray(knots), t, atol=1e-6)
    assert (weights >= 0).all()
