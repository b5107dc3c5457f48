"""Adaptive pseudo augmentation: who is replaced, what flows back, what drives it."""

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.nn.augment import adaptive, apa

from keyed import keys


def test_reals_become_fakes_with_probability_p():
  num = 4000
  real, fake = jnp.zeros((num, 2, 2, 1)), jnp.ones((num, 2, 2, 1))
  deceive = jax.jit(apa.deceive)
  for p in (0.0, 0.3, 1.0, 1.2):
    shown = np.asarray(deceive(keys(num), real, fake, jnp.float32(p)))
    assert set(np.unique(shown.std((1, 2, 3)))) == {0}  # whole images
    assert abs(shown.mean() - min(p, 1)) < (0.03 if 0 < p < 1 else 1e-9)


def test_each_is_replaced_by_the_fake_of_its_place():
  fake = jnp.arange(8.0).reshape(8, 1, 1, 1)
  shown = apa.deceive(keys(8), -1 - fake, fake, 0.5)[:, 0, 0, 0]
  assert all(value in (i, -1 - i) for i, value in enumerate(shown.tolist()))
  np.testing.assert_array_equal(
    apa.deceive(keys(8)[2:4], -1 - fake[2:4], fake[2:4], 0.5)[:, 0, 0, 0], shown[2:4]
  )


def test_fakes_stand_for_data():
  """A gradient penalty on what is shown reaches the image, none reaches the generator."""
  real, fake = jnp.zeros((8, 2, 2, 1)), jnp.ones((8, 2, 2, 1))
  loss = lambda real, fake: (apa.deceive(keys(8), real, fake, 0.5) + 1).sum()
  to_real, to_fake = jax.grad(loss, (0, 1))(real, fake)
  assert not to_fake.any() and 0 < to_real.mean() < 1


def test_measures_of_overfitting():
  real, fake = jnp.asarray([2.0, 3.0, -1.0, 4.0]), jnp.asarray([-2.0, -1.0, -5.0, -1.0])
  found = {name: float(measure(real, fake)) for name, measure in apa.MEASURES.items()}
  assert found == {'lambda_r': 0.5, 'lambda_f': 1.0, 'lambda_rf': 0.75}


def test_p_is_driven_as_adas():
  # Jiang et al. 2021: threshold 0.6, every 4 steps, 500 thousand images from 0 to 1.
  controller = adaptive.Controller(batch=16)
  assert (controller.target, controller.interval, controller.kimg) == (0.6, 4, 500)
  state = controller.init()
  for logit in (1.0, 1.0, 1.0, -1.0):  # r = 0.5: at ease
    state = controller.update(state, apa.lambda_r(jnp.full(16, logit), jnp.zeros(16)), 16)
  assert state['p'] == 0 and state['r_t'] == 0.5
