"""Convolution, BatchNorm, attention and embeddings as modules, against plain NumPy forms.

Sources: specs/biggan.md sections 1.2, 1.3 and T06, T08, T12-T16, T27-T31, T38, T39.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import errors
from bigjax.nn import layers

from plain import conv_reference, eqns, f32, pool_reference, rand, up_reference


def init(module, *args, **kwargs):
  return jax.jit(lambda *a: module.init(jax.random.key(0), *a, **kwargs))(*args)['params']


def shapes_of(module, *args, **kwargs):
  return jax.eval_shape(lambda *a: module.init(jax.random.key(0), *a, **kwargs), *args)['params']


def apply(module, variables, *args, **kwargs):
  return jax.jit(lambda v, *a: module.apply(v, *a, **kwargs))(variables, *args)


@pytest.mark.parametrize('size', [1, 3])
@pytest.mark.parametrize('resample', ['none', 'up', 'down'])
@pytest.mark.parametrize('side', [4, 16])  # whichever form a shape gets, the result is this one
def test_conv_module_is_the_plain_form(size, resample, side):
  x, bias, kernel = rand(2, side, side, 3), rand(5, seed=1), rand(size, size, 3, 5, seed=2)
  module = layers.Conv(5, size, resample=resample)
  got = apply(module, {'params': {'kernel': f32(kernel), 'bias': f32(bias)}}, f32(x))
  want = conv_reference(up_reference(x) if resample == 'up' else x, kernel) + bias
  want = pool_reference(want) if resample == 'down' else want
  np.testing.assert_allclose(got, want, atol=5e-5)


@pytest.mark.parametrize(
  ('module', 'shape', 'kernel'),
  [
    (layers.Conv(4), (1, 4, 4, 3), (27, 4)),
    (layers.Conv(40), (1, 4, 4, 3), (27, 40)),  # more filters than taps: rows orthonormal
    (layers.Conv(96), (1, 4, 4, 96), (864, 96)),
    (layers.Dense(24576), (2, 20), (20, 24576)),
  ],
)
def test_kernels_start_orthogonal_and_biases_at_zero(module, shape, kernel):
  # T39: K^T K = I where out <= prod(in), else K K^T = I (the 20 x 24576 first layer). T38: bias 0,
  # where BigGAN-PyTorch's 96-channel 3x3 convolutions draw theirs with a deviation of 0.0189.
  params = init(module, jnp.zeros(shape))
  k = np.asarray(params['kernel']).reshape(kernel)
  gram = k.T @ k if kernel[1] <= kernel[0] else k @ k.T
  np.testing.assert_allclose(gram, np.eye(min(kernel)), atol=1e-5)
  np.testing.assert_array_equal(params['bias'], np.zeros(kernel[1]))


def test_dense_against_numpy():
  x, kernel, bias = rand(3, 4), rand(4, 5, seed=1), rand(5, seed=2)
  params = {'kernel': f32(kernel), 'bias': f32(bias)}
  np.testing.assert_allclose(
    apply(layers.Dense(5), {'params': params}, f32(x)), x @ kernel + bias, atol=1e-5
  )
  assert 'bias' not in shapes_of(layers.Dense(5, use_bias=False), f32(x))


def test_class_tables_start_with_orthonormal_columns():
  # T39: the shared embedding of ImageNet, 1000 x 128.
  table = init(layers.Embed(1000, 128), jnp.zeros((1,), jnp.int32))['embedding']
  np.testing.assert_allclose(table.T @ table, np.eye(128), atol=1e-5)


def test_embedding_of_labels_and_of_weights():
  module = layers.Embed(6, 4)
  params = init(module, jnp.zeros((2,), jnp.int32))
  table = np.asarray(params['embedding'])
  y = jnp.array([5, 0, 2])
  by_label = apply(module, {'params': params}, y)
  np.testing.assert_array_equal(by_label, table[[5, 0, 2]])
  by_weight = apply(module, {'params': params}, f32(np.eye(6)[np.asarray(y)]))
  np.testing.assert_allclose(by_weight, by_label, atol=1e-7)
  mixed = apply(module, {'params': params}, f32([[0.25, 0, 0, 0.75, 0, 0]]))
  np.testing.assert_allclose(mixed, [0.25 * table[0] + 0.75 * table[3]], atol=1e-6)


# BatchNorm


def moments_reference(x, group):
  """Per example: mean and biased variance over H, W and the group it is in; [B, C] each."""
  b, _, _, c = x.shape
  groups = x.reshape(b // group, -1, c)
  return groups.mean(1).repeat(group, 0), groups.var(1).repeat(group, 0)


def normalize_reference(x, mean, var):
  return (x - mean[:, None, None]) / np.sqrt(var + 1e-4)[:, None, None]  # eps: section 2.1, T14


def batchnorm(module, variables, *args, train=True, **kwargs):
  """Moments of x, then the affine of (x, c): the two halves of a BatchNorm."""
  both = lambda m, x, *c: m(x, *c, m.moments(x, train))
  return jax.jit(lambda v, *a: module.apply(v, *a, method=both, **kwargs))(variables, *args)


@pytest.mark.parametrize('group', [None, 1, 2, 3, 6])
def test_batchnorm_moments_and_eps_against_numpy(group):
  # A spread of 0.01 makes the variance as small as eps = 1e-4: eps 1e-5 would change it by a third.
  x = rand(6, 4, 5, 3) * [0.01, 1.0, 30.0] + [0.02, -1.0, 5.0] * rand(6, 1, 1, 1, seed=1)
  gain, bias = rand(3, seed=2), rand(3, seed=3)
  mean, var = moments_reference(x, group or 6)
  want = normalize_reference(x, mean, var) * gain + bias
  variables = {'params': {'gain': f32(gain), 'bias': f32(bias)}}
  module = layers.BatchNorm(3, group)
  got, sown = batchnorm(module, variables, f32(x), mutable=['moments'])
  np.testing.assert_allclose(got, want, atol=2e-3 * np.abs(want).max())
  np.testing.assert_allclose(sown['moments']['norm']['mean'], mean.mean(0), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(sown['moments']['norm']['var'], var.mean(0), rtol=1e-3)


def test_moments_are_one_array_of_mean_and_variance_per_group():
  # [1, 2, C] for one group, [B, 2, C] for several; the affine takes them as they are.
  x = rand(6, 4, 5, 3)
  for group, rows in ((None, 1), (2, 6)):
    got = apply(layers.Moments(group), {}, f32(x), train=True)
    mean, var = moments_reference(x, group or 6)
    assert got.shape == (rows, 2, 3)
    np.testing.assert_allclose(got[:, 0], mean[:rows], atol=1e-5)
    np.testing.assert_allclose(got[:, 1], var[:rows], atol=1e-5)


def test_batchnorm_starts_as_gain_one_and_bias_zero():
  module, x = layers.BatchNorm(3), jnp.zeros((2, 2, 2, 3))
  params = init(module, x, jnp.zeros((1, 2, 3)))
  np.testing.assert_array_equal(params['gain'], [1, 1, 1])
  np.testing.assert_array_equal(params['bias'], [0, 0, 0])


def test_conditional_gain_is_centred_at_one():
  # T08 ([iss compare_gan#54]: without the 1 + it cost "200+ training runs").
  x, c = rand(4, 3, 3, 5), rand(4, 6, seed=1)
  gain, bias = rand(6, 5, seed=2), rand(6, 5, seed=3)
  xhat = normalize_reference(x, *moments_reference(x, 4))
  module = layers.ConditionalBatchNorm(5)

  def out(gain, bias):
    params = {'gain': {'kernel': f32(gain)}, 'bias': {'kernel': f32(bias)}}
    return batchnorm(module, {'params': params}, f32(x), f32(c))

  np.testing.assert_allclose(out(0 * gain, 0 * bias), xhat, atol=1e-5)
  linear, shift = (c @ gain)[:, None, None], (c @ bias)[:, None, None]
  np.testing.assert_allclose(out(gain, bias), (1 + linear) * xhat + shift, atol=1e-4)
  assert np.abs(out(gain, bias) - (linear * xhat + shift)).max() > 1  # the bug
  shapes = shapes_of(module, f32(x), f32(c), f32(rand(1, 2, 5)))
  shapes = jax.tree.map(lambda leaf: leaf.shape, shapes)
  assert shapes == {'gain': {'kernel': (6, 5)}, 'bias': {'kernel': (6, 5)}}  # T06: no bias terms


def test_gain_at_init_is_one_on_average():
  # T08: 0.998 +- 0.295 was measured on a network of ch 16. Here a condition as in BigGAN-128:
  # a row of an orthogonal 1000 x 128 table beside 20 normal numbers, 256 channels.
  table, kernel = np.linalg.qr(rand(1000, 128))[0], np.linalg.qr(rand(256, 148))[0].T
  c = f32(np.concatenate([table[:64], rand(64, 20, seed=1)], axis=1))
  x = f32(np.ones((64, 1, 1, 256)))
  moments = f32(np.stack([np.zeros(256), np.full(256, 1 - 1e-4)])[None])  # xhat = x = 1
  params = {'gain': {'kernel': f32(kernel)}, 'bias': {'kernel': f32(0 * kernel)}}
  gain = apply(layers.ConditionalBatchNorm(256), {'params': params}, x, c, moments)
  assert abs(np.mean(gain) - 1) < 0.02 and 0.2 < np.std(gain) < 0.4


def test_without_shared_embedding_gain_and_bias_are_tables_per_class():
  # Section 1.2, Table 1 rows 1-5: gain = 1 + table[y], bias = table'[y]; weights mix the rows.
  x, y = rand(4, 3, 3, 5), np.array([2, 0, 5, 2])
  gain, bias = rand(6, 5, seed=2), rand(6, 5, seed=3)
  module = layers.ConditionalBatchNorm(5, num_classes=6)
  params = {'gain': {'embedding': f32(gain)}, 'bias': {'embedding': f32(bias)}}
  xhat = normalize_reference(x, *moments_reference(x, 4))
  want = (1 + gain[y])[:, None, None] * xhat + bias[y][:, None, None]
  got = batchnorm(module, {'params': params}, f32(x), jnp.asarray(y, jnp.int32))
  np.testing.assert_allclose(got, want, atol=1e-4)
  one_hot = f32(np.eye(6)[y])
  by_weight = batchnorm(module, {'params': params}, f32(x), one_hot)
  np.testing.assert_allclose(by_weight, got, atol=1e-5)
  shapes = shapes_of(module, f32(x), jnp.asarray(y, jnp.int32), f32(rand(1, 2, 5)))
  assert jax.tree.map(lambda leaf: leaf.shape, shapes) == {
    'gain': {'embedding': (6, 5)},
    'bias': {'embedding': (6, 5)},
  }


@pytest.mark.parametrize('conditional', [False, True])
def test_standing_statistics_get_the_same_affine(conditional):
  # T12: with the statistics set to the batch's, sampling equals training. Gain 2, bias 0.5 in the
  # case where BigGAN-PyTorch's SyncBN adds the gain in place of multiplying.
  x, c = f32(rand(4, 3, 3, 5) * 3 + 1), jnp.ones((4, 1))
  if conditional:
    module, args = layers.ConditionalBatchNorm(5), (x, c)
    params = {'gain': {'kernel': jnp.ones((1, 5))}, 'bias': {'kernel': jnp.full((1, 5), 0.5)}}
  else:
    module, args = layers.BatchNorm(5), (x,)
    params = {'gain': jnp.full((5,), 2.0), 'bias': jnp.full((5,), 0.5)}
  train, new = batchnorm(module, {'params': params}, *args, mutable=['moments'])
  variables = {'params': params, 'stats': new['moments']}
  sample = batchnorm(module, variables, *args, train=False)
  np.testing.assert_allclose(sample, train, atol=1e-5)
  np.testing.assert_allclose(np.mean(sample), 0.5, atol=1e-4)
  np.testing.assert_allclose(np.std(sample), 2, rtol=1e-3)  # 1.0 where the gain is added
  # T15: and then an example no longer depends on its neighbours.
  alone = batchnorm(module, variables, *(a[1:2] for a in args), train=False)
  np.testing.assert_allclose(alone, sample[1:2], atol=1e-6)


def test_sampling_without_statistics_is_refused():
  # T16
  with pytest.raises(ValueError, match='standing statistics: prepare'):
    layers.Moments().apply({}, jnp.ones((2, 2, 2, 3)), train=False)


def test_moments_are_float32_under_bfloat16():
  # T13. 4,096 values near 3: bfloat16 (8 bits) sums would be off in the second digit.
  x = jnp.asarray(rand(4, 32, 32, 2) + 3, jnp.bfloat16)
  exact = np.asarray(x.astype(jnp.float32), np.float64)
  module = layers.BatchNorm(2, dtype=jnp.bfloat16)
  params = {'gain': jnp.ones((2,)), 'bias': jnp.zeros((2,))}
  y, new = batchnorm(module, {'params': params}, x, mutable=['moments'])
  assert y.dtype == jnp.bfloat16
  mean, var = (new['moments']['norm'][name] for name in ('mean', 'var'))
  assert mean.dtype == var.dtype == jnp.float32
  np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=1e-5)
  np.testing.assert_allclose(var, exact.var((0, 1, 2)), rtol=1e-4)
  # x - mean is taken in float32, too: in bfloat16 near 3 it would be a multiple of 1/64.
  want = normalize_reference(exact, *moments_reference(exact, 4))
  np.testing.assert_allclose(np.asarray(y, np.float64), want, rtol=2**-8, atol=1e-4)


def test_variance_never_goes_below_zero():
  # T13: E[x^2] - E[x]^2 of a constant rounds to either side of 0; -0.25 here would be sqrt(-0.25).
  x = np.broadcast_to(np.linspace(1e2, 4e3, 64, dtype=np.float32), (3, 7, 5, 64))
  square_of_mean = lambda x: jnp.square(x.mean((0, 1, 2)))
  plain = jax.jit(lambda x: jnp.square(x).mean((0, 1, 2)) - square_of_mean(x))(x)
  assert plain.min() < 0  # it does happen
  moments = apply(layers.Moments(), {}, x, train=True)
  assert (moments[:, 1] >= 0).all()
  standard = jax.jit(lambda x, moments: layers.standardize(x, moments, 1e-4, jnp.float32))
  assert np.isfinite(standard(x, moments)).all()


# Attention


def attention_reference(x, p, pool=np.max, scale=1.0, axis=1):
  """Section 1.3 by example: keys and values max-pooled, softmax over keys, no 1/sqrt(d)."""
  b, h, w, c = x.shape
  out = np.empty_like(x)
  conv = {name: x @ p[name]['kernel'][0, 0] for name in ('theta', 'phi', 'g')}
  for i in range(b):
    theta = conv['theta'][i].reshape(h * w, c // 8)
    phi = pool_reference(conv['phi'][i : i + 1], pool).reshape(h * w // 4, c // 8)
    g = pool_reference(conv['g'][i : i + 1], pool).reshape(h * w // 4, c // 2)
    logits = scale * theta @ phi.T  # [HW, HW/4]
    beta = np.exp(logits - logits.max(axis, keepdims=True))
    beta /= beta.sum(axis, keepdims=True)
    out[i] = (beta @ g @ p['o']['kernel'][0, 0]).reshape(h, w, c)
  return x + p['gamma'] * out


@pytest.fixture(scope='module')
def attention():
  """Module, input and parameters; d = 4, so a 1/sqrt(d) would halve the logits. h != w."""
  x = rand(2, 4, 6, 32)
  shapes = shapes_of(layers.Attention(), f32(x))
  params = jax.tree.map(
    lambda p: f32(rand(*p.shape, seed=p.size) / p.shape[-2] ** 0.5),
    {name: shapes[name] for name in ('theta', 'phi', 'g', 'o')},
  )
  return layers.Attention(), x, {**params, 'gamma': jnp.zeros(())}


def test_attention_is_the_identity_at_init(attention):
  module, x, params = attention
  np.testing.assert_array_equal(apply(module, {'params': init(module, f32(x))}, f32(x)), f32(x))
  shapes = jax.tree.map(lambda leaf: leaf.shape, shapes_of(module, f32(x)))
  assert shapes == {
    'theta': {'kernel': (1, 1, 32, 4)},
    'phi': {'kernel': (1, 1, 32, 4)},
    'g': {'kernel': (1, 1, 32, 16)},
    'o': {'kernel': (1, 1, 16, 32)},
    'gamma': (),
  }  # no bias anywhere
  # gamma can leave 0: its gradient is there from the first step.
  grad = jax.jit(jax.grad(lambda p: jnp.square(module.apply({'params': p}, f32(x))).sum()))(params)
  assert abs(grad['gamma']) > 1e-2


def test_attention_against_numpy(attention):
  # T28. Logits of a few units: far from uniform attention, where mistakes would hide.
  module, x, params = attention
  params = {**params, 'gamma': jnp.float32(1.0)}
  got = apply(module, {'params': params}, f32(x))
  p = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
  np.testing.assert_allclose(got, attention_reference(x, p), atol=1e-4)
  for mistake in ({'pool': np.mean}, {'scale': 4**-0.5}, {'axis': 0}):
    assert np.abs(got - attention_reference(x, p, **mistake)).max() > 0.1, mistake


def test_attention_weights_sum_to_one(attention):
  # With constant values g the block adds gamma W_o g at every pixel, whatever the logits.
  module, x, params = attention
  x = np.abs(x)
  kernel = np.zeros((1, 1, 32, 16), np.float32)
  kernel[0, 0, 0] = 1.0
  x[..., 0] = 2.0
  params = {**params, 'gamma': jnp.float32(0.5), 'g': {'kernel': f32(kernel)}}
  got = apply(module, {'params': params}, f32(x)) - f32(x)
  want = 0.5 * 2.0 * np.asarray(params['o']['kernel'])[0, 0].sum(0)
  np.testing.assert_allclose(got, np.broadcast_to(want, got.shape), atol=1e-5)


def test_softmax_is_float32_under_bfloat16(attention):
  # T13: every exponential and division of the block is in float32, the convolutions in bfloat16.
  module = layers.Attention(dtype=jnp.bfloat16)
  _, x, params = attention
  x = jnp.asarray(x, jnp.bfloat16)
  jaxpr = jax.make_jaxpr(lambda p, x: module.apply({'params': p}, x))(params, x)
  by_name = {}
  for eqn in eqns(jaxpr.jaxpr):
    by_name.setdefault(eqn.primitive.name, []).append(eqn.invars[0].aval.dtype)
  assert set(by_name['exp']) == {jnp.dtype('float32')}
  assert set(by_name['conv_general_dilated']) == {jnp.dtype('bfloat16')}
  assert jaxpr.out_avals[0].dtype == jnp.bfloat16


# Ends of the networks


def test_image_is_the_first_channels_of_all_that_are_convolved():
  # T31: TF-Hub's BigGAN-deep convolves 128 filters and shows three. Section 1.3: BatchNorm, ReLU,
  # 3x3 convolution, tanh; float32 whatever the compute dtype.
  h, kernel = rand(4, 6, 6, 8), rand(3, 3, 8, 128, seed=1) / 9
  gain, bias, conv_bias = rand(8, seed=2), rand(8, seed=3), rand(128, seed=4)
  params = {
    'bn': {'gain': f32(gain), 'bias': f32(bias)},
    'conv': {'kernel': f32(kernel), 'bias': f32(conv_bias)},
  }
  got = apply(layers.ImageOutput(8, 128, 3), {'params': params}, f32(h), train=True)
  xhat = normalize_reference(h, *moments_reference(h, 4))
  want = np.tanh(conv_reference(np.maximum(xhat * gain + bias, 0), kernel) + conv_bias)[..., :3]
  np.testing.assert_allclose(got, want, atol=1e-4)
  half = layers.ImageOutput(8, 128, 3, dtype=jnp.bfloat16)
  image = apply(half, {'params': params}, jnp.asarray(h, jnp.bfloat16), train=True)
  assert image.dtype == jnp.float32
  np.testing.assert_allclose(image, want, atol=0.1)


class Head(nn.Module):
  """A module that ends in projection_score."""

  @nn.compact
  def __call__(self, h, y, mask=None):
    return layers.projection_score(h, y, 5, mask)


@pytest.fixture(scope='module')
def head():
  """Module, feature maps of both signs, and parameters."""
  params = {
    'linear': {'kernel': f32(rand(6, 1)), 'bias': f32([0.3])},
    'embed': {'embedding': f32(rand(5, 6, seed=1))},
  }
  return Head(), rand(4, 4, 4, 6, seed=2), params


def test_score_is_linear_plus_projection_of_the_summed_relu(head):
  # Section 1.3, T30.
  module, h, params = head
  shapes = shapes_of(module, f32(h), jnp.zeros((4,), jnp.int32))
  assert jax.tree.map(lambda p: p.shape, params) == jax.tree.map(lambda p: p.shape, shapes)
  run = lambda y, *mask: apply(module, {'params': params}, f32(h), np.int32(y), *mask)
  table, w = np.asarray(params['embed']['embedding']), np.asarray(params['linear']['kernel'])[:, 0]
  summed = np.maximum(h, 0).sum((1, 2))
  y, other = np.array([0, 4, 1, 4]), np.array([1, 0, 1, 2])
  np.testing.assert_allclose(
    run(y), summed @ w + 0.3 + (table[y] * summed).sum(1), rtol=1e-4, atol=1e-4
  )
  difference = ((table[y] - table[other]) * summed).sum(1)
  np.testing.assert_allclose(run(y) - run(other), difference, rtol=1e-4, atol=1e-4)
  assert difference[2] == 0 and np.abs(difference[[0, 1, 3]]).min() > 1
  # Dropout multiplies the summed features, both where they are scored and projected.
  mask = 2.0 * (rand(4, 6, seed=3) > 0)
  want = (summed * mask) @ w + 0.3 + (table[y] * summed * mask).sum(1)
  np.testing.assert_allclose(run(y, f32(mask)), want, rtol=1e-4, atol=1e-4)


def test_score_sums_over_the_map(head):
  # T29: four times the features on a map tiled 2 x 2, where a mean would stay.
  module, h, params = head
  run = lambda h: apply(module, {'params': params}, f32(h), np.int32([0, 4, 1, 4])) - 0.3
  np.testing.assert_allclose(run(np.tile(h, (1, 2, 2, 1))), 4 * run(h), rtol=1e-4)


def test_scores_are_float32_under_bfloat16(head):
  # T13: 1,024 positions; bfloat16 sums would lose the small ones.
  module, _, params = head
  h = jnp.asarray(rand(2, 32, 32, 6), jnp.bfloat16)
  got = apply(module, {'params': params}, h, np.int32([0, 4]))
  want = apply(module, {'params': params}, h.astype(jnp.float32), np.int32([0, 4]))
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize('rows', [1, 6])
def test_microbatches_of_a_module_share_moments_of_the_whole_batch(rows, x64):
  # Moments of one row serve all parts; those of several rows are split like the examples.
  x = jnp.asarray(rand(6, 4, 4, 3))
  params = {'gain': jnp.asarray(rand(3)), 'bias': jnp.asarray(rand(3, seed=1))}
  module = layers.BatchNorm(3, None if rows == 1 else 2, dtype=jnp.float64)

  def run(params, num):
    def norm(m, x):
      return layers.in_microbatches(num, m, layers.BatchNorm.__call__, x, m.moments(x, True))

    out = module.apply({'params': params}, x, method=norm)
    return jnp.sin(out).sum(), out

  run = jax.jit(jax.value_and_grad(run, has_aux=True), static_argnums=1)
  (_, want), grads = run(params, 1)
  (_, got), got_grads = run(params, 3)
  np.testing.assert_allclose(got, want, rtol=1e-13)
  for name, grad in grads.items():
    np.testing.assert_allclose(got_grads[name], grad, rtol=1e-12)


def test_microbatches_that_do_not_divide_are_refused():
  x, moments = jnp.ones((6, 2, 2, 3)), jnp.ones((1, 2, 3))
  module = layers.BatchNorm(3)
  params = {'gain': jnp.ones((3,)), 'bias': jnp.ones((3,))}
  norm = lambda m, x: layers.in_microbatches(4, m, layers.BatchNorm.__call__, x, moments)
  with pytest.raises(errors.UserError, match='microbatches is 4, which does not divide the 6 exam'):
    module.apply({'params': params}, x, method=norm)


def test_pixel_norm():
  x = (rand(2, 3, 3, 5) * 7).astype(np.float32)
  norm = jax.jit(layers.pixel_norm)
  found = norm(x)
  np.testing.assert_allclose(np.square(found).mean(-1), 1, rtol=1e-6)
  np.testing.assert_allclose(found[0, 1, 2], x[0, 1, 2] / np.sqrt(np.mean(x[0, 1, 2] ** 2)), 1e-6)
  assert np.array_equal(norm(np.zeros((1, 4), np.float32)), np.zeros((1, 4)))
  assert jax.eval_shape(norm, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_layer_norm_with_one_gain():
  x, one = rand(2, 3, 3, 5).astype(np.float32), layers.LayerNorm(one_gain=True)
  params = {'gain': np.float32(2), 'bias': np.arange(5, dtype=np.float32)}
  found = apply(one, {'params': params}, x)
  wide = {**params, 'gain': np.full(5, 2, np.float32)}
  np.testing.assert_array_equal(found, apply(layers.LayerNorm(), {'params': wide}, x))
  gain = init(one, x)['gain']
  assert gain.shape == () and gain == 1
