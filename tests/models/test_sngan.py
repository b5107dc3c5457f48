"""SN-GAN's networks: counts, and the numbers of the authors' code (golden file sngan32)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import errors, trees
from bigjax.models import sngan
from bigjax.nn import kernels, spectral_norm
from bigjax.nn.objectives import losses
from bigjax.sampling.importers import biggan_pytorch, sngan_chainer

from counts import num_params
from golden_files import golden, under
from networks import (
  LABELS,
  assert_same_gradients,
  disc_shapes,
  f32,
  gen_shapes,
  loss_and_gradients,
)
from vectors import exact_vectors, vectors_in

shapes_of_gen = functools.partial(gen_shapes, network=sngan)
shapes_of_disc = functools.partial(disc_shapes, network=sngan)


@pytest.mark.parametrize(
  ('resolution', 'classes', 'fields', 'gen', 'disc'),
  [
    # counted from the shapes of the authors' code
    (32, 1, {'ch': 128}, 4_276_739, 1_053_824),
    (32, 10, {'ch': 128}, 4_304_387, 1_055_104),
    (128, 1, {}, 32_150_787, 29_017_857),
    (128, 1000, {}, 41_996_931, 29_017_857 + 1_024_000),
    (48, 1, {}, 4_878_083, 10_141_441),  # by arithmetic, from the first paper's Table 4
  ],
)
def test_parameter_counts(resolution, classes, fields, gen, disc):
  assert num_params(shapes_of_gen(resolution, classes, **fields)) == gen
  assert num_params(shapes_of_disc(resolution, classes, **fields)) == disc


def test_the_class_joined_to_a_map():
  plain = shapes_of_disc(128, 1000)
  concat = shapes_of_disc(128, 1000, class_input='concat')
  # 128 more inputs of a block at 16 x 16: hidden channels, and the shortcut's
  assert concat['blocks_3']['conv1']['kernel'].shape == (3, 3, 256 + 128, 256 + 128)
  assert concat['blocks_3']['conv_sc']['kernel'].shape == (1, 1, 256 + 128, 512)
  assert concat['embed']['embedding'].shape == (1000, 128)
  assert num_params(plain['blocks_5']) == num_params(concat['blocks_5'])
  with pytest.raises(errors.UserError, match='unconditional'):
    sngan.check_disc_options({'class_input': 'concat', 'class_dim': 128}, 1)
  with pytest.raises(errors.UserError, match='class_input'):
    sngan.check_disc_options({'class_input': 'conct', 'class_dim': 128}, 10)


def test_where_blocks_end():
  assert sngan.gen_maps(48) == {12: 4, 24: 2, 48: 1}
  assert sngan.disc_maps(48) == {24: 1, 12: 2, 6: 4, 3: 8}
  assert sngan.disc_maps(64) == {32: 1, 16: 2, 8: 4, 4: 8, 2: 16}
  assert sngan.disc_maps(32, (1, 2, 3, 4)) == {16: 1, 8: 2}


def test_initial_weights():
  # Glorot's uniform law, of gain 2 in the blocks' 3x3 convolutions; all gains 1, all biases 0.
  net = sngan.Generator(16, 3, ch=4)
  z, y = jnp.zeros((2, 128)), jnp.zeros((2,), jnp.int32)
  init = jax.jit(lambda: net.init(jax.random.key(0), z, y, train=True)['params'])
  flat = trees.flat(init())
  wide = {name: np.abs(w).max() for name, w in flat.items()}
  bound = lambda gain, fans: (6 * gain / fans) ** 0.5
  for name, want in (
    ('blocks_0/conv1/kernel', bound(2, 9 * (16 + 16))),
    ('blocks_1/conv_sc/kernel', bound(1, 16 + 8)),
    ('linear/kernel', bound(1, 128 + 256)),
    ('output/conv/kernel', bound(1, 9 * (8 + 3))),
  ):
    assert 0.95 * want < wide[name] <= want, name
  assert all(not wide[name] for name in flat if name.endswith(('embedding', 'conv1/bias')))


ORACLE = {'network': sngan, 'resolution': 16, 'ch': 2, 'z_dim': 6, 'kernels': kernels.PLAIN}


@pytest.mark.parametrize(
  ('num_devices', 'how'),
  [
    (None, {'microbatches': 4, 'remat': True}),
    pytest.param(2, {'microbatches': 2}, marks=pytest.mark.slow),
  ],
)
def test_microbatches_and_remat_change_no_gradient(x64, num_devices, how):
  got = loss_and_gradients(num_devices=num_devices, rolled=True, **ORACLE, **how)
  want = loss_and_gradients(num_devices=None, rolled=True, **ORACLE)
  assert_same_gradients(got, want, rtol=1e-10)


def test_of_one_class_labels_change_nothing():
  net = sngan.Generator(16, 1, ch=2, z_dim=6)
  shapes = shapes_of_gen(16, 1, ch=2, z_dim=6)
  assert set(shapes['blocks_0']['bn1']) == {'gain', 'bias'}
  run = lambda p, z, y: net.apply({'params': p}, z, y, train=True)
  text = str(jax.make_jaxpr(run)(shapes, f32(2, 6), LABELS))
  assert 'gather' not in text
  y = jax.ShapeDtypeStruct((2, 1), jnp.float32)  # weights over classes, as in interpolations
  assert jax.eval_shape(run, shapes, f32(2, 6), y).shape == (2, 16, 16, 3)


# --- the authors' numbers


class Nets:
  """Both networks of the golden file in float64, conditional or not."""

  def __init__(self, prefix=''):
    arrays = under(golden('sngan32'), prefix) if prefix else golden('sngan32')
    self.out, self.arrays = under(golden('sngan32'), f'out/{prefix}'), golden('sngan32')
    self.classes = 1 if prefix else 4
    gen, self.names = sngan_chainer.gen_in(under(arrays, 'G/'))
    theirs = under(arrays, 'D/') | {f'{k}/u': u for k, u in under(arrays, 'u0/').items()}
    disc, _ = sngan_chainer.disc_in(theirs)
    how = {'num_classes': self.classes, 'dtype': jnp.float64, 'kernels': kernels.PLAIN}
    self.gen = sngan.Generator(32, ch=8, z_dim=20, **how)
    self.disc = sngan.Discriminator(32, ch=12, **how)
    wide = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), tree)
    shapes = shapes_of_gen(32, self.classes, ch=8, z_dim=20)
    self.params = {
      'G': wide(biggan_pytorch.params_in(gen, shapes, self.names)[0]),
      'D': None,
    }
    disc, us = biggan_pytorch.params_in(disc, shapes_of_disc(32, self.classes, ch=12))
    self.params['D'], self.us = wide(disc), wide(us)
    moments = jax.eval_shape(
      lambda p, z, y: self.gen.apply({'params': p}, z, y, train=True, mutable=['moments'])[1],
      self.params['G'], *self.latents(),
    )['moments']  # fmt: skip
    self.stats = wide(biggan_pytorch.stats_in(gen, moments))

  def input(self, name):
    return self.arrays[f'in/{name}']

  def latents(self):
    return self.input('z').astype(np.float64), self.input('y_fake')

  def generate(self, params, **kwargs):
    return self.gen.apply(params, *self.latents(), **kwargs)

  def scores(self, params, vectors):
    """Scores of real and fake images in one call."""
    images = np.concatenate([self.input('x'), self.out['d_official/fake']])
    images = images.transpose(0, 2, 3, 1).astype(np.float64)
    y = np.concatenate([self.input('y'), self.input('y_fake_d')])
    params = spectral_norm.normalize(params, vectors)
    score = self.disc.apply({'params': params}, images, y)
    return jnp.split(score, 2)

  def disc_loss(self, params, vectors):
    real, fake = self.scores(params, vectors)
    return sum(losses.hinge_disc(real, fake)), (real, fake)

  def gen_loss(self, params, disc):
    fake = self.generate({'params': params}, train=True)
    score = self.disc.apply({'params': disc}, fake, self.input('y_fake'))
    return losses.hinge_gen(score), fake


golden_nets = functools.cache(Nets)


def close(ours, theirs, rtol=1e-4):
  theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs.reshape(np.shape(ours))
  np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=rtol * np.abs(theirs).max())


@pytest.mark.parametrize('prefix', ['', 'uncond/'])
def test_images_and_sigmas(prefix, x64):
  if prefix and not under(golden('sngan32'), prefix):
    pytest.skip('needs shared/golden/sngan32.npz, of which this is not part of the copy here')
  nets = golden_nets(prefix)
  both = {'params': nets.params['G'], 'stats': nets.stats}
  close(jax.jit(functools.partial(nets.generate, train=False))(both), nets.out['g_eval'])
  ws, path_of = trees.flat(nets.params['D']), {}
  for path in nets.us:
    name = biggan_pytorch.their_name(path)
    theirs = {ours: key for key, ours, _ in sngan_chainer.disc_names(4)}[name]
    path_of[path] = theirs.removesuffix('/W')
  assert len(path_of) == len(under(nets.out, 'sigma_exact/')) > 10

  @jax.jit
  def norms(params, us):
    exact = {p: spectral_norm.norm(spectral_norm.kernel(p, ws[p])) for p in path_of}
    return spectral_norm.sigmas(params, vectors_in(params, us)), exact

  sigmas, exacts = norms(nets.params['D'], nets.us)
  for path, name in path_of.items():
    exact = exacts[path]
    np.testing.assert_allclose(exact, nets.out[f'sigma_exact/{name}'], rtol=1e-4, err_msg=path)
    np.testing.assert_allclose(
      sigmas[path], nets.out[f'sigma_1iter/{name}'], rtol=1e-6, err_msg=path
    )


@functools.cache
def computed():
  """{'d_concat' and 'converged' of D, 'gen' of G: ((loss, outputs), gradients)}, in float64."""
  nets = golden_nets('')
  once = jax.jit(vectors_in)(nets.params['D'], nets.us)
  exact = exact_vectors(nets.params['D'], spectral_norm.spec(embeddings=True))
  disc = jax.jit(jax.value_and_grad(nets.disc_loss, has_aux=True))
  gen = jax.jit(jax.value_and_grad(nets.gen_loss, has_aux=True))
  return nets.out, {
    'd_concat': disc(nets.params['D'], once),
    'converged': disc(nets.params['D'], exact),
    'gen': gen(nets.params['G'], spectral_norm.normalize(nets.params['D'], exact)),
  }


def test_scores_and_losses(x64):
  """With one iteration from stored vectors in one call on real and fake images, and converged."""
  out, ours = computed()
  for name, key in (('d_concat', 'loss'), ('converged', 'd_loss')):
    (loss, (real, fake)), _ = ours[name]
    close(real, out[f'{name}/score_real'], 1e-5)
    close(fake, out[f'{name}/score_fake'], 1e-5)
    np.testing.assert_allclose(loss, out[f'{name}/{key}'], rtol=1e-5)
  (loss, fake), _ = ours['gen']
  np.testing.assert_allclose(loss, out['converged/g_loss'], rtol=1e-5)
  if 'g_train' in out:  # not in the copy that is part of the project
    close(fake, out['g_train'], 1e-5)


@pytest.mark.parametrize(
  ('name', 'theirs', 'layout'),
  [
    ('d_concat', 'd_concat/grad_D/', sngan_chainer.disc_out),
    ('converged', 'converged/grad_D/', sngan_chainer.disc_out),
    ('gen', 'converged/grad_G/', sngan_chainer.gen_out),
  ],
)
def test_gradients(name, theirs, layout, x64):
  """Within 1e-3 of max(a tensor's norm, 1e-4 of the network's)."""
  wanted = under(golden('sngan32'), f'out/{theirs}')
  if not wanted:
    pytest.skip('needs shared/golden/sngan32.npz; the copy here has no gradients')
  ours = layout(biggan_pytorch.params_out(computed()[1][name][1]))
  whole = np.sqrt(sum(np.square(g).sum() for g in wanted.values()))
  assert set(wanted) <= set(ours)
  for name, want in wanted.items():
    got = ours[name] - 1 if name.endswith('gammas/W') else ours[name]  # a gradient, not a weight
    error = np.linalg.norm(got - want)
    assert error <= 1e-3 * max(np.linalg.norm(want), 1e-4 * whole), name
