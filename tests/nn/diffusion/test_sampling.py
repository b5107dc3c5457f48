"""Walks from noise to images: closed forms where the score is known, and guidance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.nn.diffusion import sampling
from bigjax.nn.diffusion.process import Process
from bigjax.nn.diffusion.sampling import Walk
from bigjax.nn.diffusion.tables import Tables

MEAN, VAR = 0.3, 0.04  # of data that are Gaussian


def exact(process, mean=MEAN, var=VAR):
  """The network that knows the noise in x_t of Gaussian data, at all steps of the process."""
  whole = Tables(process.tables.schedule, process.tables.num)

  def network(x, t):
    a = jnp.asarray(whole.alpha_bar, jnp.float32)[t][:, None, None, None]
    return jnp.sqrt(1 - a) * (x - jnp.sqrt(a) * mean) / (a * var + 1 - a)

  return network


def walked(sampler, steps, num=64, schedule='cosine', network=None, x=None, eta=0.0, gradient=None):
  process = Process(Tables(schedule, 1000, steps), variance='fixed_small')
  walk = Walk(process, sampler, eta, clip=False)
  x = jax.random.normal(jax.random.key(0), (num, 8, 8, 1)) if x is None else x
  keys = jax.random.split(jax.random.key(1), len(x))
  noise = lambda i: walk.noise(keys, i, x.shape[1:])
  return jax.jit(lambda x: walk.back(network or exact(process), x, noise, gradient))(x)


@pytest.mark.parametrize('sampler, eta', [('ancestral', 0), ('ddim', 0), ('ddim', 1), ('dpm', 0)])
def test_gaussian_data_come_back(sampler, eta):
  x = walked(sampler, '250', eta=eta)
  np.testing.assert_allclose(x.mean(), MEAN, atol=0.02)
  np.testing.assert_allclose(x.std(), np.sqrt(VAR), rtol=0.06)


def test_both_orders_converge_as_they_promise():
  """Against the closed form of the flow from x_T to x_0."""
  x = np.linspace(-2, 2, 64, dtype=np.float32).reshape(1, 8, 8, 1)

  def error(sampler, steps):
    of = Tables('linear', 1000, steps)
    a = of.alpha_bar[-1]
    want = MEAN + np.sqrt(VAR / (a * VAR + 1 - a)) * (x - np.sqrt(a) * MEAN)
    return np.abs(walked(sampler, steps, schedule='linear', x=jnp.asarray(x)) - want).max()

  for few, many in (('50', '200'), ('logsnr10', 'logsnr40')):
    assert 3 < error('ddim', few) / error('ddim', many) < 5
  assert error('dpm', '50') > 8 * error('dpm', '200')
  # Even in log SNR the second order is at home: ten steps of it are better than forty of the first.
  assert error('dpm', 'logsnr10') < error('ddim', 'logsnr40')
  assert error('dpm', 'logsnr40') < 0.2 * error('dpm', 'logsnr10')


def test_the_same_walk_in_other_batches_and_without_noise_twice():
  x = jax.random.normal(jax.random.key(3), (6, 8, 8, 1))
  whole, part = walked('ancestral', '10', x=x), walked('ancestral', '10', x=x[:3])
  np.testing.assert_allclose(whole[:3], part, atol=1e-5)
  np.testing.assert_array_equal(walked('ddim', '10', x=x), walked('ddim', '10', x=x))
  assert np.abs(walked('ddim', '10', x=x, eta=1.0) - walked('ddim', '10', x=x)).max() > 0.01


def test_a_single_step_is_the_image_that_the_network_sees():
  x = jax.random.normal(jax.random.key(3), (2, 8, 8, 1))
  process = Process(Tables('linear', 1000, '1'), variance='fixed_small')
  t = jnp.zeros((2,), jnp.int32)
  want = process.x_start_of(x, t, exact(process)(x, jnp.asarray(process.tables.timesteps)[t]))
  for sampler in sampling.SAMPLERS:
    np.testing.assert_allclose(walked(sampler, '1', x=x, schedule='linear'), want, rtol=1e-4)


def test_the_network_and_the_gradient_are_told_steps_of_the_whole_process():
  seen = {'network': [], 'gradient': []}

  def spy(name, x, t):
    jax.debug.callback(lambda t: seen[name].append(int(t[0])), t)
    return jnp.zeros_like(x)

  walked(
    'ancestral', '5', 1, network=functools.partial(spy, 'network'),
    gradient=functools.partial(spy, 'gradient'),
  )  # fmt: skip
  jax.effects_barrier()
  for steps in seen.values():
    assert sorted(steps) == [0, 250, 500, 749, 999]


@pytest.mark.parametrize('sampler', sampling.SAMPLERS)
def test_guidance_of_no_scale_changes_nothing_and_a_linear_classifier_shifts(sampler):
  logits = lambda x, t: jnp.stack([x.sum((1, 2, 3)), -x.sum((1, 2, 3))], -1)
  log_p = lambda x, t: jax.nn.log_softmax(logits(x, t))
  y, x = jnp.zeros((8,), jnp.int32), jax.random.normal(jax.random.key(0), (8, 8, 8, 1))
  plain = walked(sampler, '20', x=x)
  none = walked(sampler, '20', x=x, gradient=sampling.guidance(log_p, y, 0.0))
  np.testing.assert_allclose(none, plain, atol=1e-4)
  towards = walked(sampler, '20', x=x, gradient=sampling.guidance(log_p, y, 1.0))
  away = walked(sampler, '20', x=x, gradient=sampling.guidance(log_p, 1 - y, 1.0))
  assert towards.mean() > plain.mean() > away.mean()
  weights = jax.nn.one_hot(y, 2)
  same = walked(sampler, '20', x=x, gradient=sampling.guidance(log_p, weights, 1.0))
  np.testing.assert_allclose(same, towards, atol=1e-5)


def test_classifier_free_guidance():
  one, other = (lambda x, t: 2 * x), (lambda x, t: -x)
  x, t = jnp.ones((2, 4, 4, 1)), jnp.zeros((2,), jnp.int32)
  np.testing.assert_array_equal(sampling.classifier_free(one, other, 1.0)(x, t), 2 * x)
  np.testing.assert_array_equal(sampling.classifier_free(one, other, 0.0)(x, t), -x)
  np.testing.assert_array_equal(sampling.classifier_free(one, other, 3.0)(x, t), 8 * x)
  learned = lambda x, t: jnp.concatenate([2 * x, 5 * x], -1)
  plain = lambda x, t: jnp.concatenate([-x, 7 * x], -1)
  both = sampling.classifier_free(learned, plain, 3.0)(x, t)
  np.testing.assert_array_equal(both, jnp.concatenate([8 * x, 5 * x], -1))
