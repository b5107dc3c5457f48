"""gSR: dimensions, class weights and singular values, against the official code's numbers (gsr)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import errors, parallel, trees
from bigjax.models import biggan
from bigjax.nn.objectives import class_affines

import golden_files

LONG_TAIL = [int(5000 * 0.01 ** (c / 9)) for c in range(10)]  # CIFAR-10-LT, imbalance 100


def rand(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# As programs: each is run on several tables.
start = jax.jit(class_affines.start, static_argnums=2)
advance = jax.jit(class_affines.advance, static_argnums=2)
sigmas_of = jax.jit(class_affines.sigmas)
exact_sigmas = jax.jit(class_affines.exact_sigmas)
affines = jax.jit(class_affines.affines)


@pytest.mark.parametrize(
  ('channels', 'want'),
  [(64, (8, 8)), (96, (8, 12)), (192, (12, 16)), (384, (16, 24)), (1536, (32, 48)), (13, (1, 13))],
)
def test_groups(channels, want):
  assert class_affines.groups(channels) == want


def test_class_weights_of_cifar10_lt():
  assert LONG_TAIL == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
  got = class_affines.class_weights(LONG_TAIL, beta=0.99)
  want = [0.39192] * 4 + [0.39252, 0.40010, 0.43408, 0.52071, 0.69271, 0.99221]
  np.testing.assert_allclose(got, want, atol=1e-5)
  got = class_affines.class_weights(LONG_TAIL, beta=0.999)
  np.testing.assert_allclose(
    got,
    [0.09059, 0.09471, 0.10787, 0.13643, 0.18924, 0.28029, 0.43440, 0.69308, 1.12922, 1.84416],
    atol=1e-5,
  )
  assert (np.diff(got) > 0).all()
  np.testing.assert_allclose(got.sum(), 10 * 0.5)
  with pytest.raises(errors.UserError, match='class 1 has no training image'):
    class_affines.class_weights([3, 0, 2])


def two_tables(classes=10, channels=96):
  return {'bn/gain': rand(classes, channels), 'bn/bias': rand(classes, channels, seed=1)}


def svd(tables):
  """The largest singular values by NumPy, float64."""
  split = lambda t: np.asarray(t, np.float64).reshape(len(t), *class_affines.groups(t.shape[1]))
  return {path: np.linalg.svd(split(t), compute_uv=False)[:, 0] for path, t in tables.items()}


def test_power_iteration_finds_the_largest_singular_value():
  tables = two_tables()
  state = start(tables, jax.random.key(0), 500)
  got, exact = sigmas_of(tables, state), exact_sigmas(tables)
  for path, want in svd(tables).items():
    np.testing.assert_allclose(got[path], want, rtol=1e-5)
    np.testing.assert_allclose(exact[path], want, rtol=1e-5)
  # d sigma = u v^T, of norm 1
  grad = jax.jit(jax.grad(lambda t: class_affines.sigmas(t, state)['bn/gain'].sum()))(tables)
  np.testing.assert_allclose(np.square(grad['bn/gain']).sum(1), np.ones(10), rtol=1e-5)


def test_a_first_step_is_within_five_percent():
  # 40 iterations before the first step and 4 in it; the worst of 200 random matrices.
  tables = two_tables(classes=100)
  state = advance(tables, start(tables, jax.random.key(1)))
  sigmas = sigmas_of(tables, state)
  for path, want in svd(tables).items():
    got = np.asarray(sigmas[path])
    assert (got <= want * (1 + 1e-5)).all() and (got > 0.95 * want).all()


def test_each_table_has_its_own_vectors():
  # Of equal tables the values are equal: biases are not measured with the gains' vector.
  table = rand(4, 24)
  tables = {'bn/gain': table, 'bn/bias': table}
  state = start(tables, jax.random.key(2), 200)
  got = sigmas_of(tables, state)
  np.testing.assert_allclose(got['bn/gain'], got['bn/bias'], rtol=1e-5)
  shuffled = {'bn/gain': table[:, np.random.default_rng(0).permutation(24)]}
  assert not np.allclose(exact_sigmas(shuffled)['bn/gain'], got['bn/gain'], rtol=1e-3)


def test_a_table_that_starts_at_zero_is_not_lost():
  # BatchNorm's biases are zero at first: the vectors wait, and find what grows from there.
  zeros = {'bn/gain': jnp.zeros((3, 24)), 'bn/bias': jnp.zeros((3, 24))}
  state = start(zeros, jax.random.key(0))
  term = class_affines.gsr(np.ones(3))
  both = jax.jit(jax.value_and_grad(lambda t, state: term(state, t), has_aux=True))
  (value, state), grad = both(zeros, state)
  assert float(value) == 0 and not any(np.any(g) for g in grad.values())
  assert all(np.isfinite(u).all() and np.any(u) for u in trees.flat(state).values())
  # The official floor is 1e-3.
  grown = {path: np.float32(1e-4) * t for path, t in two_tables(3, 24).items()}
  sigmas = sigmas_of(grown, advance(grown, state, 100))
  for path, want in svd(grown).items():
    np.testing.assert_allclose(sigmas[path], want, rtol=1e-4)


def test_the_rare_classes_are_held_down_most():
  tables, lambdas = two_tables(), class_affines.class_weights(LONG_TAIL, beta=0.999)
  term = class_affines.gsr(lambdas)
  state = start(tables, jax.random.key(0))
  grad, _ = jax.jit(jax.grad(lambda t: term(state, t), has_aux=True))(tables)
  pull = np.sqrt(np.square(grad['bn/gain']).sum(1)) / svd(tables)['bn/gain']
  np.testing.assert_allclose(pull / lambdas, (pull / lambdas).mean(), rtol=0.05)


def test_the_term_does_not_depend_on_the_devices():
  # Its vectors leave a device's loss with the metrics, which are means over the devices.
  tables, term = two_tables(4, 24), class_affines.gsr(np.arange(1, 5))
  state = start(tables, jax.random.key(0))
  loss = lambda tables, state, batch: term(state, tables)
  (want, new), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(tables, state, None)
  with jax.set_mesh(parallel.make_mesh()):
    (got, found), grads = jax.jit(parallel.value_and_grad(loss))(tables, state, jnp.zeros(8))
  np.testing.assert_allclose(got, want, rtol=1e-6)
  for mine, theirs in ((new, found), (grad, grads)):
    close = lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, mine, theirs)


@pytest.mark.parametrize('shared_dim', [4, 0])
def test_affines_of_biggan(shared_dim):
  """What BatchNorm does to a class when z's part of the condition is zero."""
  classes, z_dim, skip = 3, 6, bool(shared_dim)
  net = biggan.Generator(
    16, classes, ch=4, z_dim=z_dim, shared_dim=shared_dim, skip_z=skip, attention=(), channels=1
  )
  z, y = jnp.zeros((2, z_dim)), jnp.zeros((2,), jnp.int32)
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), z, y, train=True)['params'])
  params = trees.nest({path: rand(*x.shape, seed=i)
                       for i, (path, x) in enumerate(trees.flat(shapes).items())})  # fmt: skip
  found = affines(params)
  names = [f'blocks_{i}/bn{j}/{leaf}' for i in (0, 1) for j in (1, 2) for leaf in ('bias', 'gain')]
  assert sorted(found) == names
  if not shared_dim:
    np.testing.assert_array_equal(
      found['blocks_0/bn1/gain'], params['blocks_0']['bn1']['gain']['embedding']
    )
    return
  kernel, table = params['blocks_1']['bn2']['bias']['kernel'], params['shared']['embedding']
  padded = np.concatenate([table, np.zeros((classes, len(kernel) - 4))], 1)
  np.testing.assert_allclose(found['blocks_1/bn2/bias'], padded @ kernel, rtol=1e-5, atol=1e-6)


def test_a_generator_without_classes_is_refused():
  plain = {'bn': {'gain': jnp.ones(3), 'bias': jnp.zeros(3)}, 'conv': {'bias': jnp.zeros(3)}}
  with pytest.raises(errors.UserError, match='no BatchNorm with gains and biases by class'):
    class_affines.affines(plain)


# The official code's numbers.

EXACT = {'sngan': 2.066880975226151, 'biggan': 1.526709294891045}
OFFICIAL = {'sngan': 1.6959624351396776, 'biggan': 1.3340417580692252}  # with its slip
PLACES = [(block, norm) for block in range(3) for norm in (1, 2)]  # of the file's layers


@pytest.fixture
def arrays(x64):
  return golden_files.golden('gsr')


def layer_tables(arrays, network):
  wide = lambda key: np.asarray(arrays[f'{network}/{key}'], np.float64)
  return {f'{i}/{leaf}': wide(f'{kind}/{i}') for i in range(6)
          for leaf, kind in (('gain', 'gamma'), ('bias', 'beta'))}  # fmt: skip


def weights_of(arrays, network):
  """The file's generator in our layout, as far as BatchNorm goes, after spectral norm."""
  stored = golden_files.under(arrays, f'{network}/G/')
  flat = {}
  for block, norm in PLACES:
    theirs, ours = f'blocks.{block}.0.bn{norm}', f'blocks_{block}/bn{norm}'
    for leaf, table in (('gain', 'embed0'), ('bias', 'embed1')):
      if network == 'sngan':
        flat[f'{ours}/{leaf}/embedding'] = stored[f'{theirs}.{table}.weight']
      else:
        kernel, u, v = (stored[f'{theirs}.{leaf}.weight_{x}'].astype(np.float64)
                        for x in ('orig', 'u', 'v'))  # fmt: skip
        flat[f'{ours}/{leaf}/kernel'] = (kernel / (u @ kernel @ v)).T
  if network == 'biggan':
    flat['shared/embedding'] = stored['shared.weight']
  return trees.nest({path: np.asarray(x, np.float64) for path, x in flat.items()})


def test_golden_class_weights(arrays):
  for beta in (0.99, 0.999):
    got = class_affines.class_weights(arrays['in/class_counts'], beta=beta)
    np.testing.assert_allclose(got, arrays[f'out/lambda_beta{beta}'], rtol=1e-6)
  for channels, *want in arrays['out/dims_table']:
    assert class_affines.groups(int(channels)) == tuple(want)


@pytest.mark.parametrize('network', ['sngan', 'biggan'])
def test_golden_tables_and_exact_value(arrays, network):
  """Tables, exact singular values, the penalty and its gradient by the generator's weights."""
  weights = weights_of(arrays, network)
  found, want = affines(weights), layer_tables(arrays, network)
  for i, (block, norm) in enumerate(PLACES):
    for leaf in ('gain', 'bias'):
      got = found[f'blocks_{block}/bn{norm}/{leaf}']
      np.testing.assert_allclose(got, want[f'{i}/{leaf}'], rtol=1e-5, atol=1e-6)
  sigmas = exact_sigmas(want)
  for leaf, name in (('gain', 'sigma_gamma'), ('bias', 'sigma_beta')):
    got = np.stack([sigmas[f'{i}/{leaf}'] for i in range(6)])
    np.testing.assert_allclose(got, arrays[f'{network}/svd/call0/{name}'], rtol=1e-5)
  lambdas = class_affines.class_weights(arrays['in/class_counts'], beta=0.99)
  value = lambda w: class_affines.penalty(
    class_affines.exact_sigmas(class_affines.affines(w)), lambdas
  )
  got, grad = jax.jit(jax.value_and_grad(value))(weights)
  np.testing.assert_allclose(got, EXACT[network], rtol=1e-5)
  np.testing.assert_allclose(got, arrays[f'{network}/svd/call0/reg'], rtol=1e-5)
  key = 'shared.weight' if network == 'biggan' else 'blocks.1.0.bn2.embed1.weight'
  got = grad['shared'] if network == 'biggan' else grad['blocks_1']['bn2']['bias']
  np.testing.assert_allclose(
    got['embedding'], arrays[f'{network}/svd/grad_G/{key}'], rtol=1e-4, atol=1e-6
  )


@pytest.mark.parametrize('network', ['sngan', 'biggan'])
def test_golden_power_iteration_and_the_official_slip(arrays, network):
  """From the official start vectors: its gains' values, and its biases' once its slip is made."""
  tables = layer_tables(arrays, network)
  us = {f'{i}/{leaf}': np.asarray(arrays[f'{network}/in/u{k}_init/{i}'], np.float64)
        for i in range(6) for k, leaf in enumerate(('gain', 'bias'))}  # fmt: skip
  state = advance(tables, trees.nest(us), 40)
  got = sigmas_of(tables, state)
  official = lambda name: arrays[f'{network}/official_power_iteration/call0/{name}']
  stack = lambda values, leaf: np.stack([values[f'{i}/{leaf}'] for i in range(6)])
  np.testing.assert_allclose(stack(got, 'gain'), official('sigma_gamma'), rtol=2e-3)
  exact = exact_sigmas(tables)
  np.testing.assert_allclose(stack(got, 'bias'), stack(exact, 'bias'), rtol=2e-2)
  # The slip: u = normalise(W_bias v_gain), v = normalise(W_bias^T u), sigma = u^T W_bias v.
  slipped = {}
  for i in range(6):
    a, b = class_affines.groups(24)
    gain, bias = (np.asarray(tables[f'{i}/{leaf}']).reshape(-1, a, b) for leaf in ('gain', 'bias'))
    unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-3)
    v_gain = unit(np.einsum('yab,ya->yb', gain, trees.flat(state)[f'{i}/gain']))
    u, v = official(f'u1/{i}'), official(f'v1/{i}')
    slipped[f'{i}/bias'] = np.einsum('ya,yab,yb->y', u, bias, v)
    np.testing.assert_allclose(u, unit(np.einsum('yab,yb->ya', bias, v_gain)), atol=2e-2)
  np.testing.assert_allclose(stack(slipped, 'bias'), official('sigma_beta'), rtol=1e-5)
  lambdas = class_affines.class_weights(arrays['in/class_counts'], beta=0.99)
  gains = {path: value for path, value in got.items() if path.endswith('gain')}
  value = class_affines.penalty({**gains, **slipped}, lambdas)
  np.testing.assert_allclose(value, OFFICIAL[network], rtol=1e-3)
  assert (stack(slipped, 'bias') < stack(exact, 'bias')).all()
  assert float(value) < 0.9 * EXACT[network]
