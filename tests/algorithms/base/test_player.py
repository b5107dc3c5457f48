"""A player's bookkeeping, on a line through points: y = w x."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bigjax.algorithms.base import player
from bigjax.core import parallel

ONE = player.Player(optax.sgd(0.1))
X = np.array([[1.0, 2.0, 3.0, 4.0], [2.0, 0.0, 1.0, 1.0]], np.float32)  # two minibatches of four


def loss(weights, shared, examples):
  error = weights['w'] * examples['x'] - shared['slope'] * examples['x']
  return jnp.square(error).mean(), {'line_loss': jnp.square(error).mean()}


def start(w=1.0):
  return ONE.init({'w': jnp.float32(w)}), player.none_skipped()


@pytest.mark.parametrize('num_devices', [0, 4])
def test_descend_is_one_step_of_the_optimizer(num_devices):
  """d/dw mean (w - s)^2 x^2 = 2 (w - s) mean x^2, whatever the number of devices."""

  def run():
    state, skipped = start()
    return ONE.descend(state, skipped, loss, {'slope': jnp.float32(3)}, {'x': X[0]}, 'line_grad')

  if num_devices:
    with jax.set_mesh(parallel.make_mesh(jax.devices()[:num_devices])):
      state, skipped, finite, metrics = jax.jit(run)()
  else:
    state, skipped, finite, metrics = run()
  grad = 2 * (1 - 3) * np.square(X[0]).mean()
  np.testing.assert_allclose(state['params']['w'], 1 - 0.1 * grad, rtol=1e-6)
  np.testing.assert_allclose(metrics['line_grad'], abs(grad), rtol=1e-6)
  np.testing.assert_allclose(metrics['line_loss'], 4 * np.square(X[0]).mean(), rtol=1e-6)
  assert finite and list(skipped) == [0, 0]


def test_descend_each_takes_the_minibatches_in_turn():
  state, skipped = start()
  state, skipped, metrics, _ = ONE.descend_each(
    state, skipped, loss, {'slope': jnp.float32(3)}, {'x': X}, 'line_grad'
  )
  w, seen = 1.0, []
  for x in X:
    seen.append((w - 3) ** 2 * np.square(x).mean())
    w -= 0.1 * 2 * (w - 3) * np.square(x).mean()
  np.testing.assert_allclose(state['params']['w'], w, rtol=1e-6)
  np.testing.assert_allclose(metrics['line_loss'], np.mean(seen), rtol=1e-6)
  assert list(skipped) == [0, 0]


def test_a_minibatch_that_is_not_finite_is_skipped_and_the_next_one_is_not():
  state, skipped = start()
  broken = np.array([[np.nan, 1, 1, 1], X[1]], np.float32)
  state, skipped, _, _ = ONE.descend_each(
    state, skipped, loss, {'slope': jnp.float32(3)}, {'x': broken}, 'line_grad'
  )
  np.testing.assert_allclose(state['params']['w'], 1 + 0.4 * np.square(X[1]).mean(), rtol=1e-6)
  assert list(skipped) == [0, 1]


def test_a_pullback_at_hand_is_used():
  state, skipped = start()
  weights, back = ONE.pullback(state)
  twice = lambda grads: jax.tree.map(lambda g: 2 * g, back(grads))
  args = (state, skipped, loss, {'slope': jnp.float32(3)}, {'x': X[0]}, 'line_grad')
  once = ONE.descend(*args)[0]['params']['w'] - 1
  moved = ONE.descend(*args, (weights, twice))[0]['params']['w'] - 1
  np.testing.assert_allclose(moved, 2 * once, rtol=1e-6)
