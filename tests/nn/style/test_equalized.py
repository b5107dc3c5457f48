"""The equalised learning rate: gains by path, unit outputs, equal steps, and as a player's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bigjax.algorithms.base import player
from bigjax.core import trees
from bigjax.nn import optim
from bigjax.nn.style import equalized

GAINS = equalized.gains(others={'to_rgb*': 1.0}, lrmul={'mapping/*': 0.01})


def tree(seed=0):
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return {
    'conv': {'kernel': normal(3, 3, 64, 32), 'bias': normal(32)},
    'to_rgb_2': {'kernel': normal(1, 1, 32, 3), 'bias': normal(3)},
    'mapping': {'dense_0': {'kernel': 100 * normal(16, 8), 'bias': normal(8)}},
    'embed': {'embedding': normal(10, 4)},
    'const': normal(4, 4, 8),
  }


def test_factors_by_path():
  params = trees.flat(tree())
  factors = {
    path: float((w / params[path]).mean())
    for path, w in trees.flat(jax.jit(equalized.scale, static_argnums=1)(tree(), GAINS)).items()
  }
  want = dict.fromkeys(params, 1.0) | {
    'conv/kernel': (2 / (9 * 64)) ** 0.5,
    'to_rgb_2/kernel': (1 / 32) ** 0.5,
    'mapping/dense_0/kernel': 0.01 * (2 / 16) ** 0.5,
    'mapping/dense_0/bias': 0.01,
  }
  assert factors == pytest.approx(want, rel=1e-6)


def test_outputs_have_unit_variance():
  x = np.random.default_rng(1).normal(size=(4000, 9 * 64)).astype(np.float32)
  for gain in (1.0, 2**0.5):
    kernel = np.asarray(equalized.scale(tree(), equalized.gains(gain))['conv']['kernel'])
    assert np.std(x @ kernel.reshape(-1, 32)) == pytest.approx(gain, rel=0.05)


def test_a_step_of_adam_moves_weights_by_their_constant():
  rate = 1e-3
  one = player.Player(optim.adam(rate, 0.0, 0.99, 1e-8), reparametrisation=player.equalized(GAINS))
  state = jax.jit(one.init)(tree())
  weights = jax.jit(one.weights)
  before = jax.device_get(weights(state))
  grads = jax.jit(lambda state, grads: one.pullback(state)[1](grads))(state, tree(seed=1))
  np.testing.assert_allclose(
    grads['to_rgb_2']['kernel'], tree(seed=1)['to_rgb_2']['kernel'] / 32**0.5, rtol=1e-6
  )
  state, finite = jax.jit(one.update)(state, grads, jnp.float32(1))
  after = jax.device_get(weights(state))
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), after, before)
  assert finite and moved['conv']['kernel'] <= 1.01 * rate * (2 / (9 * 64)) ** 0.5
  assert moved['mapping']['dense_0']['kernel'] <= 1.05 * rate * 0.01 * (2 / 16) ** 0.5
  np.testing.assert_allclose(moved['embed']['embedding'], rate, rtol=1e-2)
  folded = jax.jit(one.reparametrisation.fold)(state['params'])
  jax.tree.map(np.testing.assert_array_equal, folded, after)
  assert one.reparametrisation.link.init(state['params']) == optax.EmptyState()


def test_kernels_without_a_gain_and_other_leaves_with_one():
  others = {'plain/*': None, '*/embedding': 0.5, 'rgb/*': 2.0}
  gain = equalized.gains(1.0, others, {'slow/*': 0.01})
  found = {path: gain(path, None) for path in (
    'conv/kernel', 'conv/bias', 'plain/kernel', 'plain/bias', 'embed/embedding', 'slow/kernel',
    'slow/bias', 'slow/embedding', 'rgb/kernel', 'rgb/bias',
  )}  # fmt: skip
  assert found == {
    'conv/kernel': 1, 'conv/bias': None, 'plain/kernel': None, 'plain/bias': None,
    'embed/embedding': 0.5, 'slow/kernel': 0.01, 'slow/bias': 0.01, 'slow/embedding': 0.005,
    'rgb/kernel': 2.0, 'rgb/bias': None,
  }  # fmt: skip
