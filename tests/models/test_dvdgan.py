"""Networks of clips: no frame tells of a later one, frames are judged as images, given frames."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import trees
from bigjax.models import dvdgan
from bigjax.nn.kernels import PLAIN
from bigjax.nn.video import views


def generator(frames, **changes):
  fields = {'ch': 2, 'z_dim': 4, 'shared_dim': 3, 'channels': 1, 'kernels': PLAIN, **changes}
  return dvdgan.Generator(8, 2, frames, **fields)


def latents(num=3):
  return jax.random.normal(jax.random.key(5), (num, 4)), jnp.arange(num) % 2


def weights(net, *args, **given):
  """Weights that no initialiser is compiled for, and no bias is 0."""
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), *args, **given)['params'])
  draw = np.random.RandomState(0).normal
  fan_in = lambda s: max(np.prod(s.shape[:-1]), 1) if s.ndim > 1 else 10
  return jax.tree.map(lambda s: jnp.asarray(draw(size=s.shape) / fan_in(s) ** 0.5, s.dtype), shapes)


@pytest.fixture(scope='module')
def params():
  return weights(generator(1), *latents(), True)


def test_weights_are_the_same_for_any_number_of_frames(params):
  z, y = latents()
  longer = jax.eval_shape(lambda: generator(3).init(jax.random.key(0), z, y, True)['params'])
  same = lambda a, b: a.shape == b.shape
  assert all(jax.tree.leaves(jax.tree.map(same, params, longer)))


def test_a_frame_follows_from_earlier_ones_alone(params):
  """In training, too, where BatchNorm sees a batch: its moments are of each frame by itself."""
  z, y = latents()
  run = lambda frames: generator(frames).apply({'params': params}, z, y, True, mutable=['moments'])
  (few, of_few), (many, of_many) = run(2), run(3)
  assert many.shape == (3, 3, 8, 8, 1)
  np.testing.assert_allclose(few, many[:, :2], atol=1e-5)
  assert np.abs(np.diff(many, axis=1)).max((0, 2, 3, 4)).min() > 1e-3  # frames differ
  few, many = trees.flat(of_few), trees.flat(of_many)
  for path, moments in few.items():
    assert many[path].shape == (3, moments.shape[1])
    np.testing.assert_allclose(moments, many[path][:2], rtol=1e-3, atol=1e-5, err_msg=path)


def test_standing_statistics_are_of_each_frame(params):
  """Sampled with the moments of the batch itself, the batch is what it was in training."""
  z, y = latents()
  net = generator(2)
  trained, found = net.apply({'params': params}, z, y, True, mutable=['moments'])
  sampled = net.apply({'params': params, 'stats': found['moments']}, z, y, False)
  np.testing.assert_allclose(trained, sampled, atol=1e-4)
  swapped = jax.tree.map(lambda m: m[::-1], found['moments'])
  other = net.apply({'params': params, 'stats': swapped}, z, y, False)
  assert np.abs(other - sampled).max() > 1e-3


def test_given_frames_begin_the_units():
  z, y = latents()
  net = generator(1, num_given=2)
  given = jax.random.normal(jax.random.key(1), (3, 2, 8, 8, 1))
  params = weights(net, z, y, True, given)
  run = lambda given: net.apply({'params': params}, z, y, True, given, mutable=['moments'])[0]
  made = run(given)
  assert made.shape == (3, 1, 8, 8, 1)
  for other in (given[:, ::-1], given.at[:, 0].add(0.5), given.at[:, 1].add(0.5)):
    assert np.abs(run(other) - made).max() > 1e-3
  # Each frame is looked at by itself: swapped frames, and the halves of what joins them, are alike.
  swapped = dict(params['given'])
  for name in [name for name in swapped if name.startswith('start')]:
    first, second = jnp.split(swapped[name]['kernel'], 2, 2)
    swapped[name] = {**swapped[name], 'kernel': jnp.concatenate([second, first], 2)}
  again = net.apply(
    {'params': {**params, 'given': swapped}}, z, y, True, given[:, ::-1], mutable=['moments']
  )[0]
  np.testing.assert_allclose(again, made, atol=1e-5)


def test_microbatches_and_recomputing_change_nothing():
  z, y = latents(4)
  params = weights(generator(1), z, y, True)

  def grad(**changes):
    net = generator(2, **changes)
    loss = lambda params: jnp.square(
      net.apply({'params': params}, z, y, True, mutable=['moments'])[0]
    ).sum()
    return jax.jit(jax.grad(loss))(params)

  plain, parts = grad(), grad(microbatches=2, remat=True)
  same = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4)
  jax.tree.map(same, plain, parts)


def critics(*words, classes=2):
  seen = tuple(views.read(word, 'key') for word in words)
  return dvdgan.Critics(seen, classes, ch=2, kernels=PLAIN)


def test_frames_are_scored_one_by_one_and_summed():
  clips = jax.random.normal(jax.random.key(0), (2, 3, 8, 8, 1))
  y, keys = jnp.array([0, 1]), jax.random.split(jax.random.key(1), 2)
  net = critics('frames:3')
  params = weights(net, clips, y, keys)
  (found,) = net.apply({'params': params}, clips, y, keys)
  of_frame = critics('frames:1')
  alone = [of_frame.apply({'params': params}, clips[:, t : t + 1], y, keys)[0] for t in range(3)]
  np.testing.assert_allclose(found, sum(alone), rtol=1e-5)
  (swapped,) = net.apply({'params': params}, clips[:, ::-1], y, keys)
  np.testing.assert_allclose(swapped, found, rtol=1e-5)  # it is blind to time


def test_a_critic_of_clips_sees_time_and_the_class():
  clips = jax.random.normal(jax.random.key(0), (2, 3, 8, 8, 1))
  y, keys = jnp.array([0, 1]), jax.random.split(jax.random.key(1), 2)
  net = critics('clip', 'frames:2')
  params = weights(net, clips, y, keys)
  assert sorted(params) == ['critics_0', 'critics_1']
  run = jax.jit(lambda clips, y: net.apply({'params': params}, clips, y, keys))
  found, _ = run(clips, y)
  assert found.shape == (2,) and found.dtype == jnp.float32
  assert np.abs(run(clips[:, ::-1], y)[0] - found).min() > 1e-4
  assert np.abs(run(clips, 1 - y)[0] - found).min() > 1e-4


def test_of_one_class_there_is_no_projection():
  clips, y = jnp.zeros((1, 2, 8, 8, 1)), jnp.zeros((1,), jnp.int32)
  keys = jax.random.split(jax.random.key(1), 1)
  shapes = lambda net: jax.eval_shape(lambda: net.init(jax.random.key(0), clips, y, keys)['params'])
  assert 'embed' not in shapes(critics('clip', classes=1))['critics_0']
  assert 'embed' in shapes(critics('clip'))['critics_0']
