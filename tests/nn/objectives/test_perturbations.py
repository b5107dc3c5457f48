"""Dropout and PConv: what is drawn, of which keys, and which layers see it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.models import sngan
from bigjax.nn.objectives import perturbations

from keyed import keys


def rand(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize('name', list(perturbations.PERTURBATIONS))
def test_perturbations_keep_the_mean(name):
  x = (rand(1, 2, 3, 4, seed=10) + 3).astype(np.float32)
  perturb = jax.jit(perturbations.PERTURBATIONS[name](0.1))
  num = 4096
  got = np.asarray(perturb(keys(num), x.repeat(num, 0)), np.float64)
  error = got.std(0) / num**0.5 + 1e-6
  assert (np.abs(got.mean(0) - x[0]) < 5 * error).all()
  assert (got.std(0) > 0.05).all() == (name != 'none')
  np.testing.assert_allclose(perturb(keys(num)[2:4], x.repeat(2, 0)), got[2:4], rtol=1e-6)
  narrow = jax.eval_shape(perturb, keys(1), x.astype(jnp.bfloat16))
  assert narrow.dtype == jnp.bfloat16


@pytest.mark.parametrize('name', list(perturbations.PERTURBATIONS)[1:])
def test_a_perturbation_of_nothing_changes_no_bit(name):
  x = rand(3, 4, 4, 2).astype(np.float32)
  got = jax.jit(perturbations.PERTURBATIONS[name](0.0))(keys(3), x)
  np.testing.assert_array_equal(got, x)


def test_what_is_dropped():
  x = jnp.ones((200, 4, 4, 8))
  elements = np.asarray(jax.jit(perturbations.dropout(0.25))(keys(200), x))
  assert set(np.unique(elements)) == {0, np.float32(1 / 0.75)}
  np.testing.assert_allclose((elements == 0).mean(), 0.25, atol=0.01)
  channels = np.asarray(jax.jit(perturbations.spatial_dropout(0.25))(keys(200), x))
  assert (channels == channels[:, :1, :1]).all()  # whole maps
  np.testing.assert_allclose((channels[:, 0, 0] == 0).mean(), 0.25, atol=0.05)


def test_added_noise_is_in_units_of_each_examples_deviation():
  x = (rand(2, 16, 16, 8, seed=11) * np.reshape([1.0, 50.0], (2, 1, 1, 1))).astype(np.float32)
  moved = np.asarray(jax.jit(perturbations.gauss_add(0.1))(keys(2), x)) - x
  np.testing.assert_allclose(moved.std((1, 2, 3)) / x.std((1, 2, 3)), 0.1, rtol=0.05)
  constant = jax.jit(jax.grad(lambda x: perturbations.gauss_add(0.1)(keys(1), x).sum()))(
    jnp.ones((1, 2, 2, 1))
  )
  np.testing.assert_array_equal(constant, jnp.ones((1, 2, 2, 1)))


# Dropout: the keys are per example, as the augmentation's are.

DRAW = jax.jit(perturbations.kept, static_argnums=(1, 2))


@pytest.mark.parametrize('rate', [0.2, 0.5, 0.9])
def test_dropout_mask_keeps_the_mean(rate):
  mask = np.asarray(DRAW(jax.random.split(jax.random.key(0), 400), (500,), rate), np.float64)
  assert mask.shape == (400, 500)
  kept = mask > 0
  np.testing.assert_allclose(mask[kept], 1 / (1 - rate), rtol=1e-6)
  std = (rate * (1 - rate) / mask.size) ** 0.5
  np.testing.assert_allclose(kept.mean(), 1 - rate, atol=5 * std)
  # neither examples nor features go together: shares of rows and columns scatter as coins do
  for axis, num in ((0, 400), (1, 500)):
    spread = kept.mean(axis).std() / (rate * (1 - rate) / num) ** 0.5
    np.testing.assert_allclose(spread, 1, atol=0.2)


def test_dropout_mask_depends_on_its_own_key_alone():
  keys = jax.random.split(jax.random.key(0), 6)
  mask = DRAW(keys, (30,), 0.5)
  np.testing.assert_array_equal(DRAW(keys[2:4], (30,), 0.5), mask[2:4])
  assert len(np.unique(np.asarray(mask), axis=0)) == 6
  assert mask.dtype == jnp.float32


# Within a network.


@functools.cache
def discriminator():
  net = sngan.Discriminator(16, 10, ch=8)
  x = rand(3, 16, 16, 1).astype(np.float32)
  return net, jax.jit(net.init)(jax.random.key(0), x, jnp.arange(3)), x


def test_every_convolution_has_draws_of_its_own():
  net, params, x = discriminator()

  def spied(params, keys):
    seen = []

    def spy(keys, features):
      seen.append(jax.random.key_data(keys)[0])
      return features

    with perturbations.perturbing(spy, keys):
      return net.apply(params, x, jnp.arange(3)), seen

  seen = jax.device_get(jax.jit(lambda keys: spied(params, keys)[1])(keys(3)))
  kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 4]
  assert len(seen) == len(kernels) == len({tuple(key) for key in seen})
  got = jax.jit(lambda params: spied(params, keys(3))[0])(params)
  plain = jax.jit(lambda params: net.apply(params, x, jnp.arange(3)))(params)
  np.testing.assert_array_equal(got, plain)


def test_an_example_is_perturbed_by_its_own_key():
  net, params, x = discriminator()

  @jax.jit
  def score(keys, x, y):
    with perturbations.perturbing(perturbations.gauss_mult(), keys):
      return net.apply(params, x, y)

  whole = score(keys(3), x, jnp.arange(3))
  np.testing.assert_allclose(score(keys(3)[1:], x[1:], jnp.arange(1, 3)), whole[1:], rtol=1e-5)
  assert (np.abs(whole - score(keys(3, seed=1), x, jnp.arange(3))) > 1e-4).all()


def test_off_is_not_in_the_program():
  net, params, x = discriminator()
  plain = jax.make_jaxpr(lambda x: net.apply(params, x, jnp.arange(3)))(x)
  with perturbations.perturbing(perturbations.none, keys(3)):
    off = jax.make_jaxpr(lambda x: net.apply(params, x, jnp.arange(3)))(x)
  assert str(off) == str(plain)
