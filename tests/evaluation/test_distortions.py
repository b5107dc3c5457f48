"""Distortions are what they say, and what a classifier learns of them keeps noise from passing."""

import numpy as np
import pytest

from bigjax import data
from bigjax.algorithms.base import configs
from bigjax.evaluation import distortions
from bigjax.evaluation.metrics import frechet, registry
from bigjax.evaluation.quick import classifier
from bigjax.training.batches import load_data

import corruptions
import places

SETS = {
  'digits': {},
  'fashion_mnist': {'data_dir': str(places.SHARED / 'data' / 'tfds')},
  'cifar10': {'data_dir': str(places.SHARED / 'data' / 'tfds')},
  'flowers': {'source': f'folder:{places.SHARED / "data" / "flowers"}'},
}


@pytest.fixture
def rng():
  return np.random.RandomState(0)


@pytest.fixture
def images(rng):
  smooth = rng.randint(60, 200, (40, 4, 4, 3)).repeat(6, 1).repeat(6, 2)
  return (smooth + rng.randint(-9, 10, (40, 24, 24, 3))).astype(np.uint8)


def detail(images):
  """Mean absolute difference between neighbours."""
  return np.abs(np.diff(images.astype(np.float32), axis=2)).mean((1, 2, 3))


def test_every_image_is_changed_in_the_way_that_is_said(images, rng):
  changed, kinds = distortions.distort(images, rng)
  assert changed.dtype == np.uint8 and changed.shape == images.shape
  assert set(kinds) == set(range(1, len(distortions.KINDS)))
  assert all((a != b).any() for a, b in zip(images, changed, strict=True))
  of = {name: kinds == i for i, name in enumerate(distortions.KINDS)}
  assert (detail(changed)[of['noise']] > detail(images)[of['noise']]).all()
  assert (detail(changed)[of['blur']] < 0.7 * detail(images)[of['blur']]).all()
  assert (detail(changed)[of['blocks']] < 0.7 * detail(images)[of['blocks']]).all()
  for image, tiles in zip(images[of['mosaic']], changed[of['mosaic']], strict=True):
    np.testing.assert_array_equal(np.sort(image, None), np.sort(tiles, None))  # the same pixels


def test_a_blur_keeps_what_is_flat_and_is_a_gaussian(rng):
  flat = np.full((3, 9, 9, 1), 77, np.float32)
  np.testing.assert_allclose(distortions.blur(flat, rng), flat, rtol=1e-5)
  point = np.zeros((1, 33, 33, 1), np.float32)
  point[0, 16, 16] = 1
  spread = distortions.blur(point, rng)[0, :, :, 0]
  apart = np.arange(33) - 16
  sigma = np.sqrt((spread.sum(0) * apart**2).sum())
  assert 0.9 < sigma < 4.1
  np.testing.assert_allclose(spread, spread.T, atol=1e-7)
  assert spread.sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize('side', [4, 5, 16])
@pytest.mark.parametrize('channels', [1, 3])
def test_any_size(side, channels, rng):
  images = rng.randint(0, 256, (30, side, side, channels)).astype(np.uint8)
  assert distortions.distort(images, rng)[0].shape == images.shape


@pytest.mark.parametrize(
  'name', ['digits', *(pytest.param(name, marks=pytest.mark.slow) for name in list(SETS)[1:])]
)
def test_what_is_no_image_of_the_set_does_not_pass_for_one(name):
  """Noise, added to images or alone, blur, mosaics and one image for all: below half of what real
  ones get in precision or coverage; noise below a tenth of everything in both."""
  config = configs.read(name)
  config.data.update(SETS[name])
  if name != 'digits' and not places.SHARED.exists():
    pytest.skip('needs ../shared/data')
  _, source = load_data(config)
  train, held_out = (
    lambda n, of=of: data.labelled(of, n) for of in (source.train, source.held_out)
  )
  score, real = classifier.make(train, held_out)
  images, labels = classifier.take(train, classifier.FLOOR)
  assert real['precision'] > 0.75 and real['coverage'] > 0.7
  plain = np.random.RandomState(0).randint(0, 256, images.shape).astype(np.uint8)
  given = {k: corruptions.CORRUPTIONS[k](images, images) for k in ('blur', 'mosaic', 'repeated')}
  given |= {'noise': corruptions.CORRUPTIONS['noise'](images, images), 'plain noise': plain}
  for kind, changed in given.items():
    found = score((changed, labels))
    print(name, kind, found)
    least = min(found[one] / real[one] for one in ('precision', 'coverage'))
    assert least < 0.5, (kind, found)
    if 'noise' in kind:
      assert max(found['precision'], found['coverage']) < 0.1, found


def test_scores_of_few_images_are_warned_of():
  def seen(num):
    moments = frechet.Gaussian(np.zeros(2), np.eye(2))
    return registry.FeatureStats(num, moments)

  (warning,) = registry.warnings(seen(5), seen(500), ['kid', 'pr', 'dc', 'is'])
  for words in ('KID', 'precision and recall', 'density and coverage', 'Inception', '5 samples'):
    assert words in warning
  (warning,) = registry.warnings(seen(500), seen(5), ['kid'])
  assert '5 real images' in warning
  assert registry.warnings(seen(500), None, ['is']) == []
  assert registry.warnings(seen(500), seen(500), ['kid', 'pr', 'swd']) == []
