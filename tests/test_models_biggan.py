"""BigGAN's networks against the published counts and the reference's habits (specs/biggan.md)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax import layers, parallel, utils
from bigjax.models import biggan as models


def f32(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


LABELS = jax.ShapeDtypeStruct((2,), jnp.int32)


@functools.cache
def gen_shapes(resolution, num_classes=1000, **fields):
  net = models.Generator(resolution, num_classes, **fields)
  init = lambda z, y: net.init(jax.random.key(0), z, y, train=True)['params']
  return jax.eval_shape(init, f32(2, net.z_dim), LABELS)


@functools.cache
def disc_shapes(resolution, num_classes=1000, **fields):
  net = models.Discriminator(resolution, num_classes, **fields)
  init = lambda x, y: net.init(jax.random.key(0), x, y)['params']
  return jax.eval_shape(init, f32(2, resolution, resolution, 3), LABELS)


def weights(shapes, seed=0):
  """Random weights of the size that orthogonal init gives, without its QR; biases too."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda s: jnp.asarray(
      rng.normal(size=s.shape) / max(s.size // s.shape[-1], 1) ** 0.5
      if s.ndim > 1
      else rng.uniform(0.5, 1, size=s.shape),
      jnp.float32,
    ),
    shapes,
  )


def latents(num, dim, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(num, dim)), jnp.float32)


def pictures(num, side, channels=3, seed=0):
  x = np.random.default_rng(seed).uniform(-1, 1, size=(num, side, side, channels))
  return jnp.asarray(x, jnp.float32)


# Section 1.7: counted there by arithmetic and in BigGAN-PyTorch.
@pytest.mark.parametrize(
  ('resolution', 'fields', 'count'),
  [
    (128, {}, 70_433_988),
    (128, {'ch': 64}, 31_978_628),
    (128, {'ch': 128}, 123_909_380),
    (256, {'z_dim': 140, 'attention': (128,)}, 82_097_604),
    (256, {'z_dim': 140, 'attention': (64,)}, 82_235_844),
    (512, {'z_dim': 160}, 82_468_068),
    (512, {'z_dim': 128}, 82_296_804),  # TF-Hub's chunks of 16
    (64, {'z_dim': 100, 'attention': ()}, 70_037_891),
    (64, {'z_dim': 100, 'attention': (64,)}, 70_083_972),
    (64, {'z_dim': 100, 'attention': (32,)}, 70_222_212),
    (32, {'z_dim': 80, 'attention': (), 'num_classes': 10}, 9_231_875),
    (32, {'z_dim': 80, 'attention': (16,), 'num_classes': 10}, 9_416_196),
  ],
)
def test_generator_parameter_counts(resolution, fields, count):
  assert utils.num_params(gen_shapes(resolution, **fields)) == count


@pytest.mark.parametrize(
  ('resolution', 'fields', 'count'),
  [
    (128, {}, 87_982_370),
    (128, {'ch': 64}, 39_448_258),
    (128, {'ch': 128}, 155_723_138),
    (256, {}, 99_225_890),
    (512, {}, 99_401_282),
    (64, {'attention': ()}, 45_500_449),
    (64, {'attention': (32,)}, 45_511_970),
    (32, {'attention': (), 'num_classes': 10}, 9_456_769),
  ],
)
def test_discriminator_parameter_counts(resolution, fields, count):
  assert utils.num_params(disc_shapes(resolution, **fields)) == count


def test_counts_without_the_shared_embedding():
  # T02: Table 1 prints 158.3M for ch 96 and 71.3M for ch 64, without the n x 128 embedding.
  for fields, millions in (({}, 158.3), ({'ch': 64}, 71.3)):
    total = utils.num_params((gen_shapes(128, **fields), disc_shapes(128, **fields)))
    assert round((total - 128_000) / 1e6, 1) == millions


def test_counts_of_each_part_of_biggan_128():
  # Section 1.7, "per-module".
  count = lambda tree: {name: utils.num_params(part) for name, part in tree.items()}
  assert count(gen_shapes(128)) == {
    'shared': 128_000,
    'linear': 516_096,
    'blocks_0': 45_740_544,
    'blocks_1': 17_789_184,
    'blocks_2': 4_618_368,
    'blocks_3': 1_240_128,
    'attention_3': 46_081,
    'blocks_4': 352_800,
    'output_bn': 192,
    'output_conv': 2_787 - 192,
  }
  assert count(disc_shapes(128)) == {
    'blocks_0': 86_112,
    'attention_0': 11_521,
    'blocks_1': 516_672,
    'blocks_2': 2_065_536,
    'blocks_3': 8_259_840,
    'blocks_4': 33_034_752,
    'blocks_5': 42_470_400,
    'linear': 1_537,
    'embed': 1_536_000,
  }


def test_first_discriminator_convolution():
  # T03: 3 -> ch; Table 4 prints ch -> 2ch, which would make it (3, 3, 3, 192).
  assert disc_shapes(128)['blocks_0']['conv1']['kernel'].shape == (3, 3, 3, 96)


@pytest.mark.parametrize(
  ('shapes', 'place', 'channels'),
  [
    (gen_shapes(128), 3, 192),  # T05: after the block that ends at 64 x 64
    (gen_shapes(256, z_dim=140, attention=(128,)), 4, 192),
    (gen_shapes(512, z_dim=160), 3, 384),
    (disc_shapes(128), 0, 96),
    (disc_shapes(256), 1, 192),
    (disc_shapes(512), 2, 192),
  ],
)
def test_places_of_attention(shapes, place, channels):
  assert [name for name in shapes if name.startswith('attention')] == [f'attention_{place}']
  kernels = {
    name: p['kernel'].shape[2:]
    for name, p in shapes[f'attention_{place}'].items()
    if name != 'gamma'
  }
  assert kernels == {
    'theta': (channels, channels // 8),
    'phi': (channels, channels // 8),
    'g': (channels, channels // 2),
    'o': (channels // 2, channels),
  }


@pytest.mark.parametrize(('resolution', 'chunks'), [(32, 4), (64, 5), (128, 6), (256, 7), (512, 8)])
def test_chunks_are_one_more_than_blocks(resolution, chunks):
  # Section 1.2: 20 numbers each make z 80, 100, 120, 140, 160.
  assert models.num_chunks(resolution) == chunks


# Small networks


# At 16 px there are two blocks, so three chunks of z.
SMALL = {'ch': 2, 'z_dim': 9, 'shared_dim': 4, 'attention': (), 'channels': 1}


def small_gen(dtype=jnp.float32, **fields):
  fields = {**SMALL, **fields}
  return models.Generator(16, 3, **fields, dtype=dtype), weights(gen_shapes(16, 3, **fields))


def small_disc(resolution=16, channels=3, dtype=jnp.float32, **fields):
  net = models.Discriminator(resolution, 3, **{'ch': 2, 'attention': (), **fields}, dtype=dtype)
  x = f32(2, resolution, resolution, channels)
  init = lambda x, y: net.clone(dtype=jnp.float32).init(jax.random.key(0), x, y)['params']
  return net, weights(jax.eval_shape(init, x, LABELS))


def generate(net, params, z, y, **kwargs):
  """Images and the outputs of every submodule by path, in training mode."""
  images, state = net.apply(
    {'params': params},
    z,
    y,
    train=True,
    capture_intermediates=True,
    mutable=['intermediates'],
    **kwargs,
  )
  inner = {
    path.removesuffix('/__call__/0'): leaf
    for path, leaf in utils.flat(state['intermediates']).items()
  }
  return images, inner


@pytest.mark.parametrize(('resolution', 'channels', 'attention'), [(16, 1, ()), (32, 3, (16,))])
def test_images_and_logits(resolution, channels, attention):
  fields = {'ch': 4, 'z_dim': 12, 'shared_dim': 4, 'attention': attention, 'channels': channels}
  params = weights(gen_shapes(resolution, 3, **fields))
  net, y = models.Generator(resolution, 3, **fields), jnp.array([0, 2, 1])
  images = jax.jit(lambda p, z: net.apply({'params': p}, z, y, train=True))(params, latents(3, 12))
  assert images.shape == (3, resolution, resolution, channels) and images.dtype == jnp.float32
  assert np.abs(images).max() <= 1 and 0.05 < np.std(images) < 0.95  # tanh, neither 0 nor +-1
  disc, params = small_disc(resolution, channels, ch=8, attention=attention)
  logits = jax.jit(lambda p, x: disc.apply({'params': p}, x, y))(params, images)
  assert logits.shape == (3,) and logits.dtype == jnp.float32
  assert len(np.unique(logits)) == 3


def test_attention_is_placed_at_its_resolution():
  # T05 in pixels: the block's input has the side that is listed.
  net = models.Generator(32, 3, ch=2, z_dim=8, shared_dim=4, attention=(16,))
  params = gen_shapes(32, 3, ch=2, z_dim=8, shared_dim=4, attention=(16,))
  run = lambda p, z: generate(net, p, z, jnp.array([0, 1]))[1]
  inner = jax.eval_shape(run, params, f32(2, 8))
  assert inner['attention_1'].shape == (2, 16, 16, 8)
  disc, _ = small_disc(32, ch=2, attention=(16,))
  params = disc_shapes(32, 3, ch=2, attention=(16,))
  run = lambda p, x: disc.apply(
    {'params': p}, x, jnp.array([0, 1]), capture_intermediates=True, mutable=['intermediates']
  )[1]['intermediates']
  inner = jax.eval_shape(run, params, f32(2, 32, 32, 3))
  assert inner['attention_0']['__call__'][0].shape == (2, 16, 16, 8)


@functools.cache
def latent_derivative():
  net, params = small_gen()
  y = jnp.array([0, 1, 2, 0])
  return jax.jit(lambda z, t: jax.jvp(lambda z: generate(net, params, z, y), (z,), (t,))[1])


@pytest.mark.parametrize('chunk', [0, 1, 2])
def test_each_chunk_of_z_conditions_its_own_block(chunk):
  # T09, forward mode: chunk 0 moves the 4x4 layer, chunk i > 0 the BatchNorms of block i - 1 and
  # nothing before them; every chunk moves the image.
  z = latents(4, 9)
  tangent = jnp.zeros_like(z).at[:, 3 * chunk : 3 * chunk + 3].set(latents(4, 3, seed=1))
  image, inner = latent_derivative()(z, tangent)
  moves = {path: bool(np.any(t)) for path, t in inner.items()}
  assert np.any(image)
  assert moves['linear'] == (chunk == 0)
  for i in range(2):
    conditions = [
      path
      for path in moves
      if path.startswith(f'blocks_{i}/bn') and path.endswith(('/gain', '/bias'))
    ]
    assert len(conditions) == 4
    assert {moves[path] for path in conditions} == {chunk == i + 1}
    assert moves[f'blocks_{i}'] == (chunk <= i + 1)  # features after block i


def test_label_changes_the_image_but_not_the_first_layer():
  # T10
  net, params = small_gen()
  run = jax.jit(lambda y: generate(net, params, latents(4, 9), y))
  image, inner = run(jnp.array([0, 1, 2, 0]))
  other, other_inner = run(jnp.array([0, 1, 2, 1]))
  np.testing.assert_array_equal(inner['linear'], other_inner['linear'])
  assert np.abs(image[3] - other[3]).max() > 1e-3


def test_labels_and_one_hot_weights_make_the_same_image():
  net, params = small_gen()
  y = jnp.array([2, 0, 1])
  run = jax.jit(lambda y: net.apply({'params': params}, latents(3, 9), y, train=True))
  one_hot = jax.nn.one_hot(y, 3, dtype=jnp.float32)
  np.testing.assert_allclose(run(one_hot), run(y), atol=1e-5)


def test_without_conditioning_z_still_enters_through_the_first_layer():
  # T08: with every CBN kernel 0 the gain is 1, so chunk 0 alone makes the image.
  net, params = small_gen()
  params = utils.map_paths(lambda path, w: 0 * w if '/bn' in path else w, params)
  run = jax.jit(lambda z, y: net.apply({'params': params}, z, y, train=True))
  z, y = latents(4, 9), jnp.array([0, 1, 2, 0])
  image = run(z, y)
  np.testing.assert_array_equal(run(z.at[:, 3:].add(1.0), y[::-1]), image)
  assert np.abs(run(z.at[0, :3].add(1.0), y) - image)[0].max() > 1e-2


def test_image_does_not_depend_on_the_batch_once_statistics_stand():
  # T15, and T12 for the whole network.
  net, params = small_gen()
  z, y = latents(6, 9), jnp.array([0, 1, 2, 0, 1, 2])
  train, new = jax.jit(
    lambda z, y: net.apply({'params': params}, z, y, train=True, mutable=['moments'])
  )(z, y)
  sample = jax.jit(
    lambda z, y: net.apply({'params': params, 'stats': new['moments']}, z, y, train=False)
  )
  np.testing.assert_allclose(sample(z, y), train, atol=1e-5)
  np.testing.assert_allclose(sample(z[4:5], y[4:5]), train[4:5], atol=1e-5)


def test_generator_and_its_gradients_on_eight_devices():
  # T11: 8 devices x 4 == 1 device x 32, output and gradients, float32.
  net, params = small_gen()
  batch = {'z': latents(32, 9), 'y': jnp.arange(32) % 3, 'target': pictures(32, 16, 1)}

  def loss(params, shared, batch):
    images = net.apply({'params': params}, batch['z'], batch['y'], train=True)
    return jnp.abs(images - batch['target']).mean(), {'image': images.mean()}

  def run(num_devices):
    with jax.set_mesh(parallel.make_mesh(jax.devices()[:num_devices])):
      return jax.device_get(jax.jit(parallel.value_and_grad(loss))(params, {}, batch))

  (one, metrics), grads = run(1)
  (eight, eight_metrics), eight_grads = run(8)
  np.testing.assert_allclose(eight, one, rtol=1e-5)
  np.testing.assert_allclose(eight_metrics['image'], metrics['image'], rtol=1e-4, atol=1e-6)
  largest = max(np.linalg.norm(g) for g in jax.tree.leaves(grads))
  for path, want in utils.flat(grads).items():
    got = utils.flat(eight_grads)[path]
    assert np.linalg.norm(got - want) <= 1e-5 * max(np.linalg.norm(want), 1e-2 * largest), path


def test_generator_ends_in_an_unconditional_batchnorm_of_the_same_eps():
  # T14: BigGAN-PyTorch's last BatchNorm has eps 1e-5. Tiny features make eps matter.
  net, params = small_gen()
  params['blocks_1'] = jax.tree.map(lambda w: w * 1e-2, params['blocks_1'])
  image, inner = jax.jit(lambda z: generate(net, params, z, jnp.array([0, 1, 2, 0])))(latents(4, 9))
  h = np.asarray(inner['blocks_1'], np.float64)
  mean, var = h.mean((0, 1, 2)), h.var((0, 1, 2))
  assert var.min() < 3e-4
  bn = {name: np.asarray(p, np.float64) for name, p in params['output_bn'].items()}
  h = np.maximum((h - mean) / np.sqrt(var + 1e-4) * bn['gain'] + bn['bias'], 0)
  want = layers.conv(jnp.asarray(h, jnp.float32), params['output_conv']['kernel'])
  want = np.tanh(np.asarray(want) + np.asarray(params['output_conv']['bias']))
  np.testing.assert_allclose(image, want, atol=1e-3)


# The discriminator


def disc_block(features, down, first, x):
  """A block with the residual branch zeroed: what is left is the shortcut, and its parameters."""
  block = models.DiscBlock(features, down, first, jnp.float32)
  shapes = jax.eval_shape(lambda x: block.init(jax.random.key(0), x)['params'], x)
  params = utils.map_paths(lambda path, w: w if 'conv_sc' in path else 0 * w, weights(shapes))
  return jax.jit(block.apply)({'params': params}, x), params


def test_block_that_keeps_its_shape_has_an_identity_shortcut():
  # T26: the last block, 16ch -> 16ch without pooling. T24: the shortcut sees x before the ReLU, so
  # negative values come through (an in-place ReLU lost them).
  x = pictures(2, 4, 6)
  out, params = disc_block(6, down=False, first=False, x=x)
  assert 'conv_sc' not in params
  np.testing.assert_array_equal(out, x)
  assert np.min(out) < -0.5


@pytest.mark.parametrize('first', [False, True])
@pytest.mark.parametrize(('cin', 'down'), [(6, True), (3, True), (3, False)])
def test_other_blocks_have_a_learned_shortcut(cin, down, first):
  # Section 1.3: 1x1 where the width changes or the block pools, equal width included; T24 again.
  x = -jnp.abs(pictures(2, 4, cin))
  out, params = disc_block(6, down, first, x)
  kernel, bias = (np.asarray(params['conv_sc'][name]) for name in ('kernel', 'bias'))
  pooled = np.asarray(x).reshape(2, 2, 2, 2, 2, cin).mean((2, 4)) if down else np.asarray(x)
  np.testing.assert_allclose(out, pooled @ kernel[0, 0] + bias, atol=1e-5)


def test_residual_branch_rectifies_except_in_the_first_block():
  # T25: no ReLU on the image. With x < 0 everywhere a rectified branch sees only zeros.
  x = -jnp.abs(pictures(2, 4, 3)) - 0.1

  def residual(first):
    block = models.DiscBlock(6, True, first, jnp.float32)
    shapes = jax.eval_shape(lambda x: block.init(jax.random.key(0), x)['params'], x)
    params = utils.map_paths(lambda path, w: 0 * w if 'conv_sc' in path else w, weights(shapes))
    apply = jax.jit(block.apply)
    return np.abs(apply({'params': params}, x) - apply({'params': params}, 2 * x)).max()

  assert residual(first=True) > 1e-2
  assert residual(first=False) == 0


def test_discriminator_tells_negative_images_apart():
  # T25 for the whole network, shortcut removed so that only the residual branch can tell.
  net, params = small_disc()
  params['blocks_0']['conv_sc'] = jax.tree.map(jnp.zeros_like, params['blocks_0']['conv_sc'])
  run = jax.jit(lambda x: net.apply({'params': params}, x, jnp.zeros((3,), jnp.int32)))
  x = -jnp.abs(pictures(3, 16))
  assert len(np.unique(run(x))) == 3
  flipped = run(x.at[:, 5, 5].multiply(-1))
  assert (np.abs(flipped - run(x)) > 1e-4).all()


def test_features_are_summed_over_the_map():
  # T29: a pointwise network (3x3 kernels 0, so only the 1x1 shortcuts are left) on an image tiled
  # 2x2 sees each feature four times; a mean would see no difference.
  net, params = small_disc()
  zero = lambda path, w: 0 * w if '/conv1/' in path or '/conv2/' in path else w
  params = utils.map_paths(zero, params)
  x, y = pictures(3, 16), jnp.array([0, 1, 2])
  apply = jax.jit(lambda x: net.apply({'params': params}, x, y))
  bias = params['linear']['bias'][0]
  one, four = apply(x) - bias, apply(jnp.tile(x, (1, 2, 2, 1))) - bias
  assert np.abs(one).min() > 1e-3
  np.testing.assert_allclose(four, 4 * one, rtol=1e-4)


def test_head_is_linear_plus_projection():
  # Section 1.3 and T30: D(x, y) = w . h + b + <V[y], h>, h the sum over H, W of ReLU(features).
  net, params = small_disc()
  x, y = pictures(4, 16), jnp.array([0, 2, 1, 2])

  @jax.jit
  def run(y):
    logits, state = net.apply(
      {'params': params}, x, y, capture_intermediates=True, mutable=['intermediates']
    )
    return logits, state['intermediates']['blocks_2']['__call__'][0]

  logits, features = run(y)
  assert np.min(features) < 0  # or the ReLU below would show nothing
  h = np.maximum(np.asarray(features, np.float64), 0).sum((1, 2))
  table, w = np.asarray(params['embed']['embedding']), np.asarray(params['linear']['kernel'])[:, 0]
  want = h @ w + float(params['linear']['bias'][0]) + (table[np.asarray(y)] * h).sum(1)
  np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-4)
  other = jnp.array([1, 0, 1, 0])
  difference = ((table[np.asarray(y)] - table[np.asarray(other)]) * h).sum(1)
  np.testing.assert_allclose(logits - run(other)[0], difference, rtol=1e-4, atol=1e-4)
  assert difference[2] == 0 and np.abs(difference[[0, 1, 3]]).min() > 1e-3


# bfloat16


def convolution_dtypes(fn, *args):
  text = str(jax.make_jaxpr(fn)(*args))
  lines = [line for line in text.splitlines() if 'conv_general_dilated[' in line]
  return {line.split(':')[1].split('[')[0] for line in lines if ':' in line}


@pytest.mark.parametrize(('make', 'kwargs'), [(small_gen, {'train': True}), (small_disc, {})])
def test_all_bfloat16_compute_gives_float32_images_and_logits(make, kwargs):
  # T13: compute in bfloat16; parameters, and what leaves the networks, in float32.
  fields, y = {'attention': (8,), 'ch': 8}, jnp.array([0, 1, 2, 0])
  x = latents(4, 9) if make is small_gen else pictures(4, 16)
  (net, params), (half, _) = make(**fields), make(**fields, dtype=jnp.bfloat16)
  full_run = lambda p, x: net.apply({'params': p}, x, y, **kwargs)
  half_run = lambda p, x: half.apply({'params': p}, x, y, **kwargs)
  init = lambda x: half.init(jax.random.key(0), x, y, **kwargs)['params']
  assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(init, x))} == {jnp.dtype('float32')}
  assert convolution_dtypes(half_run, params, x) == {'bf16'}
  got, want = jax.jit(half_run)(params, x), jax.jit(full_run)(params, x)
  assert got.dtype == jnp.float32
  error = np.abs(got - want)
  assert 0 < error.max() < 0.5 * np.std(want) and error.mean() < 0.1 * np.std(want)
