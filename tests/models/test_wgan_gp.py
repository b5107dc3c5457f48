"""WGAN-GP's networks: counts, critics that mix nothing, and the numbers of critic_penalties."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import errors
from bigjax.models import wgan_gp, wgan_gp_resnet101
from bigjax.nn import kernels, layers
from bigjax.sampling.importers import biggan_pytorch

from counts import num_params
from golden_files import golden, under
from networks import (
  LABELS,
  convolution_dtypes,
  disc_shapes,
  f32,
  gen_shapes,
  pictures,
  weights,
)

NETWORKS = {'wgan_gp': wgan_gp, 'resnet101': wgan_gp_resnet101}


@pytest.mark.parametrize(
  ('network', 'resolution', 'classes', 'fields', 'gen', 'disc'),
  [
    # By arithmetic, from the layers of the authors' code.
    ('wgan_gp', 32, 1, {}, 1_204_483, 1_053_825),  # SN-GAN's D32, and a last bias
    ('wgan_gp', 64, 1, {'ch': 64}, 8_540_483, 7_491_841),
    ('resnet101', 64, 1, {}, 9_189_587, 7_618_801),
  ],
)
def test_parameter_counts(network, resolution, classes, fields, gen, disc):
  network = NETWORKS[network]
  assert num_params(gen_shapes(resolution, classes, network=network, **fields)) == gen
  assert num_params(disc_shapes(resolution, classes, network=network, **fields)) == disc


def test_a_head_and_tables_for_ten_classes():
  head = disc_shapes(32, 10, network=wgan_gp, class_head=True)
  assert {k: s.shape for k, s in head['classes'].items()} == {'kernel': (128, 10), 'bias': (10,)}
  gen = gen_shapes(32, 10, network=wgan_gp)
  more = num_params(gen) - num_params(gen_shapes(32, 1, network=wgan_gp))
  assert more == 6 * 2 * 128 * 9  # six conditional BatchNorms; the last one knows no class
  net = wgan_gp.Discriminator(16, 3, ch=2, class_head=True)
  params = disc_shapes(16, 3, network=wgan_gp, ch=2, class_head=True)
  images, y = pictures(4, 16), jnp.arange(4) % 3
  score, logits = jax.eval_shape(lambda p: net.apply({'params': p}, images, y), params)
  assert score.shape == (4,) and logits.shape == (4, 3) and logits.dtype == jnp.float32


def test_a_head_without_classes_is_refused():
  wgan_gp.check_disc_options({'class_head': True}, 10)
  with pytest.raises(errors.UserError, match='class_head is True, but the networks are uncond'):
    wgan_gp.check_disc_options({'class_head': True}, 1)


def test_101_layers():
  shapes = disc_shapes(64, 1, network=wgan_gp_resnet101)
  blocks = [name for name in shapes if name.startswith('blocks_')]
  assert 3 * len(blocks) + 2 == 101
  gen = gen_shapes(64, 1, network=wgan_gp_resnet101)
  assert gen['blocks_0']['conv1']['kernel'].shape == (1, 1, 512, 256)
  assert gen['blocks_6']['conv_sc']['kernel'].shape == (1, 1, 512, 4 * 256)
  assert gen['blocks_32']['conv1b']['kernel'].shape == (3, 3, 16, 16)
  assert 'bias' not in gen['blocks_0']['conv2'] and 'bias' in gen['blocks_0']['conv1b']
  assert wgan_gp_resnet101.gen_maps(64) == {8: 8, 16: 4, 32: 2, 64: 1}
  assert wgan_gp_resnet101.disc_maps(64) == {32: 2, 16: 4, 8: 8, 4: 16}


def test_only_what_changes_the_resolution_is_strided():
  """So that whatever looks for `layers.Conv`, as PConv does, finds the 3x3 of most blocks."""
  found = {}
  for resample in ('none', 'down'):
    how = {'norm': None, 'microbatches': 1, 'kernels': kernels.PLAIN, 'dtype': jnp.float32}
    block = wgan_gp_resnet101.Bottleneck(4, 4, resample, **how)
    init = lambda x, block=block: block.init(jax.random.key(0), x, None, True)
    shapes = jax.eval_shape(init, f32(1, 4, 4, 4))
    found[resample] = type(block.bind(shapes).conv1b)
  assert found == {'none': layers.Conv, 'down': wgan_gp_resnet101.StridedConv}


def test_transposed_convolution_is_that_of_the_strided_one():
  """And the strided one pads below and to the right only, as TensorFlow does."""
  x, kernel = pictures(2, 8, 3), np.random.default_rng(1).normal(size=(3, 3, 5, 3))
  kernel = kernel.astype(np.float32)
  strided = lambda y: kernels.PLAIN.conv(y, kernel, 2)
  (want,) = jax.jit(jax.linear_transpose(strided, f32(2, 16, 16, 5)))(x)
  transposed = jax.jit(wgan_gp_resnet101.transposed)
  ours = transposed(x, kernel.swapaxes(2, 3)[::-1, ::-1].copy())
  flipped = transposed(x, kernel.swapaxes(2, 3).copy())
  assert ours.shape == want.shape
  np.testing.assert_allclose(flipped, want, rtol=1e-4, atol=1e-5)
  assert np.abs(np.asarray(ours) - want).max() > 0.1
  image, ones = np.zeros((1, 4, 4, 1), np.float32), np.ones((3, 3, 1, 1), np.float32)
  image[0, 0, 0, 0] = 1
  summed = np.asarray(jax.jit(lambda x: kernels.PLAIN.conv(x, ones, 2))(image))
  assert summed[0, :, :, 0].tolist() == [[1, 0], [0, 0]]


def test_depth_to_space():
  x = jnp.arange(8.0).reshape(1, 1, 1, 8)
  assert wgan_gp_resnet101.depth_to_space(x)[0].tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


@pytest.mark.parametrize('network', NETWORKS.values(), ids=NETWORKS)
def test_scores_are_of_their_own_image(network):
  """What a gradient penalty needs, for the nets with a norm: no example sees another."""
  net = network.Discriminator(64, 1, ch=2, kernels=kernels.PLAIN)
  params = weights(disc_shapes(64, 1, network=network, ch=2))
  score = jax.jit(lambda x: net.apply({'params': params}, x, np.zeros(3, np.int32)))
  images = np.array(pictures(3, 64))
  scores = np.asarray(score(images))
  images[1] = 0.5
  others = np.asarray(score(images))
  np.testing.assert_allclose(others[[0, 2]], scores[[0, 2]], rtol=1e-6)
  assert abs(others[1] - scores[1]) > 1e-4 and scores.dtype == jnp.float32


@pytest.mark.parametrize('network', NETWORKS.values(), ids=NETWORKS)
def test_convolutions_in_bfloat16(network):
  how = {'ch': 8, 'dtype': jnp.bfloat16, 'attention': (32,)}
  gen, disc = network.Generator(64, 1, **how), network.Discriminator(64, 1, **how)
  of_gen, of_disc = (shapes(64, 1, network=network, **how) for shapes in (gen_shapes, disc_shapes))

  def run(gen_params, disc_params, z, y):
    images = gen.apply({'params': gen_params}, z, y, train=True)
    return images, disc.apply({'params': disc_params}, images, y)

  images, scores = jax.eval_shape(run, of_gen, of_disc, f32(2, 128), LABELS)
  assert images.shape == (2, 64, 64, 3) and images.dtype == scores.dtype == jnp.float32
  assert convolution_dtypes(run, of_gen, of_disc, f32(2, 128), LABELS) == {'bf16'}


def test_fans_count_the_stride():
  for strides, fans in (((1, 1), 9 * (8 + 16)), ((1, 2), 9 * (8 + 4)), ((2, 1), 9 * (2 + 16))):
    kernel = layers.glorot(2.0, *strides)(jax.random.key(0), (3, 3, 8, 16))
    assert 0.95 < np.abs(kernel).max() / (12 / fans) ** 0.5 <= 1


def test_layer_norm():
  """Over all of a map, with a gain and a bias per channel; moments in float32."""
  x = 3 + 2 * np.asarray(pictures(2, 4, 3))
  params = {'gain': np.float32([1, 2, 3]), 'bias': np.float32([0, 0, 5])}
  jitted = jax.jit(lambda x: layers.LayerNorm().apply({'params': params}, x))
  apply = lambda x: np.asarray(jitted(x))
  over = {'axis': (1, 2, 3), 'keepdims': True}
  plain = (x - x.mean(**over)) / x.std(**over)
  np.testing.assert_allclose(apply(x), plain * [1, 2, 3] + [0, 0, 5], rtol=1e-4, atol=1e-4)
  assert apply(x.astype(jnp.bfloat16)).dtype == np.float32


# --- numbers of a port (kwotsin/mimicry), with nearest upsampling and the shortcut before the ReLU


FIRST = {'D': 1, 'G': 2}  # number of the first block


def renamed(arrays, first):
  """Arrays of the port ('block2.c1.weight', 'b5.bias', 'l1.weight') in BigGAN-PyTorch's layout."""
  names = {}
  for name in arrays:
    new = re.sub(r'^block(\d+)', lambda m: f'blocks.{int(m[1]) - first}.0', name)
    new = re.sub(r'\.c(\d|_sc)\.', lambda m: f'.conv{m[1]}.', new)
    new = re.sub(r'(\.b)(\d)\.', r'.bn\2.', new)
    new = re.sub(r'^b5', 'output_layer.0', re.sub(r'^c5', 'output_layer.2', new))
    new = re.sub(r'^l\d', 'linear', new)
    norm = '.bn' in new or new.startswith('output_layer.0')
    names[new.replace('weight', 'gain') if norm else new] = arrays[name]
  return names


def assert_gradients(grads, wanted):
  ours = biggan_pytorch.params_out(grads)
  whole = np.sqrt(sum(np.square(g).sum() for g in wanted.values()))
  for name, want in wanted.items():
    error = np.linalg.norm(ours[name] - want)
    assert error <= 1e-3 * max(np.linalg.norm(want), 1e-4 * whole), name


def test_critic_and_generator_of_the_port(x64):
  arrays = golden('critic_penalties')
  wide = lambda tree: jax.tree.map(lambda a: np.asarray(a, np.float64), tree)
  image = lambda name: wide(arrays[f'in/{name}'].transpose(0, 2, 3, 1))
  how = {'dtype': jnp.float64, 'kernels': kernels.PLAIN}
  disc = wgan_gp.Discriminator(32, 1, ch=12, **how)
  gen = wgan_gp.Generator(32, 1, ch=8, z_dim=16, **how)
  shapes = {
    'D': disc_shapes(32, 1, network=wgan_gp, ch=12),
    'G': gen_shapes(32, 1, network=wgan_gp, ch=8, z_dim=16),
  }
  theirs = {name: renamed(under(arrays, f'{name}/'), first) for name, first in FIRST.items()}
  params = {name: wide(biggan_pytorch.params_in(theirs[name], shapes[name])[0]) for name in shapes}
  z, y = wide(arrays['in/z']), np.zeros(4, np.int32)
  score = lambda p, x: disc.apply({'params': p}, x, y)
  between = wide(arrays['in/alpha'])[:, None, None, None]  # the port's weighs the real image

  def penalty(p):
    x = between * image('real') + (1 - between) * image('fake')
    slopes = jax.grad(lambda x: score(p, x).sum())(x)
    return 10 * jnp.square(jnp.sqrt(jnp.square(slopes).sum((1, 2, 3))) - 1).mean()

  def gen_loss(p):
    fake = gen.apply({'params': p}, z, y, train=True)
    return -score(params['D'], fake).mean(), fake

  out = under(arrays, 'out/')

  @jax.jit
  def run(disc, gen):
    scores = {name: score(disc, image(name)) for name in ('real', 'fake')}
    of_gen = jax.value_and_grad(gen_loss, has_aux=True)(gen)
    return scores, jax.value_and_grad(penalty)(disc), of_gen

  scores, (value, grads), of_gen = run(params['D'], params['G'])
  for name, found in scores.items():
    np.testing.assert_allclose(found, out[f'score_{name}'][:, 0], rtol=1e-6)
  np.testing.assert_allclose(value, out['gp_times10'], rtol=1e-6)
  assert_gradients(grads, renamed(under(arrays, 'grad/gp_times10/'), FIRST['D']))
  (value, fake), grads = of_gen
  np.testing.assert_allclose(value, out['wgan_g_loss'], rtol=1e-6)
  np.testing.assert_allclose(fake.transpose(0, 3, 1, 2), out['g_train'], atol=1e-5)
  assert_gradients(grads, renamed(under(arrays, 'grad/wgan_g_loss/G/'), FIRST['G']))
