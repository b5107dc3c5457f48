"""In which order the players of residual GANs move, on linear players: one step in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_players import DISC, GEN, NUM, SIZE, V, game

from bigjax.algorithms import biggan, sngan, stransgan, wgan_gp
from bigjax.algorithms.base.places import Places
from bigjax.core import parallel
from bigjax.nn.objectives import losses

K, RATE = 3, 0.1
FLAT = GEN['Dense_0']['kernel']


def played(kind):
  """(Examples of both players, state after, metrics) of a step with Wasserstein's loss."""
  one = game(Places(loss=losses.LOSSES['wasserstein']), kind, K, 2)
  rng = np.random.default_rng(2)
  image = jnp.asarray(rng.uniform(-1, 1, (K, NUM, SIZE, SIZE, 1)), jnp.float32)
  batch = {'image': image, 'label': jnp.zeros((K, NUM), jnp.int32)}
  ((_, stage),) = one.stages(10)
  given = {'gen': {'Dense_0/kernel': FLAT}, 'disc': DISC}

  @jax.jit
  def run(batch):
    before = one.init(jax.random.key(0), given)
    return *one.examples(before, batch, stage), *one.step(before, batch, stage)

  with jax.numpy_rank_promotion('allow'), jax.set_mesh(parallel.make_mesh(jax.devices()[:1])):
    return run(batch)


def moved_gen(w, v, of_gen):
  """-mean f(G(z)) has the gradient -mean(z) v^T."""
  return w + RATE * np.outer(np.asarray(of_gen['z']).mean(0), v)


def moved_disc(v, w, of_disc):
  """mean f(fake) - mean f(real), on each minibatch in turn; the offset cancels."""
  for real, z in zip(np.asarray(of_disc['image']), np.asarray(of_disc['z']), strict=True):
    v = v - RATE * ((z @ w).mean(0) - real.reshape(NUM, -1).mean(0))
  return v


GEN_FIRST = (sngan.SNGAN, stransgan.STransGAN)


@pytest.mark.parametrize('kind', [biggan.BigGAN, wgan_gp.WGANGP, *GEN_FIRST])
def test_a_step(kind):
  of_disc, of_gen, after, metrics = played(kind)
  assert of_disc['z'].shape[:2] == (K, NUM) and len(of_gen['z']) == 2 * NUM
  assert len(np.unique(np.concatenate([of_disc['z'][..., 0].ravel(), of_gen['z'][:, 0]]))) == 50
  w, v = np.asarray(FLAT), V
  if kind in GEN_FIRST:  # against the critic of the step before; its fakes are then the new ones
    w = moved_gen(w, v, of_gen)
    v = moved_disc(v, w, of_disc)
  else:
    v = moved_disc(v, w, of_disc)
    w = moved_gen(w, v, of_gen)
  players = after['players']
  np.testing.assert_allclose(players['disc']['params']['v'], v, rtol=1e-5)
  np.testing.assert_allclose(players['gen']['params']['Dense_0']['kernel'], w, rtol=1e-5)
  np.testing.assert_allclose(
    after['ema']['Dense_0']['kernel'], 0.9 * np.asarray(FLAT) + 0.1 * w, rtol=1e-5
  )
  assert after['step'] == 1 and metrics['refused'] == 0
