"""Projection in z: images found again, better than by luck; files that sampling draws again."""

import dataclasses
import json

import damaged_archives
import linear_latents
import linear_styles
import numpy as np
import pytest
from PIL import Image

from bigjax.algorithms.base.generators import parts
from bigjax.core import errors
from bigjax.models.pretrained import taps
from bigjax.nn import latents as laws
from bigjax.sampling import loaded as generators
from bigjax.sampling.latents import latent_files, projection_report, random_samples
from bigjax.sampling.latents.random_samples import RandomSamples
from bigjax.sampling.latents.search import LatentSearch

ALL = np.arange(linear_latents.CLASSES, dtype=np.int32)


def own(loaded, num=3):
  """Images of the generator that no search begins with, their z and their classes."""
  z = loaded.sampler.latents(7, num, loaded.spec())
  y = ALL[np.arange(num) % len(ALL)]
  return loaded.images(z, y, loaded.spec()), z, y


def search(loaded, steps, **how):
  return LatentSearch(loaded, taps.pixels(), steps, 123, ALL, **{'num_random': 200, **how})


def test_images_of_its_own_are_found_and_by_more_than_luck():
  """z of a generator that is linear in it, of the right class, whatever is beside it."""
  loaded = linear_latents.loaded()
  images, z, y = own(loaded)
  search_of = search(loaded, 300)
  found = search_of.in_parts(images, 2, 'given')
  near = search_of.random.near(images)
  best = near.distance.min(1)
  np.testing.assert_allclose(found.before, best, atol=2e-4)  # of what has no 8-bit levels
  assert (found.after < 0.02 * best).all(), (found.after, best)
  assert (best < 0.5 * near.distance.mean(1)).all()
  assert found.labels.tolist() == y.tolist()
  np.testing.assert_allclose(found.z, z, atol=0.3)  # 8-bit levels, and the penalty on its length
  np.testing.assert_allclose(found.results.astype(int), images.astype(int), atol=8)
  again = search_of(images[2:])
  np.testing.assert_allclose(again.z[0], found.z[2], atol=1e-3)


def test_without_steps_it_is_luck():
  loaded = linear_latents.loaded()
  found = search(loaded, 1)(own(loaded)[0])
  assert (found.after > 0.5 * found.before).all() and (found.after <= found.before).all()


def test_devices_change_nothing():
  one, two = linear_latents.loaded(), linear_latents.loaded(devices=2)
  images, *_ = own(one)
  z = [search(loaded, 40)(images).z for loaded in (one, two)]
  np.testing.assert_allclose(*z, atol=1e-3)


def test_latents_stay_where_latents_lie():
  """Of a far image: within the numbers, and the lengths, that 10,000 of them have."""
  loaded = linear_latents.loaded()
  far = np.full((1, *loaded.shape), 255, np.uint8)
  of = search(loaded, 100)
  found = of(far)
  place, z = of.place, loaded.sampler.latents(123, 10_000, loaded.spec())
  assert (found.z >= z.min(0)).all() and (found.z <= z.max(0)).all()
  lengths = np.sqrt(np.square((z - z.mean(0)) / z.std(0)).mean(1))
  assert lengths.min() <= found.lengths[0] <= 1.001 * lengths.max()
  moved = np.asarray(place.nearest(np.stack([1e-3 * z[0], z[1], 9 * z[2]])))
  np.testing.assert_allclose(moved[1], z[1], rtol=1e-5)  # is where it belongs
  np.testing.assert_allclose(place.length(moved)[0], lengths.min(), rtol=1e-3)
  assert place.length(moved)[2] <= 1.001 * lengths.max()


def test_an_encoder_gives_a_start():
  loaded = linear_latents.loaded(linear_latents.Encoded)
  z = loaded.sampler.latents(7, 2, loaded.spec())
  images = loaded.images(z, np.zeros(2, np.int32), loaded.spec())
  found = LatentSearch(loaded, taps.pixels(), 1, 123, ALL[:1], num_random=8)(images)
  np.testing.assert_allclose(found.z, z, atol=0.05)


def test_an_encoder_that_is_far_off_costs_nothing(monkeypatch):
  """It is one start more: with a single one of the others, the nearest sample is still there."""
  loaded = linear_latents.loaded(linear_latents.Encoded)
  images = own(loaded)[0][:1]
  how = {'num_random': 50, 'num_starts': 1}
  plain = LatentSearch(linear_latents.loaded(), taps.pixels(), 1, 123, ALL, **how)
  monkeypatch.setattr(linear_latents.Encoded, 'encode', lambda self, gen, x: 9 * x[:, :6, 0, 0])
  of = LatentSearch(loaded, taps.pixels(), 1, 123, ALL, **how)
  assert of(images).before[0] == pytest.approx(plain(images).before[0], rel=1e-5)
  assert of.begins_with == 'start' and plain.begins_with == 'best of 50'


def test_noise_of_layers_is_the_same_in_all_that_is_compared():
  """Of a generator with styles, looked for in z; and the file draws the result again."""
  loaded = linear_styles.loaded(strength=0.1)
  one = np.zeros(1, np.int32)
  of = LatentSearch(loaded, taps.pixels(), 30, 123, one, num_random=40)
  z = loaded.sampler.latents(9, 2, loaded.spec())
  noise = np.repeat(of.noise_of, 2, axis=0)
  images = loaded.sampler.images_with_noise_of(
    loaded.gen, z, np.zeros(2, np.int32), loaded.spec(), noise
  )
  found = of(images)
  assert (found.noise_of == noise).all() and (found.after < 0.5 * found.before).all()
  latents = latent_files.Latents('z', found.z, found.labels, found.noise_of)
  assert (latent_files.images(loaded, latents, loaded.spec()) == found.results).all()


def test_figures_are_those_of_numpy():
  loaded = linear_latents.loaded()
  images, *_ = own(loaded)
  random = RandomSamples(loaded, taps.pixels(), 70, 5, ALL, loaded.spec())
  near = random.near(images)
  assert near.distance.shape == (3, 70) and random.y[:4].tolist() == [0, 1, 2, 0]
  apart = (images[:, None].astype(float) - random.images[None]) / 127.5
  np.testing.assert_allclose(near.square, (apart**2).mean((2, 3, 4)), rtol=1e-4)
  np.testing.assert_allclose(near.distance, near.square, rtol=1e-5)
  rows = random_samples.summary(near, 0.0)
  assert rows[1]['best_of_70']['sample'] == near.distance[1].argmin()
  levels = ((images[1].astype(float) - random.images[rows[1]['best_of_70']['sample']]) ** 2).mean()
  assert rows[1]['best_of_70']['psnr'] == pytest.approx(10 * np.log10(255**2 / levels), rel=1e-3)


# --- The verb, and what `bigjax sample` makes of its file


@pytest.fixture
def photos(tmp_path):
  images, *_ = own(linear_latents.loaded())
  (tmp_path / 'photos').mkdir()
  for i, image in enumerate(images):
    Image.fromarray(image[..., 0]).save(tmp_path / f'photos/{i}.png')
  return tmp_path / 'photos'


def test_what_is_found_is_drawn_again_bit_for_bit(bigjax, tmp_path, photos, monkeypatch):
  loaded = linear_latents.loaded()
  for module in (projection_report, generators):
    monkeypatch.setattr(module, 'of_options', lambda args: loaded)
  out = tmp_path / 'p.png'
  words = ('--distance=pixels', '--steps=60', '--random=50', '--batch=2', f'--out={out}')
  status, said, _ = bigjax('project', '--params=x.npz', f'--images={photos}', *words)
  assert status == 0 and 'best of 50 ' in said and ', class bee' in said and 'PSNR' in said
  numbers = json.loads(out.with_suffix('.json').read_text())
  assert numbers['protocol']['distance'] == 'pixels' and numbers['protocol']['starts'] == 4
  means = numbers['mean']
  order = [means[name]['distance'] for name in ('random', 'best_of_50', 'result')]
  assert sorted(order, reverse=True) == order and len(numbers['images']) == 3
  picture = np.asarray(Image.open(out).convert('L'))
  assert picture.shape[1] > 4 * 48
  latents = f'--latents={out.with_suffix(".npz")}'
  status, said, err = bigjax('sample', '--params=x.npz', latents, f'--out={tmp_path / "s.npz"}')
  assert status == 0 and err == ''
  with np.load(tmp_path / 's.npz') as arrays:
    psnr = random_samples.psnr(random_samples.squares(arrays['images'], own(loaded)[0]))
    assert arrays['labels'].tolist() == [0, 1, 2]
  want = [image['result']['psnr'] for image in numbers['images']]
  np.testing.assert_allclose(psnr, want, rtol=1e-9)
  # Of another class, as any other latents.
  given = latents, '--classes=cat', f'--out={tmp_path / "c.npz"}'
  assert bigjax('sample', '--params=x.npz', *given)[0] == 0
  with np.load(tmp_path / 'c.npz') as arrays:
    assert arrays['labels'].tolist() == [2, 2, 2]


def test_latents_in_python():
  loaded = linear_latents.loaded()
  images, z, y = own(loaded)
  assert (loaded.decode(z, y) == images).all() and (loaded.decode(z[1:2], 'bee') == images[1]).all()
  with pytest.raises(errors.UserError, match=r'decode was given z \[3, 5\]; give \[images, 6\]'):
    loaded.decode(z[:, :5])


def test_w_of_a_file_have_their_noise(tmp_path):
  loaded = linear_styles.loaded(strength=0.3)
  z = loaded.sampler.latents(3, 2, loaded.spec())
  w = loaded.sampler.mapped(loaded.gen, z, np.zeros(2, np.int32))
  maps = [np.asarray(x) for x in loaded.sampler.generator.noise(loaded.gen, z, loaded.spec())]
  path = str(tmp_path / 'w.npz')
  latent_files.write(path, latent_files.Latents('w', w, maps=maps, names=['a', 'b']))
  read = latent_files.read(path, loaded)
  assert read.space == 'w' and read.names == ['a', 'b'] and read.labels is None
  want = loaded.images(z, np.zeros(2, np.int32), loaded.spec())
  assert (latent_files.images(loaded, read, loaded.spec()) == want).all()
  one = latent_files.images(loaded, read.at(np.array([1])), loaded.spec())
  assert (one[0] == want[1]).all()
  latent_files.write(path, dataclasses.replace(read, maps=[maps[0][:, :4]]))
  with pytest.raises(errors.UserError, match='noise maps are not of the layers'):
    latent_files.read(path, loaded)


@pytest.mark.parametrize(
  ('arrays', 'words'),
  [
    ({'x': np.zeros(2)}, 'has neither z nor w'),
    ({'z': np.zeros((2, 5), np.float32)}, r'z is float32 \[2, 5\]'),
    ({'z': np.full((2, linear_latents.Z), np.nan)}, 'z is not finite'),
    ({'z': np.zeros((2, linear_latents.Z)), 'labels': np.arange(3)}, 'labels is not of 2 samples'),
    ({'z': np.zeros((2, linear_latents.Z)), 'labels': np.array([0, 3])}, "no class '3'"),
    ({'z': np.zeros((2, linear_latents.Z)), 'labels': np.zeros(2)}, 'must be whole numbers'),
    ({'z': np.float32(1)}, r'z is float32 \[\]'),
    ({'z': np.zeros((0, linear_latents.Z))}, r'z is float64 \[0, 6\]'),
    ({'w': np.zeros((2, 4))}, 'of w, needs a generator with styles'),
  ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, arrays, words):
  np.savez(tmp_path / 'a.npz', **arrays)
  with pytest.raises(errors.UserError, match=words):
    latent_files.read(str(tmp_path / 'a.npz'), linear_latents.loaded())


def test_what_is_no_file_of_arrays_is_refused(tmp_path):
  (tmp_path / 'a.npz').write_bytes(b'no archive')
  np.save(tmp_path / 'b.npy', np.zeros(3))
  np.savez(tmp_path / 'c.npz', z=np.array([{'a': 1}], object))
  damaged_archives.write(tmp_path)
  for name in ('a.npz', 'b.npy', 'c.npz', 'nowhere.npz', '.', *damaged_archives.NAMES):
    with pytest.raises(errors.UserError, match=r'is no \.npz of arrays'):
      latent_files.read(str(tmp_path / name), linear_latents.loaded())


# --- Who can be searched


def test_walks_and_discrete_laws_are_refused_in_a_sentence():
  toy = linear_latents.LinearLatents()
  assert parts.searchable_of(toy, 'it') is toy
  assert not laws.law('bernoulli').continuous and laws.law('variable_normal:0.5:1').continuous
  with pytest.raises(errors.UserError, match='bigjax project` needs a generator whose images are'):
    parts.searchable_of(dataclasses.make_dataclass('Walk', [], namespace={'searchable': None})(),
                        '`bigjax project`')  # fmt: skip
