"""Laws of time: learning rates at their knees, averages by decay and by half-life, in a program."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bigjax.core import errors
from bigjax.nn import optim, schedules


def at(schedule, *counts):
  return np.asarray(jax.jit(jax.vmap(schedule))(np.array(counts, np.int32)))


def test_constant_is_the_number():
  assert schedules.learning_rate(2e-4, 'constant', 100) == 2e-4  # and the program as without


def test_linear_ends_at_zero():
  # SN-GAN on CIFAR: from the first step on; on ImageNet from 400k of 450k.
  from_start = schedules.learning_rate(2e-4, 'linear', 50_000)
  got = at(from_start, 0, 12_500, 49_999, 50_000, 60_000)
  np.testing.assert_allclose(got, [2e-4, 1.5e-4, 4e-9, 0, 0], rtol=1e-3)
  late = schedules.learning_rate(2e-4, 'linear', 450_000, start=400_000)
  np.testing.assert_allclose(
    at(late, 0, 400_000, 425_000, 450_000), [2e-4, 2e-4, 1e-4, 0], rtol=1e-6
  )


def test_cosine():
  schedule = schedules.learning_rate(1.0, 'cosine', 120, start=20)
  got = at(schedule, 0, 20, 45, 70, 95, 120, 500)
  half = np.sqrt(0.5) / 2
  np.testing.assert_allclose(got, [1, 1, 0.5 + half, 0.5, 0.5 - half, 0, 0], atol=1e-6)
  same = optax.cosine_decay_schedule(1.0, 100)
  with jax.numpy_dtype_promotion('standard'):
    want = at(same, *range(100))
  np.testing.assert_allclose(at(schedule, *range(20, 120)), want, atol=1e-6)


@pytest.mark.parametrize('name', list(schedules.SCHEDULES))
def test_warm_up_multiplies(name):
  plain = schedules.learning_rate(3.0, name, 100, start=50)
  warm = schedules.learning_rate(3.0, name, 100, start=50, warmup=4)
  rise = np.array([0.25, 0.5, 0.75, 1, 1])
  np.testing.assert_allclose(at(warm, 0, 1, 2, 3, 4), 3 * rise, rtol=1e-6)
  want = at(plain, 75) if callable(plain) else [plain]
  np.testing.assert_allclose(at(warm, 75), want, rtol=1e-6)


def test_counts_are_of_updates():
  # Five updates in a step stand at one learning rate.
  schedule = schedules.learning_rate(1.0, 'linear', 10, updates=5)
  np.testing.assert_allclose(at(schedule, 0, 4, 5, 9, 49), [1, 1, 0.9, 0.9, 0.1], rtol=1e-6)


@pytest.mark.parametrize(
  ('name', 'start', 'words'),
  [('linear', 100, 'step 100 to step 100'), ('cosine', -1, 'step -1'), ('linaer', 0, 'linear')],
)
def test_what_cannot_be_meant_is_refused(name, start, words):
  with pytest.raises(errors.UserError, match=words):
    schedules.learning_rate(1e-4, name, 100, start=start)


# In the optimizers: the same state, whatever the law; the count is the optimizer's own.


@pytest.mark.parametrize('name', list(optim.OPTIMIZERS))
def test_optimizers_take_schedules(name):
  make = lambda lr: optim.OPTIMIZERS[name](lr, 0.0, 0.9, 1e-8)
  params = {'w': np.float32([1.0, -2.0])}
  grads = [{'w': np.float32([0.5, 1.0]) * (i + 1)} for i in range(4)]
  halving = lambda count: 0.1 * 0.5 ** count.astype(jnp.float32)
  plain, scheduled = make(0.1), make(halving)
  state, other = jax.jit(plain.init)(params), jax.jit(scheduled.init)(params)
  assert jax.tree.structure(state) == jax.tree.structure(other)
  step, step_scheduled = jax.jit(plain.update), jax.jit(scheduled.update)
  for i, grad in enumerate(grads):
    updates, state = step(grad, state, params)
    got, other = step_scheduled(grad, other, params)
    np.testing.assert_allclose(got['w'], np.asarray(updates['w']) * 0.5**i, rtol=1e-6)
  jax.tree.map(np.testing.assert_array_equal, state, other)


# Averages.


def decays(law, examples, *steps):
  return at(lambda step: law(step, examples), *steps)


def test_half_lives_of_the_papers():
  # StyleGAN: 10 kimg at 32 images; StyleGAN2-ADA on CIFAR: 500 kimg at 64.
  law = schedules.ema_half_life(10_000)
  np.testing.assert_allclose(decays(law, 32, 0, 10**6), [0.9977844] * 2, rtol=1e-6)
  law = schedules.ema_half_life(500_000)
  np.testing.assert_allclose(decays(law, 64, 7), [0.9999113], rtol=1e-6)
  # after a half-life of images, half of a weight is left, whatever the batch
  for examples in (100, 2500):
    decay = decays(schedules.ema_half_life(10_000), examples, 0)[0]
    np.testing.assert_allclose(float(decay) ** (10_000 / examples), 0.5, rtol=1e-4)


def test_ramp_up():
  # The half-life is at most 5 % of the images seen: none at first, so that the average is a copy.
  law = schedules.ema_half_life(500_000, ramp=0.05)
  step = 1000  # 64,000 images: a half-life of 3200
  got = decays(law, 64, 0, step, 10**6)
  np.testing.assert_allclose(got, [0, 0.5 ** (64 / 3200), 0.9999113], rtol=1e-6)


def test_no_overflow_late_in_a_run():
  # 2M steps of 2048 images are more than an int32 holds.
  law = schedules.ema_half_life(10_000, ramp=0.05)
  np.testing.assert_allclose(decays(law, 2048, 2_000_000), [0.5 ** (2048 / 10_000)], rtol=1e-6)


def test_an_average_moves_by_its_law():
  for law, decay in ((schedules.ema_decay(0.9), 0.9), (schedules.ema_half_life(100), 0.5**0.1)):
    ema = jax.jit(lambda *both, law=law: optim.ema(*both, law(jnp.int32(3), 10), True))
    average = ema({'w': np.ones(2, np.float32)}, {'w': np.zeros(2, np.float32)})
    np.testing.assert_allclose(average['w'], decay, rtol=1e-6)
