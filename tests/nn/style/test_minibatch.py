"""Minibatch layers: values of the official codes, and one result on any number of devices."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import errors, parallel
from bigjax.nn.style import minibatch

B = 16
LAYER = minibatch.MinibatchDiscrimination(kernels=6, dims=3)


def on(num_devices):
  """The mesh over the first devices as a context; None for no mesh."""
  if num_devices is None:
    return contextlib.nullcontext()
  return jax.set_mesh(parallel.make_mesh(jax.devices()[:num_devices]))


def features(num=B, side=2, width=4, seed=0):
  shape = (num, side, side, width)
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
  ('group', 'num', 'want'),
  [
    (2, 1, [39.43921, 52.50269, 39.43921, 52.50269]),
    (4, 2, [[47.909386, 55.300087]] * 4),
    (9, 2, [[47.909386, 55.300087]] * 4),  # no more examples than there are
    (None, 2, [[47.909386, 55.300087]] * 4),
  ],
)
def test_values(group, num, want):
  x = jnp.arange(32.0).reshape(4, 2, 2, 2).transpose(0, 2, 3, 1) ** 1.5  # NCHW in the papers
  found = minibatch.stddev(x, group, num)
  np.testing.assert_array_equal(found[..., :2], x)
  want = np.broadcast_to(np.reshape(want, (4, 1, 1, num)), (4, 2, 2, num))
  np.testing.assert_allclose(found[..., 2:], want, rtol=1e-6)


def test_of_equal_examples():
  same = jnp.broadcast_to(features(1), (8, 2, 2, 4))
  np.testing.assert_allclose(minibatch.stddev(same)[..., -1], 1e-4, rtol=1e-3)
  half = minibatch.stddev(features(8).astype(jnp.bfloat16), 4)
  assert half.dtype == jnp.bfloat16


def test_blocks_are_batches_of_their_own():
  x = features(8)
  blocks = [minibatch.stddev(part, 2) for part in (x[:4], x[4:])]
  np.testing.assert_allclose(minibatch.stddev(x, 2, block=4), jnp.concatenate(blocks), rtol=1e-6)


def penalised(layer):
  """Scores through `layer`, and the gradient penalty of all of them, as a batch-mean loss."""

  def loss(params, shared, batch):
    del shared

    def scores(x):
      h = layer(params, jnp.tanh(x @ params['w']))
      return jnp.tanh(h).reshape(len(h), -1) @ params['v']

    slopes = jax.grad(lambda x: scores(x).sum())(batch)
    penalty = jnp.square(jnp.sqrt(jnp.square(slopes).sum((1, 2, 3))) - 1).mean()
    return scores(batch).mean() + penalty, {'penalty': penalty}

  return loss


def discriminate(params, h):
  return LAYER.apply({'params': params['layer']}, h.mean((1, 2)))


LAYERS = {
  'whole': lambda params, h: minibatch.stddev(h, None),
  'subsets of the whole': lambda params, h: minibatch.stddev(h, 4),
  'a group per block': lambda params, h: minibatch.stddev(h, 4, block=4),
  'two groups per block': lambda params, h: minibatch.stddev(h, 4, 2, block=8),
  'discrimination': discriminate,
}


def of_players(name):
  rng = np.random.default_rng(3)
  width = {'two groups per block': 2 * 2 * 6, 'discrimination': 10}.get(name, 2 * 2 * 5)
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape) / 2, jnp.float32)
  params = {'w': normal(4, 4), 'v': normal(width)}
  if name == 'discrimination':
    params['layer'] = LAYER.init(jax.random.key(0), jnp.ones((2, 4)))['params']
  return params


@pytest.mark.parametrize('name', LAYERS)
def test_any_number_of_devices(name, x64):
  """Values, gradients, and gradients of a penalty on gradients, which cross devices twice."""
  loss, params, x = penalised(LAYERS[name]), of_players(name), features()
  params, x = jax.tree.map(lambda a: a.astype(jnp.float64), (params, x))
  (want, metrics), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, {}, x)
  assert metrics['penalty'] > 1e-3 and np.abs(grads['w']).max() > 1e-2
  for num_devices in (1, 2 if 'block' in name else 8):
    with on(num_devices):
      (value, _), found = jax.jit(parallel.value_and_grad(loss))(params, {}, x)
    np.testing.assert_allclose(value, want, rtol=1e-10)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), found, grads)


@pytest.mark.parametrize(
  ('num_devices', 'how', 'message'),
  [
    (None, {'group': 3}, 'do not divide the batch of 16'),
    (None, {'group': 4, 'block': 6}, 'do not divide the batch of 16'),
    (None, {'group': 3, 'block': 8}, 'groups of 3 among blocks of 8'),
    (8, {'group': 4, 'block': 4}, 'do not divide the 2 examples of a device'),
  ],
)
def test_what_does_not_line_up_is_refused(num_devices, how, message):
  loss = lambda params, shared, x: (minibatch.stddev(x, **how).mean(), {})
  with on(num_devices), pytest.raises(errors.UserError, match=message):
    jax.eval_shape(parallel.over_batch(loss), {}, {}, features())


def test_discrimination_by_hand():
  h = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
  params = LAYER.init(jax.random.key(1), h)['params']
  assert 0.04 < np.std(params['theta']) < 0.06 and np.all(params['bias'] == -1)
  params['log_scale'] = params['log_scale'] + 0.3
  theta = np.asarray(params['theta'])
  out = h @ (theta * np.exp(0.3) / np.linalg.norm(theta, axis=0)).reshape(7, -1)
  out = out.reshape(5, 6, 3)
  near = np.full((5, 6), -1.0)
  for i in range(5):
    for j in set(range(5)) - {i}:
      near[i] += np.exp(-np.abs(out[i] - out[j]).sum(-1))
  found = LAYER.apply({'params': params}, h)
  np.testing.assert_array_equal(found[:, :7], h)
  np.testing.assert_allclose(found[:, 7:], near, rtol=1e-5, atol=1e-6)


def test_fitted_to_data():
  h = jnp.asarray(np.random.default_rng(0).normal(size=(40, 7)) * 10, jnp.float32)
  params = LAYER.init(jax.random.key(1), h)['params']
  params = minibatch.fitted(LAYER, params, h)
  nearest = LAYER.apply({'params': params}, h, method='distances').min(-1)
  np.testing.assert_allclose(nearest.mean(0), 2, rtol=1e-5)
  near = LAYER.apply({'params': params}, h)[:, 7:]
  np.testing.assert_allclose(near.mean(0), 0, atol=1e-5)
  assert np.std(near) > 0.1
