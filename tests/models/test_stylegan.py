"""StyleGAN's networks: counts, growth, Table 1's rows, the official numbers (golden stylegan1)."""

import functools

import golden_style
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import trees
from bigjax.models import msggan, pggan, stylegan
from bigjax.nn import kernels
from bigjax.nn.objectives import losses, regularizers
from bigjax.nn.style import equalized
from bigjax.nn.style import stylegan as parts

from counts import num_params
from golden_files import golden, under
from networks import convolution_dtypes, f32, latents, pictures, weights

LABELS = jax.ShapeDtypeStruct((4,), jnp.int32)
SMALL = {'fmap_base': 64, 'fmap_max': 8, 'kernels': kernels.PLAIN}
MAPPING = {'z_dim': 8, 'w_dim': 8, 'mapping_features': 8, 'mapping_layers': 2}
# What Table 1's rows lack.
NO_NOISE = {'noisy': False}
NO_CONSTANT = {**NO_NOISE, 'constant': False}
NO_STYLES = {**NO_CONSTANT, 'styled': False, 'mapping_layers': 0}
ROWS = {
  'f': {}, 'd': NO_NOISE, 'c': NO_CONSTANT, 'b': NO_STYLES, 'a': {**NO_STYLES, 'blurred': False},
}  # fmt: skip


@functools.cache
def gen_shapes(resolution, level=2, **fields):
  net = stylegan.Generator(resolution, **fields)
  init = lambda z, y: net.init(jax.random.key(0), z, y, level)['params']
  return jax.eval_shape(init, f32(4, net.z_dim), LABELS)


@functools.cache
def disc_shapes(resolution, **fields):
  net = stylegan.Discriminator(resolution, **fields)
  init = lambda x, y: net.init(jax.random.key(0), x, y, 2)['params']
  return jax.eval_shape(init, f32(4, 4, 4, 3), LABELS)


@pytest.mark.parametrize(
  ('resolution', 'gen', 'disc'),
  [
    (1024, 26_219_627, 23_087_249),
    (256, 26_086_229, 23_052_353),
    (128, 25_843_858, None),
    (32, 22_841_356, 20_726_785),
  ],
)
def test_parameter_counts(resolution, gen, disc):
  """The official code's own; a network's parameters are all there at any level."""
  assert num_params(gen_shapes(resolution)) == gen
  assert gen_shapes(resolution, 3) == gen_shapes(resolution)
  assert disc is None or num_params(disc_shapes(resolution)) == disc


MAPS = 2 * (4 * 512 + 256 + 128 + 64 + 32 + 16)  # of all layers at 1024 px
STEPS = [
  ('f', 'd', MAPS),  # a noise strength of each map
  ('d', 'c', 4 * 4 * 512 - 512 * 4 * 4 * 512),  # a constant in place of a linear layer
  ('c', 'b', 8 * (512 + 1) * 512 + 2 * (512 + 1) * MAPS),  # the mapping; two numbers of each map
  ('b', 'a', 0),
]


@pytest.mark.parametrize(('row', 'before', 'added'), STEPS)
def test_what_each_row_of_table_1_adds(row, before, added):
  count = lambda row: num_params(gen_shapes(1024, **ROWS[row]))
  assert count(row) - count(before) == added


def raw(shapes, seed=0):
  """Parameters before the equalised learning rate: of unit variance."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)


def as_pggan(params):
  """The parameters of a generator without styles under PGGAN's names."""
  rename = lambda path: path.removeprefix('synthesis/').replace('Conv0_up', 'Conv0')
  return trees.nest({rename(path): w for path, w in trees.flat(params).items()})


def test_the_first_row_is_pggan():
  """Of the same parameters, the same images and scores; without blurs, which row (b) has."""
  z, y, x, at = latents(4, 8), np.zeros(4, np.int32), pictures(4, 16), (4, 0.5)
  fields = {**MAPPING, **ROWS['a'], **SMALL}
  params = raw(gen_shapes(16, **fields)), raw(disc_shapes(16, **SMALL), seed=1)

  @jax.jit
  def run(of_gen, of_disc):
    gen = {'params': equalized.scale(of_gen, stylegan.GEN_GAINS)}
    disc = {'params': equalized.scale(of_disc, stylegan.DISC_GAINS)}
    ours = [
      (
        stylegan.Generator(16, **{**fields, 'blurred': blurred}).apply(gen, z, y, *at),
        stylegan.Discriminator(16, blurred=blurred, **SMALL).apply(disc, x, y, *at),
      )
      for blurred in (False, True)
    ]
    gen = {'params': equalized.scale(as_pggan(of_gen), pggan.GEN_GAINS)}
    disc = {'params': equalized.scale(of_disc, pggan.DISC_GAINS)}
    images = pggan.Generator(16, z_dim=8, **SMALL).apply(gen, z, y, *at)
    return ours, (images, pggan.Discriminator(16, order='tf', **SMALL).apply(disc, x, *at)[0])

  (plain, blurred), theirs = run(*params)
  for ours, other, want in zip(plain, blurred, theirs, strict=True):
    np.testing.assert_allclose(ours, want, rtol=1e-4, atol=1e-5)
    assert np.abs(other - want).max() > 0.01


def test_msg_stylegan_is_of_the_same_parts():
  """Its generator's last image, and its discriminator that is given that one alone."""
  z, y, x = latents(4, 8), np.zeros(4, np.int32), pictures(4, 8)
  of_gen, of_disc = raw(gen_shapes(8, **MAPPING, **SMALL)), raw(disc_shapes(8, **SMALL), seed=1)
  noise = noise_of(4, 8)
  alone = {'scales': 'none', 'stddev_every': False, 'stddev_block': None}

  @jax.jit
  def run(of_gen, of_disc):
    gen = {'params': equalized.scale(of_gen, stylegan.GEN_GAINS)}
    disc = {'params': equalized.scale(of_disc, stylegan.DISC_GAINS)}
    last = msggan.StyleGenerator(8, **MAPPING, **SMALL).apply(gen, z, y, noise)[-1]
    score = msggan.Discriminator(8, **alone, **SMALL).apply(disc, (x[:, ::2, ::2], x), y)
    ours = stylegan.Generator(8, **MAPPING, **SMALL).apply(gen, z, y, 3, 1.0, noise)
    return (last, score), (ours, stylegan.Discriminator(8, **SMALL).apply(disc, x, y, 3))

  for theirs, ours in zip(*run(of_gen, of_disc), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_styles_reach_their_layers_alone():
  """Another style of a layer changes the image; past the level, none is looked at."""
  fields = {**MAPPING, **SMALL}
  net, params = stylegan.Generator(16, **fields), weights(gen_shapes(16, **fields))
  image = lambda ws: net.apply({'params': params}, ws, 3, method='image')
  ws = np.array(np.random.default_rng(0).normal(size=(2, 6, 8)), np.float32)
  run = jax.jit(image)
  plain = run(ws)
  for layer, counts in ((0, True), (3, True), (4, False), (5, False)):
    other = ws.copy()
    other[:, layer] += 1
    assert (np.abs(run(other) - plain).max() > 1e-3) == counts, layer


def test_mixed_styles():
  own, others = np.zeros((3, 6, 2), np.float32), np.ones((3, 2), np.float32)
  mixed = np.asarray(jax.jit(parts.mixed)(own, others, np.int32([1, 4, 6])))
  assert [int(row.sum() / 2) for row in mixed] == [5, 2, 0]  # from the cutoff on
  assert mixed[1, 3:5, 0].tolist() == [0, 1]


def test_the_law_of_cutoffs():
  """Nine in ten minibatches, at each of the layers but the first as often; otherwise after all."""
  draw = lambda share: np.asarray(
    jax.jit(lambda key: parts.mixing_cutoffs(key, (20_000,), 6, share))(jax.random.key(0))
  )
  share = np.bincount(draw(0.9), minlength=7) / 20_000
  np.testing.assert_allclose(share, [0, 0.18, 0.18, 0.18, 0.18, 0.18, 0.1], atol=0.01)
  assert set(draw(1.0)) == {1, 2, 3, 4, 5}


def noise_of(num, resolution, seed=0):
  keys = jax.random.split(jax.random.key(seed), num)
  return jax.jit(parts.noise_maps, static_argnums=1)(keys, resolution)


@functools.cache
def small():
  """(Images of a level, level, alpha) -> those of a generator at 8 px, scores of a critic."""
  gen = stylegan.Generator(8, **MAPPING, **SMALL)
  disc = stylegan.Discriminator(8, **SMALL)
  params = weights(gen_shapes(8, **MAPPING, **SMALL)), weights(disc_shapes(8, **SMALL), seed=1)
  z, y = latents(4, 8), np.zeros(4, np.int32)

  def run(gen_params, disc_params, images, level, alpha):
    image = gen.apply({'params': gen_params}, z, y, level, alpha, noise_of(4, 2**level))
    return image, disc.apply({'params': disc_params}, images, y, level, alpha)

  run = jax.jit(run, static_argnums=3)
  return lambda images, level, alpha: run(*params, images, level, jnp.float32(alpha))


def test_a_fade_begins_and_ends_without_a_jump():
  run, double = small(), lambda x: np.asarray(x).repeat(2, 1).repeat(2, 2)
  images = pictures(4, 4)
  before, judged = run(images, 2, 1)
  begun, of_begun = run(double(images), 3, 0)
  half, of_half = run(double(images), 3, 0.5)
  ended, _ = run(double(images), 3, 1)
  np.testing.assert_array_equal(begun, double(before))
  np.testing.assert_allclose(of_begun, judged, rtol=1e-5)
  np.testing.assert_allclose(half, (begun + ended) / 2, atol=1e-5)
  assert np.abs(ended - begun).max() > 0.1 and np.abs(of_half - judged).max() > 1e-4


def test_classes_compute_dtype_and_remat():
  how = {'fmap_base': 64, 'fmap_max': 16, 'dtype': jnp.bfloat16, 'remat': True, 'num_classes': 3}
  gen, disc = stylegan.Generator(16, **MAPPING, **how), stylegan.Discriminator(16, **how)

  def run(gen_params, disc_params, z, y, alpha):
    images = gen.apply({'params': gen_params}, z, y, 4, alpha)
    return images, disc.apply({'params': disc_params}, images, y, 4, alpha)

  args = gen_shapes(16, **MAPPING, **how), disc_shapes(16, **how), f32(4, 8), LABELS, f32()
  images, scores = jax.eval_shape(run, *args)
  assert images.shape == (4, 16, 16, 3) and scores.shape == (4,)
  assert images.dtype == scores.dtype == jnp.float32
  assert convolution_dtypes(run, *args) == {'bf16'}
  # A score for each class, of which the image's own counts.
  net = stylegan.Discriminator(4, num_classes=3, **SMALL)
  params, x = weights(disc_shapes(4, num_classes=3, **SMALL)), pictures(4, 4)
  score = jax.jit(lambda y: net.apply({'params': params}, x, y, 2))
  of_each = np.stack([score(np.full(4, label, np.int32)) for label in range(3)], 1)
  assert np.abs(of_each - of_each[:, :1]).max() > 1e-3
  np.testing.assert_allclose(score(np.int32([0, 1, 2, 1])), of_each[range(4), [0, 1, 2, 1]], 1e-5)


# --- the official code's numbers


class Official:
  """Both networks of the golden file in float64."""

  def __init__(self):
    self.arrays = golden('stylegan1')
    self.out = under(self.arrays, 'out/')
    how = {'fmap_base': 256, 'fmap_max': 24, 'dtype': jnp.float64, 'kernels': kernels.PLAIN}
    self.gen = stylegan.Generator(32, z_dim=20, w_dim=24, mapping_features=28, **how)
    self.disc = stylegan.Discriminator(32, stddev_group=4, **how)
    self.noise = golden_style.noise(self.arrays)
    theirs = {
      name: w
      for name, w in under(self.arrays, 'G/').items()
      if not name.startswith(('synthesis.noise', 'dlatent_avg'))
    }
    self.params_g = golden_style.nested(golden_style.stylegan(theirs))
    self.params_d = golden_style.nested(golden_style.stylegan(under(self.arrays, 'D/')))
    self.y = jnp.zeros(8, jnp.int32)

  def z(self, name=''):
    return np.asarray(self.arrays[f'in/{name}z'], np.float64)

  def alpha(self, lod):
    """At 32 px; lod is a float32 in the official code."""
    return 1 - float(np.float32(lod))

  def images(self, params, z, lod=0.0):
    params = equalized.scale(params, stylegan.GEN_GAINS)
    return self.gen.apply({'params': params}, z, self.y, 5, self.alpha(lod), self.noise)

  def scores(self, params, images, lod=0.0):
    params = equalized.scale(params, stylegan.DISC_GAINS)
    return self.disc.apply({'params': params}, images, self.y, 5, self.alpha(lod))


official_once = functools.cache(Official)


@pytest.fixture
def official(x64):
  return official_once()


@pytest.mark.parametrize('lod', [0.0, 0.7])
def test_images_and_scores_as_the_official_code_has_them(official, lod):
  real = golden_style.pictures(official.arrays[f'in/lod{lod}/real'])
  run = jax.jit(
    lambda gen, disc: (official.images(gen, official.z(), lod), official.scores(disc, real, lod))
  )
  images, scores = run(official.params_g, official.params_d)
  golden_style.close(images, official.out[f'lod{lod}/img'])
  golden_style.close(scores, official.out[f'lod{lod}/d_real'])


def test_truncated_images_of_the_official_code(official):
  centre = jnp.asarray(official.arrays['G/dlatent_avg'], jnp.float64)

  def run(params):
    variables = {'params': equalized.scale(params, stylegan.GEN_GAINS)}
    w = official.gen.apply(variables, official.z(), official.y, method='w')
    ws = parts.truncate(parts.broadcast(w, 8), centre, 0.7, 5)
    return w, official.gen.apply(variables, ws, 5, 1.0, official.noise, method='image')

  w, truncated = jax.jit(run)(official.params_g)
  golden_style.close(w, official.out['w'])
  golden_style.close(truncated, official.out['img_truncated'])


def test_losses_and_gradients_of_the_official_discriminator(official):
  real = golden_style.pictures(official.arrays['in/lod0.0/real'])

  def disc_loss(params):
    fake = official.images(official.params_g, official.z('Dloss/'))
    score = lambda images: official.scores(params, images)
    logistic = sum(losses.logistic_disc(score(real), score(fake)))
    penalty = regularizers.r1_penalty(10.0)(score, real, fake, None).mean()
    return logistic + penalty, logistic

  both = jax.jit(jax.value_and_grad(disc_loss, has_aux=True))
  (loss, logistic), grads = both(official.params_d)
  np.testing.assert_allclose(logistic, official.out['Dloss/logistic'], rtol=1e-9)
  np.testing.assert_allclose(loss, official.out['Dloss/loss'], rtol=1e-9)
  golden_style.assert_same(grads, golden_style.stylegan(under(official.arrays, 'grad_D/')))


def test_loss_and_gradients_of_the_official_generator(official):
  def gen_loss(params):
    images = official.images(params, official.z('Gloss/'))
    return losses.logistic_gen(official.scores(official.params_d, images))

  loss, grads = jax.jit(jax.value_and_grad(gen_loss))(official.params_g)
  np.testing.assert_allclose(loss, official.out['Gloss/loss'], rtol=1e-9)
  golden_style.assert_same(grads, golden_style.stylegan(under(official.arrays, 'grad_G/')))
