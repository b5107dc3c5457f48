"""Losses, penalties and score transforms against the official codes' numbers (critic_penalties)."""

import functools

import golden_critic
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.nn.objectives import losses, regularizers, scores

import golden_files


@pytest.fixture
def case():
  """(arrays of the file, the critic's weights, the generator's)."""
  arrays = golden_files.golden('critic_penalties')
  wide = lambda tree: {name: jnp.asarray(x, jnp.float32) for name, x in tree.items()}
  return arrays, *(wide(golden_files.under(arrays, prefix)) for prefix in ('D/', 'G/'))


def images(arrays, name):
  return jnp.asarray(arrays[f'in/{name}'].transpose(0, 2, 3, 1), jnp.float32)


def assert_gradient(got, arrays, prefix):
  """Each tensor within 1e-3 of its norm, or of 1e-4 of the network's, as the file asks."""
  want = golden_files.under(arrays, f'grad/{prefix}/')
  whole = np.sqrt(sum((x.astype(np.float64) ** 2).sum() for x in want.values()))
  assert want.keys() <= got.keys()
  for name, x in want.items():
    error = np.linalg.norm(np.asarray(got[name]) - x)
    assert error <= 1e-3 * max(np.linalg.norm(x), 1e-4 * whole), name
  for name in got.keys() - want.keys():  # a bias that no gradient by the image depends on
    np.testing.assert_allclose(got[name], 0, atol=1e-6)


def both(arrays, weights):
  """(score as a function of the image, real and fake images)."""
  score = functools.partial(golden_critic.score, weights)
  return score, images(arrays, 'real'), images(arrays, 'fake')


def check(case, prefix, value, want):
  """A value of the critic's weights and its gradient."""
  arrays, disc, _ = case
  got, grad = jax.jit(jax.value_and_grad(value))(disc)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  assert_gradient(grad, arrays, prefix)


def test_wasserstein_and_gradient_penalty(case):
  arrays, disc, _ = case
  alpha = jnp.asarray(1 - arrays['in/alpha'], jnp.float32)  # the file's weights the real image

  def penalty(weights):
    score, real, fake = both(arrays, weights)
    slopes = scores.slopes(score, regularizers.between(real, fake, alpha))
    return 10 * regularizers._excess(slopes, 1, False).mean(), slopes

  np.testing.assert_allclose(
    jax.jit(penalty)(disc)[1], arrays['out/interpolate_grad_norm'], rtol=1e-5
  )
  check(case, 'gp_times10', lambda w: penalty(w)[0], arrays['out/gp_times10'])

  def total(weights):
    score, real, fake = both(arrays, weights)
    return sum(losses.wasserstein_disc(score(real), score(fake))) + penalty(weights)[0]

  check(case, 'd_total', total, arrays['out/d_total'])


def test_dragan(case):
  arrays, _, _ = case
  alpha = jnp.asarray(arrays['in/dragan_alpha'], jnp.float32)
  noise = images(arrays, 'dragan_noise_uniform')
  std = regularizers.standard_deviation(images(arrays, 'real'))
  np.testing.assert_allclose(std, arrays['out/dragan_real_std'], rtol=1e-6)

  def penalty(weights):
    score, real, _ = both(arrays, weights)
    slopes = scores.slopes(score, regularizers.around(real, alpha, noise, 0.5))
    return regularizers._excess(slopes, 1, False).mean()

  check(case, 'dragan', penalty, arrays['out/dragan'])


def test_r1(case):
  arrays, _, _ = case

  def penalty(weights):  # the file has neither gamma nor its half
    score, real, fake = both(arrays, weights)
    return regularizers.r1_penalty(gamma=2.0)(score, real, fake, None).mean()

  check(case, 'r1_sumsq_mean', penalty, arrays['out/r1_sumsq_mean'])


def test_gn_and_its_losses(case):
  arrays, disc, _ = case
  out = golden_files.under(arrays, 'out/gn/')
  transform = scores.gn()

  def normalised(weights):
    score, real, fake = both(arrays, weights)
    said = transform(lambda x: (score(x), None), jnp.concatenate([real, fake]))
    return jnp.split(said[0], 2)

  real, fake = jax.jit(normalised)(disc)
  np.testing.assert_allclose(jnp.concatenate([real, fake]), out['score'][:, 0], rtol=1e-5)
  for name, key in (('hinge', 'hinge'), ('logistic', 'bce_logits'), ('wasserstein',) * 2):
    loss = losses.LOSSES[name]
    np.testing.assert_allclose(sum(loss.disc(real, fake)), out[f'd_loss_{key}'], rtol=1e-5)
    np.testing.assert_allclose(loss.gen(fake), out[f'g_loss_{key}'], rtol=1e-5)
  hinge = lambda w: sum(losses.hinge_disc(*normalised(w)))
  check(case, 'gn_hinge', hinge, out['d_loss_hinge'])
  logistic = lambda w: sum(losses.logistic_disc(*normalised(w)))
  check(case, 'gn_bce_logits', logistic, out['d_loss_bce_logits'])


def test_generator_steps(case):
  """Through the critic as it is, and through GN with the norm differentiated and held still."""
  arrays, disc, gen = case
  z = jnp.asarray(arrays['in/z'], jnp.float32)
  score = functools.partial(golden_critic.score, disc)

  def loss(weights, transform, stop_norm):
    fake = golden_critic.generate(weights, z)
    return losses.hinge_gen(transform(lambda x: (score(x), None), fake, stop_norm)[0])

  step = jax.jit(jax.value_and_grad(loss), static_argnums=(1, 2))
  value, grad = step(gen, scores.none, False)
  np.testing.assert_allclose(value, arrays['out/wgan_g_loss'], rtol=1e-5)
  assert_gradient(grad, arrays, 'wgan_g_loss/G')
  gn = scores.gn()
  for stop_norm in (False, True):  # a critic of ReLUs is linear in pieces: both are exact
    value, grad = step(gen, gn, stop_norm)
    np.testing.assert_allclose(value, arrays['out/gn/g_step_loss'], rtol=1e-5)
    assert_gradient(grad, arrays, 'gn_g_hinge/G')
