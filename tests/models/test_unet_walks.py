"""Whole walks of the official networks: ancestral, DDIM, guided; and bits per dimension."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.nn.diffusion import likelihood, sampling
from bigjax.nn.diffusion.process import Process, per_example
from bigjax.nn.diffusion.sampling import Walk
from bigjax.nn.diffusion.tables import Tables

from golden_files import golden
from golden_unets import assert_same, nhwc, official, official_classifier

STEPS = {'ancestral': '5', 'ddim': 'ddim5'}


def walks(name, sampler, schedule, x, noise, y=None, gradient=None, num=1000):
  """x after each of the five steps [5, B, H, W, C]."""
  net, params, _ = official(name)
  walk = Walk(Process(Tables(schedule, num, STEPS[sampler])), sampler)

  def network(x, t):
    return net.apply({'params': params}, x, t.astype(jnp.float32) * (1000 / num), y)

  step = jax.jit(
    lambda x, before, i: walk.step(network, gradient, lambda i: noise[i], x, before, i)
  )
  found, before = [], jnp.zeros_like(x)
  for i in range(5):
    x, before = step(x, before, jnp.int32(i))
    found.append(x)
  # The whole walk, as samplers take it, ends where its steps do.
  whole = jax.jit(lambda x: walk.back(network, x, lambda i: noise[i], gradient))
  return found, whole


def assert_same_walk(name, key, sampler, schedule, at='traj', gradient=None, num=1000):
  arrays = golden(name)
  inputs = golden('adm_cond') if name == 'adm_guidance' else arrays
  prefix = f'in/{at}'
  x = nhwc(arrays[f'{prefix}/x_T' if at == 'traj' else f'{prefix}/x'])
  noise = jnp.stack([nhwc(part) for part in arrays[f'{prefix}/step_noise']])
  y = arrays.get(f'{prefix}/y', inputs.get('in/y'))
  y = y if y is None else jnp.asarray(y[: len(x)].astype(np.int32))
  net = 'adm_cond' if name == 'adm_guidance' else name
  found, whole = walks(net, sampler, schedule, x, noise, y, gradient and gradient(y), num)
  want = arrays[key]
  for ours, theirs in zip(found, want, strict=True):
    assert_same(ours, theirs, 1e-3)
  assert_same(whole(x), want[-1], 1e-3)


@pytest.mark.parametrize('schedule', ['linear', 'cosine'])
@pytest.mark.parametrize('sampler', STEPS)
@pytest.mark.parametrize('name', ['adm_uncond', 'adm_cond'])
def test_official_walks(name, sampler, schedule):
  assert_same_walk(name, f'out/{sampler}5_{schedule}/samples', sampler, schedule)


@pytest.mark.parametrize('sampler', STEPS)
def test_official_walks_of_improved_ddpm(sampler):
  assert_same_walk('iddpm', f'out/{sampler}5_linear/samples', sampler, 'linear', num=4000)


def guided(y):
  net, params = official_classifier()
  scale = float(golden('adm_guidance')['in/scale'])
  log_p = lambda x, t: jax.nn.log_softmax(net.apply({'params': params}, x, t))
  return sampling.guidance(log_p, y, scale)


@pytest.mark.parametrize('schedule', ['linear', 'cosine'])
@pytest.mark.parametrize('sampler', STEPS)
def test_official_guided_walks(sampler, schedule):
  key = f'out/guided/{sampler}5_{schedule}/samples'
  assert_same_walk('adm_guidance', key, sampler, schedule, 'guided', guided)


@pytest.mark.parametrize('schedule', ['linear', 'cosine'])
def test_official_guided_steps(schedule):
  arrays = golden('adm_guidance')
  net, params, _ = official('adm_cond')
  x, t, y = (
    nhwc(arrays['in/guided/x']),
    *(jnp.asarray(arrays[f'in/guided/{k}'].astype(np.int32)) for k in ('spaced_t', 'y')),
  )
  of = Process(Tables(schedule, 1000, '5'))
  told = jnp.asarray(of.tables.timesteps)[t]
  want = lambda key: arrays[f'out/guided/step_{schedule}/{key}']
  assert (np.asarray(told) == want('timestep_seen_by_cond_fn')).all()
  p = of.reverse(net.apply({'params': params}, x, told, y), x, t)
  assert_same(p.mean, want('mean_unguided'))
  assert_same(jnp.exp(p.log_variance), want('variance'))
  gradient = guided(y)(x, told)
  assert_same(of.shifted_mean(p, gradient).mean, want('mean_guided'))
  scored = of.shifted_noise(p, x, t, gradient)
  assert_same(scored.mean, want('score_mean'))
  assert_same(scored.x_start, want('score_pred_xstart'))


def test_official_bits_per_dimension():
  """Of improved-diffusion's evaluation: every step's term of the bound, descending."""
  arrays = golden('iddpm')
  net, params, inputs = official('iddpm')
  of, x_start = Process(Tables('linear', 4000, '8')), inputs['x_start']

  @jax.jit
  def terms(t, noise):
    t = jnp.full(x_start.shape[:1], t)
    x = of.noised(x_start, t, noise)
    told = jnp.asarray(of.tables.timesteps)[t].astype(jnp.float32) * (1000 / 4000)
    p = of.reverse(net.apply({'params': params}, x, told), x, t)
    error = per_example(jnp.square(p.x_start - x_start))
    network = lambda x, t: net.apply({'params': params}, x, t.astype(jnp.float32) * (1000 / 4000))
    return (
      likelihood.step_bits(of, network, x_start, t[0], noise),
      error,
      per_example(jnp.square(of.noise_of(x, t, p.x_start) - noise)),
    )

  found = [terms(jnp.int32(7 - i), nhwc(arrays['in/bpd_noise'][i])) for i in range(8)]
  for i, key in enumerate(('vb', 'xstart_mse', 'mse')):
    want = arrays[f'out/bpd_linear_8/{key}']
    ours = np.stack([one[i] for one in found], 1)
    np.testing.assert_allclose(ours, want, rtol=0, atol=1e-4 * np.abs(want).max(), err_msg=key)
  total = sum(one[0] for one in found) + of.prior_bits(x_start)
  want = arrays['out/bpd_linear_8/total_bpd']
  np.testing.assert_allclose(total, want, rtol=0, atol=1e-5 * np.abs(want).max())
