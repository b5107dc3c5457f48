"""Projection: noise that stays noise, w that is found again, photos, the verb, refusals."""

import json
import shutil
import zipfile

import jax
import jax.numpy as jnp
import linear_styles
import numpy as np
import pytest
from PIL import Image

from bigjax.algorithms.base import configs
from bigjax.algorithms.base.generators import parts
from bigjax.core import errors
from bigjax.models.pretrained import taps
from bigjax.sampling.latents import photos, projection, projection_report
from bigjax.sampling.latents.projection import Projector
from bigjax.sampling.loaded import Loaded
from bigjax.training.program import make_program

import toys


def of_config(name):
  """An untrained generator of a config, as `bigjax.sample.load` gives it."""
  program = make_program(configs.read(name), jax.devices()[:1])
  stage = program.stage(0)

  @jax.jit
  def fresh(key):
    return program.algorithm.generator(program.algorithm.init(key), stage)

  with jax.set_mesh(program.mesh):
    gen = fresh(jax.random.key(0))
  sampler = program.sampler(stage)
  names = [str(i) for i in range(sampler.generator.num_classes)]
  return Loaded(sampler, gen, {'algorithm': name, 'class_names': names, 'sampling': {}})


# --- The penalty of the official code


def test_the_penalty_is_of_neighbours_at_every_scale():
  maps = np.random.RandomState(0).randn(2, 16, 16, 1).astype(np.float32)
  want = np.zeros(2)
  half = maps.astype(np.float64)
  for _ in range(2):  # 16 and 8 px
    for axis in (1, 2):
      want += ((half * np.roll(half, 1, axis)).mean((1, 2, 3))) ** 2
    half = (half[:, ::2] + half[:, 1::2])[:, :, ::2] / 4 + (half[:, ::2] + half[:, 1::2])[
      :, :, 1::2
    ] / 4
  both = projection.noise_penalty((jnp.asarray(maps), jnp.asarray(maps[:, :4, :4])))
  small = maps[:, :4, :4].astype(np.float64)
  for axis in (1, 2):  # a map of 4 px counts once
    want += ((small * np.roll(small, 1, axis)).mean((1, 2, 3))) ** 2
  np.testing.assert_allclose(both, want, rtol=1e-5)
  smooth = np.broadcast_to(
    np.linspace(-1, 1, 16, dtype=np.float32)[None, :, None, None], maps.shape
  )
  assert (projection.noise_penalty((smooth,)) > 20 * projection.noise_penalty((maps,))).all()


# --- What is found


def test_the_mean_and_the_deviation_of_w():
  loaded = linear_styles.loaded()
  projector = Projector(loaded, taps.pixels(), 10, 123, np.zeros(1, np.int32))
  z = loaded.sampler.latents(123, 10_000, loaded.spec())
  w = z @ np.asarray(loaded.gen['map'])
  np.testing.assert_allclose(projector.mean, w.mean(0), atol=1e-5)
  want = np.sqrt(((w - w.mean(0)) ** 2).sum() / 10_000)
  np.testing.assert_allclose(projector.deviation, want, rtol=1e-5)


def test_a_w_is_found_again_whatever_images_are_beside_it():
  """Of a linear generator, whose w is known; its noise stays of mean 0 and deviation 1."""
  loaded = linear_styles.loaded(strength=1e-3, scale=0.02)
  z = loaded.sampler.latents(7, 3, loaded.spec())
  w = loaded.sampler.mapped(loaded.gen, z, np.zeros(3, np.int32))
  images = loaded.sampler.synthesized(loaded.gen, w, z, loaded.spec())
  projector = Projector(loaded, taps.pixels(), 400, 123, np.zeros(1, np.int32))
  found = projector.in_parts(images, 2, 'given')
  assert (found.after < 0.02 * found.before).all()
  np.testing.assert_allclose(found.w, w, atol=0.15)
  for maps in found.noise:
    np.testing.assert_allclose(maps.mean((1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(maps.std((1, 2, 3)), 1, atol=1e-4)
  again = projector(images[2:])
  np.testing.assert_allclose(again.w[0], found.w[2], atol=1e-3)
  two = linear_styles.loaded(strength=1e-3, scale=0.02, devices=2)
  other = Projector(two, taps.pixels(), 400, 123, np.zeros(1, np.int32))(images)
  np.testing.assert_allclose(other.w, found.w, atol=1e-3)


def test_generated_images_come_nearer():
  loaded = of_config('stylegan2:tiny')
  labels = np.zeros(1, np.int32)
  images = projection_report.generated_images(loaded, 2, 5, labels)
  found = Projector(loaded, taps.pixels(), 60, 123, labels).in_parts(images, 2, 'given')
  assert (found.after < 0.5 * found.before).all(), (found.before, found.after)
  assert found.results.shape == found.targets.shape == found.starts.shape == images.shape
  again = loaded.synthesized(found.w, noise='none')
  assert again.shape == images.shape


# --- Distances


def test_a_distance_says_at_which_size_images_are_shown():
  distance = taps.image_distance('efficientnet_lite0_random')
  assert distance.name_at(64) == 'perceptual_efficientnet_lite0_random'
  assert distance.name_at(16).endswith('_random_at32px')
  assert distance.name_at(1024).endswith('_at256px')
  assert taps.pixels().name_at(16) == 'pixels'
  images = np.random.RandomState(0).rand(1, 8, 8, 1).astype(np.float32)
  assert (taps.resized(images) == images.repeat(4, 1).repeat(4, 2)).all()
  large = np.random.RandomState(0).rand(1, 512, 512, 1).astype(np.float32)
  want = large.reshape(1, 256, 2, 256, 2, 1).mean((2, 4))
  np.testing.assert_allclose(taps.resized(large), want, atol=1e-6)
  with pytest.raises(errors.UserError, match="--distance is 'lpips'; expected one of"):
    taps.image_distance('lpips')


def test_weights_that_are_given_are_read_or_refused(tmp_path):
  with pytest.raises(errors.UserError, match=r'nowhere\.pth'):
    taps.image_distance(None, str(tmp_path / 'nowhere.pth'))
  damaged = tmp_path / 'damaged.pth'
  damaged.write_bytes(b'no weights')
  with pytest.raises(errors.UserError, match=r'damaged\.pth'):
    taps.image_distance(None, str(damaged))


# --- The verb


def test_strip_w_and_attribution(bigjax, tmp_path, monkeypatch):
  loaded = linear_styles.loaded(scale=0.05)
  monkeypatch.setattr(projection_report, 'of_options', lambda args: loaded)
  (tmp_path / 'photos').mkdir()
  rng = np.random.RandomState(1)
  for i in range(3):  # noise, which the generator has none of
    Image.fromarray(rng.randint(0, 256, (16, 19, 3), np.uint8)).save(tmp_path / f'photos/{i}.png')
  zipped = shutil.make_archive(str(tmp_path / 'zipped'), 'zip', tmp_path, 'photos')
  out = tmp_path / 'new' / 'p.png'
  status, said, err = bigjax(
    'project', '--params=x.npz', f'--images={zipped}', f'--out={out}', '--steps=150',
    '--distance=pixels', '--attribute', '--num=4', '--batch=2',
  )  # fmt: skip
  assert status == 0 and 'given 1 to 2 of 3: 150 steps by pixels' in err and ' left ' in err
  assert '0.png: pixels ' in said and 'told apart in 100.0% of pairs' in said
  with np.load(out.with_suffix('.npz')) as arrays:
    assert arrays['w'].shape == (3, linear_styles.W) and arrays['names'][0] == 'photos/0.png'
    assert str(arrays['distance']) == 'pixels' and arrays['noise00'].shape == (3, 16, 16, 1)
    assert (arrays['after'] < arrays['before']).all()
    assert loaded.synthesized(arrays['w']).shape == (3, 16, 16, 1)
  numbers = json.loads((tmp_path / 'new' / 'p_attribution.json').read_text())
  assert numbers['told_apart'] == 1 and len(numbers['generated']) == 4
  for name in ('p.png', 'p_generated.png', 'p_attribution.png'):
    Image.open(tmp_path / 'new' / name).verify()


def test_how_well_two_sets_are_told_apart():
  rng = np.random.RandomState(0)
  generated, real = rng.randint(0, 9, 40).astype(float), rng.randint(3, 12, 30).astype(float)
  pairs = [(b > a) + (a == b) / 2 for a in generated for b in real]
  assert projection_report.told_apart(generated, real) == pytest.approx(np.mean(pairs))


def test_photos_are_read_as_for_training(tmp_path):
  image = np.random.RandomState(0).randint(0, 256, (8, 12, 3), np.uint8)
  Image.fromarray(image).save(tmp_path / 'a.png')
  assert (photos.read(str(tmp_path / 'a.png'), (8, 8, 3)) == image[:, 2:10]).all()
  half = photos.read(str(tmp_path / 'a.png'), (4, 4, 3))
  np.testing.assert_allclose(half, image[:, 2:10].reshape(4, 2, 4, 2, 3).mean((1, 3)), atol=1)
  clear = Image.fromarray(np.zeros((8, 8, 4), np.uint8))
  clear.save(tmp_path / 'b.png')
  assert (photos.read(str(tmp_path / 'b.png'), (8, 8, 1)) == 255).all()  # on white
  (tmp_path / 'c.png').write_bytes(b'no picture')
  with pytest.raises(errors.UserError, match='cannot be read'):
    photos.read(str(tmp_path / 'c.png'), (8, 8, 1))
  with pytest.raises(errors.UserError, match=r'the image .* cannot be read'):
    photos.read(str(tmp_path / 'gone.png'), (8, 8, 1))
  for path in ('nowhere', 'empty'):
    (tmp_path / 'empty').mkdir(exist_ok=True)
    with pytest.raises(errors.UserError, match=r'there is no such file|no image is there'):
      photos.find(str(tmp_path / path))


def test_photos_of_a_zip_are_those_of_its_folder(tmp_path):
  """By their names below it, which tell those of two folders apart."""
  rng = np.random.RandomState(0)
  for name in ('a/0.png', 'b/0.png', 'b/1.PNG'):
    path = tmp_path / 'photos' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.randint(0, 256, (8, 9, 3), np.uint8)).save(path)
  zipped = shutil.make_archive(str(tmp_path / 'zipped'), 'zip', tmp_path / 'photos')
  found = [photos.find(str(path)) for path in (tmp_path / 'photos', zipped)]
  assert found[0].names == found[1].names == ['a/0.png', 'b/0.png', 'b/1.PNG']
  images = [[photos.read(path, (8, 8, 3), 'crop', of.store) for path in of.paths] for of in found]
  np.testing.assert_array_equal(*images)
  one = photos.find(found[0].paths[1])
  assert one.names == ['0.png']
  assert (photos.read(one.paths[0], (8, 8, 3), store=one.store) == images[0][1]).all()
  with zipfile.ZipFile(tmp_path / 'out.zip', 'w') as file:
    file.writestr('../a.png', b'')
  with pytest.raises(errors.UserError, match='leads out of it'):
    photos.find(str(tmp_path / 'out.zip'))


def test_an_out_that_cannot_be_written_ends_it_before_the_search(bigjax, tmp_path, monkeypatch):
  loaded = linear_styles.loaded()
  monkeypatch.setattr(projection_report, 'of_options', lambda args: loaded)
  monkeypatch.setattr(projection_report, 'begin', None)  # nothing is searched
  Image.new('L', (8, 8)).save(tmp_path / 'a.png')
  words = f'--images={tmp_path / "a.png"}', f'--out={tmp_path / "a.png" / "p.png"}'
  status, out, err = bigjax('project', '--params=x.npz', *words)
  assert status == 2 and not out and err.count('\n') == 1 and 'p.png cannot be written' in err


# --- Those that have no w, or nothing that can be looked for


@pytest.mark.parametrize(
  ('name', 'words', 'said'),
  [
    ('digits:tiny', ['--space=w'], '`bigjax project` needs a generator with styles'),
    ('iddpm:tiny', [], '`bigjax project` needs a generator whose images are one pass of a network'),
    ('dvdgan:tiny', [], 'finds still images, and this generator makes clips'),
    ('stylegan2:tiny', ['--starts=3'], '--starts is of a search for z, and this one is for w'),
  ],
)
def test_what_cannot_be_found_is_refused_in_a_sentence(
  bigjax, tmp_path, monkeypatch, name, words, said
):
  program = make_program(configs.read(name), jax.devices()[:1])
  sampler = program.sampler(program.stage(0))
  names = [str(i) for i in range(sampler.generator.num_classes)]
  loaded = Loaded(sampler, None, {'class_names': names, 'sampling': {}})
  monkeypatch.setattr(projection_report, 'of_options', lambda args: loaded)
  Image.new('L', (8, 8)).save(tmp_path / 'a.png')
  given = f'--images={tmp_path / "a.png"}', f'--out={tmp_path / "p.png"}'
  status, out, err = bigjax('project', '--params=x.npz', *given, *words)
  assert status == 2 and not out and err.count('\n') == 1
  assert said in err, err
  assert not (tmp_path / 'p.png').exists()


@pytest.mark.parametrize('name', [*toys.CONFIGS, 'digits', 'pggan', 'stylegan:a', 'stylegan:b'])
def test_only_who_has_styles_says_so(name):
  program = make_program(configs.read(f'{name},tiny' if ':' in name else f'{name}:tiny'))
  generator = program.sampler(program.stage(0)).generator
  with pytest.raises(errors.UserError, match='--mixing needs a generator with styles'):
    parts.styles_of(generator, '--mixing')
