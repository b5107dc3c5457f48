"""SN-GAN's chainer layout in and out, and `bigjax convert` of it against the authors' images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from bigjax import convert
from bigjax.algorithms.base.standing_statistics import StandingStatistics
from bigjax.core import errors, trees
from bigjax.models import sngan
from bigjax.nn import spectral_norm
from bigjax.nn.latents import SamplingSpec, law
from bigjax.sampling import generator_file
from bigjax.sampling.importers import biggan_pytorch, conversion, layout, sngan_chainer

from golden_files import golden, under
from networks import disc_shapes, gen_shapes


def theirs(player, prefix=''):
  """One network of the golden file, as the authors' code saves it."""
  arrays = golden('sngan32')
  own = under(arrays, f'{prefix}{player}/')
  if not own:
    pytest.skip('needs shared/golden/sngan32.npz, of which this is not part of the copy here')
  own = {name: a.astype(np.float32) for name, a in own.items()}
  if player == 'D':
    return own | {f'{name}/u': u for name, u in under(arrays, f'{prefix}u0/').items()}
  norms = [name.removesuffix('avg_mean') for name in own if name.endswith('avg_mean')]
  return own | {f'{norm}N': np.zeros((), np.int64) for norm in norms}


def assert_equal(ours, theirs):
  """Bit for bit, but for gains, of which 1 was taken."""
  assert set(ours) == set(theirs)
  for name, want in theirs.items():
    assert ours[name].shape == want.shape, name
    atol = 1.2e-7 if name.endswith('gammas/W') else 0
    np.testing.assert_allclose(ours[name], want, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize('prefix', ['', 'uncond/'])
def test_published_networks_come_back(prefix):
  gen, disc = theirs('G', prefix), theirs('D', prefix)
  assert layout.layout(gen) == layout.layout(disc) == layout.CHAINER
  arrays, names = sngan_chainer.gen_in(gen)
  found = sngan_chainer.gen_architecture(arrays, 2e-5)
  assert found.items() >= {'resolution': 32, 'ch': 8, 'z_dim': 20, 'channels': 3}.items()
  assert found['num_classes'] == (1 if prefix else 4)
  shapes = biggan_pytorch.gen_shapes(found)
  params, us = biggan_pytorch.params_in(arrays, shapes['params'], names)
  stats = biggan_pytorch.stats_in(arrays, shapes['moments'])
  assert not us
  back = biggan_pytorch.params_out(params) | biggan_pytorch.stats_out(stats)
  assert_equal(sngan_chainer.gen_out(back), gen)

  arrays, names = sngan_chainer.disc_in(disc)
  fields = sngan_chainer.disc_architecture(arrays)
  assert fields == {'resolution': 32, 'num_classes': 1 if prefix else 4, 'ch': 12}
  shapes = biggan_pytorch.disc_shapes('sngan', fields, 3)
  params, us = biggan_pytorch.params_in(arrays, shapes, names)
  assert set(us) == {p for p, w in trees.flat(params).items() if spectral_norm.spec(True)(p, w)}
  back = biggan_pytorch.params_out(params) | {
    f'{biggan_pytorch.their_name(path).rpartition(".")[0]}.u0': u[None] for path, u in us.items()
  }
  assert_equal(sngan_chainer.disc_out(back), disc)


@pytest.mark.parametrize(('resolution', 'classes'), [(16, 5), (32, 5), (64, 1), (128, 5), (256, 1)])
def test_every_resolution_comes_back_and_is_recognised(resolution, classes):
  rng = np.random.default_rng(0)
  # One number an array: what is big here would only be copied.
  filled = functools.partial(
    jax.tree.map, lambda s: np.broadcast_to(np.float32(rng.normal()), s.shape)
  )
  gen = filled(gen_shapes(resolution, classes, network=sngan, ch=2, z_dim=9))
  architecture = {
    'network': 'sngan', 'latent': 'normal', 'attention': [], 'resolution': resolution,
    'num_classes': classes, 'ch': 2, 'z_dim': 9, 'channels': 3, 'bn_eps': 2e-5,
  }  # fmt: skip
  shapes = biggan_pytorch.gen_shapes(architecture)
  stats = filled(shapes['moments'])
  out = sngan_chainer.gen_out(biggan_pytorch.params_out(gen) | biggan_pytorch.stats_out(stats))
  arrays, names = sngan_chainer.gen_in(out)
  assert sngan_chainer.gen_architecture(arrays, 2e-5) == architecture
  back = trees.flat(biggan_pytorch.params_in(arrays, shapes['params'], names)[0])
  for path, w in trees.flat(gen).items():
    np.testing.assert_allclose(back[path], w, rtol=0, atol=2.4e-7, err_msg=path)
  heads = [{}] if classes == 1 else [{}, {'class_input': 'concat', 'class_dim': 6}]
  for head in heads:
    fields = {'resolution': resolution, 'num_classes': classes, 'ch': 2, **head}
    shapes = disc_shapes(resolution, classes, network=sngan, ch=2, **head)
    disc = filled(shapes)
    arrays, names = sngan_chainer.disc_in(sngan_chainer.disc_out(biggan_pytorch.params_out(disc)))
    assert sngan_chainer.disc_architecture(arrays) == fields
    back = trees.flat(biggan_pytorch.params_in(arrays, shapes, names)[0])
    assert all((back[path] == w).all() for path, w in trees.flat(disc).items())


def test_what_is_missing_or_has_no_place_is_named_as_it_is_called():
  gen = theirs('G')
  without = {name: a for name, a in gen.items() if name != 'block3/c1/W'}
  with pytest.raises(errors.UserError, match=r"no 'block3/c1/W', which SN-GAN's generator needs"):
    sngan_chainer.gen_in(without)
  with pytest.raises(errors.UserError, match=r"'block3/c9/W', which SN-GAN's generator has no"):
    sngan_chainer.gen_in({**gen, 'block3/c9/W': gen['block3/c1/W']})
  with pytest.raises(errors.UserError, match=r'there are 1 blocks; expected one of'):
    sngan_chainer.gen_architecture({'blocks.0.0.conv1.weight': gen['block3/c1/W']}, 2e-5)


def test_networks_of_two_codes_are_refused(tmp_path):
  own = tmp_path / 'D.npz'
  np.savez(own, **theirs('D'))
  with pytest.raises(errors.UserError, match='of SN-GAN in chainer, the generator of BigGAN-Py'):
    conversion.read_discriminator(str(own), layout.TORCH)


def test_convert_makes_the_authors_images(tmp_path, capsys):
  paths = [tmp_path / f'{name}.npz' for name in 'GD']
  for path, player in zip(paths, 'GD', strict=True):
    np.savez(path, **theirs(player))
  out = tmp_path / 'x.safetensors'
  convert.main(['--gen', str(paths[0]), '--disc', str(paths[1]), '--out', str(out)])
  assert 'SN-GAN in chainer: sngan, 32 px, ch 8, z 20, 4 classes' in capsys.readouterr().out
  gen, card = generator_file.load(str(out))
  assert card['algorithm'] == 'sngan' and card['sampling']['truncations'] == ['none']
  fields = {**card['architecture'], 'attention': ()}
  assert fields.pop('network') == 'sngan'
  sampled = StandingStatistics(law=law(fields.pop('latent')), net=sngan.Generator(**fields))
  z, y = golden('sngan32')['in/z'], golden('sngan32')['in/y_fake']
  images = jax.jit(sampled.generate)(gen, jnp.asarray(z), jnp.asarray(y), SamplingSpec())
  wanted = golden('sngan32')['out/g_eval'].transpose(0, 2, 3, 1)
  np.testing.assert_allclose(images, wanted, rtol=0, atol=1e-5)
  players = safetensors.numpy.load_file(generator_file.players_path(str(out)))
  assert {name.split('/')[0] for name in players} == {'gen', 'ema', 'disc'}
  kernel = players['disc/blocks_0/conv1/kernel'].transpose(3, 2, 0, 1)
  np.testing.assert_array_equal(kernel, theirs('D')['block1/c1/W'])
