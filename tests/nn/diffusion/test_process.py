"""The process around a network's output: the official code's numbers, and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bigjax.nn.diffusion import process
from bigjax.nn.diffusion.process import Process
from bigjax.nn.diffusion.tables import Tables

from golden_files import golden, under

OF = {  # of 1,000 steps
  'linear_50': Tables('linear', 1000, '50'),
  'cosine_50': Tables('cosine', 1000, '50'),
  'linear_ddim50': Tables('linear', 1000, 'ddim50'),
}


def nhwc(x):
  return jnp.asarray(x.transpose(0, 2, 3, 1) if x.ndim == 4 else x)


@functools.cache
def given():
  inputs = under(golden('diffusion_process'), 'in/')
  arrays = {name: nhwc(x) for name, x in inputs.items() if name != 't'}
  return arrays, jnp.asarray(inputs['t'].astype(np.int32))


def assert_as_official(name, ours, most=1e-4):
  want = golden('diffusion_process')[f'out/{name}']
  want = np.asarray(nhwc(want)) if want.ndim == 4 else want
  ours = np.asarray(ours)
  if want.ndim == 1 and ours.ndim == 4:
    ours = ours[:, 0, 0, 0]
  atol = 1e-6 if name.endswith('prior_bpd') else most * np.abs(want).max()
  np.testing.assert_allclose(ours, want, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize('name', OF)
def test_official_numbers(name):
  arrays, t = given()
  of = Process(OF[name])
  x_start, noise, out, grad = (arrays[k] for k in ('x_start', 'noise', 'model_out', 'cond_grad'))
  x = of.noised(x_start, t, noise)
  same = lambda key, ours: assert_as_official(f'{name}/{key}', ours)
  same('q_sample', x)
  mean, log_variance = of.posterior(x_start, x, t)
  same('q_posterior_mean', mean)
  same('q_posterior_log_variance_clipped', log_variance)
  for clip in (False, True):
    p = of.reverse(out, x, t, clip)
    same(f'p_mean_variance/clip{int(clip)}/mean', p.mean)
    same(f'p_mean_variance/clip{int(clip)}/log_variance', p.log_variance)
    same(f'p_mean_variance/clip{int(clip)}/pred_xstart', p.x_start)
  fresh = arrays['sample_noise']
  same('p_sample', process.ancestral_step(p, t, fresh))
  moved = of.shifted_mean(p, grad)
  same('condition_mean/mean', moved.mean)
  same('p_sample_guided', process.ancestral_step(moved, t, fresh))
  scored = of.shifted_noise(p, x, t, grad)
  same('condition_score/mean', scored.mean)
  same('condition_score/pred_xstart', scored.x_start)
  for eta in (0.0, 0.5, 1.0):
    same(f'ddim_sample/eta{eta}', process.ddim_step(of, p, x, t, fresh, eta))
  same('ddim_sample_guided', process.ddim_step(of, scored, x, t, fresh))
  same('ddim_reverse_sample', process.ddim_reverse_step(of, p, x, t))
  same('prior_bpd', of.prior_bits(x_start))


@pytest.mark.parametrize('name', OF)
@pytest.mark.parametrize('loss', process.LOSSES)
def test_official_losses_and_their_gradients(name, loss):
  arrays, t = given()
  of = Process(OF[name])
  x_start, noise, out = (arrays[k] for k in ('x_start', 'noise', 'model_out'))
  x = of.noised(x_start, t, noise)
  of_out = lambda out: of.losses(loss, out, x_start, x, t, noise)
  at = f'{name}/training_losses/{loss.upper()}'
  terms = of_out(out)
  assert set(terms) == {'loss', 'mse', 'vb'} if loss.endswith('mse') else {'loss'}
  for term, ours in terms.items():
    want = golden('diffusion_process')[f'out/{at}/{term}']
    np.testing.assert_allclose(ours, want, rtol=1e-4, err_msg=term)
  grads = jax.grad(lambda out: of_out(out)['loss'].sum())(out)
  assert_as_official(f'{at}/grad_model_out', grads, 1e-3)


@pytest.mark.parametrize('kind', ['FIXED_SMALL', 'FIXED_LARGE', 'START_X', 'PREVIOUS_X'])
def test_official_numbers_of_other_outputs(kind):
  arrays, t = given()
  mean = {'START_X': 'x_start', 'PREVIOUS_X': 'previous_x'}.get(kind, 'epsilon')
  of = Process(OF['linear_50'], mean, kind.lower() if 'FIXED' in kind else 'learned_range')
  x_start, noise, out = (arrays[k] for k in ('x_start', 'noise', 'model_out'))
  out = out[..., :3] if 'FIXED' in kind else out
  x = of.noised(x_start, t, noise)
  p = of.reverse(out, x, t)
  found = of.losses('rescaled_mse', out, x_start, x, t, noise)
  found |= {'mean': p.mean, 'log_variance': p.log_variance, 'pred_xstart': p.x_start}
  named = under(golden('diffusion_process'), f'out/linear_50_{kind}/')
  assert {'mean', 'mse'} <= set(named)
  for key in named:
    assert_as_official(f'linear_50_{kind}/{key}', found[key])


def test_a_network_that_says_nothing_has_the_loss_of_noise():
  """An output of 0 leaves E|noise|^2, 1; with v of 1 and -1, the variances are the two limits."""
  of = Process(Tables('linear', 1000))
  keys = jax.random.split(jax.random.key(0), 2)
  x_start = jax.random.uniform(keys[0], (64, 8, 8, 3), minval=-1, maxval=1)
  noise, t = jax.random.normal(keys[1], x_start.shape), jnp.arange(64, dtype=jnp.int32) * 15
  x = of.noised(x_start, t, noise)
  out = jnp.zeros((64, 8, 8, 6))
  assert abs(of.losses('mse', out, x_start, x, t, noise)['mse'].mean() - 1) < 0.02
  ones = jnp.ones_like(x)
  for v, table in ((1, np.log(of.tables.betas)), (-1, of.tables.posterior_log_variance)):
    p = of.reverse(jnp.concatenate([noise, v * ones], -1), x, t, clip=False)
    np.testing.assert_allclose(p.log_variance[:, 0, 0, 0], table[t], rtol=1e-5)
    # The true noise is the image again, as far as float32 knows it.
    np.testing.assert_allclose(p.x_start[:40], x_start[:40], atol=1e-3)
  np.testing.assert_allclose(of.noise_of(x, t, x_start)[1:], noise[1:], atol=1e-3)


def test_the_mean_gets_no_gradient_from_the_bound():
  """Of L_hybrid: it trains the variance alone (section 3.1)."""
  arrays, t = given()
  of = Process(OF['cosine_50'])
  x_start, noise, out = (arrays[k] for k in ('x_start', 'noise', 'model_out'))
  x = of.noised(x_start, t, noise)
  vb = lambda out: of.losses('rescaled_mse', out, x_start, x, t, noise)['vb'].sum()
  grads = jax.grad(vb)(out)
  assert (grads[..., :3] == 0).all() and (grads[..., 3:] != 0).any()


def test_levels_have_probabilities():
  """Those of all 256 levels add up to 1, and are scipy's of a normal but for the tanh."""
  levels = jnp.arange(256, dtype=jnp.float32) / 127.5 - 1
  for mean, log_scale in ((0.1, -2.0), (-0.9, -3.0), (1.2, -1.0)):
    log_p = process.log_likelihood_of_levels(levels, jnp.float32(mean), jnp.float32(log_scale))
    np.testing.assert_allclose(np.exp(log_p).sum(), 1, atol=1e-4)
    edges = np.concatenate([[-np.inf], np.arange(255) / 127.5 - 1 + 1 / 255, [np.inf]])
    want = np.diff(stats.norm.cdf(edges, mean, np.exp(log_scale)))
    np.testing.assert_allclose(np.exp(log_p), want, atol=2e-4)


def test_divergence_of_normals():
  """Against a Monte Carlo estimate by scipy's densities."""
  rng = np.random.RandomState(0)
  x = rng.normal(0.3, np.exp(-0.2), 200_000)
  density = lambda mean, log_var: stats.norm.logpdf(x, mean, np.exp(log_var / 2))
  want = (density(0.3, -0.4) - density(-0.1, 0.5)).mean()
  got = process.normal_kl(*(jnp.float32(v) for v in (0.3, -0.4, -0.1, 0.5)))
  np.testing.assert_allclose(got, want, atol=5e-3)


def test_guidance_shifts_a_mean_by_the_variance_times_the_gradient():
  """A linear classifier, log p(y | x) = w . x + const: its gradient is w."""
  of = Process(OF['linear_50'])
  arrays, t = given()
  x = of.noised(arrays['x_start'], t, arrays['noise'])
  w = jnp.broadcast_to(jnp.linspace(-1, 1, 3), x.shape)
  gradient = jax.grad(lambda x: (w * x).sum())(x)
  p = of.reverse(arrays['model_out'], x, t)
  moved = of.shifted_mean(p, 2.0 * gradient)
  np.testing.assert_allclose(
    moved.mean - p.mean, 2 * jnp.exp(p.log_variance) * w, rtol=2e-4, atol=1e-5
  )
  still = of.shifted_mean(p, 0.0 * gradient)
  assert (still.mean == p.mean).all()
