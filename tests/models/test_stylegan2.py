"""StyleGAN2's networks: counts, algebra, and the official code's numbers (golden stylegan2_*)."""

import functools

import golden_style
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import errors, trees
from bigjax.models import stylegan2
from bigjax.nn import kernels
from bigjax.nn.objectives import losses
from bigjax.nn.style import equalized, stylegan

from counts import num_params
from golden_files import golden, under
from networks import LABELS, convolution_dtypes, f32, latents, pictures, weights


def shapes(net):
  """Shapes of the parameters, without computing any."""
  is_gen = hasattr(net, 'z_dim')
  inputs = f32(2, net.z_dim) if is_gen else f32(2, net.resolution, net.resolution, 3)
  return jax.eval_shape(net.init, jax.random.key(0), inputs, LABELS)['params']


@functools.cache
def count(net):
  return num_params(shapes(net))


HALF = {'fmap_base': 8192}
FEW = {'fmap_base': 128, 'fmap_max': 32}
FEW_Z = {**FEW, 'z_dim': 32, 'w_dim': 32, 'mapping_layers': 2}
G, D = stylegan2.Generator, stylegan2.Discriminator
COUNTS = [  # of the official codes; tests/algorithms has those of configs
  (G(1024, architecture='orig', **HALF), 23_596_292),
  (G(1024, architecture='resnet', **HALF), 24_557_316),
  (D(1024, architecture='skip', **HALF), 23_087_249),
  (D(1024, architecture='orig', **HALF), 23_077_137),
  (G(32, 10), 21_791_251), (D(32, 10), 23_876_096),
  (D(32, 10, architecture='orig'), 23_089_664),
  (D(32, 10, architecture='orig', mapping_layers=0), 20_988_416),
  (G(128, 1000), 30_103_325), (D(128, 1000), 31_265_024),
  (G(16, **FEW_Z), 44_958), (D(16, **FEW), 53_041),
  (G(16, 10, **FEW_Z), 46_334), (D(16, 10, **FEW), 62_864),
]  # fmt: skip


def test_parameter_counts():
  for net, want in COUNTS:
    assert count(net) == want, net


def test_a_shape_that_there_is_not():
  with pytest.raises(errors.UserError, match=r'model\.gen_architecture'):
    shapes(G(8, architecture='plain'))
  with pytest.raises(errors.UserError, match=r'model\.disc_architecture'):
    shapes(D(8, architecture='plain'))


SMALL = {'fmap_base': 32, 'fmap_max': 8, 'kernels': kernels.PLAIN}
SMALL_GEN = functools.partial(G, z_dim=8, w_dim=8, mapping_layers=2, **SMALL)
SMALL_DISC = functools.partial(D, mapping_layers=2, **SMALL)


def test_layers_and_their_styles():
  """The image of a resolution has the style of the next one's first layer."""
  net = SMALL_GEN(16)
  assert net.num_ws == 6 and stylegan2.noise_sizes(16) == [4, 8, 8, 16, 16]
  whole = weights(shapes(net))

  def energy(ws, params):
    run = lambda net, ws: net.synthesis(ws)
    return jnp.square(net.apply({'params': params}, ws, method=run)).sum()

  # With the affine kernels of one layer alone, the image follows the one style that it has.
  slopes, seen = jax.jit(jax.grad(energy)), {}
  for name in ('b4/conv1', 'b4/torgb', 'b8/conv0', 'b8/torgb', 'b16/conv1', 'b16/torgb'):

    def only(path, w, name=name):
      return w if 'affine/kernel' not in path or name in path else jnp.zeros_like(w)

    by_ws = slopes(jnp.zeros((1, 6, 8)), trees.map_paths(only, whole))
    seen[name] = list(np.flatnonzero(np.abs(by_ws).sum((0, 2))))
  assert seen == {
    'b4/conv1': [0], 'b4/torgb': [1], 'b8/conv0': [1], 'b8/torgb': [3],
    'b16/conv1': [4], 'b16/torgb': [5],
  }  # fmt: skip


def test_noise_has_no_strength_at_the_start():
  net = SMALL_GEN(8)

  @jax.jit
  def run(key):
    params = net.init(key, jnp.zeros((1, 8)), jnp.zeros(1, jnp.int32))['params']
    noise = stylegan.noise_maps(jax.random.split(key, 3), 8)[1:]
    given = {'params': equalized.scale(params, stylegan2.GEN_GAINS)}, latents(3, 8)
    y = jnp.zeros(3, jnp.int32)
    return net.apply(*given, y), net.apply(*given, y, noise), params

  plain, noisy, params = run(jax.random.key(0))
  np.testing.assert_array_equal(plain, noisy)
  assert np.std(plain) > 0.1
  # Styles are 1 on average, and kernels of the mapping a hundred times larger than others.
  assert np.all(params['synthesis']['b8']['conv0']['affine']['bias'] == 1)
  assert 80 < np.std(params['mapping']['fc0']['kernel']) < 120


def test_w_is_of_deviation_one_at_the_start():
  """.96 with eight layers, as in the official code."""
  net = stylegan2.Mapping(64)
  z, y = latents(512, 64), jnp.zeros(512, jnp.int32)

  @jax.jit
  def run(key):
    params = net.init(key, z, y)['params']
    gains = equalized.gains(1.0, lrmul={'fc*': 0.01})
    return net.apply({'params': equalized.scale(params, gains)}, z, y)

  stds = [np.std(run(jax.random.key(i))) for i in range(4)]
  assert 0.7 < np.mean(stds) < 1.3


@pytest.mark.parametrize('of', ['gen', 'disc'])
def test_compute_dtype(of):
  """Convolutions are of it, mapping networks are not; images and scores are float32."""
  make = SMALL_GEN if of == 'gen' else SMALL_DISC
  net = make(8, num_classes=3, dtype=jnp.bfloat16)
  inputs = f32(2, 8) if of == 'gen' else f32(2, 8, 8, 3)
  run = lambda params, x: net.apply({'params': params}, x, np.zeros(2, np.int32))
  given = shapes(net), inputs
  assert convolution_dtypes(run, *given) == {'bf16'}
  assert jax.eval_shape(run, *given).dtype == jnp.float32


@pytest.mark.slow
def test_remat_changes_no_gradient(x64):
  z, y = np.asarray(latents(2, 8), np.float64), np.zeros(2, np.int32)

  def gradients(remat):
    gen = SMALL_GEN(8, remat=remat, dtype=jnp.float64)
    disc = SMALL_DISC(8, remat=remat, dtype=jnp.float64)
    params = [weights(shapes(net), dtype=jnp.float64) for net in (gen, disc)]

    def loss(params):
      fake = gen.apply({'params': params[0]}, z, y)
      return losses.logistic_gen(disc.apply({'params': params[1]}, fake, y))

    return jax.jit(jax.grad(loss))(params)

  want = trees.flat(jax.device_get(gradients(False)))
  golden_style.assert_same(gradients(True), want, rtol=1e-10)


def test_classes():
  """Labels, and the same as weights, change images and scores; of one class they do nothing."""
  z, y, x = latents(4, 8), np.asarray([0, 1, 2, 2]), pictures(4, 8)
  for classes in (3, 1):
    gen, disc = SMALL_GEN(8, num_classes=classes), SMALL_DISC(8, num_classes=classes)
    of_gen, of_disc = weights(shapes(gen)), weights(shapes(disc), seed=1)
    both = jax.jit(
      lambda y, gen=gen, disc=disc, of_gen=of_gen, of_disc=of_disc: (
        gen.apply({'params': of_gen}, z, y),
        disc.apply({'params': of_disc}, x, y),
      )
    )
    here, other = both(y), both((y + 1) % 3)
    moved = [np.abs(np.asarray(a) - np.asarray(b)).max() for a, b in zip(here, other, strict=True)]
    assert min(moved) > 1e-3 if classes == 3 else max(moved) == 0
    if classes == 3:
      mixed = both(np.eye(3, dtype=np.float32)[y])
      for a, b in zip(mixed, here, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


# --- The official code's numbers, in float64


class Nets:
  """Both networks of a golden file, and its arrays."""

  def __init__(self, name, gen='', disc=''):
    self.arrays = golden(name)
    cfg = under(self.arrays, 'cfg/')
    number = lambda key: int(cfg[key])
    how = {
      'fmap_base': number('base') // 2, 'fmap_max': number('cmax'), 'dtype': jnp.float64,
      'num_classes': max(number('c'), 1),
    }  # fmt: skip
    self.gen = G(
      number('res'), z_dim=number('z'), w_dim=number('w'), mapping_layers=number('map'),
      architecture=gen or str(cfg['garch']), **how,
    )  # fmt: skip
    self.disc = D(
      number('res'), stddev_group=number('mb'), architecture=disc or str(cfg['darch']), **how
    )
    of_gen, of_disc = (f'{at}/' if at else '' for at in (gen, disc))
    self.params = {
      'G': golden_style.nested(golden_style.stylegan2(under(self.arrays, f'G/{of_gen}'))),
      'D': golden_style.nested(golden_style.stylegan2(under(self.arrays, f'D/{of_disc}'))),
    }
    self.noise_const = golden_style.noise_of_layers(self.arrays, f'G/{of_gen}')

  def labels(self, name, num):
    if name not in self.arrays:
      return jnp.zeros(num, jnp.int32)
    return jnp.asarray(self.arrays[name].argmax(1), jnp.int32)

  def at(self, name):
    x = self.arrays[name]
    return golden_style.pictures(x) if x.ndim == 4 else jnp.asarray(x, jnp.float64)

  def score(self, params, images, y):
    params = equalized.scale(params, stylegan2.DISC_GAINS)
    return self.disc.apply({'params': params}, images, y)

  def mapped(self, params, z, y):
    params = equalized.scale(params, stylegan2.GEN_GAINS)
    return self.gen.apply({'params': params}, z, y, method=lambda net, *of: net.mapping(*of))

  def made(self, params, ws, noise):
    params = equalized.scale(params, stylegan2.GEN_GAINS)
    return self.gen.apply({'params': params}, ws, noise, method=lambda n, *of: n.synthesis(*of))


# The slow ones differ in widths and shapes: tests/algorithms has iterations with those.
@pytest.mark.parametrize(
  'name', [pytest.param('stylegan2_uncond32', marks=pytest.mark.slow), 'stylegan2_cond32']
)
def test_images_styles_and_scores(name, x64):
  nets = Nets(name)
  out, num = under(nets.arrays, 'out/'), len(nets.arrays['in/z'])
  y, y_real = nets.labels('in/c', num), nets.labels('in/real_c', num)
  w_avg, psi = nets.at('G/mapping.w_avg'), float(nets.arrays['cfg/psi'])
  cut, cutoff = int(nets.arrays['cfg/cut']), int(nets.arrays['in/mix/cutoff'])
  noise, z = golden_style.noise_of_layers(nets.arrays), nets.at('in/z')

  @jax.jit
  def everything(gen, disc):
    w = nets.mapped(gen, z, y)
    ws = stylegan.broadcast(w, nets.gen.num_ws)
    truncated = stylegan.truncate(ws, w_avg, psi)
    const = nets.made(gen, ws, nets.noise_const)
    c = nets.labels('in/mix/c', num)
    mixed = [nets.mapped(gen, nets.at(f'in/mix/{z}'), c) for z in ('z', 'z2')]
    mixed = [stylegan.broadcast(w, nets.gen.num_ws) for w in mixed]
    mixed = jnp.concatenate([mixed[0][:, :cutoff], mixed[1][:, cutoff:]], 1)
    return {
      'w': w, 'ws_psi': truncated[:, 0], 'ws_psi_cutoff': stylegan.truncate(ws, w_avg, psi, cut),
      'img_const': const, 'img_none': nets.made(gen, ws, None),
      'img_random': nets.made(gen, ws, noise),
      'img_psi_const': nets.made(gen, truncated, nets.noise_const),
      'd_fake': nets.score(disc, const, y), 'd_real': nets.score(disc, nets.at('in/real'), y_real),
      'mix/ws': mixed, 'mix/img': nets.made(gen, mixed, nets.noise_const),
    }  # fmt: skip

  for key, value in everything(nets.params['G'], nets.params['D']).items():
    golden_style.close(value, out[key])


@pytest.mark.parametrize(
  ('gen', 'disc'), [pytest.param('orig', 'orig', marks=pytest.mark.slow), ('resnet', 'skip')]
)
def test_other_shapes_and_their_gradients(gen, disc, x64):
  nets = Nets('stylegan2_arch32', gen, disc)
  z, y, real = nets.at('in/z'), jnp.zeros(4, jnp.int32), nets.at('in/real')
  cotangent = nets.at(f'in/G_{gen}/cotangent')

  @jax.jit
  @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
  def run(of_gen, of_disc):
    ws = stylegan.broadcast(nets.mapped(of_gen, z, y), nets.gen.num_ws)
    image, logits = nets.made(of_gen, ws, nets.noise_const), nets.score(of_disc, real, y)
    return (image * cotangent).sum() + losses.logistic_gen(logits), (image, logits)

  (by_gen, by_disc), (image, logits) = run(nets.params['G'], nets.params['D'])
  golden_style.close(image, nets.arrays[f'out/G_{gen}/img'])
  golden_style.close(logits, nets.arrays[f'out/D_{disc}/logits'])
  theirs = lambda at: golden_style.stylegan2(under(nets.arrays, at))
  golden_style.assert_same(by_gen, theirs(f'grad_G_{gen}/'))
  golden_style.assert_same(by_disc, theirs(f'grad_D_{disc}/'))
