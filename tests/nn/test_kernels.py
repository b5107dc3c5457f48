"""Every form of a convolution is the plain one; which is chosen where.

Sources: specs/biggan.md section 1.2 and T27-T31.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import device
from bigjax.nn import convolution

from plain import (
  assert_same,
  conv_reference,
  eqns,
  f32,
  pool_reference,
  rand,
  to_second_order,
  up_reference,
)


def test_resampling_against_numpy():
  x = rand(2, 4, 6, 3).astype(np.float32)
  np.testing.assert_array_equal(convolution.upsample(f32(x)), up_reference(x))
  np.testing.assert_allclose(convolution.mean_pool(f32(x)), pool_reference(x), atol=1e-6)
  for form in (convolution.max_pool_plain, convolution.max_pool_windows):
    np.testing.assert_array_equal(form(f32(x)), pool_reference(x, np.max))


def test_upsampling_a_constant_keeps_it():
  # T27: compare_gan's unpool inserts zeros, which leaves a mean of c / 4.
  x = jnp.full((1, 3, 3, 2), 0.7)
  np.testing.assert_array_equal(convolution.upsample(x), np.float32(0.7))
  unpool = np.zeros((1, 6, 6, 2))
  unpool[:, ::2, ::2] = x
  np.testing.assert_allclose(
    [convolution.upsample(x).mean(), unpool.mean()], [0.7, 0.7 / 4], rtol=1e-6
  )


@pytest.fixture(params=[False, True], ids=['stacked', 'in_place'])
def put_together(request, monkeypatch):
  """Both ways in which `interleave` puts images together; TPUs take the second."""
  monkeypatch.setattr(device, 'on_tpu', lambda: request.param)
  monkeypatch.setattr(device, 'device_kind', lambda: 'TPU v3' if request.param else 'cpu')


def test_interleaving_puts_phases_where_they_belong(put_together):
  y = rand(2, 4, 6, 3).astype(np.float32)
  split = lambda y: [y[:, p::2, q::2] for p in (0, 1) for q in (0, 1)]
  cotangent = rand(2, 4, 6, 3, seed=1).astype(np.float32)

  @jax.jit
  def both(phases, cotangent):
    y, back = jax.vjp(convolution.interleave, phases)
    return y, back(cotangent)[0]

  got, grads = both(split(y), cotangent)
  np.testing.assert_array_equal(got, y)
  for grad, want in zip(grads, split(cotangent), strict=True):
    np.testing.assert_array_equal(grad, want)


UP_SIZES = [(1, 1, 2, 3), (3, 8, 5, 7), (8, 8, 1, 4)]  # h, w, in, out
DOWN_SIZES = [(2, 8, 5, 7), (8, 8, 1, 4)]


def check_conv_and_gradients(fast, plain, reference, h, w, cin, cout):
  """`fast` is `plain` is the NumPy form; gradients of x and kernel agree for a random cotangent."""
  x, kernel = rand(2, h, w, cin), rand(3, 3, cin, cout, seed=1)
  want = reference(x, kernel)
  cotangent = jnp.asarray(rand(*want.shape, seed=2))

  def with_vjp(fn, x, kernel, cotangent):
    y, vjp = jax.vjp(fn, x, kernel)
    return y, *vjp(cotangent)

  both = jax.jit(lambda *args: (with_vjp(fast, *args), with_vjp(plain, *args)))
  got, expected = both(x, kernel, cotangent)
  for one, other in zip(got, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-12)
  np.testing.assert_allclose(got[0], want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(('h', 'w', 'cin', 'cout'), UP_SIZES)
def test_phases_equal_upsampling_then_convolving(x64, put_together, h, w, cin, cout):
  check_conv_and_gradients(
    convolution.up_conv_phases,
    convolution.up_conv_plain,
    lambda x, k: conv_reference(up_reference(x), k),
    h,
    w,
    cin,
    cout,
  )


@pytest.mark.parametrize(('h', 'w', 'cin', 'cout'), DOWN_SIZES)
def test_strided_equals_convolving_then_pooling(x64, put_together, h, w, cin, cout):
  check_conv_and_gradients(
    convolution.down_conv_strided,
    convolution.down_conv_plain,
    lambda x, k: pool_reference(conv_reference(x, k)),
    h,
    w,
    cin,
    cout,
  )


CONVS = {  # form: (kernel, channels in and out, stride and padding)
  'chunked': (convolution.conv_chunked, (3, 3, 6, 5), (1, 'SAME')),
  'chunked, 1x1': (convolution.conv_chunked, (1, 1, 6, 5), (1, 'SAME')),
  'chunked, phase': (convolution.conv_chunked, (2, 2, 6, 5), (1, ((1, 0), (0, 1)))),
  'chunked, strided': (convolution.conv_chunked, (4, 4, 6, 5), (2, ((1, 1), (1, 1)))),
  'columns': (convolution.conv_columns, (3, 3, 2, 5), ()),
  'columns, 1x1': (convolution.conv_columns, (1, 1, 2, 5), ()),
  'columns, 2x2': (convolution.conv_columns, (2, 2, 2, 5), ()),
  'blocks': (convolution.conv_blocks, (3, 3, 6, 2), ()),
}


CHUNKS = [1, 200, 10**9]  # per example, of three examples, all
CHUNKED = [(name, chunk) for name in CONVS if 'chunked' in name for chunk in CHUNKS]
WHOLE = [(name, 1) for name in CONVS if 'chunked' not in name]


@pytest.mark.parametrize(('name', 'chunk'), CHUNKED + WHOLE)
def test_forms_of_a_convolution(x64, monkeypatch, name, chunk):
  monkeypatch.setattr(convolution, 'CHUNK', chunk)
  monkeypatch.setattr(convolution, 'FEW', 0)  # which would leave small kernels unchunked
  form, shape, how = CONVS[name]
  args = rand(6, 8, 8, shape[2]), rand(*shape, seed=1)
  assert_same(*(
    to_second_order(lambda *args, conv=conv: conv(*args, *how), lambda y: jnp.sin(y).sum(), *args)
    for conv in (form, convolution.conv)
  ))  # fmt: skip


def test_chunks_are_as_large_as_they_may_be(monkeypatch):
  def num_chunks(batch, side):
    x, kernel = jnp.zeros((batch, side, side, 9)), jnp.zeros((3, 3, 9, 9))
    grad = lambda kernel: jax.grad(lambda k: convolution.conv_fast(x, k).sum())(kernel)
    return sum(
      eqn.primitive.name == 'conv_general_dilated' and eqn.outvars[0].aval.shape == kernel.shape
      for eqn in eqns(jax.make_jaxpr(grad)(kernel).jaxpr)
    )

  assert [num_chunks(6, 16), num_chunks(32, 16), num_chunks(32, 32)] == [1, 4, 16]
  assert num_chunks(3, 64) == 3 and num_chunks(7, 32) == 7  # examples are not cut
  monkeypatch.setattr(device, 'device_kind', lambda: 'TPU v3')
  assert num_chunks(32, 32) == 1


def test_forms_of_max_pooling(x64):
  """To second order; equal pixels share the gradient, two, three or four of them."""
  x = np.round(rand(3, 6, 8, 5))
  x[0, :2, :2] = 1.0
  x[1, 2:4, 2:4] = [[[0.0], [7.0]], [[7.0], [7.0]]]
  loss = lambda y: jnp.sin(y * rand(3, 3, 4, 5, seed=1)).sum()
  forms = convolution.max_pool_windows, convolution.max_pool_plain
  got, want = (to_second_order(form, loss, x) for form in forms)
  assert_same(got, want)
  np.testing.assert_allclose(got[1][0][0, :2, :2], got[1][0][0, :1, :1] * np.ones((2, 2, 1)))


@pytest.mark.parametrize('size', [1, 3])
def test_a_bias_is_a_channel_of_ones(x64, size):
  """To second order, at borders too, where the other taps of that channel would see zeros."""
  args = rand(2, 5, 6, 3), rand(size, size, 3, 4, seed=1), rand(4, seed=2)
  loss = lambda y: jnp.sin(y).sum()
  forms = convolution.conv_constant, convolution.conv_biased
  got, want = (to_second_order(form, loss, *args) for form in forms)
  assert_same(got, want)
  plain = conv_reference(args[0], args[1]) + args[2]
  np.testing.assert_allclose(got[0], plain, rtol=1e-9)


def test_the_bias_of_few_channels_is_a_channel_on_tpus(monkeypatch):
  def channels(num):
    args = jnp.zeros((1, 8, 8, num)), jnp.zeros((3, 3, num, 16)), jnp.zeros(16)
    program = jax.make_jaxpr(lambda *args: convolution.conv_biased_fast(*args))(*args)
    convs = [e for e in eqns(program.jaxpr) if e.primitive.name == 'conv_general_dilated']
    return [eqn.invars[1].aval.shape[2] for eqn in convs]

  monkeypatch.setattr(device, 'device_kind', lambda: 'TPU v3')
  assert channels(3) == [4] and channels(16) == [16]
  monkeypatch.setattr(device, 'device_kind', lambda: 'NVIDIA H200')
  assert channels(3) == [3]


@pytest.mark.parametrize('kind', ['cpu', 'TPU v3'])
def test_gradient_of_a_gradient_through_the_strided_form(x64, monkeypatch, kind):
  """As R1 takes it: the gradient, for the kernel, of the squared gradient for the image."""
  monkeypatch.setattr(device, 'device_kind', lambda: kind)
  x, kernel = rand(2, 4, 6, 3), rand(3, 3, 3, 5, seed=1)

  def penalty(kernel, x, down):
    score = lambda x: jnp.sin(down(x, kernel)).sum()
    return jnp.square(jax.grad(score)(x)).sum()

  got, want = (
    jax.jit(jax.grad(functools.partial(penalty, down=form)))(kernel, x)
    for form in (convolution.down_conv_strided, convolution.down_conv_plain)
  )
  np.testing.assert_allclose(got, want, rtol=1e-9)


def test_forms_are_chosen_for_tpus_by_size(monkeypatch):
  x, kernel = jnp.zeros((1, 8, 8, 3)), jnp.zeros((3, 3, 3, 5))
  shapes = lambda fn, x: {
    eqn.invars[1].aval.shape[:2]
    for eqn in eqns(jax.make_jaxpr(lambda *args: fn(*args))(x, kernel).jaxpr)  # not from the cache
    if eqn.primitive.name == 'conv_general_dilated'
  }
  large = jnp.zeros((1, 32, 32, 3))
  assert shapes(convolution.up_conv, x) == {(2, 2)} and shapes(convolution.down_conv, x) == {(4, 4)}
  monkeypatch.setattr(device, 'device_kind', lambda: 'TPU v3')
  small, at_16 = jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 16, 16, 3))
  assert shapes(convolution.up_conv, small) == shapes(convolution.down_conv, x) == {(3, 3)}
  # Of 16 px on strided, up to 32 px as four convolutions of stride 1.
  assert shapes(convolution.up_conv, x) == shapes(convolution.down_conv, at_16) == {(2, 2)}
  assert shapes(convolution.up_conv, large) == shapes(convolution.down_conv, large) == {(2, 2)}
  assert shapes(convolution.down_conv, jnp.zeros((1, 64, 64, 3))) == {(4, 4)}
  assert shapes(convolution.conv_fast, large) == {(6, 6)}  # 5 outputs
  monkeypatch.setattr(device, 'device_kind', lambda: 'TPU v6 lite')
  assert shapes(convolution.down_conv, at_16) == {(3, 3)}
  assert shapes(convolution.down_conv, jnp.zeros((1, 64, 64, 3))) == {(2, 2)}
  assert shapes(convolution.down_conv, jnp.zeros((1, 128, 128, 3))) == {(4, 4)}
  monkeypatch.setattr(device, 'device_kind', lambda: 'NVIDIA H200')
  assert shapes(convolution.conv_fast, large) == {(3, 3)}


@pytest.mark.parametrize(
  'size, stride, padding',
  [(3, 1, 'SAME'), (5, 2, 'SAME'), (3, 2, 'VALID'), (5, 1, ((1, 2), (2, 0)))],
)
def test_depthwise_sums_are_the_convolution_and_so_are_gradients(x64, size, stride, padding):
  x, kernel = rand(2, 9, 7, 3), rand(size, size, 1, 3, seed=1)
  forms = convolution.depthwise_sums, convolution.depthwise_plain

  @jax.jit
  def both(x, kernel):
    at = {'stride': stride, 'padding': padding}
    results = [jax.vjp(functools.partial(form, **at), x, kernel) for form in forms]
    return [(y, *vjp(jnp.cos(y))) for y, vjp in results]

  for got, want in zip(*both(x, kernel), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)


def test_depthwise_form_by_device(monkeypatch):
  """CPUs sum shifted maps; elsewhere it is one convolution. In bfloat16 sums are of float32."""
  x, kernel = jnp.ones((1, 8, 8, 4), jnp.bfloat16), jnp.full((5, 5, 1, 4), 0.1)

  def convs():
    traced = jax.make_jaxpr(lambda *args: convolution.depthwise_conv(*args))(x, kernel)
    return [eqn.primitive.name for eqn in eqns(traced.jaxpr)].count('conv_general_dilated')

  assert convs() == 0
  got = convolution.depthwise_conv(x, kernel)
  assert got.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.asarray(got, np.float32)[0, 4, 4], 2.5, rtol=4e-3)
  monkeypatch.setattr(device, 'device_kind', lambda: 'TPU v3')
  assert convs() == 1
