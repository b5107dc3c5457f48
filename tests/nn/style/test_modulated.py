"""Modulated convolutions: against a kernel per example, and what a factor of a style changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.nn.style import fir, modulated

rng = np.random.default_rng(0)
X, KERNEL = rng.normal(size=(3, 4, 4, 5)), rng.normal(size=(3, 3, 5, 2))
STYLE = rng.normal(1, 0.5, size=(3, 5))


def by_kernels(x, kernel, style, demodulate, up):
  """The formula as it is printed: a kernel for each example."""

  def one(x, style):
    own = kernel * style[None, None, :, None]
    if demodulate:
      own = own / jnp.sqrt(jnp.square(own).sum((0, 1, 2), keepdims=True) + 1e-8)
    conv = fir.up_conv_plain if up else fir.FAST.conv
    return conv(x[None], own)[0]

  return jax.vmap(one)(x, style)


@pytest.mark.parametrize('up', [False, True])
@pytest.mark.parametrize('demodulate', [False, True])
def test_one_kernel_for_all_is_a_kernel_for_each(demodulate, up, x64):
  given = [jnp.asarray(x) for x in (X, KERNEL, STYLE)]

  @jax.jit
  def both(*given):
    value = lambda fn: lambda *of: jnp.sin(fn(*of, demodulate, up)).sum()
    forms = modulated.modulated_conv, by_kernels
    return [(fn(*given, demodulate, up), jax.grad(value(fn), (0, 1, 2))(*given)) for fn in forms]

  found, want = map(jax.tree.leaves, both(*given))
  for a, b in zip(found, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_demodulation_undoes_any_factor():
  given = [jnp.asarray(x, jnp.float32) for x in (X, KERNEL, STYLE)]

  @jax.jit
  def run(x, kernel, style):
    make = lambda k, s, demodulate: modulated.modulated_conv(x, k * kernel, s * style, demodulate)
    return [make(k, s, on) for on in (True, False) for k, s in ((1, 1), (1, 7), (0.1, 1))]

  plain, styled, scaled, *without = run(*given)
  assert np.abs(plain - styled).max() < 1e-4 and np.abs(plain - scaled).max() < 1e-4
  assert np.abs(without[0] - without[1]).max() > 1 and np.abs(without[0] - without[2]).max() > 1


def test_without_affine_weights_nothing_is_modulated():
  """Biases of styles start at 1."""
  x, w = jnp.asarray(X, jnp.float32), jnp.asarray(rng.normal(size=(3, 6)), jnp.float32)
  layers = modulated.StyledConv(2), modulated.ToRGB(2)

  @jax.jit
  def run(key):
    results = []
    for layer in layers:
      given = (x, w, None)[: 3 if layer is layers[0] else 2]
      params = layer.init(key, *given)['params']
      params['affine'] = {**params['affine'], 'kernel': 0 * params['affine']['kernel']}
      kernel = params['kernel']
      results.append((layer.apply({'params': params}, *given), fir.FAST.conv(x, kernel), kernel))
    return results

  (styled, plain, kernel), (rgb, linear, _) = run(jax.random.key(0))
  norm = np.sqrt(np.square(kernel).sum((0, 1, 2)))
  want = np.asarray(plain) / norm
  want = np.where(want > 0, want, 0.2 * want) * 2**0.5
  np.testing.assert_allclose(styled, want, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(rgb, linear, rtol=1e-5, atol=1e-5)  # and is not demodulated
