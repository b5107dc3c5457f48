"""Scores of images: numbers of PGGAN's own code, SciPy, scikit-image, and what must score badly."""

import dataclasses
import importlib.util
import types

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from bigjax.core import errors
from bigjax.evaluation.metrics import classification_accuracy, ms_ssim, swd
from bigjax.evaluation.quick import classifier

import places

SHARED = places.SHARED / 'specs' / 'style_ref.py'


def noise(seed, num, size=32, channels=3):
  return np.random.RandomState(seed).randint(0, 256, (num, size, size, channels)).astype(np.uint8)


def smooth(seed, num, size=32, channels=3):
  """Return images of soft spots, each channel its own."""
  spots = scipy.ndimage.gaussian_filter(noise(seed, num, size, channels) * 1.0, (0, 3, 3, 0))
  return (128 + 6 * (spots - spots.mean())).clip(0, 255).astype(np.uint8)


# Sliced Wasserstein distance.


def test_pyramid_against_what_pggan_makes():
  """Numbers of the official code (tkarras/progressive_growing_of_gans)."""
  small = swd.halve(np.arange(16.0).reshape(4, 4))
  np.testing.assert_allclose(small, [[3.75, 4.875], [8.25, 9.375]], rtol=1e-12)
  expected = [
    [5.15625, 5.4375, 5.859375, 6],
    [6.28125, 6.5625, 6.984375, 7.125],
    [7.96875, 8.25, 8.671875, 8.8125],
    [8.53125, 8.8125, 9.234375, 9.375],
  ]
  np.testing.assert_allclose(swd.double(small), expected, rtol=1e-12)


def scipy_levels(image, num):
  """Return a Laplacian pyramid of one channel [H, W], by SciPy: its `mirror` repeats no edge."""
  taps = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
  levels = []
  for _ in range(num - 1):
    small = scipy.ndimage.convolve(image, taps, mode='mirror')[::2, ::2]
    spread = np.zeros_like(image)
    spread[::2, ::2] = small
    levels.append(image - scipy.ndimage.convolve(spread, 4 * taps, mode='mirror'))
    image = small
  return [*levels, image]


def test_pyramid_against_scipy():
  image = noise(0, 1, 64, 2)
  found = list(swd.pyramid(image.transpose(0, 3, 1, 2).astype(np.float32), 3))
  for c in range(2):
    expected = scipy_levels(image[0, :, :, c].astype(float), 3)
    for level, array in zip(found, expected, strict=True):
      np.testing.assert_allclose(level[0, c], array, atol=1e-4)


@pytest.mark.skipif(not SHARED.exists(), reason=f'{SHARED.name} is not beside the repository')
def test_pyramid_against_the_reference_of_the_specification():
  spec = importlib.util.spec_from_file_location('style_ref', SHARED)
  reference = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(reference)
  image = np.random.RandomState(0).normal(size=(20, 32))
  np.testing.assert_allclose(swd.halve(image), reference.pyr_down(image), atol=1e-12)
  np.testing.assert_allclose(swd.double(image), reference.pyr_up(image), atol=1e-12)


@pytest.mark.parametrize('num', [1, 2, 4])
def test_a_pyramid_adds_up_to_its_image(num):
  """From the smallest level on: twice the size, plus the next. The error is float64's."""
  image = noise(0, 2, 64).transpose(0, 3, 1, 2).astype(np.float64)
  *levels, whole = swd.pyramid(image, num)
  for level in reversed(levels):
    whole = swd.double(whole) + level
  np.testing.assert_allclose(whole, image, atol=1e-12)


def slow_swd(samples, real, seed):
  """The distance as the paper describes it, image by image, by SciPy, in float64."""
  rng = np.random.RandomState(seed)
  n, size, _, channels = samples.shape
  sides = [side for side in (64, 32, 16) if side <= size]
  found = []
  for level, side in enumerate(sides):
    sets = []
    for images in (samples, real):
      rows, columns = rng.randint(0, side - 6, (n, 128)), rng.randint(0, side - 6, (n, 128))
      patches = np.zeros((n, 128, channels, 7, 7))
      for i in range(n):
        for c in range(channels):
          array = scipy_levels(images[i, :, :, c].astype(float), len(sides))[level]
          for p, (y, x) in enumerate(zip(rows[i], columns[i], strict=True)):
            patches[i, p, c] = array[y : y + 7, x : x + 7]
      patches -= patches.mean((0, 1, 3, 4), keepdims=True)
      patches /= patches.std((0, 1, 3, 4), keepdims=True)
      sets.append(patches.reshape(n * 128, -1))
    distances = []
    for _ in range(4):
      directions = rng.randn(128, channels * 49)
      for direction in directions / np.linalg.norm(directions, axis=1, keepdims=True):
        a, b = (rows @ direction for rows in sets)
        distances.append(scipy.stats.wasserstein_distance(a, b))
    found.append(1e3 * np.mean(distances))
  return found


def test_swd_against_scipy(monkeypatch):
  monkeypatch.setattr(swd, 'CHUNK', 4)  # the last is of one
  samples, real = noise(1, 5), smooth(2, 5)
  expected = slow_swd(samples, real, 3)
  found = swd.swd(samples, real, seed=3)
  assert list(found) == ['swd', 'swd@32', 'swd@16']
  np.testing.assert_allclose([found['swd@32'], found['swd@16']], expected, rtol=1e-5)
  assert found['swd'] == pytest.approx(np.mean(expected), rel=1e-5)
  assert min(expected) > 20


@pytest.fixture
def fewer_directions(monkeypatch):
  """Less work, and the same on average."""
  monkeypatch.setattr(swd, 'REPEATS', 1)


def test_distance_along_directions(fewer_directions):
  """0 of equal patches; of N(0, 1) and N(0.1, 1) in d dimensions, 0.1 sqrt(2 / pi)."""
  rng = np.random.RandomState(0)
  rows = rng.normal(size=(4096, 147)).astype(np.float32)
  assert swd.sliced(rows, rows[::-1], rng) < 1e-6  # sums in another order
  found = swd.sliced(rows, rows + np.float32(0.1), rng)
  assert found == pytest.approx(0.1 * np.sqrt(2 / np.pi), rel=0.1)


def test_swd_of_noise_is_the_official_codes():
  """64 uniform-noise images of 128 px against as many others score 19.4, 20.0, 21.7, 31.4 there.

  That is the floor at this number. Our draws are others: eight of them scored 30 to 43 at 16 px.
  """
  found = swd.swd(noise(1, 64, 128), noise(2, 64, 128))
  assert list(found) == ['swd', 'swd@128', 'swd@64', 'swd@32', 'swd@16']
  np.testing.assert_allclose(list(found.values())[1:4], [19.4, 20.0, 21.7], rtol=0.05)
  assert 28 < found['swd@16'] < 45


def test_swd_tells_apart_and_is_seeded(fewer_directions):
  real, other, unlike = smooth(1, 12), smooth(2, 12), noise(3, 12)
  floor, found = swd.swd(other, real), swd.swd(unlike, real)
  assert all(found[name] > 1.2 * floor[name] for name in floor)
  assert found['swd@32'] > 2 * floor['swd@32']
  assert swd.swd(other, real) == floor != swd.swd(other, real, seed=1)


def test_swd_is_blind_to_contrast(fewer_directions):
  """As in the paper: every channel of either set is standardised."""
  real, other = smooth(1, 20) // 2, smooth(2, 20)
  brighter = real + np.array([10, 60, 127], np.uint8)
  expected = swd.swd(other, real)['swd']
  assert swd.swd(other, brighter)['swd'] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
  ('shape', 'sides'),
  [
    ((128, 128), [128, 64, 32, 16]),
    ((32, 32), [32, 16]),
    ((8, 8), [8]),
    ((28, 28), [28]),
    ((224, 224), [224, 112, 56, 28]),
    ((72, 48), [72, 36]),
  ],
)
def test_levels(shape, sides):
  assert swd.sides(*shape) == sides


def test_swd_of_small_grey_and_constant_images():
  assert list(swd.swd(noise(0, 3, 8, 1), noise(1, 3, 8, 1))) == ['swd', 'swd@8']
  assert np.isfinite(swd.swd(np.zeros((2, 16, 16, 3), np.uint8), noise(0, 2, 16))['swd'])


def test_swd_refuses():
  with pytest.raises(errors.UserError, match='3 samples and 2 real images; give as many'):
    swd.swd(noise(0, 3), noise(0, 2))
  with pytest.raises(errors.UserError, match='between 0 samples and 0 real images'):
    swd.swd(noise(0, 0), noise(0, 0))
  with pytest.raises(errors.UserError, match=r'shape \(32, 32, 3\) and .* \(16, 16, 3\); give one'):
    swd.swd(noise(0, 2), noise(0, 2, 16))
  with pytest.raises(errors.UserError, match='7 px or more'):
    swd.swd(noise(0, 2, 6), noise(0, 2, 6))


# MS-SSIM.


def waves(phase, size):
  """127.5 + 100 sin(.1 x (c + 1) + .07 y + n + phase), [2, size, size, 3]."""
  n, y, x, c = np.meshgrid(*map(np.arange, (2, size, size, 3)), indexing='ij')
  return 127.5 + 100 * np.sin(0.1 * x * (c + 1) + 0.07 * y + n + phase)


@pytest.mark.parametrize(('size', 'expected'), [(128, 0.850606), (64, 0.859954), (32, 0.864090)])
def test_ms_ssim_is_pggans(size, expected):
  """Numbers of the official code (tkarras/progressive_growing_of_gans)."""
  found = ms_ssim.similarity(waves(0, size), waves(0.5, size)).mean()
  assert found == pytest.approx(expected, abs=1e-6)
  np.testing.assert_allclose(ms_ssim.similarity(waves(0, size), waves(0, size)), 1, rtol=1e-12)


def test_ms_ssim_of_a_distorted_image_is_pggans():
  _, y, x, _ = np.meshgrid(*map(np.arange, (2, 128, 128, 3)), indexing='ij')
  distorted = (waves(0, 128) + 20 * np.sin(1.3 * x + 0.9 * y)).clip(0, 255)
  assert ms_ssim.similarity(waves(0, 128), distorted).mean() == pytest.approx(0.969923, abs=1e-6)


@pytest.mark.parametrize('size', [11, 30, 64])
def test_ssim_against_scikit_image(size):
  metrics = pytest.importorskip('skimage.metrics')  # 0.26
  a, b = smooth(1, 3, size), noise(2, 3, size)
  b = ((3 * a.astype(int) + b) // 4).astype(np.uint8)
  found, _ = ms_ssim.ssim(*(x.astype(float).transpose(0, 3, 1, 2) for x in (a, b)))
  given = {'gaussian_weights': True, 'sigma': 1.5, 'use_sample_covariance': False}
  expected = [
    metrics.structural_similarity(*pair, channel_axis=-1, data_range=255, **given)
    for pair in zip(a, b, strict=True)
  ]
  np.testing.assert_allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize('side', [1, 2, 7, 8])
def test_halving_against_scipy(side):
  image = np.random.RandomState(side).normal(size=(side, side + 3))
  expected = scipy.ndimage.convolve(image, np.full((2, 2), 0.25), mode='reflect')[::2, ::2]
  np.testing.assert_allclose(ms_ssim.halve(image), expected, atol=1e-12)


def test_pairs():
  """Of images 0 and 1, 2 and 3, ...: an odd one is left out, and no more than asked are taken."""
  images = smooth(0, 7)
  alike = np.repeat(images[:3], 2, axis=0)
  assert ms_ssim.ms_ssim(alike) == pytest.approx(1, rel=1e-12)
  assert ms_ssim.ms_ssim(alike, seed=0) < 0.9
  expected = ms_ssim.similarity(images[0:6:2], images[1:6:2])
  assert ms_ssim.ms_ssim(images) == pytest.approx(expected.mean(), rel=1e-12)
  assert ms_ssim.ms_ssim(images, pairs=2) == pytest.approx(expected[:2].mean(), rel=1e-12)
  assert ms_ssim.ms_ssim(images, seed=1) == ms_ssim.ms_ssim(images, seed=1)


def test_chunks_change_nothing(monkeypatch):
  images = smooth(0, 14, 16)
  expected = ms_ssim.ms_ssim(images)
  monkeypatch.setattr(ms_ssim, 'CHUNK', 3)
  assert ms_ssim.ms_ssim(images) == pytest.approx(expected, rel=1e-12)


def test_ms_ssim_of_opposites_small_ones_and_too_few():
  image = noise(0, 1)
  both = np.concatenate([image, 255 - image])
  assert ms_ssim.ms_ssim(both) == 0  # structure below 0 counts as 0
  assert 0 <= ms_ssim.ms_ssim(noise(0, 4, 8, 1)) < 0.5
  with pytest.raises(errors.UserError, match='pairs of samples, and 1 were given; give 2 or more'):
    ms_ssim.ms_ssim(image)


# Classification accuracy score.


def pictures(seed, num, classes=4, size=16):
  """Return images in 4 x 4 squares: 3 parts a pattern of the class, 1 part their own; labels."""
  labels = np.arange(num) % classes
  own = noise(seed, num, 4)
  patterns = (3 * noise(0, classes, 4).astype(int)[labels] + own) // 4
  return patterns.repeat(size // 4, 1).repeat(size // 4, 2).astype(np.uint8), labels + 3


def test_accuracy(monkeypatch, capsys):
  """Good samples teach all classes; of two that are swapped, neither is found."""
  recipe = dataclasses.replace(classifier.RECIPE, widths=(16, 16), batch=32, epochs=1, min_steps=60)
  monkeypatch.setattr(classifier, 'RECIPE', recipe)
  (images, labels), real = pictures(1, 200), pictures(2, 80)
  assert classification_accuracy.accuracy((images, labels), real) > 0.95
  assert 'training a classifier on 200 samples' in capsys.readouterr().err
  swapped = np.array([3, 4, 6, 5])[labels - 3]
  assert classification_accuracy.accuracy((images, swapped), real) == pytest.approx(0.5, abs=0.05)


@pytest.fixture
def by_brightness(monkeypatch):
  """In the network's place: class 0, 1 or 2 for images that are dark, grey or bright, and no other.

  It keeps the shapes that it is trained on and asked about.
  """
  shapes = []

  def fit(images, classes, num, what, recipe, frames):
    assert recipe.distorted == 0 and frames == 1
    shapes.append(images.shape)
    assert classes.min() == 0 and classes.max() == num - 1 and what == 'samples'

  def apply(variables, images, train):
    assert variables is None and not train
    shapes.append(images.shape)
    middle = images.astype(np.float32).mean((1, 2, 3))[:, None]
    return -abs(middle - np.array([[0, 127, 255]], np.float32)), None, None

  monkeypatch.setattr(classifier, 'fit', fit)
  monkeypatch.setattr(classifier, 'network', lambda num, frames: types.SimpleNamespace(apply=apply))
  monkeypatch.setattr(classifier, 'CHUNK', 8)
  return shapes


def test_accuracy_counts_every_real_image(by_brightness):
  """By hand, over chunks, with labels that have gaps; large images are averaged down."""
  tones, labels = np.array([0, 127, 255, 0], np.uint8), np.array([3, 5, 9, 11])
  pick = np.arange(21) % 4
  real = np.broadcast_to(tones[pick, None, None, None], (21, 96, 96, 1))
  samples = real[:5], np.array([3, 5, 9, 11, 3])
  assert classification_accuracy.accuracy(samples, (real, labels[pick])) == 16 / 21
  assert by_brightness[0] == (5, 48, 48, 1) and set(by_brightness[1:]) == {
    (8, 48, 48, 1),
    (5, 48, 48, 1),
  }


def test_accuracy_refuses():
  images, labels = pictures(1, 12)
  real = pictures(2, 12)
  some = labels < 5
  with pytest.raises(errors.UserError, match='2 classes and real images of 4, 2 of them without'):
    classification_accuracy.accuracy((images[some], labels[some]), real)
  one = labels < 4
  with pytest.raises(errors.UserError, match='samples of 1 classes'):
    classification_accuracy.accuracy((images[one], labels[one]), (real[0][one], real[1][one]))
  with pytest.raises(errors.UserError, match='real images of 0'):
    classification_accuracy.accuracy((images, labels), (real[0][:0], real[1][:0]))
  with pytest.raises(errors.UserError, match=r'\(16, 16, 3\) and real images of shape \(8, 8, 3\)'):
    classification_accuracy.accuracy((images, labels), pictures(2, 12, size=8))
