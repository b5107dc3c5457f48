"""Optimizer chains: the penalty as a link, Adam without a first moment, weight averages.

Sources: specs/biggan.md section 2.4, T19, T36, T37, T43.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bigjax import optim, spectral, utils
from bigjax.algorithms import biggan
from bigjax.models import biggan as models


def rand(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def some_params():
  """A small BigGAN generator with attention, every leaf random: no penalty vanishes by luck."""
  net = models.Generator(16, 3, ch=4, z_dim=6, shared_dim=4, attention=(16,), channels=1)
  z, y = jnp.zeros((2, 6)), jnp.zeros((2,), jnp.int32)
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), z, y, train=True)['params'])
  return utils.nest(
    {path: rand(*leaf.shape, seed=i) for i, (path, leaf) in enumerate(utils.flat(shapes).items())}
  )


def dense_grad(w):
  """beta = 1 gradient of Eq. 3 by the dense Gram, in float64 NumPy."""
  m = np.asarray(w, np.float64).reshape(-1, w.shape[-1])
  return (4 * m @ ((m.T @ m) * (1 - np.eye(m.shape[1])))).reshape(w.shape)


def test_penalty_adds_its_gradient_to_the_kernels_alone():
  # T43: raw kernels only; not the shared embedding, biases, the last BatchNorm, attention's gamma.
  params, beta = some_params(), 1e-4
  grads = jax.tree.map(jnp.ones_like, params)
  tx = optim.add_orthogonal_penalty(beta, biggan.penalised)
  got, state = jax.jit(tx.update)(grads, tx.init(params), params)
  assert not jax.tree.leaves(state)
  flat_params, touched = utils.flat(params), set()
  for path, g in utils.flat(got).items():
    extra = np.asarray(g) - 1
    if path.endswith('/kernel'):
      want = beta * dense_grad(flat_params[path])
      np.testing.assert_allclose(extra, want, atol=2e-6 * max(1, np.abs(want).max()))
      if flat_params[path].shape[-1] > 1:  # a single filter has no pair
        assert np.abs(want).max() > 1e-4
        touched.add(path)
    else:
      assert not extra.any(), path
  assert {
    'linear/kernel',
    'blocks_0/bn1/gain/kernel',
    'blocks_1/conv_sc/kernel',
    'attention_1/o/kernel',
  } <= touched
  untouched = flat_params.keys() - touched
  assert {'shared/embedding', 'linear/bias', 'output_bn/gain', 'attention_1/gamma'} <= untouched


def test_penalty_covers_41_tensors_of_biggan_128():
  # Section 2.3: every G parameter with two or more dims but the shared embedding; 41 of them.
  net = models.Generator(128, 1000)
  shapes = jax.eval_shape(
    lambda z, y: net.init(jax.random.key(0), z, y, train=True)['params'],
    jax.ShapeDtypeStruct((2, 120), jnp.float32),
    jax.ShapeDtypeStruct((2,), jnp.int32),
  )
  leaves = utils.flat(shapes)
  picked = {path for path, leaf in leaves.items() if biggan.penalised(path, leaf)}
  wide = {path for path, leaf in leaves.items() if leaf.ndim >= 2}
  assert len(picked) == 41 and picked == wide - {'shared/embedding'}


def test_penalty_needs_the_parameters():
  tx = optim.add_orthogonal_penalty(1e-4, biggan.penalised)
  with pytest.raises(ValueError, match='needs the parameters'):
    tx.update({'kernel': jnp.ones((2, 2))}, tx.init(None))


def test_penalty_comes_before_adam_and_the_vectors_after():
  # First in the chain: with no gradient from the loss, Adam's first step is lr times the sign of
  # the penalty's gradient. Last in the chain: u belongs to the weights after that step.
  lr, params = 1e-2, {'kernel': rand(8, 5), 'bias': jnp.ones((5,))}
  tx = optax.chain(
    optim.add_orthogonal_penalty(1e-2, biggan.penalised),
    optim.adam_b1_0(lr, 0.0, 0.999, 1e-12),
    spectral.track(spectral.spec()),
  )
  state = tx.init(params)
  updates, new = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
  want = -lr * np.sign(dense_grad(params['kernel']))
  np.testing.assert_allclose(updates['kernel'], want, rtol=1e-5)
  assert not np.any(updates['bias'])
  old_u = spectral.vectors(state).sn_u['kernel']
  u, _ = spectral.iterate(params['kernel'] + updates['kernel'], old_u)
  np.testing.assert_allclose(spectral.vectors(new).sn_u['kernel'], u, atol=1e-6)


@pytest.mark.parametrize(('b2', 'eps'), [(0.999, 1e-8), (0.99, 1e-4)])
def test_adam_without_first_moment_equals_optax_bit_for_bit(b2, eps):
  params = {'a': {'kernel': rand(6, 5), 'bias': rand(5)}, 'b': rand(3, 3, 2, 4)}
  scales = 10.0 ** np.random.default_rng(0).uniform(-7, 3, size=20)  # vanishing to exploding
  grads = [
    jax.tree.map(lambda w, i=i, s=s: rand(*w.shape, seed=i) * jnp.float32(s), params)
    for i, s in enumerate(scales)
  ]

  def run(tx):
    def one(carry, g):
      params, state = carry
      updates, state = tx.update(g, state, params)
      params = optax.apply_updates(params, updates)
      return (params, state), params

    with jax.numpy_dtype_promotion('standard'):
      stacked = jax.tree.map(lambda *g: jnp.stack(g), *grads)
      return jax.jit(lambda p, g: jax.lax.scan(one, (p, tx.init(p)), g)[1])(params, stacked)

  ours, theirs = run(optim.adam_b1_0(1e-2, 0.0, b2, eps)), run(optax.adam(1e-2, 0.0, b2, eps))
  for path, want in utils.flat(theirs).items():
    np.testing.assert_array_equal(utils.flat(ours)[path], want)
  assert np.abs(ours['b'][-1] - params['b']).max() > 1e-2


def test_adam_without_first_moment_keeps_half_the_state_and_no_memory():
  params = {'kernel': rand(6, 5), 'bias': rand(5)}
  tx = optim.adam_b1_0(1e-2, 0.0, 0.999, 1e-8)
  state = tx.init(params)
  assert not any('mu' in path.split('/') for path in utils.flat(state))
  assert sum(x.size for x in jax.tree.leaves(state) if x.ndim) == utils.num_params(params)
  assert sum(
    x.size for x in jax.tree.leaves(optim.adam(1e-2, 0.0, 0.999, 1e-8).init(params)) if x.ndim
  ) == 2 * utils.num_params(params)
  # T37: a step with no gradient moves nothing, whatever came before.
  _, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
  updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
  assert not any(np.any(u) for u in jax.tree.leaves(updates))


def test_adam_without_first_moment_refuses_momentum():
  with pytest.raises(utils.UserError, match=r'optim\.b1 is 0\.5.*optim\.name=adam'):
    optim.adam_b1_0(1e-3, 0.5, 0.999, 1e-8)


def test_adam_with_momentum_against_numpy():
  lr, b1, b2, eps = 1e-2, 0.5, 0.9, 1e-6
  g = np.random.default_rng(0).normal(size=(4, 7))
  tx = optim.adam(lr, b1, b2, eps)
  params = {'kernel': jnp.zeros((7,))}
  state, m, v = tx.init(params), 0.0, 0.0
  for t, gt in enumerate(g, 1):
    m, v = b1 * m + (1 - b1) * gt, b2 * v + (1 - b2) * gt**2
    want = -lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    updates, state = tx.update({'kernel': jnp.asarray(gt, jnp.float32)}, state, params)
    np.testing.assert_allclose(updates['kernel'], want, rtol=1e-4)


@pytest.mark.parametrize('name', list(optim.OPTIMIZERS))
def test_first_adam_step(name):
  # T37: |step| = lr for |g| >> eps. At |g| = eps it is lr / 2 in optax's form (eps beside the
  # corrected root); the eps-hat form of TF would give 0.031 lr (section 2.4).
  lr, eps = 5e-5, 1e-8
  g = jnp.array([1.0, -1e-3, 3e2, 1e-8])
  tx = optim.OPTIMIZERS[name](lr, 0.0, 0.999, eps)
  params = jnp.zeros((4,))
  updates, _ = tx.update(g, tx.init(params), params)
  np.testing.assert_allclose(updates, [-lr, lr, -lr, -lr / 2], rtol=1e-4)


def test_ema_before_its_start_is_the_parameters_bit_for_bit():
  # T36
  params, average = {'a': rand(4, 3), 'b': rand(5, seed=1)}, {'a': rand(4, 3, seed=2), 'b': rand(5)}
  got = jax.jit(optim.ema, static_argnums=2)(average, params, 0.9999, jnp.array(False))
  for path, p in utils.flat(params).items():
    np.testing.assert_array_equal(utils.flat(got)[path], p)


def test_ema_after_its_start_decays():
  # a <- decay a + (1 - decay) p once per call: from 0 towards constant 1, 1 - decay^n after n.
  params, average, decay = {'a': jnp.ones((3,))}, {'a': jnp.zeros((3,))}, 0.9
  for n in range(1, 6):
    average = optim.ema(average, params, decay, jnp.array(True))
    np.testing.assert_allclose(average['a'], 1 - decay**n, rtol=1e-6)
  assert average['a'].dtype == jnp.float32
