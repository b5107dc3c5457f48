"""Recurrent units: the golden ConvGRU, warps, gates, causality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.nn.kernels import PLAIN
from bigjax.nn.video import recurrent
from bigjax.nn.video.recurrent import TSRU, ConvGRU, warp

from golden_files import golden, under


def channels_last(x):
  return np.moveaxis(np.asarray(x, np.float32), -3, -1)


def of_cell(arrays, i, hidden):
  """Our parameters of a cell that puts x before h, and mixes (1 - u) h + u c."""
  found = {}
  for theirs, ours, sign in (
    ('reset', 'reset', 1),
    ('update', 'update', -1),
    ('out', 'candidate', 1),
  ):
    kernel = np.asarray(arrays[f'cells.{i}.{theirs}_gate.weight'], np.float32).transpose(2, 3, 1, 0)
    kernel = np.concatenate([kernel[:, :, -hidden:], kernel[:, :, :-hidden]], 2)
    bias = np.asarray(arrays[f'cells.{i}.{theirs}_gate.bias'], np.float32)
    found[ours] = {'kernel': sign * kernel, 'bias': sign * bias}
  return found


@pytest.mark.parametrize('state', ['zero_state', 'given_state'])
def test_convgru_is_the_golden_one(state):
  arrays = golden('convgru')
  x = np.moveaxis(channels_last(arrays['in/x']), 0, 1)  # [B, T, H, W, C]
  units = [
    ConvGRU(num, 3, kernels=PLAIN, size=size, activation=jnp.tanh) for num, size in ((5, 3), (6, 5))
  ]
  params = [of_cell(under(arrays, 'w/'), i, unit.features) for i, unit in enumerate(units)]
  starts = [channels_last(arrays[f'in/h0/{i}']) for i in range(2)]
  if state == 'zero_state':
    starts = [np.zeros_like(h) for h in starts]

  @jax.jit
  def run(params, starts):
    first = units[0].apply({'params': params[0]}, starts[0], x)
    return first, units[1].apply({'params': params[1]}, starts[1], first)

  for i, every in enumerate(run(params, starts)):
    for t in range(3):
      expected = channels_last(arrays[f'out/{state}/t{t}/h{i}'])
      np.testing.assert_allclose(every[:, t], expected, atol=1e-5)
  if state == 'zero_state':
    return

  # The gradient of what the last step leaves.
  def loss(params):
    lasts = [every[:, -1] for every in run(params, starts)]
    wanted = [channels_last(arrays[f'in/cotangent_last/{i}']) for i in range(2)]
    return sum((last * one).sum() for last, one in zip(lasts, wanted, strict=True))

  grads = jax.grad(loss)(params)
  for i, unit in enumerate(units):
    expected = of_cell(under(arrays, 'out/grad/'), i, unit.features)
    jax.tree.map(
      lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5),
      grads[i], expected,
    )  # fmt: skip


def logits_of(p, q, size=3, shape=(1, 5, 5)):
  """Logits that put all weight on the pixel p below and q to the right."""
  low = size // 2
  logits = np.full((*shape, size * size), -1e4, np.float32)
  logits[..., (p + low) * size + q + low] = 0
  return jnp.asarray(logits)


@pytest.mark.parametrize('size', [3, 5])
def test_warps_are_the_identity_and_shifts(size):
  h = jax.random.normal(jax.random.key(0), (1, 5, 5, 2))
  np.testing.assert_array_equal(warp(h, logits_of(0, 0, size)), h)
  right = warp(h, logits_of(0, -1, size))  # each pixel takes the one to its left
  np.testing.assert_array_equal(right[:, :, 1:], h[:, :, :-1])
  np.testing.assert_array_equal(right[:, :, 0], 0)
  up = warp(h, logits_of(1, 0, size))
  np.testing.assert_array_equal(up[:, :-1], h[:, 1:])


def test_equal_logits_warp_to_means():
  h = jnp.ones((1, 4, 4, 1))
  found = warp(h, jnp.zeros((1, 4, 4, 9)))
  np.testing.assert_allclose(found[0, 1:3, 1:3], 1, rtol=1e-6)
  np.testing.assert_allclose(found[0, 0, 0], 4 / 9, rtol=1e-6)


def unit_of(name, frames=4):
  return recurrent.unit(name)(3, frames, kernels=PLAIN)


def made(name, frames=4, **changes):
  """(The unit, parameters, h, x), some biases changed."""
  unit = unit_of(name, frames)
  h, x = (
    jax.random.normal(jax.random.key(i), shape)
    for i, shape in enumerate([(2, 4, 4, 3), (2, frames, 4, 4, 2)])
  )
  params = unit.init(jax.random.key(2), h, x)['params']
  for gate, bias in changes.items():
    params[gate]['bias'] = jnp.asarray(bias) + params[gate]['bias']
  return unit, params, h, x


@pytest.mark.parametrize('name', recurrent.UNITS)
def test_a_frame_follows_from_those_before_it(name):
  unit, params, h, x = made(name)
  run = jax.jit(lambda x: unit.apply({'params': params}, h, x))
  before, after = run(x), run(x.at[:, 2].add(1.0))
  np.testing.assert_array_equal(before[:, :2], after[:, :2])
  assert (np.abs(before[:, 2:] - after[:, 2:]).max((0, 2, 3, 4)) > 1e-4).all()


@pytest.mark.parametrize('name', recurrent.UNITS)
def test_an_x_that_stays_is_one_at_every_frame(name):
  unit, params, h, x = made(name)
  one, every = x[:, :1], jnp.repeat(x[:, :1], 4, 1)
  run = jax.jit(lambda x: unit.apply({'params': params}, h, x))
  np.testing.assert_allclose(run(one), run(every), atol=1e-6)


def test_a_closed_gate_keeps_h():
  unit, params, h, x = made('gru', update=50.0)
  every = unit.apply({'params': params}, h, x)
  np.testing.assert_allclose(every, jnp.broadcast_to(h[:, None], every.shape), atol=1e-6)


@pytest.mark.parametrize('name', [name for name in recurrent.UNITS if name != 'gru'])
def test_a_closed_gate_moves_h_a_pixel_a_frame(name):
  """TSRU whose transformation is a shift: the square is where it was, one pixel on, bit for bit."""
  shift = np.full(9, -1e4, np.float32)
  shift[3] = 1e4  # of the pixel to the left
  unit, params, _, x = made(name, update=1e4, transformation=shift)
  h = jnp.zeros((2, 4, 4, 3)).at[:, 1:3, 0].set(1.0)
  every = unit.apply({'params': params}, h, x[:, :3].repeat(2, 1)[:, :4])
  for t in range(4):
    expected = jnp.zeros_like(h)
    if t + 1 < 4:
      expected = expected.at[:, 1:3, t + 1].set(1.0)
    np.testing.assert_array_equal(every[:, t], expected)
  kept = TSRU(3, 4, order=name[-1], mix_warped=False, kernels=PLAIN)
  np.testing.assert_array_equal(kept.apply({'params': params}, h, x)[:, -1], h)


@pytest.mark.parametrize('name', ['gru', 'tsru_s'])
def test_recomputing_changes_nothing(name):
  unit, params, h, x = made(name)
  again = unit.clone(recompute=True)
  loss = lambda params, unit: jnp.square(unit.apply({'params': params}, h, x)).sum()
  grads = [jax.jit(jax.grad(loss), static_argnums=1)(params, one) for one in (unit, again)]
  same = lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
  jax.tree.map(same, *grads)


def test_orders_are_wired_as_printed():
  """Against the equations written out in NumPy: one step of each order."""
  rng = np.random.RandomState(0)
  h, x = rng.normal(size=(1, 3, 3, 2)), rng.normal(size=(1, 3, 3, 2))

  def conv(kernel, bias, *maps):
    both = np.pad(np.concatenate(maps, -1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.stack([both[:, i : i + 3, j : j + 3] for i in range(3) for j in range(3)], 3)
    return np.einsum('bhwkc,kcd->bhwd', windows, kernel.reshape(9, *kernel.shape[2:])) + bias

  sigmoid, relu = lambda a: 1 / (1 + np.exp(-a)), lambda a: np.maximum(a, 0)
  for order in recurrent.ORDERS:
    unit = TSRU(2, 1, order=order, kernels=PLAIN)
    params = unit.init(jax.random.key(1), jnp.asarray(h), jnp.asarray(x)[:, None])['params']
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
    gate = {name: (np.asarray(p['kernel']), np.asarray(p['bias'])) for name, p in params.items()}
    hidden = relu(conv(*gate['transformation_hidden'], h, x))
    warped = np.asarray(warp(jnp.asarray(h), jnp.asarray(conv(*gate['transformation'], hidden))))
    c = relu(conv(*gate['candidate'], h if order == 'p' else warped, x))
    u = sigmoid(conv(*gate['update'], *((warped, c) if order == 's' else (h, x))))
    found = unit.apply({'params': params}, jnp.asarray(h), jnp.asarray(x)[:, None])[:, 0]
    np.testing.assert_allclose(found, u * warped + (1 - u) * c, rtol=1e-4, atol=1e-5)
