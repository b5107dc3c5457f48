"""PGGAN's networks: counts, growth, the rows of Table 1, and the official code's numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import trees
from bigjax.models import pggan
from bigjax.nn import kernels, layers
from bigjax.nn.objectives import losses, regularizers, scores
from bigjax.nn.style import equalized, minibatch

import pggan_arrays
from counts import num_params
from golden_files import golden, under
from networks import convolution_dtypes, f32, latents, pictures, weights

LABELS = jax.ShapeDtypeStruct((4,), jnp.int32)
SMALL = {'fmap_base': 64, 'fmap_max': 8, 'kernels': kernels.PLAIN}
FIRST_ROWS = (
  {'norm': 'batch', 'activation': 'relu', 'tanh': True, 'normalize_latents': False},
  {'norm': 'layer', 'stddev_features': 0},
)


@functools.cache
def gen_shapes(resolution, **fields):
  net = pggan.Generator(resolution, **fields)
  init = lambda z, y: net.init(jax.random.key(0), z, y, 2)['params']
  return jax.eval_shape(init, f32(4, net.num_latents), LABELS)


@functools.cache
def disc_shapes(resolution, **fields):
  net = pggan.Discriminator(resolution, **fields)
  init = lambda x: net.init(jax.random.key(0), x, 2)['params']
  return jax.eval_shape(init, f32(4, 4, 4, 3))


TABLE_1 = {'fmap_base': 2048}
CIFAR = {'fmap_base': 4096, 'fmap_max': 128}


@pytest.mark.parametrize(
  ('resolution', 'gen_fields', 'disc_fields', 'gen', 'disc'),
  [
    # The official code's own counts.
    (1024, {}, {}, 23_079_115, 23_087_249),
    (256, {}, {}, 23_044_309, 23_052_353),
    (128, TABLE_1, TABLE_1, 13_629_810, 13_636_897),
    (32, CIFAR, CIFAR, 1_296_908, 1_298_689),
    (32, {}, {}, 20_719_628, 20_726_785),
    (32, {'num_classes': 10}, {'num_classes': 10}, 20_801_548, 20_731_915),
    (16, {'fmap_base': 256, 'fmap_max': 32}, {'fmap_base': 256, 'fmap_max': 32}, 62_953, 63_361),
    # Table 1's rows d, e* and a, by arithmetic.
    (128, TABLE_1, {**TABLE_1, 'stddev_features': 0}, 13_629_810, 13_632_289),
    (
      128, TABLE_1, {**TABLE_1, 'stddev_features': 0, 'discrimination': 100}, 13_629_810,
      13_888_989,
    ),
    (
      128, {**TABLE_1, 'z_dim': 128, 'norm': 'batch'},
      {**TABLE_1, 'stddev_features': 0, 'norm': 'layer'}, 10_487_090, 13_632_301,
    ),
  ],
)  # fmt: skip
def test_parameter_counts(resolution, gen_fields, disc_fields, gen, disc):
  assert num_params(gen_shapes(resolution, **gen_fields)) == gen
  assert num_params(disc_shapes(resolution, **disc_fields)) == disc


def test_initial_kernels_have_unit_variance():
  net = pggan.Generator(8, fmap_base=256, fmap_max=64)
  init = lambda: net.init(jax.random.key(0), latents(1, 64), np.zeros(1, np.int32), 2)
  params = jax.device_get(jax.jit(init)()['params'])
  for path, w in trees.flat(params).items():
    if path.endswith('kernel') and w.size > 1000:
      assert abs(np.std(w) - 1) < 0.05, path
    if path.endswith('bias'):
      assert not np.any(w), path
  scaled = lambda params: equalized.scale(params, pggan.GEN_GAINS)
  factors = {
    path: float(w.max() / trees.flat(params)[path].max())
    for path, w in trees.flat(jax.jit(scaled)(params)).items()
    if path.endswith('kernel')
  }
  want = dict.fromkeys(factors, (2 / (9 * 64)) ** 0.5) | {
    '4x4/Dense/kernel': (2 / (16 * 64)) ** 0.5,
    'ToRGB_lod0/kernel': (1 / 64) ** 0.5,
    'ToRGB_lod1/kernel': (1 / 64) ** 0.5,
  }
  assert factors == pytest.approx(want, rel=1e-5)
  gain = lambda path: pggan.DISC_GAINS(path, None)
  assert gain('4x4/Dense1/kernel') == 1 and gain('4x4/Discrimination/theta') is None
  assert gain('4x4/Dense0/kernel') == gain('FromRGB_lod0/kernel') == 2**0.5


# --- growth


class Small:
  """Both networks at 16 px, with few maps."""

  def __init__(self, gen=None, disc=None):
    self.gen = pggan.Generator(16, **SMALL, **(gen or {}))
    self.disc = pggan.Discriminator(16, **SMALL, **(disc or {}))
    self.gen_params = weights(gen_shapes(16, **SMALL, **(gen or {})))
    self.disc_params = weights(disc_shapes(16, **SMALL, **(disc or {})))
    self.z, self.y = latents(4, self.gen.num_latents), np.arange(4, dtype=np.int32) % 2

    self.of_gen = jax.jit(self.apply_gen, static_argnums=1)
    self.of_disc = jax.jit(self.apply_disc, static_argnums=2)

  def apply_gen(self, params, level, alpha):
    return self.gen.apply({'params': params}, self.z, self.y, level, alpha, mutable=['moments'])[0]

  def apply_disc(self, params, images, level, alpha):
    return self.disc.apply({'params': params}, images, level, alpha)[0]

  def images(self, level, alpha, params=None):
    params = self.gen_params if params is None else params
    return self.of_gen(params, level, jnp.float32(alpha))

  def scores(self, images, level, alpha, params=None):
    params = self.disc_params if params is None else params
    return self.of_disc(params, images, level, jnp.float32(alpha))


GAMES = {'paper': ({}, {}), 'tf': ({}, {'order': 'tf'}), 'first rows': FIRST_ROWS}


@pytest.mark.parametrize('game', GAMES)
def test_a_fade_changes_nothing_at_its_ends(game):
  nets = Small(*GAMES[game])
  double = lambda x: np.asarray(x).repeat(2, 1).repeat(2, 2)
  before, after = nets.images(2, 1), nets.images(3, 1)
  assert before.shape == (4, 4, 4, 3) and after.shape == (4, 8, 8, 3)
  np.testing.assert_array_equal(nets.images(3, 0), double(before))
  np.testing.assert_allclose(nets.images(3, 0.5), (double(before) + after) / 2, atol=1e-6)
  images = pictures(4, 4)
  before = nets.scores(images, 2, 1)
  np.testing.assert_allclose(nets.scores(double(images), 3, 0), before, rtol=1e-5)
  assert np.abs(nets.scores(double(images), 3, 0.5) - before).max() > 1e-4


def test_without_a_fade_the_block_before_is_not_asked():
  """And the result is that of a fade's end."""
  nets = Small()
  images = pictures(4, 8)
  alone = jax.jit(lambda p: nets.apply_gen(p, 3, 1.0))
  np.testing.assert_allclose(nets.images(3, 1), alone(nets.gen_params), atol=1e-5)
  judged = jax.jit(lambda p: nets.apply_disc(p, images, 3, 1.0))
  np.testing.assert_allclose(
    nets.scores(images, 3, 1), judged(nets.disc_params), rtol=1e-4, atol=1e-5
  )
  text = lambda fn, *args: str(jax.make_jaxpr(fn)(*args))
  num = lambda text: text.count('conv_general_dilated[')
  fading = lambda p, alpha: nets.apply_disc(p, images, 3, alpha)
  assert num(text(fading, nets.disc_params, 0.5)) == 1 + num(text(judged, nets.disc_params))


def names_with_gradients(grads):
  return {path.split('/')[0] for path, g in trees.flat(grads).items() if np.any(g)}


@functools.cache
def slopes():
  """(level, both parameters, images, alpha) -> gradients of both networks; alpha is traced."""
  nets = Small()

  def grads(level, gen_params, disc_params, images, alpha):
    made = lambda p: jnp.square(nets.apply_gen(p, level, alpha)).sum()
    judged = lambda p: nets.apply_disc(p, images, level, alpha).sum()
    return jax.grad(made)(gen_params), jax.grad(judged)(disc_params)

  return jax.jit(grads, static_argnums=0)


@pytest.mark.parametrize(
  ('level', 'alpha', 'blocks', 'lods'),
  [
    (2, 1.0, {'4x4'}, {2}),
    (3, 0.4, {'4x4', '8x8'}, {1, 2}),
    (3, 0.0, {'4x4'}, {2}),  # at the very start of the fade, exactly
    (3, 1.0, {'4x4', '8x8'}, {1}),
    (4, 0.4, {'4x4', '8x8', '16x16'}, {0, 1}),
  ],
)
def test_gradients_of_blocks_not_yet_there_are_zero(level, alpha, blocks, lods):
  nets, grads = Small(), slopes()
  gen, disc = grads(level, nets.gen_params, nets.disc_params, pictures(4, 2**level), alpha)
  assert names_with_gradients(gen) == blocks | {f'ToRGB_lod{lod}' for lod in lods}
  assert names_with_gradients(disc) == blocks | {f'FromRGB_lod{lod}' for lod in lods}


def test_one_program_serves_a_whole_fade():
  nets = Small()
  images = [nets.images(3, alpha) for alpha in (0.0, 0.5, 1.0)]
  assert nets.of_gen._cache_size() == 1 and np.abs(images[0] - images[2]).max() > 0.1


def test_images_of_another_size_are_refused():
  nets = Small()
  with pytest.raises(ValueError, match='images of 8 px at level 3'):
    nets.scores(pictures(4, 16), 3, 1)


# --- options


def test_the_label_joins_before_or_after_the_norm():
  z, y = latents(2, 6), np.array([2, 0])
  small = lambda classes=3, **how: pggan.Generator(8, classes, **SMALL, z_dim=6, **how)
  inputs = lambda **how: jax.jit(small(**how).inputs)(z, y)
  normed = jax.jit(layers.pixel_norm)(z)
  np.testing.assert_allclose(inputs()[:, :6], normed, rtol=1e-6)
  assert inputs()[:, 6:].tolist() == [[0, 0, 1], [1, 0, 0]]
  both = np.concatenate([z, np.eye(3)[y]], -1)
  found = inputs(normalize_labels=True)
  np.testing.assert_allclose(found, both / np.sqrt(np.square(both).mean(1, keepdims=True)), 1e-6)
  np.testing.assert_array_equal(inputs(normalize_latents=False), both)
  mixed = jax.jit(small().inputs)(z, np.full((2, 3), 1 / 3, np.float32))
  np.testing.assert_allclose(mixed[:, 6:], 1 / 3)
  alone = inputs(classes=1)
  np.testing.assert_allclose(alone, normed, rtol=1e-6)


def test_the_first_rows_of_table_1():
  nets = Small(*FIRST_ROWS)
  blocks = nets.gen_params['8x8']
  assert set(blocks) == {'Conv0', 'BN0', 'Conv1', 'BN1'} and 'bias' not in blocks['Conv0']
  norms = nets.disc_params['8x8']['LN0']
  assert norms['gain'].shape == () and norms['bias'].shape == (8,)
  loud = jax.tree.map(lambda w: 10 * np.asarray(w), nets.gen_params)
  images = nets.images(4, 0.5, loud)
  assert 0.9 < np.abs(images).max() <= 1
  # BatchNorm and ReLU: of each map, moments 0 and 1 before it
  see = lambda params: nets.gen.apply(
    {'params': params}, nets.z, nets.y, 3, 1.0, mutable=['moments', 'intermediates'],
    capture_intermediates=lambda module, _: isinstance(module, layers.BatchNorm),
  )  # fmt: skip
  _, seen = jax.jit(see)(nets.gen_params)
  (x,) = seen['intermediates']['8x8']['BN1']['__call__']
  x = (np.asarray(x) - np.asarray(blocks['BN1']['bias'])) / np.asarray(blocks['BN1']['gain'])
  np.testing.assert_allclose(x.mean((0, 1, 2)), 0, atol=1e-4)
  np.testing.assert_allclose(x.std((0, 1, 2)), 1, rtol=1e-2)
  # LayerNorm: a critic's score is of its own image alone
  images = np.array(pictures(4, 16))
  scores = np.asarray(nets.scores(images, 4, 1))
  images[0] = 0.5
  others = np.asarray(nets.scores(images, 4, 1))
  np.testing.assert_allclose(others[1:], scores[1:], rtol=1e-5)
  assert abs(others[0] - scores[0]) > 1e-4


def test_discrimination_is_of_the_batch_and_fitted_to_data():
  how = {'stddev_features': 0, 'discrimination': 5}
  nets = Small(disc=how)
  images = pictures(4, 8)
  scores, other = np.asarray(nets.scores(images, 3, 1)), np.array(images)
  other[0] = 0.5
  assert np.abs(nets.scores(other, 3, 1) - scores)[1:].max() > 1e-4
  given = jax.jit(lambda p: pggan.fitted(nets.disc, p, images, 3))(nets.disc_params)
  assert set(given) == {f'4x4/Discrimination/{name}' for name in ('theta', 'log_scale', 'bias')}
  params = trees.map_paths(lambda path, w: given.get(path, w), nets.disc_params)
  see = lambda p: nets.disc.apply({'params': p}, images, 3, mutable=['features'])[1]
  seen = jax.jit(see)(params)
  layer = minibatch.MinibatchDiscrimination(5)
  own = {'params': params['4x4']['Discrimination']}
  (h,) = seen['features']['4x4']['of']
  distances = jax.jit(functools.partial(layer.apply, method='distances'))(own, h)
  np.testing.assert_allclose(np.min(distances, -1).mean(0), 2, rtol=1e-4)


def test_convolutions_in_bfloat16_and_remat():
  how = {'fmap_base': 64, 'fmap_max': 16, 'dtype': jnp.bfloat16, 'remat': True, 'num_classes': 3}
  gen, disc = pggan.Generator(16, **how), pggan.Discriminator(16, **how)
  of_gen, of_disc = gen_shapes(16, **how), disc_shapes(16, **how)

  def run(gen_params, disc_params, z, y, alpha):
    images = gen.apply({'params': gen_params}, z, y, 4, alpha)
    return images, *disc.apply({'params': disc_params}, images, 4, alpha)

  args = of_gen, of_disc, f32(4, 16), LABELS, f32()
  images, score, logits = jax.eval_shape(run, *args)
  assert images.shape == (4, 16, 16, 3) and score.shape == (4,) and logits.shape == (4, 3)
  assert images.dtype == score.dtype == logits.dtype == jnp.float32
  assert convolution_dtypes(run, *args) == {'bf16'}
  plain = pggan.Discriminator(16, **SMALL)
  saving = pggan.Discriminator(16, **SMALL, remat=True)
  params, x = weights(disc_shapes(16, **SMALL)), pictures(4, 16)
  scores = lambda net: jax.jit(lambda p: jax.value_and_grad(
    lambda p: net.apply({'params': p}, x, 4, 0.5)[0].sum())(p))(params)  # fmt: skip
  for ours, want in zip(*map(jax.tree.leaves, (scores(saving), scores(plain))), strict=True):
    np.testing.assert_allclose(ours, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


# --- the official code's numbers


class Official:
  """Both networks of a golden file in float64, and its losses."""

  def __init__(self, name):
    self.arrays = golden(name)
    self.cfg = under(self.arrays, 'cfg/')
    how = {
      'num_classes': max(int(self.cfg['lab']), 1),
      'fmap_base': int(self.cfg['base']),
      'fmap_max': int(self.cfg['fmax']),
      'dtype': jnp.float64,
      'kernels': kernels.PLAIN,
    }
    order = 'tf' if self.cfg['fused'] else 'theano'
    self.gen = pggan.Generator(int(self.cfg['res']), normalize_labels=True, **how)
    self.disc = pggan.Discriminator(
      int(self.cfg['res']), order=order, stddev_group=int(self.cfg['mb']), **how
    )
    self.params = {net: pggan_arrays.params_in(under(self.arrays, f'{net}/')) for net in 'GD'}

  def input(self, name):
    a = self.arrays[f'in/{name}']
    if name.endswith('c'):
      return a.argmax(1).astype(np.int32)
    return (a.transpose(0, 2, 3, 1) if a.ndim == 4 else a).astype(np.float64)

  def labels(self, name):
    return self.input(name) if self.cfg['lab'] else np.zeros(int(self.cfg['n']), np.int32)

  def stage(self, lod):
    """(level, alpha); lod is a float32 in the official code."""
    lod = np.float32(lod)
    level = int(np.log2(self.cfg['res'])) - int(lod)
    return level, 1 - (np.float64(lod) - np.floor(lod))

  def images(self, params, z, y, lod):
    params = equalized.scale(params, pggan.GEN_GAINS)
    return self.gen.apply({'params': params}, z, y, *self.stage(lod))

  def said(self, params, images, lod):
    params = equalized.scale(params, pggan.DISC_GAINS)
    return self.disc.apply({'params': params}, images, *self.stage(lod))

  def class_term(self, said, labels):
    return losses.class_entropy(said[1], labels).mean() if self.cfg['lab'] else 0.0

  def gen_loss(self, params):
    lod, y = self.cfg['main'], self.labels('Gloss/c')
    said = self.said(self.params['D'], self.images(params, self.input('Gloss/z'), y, lod), lod)
    return losses.hinge_gen(said[0]) + self.class_term(said, y)

  def disc_loss(self, params):
    """(WGAN-GP with target gamma, drift and the class terms; {its parts})."""
    lod, y, gamma = float(self.cfg['main']), self.labels('real_c'), float(self.cfg['tgt'])
    real = self.input(f'lod{lod}/real')
    fake = self.images(self.params['G'], self.input('Dloss/z'), y, lod)
    of_real, of_fake = self.said(params, real, lod), self.said(params, fake, lod)
    wgan = sum(losses.wasserstein_disc(of_real[0], of_fake[0]))
    mixed = regularizers.between(real, fake, self.input('Dloss/mix_u'))
    slopes = scores.slopes(lambda x: self.said(params, x, lod)[0], mixed)
    penalty = float(self.cfg['lam']) / gamma**2 * jnp.square(slopes - gamma).mean()
    drift = regularizers.drift(float(self.cfg['eps']))(of_real[0]).mean()
    classes = self.class_term(of_real, y) + self.class_term(of_fake, y)
    return wgan + penalty + drift + classes, {'wgan': wgan, 'wgan_plus_gp': wgan + penalty}


FILES = ('pggan', 'pggan_acgan')


def close(ours, theirs):
  """Within 1e-5 of the maximum, in float64."""
  theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs
  theirs = theirs.reshape(np.shape(ours))
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize('name', FILES)
def test_images_and_scores_at_every_lod(name, x64):
  nets = Official(name)
  for lod in map(float, nets.cfg['lods']):
    run = jax.jit(
      lambda gen, disc, z, y, x, lod=lod: (nets.images(gen, z, y, lod), nets.said(disc, x, lod))
    )
    given = nets.input('z'), nets.labels('c'), nets.input(f'lod{lod}/real')
    images, (score, logits) = run(nets.params['G'], nets.params['D'], *given)
    close(images, nets.arrays[f'out/lod{lod}/img'])
    close(score, nets.arrays[f'out/lod{lod}/d_real'])
    assert (logits is None) == (name == 'pggan')
    if logits is not None:
      close(logits, nets.arrays[f'out/lod{lod}/d_real_labels'])


@pytest.mark.parametrize('name', [pytest.param('pggan', marks=pytest.mark.slow), 'pggan_acgan'])
def test_losses_and_gradients(name, x64):
  """Losses to 1e-9, gradients to 1e-5 of max(a tensor's norm, 1e-4 of the network's)."""
  nets = Official(name)

  @jax.jit
  def run(gen, disc):
    return (
      jax.value_and_grad(nets.gen_loss)(gen),
      jax.value_and_grad(nets.disc_loss, has_aux=True)(disc),
    )

  (gen_loss, gen_grads), ((disc_loss, parts), disc_grads) = run(nets.params['G'], nets.params['D'])
  out = under(nets.arrays, 'out/')
  np.testing.assert_allclose(gen_loss, out['Gloss/loss'], rtol=1e-9)
  np.testing.assert_allclose(disc_loss, out['Dloss/loss'], rtol=1e-9)
  for part, value in parts.items():
    np.testing.assert_allclose(value, out[f'Dloss/{part}'], rtol=1e-9)
  for net, found in (('G', gen_grads), ('D', disc_grads)):
    wanted = trees.flat(pggan_arrays.params_in(under(nets.arrays, f'grad_{net}/')))
    found = trees.flat(found)
    assert set(found) == set(wanted)
    whole = np.sqrt(sum(np.square(g).sum() for g in wanted.values()))
    for path, want in wanted.items():
      error = np.linalg.norm(found[path] - want)
      assert error <= 1e-5 * max(np.linalg.norm(want), 1e-4 * whole), (net, path)
