"""MSG-GAN's networks: counts, which scales are looked at, BMSG-GAN's numbers (golden msggan)."""

import functools

import golden_style
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bigjax.core import errors, parallel, trees
from bigjax.models import msggan
from bigjax.nn import kernels, optim
from bigjax.nn.objectives import losses, multiscale
from bigjax.nn.style import blocks, equalized, resampling

from counts import num_params
from golden_files import golden, under
from networks import LABELS, convolution_dtypes, f32, latents, pictures, weights


def shapes(net):
  """Shapes of the parameters, without computing any."""
  if hasattr(net, 'z_dim'):
    inputs = f32(2, net.z_dim)
  else:
    inputs = tuple(f32(2, size, size, 3) for size in blocks.resolutions(net.resolution))
  return jax.eval_shape(net.init, jax.random.key(0), inputs, LABELS)['params']


@functools.cache
def count(net):
  return num_params(shapes(net))


@pytest.mark.parametrize(
  ('resolution', 'gen', 'cat_lin', 'simple'),
  [
    (1024, 26_219_627, 24_238_625, 23_163_681),
    (256, 26_086_229, 24_198_273, 23_126_145),
    (128, 25_843_858, 24_070_401, 23_011_585),
    (32, 22_841_356, 21_525_505, 20_775_937),
  ],
)
def test_counts_of_msg_stylegan(resolution, gen, cat_lin, simple):
  assert count(msggan.StyleGenerator(resolution)) == gen
  assert count(msggan.Discriminator(resolution)) == cat_lin
  assert count(msggan.Discriminator(resolution, combine='simple')) == simple


@pytest.mark.parametrize(
  ('resolution', 'features', 'gen', 'disc'),
  [
    (32, 512, 20_719_628, 17_184_001),
    (32, 128, 1_296_908, 1_076_545),
    (32, 32, 81_548, 67_921),
    (128, 512, 22_933_394, 18_659_329),
    (256, 512, 23_044_309, 18_733_185),
    (1024, 512, 23_079_115, 18_756_321),
  ],
)
def test_counts_of_bmsg_gan(resolution, features, gen, disc):
  how = {'fmap_base': 16 * features, 'fmap_max': features}
  assert count(msggan.ProGenerator(resolution, z_dim=features, **how)) == gen
  assert count(msggan.ProDiscriminator(resolution, **how)) == disc


SMALL = {'fmap_base': 64, 'fmap_max': 8, 'kernels': kernels.PLAIN}


def test_the_ablation_adds_what_looks_at_a_scale():
  """cat_lin: 3 + C inputs of 1x1 convolutions to C features; simple: 3 inputs more."""
  kinds = {kind: {} for kind in ('cat_lin', 'simple')}
  for kind, counts in kinds.items():
    for scales in msggan.SCALES:
      net = msggan.Discriminator(128, combine=kind, scales=scales, **SMALL)
      counts[scales] = count(net) - counts.get('none', 0) if scales != 'none' else count(net)
  width = {4: 8, 8: 8, 16: 8, 32: 4, 64: 2}
  for scales, sizes in msggan.SCALES.items():
    sizes = [size for size in sizes if size < 128]
    if sizes:
      assert kinds['cat_lin'][scales] == sum((3 + width[s]) * width[s] for s in sizes), scales
      assert kinds['simple'][scales] == sum(9 * 3 * width[s] for s in sizes), scales


def test_where_the_scales_lie():
  looked_at = lambda resolution, scales: msggan.Discriminator(resolution, scales=scales).looked_at
  assert looked_at(128, 'none') == (False, False, False, False, False, True)
  assert looked_at(128, 'coarse') == (True, True, False, False, False, True)
  assert looked_at(128, 'middle') == (False, False, True, True, False, True)
  assert looked_at(1024, 'fine') == (False,) * 4 + (True,) * 5
  assert looked_at(32, 'all') == (True,) * 4
  with pytest.raises(errors.UserError, match=r'model\.scales'):
    looked_at(32, 'corse')
  with pytest.raises(errors.UserError, match=r'model\.combine'):
    shapes(msggan.Discriminator(8, combine='cat'))


def pyramid(num, size):
  make = jax.jit(lambda x: tuple(resampling.pyramid(x, len(blocks.resolutions(size)))))
  return make(pictures(num, size))


few = {'w_dim': 8, 'mapping_features': 8, 'mapping_layers': 2}
STYLE_GENERATOR = functools.partial(msggan.StyleGenerator, **few)
NETS = {
  'progan': (msggan.ProGenerator, msggan.ProDiscriminator),
  'stylegan': (STYLE_GENERATOR, msggan.Discriminator),
}


def generator(form, resolution=16, **how):
  return NETS[form][0](resolution, z_dim=8, **how, **SMALL)


def discriminator(form, resolution=16, **how):
  return NETS[form][1](resolution, **how, **SMALL)


@functools.cache
def slopes(form, combine, scales):
  """The largest gradient of a discriminator's scores by the image of each scale."""
  net = discriminator(form, combine=combine, scales=scales)
  params, y = weights(shapes(net)), np.zeros(4, np.int32)
  score = lambda images: net.apply({'params': params}, images, y).sum()
  return [float(np.abs(g).max()) for g in jax.jit(jax.grad(score))(pyramid(4, 16))]


@pytest.mark.parametrize(
  ('form', 'combine'),
  [('stylegan', 'cat_lin'), ('stylegan', 'lin_cat'), ('progan', 'lin_cat'), ('progan', 'simple')],
)
def test_every_scale_carries_gradient(form, combine):
  assert min(slopes(form, combine, 'all')) > 1e-4


@pytest.mark.parametrize(('form', 'combine'), [('stylegan', 'cat_lin'), ('progan', 'lin_cat')])
def test_without_scales_only_the_last_image_counts(form, combine):
  *others, last = slopes(form, combine, 'none')
  assert others == [0, 0] and last > 1e-4


@pytest.mark.parametrize('form', ['progan', 'stylegan'])
def test_images_of_every_scale_learn(form):
  """Shapes, low to high; the gradient of a generator's loss by what makes each image."""
  gen, disc = generator(form), discriminator(form)
  params, of_disc = weights(shapes(gen)), weights(shapes(disc), seed=1)
  z, y = latents(4, 8), jnp.zeros(4, jnp.int32)

  def loss(params):
    images = gen.apply({'params': params}, z, y)
    return losses.logistic_gen(disc.apply({'params': of_disc}, images, y)), images

  grads, images = jax.jit(jax.grad(loss, has_aux=True))(params)
  assert [x.shape for x in images] == [(4, s, s, 3) for s in (4, 8, 16)]
  assert all(x.dtype == jnp.float32 for x in images)
  grads = grads.get('synthesis', grads)
  for lod in range(3):
    assert np.abs(grads[f'ToRGB_lod{lod}']['kernel']).max() > 1e-6


@pytest.mark.parametrize('form', ['progan', 'stylegan'])
def test_remat_changes_no_gradient(form, x64):
  z, y = np.asarray(latents(2, 8), np.float64), np.zeros(2, np.int32)

  def gradients(remat):
    gen = generator(form, 8, remat=remat, dtype=jnp.float64)
    disc = discriminator(form, 8, remat=remat, dtype=jnp.float64)
    params = [weights(shapes(net), dtype=jnp.float64) for net in (gen, disc)]

    def loss(params):
      fake = gen.apply({'params': params[0]}, z, y)
      return losses.logistic_gen(disc.apply({'params': params[1]}, fake, y))

    return jax.jit(jax.grad(loss))(params)

  want = trees.flat(jax.device_get(gradients(False)))
  golden_style.assert_same(gradients(True), want, rtol=1e-10)


@pytest.mark.parametrize('form', ['progan', 'stylegan'])
def test_compute_dtype(form):
  """Convolutions are of it; images and scores are float32."""
  for net in (generator(form, dtype=jnp.bfloat16), discriminator(form, dtype=jnp.bfloat16)):
    is_gen = hasattr(net, 'z_dim')
    inputs = f32(2, 8) if is_gen else tuple(f32(2, size, size, 3) for size in (4, 8, 16))
    run = lambda params, inputs, net=net: net.apply({'params': params}, inputs, np.zeros(2, int))
    given = shapes(net), inputs
    assert convolution_dtypes(run, *given) == {'bf16'}
    results = jax.tree.leaves(jax.eval_shape(run, *given))
    assert all(x.dtype == jnp.float32 for x in results)


def test_latents_are_of_one_length():
  gen = msggan.ProGenerator(4, z_dim=8, **SMALL)
  params, z, y = weights(shapes(gen)), latents(4, 8), jnp.zeros(4, jnp.int32)
  run = jax.jit(lambda z: gen.apply({'params': params}, z, y)[0])
  np.testing.assert_allclose(run(3 * z), run(z), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('form', ['progan', 'stylegan'])
def test_classes(form):
  """Labels, and the same as weights, change images and scores; of one class they do nothing."""
  z, y = latents(4, 8), np.asarray([0, 1, 2, 2])
  for classes in (3, 1):
    gen, disc = generator(form, 4, num_classes=classes), discriminator(form, 4, num_classes=classes)
    of_gen, of_disc = weights(shapes(gen)), weights(shapes(disc), seed=1)
    image = jax.jit(lambda z, y, gen=gen, params=of_gen: gen.apply({'params': params}, z, y)[0])
    score = jax.jit(lambda x, y, disc=disc, p=of_disc: disc.apply({'params': p}, (x,), y))
    other = (y + 1) % 3
    largest = lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max()
    moved = largest(image(z, y), image(z, other))
    x = pictures(4, 4)
    rescored = largest(score(x, y), score(x, other))
    assert (moved > 1e-3 and rescored > 1e-3) if classes == 3 else moved == rescored == 0
    if classes == 3:
      mixed = np.eye(3, dtype=np.float32)[y]
      np.testing.assert_allclose(image(z, mixed), image(z, y), atol=1e-5)
      np.testing.assert_allclose(score(x, mixed), score(x, y), atol=1e-5)


# StyleGAN's deviation is of groups of four, the other's of the whole batch.
@pytest.mark.parametrize('form', [pytest.param('progan', marks=pytest.mark.slow), 'stylegan'])
def test_on_devices_scores_and_penalties_are_those_of_one(form):
  """Minibatch statistics see other devices' examples, and R1 the slopes through them."""
  net = discriminator(form, 8)
  params, images = weights(shapes(net)), pyramid(16, 8)
  y = np.zeros(16, np.int32)

  def loss(params, shared, batch):
    del shared
    score = lambda images: net.apply({'params': params}, images, batch['y'])
    penalty = multiscale.r1_penalty(1.0)(score, batch['images'], None, None)
    return (score(batch['images']) * batch['weight'] + penalty).mean(), {}

  batch = {'images': images, 'y': y, 'weight': np.linspace(-1, 2, 16, dtype=np.float32)}
  fn = jax.jit(parallel.value_and_grad(loss))
  (want, _), grads = fn(params, {}, batch)
  with jax.set_mesh(parallel.make_mesh(jax.devices()[:2])):
    (got, _), ours = fn(params, {}, batch)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
  golden_style.assert_same(ours, trees.flat(jax.device_get(grads)), rtol=1e-3)


# --- BMSG-GAN's numbers


def disc_names(depth):
  """{our module: theirs}."""
  names = {f'FromRGB_lod{depth - 1}': 'final_converter', '4x4/Conv': 'final_block.conv_1'}
  names |= {'4x4/Dense0': 'final_block.conv_2', '4x4/Dense1': 'final_block.conv_3'}
  for i in range(depth - 1):
    size = 8 * 2**i
    names[f'FromRGB_lod{depth - 2 - i}'] = f'rgb_to_features.{i}'
    names[f'{size}x{size}/Conv0'] = f'layers.{i}.conv_1'
    names[f'{size}x{size}/Conv1'] = f'layers.{i}.conv_2'
  return names


def gen_names(depth):
  names = {'4x4/Dense': 'layers.0.conv_1', '4x4/Conv': 'layers.0.conv_2'}
  for i in range(depth):
    size = 4 * 2**i
    names[f'ToRGB_lod{depth - 1 - i}'] = f'rgb_converters.{i}'
    if i:
      names |= {f'{size}x{size}/Conv{j}': f'layers.{i}.conv_{j + 1}' for j in (0, 1)}
  return names


def ours(arrays, names):
  """Weights or gradients of BMSG-GAN by our paths."""
  found = {}
  for path, name in names.items():
    w = arrays[f'{name}.weight']
    if path == '4x4/Dense':  # a transposed convolution [in, out, h, w] of one pixel
      w = w.transpose(0, 2, 3, 1).reshape(len(w), -1)
    else:
      w = w.transpose(2, 3, 1, 0)
      w = w.reshape(-1, w.shape[-1]) if 'Dense' in path else w
    found |= {f'{path}/kernel': w, f'{path}/bias': arrays[f'{name}.bias']}
  assert 2 * len(names) == len(arrays)
  return found


pyramid_of_four = jax.jit(lambda x: tuple(resampling.pyramid(x, 4)))


class Nets:
  """Both networks of the golden file in float64."""

  def __init__(self):
    self.arrays = golden('msggan')
    self.out = under(self.arrays, 'out/')
    how = {'fmap_base': 512, 'fmap_max': 32, 'dtype': jnp.float64, 'kernels': kernels.PLAIN}
    self.gen = msggan.ProGenerator(32, z_dim=32, normalize_latents=False, **how)
    self.disc = msggan.ProDiscriminator(32, **how)
    self.names = {'G': gen_names(4), 'D': disc_names(4)}
    self.params = {name: golden_style.nested(self.ours(name, f'{name}/')) for name in 'GD'}
    self.y = jnp.zeros(4, jnp.int32)

  def ours(self, player, prefix):
    return ours(under(self.arrays, prefix), self.names[player])

  def z(self, prefix=''):
    return jnp.asarray(self.arrays[f'in/{prefix}z'], jnp.float64)

  def real(self, prefix=''):
    return pyramid_of_four(golden_style.pictures(self.arrays[f'in/{prefix}real']))

  def generate(self, params, z):
    params = equalized.scale(params, msggan.GAINS['progan'][0])
    return self.gen.apply({'params': params}, z, self.y)

  def score(self, params, images):
    params = equalized.scale(params, msggan.GAINS['progan'][1])
    return self.disc.apply({'params': params}, images, self.y)


@pytest.fixture
def nets(x64):
  return golden_nets()


golden_nets = functools.cache(Nets)


def least_squares_of_means():
  """BMSG-GAN's: of mean scores, where the paper's and ours are means of squares."""
  disc = lambda real, fake: (jnp.square(real.mean() - 1) / 2, jnp.square(fake.mean()) / 2)
  return losses.Loss(disc, lambda fake, real: jnp.square(fake.mean() - 1) / 2)


LOSSES = {
  'ra_hinge': losses.LOSSES['relativistic_average_hinge'],
  'lsgan': least_squares_of_means(),
}


@functools.cache
def computed():
  """(Images and scores, {loss: (its values, its gradients)}) by one program; under x64 only."""
  nets = golden_nets()

  def of_disc(params, real, fake):
    scores = nets.score(params, real), nets.score(params, fake)
    found = {name: sum(loss.disc(*scores)) for name, loss in LOSSES.items()}
    return found, (found, scores)

  def of_gen(params, disc, z, real):
    fake = nets.generate(params, z)
    scores = nets.score(disc, fake), nets.score(disc, real)
    found = {name: loss.gen(*scores) for name, loss in LOSSES.items()}
    return found, (found, fake)

  @jax.jit
  def everything(gen, disc, z, real):
    """By jacrev, which gives the gradient of each loss."""
    g_grads, (g_losses, fake) = jax.jacrev(of_gen, has_aux=True)(gen, disc, z, real)
    by_all, (d_losses, scores) = jax.jacrev(of_disc, (0, 1, 2), has_aux=True)(disc, real, fake)
    return (fake, *scores), {name: (d_losses[name], g_losses[name], *by_all[name], g_grads[name])
                             for name in LOSSES}  # fmt: skip

  return everything(nets.params['G'], nets.params['D'], nets.z(), nets.real())


def test_images_and_scores(nets):
  (fake, of_real, of_fake), _ = computed()
  for size, ours, theirs in zip((4, 8, 16, 32), fake, nets.real(), strict=True):
    golden_style.close(ours, nets.out[f'fake_{size}'])
    golden_style.close(theirs, nets.out[f'real_{size}'])
  np.testing.assert_allclose(of_fake, nets.out['d_fake'], rtol=1e-9)
  np.testing.assert_allclose(of_real, nets.out['d_real'], rtol=1e-9)


@pytest.mark.parametrize('name', LOSSES)
def test_losses_and_gradients(nets, name):
  d_loss, g_loss, d_grads, *by_images, g_grads = computed()[1][name]
  np.testing.assert_allclose(d_loss, nets.out[f'{name}/d_loss'], rtol=1e-9)
  np.testing.assert_allclose(g_loss, nets.out[f'{name}/g_loss'], rtol=1e-9)
  golden_style.assert_same(d_grads, nets.ours('D', f'grad_D_{name}/'))
  golden_style.assert_same(g_grads, nets.ours('G', f'grad_G_{name}/'))
  for kind, grads in zip(('real', 'fake'), by_images, strict=True):
    for size, grad in zip((4, 8, 16, 32), grads, strict=True):
      if f'{name}/d_loss_d{kind}_{size}' in nets.out:
        golden_style.close(grad, nets.out[f'{name}/d_loss_d{kind}_{size}'])


def test_r1_over_scales(nets):
  def penalty(params, real):
    score = lambda images: nets.score(params, images)
    squares = multiscale.squared_slopes(score, real)
    return multiscale.r1_penalty(10.0)(score, real, None, None).mean(), squares

  run = jax.jit(jax.value_and_grad(penalty, has_aux=True))
  (loss, squares), grads = run(nets.params['D'], nets.real())
  golden_style.close(squares.T, nets.out['r1/per_scale'])
  np.testing.assert_allclose(loss, nets.out['r1/loss_gamma10_mean_over_scales'], rtol=1e-9)
  golden_style.assert_same(grads, nets.ours('D', 'grad_D_r1/'))


# The second step's losses show that both have moved; the averages are looked at after three.
@pytest.mark.parametrize('num', [2, pytest.param(3, marks=pytest.mark.slow)])
def test_iterations(nets, num):
  """The discriminator's step, then the generator's on the same latents; Adam; averaged weights."""
  loss, tx = LOSSES['ra_hinge'], optim.adam_b1_0(5e-4, 0.0, 0.99, 1e-8)

  def of_disc(params, fake, real):
    return sum(loss.disc(nets.score(params, real), nets.score(params, fake)))

  def of_gen(params, disc, z, real):
    return loss.gen(nets.score(disc, nets.generate(params, z)), nets.score(disc, real))

  def move(params, opt, value, *others):
    value, grads = jax.value_and_grad(value)(params, *others)
    updates, opt = tx.update(grads, opt, params)
    return optax.apply_updates(params, updates), opt, value

  @jax.jit
  def step(gen, disc, ema, opt_g, opt_d, z, real):
    disc, opt_d, d_loss = move(disc, opt_d, of_disc, nets.generate(gen, z), real)
    gen, opt_g, g_loss = move(gen, opt_g, of_gen, disc, z, real)
    ema = jax.tree.map(lambda a, x: 0.9 * a + 0.1 * x, ema, gen)
    return (gen, disc, ema, opt_g, opt_d), (d_loss, g_loss)

  gen, disc = nets.params['G'], nets.params['D']
  state = gen, disc, gen, *jax.jit(lambda *of: tuple(map(tx.init, of)))(gen, disc)
  for i in range(num):
    state, (d_loss, g_loss) = step(*state, nets.z(f'{i}/'), nets.real(f'{i}/'))
    np.testing.assert_allclose(d_loss, nets.arrays[f'{i}/d_loss'], rtol=1e-6)
    np.testing.assert_allclose(g_loss, nets.arrays[f'{i}/g_loss'], rtol=1e-6, atol=1e-12)
  if num < 3:
    return
  gen, disc, ema, *_ = state
  last = ('4x4/Dense1/bias',)  # of relative scores alone: its gradient is 0 but for rounding
  golden_style.assert_same(gen, nets.ours('G', 'after3/G/'))
  golden_style.assert_same(disc, nets.ours('D', 'after3/D/'), but=last)
  golden_style.assert_same(ema, nets.ours('G', 'after3/ema/'))
