"""Directions: known ones are found again, closed forms, the layers that are named, the verbs."""

import dataclasses
import fnmatch

import jax
import linear_latents
import linear_styles
import numpy as np
import pytest
from PIL import Image

from bigjax.algorithms.base import configs
from bigjax.algorithms.base.generators import parts
from bigjax.core import errors, trees
from bigjax.models.pretrained import taps
from bigjax.sampling import loaded as generators
from bigjax.sampling import options
from bigjax.sampling.latents import direction_files, directions, directions_report
from bigjax.sampling.latents.directions import Finder, Moments
from bigjax.training.program import make_program

ALL = np.arange(linear_latents.CLASSES, dtype=np.int32)


def cosines(found, known):
  """Of each direction with the known one of its number, whatever its sign."""
  return np.abs((found.reshape(len(found), -1) * known[: len(found)]).sum(1))


# --- Of images


def found_in(loaded, num=1500, count=4):
  return Finder(loaded, 'z', loaded.spec(), ALL, 0, num).of_images(count, taps.pixels())


def test_known_directions_are_found_in_their_order():
  """With their shares; the classes' means, which differ by more, are none of them."""
  loaded = linear_latents.loaded()
  found = found_in(loaded)
  known = linear_latents.weights()['directions']
  assert (cosines(found.vectors, known) > 0.98).all(), cosines(found.vectors, known)
  np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, rtol=1e-5)
  shares = linear_latents.SHARES / linear_latents.SHARES.sum()
  np.testing.assert_allclose(found.explained, shares[:4], rtol=0.15)
  np.testing.assert_allclose(found.scales, 1, rtol=0.1)
  assert (found.linear > 0.97).all() and found.space == 'z' and '1,500' in found.method


def test_the_bar_is_one_that_wrong_programs_miss():
  """Latents of other samples; and the classes' means left in."""
  loaded = linear_latents.loaded()
  z = loaded.sampler.latents(0, 1500, loaded.spec())
  y = ALL[np.arange(1500) % 3]
  images = loaded.images(z, y, loaded.spec()).reshape(1500, -1) / 127.5
  known = linear_latents.weights()['directions']
  for latents, labels, right in ((z, y, True), (z[::-1], y, False), (z, 0 * y, False)):
    moments = Moments(3)
    moments.add(latents, images, labels)
    vectors, _, explained, _ = directions.regressed(moments, 4)
    assert (cosines(vectors, known) > 0.95).all() == right
    assert (explained.sum() > 0.9) == right


def test_moments_are_of_classes_whatever_parts_they_come_in():
  rng = np.random.RandomState(0)
  z, seen, y = rng.randn(50, 3), rng.randn(50, 4), rng.randint(0, 2, 50)
  moments = Moments(3)
  for part in (slice(0, 20), slice(20, 50)):
    moments.add(z[part], seen[part], y[part])
  centred = [x - np.stack([x[y == i].mean(0) for i in range(2)])[y] for x in (z, seen)]
  for ours, (a, b) in zip(moments.covariances(), ((0, 0), (0, 1), (1, 1)), strict=True):
    np.testing.assert_allclose(ours, centred[a].T @ centred[b] / 50, atol=1e-12)


@pytest.mark.parametrize('times', [2, 10])
def test_what_chance_makes_of_few_samples_is_not_called_linear(times):
  """Of noise, samples of d numbers show d / n; half of what is seen is linear, half noise."""
  rng = np.random.RandomState(0)
  num, d = 60 * times, 60
  z, y = rng.randn(num, d), np.arange(num) % 3
  for share in (0.0, 0.5):
    signal = z[:, :2] * np.sqrt(share)
    moments = Moments(4)
    moments.add(z, 5 * y[:, None] + signal + np.sqrt(1 - share) * rng.randn(num, 2), y)
    *_, explained, linear = directions.regressed(moments, 2)
    np.testing.assert_allclose(linear, share, atol=0.15)
    np.testing.assert_allclose(explained.sum(), share, atol=0.12)


def test_too_few_samples_are_refused():
  with pytest.raises(errors.UserError, match=r'--num=10 samples are too few .* at least 12'):
    found_in(linear_latents.loaded(), num=10)


def test_a_network_sees_the_parts_of_an_image():
  """The means of its maps' quarters; of pixels, 32 a side."""
  maps = lambda variables, x: (x.repeat(2, 3), 1 - x[:, ::8, ::8])  # [B, 16, 16, 2], [B, 2, 2, 1]
  distance = dataclasses.replace(taps.pixels(), name='perceptual_toy', digest='0', look=maps)
  images = np.random.RandomState(0).rand(2, 16, 16, 1).astype(np.float32)
  quarters = images.reshape(2, 2, 8, 2, 8, 1).mean((2, 4)).repeat(2, 3).reshape(2, -1)
  want = np.concatenate([quarters, 1 - images[:, ::8, ::8].reshape(2, -1)], 1)
  np.testing.assert_allclose(directions.seen(distance, {}, images), want, atol=1e-6)
  assert directions.seen_name(distance, 16) == 'toy_at32px'
  assert directions.seen_name(taps.pixels(), 64) == 'pixels_at32px'
  large = np.random.RandomState(0).rand(1, 64, 64, 3).astype(np.float32)
  want = large.reshape(1, 32, 2, 32, 2, 3).mean((2, 4)).reshape(1, -1)
  np.testing.assert_allclose(directions.seen(taps.pixels(), {}, large), want, atol=1e-6)


# --- Of w, and closed forms


def test_principal_components_of_w():
  loaded = linear_styles.loaded()
  finder = Finder(loaded, 'w', loaded.spec(), np.zeros(1, np.int32), 0, 4000)
  found = directions.find(finder, 'pca', None, None, 3)
  values, vectors = np.linalg.eigh(
    np.asarray(loaded.gen['map'], np.float64).T @ np.asarray(loaded.gen['map'], np.float64)
  )
  assert (cosines(found.vectors, vectors.T[::-1]) > 0.98).all()
  np.testing.assert_allclose(found.scales, np.sqrt(values[::-1][:3]), rtol=0.06)
  np.testing.assert_allclose(found.explained, values[::-1][:3] / values.sum(), rtol=0.1)


def test_closed_forms_count_each_layer_once():
  """Directions are eigenvectors; ten times the same outputs are the same layer."""
  rng = np.random.RandomState(1)
  kernels = [rng.randn(5, 7) * rng.rand(5)[:, None], rng.randn(5, 3)]
  vectors, shares = directions.closed_form(kernels, 5)
  np.testing.assert_allclose(vectors @ vectors.T, np.eye(5), atol=1e-9)
  assert shares.sum() == pytest.approx(1) and (np.diff(shares) <= 0).all()
  unit = [kernel / np.linalg.norm(kernel, axis=0) for kernel in kernels]
  moved = lambda n: sum(np.square(n @ kernel).mean() for kernel in unit)
  np.testing.assert_allclose([moved(n) / 2 for n in vectors], shares, rtol=1e-9)
  assert all(moved(vectors[0]) > moved(n) for n in np.linalg.qr(rng.randn(5, 5))[0])
  often = [np.tile(kernels[0], (1, 10)), 3 * kernels[1]]
  np.testing.assert_allclose(directions.closed_form(often, 5)[0], vectors, atol=1e-9)


@pytest.mark.parametrize(
  ('name', 'patterns'),
  [
    ('digits:tiny', ('linear', 'blocks_*/bn?/gain', 'blocks_*/bn?/bias')),
    ('stylegan2:tiny', ('synthesis/b*/conv?/affine',)),
    ('stylegan:tiny', ('synthesis/*/StyleMod',)),
  ],
)
def test_layers_that_are_named_are_linear_in_the_latent(name, patterns):
  """Their outputs move by its kernel when the latent moves; no other layer of the kind is there."""
  program = make_program(configs.read(name), jax.devices()[:1])
  stage = program.algorithm.stages(10**6)[-1][1]  # where all resolutions are there
  generator = program.sampler(stage).generator
  with jax.set_mesh(program.mesh):
    fresh = jax.jit(lambda key: program.algorithm.generator(program.algorithm.init(key), stage))
    gen = fresh(jax.random.key(0))
  layers = parts.linear_layers_of(generator, '--method=sefa')
  kernels = layers.kernels(gen)
  size = next(iter(kernels.values())).shape[0]
  z = np.random.RandomState(0).randn(2, size).astype(np.float32)
  spec = generator.spec(program.algorithm.sampling())
  y = np.zeros(2, np.int32)

  def run(gen, z):
    how = {'capture_intermediates': True, 'mutable': True}
    variables = {'params': gen['params']}
    if layers.space == 'w':
      ws = generator.layers(gen, z, spec)
      return generator.net.apply(variables, ws, method=lambda net, ws: net.synthesis(ws), **how)[1]
    return generator.net.apply(variables, z, y, True, **how)[1]

  seen = trees.flat(jax.jit(run)(gen, z)['intermediates'])
  seen = {path.removesuffix('/__call__/0'): x for path, x in seen.items()}
  chosen = [p for p in seen if any(fnmatch.fnmatchcase(p, pattern) for pattern in patterns)]
  assert chosen
  moved = np.concatenate([np.asarray(seen[p][1] - seen[p][0]).ravel() for p in sorted(chosen)])
  want = [np.asarray((z[1] - z[0]) @ kernel).ravel() for kernel in kernels.values()]
  np.testing.assert_allclose(
    np.sort(moved), np.sort(np.concatenate(want)), atol=1e-4 * np.abs(moved).max()
  )


# --- The verbs


def test_directions_are_written_drawn_and_gone_along(bigjax, tmp_path, monkeypatch):
  loaded = linear_latents.loaded()
  for module in (directions_report, generators):
    monkeypatch.setattr(module, 'of_options', lambda args: loaded)
  out = tmp_path / 'new' / 'd.npz'
  status, said, _ = bigjax(
    'directions', '--params=x.npz', '--features=pixels', '--num=600', '--count=3', f'--out={out}'
  )
  assert (
    status == 0 and '0: 5' in said and 'of the variance' in said and '3 directions in z' in said
  )
  assert 'is linear in z' in said
  Image.open(out.with_suffix('.png')).verify()
  found = direction_files.read(str(out), loaded)
  status, said, err = bigjax(
    'sample', '--params=x.npz', '--direction=1', '--strength=-2,0,2', f'--directions={out}',
    '--classes=bee,cat', '--seed=4', f'--out={tmp_path / "s.npz"}',
  )  # fmt: skip
  assert status == 0 and err == ''
  z = loaded.sampler.latents(4, 2, loaded.spec())
  with np.load(tmp_path / 's.npz') as arrays:
    images, labels = arrays['images'], arrays['labels']
  assert labels.tolist() == [1, 1, 1, 2, 2, 2]
  plain = loaded.images(z, np.array([1, 2], np.int32), loaded.spec())
  assert (images[1::3] == plain).all()
  step = found.vectors[1] * found.scales[1]
  ends = loaded.images(z - 2 * step, np.array([1, 2], np.int32), loaded.spec())
  assert (images[::3] == ends).all() and (ends != plain).any()
  words = '--params=x.npz', '--direction=0', f'--directions={out}', f'--out={tmp_path / "s.png"}'
  picture = bigjax('sample', *words)
  assert picture[0] == 0 and '21 images, 7 in a row' in picture[1]
  # Latents of one's own go along them, too.
  np.savez(tmp_path / 'z.npz', z=z)
  status, *_ = bigjax(
    'sample', '--params=x.npz', f'--latents={tmp_path / "z.npz"}', '--direction=1', '--strength=2',
    f'--directions={out}', '--classes=bee', f'--out={tmp_path / "o.npz"}',
  )  # fmt: skip
  with np.load(tmp_path / 'o.npz') as arrays:
    assert len(arrays['images']) == 14 and (arrays['images'][3] == plain[0]).all()


@pytest.mark.parametrize(
  ('words', 'said'),
  [
    (['--direction=3'], '--direction=3: there are 2, 0 to 1'),
    (['--direction=0', '--sweep=1'], '--sweep and --direction are two pictures'),
    (['--direction=0', '--latents=w.npz'], 'are in w, and the directions in z|needs a generator'),
    (['--strength=1'], '--strength is of a --direction'),
    (['--direction=0', '--strength=far'], '--strength=far: far'),
    (['--direction=0', '--directions=nowhere.npz'], 'there is no such file; `bigjax directions`'),
    (['--latents=z.npz', '--seeds=0-3'], 'which images there are; leave out --seeds'),
  ],
)  # fmt: skip
def test_what_cannot_be_gone_along_is_refused(bigjax, tmp_path, monkeypatch, words, said):
  loaded = linear_latents.loaded()
  monkeypatch.setattr(generators, 'of_options', lambda args: loaded)
  monkeypatch.chdir(tmp_path)
  unit = np.eye(linear_latents.Z, dtype=np.float32)[:2]
  ones = np.ones(2, np.float32)
  found = directions.Directions('z', unit, ones, ones, ones, 'known')
  direction_files.write(options.DIRECTIONS, found, loaded, {}, ALL)
  np.savez('w.npz', w=np.zeros((1, 4), np.float32))
  status, out, err = bigjax('sample', '--params=x.npz', *words)
  assert status == 2 and not out and err.count('\n') == 1
  assert any(part in err for part in said.split('|')), err


def test_closed_forms_are_of_generators_that_name_their_layers(bigjax, tmp_path, monkeypatch):
  loaded = linear_latents.loaded()
  monkeypatch.setattr(directions_report, 'of_options', lambda args: loaded)
  for words, said in (
    (['--method=sefa'], '--method=sefa needs a generator that says which of its layers'),
    (['--space=w'], '--space=w needs a generator with styles'),
    (['--features=latents'], 'all directions of z are alike'),
    (['--method=sefa', '--features=pixels'], 'looks at no images'),
  ):
    status, out, err = bigjax('directions', '--params=x.npz', *words, f'--out={tmp_path / "d.npz"}')
    assert status == 2 and not out and said in err and err.count('\n') == 1


def test_strengths_are_read():
  assert options.parse_strengths('3') == [-3, -2, -1, 0, 1, 2, 3]
  assert options.parse_strengths('-1.5,0') == [-1.5, 0]
