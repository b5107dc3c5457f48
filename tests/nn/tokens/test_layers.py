"""GELU and the error function with a derivative of its own, as jax.nn and SciPy have them."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special
from scipy.stats import norm

from bigjax.nn.tokens import layers

X = np.linspace(-5, 5, 41)


def test_gelu_is_x_times_the_normal_distribution_function():
  with jax.enable_x64():
    np.testing.assert_allclose(layers.gelu(jnp.asarray(X)), X * norm.cdf(X), rtol=1e-9, atol=1e-12)


def test_erf_has_its_derivatives():
  """The second too, which a gradient penalty takes through a discriminator of tokens."""
  with jax.enable_x64():
    first = jax.vmap(jax.grad(layers.erf))(jnp.asarray(X))
    second = jax.vmap(jax.grad(jax.grad(layers.erf)))(jnp.asarray(X))
    value = layers.erf(jnp.asarray(X))
  np.testing.assert_allclose(value, special.erf(X), rtol=1e-12)
  slope = 2 / np.sqrt(np.pi) * np.exp(-(X**2))
  np.testing.assert_allclose(first, slope, rtol=1e-12)
  np.testing.assert_allclose(second, -2 * X * slope, rtol=1e-12, atol=1e-15)
