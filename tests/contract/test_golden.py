"""The networks and the game against what the reference code computes, number by number.

Files of shared/golden: weights and inputs in BigGAN-PyTorch's layout with what that code makes of
them; the two small ones are copied here, the others are skipped where the folder is absent. Its
BatchNorms have epsilon 1e-4 as ours, except the last one of the float32 files (1e-5).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.algorithms import biggan as algorithm
from bigjax.algorithms.base import configs
from bigjax.algorithms.base.draws import LabelLaw
from bigjax.algorithms.base.places import Places
from bigjax.algorithms.base.player import initial_state
from bigjax.nn import latents, layers, optim, schedules, spectral_norm
from bigjax.nn.objectives import regularizers
from bigjax.sampling.importers import biggan_pytorch

from golden_files import NAMES, golden, under
from vectors import vectors_in


class Nets:
  """Both networks of a golden file, with their weights in our layout."""

  def __init__(self, name, dtype):
    arrays = golden(name)
    arch = biggan_pytorch.gen_architecture(under(arrays, 'G/'))
    fields = biggan_pytorch.disc_architecture(under(arrays, 'D/'))
    self.arch = arch
    self.gen = algorithm.make_generator(arch).net.clone(dtype=dtype)
    network = algorithm.NETWORKS[arch['network']]
    self.disc = network.Discriminator(**fields, dtype=dtype)
    wide = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, dtype), tree)
    shapes = biggan_pytorch.gen_shapes(arch)
    gen, gen_u = biggan_pytorch.params_in(under(arrays, 'G/'), shapes['params'])
    disc, disc_u = biggan_pytorch.params_in(
      under(arrays, 'D/'), biggan_pytorch.disc_shapes(arch['network'], fields, arch['channels'])
    )
    self.params = {'gen': wide(gen), 'disc': wide(disc)}
    self.vectors = {
      'gen': vectors_in(self.params['gen'], wide(gen_u)),
      'disc': vectors_in(self.params['disc'], wide(disc_u)),
    }
    self.stats = wide(biggan_pytorch.stats_in(under(arrays, 'G/'), shapes['moments']))
    self.z, self.y = jnp.asarray(arrays['in/z'], dtype), jnp.asarray(arrays['in/y'], jnp.int32)
    self.x = jnp.asarray(arrays['in/x'].transpose(0, 2, 3, 1), dtype)

  def algorithm(self):
    """BigGAN around these networks, for its losses."""
    return algorithm.BigGAN(
      self.gen, self.disc, None, None, (1, len(self.y)), len(self.y), latents.law('normal'),
      LabelLaw(self.gen.num_classes), schedules.ema_decay(0.0), 0, Places(),
    )  # fmt: skip

  def losses(self, params):
    """Return (D's loss, G's loss, their gradients) of one minibatch."""
    game = self.algorithm()
    weights = {k: spectral_norm.normalize(params[k], self.vectors[k]) for k in params}
    keys = jax.random.split(jax.random.key(0), len(self.y))
    batch = {'z': self.z, 'y': self.y, 'aug': keys, 'aug_real': keys, 'image': self.x}
    batch['label'] = self.y

    def gradient(name, loss):
      of = lambda p: loss(spectral_norm.normalize(p, self.vectors[name]), weights, batch)
      return jax.value_and_grad(of, has_aux=True)(params[name])

    d, g = gradient('disc', game.disc_loss), gradient('gen', game.gen_loss)
    return d[0][0], g[0][0], {'D': d[1], 'G': g[1]}

  def outputs(self, params):
    weights = {k: spectral_norm.normalize(params[k], self.vectors[k]) for k in params}
    g_train = self.gen.apply({'params': weights['gen']}, self.z, self.y, train=True)
    score = lambda x: self.disc.apply({'params': weights['disc']}, x, self.y)
    return {'g_train': g_train, 'd_fake': score(g_train), 'd_real': score(self.x)}

  def sampled(self, params):
    weights = spectral_norm.normalize(params['gen'], self.vectors['gen'])
    return self.gen.apply({'params': weights, 'stats': self.stats}, self.z, self.y, train=False)


def assert_output(ours, theirs, atol):
  theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs.reshape(-1)
  np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=atol)


# The large ones' doubles: their outputs and gradients in float64 are below.
@pytest.mark.parametrize(
  'name', [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])]
)
def test_outputs_in_float32(name, monkeypatch):
  # The unconditional BatchNorm is the last one: the reference leaves its epsilon at 1e-5 (T14).
  batch_norm = layers.BatchNorm
  last = lambda features, group, eps, *others, **more: batch_norm(
    features, group, 1e-5, *others, **more
  )
  monkeypatch.setattr(layers, 'BatchNorm', last)
  out, nets = under(golden(name), 'out/'), Nets(name, jnp.float32)
  # In one program, without the gradients.
  every = lambda params: (nets.outputs(params), nets.sampled(params), nets.losses(params)[:2])
  found, sampled, (d_loss, g_loss) = jax.jit(every)(nets.params)
  for key, value in found.items():
    assert_output(value, out[key], 2e-4)
  assert_output(sampled, out['g_eval'], 2e-4)
  assert abs(d_loss - out['d_loss']) < 2e-4 and abs(g_loss - out['g_loss']) < 2e-4


# Of the deep one, which takes two minutes to compile, other tests hold blocks and whole outputs.
@pytest.mark.parametrize(
  'name', [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])]
)
def test_outputs_and_gradients_in_float64(name, x64):
  theirs, nets = golden(f'grad_{name}'), Nets(name, jnp.float64)
  both = jax.jit(lambda params: (nets.outputs(params), nets.losses(params)))
  found, (d_loss, g_loss, grads) = both(nets.params)
  for key, value in found.items():
    assert_output(value, theirs[f'out/{key}'], 1e-7)
  assert abs(d_loss - theirs['out/d_loss']) < 1e-7 and abs(g_loss - theirs['out/g_loss']) < 1e-7
  for player in ('D', 'G'):
    wanted = under(theirs, f'grad_{player}/')
    ours = biggan_pytorch.params_out(grads[player])
    assert set(ours) == set(wanted)
    whole = np.sqrt(sum(np.square(g).sum() for g in wanted.values()))
    for key, want in wanted.items():
      error = np.linalg.norm(ours[key] - want)
      scale = max(np.linalg.norm(want), 1e-4 * whole)
      assert error < 1e-6 * scale, (player, key, error / scale)


def game():
  """BigGAN as the file step_biggan32_ch8 trains it: batch 4, float64, epsilon 1e-4 everywhere."""
  config = configs.read('digits:tiny')
  config.data.update({'resolution': 32, 'channels': 3, 'num_classes': 10})
  config.model.update(
    {'ch': 8, 'z_dim': 80, 'shared_dim': 128, 'gen_attention': (16,), 'dtype': 'float64'}
  )
  config.optim.update(
    {
      'batch_size': 4, 'd_steps': 2, 'gen_lr': 5e-5, 'disc_lr': 2e-4, 'b2': 0.999, 'eps': 1e-8,
      'ortho_beta': 1e-4, 'spectral_eps': 1e-6, 'ema_decay': 0.9, 'ema_start': 0,
    }
  )  # fmt: skip
  return algorithm.make(config)


class Injected(algorithm.BigGAN):
  """BigGAN whose latents and labels are given: the one seam where the step draws them.

  It also reports the loss of each of the two discriminator steps, whose mean the step reports.
  """

  draws: dict

  def fresh(self, key, shape, step):
    drawn = self.draws['d' if len(shape) == 2 else 'g']
    return {**drawn, 'aug': jax.random.split(key, shape)}

  def disc_loss(self, weights, shared, batch, due=frozenset()):
    which = batch.pop('which')[0]
    loss, metrics = super().disc_loss(weights, shared, batch, due)
    return loss, {**metrics, 'd0': 2 * loss * (1 - which), 'd1': 2 * loss * which}


def injected(game, draws):
  one = Injected(**{field.name: getattr(game, field.name) for field in dataclasses.fields(game)})
  object.__setattr__(one, 'draws', draws)
  return one


def golden_state(game, nets):
  """The state whose players have the golden weights and stored vectors, and fresh moments."""
  players = {}
  for name, params in nets.params.items():
    opt = jax.jit(getattr(game, name).tx.init)(params)
    players[name] = {'params': params, 'opt': (*opt[:-1], nets.vectors[name])}
  return initial_state(jax.random.key(0), players, nets.params['gen'])


def inputs(arrays, i):
  """Return (batch of the two D steps, draws) of iteration i."""
  parts = [under(arrays, f'in/{i}/d{k}/') for k in (0, 1)]
  gen = under(arrays, f'in/{i}/g/')
  stack = lambda name: jnp.asarray(np.stack([part[name] for part in parts]), jnp.float64)
  batch = {'image': stack('x').transpose(0, 1, 3, 4, 2), 'label': stack('y').astype(jnp.int32)}
  which = jnp.asarray([[0.0] * 4, [1.0] * 4])
  d = {'z': stack('z'), 'y': stack('yf').astype(jnp.int32), 'which': which}
  return batch, {
    'd': d,
    'g': {'z': jnp.asarray(gen['z'], jnp.float64), 'y': jnp.asarray(gen['yf'], jnp.int32)},
  }


@functools.cache
def trained():
  """Return (metrics of three iterations, states after the first and the third)."""
  arrays = golden('step_biggan32_ch8')
  nets, base = Nets('biggan32_ch8', jnp.float64), game()
  ((_, stage),) = base.stages(3)
  step = jax.jit(lambda state, *given: injected(base, given[1]).step(state, given[0], stage))
  orthogonal = jax.jit(
    lambda params: regularizers.total(regularizers.orthogonal, params, algorithm.penalised)
  )
  state, states, rows = golden_state(base, nets), [], []
  for i in range(3):
    penalty = base.penalty * orthogonal(state['players']['gen']['params'])
    state, metrics = step(state, *inputs(arrays, i))
    rows.append({**{k: metrics[k] for k in ('d0', 'd1', 'g_loss')}, 'penalty': penalty})
    states.append(state)
  return jax.device_get(rows), {1: states[0], 3: states[2]}


def test_losses_and_penalties_of_three_iterations(x64):
  arrays, (rows, _) = golden('step_biggan32_ch8'), trained()
  names = {'d0': 'd0/loss', 'd1': 'd1/loss', 'g_loss': 'g/loss', 'penalty': 'g/penalty'}
  for i, row in enumerate(rows):
    for ours, theirs in names.items():
      assert abs(row[ours] - arrays[f'{i}/{theirs}']) < 1e-6, (i, ours)


@pytest.mark.parametrize('iteration', [1, 3])
def test_state_after_iterations(iteration, x64):
  """Parameters, averages, second moments and stored vectors, tensor by tensor."""
  after = under(golden('step_biggan32_ch8'), f'after{iteration}/')
  if not after:
    pytest.skip('needs shared/golden/step_biggan32_ch8.npz, of which only the losses are here')
  state = trained()[1][iteration]
  ours = {'ema': state['ema']}
  for player, name in (('gen', 'G'), ('disc', 'D')):
    params, opt = state['players'][player]['params'], state['players'][player]['opt']
    is_adam = lambda s: isinstance(s, optim.SecondMomentState)
    (adam,) = [s for s in jax.tree.leaves(opt, is_leaf=is_adam) if is_adam(s)]
    ours |= {name: params, f'nu_{name}': adam.nu}
    arrays = biggan_pytorch.params_out(params, spectral_norm.vectors(opt))
    stored = {key: u for key, u in arrays.items() if key.endswith('.u0')}
    assert not far_off(stored, under(after, f'u_{name}/')), name
  for name, tree in ours.items():
    assert not far_off(biggan_pytorch.params_out(tree), under(after, f'{name}/')), name


def far_off(ours, theirs):
  """{tensor: error of its norm} where that is not below 1e-5.

  A bias before a BatchNorm has no gradient but rounding.
  """
  assert set(ours) == set(theirs)
  whole, found = np.sqrt(sum(np.square(want).sum() for want in theirs.values())), {}
  for key, want in theirs.items():
    scale = max(np.linalg.norm(want), 1e-12 * whole)
    error = np.linalg.norm(ours[key].reshape(-1) - want.reshape(-1)) / scale
    if not error < 1e-5:
      found[key] = error
  return found
