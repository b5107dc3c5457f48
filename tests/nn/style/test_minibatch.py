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
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


stddev = jax.jit(minibatch.stddev, static_argnums=(1, 2), static_argnames='block')


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
  x = np.arange(32, dtype=np.float32).reshape(4, 2, 2, 2) ** np.float32(1.5)
  x = x.transpose(0, 2, 3, 1)  # NCHW in the papers
  found = stddev(x, group, num)
  np.testing.assert_array_equal(found[..., :2], x)
  want = np.broadcast_to(np.reshape(want, (4, 1, 1, num)), (4, 2, 2, num))
  np.testing.assert_allclose(found[..., 2:], want, rtol=1e-6)


def test_of_equal_examples():
  same = np.broadcast_to(features(1), (8, 2, 2, 4))
  np.testing.assert_allclose(stddev(same)[..., -1], 1e-4, rtol=1e-3)
  half = jax.eval_shape(lambda x: minibatch.stddev(x, 4), features(8).astype(jnp.bfloat16))
  assert half.dtype == jnp.bfloat16


def test_blocks_are_batches_of_their_own():
  x = features(8)
  blocks = [stddev(part, 2) for part in (x[:4], x[4:])]
  np.testing.assert_allclose(stddev(x, 2, block=4), np.concatenate(blocks), rtol=1e-6)


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


init = jax.jit(lambda key, h: LAYER.init(key, h)['params'])


def of_players(name):
  rng = np.random.default_rng(3)
  width = {'two groups per block': 2 * 2 * 6, 'discrimination': 10}.get(name, 2 * 2 * 5)
  normal = lambda *shape: rng.normal(size=shape) / 2
  params = {'w': normal(4, 4), 'v': normal(width)}
  if name == 'discrimination':
    params['layer'] = jax.device_get(init(jax.random.key(0), np.ones((2, 4), np.float32)))
  return params


@pytest.mark.parametrize('name', LAYERS)
def test_any_number_of_devices(name, x64):
  """Values, gradients, and gradients of a penalty on gradients, which cross devices twice."""
  loss, params, x = penalised(LAYERS[name]), of_players(name), features()
  params, x = jax.tree.map(np.float64, (params, x))
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
  params = jax.device_get(init(jax.random.key(1), h))
  assert 0.04 < np.std(params['theta']) < 0.06 and np.all(params['bias'] == -1)
  params['log_scale'] = params['log_scale'] + np.float32(0.3)
  theta = params['theta']
  out = h @ (theta * np.exp(0.3) / np.linalg.norm(theta, axis=0)).reshape(7, -1)
  out = out.reshape(5, 6, 3)
  near = np.full((5, 6), -1.0)
  for i in range(5):
    for j in set(range(5)) - {i}:
      near[i] += np.exp(-np.abs(out[i] - out[j]).sum(-1))
  found = jax.jit(LAYER.apply)({'params': params}, h)
  np.testing.assert_array_equal(found[:, :7], h)
  np.testing.assert_allclose(found[:, 7:], near, rtol=1e-5, atol=1e-6)


def test_fitted_to_data():
  h = (np.random.default_rng(0).normal(size=(40, 7)) * 10).astype(np.float32)

  @jax.jit
  def run(h):
    params = {'params': minibatch.fitted(LAYER, init(jax.random.key(1), h), h)}
    return LAYER.apply(params, h, method='distances').min(-1), LAYER.apply(params, h)[:, 7:]

  nearest, near = jax.device_get(run(h))
  np.testing.assert_allclose(nearest.mean(0), 2, rtol=1e-5)
  np.testing.assert_allclose(near.mean(0), 0, atol=1e-5)
  assert np.std(near) > 0.1
