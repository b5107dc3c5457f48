"""Every form of a convolution and of attention is the plain one; which is chosen where.

Sources: specs/biggan.md section 1.2 and T27-T31.
"""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import device
from bigjax.nn import attention, convolution

from plain import conv_reference, eqns, f32, pool_reference, rand, up_reference


def test_resampling_against_numpy():
  x = rand(2, 4, 6, 3).astype(np.float32)
  np.testing.assert_array_equal(convolution.upsample(f32(x)), up_reference(x))
  np.testing.assert_allclose(convolution.mean_pool(f32(x)), pool_reference(x), atol=1e-6)
  np.testing.assert_array_equal(convolution.max_pool(f32(x)), pool_reference(x, np.max))


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


def to_second_order(fn, loss, *args):
  """Values, gradients of all arguments, and the gradient of these squared."""

  @jax.jit
  def everything(*args):
    every = tuple(range(len(args)))
    grads = jax.grad(lambda *args: loss(fn(*args)), every)
    squared = lambda *args: sum(jnp.square(g).sum() for g in grads(*args))
    return fn(*args), grads(*args), jax.grad(squared, every)(*args)

  return everything(*args)


def assert_same(got, want):
  for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


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


def test_gradient_of_a_gradient_through_the_strided_form(x64):
  """As R1 takes it: the gradient, for the kernel, of the squared gradient for the image."""
  x, kernel = rand(2, 4, 6, 3), rand(3, 3, 3, 5, seed=1)

  def penalty(kernel, x, down):
    score = lambda x: jnp.sin(down(x, kernel)).sum()
    return jnp.square(jax.grad(score)(x)).sum()

  got, want = (
    jax.jit(jax.grad(penalty), static_argnums=2)(kernel, x, form)
    for form in (convolution.down_conv_strided, convolution.down_conv_plain)
  )
  np.testing.assert_allclose(got, want, rtol=1e-9)


def of_attention():
  """Queries, keys and values."""
  return [rand(2, *shape, seed=i) for i, shape in enumerate([(12, 4), (7, 4), (7, 5)])]


@pytest.mark.parametrize('shift', [0.0, 300.0])  # of the logits: exp of which overflows
def test_lean_attention_is_softmax_attention(x64, shift):
  """Values and gradients, and the gradient of a squared gradient."""
  args = queries, keys, _ = of_attention()
  queries[..., 0] = shift
  keys[..., 0] = 1.0
  loss = lambda out: (out * rand(2, 12, 5, seed=3)).sum()
  forms = attention.attend_lean, attention.attend_plain
  got, want = (to_second_order(form, loss, *args) for form in forms)
  assert_same(got, want)
  assert np.isfinite(got[0]).all() and np.abs(got[1][0]).max() > 1e-3


def test_lean_attention_in_bfloat16_is_as_near_as_plain():
  """Values and gradients: no farther from those of float32 than twice what plain ones are."""
  wide = *of_attention(), rand(2, 12, 5, seed=3)

  @functools.partial(jax.jit, static_argnums=0)
  def with_vjp(form, *args):
    out, vjp = jax.vjp(form, *args[:3])
    return out, *vjp(args[3])

  def everything(form, dtype):
    found = with_vjp(form, *(x.astype(dtype) for x in wide))
    assert found[0].dtype == dtype
    return [np.asarray(leaf, np.float32) for leaf in found]

  exact = everything(attention.attend_plain, jnp.float32)
  plain, lean = (
    everything(form, jnp.bfloat16) for form in (attention.attend_plain, attention.attend_lean)
  )
  for true, one, other in zip(exact, plain, lean, strict=True):
    assert np.abs(other - true).max() < 2 * np.abs(one - true).max() + 1e-3


@jax.custom_vjp
def once(queries, keys, values):
  """Attention whose gradient, like cuDNN's, has none."""
  return attention.attend_plain(queries, keys, values)


def _opaque(args, d_out):
  grads = lambda *args: jax.vjp(attention.attend_plain, *args[:3])[1](args[3])
  return jax.pure_callback(grads, args, *args, d_out)


once.defvjp(lambda *args: (once(*args), args), _opaque)


def test_attention_by_cudnn_can_be_differentiated_twice(x64, monkeypatch):
  monkeypatch.setattr(attention, '_cudnn', once)
  loss = lambda out: (out * rand(2, 12, 5, seed=3)).sum()
  everything = lambda form: to_second_order(form, loss, *of_attention())
  with pytest.raises(ValueError, match='JVP'):
    everything(once)
  assert_same(everything(attention.attend_fused), everything(attention.attend_plain))


@pytest.mark.parametrize(('width', 'columns'), [(12, 48), (3, 5), (24, 7)])
def test_what_cudnn_is_given_is_one_head_of_one_width(monkeypatch, width, columns):
  given, of_jax = [], jax.nn.dot_product_attention

  def stand_in(q, k, v, scale, implementation):
    given.extend(x.shape[2:] for x in (q, k, v))
    assert implementation == 'cudnn'
    return of_jax(q, k, v, scale=scale, implementation='xla')

  monkeypatch.setattr(jax.nn, 'dot_product_attention', stand_in)
  args = rand(2, 12, width), rand(2, 7, width, seed=1), rand(2, 7, columns, seed=2)
  args = [x.astype(np.float32) for x in args]
  got, want = jax.jit(lambda *args: (attention._cudnn(*args), attention.attend_plain(*args)))(*args)
  np.testing.assert_allclose(got, want, atol=1e-5)
  ((heads, widest),) = set(given)
  assert heads == 1 and widest % 8 == 0 and widest - max(width, columns) < 8


def test_attention_is_cudnns_where_it_can_be(monkeypatch):
  gpu = types.SimpleNamespace(device_kind='NVIDIA H200', compute_capability='9.0')
  chosen = []
  for form in ('attend_plain', 'attend_lean', 'attend_fused'):
    monkeypatch.setattr(attention, form, lambda *_, form=form: chosen.append(form))

  def choose(columns=48, dtype=jnp.bfloat16, traced_for=None, **other):
    here = types.SimpleNamespace(**vars(gpu) | other)
    monkeypatch.setattr(jax, 'local_devices', lambda: [here])
    traced_for = traced_for or here.device_kind
    monkeypatch.setattr(device, 'device_kind', lambda: traced_for)
    attention.attend(*(jnp.zeros((1, 4, width), dtype) for width in (12, 12, columns)))
    return chosen.pop().removeprefix('attend_')

  assert choose() == choose(128) == choose(compute_capability='8.0') == 'fused'
  assert choose(129) == choose(dtype=jnp.float32) == 'lean'
  assert choose(compute_capability='7.5') == choose(compute_capability='gfx942') == 'lean'
  assert choose(traced_for='TPU v3') == 'lean'
  assert choose(traced_for='cpu') == choose(traced_for='any') == 'plain'


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
  assert shapes(convolution.up_conv, x) == {(2, 2)} and shapes(convolution.down_conv, at_16) == {
    (4, 4)
  }
  assert shapes(convolution.up_conv, large) == {(2, 2)} and shapes(
    convolution.down_conv, large
  ) == {(4, 4)}
  assert shapes(convolution.conv_fast, large) == {(6, 6)}  # 5 outputs
  monkeypatch.setattr(device, 'device_kind', lambda: 'TPU v6 lite')
  assert shapes(convolution.down_conv, at_16) == {(3, 3)} and shapes(
    convolution.down_conv, large
  ) == {(4, 4)}
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
