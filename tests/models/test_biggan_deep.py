"""BigGAN-deep's networks against the published counts and a plain NumPy form of their blocks.

Sources: specs/biggan.md sections 1.5, 1.7 and 4: T01, T05, T07, T08, T10-T13, T15, T25, T26, T31.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import errors
from bigjax.models import biggan_deep as models
from bigjax.nn import spectral_norm

import networks as shared
from counts import num_params
from networks import f32

gen_shapes = functools.partial(shared.gen_shapes, network=models)
disc_shapes = functools.partial(shared.disc_shapes, network=models)


# Section 1.7. rgb_filters 0 is as many as an image has channels.
@pytest.mark.parametrize(
  ('resolution', 'fields', 'count'),
  [
    (128, {}, 50_244_484),
    (128, {'rgb_filters': 128}, 50_388_609),  # the paper's 50.4M
    (256, {}, 55_736_708),
    (256, {'rgb_filters': 128}, 55_880_833),
    (512, {}, 56_019_780),
    (512, {'rgb_filters': 128}, 56_163_905),
    (64, {}, 49_583_876),
  ],
)
def test_generator_parameter_counts(resolution, fields, count):
  # T01
  assert num_params(gen_shapes(resolution, **fields)) == count


@pytest.mark.parametrize(
  ('resolution', 'fields', 'count'),
  [
    (128, {}, 34_590_210),
    (256, {}, 38_247_426),
    (512, {}, 38_301_122),
    (64, {'attention': (32,)}, 20_951_554),
    (64, {'attention': (), 'widths': (2, 4, 8, 16, 16)}, 34_289_665),  # compare_gan's list
  ],
)
def test_discriminator_parameter_counts(resolution, fields, count):
  # T01
  assert num_params(disc_shapes(resolution, **fields)) == count


def test_counts_of_each_part_of_biggan_deep_128():
  # Section 1.7, "per-module".
  assert shared.count_of_each(gen_shapes(128)) == {
    'shared': 128_000,
    'linear': 8_421_376,
    'blocks_0': 8_654_336,
    'blocks_1': 8_654_336,
    'blocks_2': 8_654_336,
    'blocks_3': 8_129_024,
    'blocks_4': 2_623_232,
    'blocks_5': 2_491_648,
    'blocks_6': 885_632,
    'blocks_7': 852_608,
    'attention_7': 81_921,
    'blocks_8': 336_320,
    'blocks_9': 328_000,
    'output': 3_715,
  }
  assert shared.count_of_each(disc_shapes(128)) == {
    'input_conv': 3_584,
    'blocks_0_0': 115_264,
    'blocks_0_1': 106_944,
    'attention_0_2': 81_921,
    'blocks_1_0': 459_904,
    'blocks_1_1': 426_880,
    'blocks_2_0': 1_837_312,
    'blocks_2_1': 1_705_728,
    'blocks_3_0': 7_344_640,
    'blocks_3_1': 6_819_328,
    'blocks_4_0': 6_819_328,
    'blocks_4_1': 6_819_328,
    'linear': 2_049,
    'embed': 2_048_000,
  }


@pytest.mark.parametrize(
  ('shapes', 'resolution', 'place', 'channels'),
  [
    (gen_shapes, 128, '7', 256),  # T05: after the second block that ends at 64 x 64
    (gen_shapes, 256, '7', 512),
    (gen_shapes, 512, '7', 512),
    (disc_shapes, 128, '0_2', 256),
    (disc_shapes, 256, '1_2', 512),
    (disc_shapes, 512, '2_2', 512),
  ],
)
def test_places_of_attention(shapes, resolution, place, channels):
  shared.assert_place_of_attention(shapes(resolution), place, channels)


def test_maps_of_the_blocks():
  assert models.gen_maps(128) == {8: 16, 16: 8, 32: 4, 64: 2, 128: 1}
  assert models.disc_maps(128) == {64: 2, 32: 4, 16: 8, 8: 16, 4: 16}
  assert models.disc_maps(64, (2, 4, 8, 16, 16)) == {32: 4, 16: 8, 8: 16, 4: 16}
  assert models.num_disc_widths(64) == 5
  assert models.Discriminator(64, 10, ch=8).num_features == 128


def test_options_that_have_no_form_are_refused():
  models.check_options({'shared_dim': 128, 'rgb_filters': 0}, 128, 128)
  with pytest.raises(
    errors.UserError, match='shared_dim is 0, but biggan_deep has no form without'
  ):
    models.check_options({'shared_dim': 0, 'rgb_filters': 0}, 128, 128)
  with pytest.raises(errors.UserError, match='rgb_filters is 2'):
    models.check_options({'shared_dim': 128, 'rgb_filters': 2}, 128, 128)


# Blocks


def conv_reference(x, p):
  """SAME cross-correlation with a bias, in NumPy."""
  kernel = p['kernel']
  pad, (_, h, w, _) = kernel.shape[0] // 2, x.shape
  padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  taps = np.ndindex(*kernel.shape[:2])
  return sum(padded[:, i : i + h, j : j + w] @ kernel[i, j] for i, j in taps) + p['bias']


def norm_reference(x, c, p):
  xhat = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-4)
  gain, bias = (c @ p[name]['kernel'] for name in ('gain', 'bias'))
  return (1 + gain)[:, None, None] * xhat + bias[:, None, None]


def pool_reference(x):
  return sum(x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4


def up_reference(x):
  return x.repeat(2, axis=1).repeat(2, axis=2)


relu = functools.partial(np.maximum, 0)


def gen_block_reference(x, c, p, features, up):
  h = conv_reference(relu(norm_reference(x, c, p['bn1'])), p['conv1'])
  h = relu(norm_reference(h, c, p['bn2']))
  h = conv_reference(up_reference(h) if up else h, p['conv2'])
  h = conv_reference(relu(norm_reference(h, c, p['bn3'])), p['conv3'])
  h = conv_reference(relu(norm_reference(h, c, p['bn4'])), p['conv4'])
  x = x[..., :features]  # the first ones stay
  return h + (up_reference(x) if up else x)


def disc_block_reference(x, p, features, down, pool_first=False):
  h = conv_reference(relu(x), p['conv1'])
  h = conv_reference(relu(h), p['conv2'])
  h = conv_reference(relu(h), p['conv3'])
  if down:  # StudioGAN pools before the ReLU
    h = relu(pool_reference(h)) if pool_first else pool_reference(relu(h))
    x = pool_reference(x)
  else:
    h = relu(h)
  if features > x.shape[-1]:
    x = np.concatenate([x, conv_reference(x, p['conv_sc'])], axis=-1)
  return conv_reference(h, p['conv4']) + x


def gen_block(cin, features, up, residual=1.0):
  """Return (output, input, condition, parameters) of a block with random weights, in float64.

  `residual` scales the last convolution, and so what is not the shortcut.
  """
  how = {'bn_group': None, 'bn_eps': 1e-4, 'microbatches': 1, 'kernels': models.FAST}
  block = models.GenBlock(cin, features, up, **how, dtype=jnp.float64)
  rng = np.random.default_rng(0)
  x, c = jnp.asarray(rng.normal(size=(3, 4, 4, cin))), jnp.asarray(rng.normal(size=(3, 6)))
  single = block.clone(dtype=jnp.float32)
  init = lambda x, c: single.init(jax.random.key(0), x, c, True)['params']
  shapes = jax.eval_shape(init, f32(*x.shape), f32(*c.shape))
  params = shared.weights(shapes, dtype=jnp.float64)
  params['conv4'] = jax.tree.map(lambda w: residual * w, params['conv4'])
  out = jax.jit(lambda p, x, c: block.apply({'params': p}, x, c, True))(params, x, c)
  return out, x, c, jax.tree.map(np.asarray, params)


def disc_block(cin, features, down, residual=1.0):
  """The same for a block of the discriminator: (output, input, parameters)."""
  block = models.DiscBlock(features, down, models.FAST, jnp.float64)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 4, cin)))
  init = lambda x: block.clone(dtype=jnp.float32).init(jax.random.key(0), x)['params']
  shapes = jax.eval_shape(init, f32(*x.shape))
  params = shared.weights(shapes, dtype=jnp.float64)
  params['conv4'] = jax.tree.map(lambda w: residual * w, params['conv4'])
  out = jax.jit(lambda p, x: block.apply({'params': p}, x))(params, x)
  return out, x, jax.tree.map(np.asarray, params)


@pytest.mark.parametrize(('features', 'up'), [(8, False), (4, True)])
def test_generator_block_against_numpy(x64, features, up):
  # Section 1.5, Fig. 16b; hidden = in / 4.
  out, x, c, params = gen_block(8, features, up)
  assert params['conv2']['kernel'].shape == (3, 3, 2, 2) and 'conv_sc' not in params
  want = gen_block_reference(np.asarray(x), np.asarray(c), params, features, up)
  np.testing.assert_allclose(out, want, rtol=1e-9, atol=1e-10)
  assert np.abs(want).max() > 1


@pytest.mark.parametrize(('cin', 'features', 'down'), [(4, 8, True), (8, 8, True), (8, 8, False)])
def test_discriminator_block_against_numpy(x64, cin, features, down):
  # Section 1.5, Fig. 16c; hidden = out / 4. ReLU, then pooling, then the last convolution.
  out, x, params = disc_block(cin, features, down)
  assert params['conv2']['kernel'].shape == (3, 3, 2, 2)
  reference = functools.partial(disc_block_reference, np.asarray(x), params, features, down)
  np.testing.assert_allclose(out, reference(), rtol=1e-9, atol=1e-10)
  if down:
    assert np.abs(out - reference(pool_first=True)).max() > 1e-2


@pytest.mark.parametrize(('features', 'up'), [(8, False), (4, True)])
def test_generator_shortcut_keeps_the_first_channels(x64, features, up):
  # T07: with the residual branch zero, the nearest upsampling of x[..., :out], and T27: a constant
  # stays one. Dropping the first channels would be another image.
  out, x, *_ = gen_block(8, features, up, residual=0.0)
  first, last = (np.asarray(x)[..., s] for s in (slice(features), slice(-features, None)))
  np.testing.assert_array_equal(out, up_reference(first) if up else first)
  if up:
    assert np.abs(out - up_reference(last)).max() > 1


@pytest.mark.parametrize(('cin', 'features', 'down'), [(4, 8, True), (8, 8, True), (8, 8, False)])
def test_discriminator_shortcut_keeps_its_input_and_adds_channels(x64, cin, features, down):
  # T07, T24, T26: the first `in` channels are avgpool(x), from before the ReLU; the others a 1x1
  # convolution of them. No parameters where the width stays.
  out, x, params = disc_block(cin, features, down, residual=0.0)
  pooled = pool_reference(np.asarray(x)) if down else np.asarray(x)
  np.testing.assert_allclose(out[..., :cin], pooled, rtol=1e-14)
  rectified = np.maximum(np.asarray(x), 0)
  rectified = pool_reference(rectified) if down else rectified
  assert np.abs(out[..., :cin] - rectified).max() > 0.5
  assert ('conv_sc' in params) == (features > cin)
  if features > cin:
    np.testing.assert_allclose(
      out[..., cin:], conv_reference(pooled, params['conv_sc']), rtol=1e-12, atol=1e-13
    )


# Small networks: for 8 px, of one pair of blocks, which no source has.


@pytest.fixture(autouse=True, scope='module')
def short_tables():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(models.GEN_WIDTHS, 8, (2, 1))
    patch.setitem(models.DISC_WIDTHS, 8, (1, 2))
    yield


SMALL = {'ch': 8, 'z_dim': 6, 'shared_dim': 4, 'attention': (8,)}


def small_gen(dtype=jnp.float32, **fields):
  fields = {**SMALL, **fields}
  return models.Generator(8, 3, **fields, dtype=dtype), shared.weights(gen_shapes(8, 3, **fields))


def small_disc(dtype=jnp.float32, **fields):
  fields = {'ch': 8, 'attention': (4,), **fields}
  return models.Discriminator(8, 3, **fields, dtype=dtype), shared.weights(
    disc_shapes(8, 3, **fields)
  )


def test_names_of_the_modules():
  _, params = small_gen()
  assert set(params) == {'shared', 'linear', 'blocks_0', 'blocks_1', 'attention_1', 'output'}
  _, params = small_disc()
  assert set(params) == {
    'input_conv',
    'blocks_0_0',
    'blocks_0_1',
    'attention_0_2',
    'linear',
    'embed',
  }


def test_images_and_logits():
  net, params = small_gen()
  z, y = shared.latents(3, 6), np.array([0, 2, 1])
  run = jax.jit(lambda z, y: net.apply({'params': params}, z, y, train=True))
  images = np.asarray(run(z, y))
  assert images.shape == (3, 8, 8, 3) and images.dtype == jnp.float32
  assert np.abs(images).max() <= 1 and 0.05 < np.std(images) < 0.95
  one_hot = np.eye(3, dtype=np.float32)[y]
  np.testing.assert_allclose(run(z, one_hot), images, atol=1e-5)
  disc, params = small_disc()
  score = jax.jit(lambda x: disc.apply({'params': params}, x, y))
  logits = score(images)
  assert logits.shape == (3,) and logits.dtype == jnp.float32
  assert len(np.unique(logits)) == 3
  # T25: a convolution stands before the first ReLU, so negative images are told apart.
  x = -np.abs(shared.pictures(3, 8))
  scores = np.asarray(score(x))
  assert len(np.unique(scores)) == 3
  x[:, 5, 5] *= -1
  assert (np.abs(score(x) - scores) > 1e-5).all()


def test_label_and_latents_enter_the_first_layer_and_every_batchnorm():
  # T10: in BigGAN the class does not reach the first layer. Section 1.2: c = [E(y), z], whole.
  net, params = small_gen()
  jitted = jax.jit(lambda z, y: shared.generate(net, params, z, y)[1])
  run = lambda z, y: jax.device_get(jitted(z, y))
  z, y = np.asarray(shared.latents(4, 6)), np.array([0, 1, 2, 0])
  inner, by_label = run(z, y), run(z, np.array([0, 1, 2, 1]))
  conditions = [
    path for path in inner if path.startswith('blocks') and path.endswith(('/gain', '/bias'))
  ]
  assert len(conditions) == 2 * 4 * 2
  for path in ('linear', *conditions):
    np.testing.assert_array_equal(inner[path][:3], by_label[path][:3])
    assert (inner[path][3] != by_label[path][3]).any(), path
  for i in range(6):
    moved = z.copy()
    moved[3, i] += 1
    by_latent = run(moved, y)
    for path in ('linear', *conditions):
      assert (inner[path][3] != by_latent[path][3]).any(), (i, path)
  c = np.concatenate([np.asarray(params['shared']['embedding'])[y], z], axis=1)
  want = c @ np.asarray(params['linear']['kernel']) + np.asarray(params['linear']['bias'])
  np.testing.assert_allclose(inner['linear'], want, atol=1e-5)


def test_without_conditioning_z_and_class_still_enter_through_the_first_layer():
  # T08: with every CBN kernel 0 the gain is 1; where the 1 + is missing the image is one colour.
  net, params = small_gen()
  run = functools.partial(
    jax.jit(lambda p, z, y: net.apply({'params': p}, z, y, train=True)),
    shared.without_conditioning(jax.device_get(params)),
  )
  z, y = np.asarray(shared.latents(4, 6)), np.array([0, 1, 2, 0])
  image = np.asarray(run(z, y))
  assert np.std(image, axis=(1, 2)).min() > 1e-2
  moved = np.concatenate([z[:1] + 1, z[1:]])
  assert np.abs(run(moved, y) - image)[0].max() > 1e-2
  assert np.abs(run(z, np.array([1, 1, 2, 0])) - image)[0].max() > 1e-2


def test_image_does_not_depend_on_the_batch_once_statistics_stand():
  # T15, and T12 for the whole network.
  net, params = small_gen()
  z, y = np.asarray(shared.latents(6, 6)), np.array([0, 1, 2, 0, 1, 2])
  train, new = jax.jit(
    lambda z, y: net.apply({'params': params}, z, y, train=True, mutable=['moments'])
  )(z, y)
  sample = jax.jit(
    lambda z, y: net.apply({'params': params, 'stats': new['moments']}, z, y, train=False)
  )
  train = np.asarray(train)
  np.testing.assert_allclose(sample(z, y), train, atol=1e-5)
  np.testing.assert_allclose(sample(z[4:5], y[4:5]), train[4:5], atol=1e-5)


def test_sigma_is_that_of_all_128_filters_of_which_three_are_shown():
  # T31. Among the others is the longest: the norm of the first three is another.
  net, params = small_gen(rgb_filters=128)
  conv = params['output']['conv'] = jax.tree.map(np.array, params['output']['conv'])
  conv['kernel'][..., 100] *= 3
  state = jax.eval_shape(spectral_norm.track(spectral_norm.spec()).init, params)
  assert state.sn_u['output']['conv']['kernel'].shape == (128,)
  norm = lambda w: np.linalg.svd(np.reshape(w, (-1, w.shape[-1])), compute_uv=False)[0]
  whole, three = norm(conv['kernel']), norm(conv['kernel'][..., :3])
  assert three < 0.7 * whole

  z, y = shared.latents(3, 6), np.array([0, 2, 1])
  run = jax.jit(lambda net, conv: net.apply(
    {'params': {**params, 'output': {**params['output'], 'conv': conv}}}, z, y, train=True
  ), static_argnums=0)  # fmt: skip
  folded = jax.jit(lambda conv: spectral_norm.fold(conv, spectral_norm.spec()))(conv)
  image = np.asarray(run(net, folded))
  plain = lambda kernel: run(
    net.clone(rgb_filters=0), {'kernel': kernel[..., :3], 'bias': conv['bias'][:3]}
  )
  assert image.shape == (3, 8, 8, 3)
  np.testing.assert_allclose(image, plain(conv['kernel'] / whole), atol=1e-4)
  assert np.abs(image - plain(conv['kernel'] / three)).max() > 1e-2


@pytest.mark.parametrize(('make', 'kwargs'), [(small_gen, {'train': True}), (small_disc, {})])
def test_all_bfloat16_compute_gives_float32_images_and_logits(make, kwargs):
  # T13
  y = np.array([0, 1, 2, 0])
  x = shared.latents(4, 6) if make is small_gen else shared.pictures(4, 8)
  net, params = make(dtype=jnp.bfloat16)
  run = lambda p, x: net.apply({'params': p}, x, y, **kwargs)
  assert shared.convolution_dtypes(run, params, x) == {'bf16'}
  assert jax.eval_shape(run, params, x).dtype == jnp.float32


ORACLE = {'network': models, 'resolution': 8, 'rgb_filters': 5, **SMALL}


# 16 examples; in the last case two parts of the two of each device.
@pytest.mark.parametrize(
  ('num_devices', 'how'),
  [
    (None, {'microbatches': 2}),
    (None, {'microbatches': 4, 'remat': True}),
    (8, {'microbatches': 2}),
  ],
)
def test_microbatches_and_remat_change_no_gradient(x64, num_devices, how):
  got = shared.loss_and_gradients(num_devices=num_devices, rolled=True, **ORACLE, **how)
  want = shared.loss_and_gradients(num_devices=None, rolled=True, **ORACLE)
  shared.assert_same_gradients(got, want, rtol=1e-10)


def test_groups_change_gradients(x64):
  # BatchNorm over half the batch is another network: the test above has teeth.
  whole, half = (
    shared.loss_and_gradients(num_devices=None, rolled=True, **ORACLE, **how)
    for how in ({}, {'bn_group': 8})
  )
  assert abs(half[0] / whole[0] - 1) > 1e-3
  for path, grad in whole[1].items():
    if path.endswith('kernel'):
      assert np.linalg.norm(half[1][path] - grad) > 1e-3 * np.linalg.norm(grad), path
