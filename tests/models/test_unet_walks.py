"""Whole walks of the official networks: ancestral, DDIM, guided; and bits per dimension."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.nn.diffusion import likelihood, sampling
from bigjax.nn.diffusion.process import Process, per_example
from bigjax.nn.diffusion.sampling import Walk
from bigjax.nn.diffusion.tables import Tables

from golden_files import golden
from golden_unets import assert_same, nhwc, official, official_classifier, said

STEPS = {'ancestral': '5', 'ddim': 'ddim5'}


def walk_of(key, sampler, schedule, at='traj', num=1000):
  """(Walk, network, gradient or None, x_T, noise of each step, what was found) of a golden file."""
  name = 'adm_guidance' if at == 'guided' else key
  arrays = golden(name)
  net = 'adm_cond' if at == 'guided' else name
  x = nhwc(arrays[f'in/{at}/x_T' if at == 'traj' else f'in/{at}/x'])
  noise = jnp.stack([nhwc(part) for part in arrays[f'in/{at}/step_noise']])
  y = arrays.get(f'in/{at}/y', golden(net).get('in/y'))
  y = y if y is None else jnp.asarray(y[: len(x)].astype(np.int32))
  network = lambda x, t: said(net)(x, t.astype(jnp.float32) * (1000 / num), y)
  gradient = guided(y) if at == 'guided' else None
  walk = Walk(Process(Tables(schedule, num, STEPS[sampler])), sampler)
  found = arrays[f'out/{"guided/" * (at == "guided")}{sampler}5_{schedule}/samples']
  return walk, network, gradient, x, noise, found


def assert_same_steps(*which, **more):
  """x after each of the five steps: networks are compiled, what surrounds them is not."""
  walk, network, gradient, x, noise, found = walk_of(*which, **more)
  before = jnp.zeros_like(x)
  for i, want in enumerate(found):
    x, before = walk.step(network, gradient, lambda i: noise[i], x, before, jnp.int32(i))
    assert_same(x, want, 1e-3)


@pytest.mark.parametrize('schedule', ['linear', 'cosine'])
@pytest.mark.parametrize('sampler', STEPS)
@pytest.mark.parametrize('name', ['adm_uncond', 'adm_cond'])
def test_official_walks(name, sampler, schedule):
  assert_same_steps(name, sampler, schedule)


@pytest.mark.parametrize('sampler', STEPS)
def test_official_walks_of_improved_ddpm(sampler):
  assert_same_steps('iddpm', sampler, 'linear', num=4000)


@functools.cache
def guiding():
  """(x, t, y) -> the gradient of the official classifier, compiled once for each shape."""
  net, params = official_classifier()
  scale = float(golden('adm_guidance')['in/scale'])

  def run(params, x, t, y):
    log_p = lambda x, t: jax.nn.log_softmax(net.apply({'params': params}, x, t))
    return sampling.guidance(log_p, y, scale)(x, t)

  return functools.partial(jax.jit(run), params)


def guided(y):
  return lambda x, t: guiding()(x, t, y)


@pytest.mark.parametrize('schedule', ['linear', 'cosine'])
@pytest.mark.parametrize('sampler', STEPS)
def test_official_guided_walks(sampler, schedule):
  assert_same_steps('adm_guidance', sampler, schedule, 'guided')


# That a scan of steps is the steps holds for any network (tests/nn/diffusion/test_sampling.py).
@pytest.mark.parametrize(
  ('name', 'sampler', 'at'), [('adm_cond', 'ancestral', 'traj'), ('adm_guidance', 'ddim', 'guided')]
)
def test_a_whole_walk_ends_where_its_steps_do(name, sampler, at):
  """In one program, as samplers take it."""
  walk, network, gradient, x, noise, found = walk_of(name, sampler, 'linear', at)
  whole = jax.jit(lambda x: walk.back(network, x, lambda i: noise[i], gradient))
  assert_same(whole(x), found[-1], 1e-3)


@pytest.mark.parametrize('schedule', ['linear', 'cosine'])
def test_official_guided_steps(schedule):
  arrays = golden('adm_guidance')
  x, t, y = (
    nhwc(arrays['in/guided/x']),
    *(jnp.asarray(arrays[f'in/guided/{k}'].astype(np.int32)) for k in ('spaced_t', 'y')),
  )
  of = Process(Tables(schedule, 1000, '5'))
  told = jnp.asarray(of.tables.timesteps)[t]
  want = lambda key: arrays[f'out/guided/step_{schedule}/{key}']
  assert (np.asarray(told) == want('timestep_seen_by_cond_fn')).all()
  p = of.reverse(said('adm_cond')(x, told.astype(jnp.float32), y), x, t)
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
  _, _, inputs = official('iddpm')
  of, x_start = Process(Tables('linear', 4000, '8')), inputs['x_start']
  network = lambda x, t: said('iddpm')(x, t.astype(jnp.float32) * (1000 / 4000))

  def terms(t, noise):
    bits = likelihood.step_bits(of, network, x_start, t, noise)
    t = jnp.full(x_start.shape[:1], t)
    x = of.noised(x_start, t, noise)
    p = of.reverse(network(x, jnp.asarray(of.tables.timesteps)[t]), x, t)
    error = per_example(jnp.square(p.x_start - x_start))
    return bits, error, per_example(jnp.square(of.noise_of(x, t, p.x_start) - noise))

  found = [terms(jnp.int32(7 - i), nhwc(arrays['in/bpd_noise'][i])) for i in range(8)]
  for i, key in enumerate(('vb', 'xstart_mse', 'mse')):
    want = arrays[f'out/bpd_linear_8/{key}']
    ours = np.stack([one[i] for one in found], 1)
    np.testing.assert_allclose(ours, want, rtol=0, atol=1e-4 * np.abs(want).max(), err_msg=key)
  total = sum(one[0] for one in found) + of.prior_bits(x_start)
  want = arrays['out/bpd_linear_8/total_bpd']
  np.testing.assert_allclose(total, want, rtol=0, atol=1e-5 * np.abs(want).max())
