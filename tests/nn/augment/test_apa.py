"""Adaptive pseudo augmentation: who is replaced, and what drives it."""

import jax.numpy as jnp
import numpy as np

from bigjax.nn.augment import adaptive, apa

from keyed import keys


def test_reals_become_fakes_with_probability_p():
  num = 4000
  for p in (0.0, 0.3, 1.0, 1.2):
    shown = np.asarray(apa.deceive(keys(num), jnp.float32(p)))
    assert abs(shown.mean() - min(p, 1)) < (0.03 if 0 < p < 1 else 1e-9)
  np.testing.assert_array_equal(apa.deceive(keys(8)[2:4], 0.5), apa.deceive(keys(8), 0.5)[2:4])


def test_measures_of_overfitting():
  real, fake = jnp.asarray([2.0, 3.0, -1.0, 4.0]), jnp.asarray([-2.0, -1.0, -5.0, -1.0])
  found = {name: float(measure(real, fake)) for name, measure in adaptive.MEASURES.items()}
  assert found == {'lambda_r': 0.5, 'lambda_f': 1.0, 'lambda_rf': 0.75}


def test_p_is_driven_as_adas():
  # Jiang et al. 2021: threshold 0.6, every 4 steps, 500 thousand images from 0 to 1.
  controller = adaptive.Controller(batch=16)
  assert (controller.target, controller.interval, controller.kimg) == (0.6, 4, 500)
  state = controller.init()
  for logit in (1.0, 1.0, 1.0, -1.0):  # r = 0.5: at ease
    state = controller.update(state, adaptive.lambda_r(jnp.full(16, logit), jnp.zeros(16)), 16)
  assert state['p'] == 0 and state['r_t'] == 0.5
