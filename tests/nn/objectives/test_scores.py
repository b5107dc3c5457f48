"""Score transforms: the slope that they promise, the generator's step, and who may use them."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import errors, parallel
from bigjax.models import biggan
from bigjax.nn.objectives import scores

leaky = functools.partial(jax.nn.leaky_relu, negative_slope=0.2)


def images(num=4, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(num, 4, 4, 3)), jnp.float32)


def said(score):
  """A critic that says its scores and nothing else, as transforms take it."""
  return lambda x: (score(x), None)


def critic(act, scale=1.0):
  """Two layers with biases, as a function of the image alone."""
  rng = np.random.default_rng(1)
  first = jnp.asarray(rng.normal(size=(48, 32)) * scale / 7, jnp.float32)
  last = jnp.asarray(rng.normal(size=32) / 6, jnp.float32)
  return lambda x: act(x.reshape(len(x), -1) @ first + 0.1) @ last + 0.3


@pytest.mark.parametrize('act', [jax.nn.relu, leaky, jax.nn.silu], ids=['relu', 'leaky', 'silu'])
def test_slope_of_gran(act):
  # n of the critic gives K n^2 / (n^2 + eps) of GraN, below K; only where it is linear in pieces.
  linear, x = act is not jax.nn.silu, images()
  k, eps, transform = 3.0, 0.2, scores.gran(3.0, 0.2)

  @jax.jit
  def measure(x):
    slopes = scores.slopes(critic(act), x)
    transformed = lambda stop: lambda x: transform(said(critic(act)), x, stop)[0]
    values = critic(act)(x), transformed(False)(x), transformed(True)(x)
    of = lambda stop: scores.slopes(transformed(stop), x)
    return (slopes, of(False), of(True)), values

  slopes, (score, *transformed) = jax.device_get(measure(x))
  n, got, still = (slope.astype(np.float64) for slope in slopes)
  want = k * n**2 / (n**2 + eps)
  np.testing.assert_allclose(still, want, rtol=1e-5)
  assert np.allclose(got, want, rtol=1e-5) == linear
  assert (got < k).all() or not linear
  value = k * score * n / (n**2 + eps)
  for found in transformed:
    np.testing.assert_allclose(found, value, rtol=1e-5)


def test_gn_lies_between_minus_one_and_one():
  # |grad g| = n^2 / (n + |f|)^2 for a critic that is linear in pieces.
  score, x, transform = critic(jax.nn.relu, scale=3.0), images(8), scores.gn()

  @jax.jit
  def measure(x):
    transformed = lambda x: transform(said(score), x)[0]
    return scores.slopes(score, x), score(x), transformed(x), scores.slopes(transformed, x)

  n, f, got, slope = jax.device_get(measure(x))
  np.testing.assert_allclose(got, f / (n + np.abs(f)), rtol=1e-6)
  assert np.abs(got).max() < 1
  np.testing.assert_allclose(slope, n**2 / (n + np.abs(f)) ** 2, rtol=1e-5)


@pytest.mark.parametrize('name', list(scores.TRANSFORMS))
def test_a_dead_critic_has_finite_gradients(name):
  # Zero weights: the gradient by the image is 0, and that of its plain norm NaN.
  x, transform = images(), scores.TRANSFORMS[name]()

  def value(w, x, stop_norm):
    score = lambda x: jax.nn.relu(x.reshape(len(x), -1)) @ w
    return transform(said(score), x, stop_norm)[0].sum()

  for stop_norm in (False, True):
    both = jax.jit(jax.value_and_grad(value, argnums=(0, 1)), static_argnums=2)
    value_of, by = both(jnp.zeros(48), x, stop_norm)
    assert float(value_of) == 0 and all(np.isfinite(leaf).all() for leaf in by)
  # What the square root is guarded against is there to be seen.
  assert np.isnan(jax.jit(jax.grad(jnp.linalg.norm))(jnp.zeros(3))).all()
  safe = jax.jit(jax.grad(lambda w: scores.safe_sqrt(jnp.square(w).sum())))
  assert not np.any(safe(jnp.zeros(3)))


def test_none_is_the_score():
  x = images()
  assert scores.TRANSFORMS['none']()(lambda given: given, x) is x


def flops(fn, *args):
  return jax.jit(fn).lower(*args).compile().cost_analysis()['flops']


def test_a_generators_step_with_a_still_norm_costs_no_second_pass():
  rng = np.random.default_rng(0)
  ws = [jnp.asarray(rng.normal(size=(256, 256)) / 16, jnp.float32) for _ in range(4)]
  x = jnp.ones((64, 16, 16, 1))

  def score(x):
    h = x.reshape(len(x), -1)
    for w in ws:
      h = jax.nn.relu(h @ w)
    return h.sum(1)

  step = lambda transform, stop: jax.grad(lambda x: transform(said(score), x, stop)[0].sum())
  plain = flops(step(scores.none, False), x)
  assert flops(step(scores.gran(), True), x) < 1.1 * plain
  assert flops(step(scores.gran(), False), x) > 1.4 * plain


def test_transforms_run_on_many_devices():
  w, transform = jnp.ones((48,)), scores.gran()

  def loss(w, shared, x):
    score = lambda x: leaky(x.reshape(len(x), -1)) @ w
    both = [transform(said(score), x, stop)[0].mean() for stop in (False, True)]
    return sum(both), {}

  x = images(16)
  want, want_grad = jax.jit(jax.value_and_grad(lambda w: loss(w, {}, x)[0]))(w)
  with jax.set_mesh(parallel.make_mesh()):
    (got, _), grad = jax.jit(parallel.value_and_grad(loss))(w, {}, x)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  np.testing.assert_allclose(grad, want_grad, rtol=1e-5, atol=1e-6)


# Which critics are linear in pieces.

SHAPE = (2, 4, 4, 3)


def pooled(x):
  return nn.max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1).sum(1)


def normalised(x):
  return critic(jax.nn.relu)(x / (x.std((1, 2, 3), keepdims=True) + 1))


CRITICS = [
  (critic(jax.nn.relu), ''),
  (critic(leaky), ''),
  (critic(lambda x: jnp.where(x > 1, 2 * x, -x)), ''),  # pieces that do not meet
  (critic(lambda x: x * jnp.sign(x)), ''),
  (pooled, ''),
  (jax.checkpoint(jax.jit(critic(jax.nn.relu))), ''),
  (lambda x: critic(jax.nn.relu)(x.astype(jnp.bfloat16).astype(jnp.float32)), ''),
  (critic(jax.nn.silu), 'logistic'),
  (critic(jnp.tanh), 'tanh'),
  (critic(jnp.square), 'square'),
  (critic(lambda x: x * x), 'mul'),
  (critic(jax.nn.softmax), 'exp'),
  (jax.jit(critic(jax.nn.softplus)), 'exp'),
  (normalised, 'square'),
]


@pytest.mark.parametrize(('score', 'bend'), CRITICS)
def test_what_bends_is_named(score, bend):
  found = scores.curved(score, jax.ShapeDtypeStruct(SHAPE, jnp.float32))
  assert bool(found) == bool(bend) and bend in found
  if bend:
    with pytest.raises(errors.UserError, match=f'score.name needs .*`{found}`'):
      scores.check_piecewise_linear(score, SHAPE, 'score.name')
  else:
    scores.check_piecewise_linear(score, SHAPE, 'score.name')


@pytest.mark.parametrize(('score', 'bend'), CRITICS[:5] + CRITICS[7:10])
def test_curvature_agrees(score, bend):
  """Where nothing bends, the gradient has no derivative, to the last bit."""
  x, along = images(2), images(2, seed=5)
  grad = jax.grad(lambda x: score(x).sum())
  second = jax.jit(lambda x, along: jax.jvp(grad, (x,), (along,))[1])(x, along)
  assert bool(np.any(second)) == bool(bend)


@pytest.mark.parametrize('attention', [(), (8,)])
def test_biggans_discriminator_is_linear_in_pieces_but_for_attention(attention):
  # Traced, not run; attention's gamma is 0 at init, where running it would show no curvature.
  net = biggan.Discriminator(16, 3, ch=8, attention=attention)
  x, y = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32), jnp.zeros((2,), jnp.int32)
  params = jax.eval_shape(net.init, jax.random.key(0), x, y)
  zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
  bend = scores.curved(lambda x: net.apply(zeros, x, y), x)
  assert bool(bend) == bool(attention)
