"""BigGAN's networks against the published counts and the reference's habits.

Sources: specs/biggan.md sections 1 and 4: T01-T05, T08-T15, T24-T26, T29, T30, T38, T39. What
stands above the first test serves test_models_biggan_deep.py too.
"""

import collections
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import errors, parallel, trees
from bigjax.models import biggan as models
from bigjax.models import biggan_deep as deep
from bigjax.nn import convolution, kernels, layers, microbatches, residual

from counts import num_params
from networks import (
  LABELS,
  assert_place_of_attention,
  assert_same_gradients,
  convolution_dtypes,
  count_of_each,
  disc_shapes,
  f32,
  gen_shapes,
  generate,
  latents,
  loss_and_gradients,
  pictures,
  weights,
  without_conditioning,
)

NETWORKS = {'biggan': models, 'biggan_deep': deep}


def kept_for_backward(fn, params, batch):
  """Bytes per example of what the backward pass of `fn(params)` holds."""
  held = jax.tree.leaves(jax.eval_shape(lambda p: jax.vjp(fn, p)[1], params))
  # Of microbatches, the parts lie along a leading axis.
  examples = [leaf for leaf in held if leaf.shape and batch % leaf.shape[0] == 0]
  return sum(leaf.size * leaf.dtype.itemsize for leaf in examples) / batch


# Section 1.7: counted there by arithmetic and in the sources' own code.


NO_SHARED = {'shared_dim': 0, 'skip_z': False, 'z_dim': 128}
NO_SKIP = {'skip_z': False, 'z_dim': 128}


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
    (1024, {'z_dim': 180}, 82_700_292),  # ours: one more block
    (64, {'z_dim': 100, 'attention': ()}, 70_037_891),
    (64, {'z_dim': 100, 'attention': (64,)}, 70_083_972),
    (64, {'z_dim': 100, 'attention': (32,)}, 70_222_212),
    (32, {'z_dim': 80, 'attention': (), 'num_classes': 10}, 9_231_875),
    (32, {'z_dim': 80, 'attention': (16,), 'num_classes': 10}, 9_416_196),
    # BigGAN-PyTorch's launch_cifar_ema.sh
    (32, {**NO_SHARED, 'ch': 64, 'attention': (), 'num_classes': 10}, 4_304_387),
  ],
)
def test_generator_parameter_counts(resolution, fields, count):
  # T01
  assert num_params(gen_shapes(resolution, **fields)) == count


COMPARE_GAN_64 = (2, 4, 8, 16, 16)
STUDIOGAN_32 = (2, 2, 2, 2)


@pytest.mark.parametrize(
  ('resolution', 'fields', 'count'),
  [
    (128, {}, 87_982_370),
    (128, {'ch': 64}, 39_448_258),
    (128, {'ch': 128}, 155_723_138),
    (256, {}, 99_225_890),
    (512, {}, 99_401_282),
    (1024, {}, 99_576_674),
    (64, {'attention': ()}, 45_500_449),
    (64, {'attention': (32,)}, 45_511_970),
    (64, {'attention': (32,), 'widths': COMPARE_GAN_64}, 87_752_258),
    (32, {'attention': (), 'num_classes': 10}, 9_456_769),
    (32, {'attention': (16,), 'widths': STUDIOGAN_32, 'num_classes': 10}, 2_415_170),
    (32, {'attention': (), 'ch': 64, 'num_classes': 10}, 4_207_361),  # launch_cifar_ema.sh
  ],
)
def test_discriminator_parameter_counts(resolution, fields, count):
  # T01
  assert num_params(disc_shapes(resolution, **fields)) == count


@pytest.mark.parametrize(('resolution', 'count'), [(256, 98_635_298), (512, 98_801_378)])
def test_compare_gan_lacks_the_shortcuts_of_equal_width(resolution, count):
  # Section 1.8: it has no 1x1 convolution where a block pools but keeps its width.
  shapes = disc_shapes(resolution)
  equal = [
    num_params(block['conv_sc'])
    for block in shapes.values()
    if 'conv_sc' in block and block['conv_sc']['kernel'].shape[2] == block['conv_sc']['bias'].size
  ]
  assert len(equal) == {256: 1, 512: 2}[resolution]
  assert num_params(shapes) - sum(equal) == count


def outside_the_embedding(shapes):
  return num_params({name: part for name, part in shapes.items() if name != 'shared'})


@pytest.mark.parametrize(
  ('rows', 'ch', 'fields', 'millions', 'printed'),
  [
    ('1-4', 64, NO_SHARED, 81.466, 81.5),
    ('5', 96, NO_SHARED, 173.539, 173.5),
    ('6', 96, NO_SKIP, 160.647, 160.6),
    ('7-8', 96, {}, 158.288, 158.3),
    ('9', 64, {}, 71.299, 71.3),
  ],
)
def test_counts_of_table_1(rows, ch, fields, millions, printed):
  # T02: `Param (M)` is of both players, without the n x 128 embedding (section 1.7).
  total = outside_the_embedding(gen_shapes(128, ch=ch, **fields))
  total += num_params(disc_shapes(128, ch=ch))
  assert round(total / 1e6, 3) == millions and round(total / 1e6, 1) == printed


JFT = {(64, False): 317.1, (64, True): 99.4, (96, True): 207.9, (128, True): 355.7}


@pytest.mark.parametrize(
  ('attention', 'num_classes', 'agree'),
  [(64, 18_294, True), (64, 18_292, True), (64, 18_290, False), (64, 18_297, False),
   (128, 18_294, False)],
)  # fmt: skip
def test_counts_of_table_3_fit_one_number_of_classes(attention, num_classes, agree):
  # JFT-300M at 256 px: G's attention at 64, a shortcut in the 8 -> 8 block of D, no embedding.
  base, totals = 100, {}
  for ch, shared in JFT:
    fields = {'z_dim': 140} if shared else NO_SHARED
    shapes = [
      gen_shapes(256, base, ch=ch, attention=(attention,), **fields),
      disc_shapes(256, base, ch=ch),
    ]
    tables = [s for s in jax.tree.leaves(shapes) if s.shape[:1] == (base,)]  # a row per class
    more = sum(s.shape[1] for s in tables) - (128 if shared else 0)
    total = outside_the_embedding(shapes[0]) + num_params(shapes[1])
    totals[ch, shared] = (total + (num_classes - base) * more) / 1e6
  assert all(abs(totals[row] - JFT[row]) <= 0.05 for row in JFT) == agree, totals


def test_counts_of_each_part_of_biggan_128():
  # Section 1.7, "per-module".
  assert count_of_each(gen_shapes(128)) == {
    'shared': 128_000,
    'linear': 516_096,
    'blocks_0': 45_740_544,
    'blocks_1': 17_789_184,
    'blocks_2': 4_618_368,
    'blocks_3': 1_240_128,
    'attention_3': 46_081,
    'blocks_4': 352_800,
    'output': 2_787,
  }
  assert count_of_each(disc_shapes(128)) == {
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


def test_biggan_256_inserts_a_block_of_equal_width():
  small, large = gen_shapes(128), gen_shapes(256, z_dim=140, attention=(128,))
  before, after = (collections.Counter(count_of_each(s).values()) for s in (small, large))
  assert after - before == {11_663_616: 1} and not before - after


def test_names_of_parameters_at_the_ends():
  shapes = gen_shapes(128)
  ends = {path: leaf.shape for path, leaf in trees.flat(shapes['output']).items()}
  assert ends == {
    'bn/bias': (96,),
    'bn/gain': (96,),
    'conv/bias': (3,),
    'conv/kernel': (3, 3, 96, 3),
  }


def test_first_discriminator_convolution():
  # T03: 3 -> ch; Table 4 prints ch -> 2ch, which would make it (3, 3, 3, 192).
  assert disc_shapes(128)['blocks_0']['conv1']['kernel'].shape == (3, 3, 3, 96)


@pytest.mark.parametrize(
  ('shapes', 'resolution', 'fields', 'place', 'channels'),
  [
    (gen_shapes, 128, {}, 3, 192),  # T05: after the block that ends at 64 x 64
    (gen_shapes, 256, {'z_dim': 140, 'attention': (128,)}, 4, 192),
    (gen_shapes, 512, {'z_dim': 160}, 3, 384),
    (disc_shapes, 128, {}, 0, 96),
    (disc_shapes, 256, {}, 1, 192),
    (disc_shapes, 512, {}, 2, 192),
  ],
)
def test_places_of_attention(shapes, resolution, fields, place, channels):
  assert_place_of_attention(shapes(resolution, **fields), place, channels)


def test_maps_of_the_blocks():
  # Where attention can be: the widths after blocks, in units of ch, by resolution (section 1.4).
  assert models.gen_maps(128) == {8: 16, 16: 8, 32: 4, 64: 2, 128: 1}
  assert models.disc_maps(128) == {64: 1, 32: 2, 16: 4, 8: 8, 4: 16}
  assert models.disc_maps(32) == {16: 4, 8: 4}  # BigGAN-PyTorch's table says 16, 16, 16, 16
  assert models.disc_maps(32, STUDIOGAN_32) == {16: 2, 8: 2}
  assert 64 not in models.disc_maps(64)  # where it then has silently no attention
  assert models.num_disc_widths(64) == len(COMPARE_GAN_64)


def test_summed_features_are_as_wide_as_the_last_block():
  disc = models.Discriminator(64, 10, ch=8)
  assert disc.num_features == 128
  assert disc.clone(widths=(1, 2, 4, 8, 3)).num_features == 24
  shapes = disc_shapes(64, 10, ch=8, widths=(1, 2, 4, 8, 3), attention=())
  assert shapes['embed']['embedding'].shape == (10, 24)


@pytest.mark.parametrize(('resolution', 'chunks'), [(32, 4), (64, 5), (128, 6), (256, 7), (512, 8)])
def test_chunks_are_one_more_than_blocks(resolution, chunks):
  # Section 1.2: 20 numbers each make z 80, 100, 120, 140, 160.
  assert models.num_chunks(resolution) == chunks
  assert models.num_chunks(resolution, skip_z=False) == 1
  models.check_options({'shared_dim': 128, 'skip_z': True}, 20 * chunks, resolution)


def test_latents_that_do_not_split_are_refused():
  # T04: of 120 numbers at 256 px BigGAN-PyTorch uses 7 x 17 = 119 without a word.
  floored = gen_shapes(256, z_dim=119, attention=(64,))
  assert num_params(floored) == 82_108_548
  options = {'shared_dim': 128, 'skip_z': True}
  with pytest.raises(errors.UserError, match=r'120, .* 7 equal chunks; use a multiple of 7'):
    models.check_options(options, 120, 256)
  models.check_options({**options, 'skip_z': False}, 120, 256)
  with pytest.raises(errors.UserError, match=r'skip_z joins .*shared_dim is 0'):
    models.check_options({**options, 'shared_dim': 0}, 140, 256)


@pytest.mark.parametrize(('fields', 'eps'), [({}, 1e-4), ({'bn_eps': 1e-5}, 1e-5)])
@pytest.mark.parametrize('network', NETWORKS.values(), ids=NETWORKS)
def test_every_batchnorm_has_the_same_eps(network, fields, eps, monkeypatch):
  # T14, section 1.8: the last one too, which BigGAN-PyTorch leaves at 1e-5. T13: float32 moments.
  params = gen_shapes(128, 10, network=network)
  calls = []

  def spy(x, moments, eps, dtype):
    calls.append((eps, moments.dtype))
    return x.astype(dtype)

  monkeypatch.setattr(layers, 'standardize', spy)
  net = network.Generator(128, 10, **fields, dtype=jnp.bfloat16)
  run = lambda p, z, y: net.apply({'params': p}, z, y, train=True)
  images = jax.eval_shape(run, params, f32(2, net.z_dim), LABELS)
  in_blocks = {models: 5 * 2, deep: 10 * 4}[network]
  assert calls == [(eps, jnp.float32)] * (in_blocks + 1)
  assert images.dtype == jnp.float32


@pytest.mark.parametrize('network', NETWORKS.values(), ids=NETWORKS)
def test_memory_of_microbatches_and_remat(network, monkeypatch):
  # What they are for. Sizes only: nothing runs. With `remat`, D keeps its blocks' inputs. For
  # BigGAN-deep a network of four blocks, which no source has.
  monkeypatch.setitem(deep.GEN_WIDTHS, 16, (4, 2, 1))
  monkeypatch.setitem(deep.DISC_WIDTHS, 16, (1, 2, 4))
  batch, ch, z_dim = 8, 32, 60
  fields = {'resolution': 16, 'num_classes': 10, 'ch': ch, 'attention': ()}
  params = gen_shapes(**fields, z_dim=z_dim, network=network)

  def gen(**how):
    net = network.Generator(**fields, z_dim=z_dim, **how)
    z, y = jnp.zeros((batch, z_dim)), jnp.zeros((batch,), jnp.int32)
    return kept_for_backward(lambda p: net.apply({'params': p}, z, y, train=True), params, batch)

  plain = gen()
  assert gen(microbatches=4) < 0.5 * plain
  assert gen(remat=True) < 0.4 * plain

  params = disc_shapes(**fields, network=network)
  images, y = jnp.zeros((batch, 16, 16, 3)), jnp.zeros((batch,), jnp.int32)

  def disc(**how):
    net = network.Discriminator(**fields, **how)
    return kept_for_backward(lambda p: net.apply({'params': p}, images, y), params, batch)

  first = 3 if network is models else ch
  inputs = [16 * 16 * first] + [s * s * width * ch for s, width in network.disc_maps(16).items()]
  assert disc(remat=True) < 4 * 2.2 * sum(inputs) < 0.7 * disc()


@pytest.mark.parametrize('network', NETWORKS.values(), ids=NETWORKS)
def test_remat_keeps_the_parameter_tree(network):
  # It may change between resumes.
  fields = {'num_classes': 10, 'network': network, 'ch': 32}
  z_dim = 100 if network is models else 128
  for shapes, more in ((gen_shapes, {'z_dim': z_dim}), (disc_shapes, {})):
    assert shapes(64, **fields, **more, remat=True) == shapes(64, **fields, **more)


# Small networks


# At 16 px there are two blocks, so three chunks of z.
SMALL = {'ch': 2, 'z_dim': 9, 'shared_dim': 4, 'attention': (), 'channels': 1}


def small_gen(dtype=jnp.float32, **fields):
  fields = {**SMALL, **fields}
  return models.Generator(16, 3, **fields, dtype=dtype), weights(gen_shapes(16, 3, **fields))


def small_disc(resolution=16, channels=3, dtype=jnp.float32, **fields):
  fields = {'ch': 2, 'attention': (), **fields}
  net = models.Discriminator(resolution, 3, **fields, dtype=dtype)
  return net, weights(disc_shapes(resolution, 3, channels=channels, **fields))


@pytest.mark.parametrize(('resolution', 'channels', 'attention'), [(16, 1, ()), (32, 3, (16,))])
def test_images_and_logits(resolution, channels, attention):
  fields = {'ch': 4, 'z_dim': 12, 'shared_dim': 4, 'attention': attention, 'channels': channels}
  params = weights(gen_shapes(resolution, 3, **fields))
  net, y = models.Generator(resolution, 3, **fields), np.array([0, 2, 1])
  images = jax.jit(lambda p, z: net.apply({'params': p}, z, y, train=True))(params, latents(3, 12))
  images = np.asarray(images)
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
  net = net.clone(kernels=kernels.PLAIN)  # the fast ones have no derivative in forward mode
  y = np.array([0, 1, 2, 0])
  return jax.jit(lambda z, t: jax.jvp(lambda z: generate(net, params, z, y), (z,), (t,))[1])


@pytest.mark.parametrize('chunk', [0, 1, 2])
def test_each_chunk_of_z_conditions_its_own_block(chunk):
  # T09, forward mode: chunk 0 moves the 4x4 layer, chunk i > 0 the BatchNorms of block i - 1 and
  # nothing before them; every chunk moves the image.
  z = latents(4, 9)
  tangent = np.zeros(z.shape, np.float32)
  tangent[:, 3 * chunk : 3 * chunk + 3] = latents(4, 3, seed=1)
  image, inner = jax.device_get(latent_derivative()(z, tangent))
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
  image, inner = jax.device_get(run(np.array([0, 1, 2, 0])))
  other, other_inner = jax.device_get(run(np.array([0, 1, 2, 1])))
  np.testing.assert_array_equal(inner['linear'], other_inner['linear'])
  assert np.abs(image[3] - other[3]).max() > 1e-3
  # Section 1.2, BigGAN-PyTorch's order: the embedding, then the block's own chunk of z.
  table = np.asarray(params['shared']['embedding'])
  for i in range(2):
    chunk = np.asarray(latents(4, 9))[:, 3 * (i + 1) : 3 * (i + 2)]
    c = np.concatenate([table[[0, 1, 2, 0]], chunk], axis=1)
    for name in ('bn1/gain', 'bn2/bias'):
      kernel = np.asarray(trees.flat(params)[f'blocks_{i}/{name}/kernel'])
      np.testing.assert_allclose(inner[f'blocks_{i}/{name}'], c @ kernel, atol=1e-5)


# The shared embedding with chunks of z, the embedding alone, a table in every BatchNorm.
CONDITIONS = [{}, {'skip_z': False}, {'skip_z': False, 'shared_dim': 0}]


@pytest.mark.parametrize('fields', CONDITIONS)
def test_labels_and_one_hot_weights_make_the_same_image(fields):
  net, params = small_gen(**fields)
  y = np.array([2, 0, 1])
  run = jax.jit(lambda y: net.apply({'params': params}, latents(3, 9), y, train=True))
  image, other = np.asarray(run(y)), np.asarray(run(y[::-1].copy()))
  np.testing.assert_allclose(run(np.eye(3, dtype=np.float32)[y]), image, atol=1e-5)
  assert np.abs(image - other).max() > 1e-2


@pytest.mark.parametrize('fields', CONDITIONS[1:])
def test_undivided_latents_enter_through_the_first_layer_alone(fields):
  # Table 1, rows 1-6: all of z makes the 4x4 layer; every condition is a function of the class.
  net, params = small_gen(**fields)
  assert params['linear']['kernel'].shape[0] == 9
  y = np.array([0, 1, 2, 0])
  inner = jax.jit(lambda z: generate(net, params, z, y)[1])
  one, other = jax.device_get((inner(latents(4, 9)), inner(latents(4, 9, seed=1))))
  conditions = [path for path in one if path.endswith(('/gain', '/bias'))]
  assert len(conditions) == 2 * 2 * 2
  for path in conditions:
    np.testing.assert_array_equal(one[path], other[path])
    assert (one[path][0] == one[path][3]).all() and (one[path][0] != one[path][1]).any()
  assert np.abs(one['linear'] - other['linear']).min() > 0


def test_without_conditioning_z_still_enters_through_the_first_layer():
  # T08: with every CBN kernel 0 the gain is 1, so chunk 0 alone makes the image.
  net, params = small_gen()
  run = functools.partial(
    jax.jit(lambda p, z, y: net.apply({'params': p}, z, y, train=True)),
    without_conditioning(jax.device_get(params)),
  )
  z, y = np.asarray(latents(4, 9)), np.array([0, 1, 2, 0])
  image = np.asarray(run(z, y))
  others, first = z.copy(), z.copy()
  others[:, 3:] += 1
  first[0, :3] += 1
  np.testing.assert_array_equal(run(others, y[::-1].copy()), image)
  assert np.abs(run(first, y) - image)[0].max() > 1e-2


def test_image_does_not_depend_on_the_batch_once_statistics_stand():
  # T15, and T12 for the whole network.
  net, params = small_gen()
  z, y = np.asarray(latents(6, 9)), np.array([0, 1, 2, 0, 1, 2])
  train, new = jax.jit(
    lambda z, y: net.apply({'params': params}, z, y, train=True, mutable=['moments'])
  )(z, y)
  sample = jax.jit(
    lambda z, y: net.apply({'params': params, 'stats': new['moments']}, z, y, train=False)
  )
  train = np.asarray(train)
  np.testing.assert_allclose(sample(z, y), train, atol=1e-5)
  np.testing.assert_allclose(sample(z[4:5], y[4:5]), train[4:5], atol=1e-5)


def test_generator_and_its_gradients_on_eight_devices():
  # T11: 8 devices x 4 == 1 device x 32, output and gradients, float32.
  net, params = small_gen()
  batch = {'z': latents(32, 9), 'y': np.arange(32) % 3, 'target': pictures(32, 16, 1)}
  batch = jax.device_get(batch)

  def loss(params, shared, batch):
    images = net.apply({'params': params}, batch['z'], batch['y'], train=True)
    return jnp.abs(images - batch['target']).mean(), {'image': images.mean()}

  def run(num_devices, *batches):
    with jax.set_mesh(parallel.make_mesh(jax.devices()[:num_devices])):
      fn = jax.jit(parallel.value_and_grad(loss))
      return [jax.device_get(fn(params, {}, batch)) for batch in batches]

  shuffled = jax.tree.map(lambda x: x[np.random.default_rng(0).permutation(32)], batch)
  [((one, metrics), grads)] = run(1, batch)
  largest = max(np.linalg.norm(g) for g in jax.tree.leaves(grads))
  for (value, other_metrics), other_grads in run(8, batch, shuffled):  # any partition of the batch
    np.testing.assert_allclose(value, one, rtol=1e-5)
    np.testing.assert_allclose(other_metrics['image'], metrics['image'], rtol=1e-4, atol=1e-6)
    for path, want in trees.flat(grads).items():
      got = trees.flat(other_grads)[path]
      assert np.linalg.norm(got - want) <= 1e-5 * max(np.linalg.norm(want), 1e-2 * largest), path


def test_generator_ends_in_an_unconditional_batchnorm_of_the_same_eps():
  # T14: BigGAN-PyTorch's last BatchNorm has eps 1e-5. Tiny features make eps matter.
  net, params = small_gen()
  params['blocks_1'] = jax.tree.map(lambda w: np.asarray(w) * 1e-2, params['blocks_1'])
  image, inner = jax.jit(lambda z: generate(net, params, z, np.array([0, 1, 2, 0])))(latents(4, 9))
  h = np.asarray(inner['blocks_1'], np.float64)
  mean, var = h.mean((0, 1, 2)), h.var((0, 1, 2))
  assert var.min() < 3e-4
  bn = {name: np.asarray(p, np.float64) for name, p in params['output']['bn'].items()}
  h = np.maximum((h - mean) / np.sqrt(var + 1e-4) * bn['gain'] + bn['bias'], 0)
  conv = jax.jit(convolution.conv)
  want = conv(jnp.asarray(h, jnp.float32), params['output']['conv']['kernel'])
  want = np.tanh(np.asarray(want) + np.asarray(params['output']['conv']['bias']))
  np.testing.assert_allclose(image, want, atol=1e-3)


# Minibatches: the same numbers in less memory. Attention makes examples' maps interact in space.
ORACLE = {
  'network': models,
  'resolution': 16,
  'ch': 4,
  'z_dim': 9,
  'shared_dim': 4,
  'attention': (16,),
  'channels': 1,
}


# 16 examples. The first case unrolls the loop as on CPUs; the last has two parts of the two
# examples of each of eight devices.
@pytest.mark.parametrize(
  ('num_devices', 'rolled', 'how'),
  [
    (None, False, {'microbatches': 2}),
    (None, True, {'microbatches': 4, 'remat': True}),
    (None, True, {'remat': True}),
    (8, True, {'microbatches': 2}),
  ],
)
def test_microbatches_and_remat_change_no_gradient(x64, num_devices, rolled, how):
  got = loss_and_gradients(num_devices=num_devices, rolled=rolled, **ORACLE, **how)
  want = loss_and_gradients(num_devices=None, rolled=True, **ORACLE)
  assert_same_gradients(got, want, rtol=1e-10)


def test_microbatches_of_groups_change_no_gradient_but_groups_do(x64):
  # BatchNorm over half the batch is another network: the test above has teeth. Parts of four
  # examples within groups of eight are that other network.
  whole, half, parts = (
    loss_and_gradients(num_devices=None, rolled=True, **ORACLE, **how)
    for how in ({}, {'bn_group': 8}, {'bn_group': 8, 'microbatches': 4})
  )
  assert abs(half[0] / whole[0] - 1) > 1e-3
  for path, grad in whole[1].items():
    if path.endswith('kernel'):
      assert np.linalg.norm(half[1][path] - grad) > 1e-3 * np.linalg.norm(grad), path
  assert_same_gradients(parts, half, rtol=1e-10)


@pytest.mark.parametrize(('num', 'size'), [(3, 4), (2, 1)])
def test_microbatches_that_do_not_divide_the_batch_are_refused(num, size):
  net, params = small_gen()
  z, y = f32(size, 9), jax.ShapeDtypeStruct((size,), jnp.int32)
  run = lambda p, z, y: net.clone(microbatches=num).apply({'params': p}, z, y, train=True)
  with pytest.raises(errors.UserError, match=f'{num}, which does not divide the {size} examples'):
    jax.eval_shape(run, params, z, y)


def reductions(jaxpr, looped=False):
  """Yield (inside a loop?, operand shapes) of every all-reduce of a jaxpr."""
  for eqn in jaxpr.eqns:
    if 'psum' in eqn.primitive.name:
      yield looped, [v.aval.shape for v in eqn.invars]
    for value in eqn.params.values():
      for inner in value if isinstance(value, (tuple, list)) else (value,):
        inner = getattr(inner, 'jaxpr', inner)
        if hasattr(inner, 'eqns'):
          yield from reductions(inner, looped or eqn.primitive.name == 'scan')


def test_microbatches_repeat_no_collective(monkeypatch):
  # BatchNorm's moments, and their cotangents, travel once per update and not once per part.
  monkeypatch.setattr(microbatches, 'scan', jax.lax.scan)
  net, params = small_gen()
  net = net.clone(microbatches=2)
  loss = lambda p, shared, z: (
    jnp.square(net.apply({'params': p}, z, jnp.zeros((4,), jnp.int32), train=True)).mean(),
    {},
  )
  with jax.set_mesh(parallel.make_mesh()):
    jaxpr = jax.make_jaxpr(parallel.value_and_grad(loss))(params, {}, latents(32, 9)).jaxpr
  found = list(reductions(jaxpr))
  assert len(found) > len(jax.tree.leaves(params))
  assert not [shapes for looped, shapes in found if looped]


@pytest.mark.parametrize('network', NETWORKS.values(), ids=NETWORKS)
def test_every_matrix_starts_orthogonal_and_every_bias_at_zero(network, monkeypatch):
  # T38, T39, at full size: how each parameter is drawn. test_layers.py has what the draws are.
  drawn, param = {}, nn.Module.param

  def spy(self, name, init, *args, **kwargs):
    drawn['/'.join([*self.scope.path, name])] = init
    return param(self, name, init, *args, **kwargs)

  monkeypatch.setattr(nn.Module, 'param', spy)
  for player, shapes in (('gen', gen_shapes), ('disc', disc_shapes)):
    drawn.clear()
    params = trees.flat(shapes.__wrapped__(128, network=network))
    assert drawn.keys() == params.keys()
    for path, leaf in params.items():
      name = path.rsplit('/', 1)[-1]
      one_dim = {'bias': nn.initializers.zeros, 'gamma': nn.initializers.zeros}
      one_dim['gain'] = nn.initializers.ones
      assert drawn[path] is (layers.orthogonal if leaf.ndim > 1 else one_dim[name]), (player, path)


# The discriminator


def disc_block(features, down, first, x):
  """A block with the residual branch zeroed: what is left is the shortcut, and its parameters."""
  block = residual.DiscBlock(features, down, first, models.FAST, jnp.float32)
  shapes = jax.eval_shape(lambda x: block.init(jax.random.key(0), x)['params'], x)
  zeroed = lambda path, w: w if 'conv_sc' in path else 0 * w
  params = trees.map_paths(zeroed, jax.device_get(weights(shapes)))
  return np.asarray(jax.jit(block.apply)({'params': params}, x)), params


def test_block_that_keeps_its_shape_has_an_identity_shortcut():
  # T26: the last block, 16ch -> 16ch without pooling. T24: the shortcut sees x before the ReLU, so
  # negative values come through (an in-place ReLU lost them).
  x = np.asarray(pictures(2, 4, 6))
  out, params = disc_block(6, down=False, first=False, x=x)
  assert 'conv_sc' not in params
  np.testing.assert_array_equal(out, x)  # 0 where the skip is missing, as in compare_gan
  assert np.abs(out - np.maximum(x, 0)).max() > 0.5


@pytest.mark.parametrize('first', [False, True])
@pytest.mark.parametrize(('cin', 'down'), [(6, True), (3, True), (3, False)])
def test_other_blocks_have_a_learned_shortcut(cin, down, first):
  # Section 1.3: 1x1 where the width changes or the block pools, equal width included; T24 again:
  # of these inputs a ReLU would leave nothing but the bias.
  x = -np.abs(pictures(2, 4, cin))
  out, params = disc_block(6, down, first, x)
  kernel, bias = (np.asarray(params['conv_sc'][name]) for name in ('kernel', 'bias'))
  pooled = np.asarray(x).reshape(2, 2, 2, 2, 2, cin).mean((2, 4)) if down else np.asarray(x)
  np.testing.assert_allclose(out, pooled @ kernel[0, 0] + bias, atol=1e-5)


def test_residual_branch_rectifies_except_in_the_first_block():
  # T25: no ReLU on the image. With x < 0 everywhere a rectified branch sees only zeros.
  x = -np.abs(pictures(2, 4, 3)) - 0.1

  def branch(first):
    block = residual.DiscBlock(6, True, first, models.FAST, jnp.float32)
    shapes = jax.eval_shape(lambda x: block.init(jax.random.key(0), x)['params'], x)
    zeroed = lambda path, w: 0 * w if 'conv_sc' in path else w
    params = trees.map_paths(zeroed, jax.device_get(weights(shapes)))
    apply = jax.jit(block.apply)
    return np.abs(np.asarray(apply({'params': params}, x)) - apply({'params': params}, 2 * x)).max()

  assert branch(first=True) > 1e-2
  assert branch(first=False) == 0


def test_discriminator_tells_negative_images_apart():
  # T25 for the whole network, shortcut removed so that only the residual branch can tell.
  net, params = small_disc()
  params['blocks_0']['conv_sc'] = jax.tree.map(np.zeros_like, params['blocks_0']['conv_sc'])
  run = jax.jit(lambda x: net.apply({'params': params}, x, np.zeros(3, np.int32)))
  x = -np.abs(pictures(3, 16))
  scores = np.asarray(run(x))
  assert len(np.unique(scores)) == 3
  x[:, 5, 5] *= -1
  assert (np.abs(run(x) - scores) > 1e-4).all()


def test_features_are_summed_over_the_map():
  # T29: a pointwise network (3x3 kernels 0, so only the 1x1 shortcuts are left) on an image tiled
  # 2x2 sees each feature four times; a mean would see no difference.
  net, params = small_disc()
  zero = lambda path, w: 0 * w if '/conv1/' in path or '/conv2/' in path else w
  params = trees.map_paths(zero, jax.device_get(params))
  x, y = pictures(3, 16), np.array([0, 1, 2])
  apply = jax.jit(lambda x: net.apply({'params': params}, x, y))
  bias = params['linear']['bias'][0]
  one, four = (np.asarray(apply(images)) - bias for images in (x, np.tile(x, (1, 2, 2, 1))))
  assert np.abs(one).min() > 1e-3
  np.testing.assert_allclose(four, 4 * one, rtol=1e-4)


def test_head_is_linear_plus_projection():
  # Section 1.3 and T30: D(x, y) = w . h + b + <V[y], h>, h the sum over H, W of ReLU(features).
  net, params = small_disc()
  x, y = pictures(4, 16), np.array([0, 2, 1, 2])

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
  want = h @ w + float(params['linear']['bias'][0]) + (table[y] * h).sum(1)
  np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-4)
  other = np.array([1, 0, 1, 0])
  difference = ((table[y] - table[other]) * h).sum(1)
  found = np.asarray(logits) - np.asarray(run(other)[0])
  np.testing.assert_allclose(found, difference, rtol=1e-4, atol=1e-4)
  assert difference[2] == 0 and np.abs(difference[[0, 1, 3]]).min() > 1e-3


# bfloat16


@pytest.mark.parametrize(('make', 'kwargs'), [(small_gen, {'train': True}), (small_disc, {})])
def test_all_bfloat16_compute_gives_float32_images_and_logits(make, kwargs):
  # T13: compute in bfloat16; parameters, and what leaves the networks, in float32.
  fields, y = {'attention': (8,), 'ch': 8}, np.array([0, 1, 2, 0])
  x = latents(4, 9) if make is small_gen else pictures(4, 16)
  (net, params), (half, _) = make(**fields), make(**fields, dtype=jnp.bfloat16)
  full_run = lambda p, x: net.apply({'params': p}, x, y, **kwargs)
  half_run = lambda p, x: half.apply({'params': p}, x, y, **kwargs)
  init = lambda x: half.init(jax.random.key(0), x, y, **kwargs)['params']
  assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(init, x))} == {jnp.dtype('float32')}
  assert convolution_dtypes(half_run, params, x) == {'bf16'}
  got, want = jax.device_get(jax.jit(lambda *of: (half_run(*of), full_run(*of)))(params, x))
  assert got.dtype == jnp.float32
  error = np.abs(got - want)
  assert 0 < error.max() < 0.5 * np.std(want) and error.mean() < 0.1 * np.std(want)
