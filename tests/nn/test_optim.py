"""Optimizer chains: penalties, clamps and freezing as links, Adam without a first moment, averages.

Sources: specs/biggan.md sections 2.4 and 3.6, T19, T36, T37, T43.
"""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from bigjax.algorithms import biggan
from bigjax.algorithms.base import configs
from bigjax.core import errors, parallel, trees
from bigjax.models import biggan as models
from bigjax.models import biggan_deep
from bigjax.nn import optim, spectral_norm

from counts import num_params


def rand(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def some_params():
  """A small BigGAN generator with attention, every leaf random: no penalty vanishes by luck."""
  net = models.Generator(16, 3, ch=4, z_dim=6, shared_dim=4, attention=(16,), channels=1)
  z, y = jnp.zeros((2, 6)), jnp.zeros((2,), jnp.int32)
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), z, y, train=True)['params'])
  return trees.nest(
    {path: rand(*leaf.shape, seed=i) for i, (path, leaf) in enumerate(trees.flat(shapes).items())}
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
  flat_params, touched = trees.flat(params), set()
  for path, g in trees.flat(got).items():
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
  assert {'shared/embedding', 'linear/bias', 'output/bn/gain', 'attention_1/gamma'} <= untouched


def test_penalty_covers_41_tensors_of_biggan_128():
  # Section 2.3: every G parameter with two or more dims but the shared embedding; 41 of them.
  net = models.Generator(128, 1000)
  shapes = jax.eval_shape(
    lambda z, y: net.init(jax.random.key(0), z, y, train=True)['params'],
    jax.ShapeDtypeStruct((2, 120), jnp.float32),
    jax.ShapeDtypeStruct((2,), jnp.int32),
  )
  leaves = trees.flat(shapes)
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
  lr, params = 1e-2, {'kernel': rand(8, 5), 'bias': np.ones(5, np.float32)}
  tx = optax.chain(
    optim.add_orthogonal_penalty(1e-2, biggan.penalised),
    optim.adam_b1_0(lr, 0.0, 0.999, 1e-12),
    spectral_norm.track(spectral_norm.spec()),
  )
  step = jax.jit(lambda grads, params: tx.update(grads, tx.init(params), params))
  updates, new = jax.device_get(step(jax.tree.map(np.zeros_like, params), params))
  want = -lr * np.sign(dense_grad(params['kernel']))
  np.testing.assert_allclose(updates['kernel'], want, rtol=1e-5)
  assert not np.any(updates['bias'])
  v = (params['kernel'] + updates['kernel']) @ spectral_norm.vectors(new).sn_u['kernel']
  np.testing.assert_allclose(
    spectral_norm.vectors(new).sn_v['kernel'], v / np.linalg.norm(v), atol=1e-6
  )


# BigGAN's Section 4.1: what holds sigma0 down, as links around an optimizer.


def kernels(path, leaf):
  return path.endswith('/kernel')


def tangled():
  """Weights with well separated singular values, and leaves that no tool may touch."""
  rng = np.random.default_rng(0)
  left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (12, 6))
  kernel = left[:, :6] * np.array([4.0, 3.0, 2.0, 1.0, 0.5, 0.2]) @ right.T
  return {
    'a': {'kernel': kernel.reshape(2, 2, 3, 6).astype(np.float32), 'bias': rand(6)},
    'one': {'kernel': rand(7, 1)},  # a single filter has no sigma1
    'table': 3 * rand(12, 6, seed=1),
  }


def top(w):
  """s and v0 u0^T by NumPy's SVD."""
  v, s, u = np.linalg.svd(np.asarray(w, np.float64).reshape(-1, w.shape[-1]))
  return s, np.outer(v[:, 0], u[0]).reshape(w.shape)


# (fixed, ratio, sigmas -> the bound they mean)
BOUNDS = [(2.5, 9.0, lambda s: 2.5), (0.0, 0.9, lambda s: 0.9 * s[1])]


def around_sgd(tool, fixed, ratio):
  """A tool around SGD of rate 0.5, as a config asks for it."""
  values = {'sigma_tool': tool, 'sigma_weight': 0.3, 'sigma_reg': fixed, 'sigma_ratio': ratio}
  before, after = biggan.sigma_tools(ml_collections.ConfigDict(values))
  return optax.chain(before, optax.sgd(0.5), after)


def updated(tx, params, grads):
  def run(params, grads):
    updates, state = tx.update(grads, tx.init(params), params)
    return optax.apply_updates(params, updates), state

  return jax.jit(run)(params, grads)


@pytest.mark.parametrize(('fixed', 'ratio', 'bound'), BOUNDS)
def test_clamp_of_the_updated_weights(fixed, ratio, bound):
  """Eq. 4, on the weights after the step: what the next forward pass sees."""
  params = tangled()
  grads = jax.tree.map(lambda w: 0.1 * rand(*w.shape, seed=7), params)
  tx = around_sgd('clamp', fixed, ratio)
  new, state = updated(tx, params, grads)
  assert not jax.tree.leaves(state)
  for path, w in trees.flat(params).items():
    want = np.asarray(w - 0.5 * trees.flat(grads)[path], np.float64)
    if path == 'a/kernel':
      s, direction = top(want)
      want = want - (s[0] - bound(s)) * direction
      assert s[0] - bound(s) > 0.5
    np.testing.assert_allclose(trees.flat(new)[path], want, atol=1e-5, err_msg=path)


@pytest.mark.parametrize(('fixed', 'ratio', 'bound'), BOUNDS)
def test_sigma_penalty_adds_its_gradient_before_the_step(fixed, ratio, bound):
  params = tangled()
  grads = jax.tree.map(lambda w: 0.1 * rand(*w.shape, seed=7), params)
  tx = around_sgd('penalty', fixed, ratio)
  new, state = updated(tx, params, grads)
  assert not jax.tree.leaves(state)
  for path, w in trees.flat(params).items():
    g = np.asarray(trees.flat(grads)[path], np.float64)
    if path == 'a/kernel':
      s, direction = top(w)
      g = g + 0.3 * 2 * (s[0] - bound(s)) * direction
    np.testing.assert_allclose(trees.flat(new)[path], w - 0.5 * g, atol=1e-5, err_msg=path)


def test_clamp_below_the_bound_is_no_link_at_all():
  params = tangled()
  grads = jax.tree.map(lambda w: 0.1 * rand(*w.shape, seed=7), params)
  clamped, _ = updated(around_sgd('clamp', 9.0, 1.0), params, grads)
  plain, _ = updated(optax.sgd(0.5), params, grads)
  for path, w in trees.flat(plain).items():  # w + (w' - w) rounds
    np.testing.assert_allclose(trees.flat(clamped)[path], w, atol=1e-6, err_msg=path)
  none, _ = updated(around_sgd('none', 0.1, 0.1), params, grads)
  for path, w in trees.flat(plain).items():
    np.testing.assert_array_equal(trees.flat(none)[path], w, err_msg=path)


@pytest.mark.parametrize(
  'tx', [optim.clamp_sigma(kernels, 1, 1), optim.add_sigma_penalty(1, kernels, 1, 1)]
)
def test_sigma_tools_need_the_parameters(tx):
  with pytest.raises(ValueError, match='needs the parameters'):
    tx.update({'kernel': jnp.ones((2, 2))}, tx.init(None))


def test_freezing_holds_weights_where_they_are():
  params = tangled()
  grads = jax.tree.map(np.ones_like, params)
  tx = optax.chain(optim.adam_b1_0(1e-2, 0, 0.9, 1e-8), optim.freeze(kernels))
  new, state = updated(tx, params, grads)
  for path, w in trees.flat(params).items():
    moved = np.asarray(trees.flat(new)[path] - w)
    np.testing.assert_allclose(moved, 0 if path.endswith('/kernel') else -1e-2, atol=1e-6)
    if path.endswith('/kernel'):
      np.testing.assert_array_equal(trees.flat(new)[path], w)
  assert jax.tree.structure(state) == jax.tree.structure(
    optax.chain(optim.adam_b1_0(1e-2, 0, 0.9, 1e-8), optim.freeze(lambda *_: False)).init(params)
  )


def disc_paths(net):
  side = jax.ShapeDtypeStruct((2, net.resolution, net.resolution, 3), jnp.float32)
  y = jax.ShapeDtypeStruct((2,), jnp.int32)
  return list(trees.flat(jax.eval_shape(net.init, jax.random.key(0), side, y)['params']))


@functools.cache
def discriminators():
  """The paths of both families' tensors."""
  return {
    'biggan': disc_paths(models.Discriminator(32, 10, ch=8, attention=(16, 8))),
    'biggan_deep': disc_paths(biggan_deep.Discriminator(64, 10, ch=4, attention=(32, 16))),
  }


@pytest.mark.parametrize(
  ('family', 'num', 'modules'),
  [
    ('biggan', 0, set()),
    ('biggan', 1, {'blocks_0', 'attention_0'}),
    ('biggan', 2, {'blocks_0', 'attention_0', 'blocks_1', 'attention_1'}),
    ('biggan', 3, {'blocks_0', 'attention_0', 'blocks_1', 'attention_1', 'blocks_2'}),
    ('biggan_deep', 0, set()),
    ('biggan_deep', 1, {'input_conv', 'blocks_0_0', 'blocks_0_1', 'attention_0_2'}),
    (
      'biggan_deep',
      2,
      {
        *('input_conv', 'blocks_0_0', 'blocks_0_1', 'attention_0_2'),
        *('blocks_1_0', 'blocks_1_1', 'attention_1_2'),
      },
    ),
  ],
)
def test_frozen_blocks_of_both_families(family, num, modules):
  """FreezeD (Mo et al. 2020): the first blocks, whole, with what precedes and ends them."""
  frozen = biggan.frozen_blocks(num)
  paths = discriminators()[family]
  assert {path for path in paths if frozen(path, None)} == {
    path for path in paths if path.split('/')[0] in modules
  }
  assert modules <= {path.split('/')[0] for path in paths}


def test_frozen_blocks_are_told_apart_by_their_whole_number():
  frozen = biggan.frozen_blocks(2)
  assert frozen('blocks_1/conv1/kernel', None) and frozen('blocks_1_1/conv1/kernel', None)
  for path in ('blocks_10/conv1/kernel', 'blocks_10_0/conv1/kernel', 'attention_10/o/kernel'):
    assert not frozen(path, None)
    assert biggan.frozen_blocks(11)(path, None)
  assert not frozen('linear/kernel', None) and not frozen('embed/embedding', None)


def test_no_tool_changes_the_tree_of_the_state():
  """A checkpoint written without them continues with them (DESIGN.md 2)."""

  def tree(**values):
    config = configs.read('digits:tiny')
    config.optim.update(values)
    return jax.tree.structure(jax.eval_shape(biggan.make(config).init, jax.random.key(0)))

  plain = tree()
  for tool in ('clamp', 'penalty'):
    assert tree(sigma_tool=tool, sigma_weight=0.1, freeze_disc=1) == plain
  assert tree(freeze_disc=1) == plain
  assert tree(r1_gamma=1.0, ortho_beta=0.0) == plain
  assert tree(name='adam') != plain  # the comparison can tell


@pytest.mark.parametrize(('b2', 'eps'), [(0.999, 1e-8), (0.99, 1e-4)])
def test_adam_without_first_moment_equals_optax_bit_for_bit(b2, eps):
  params = {'a': {'kernel': rand(6, 5), 'bias': rand(5)}, 'b': rand(3, 3, 2, 4)}
  scales = 10.0 ** np.random.default_rng(0).uniform(-7, 3, size=20)  # vanishing to exploding
  grads = [
    jax.tree.map(lambda w, i=i, s=s: rand(*w.shape, seed=i) * np.float32(s), params)
    for i, s in enumerate(scales)
  ]

  def run(tx):
    def one(carry, g):
      params, state = carry
      updates, state = tx.update(g, state, params)
      params = optax.apply_updates(params, updates)
      return (params, state), params

    with jax.numpy_dtype_promotion('standard'):
      stacked = jax.tree.map(lambda *g: np.stack(g), *grads)
      return jax.jit(lambda p, g: jax.lax.scan(one, (p, tx.init(p)), g)[1])(params, stacked)

  ours, theirs = run(optim.adam_b1_0(1e-2, 0.0, b2, eps)), run(optax.adam(1e-2, 0.0, b2, eps))
  for path, want in trees.flat(theirs).items():
    np.testing.assert_array_equal(trees.flat(ours)[path], want)
  assert np.abs(ours['b'][-1] - params['b']).max() > 1e-2


def test_adam_without_first_moment_keeps_half_the_state_and_no_memory():
  params = {'kernel': rand(6, 5), 'bias': rand(5)}
  tx = optim.adam_b1_0(1e-2, 0.0, 0.999, 1e-8)
  state = tx.init(params)
  assert not any('mu' in path.split('/') for path in trees.flat(state))
  assert sum(x.size for x in jax.tree.leaves(state) if x.ndim) == num_params(params)
  assert sum(
    x.size for x in jax.tree.leaves(optim.adam(1e-2, 0.0, 0.999, 1e-8).init(params)) if x.ndim
  ) == 2 * num_params(params)
  # T37: a step with no gradient moves nothing, whatever came before.
  update = jax.jit(tx.update)
  _, state = update(jax.tree.map(np.ones_like, params), state, params)
  updates, _ = update(jax.tree.map(np.zeros_like, params), state, params)
  assert not any(np.any(u) for u in jax.tree.leaves(updates))


def test_adam_without_first_moment_refuses_momentum():
  with pytest.raises(errors.UserError, match=r'optim\.b1 is 0\.5.*optim\.name=adam'):
    optim.adam_b1_0(1e-3, 0.5, 0.999, 1e-8)


def test_adam_with_momentum_against_numpy():
  lr, b1, b2, eps = 1e-2, 0.5, 0.9, 1e-6
  g = np.random.default_rng(0).normal(size=(4, 7))
  tx = optim.adam(lr, b1, b2, eps)
  params = {'kernel': np.zeros(7, np.float32)}
  state, m, v, update = tx.init(params), 0.0, 0.0, jax.jit(tx.update)
  for t, gt in enumerate(g, 1):
    m, v = b1 * m + (1 - b1) * gt, b2 * v + (1 - b2) * gt**2
    want = -lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    updates, state = update({'kernel': gt.astype(np.float32)}, state, params)
    np.testing.assert_allclose(updates['kernel'], want, rtol=1e-4)


def test_rmsprop_is_the_average_of_squares_alone():
  # v = (1 - b2) g^2 after the first step, without Adam's correction: lr / sqrt(1 - b2) in all.
  lr, b2 = 1e-3, 0.99
  for rate in (lr, lambda count: lr * (1 + 0 * count.astype(jnp.float32))):
    tx = optim.OPTIMIZERS['rmsprop'](rate, 0.5, b2, 1e-8)
    g, params = np.float32([1.0, -1e-3]), np.zeros(2, np.float32)
    update = jax.jit(tx.update)
    first, state = update(g, tx.init(params), params)
    np.testing.assert_allclose(first, [-lr / 0.1, lr / 0.1], rtol=1e-3)
    second, _ = update(g, state, params)
    np.testing.assert_allclose(second, first / np.sqrt(1.99), rtol=1e-3)


@pytest.mark.parametrize('name', ['adam', 'adam_b1_0'])
def test_first_adam_step(name):
  # T37: |step| = lr for |g| >> eps. At |g| = eps it is lr / 2 in optax's form (eps beside the
  # corrected root); the eps-hat form of TF would give 0.031 lr (section 2.4).
  lr, eps = 5e-5, 1e-8
  g = np.float32([1.0, -1e-3, 3e2, 1e-8])
  tx = optim.OPTIMIZERS[name](lr, 0.0, 0.999, eps)
  params = np.zeros(4, np.float32)
  updates, _ = jax.jit(tx.update)(g, tx.init(params), params)
  np.testing.assert_allclose(updates, [-lr, lr, -lr, -lr / 2], rtol=1e-4)


def test_ema_before_its_start_is_the_parameters_bit_for_bit():
  # T36
  params, average = {'a': rand(4, 3), 'b': rand(5, seed=1)}, {'a': rand(4, 3, seed=2), 'b': rand(5)}
  got = jax.jit(optim.ema, static_argnums=2)(average, params, 0.9999, jnp.array(False))
  for path, p in trees.flat(params).items():
    np.testing.assert_array_equal(trees.flat(got)[path], p)


def test_ema_after_its_start_decays():
  # a <- decay a + (1 - decay) p once per call: from 0 towards constant 1, 1 - decay^n after n.
  params, average, decay = {'a': np.ones(3, np.float32)}, {'a': np.zeros(3, np.float32)}, 0.9
  ema = jax.jit(optim.ema, static_argnums=2)
  for n in range(1, 6):
    average = ema(average, params, decay, np.array(True))
    np.testing.assert_allclose(average['a'], 1 - decay**n, rtol=1e-6)
  assert average['a'].dtype == jnp.float32


@pytest.mark.parametrize('shape', [(3, 3, 32, 24), (16, 512), (1, 1, 64, 96)])
def test_devices_share_the_penalty(shape):
  """Each computes its slice: the gradient is that of one device."""
  w = rand(*shape)
  mesh = parallel.make_mesh()
  place = parallel.zero_sharding(mesh, w)
  with jax.set_mesh(mesh):
    grad = jax.jit(optim.orthogonal_grad, in_shardings=place)
    text, shared = grad.lower(w).compile().as_text(), grad(w)
  np.testing.assert_allclose(shared, dense_grad(w), rtol=2e-4, atol=1e-3)
  assert shared.sharding.is_equivalent_to(place, w.ndim)
  assert 'all-reduce' in text and 'all-gather' not in text


def test_a_matrix_that_does_not_divide_is_not_shared():
  w = rand(100, 70)
  with jax.set_mesh(parallel.make_mesh()):
    text = jax.jit(optim.orthogonal_grad).lower(w).compile().as_text()
  assert 'all-reduce' not in text


@pytest.mark.parametrize('bad', [np.nan, np.inf, 1e30])
def test_guard_moves_nothing_on_what_is_not_finite(bad):
  """1e30 is finite, but its square, which Adam would keep, is not."""
  tx = optim.guard(optim.adam_b1_0(0.1, 0.0, 0.9, 1e-8))
  params = {'w': rand(3, 4), 'b': rand(4, seed=1)}
  grads = {'w': rand(3, 4, seed=2), 'b': rand(4, seed=3)}
  plain = optim.adam_b1_0(0.1, 0.0, 0.9, 1e-8)
  update = jax.jit(lambda grads, **loss: tx.update(grads, tx.init(params), params, **loss))
  want, _ = jax.jit(lambda grads: plain.update(grads, plain.init(params), params))(grads)
  updates, state = update(grads)
  assert bool(optim.was_finite(state))
  jax.tree.map(np.testing.assert_array_equal, updates, want)
  broken = grads['b'].copy()
  broken[2] = bad
  for wrong, loss in (({**grads, 'b': broken}, 0.0), (grads, np.nan)):
    updates, state = update(wrong, loss=loss)
    assert not bool(optim.was_finite(state))
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(updates))


def test_a_chain_without_guard_is_said_to_have_none():
  with pytest.raises(ValueError, match=r'expected one optim\.guard'):
    optim.was_finite(optax.sgd(0.1).init({'w': rand(2)}))
