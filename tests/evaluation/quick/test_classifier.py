"""Scores in a classifier's features: formulas, what must score badly, the cache, any set."""

import dataclasses
import os

import jax
import numpy as np
import pytest
import scipy.linalg

from bigjax.core import files, trees
from bigjax.evaluation import quick
from bigjax.evaluation.metrics import frechet
from bigjax.evaluation.quick import classifier
from bigjax.models.pretrained import small_classifier as models

CLASSES = 4
NAMES = ['agreement', 'worst_class', 'fd_held_out_classifier', 'precision', 'coverage', 'std_ratio']
DISTANCE = NAMES[2]


def pictures(seed, num, size=16, channels=3, classes=CLASSES):
  """Return `num` images in squares of 4 x 4: 3 parts a pattern of the class, 1 part their own."""
  labels = (np.arange(num) % classes).astype(np.int32)
  square = (4, 4, channels)
  of_class = np.random.RandomState(0).randint(0, 256, (classes, *square))[labels]
  own = np.random.RandomState(seed).randint(0, 256, (num, *square))
  return enlarge((3 * of_class + own) // 4, size).astype(np.uint8), labels


def enlarge(patterns, size):
  pick = np.arange(size) * 4 // size
  return patterns[:, pick][:, :, pick]


def images(labelled):
  """Return what evaluators are given: (most) -> so many, evenly spaced."""

  def some(most):
    num = len(labelled[1])
    pick = np.arange(min(num, most)) * num // min(num, most)
    return labelled[0][pick], labelled[1][pick]

  return some


def make(train, held_out):
  return quick.load('classifier', images(train), images(held_out))


@pytest.fixture(scope='module', autouse=True)
def small(tmp_path_factory):
  """A small network and few steps for all tests, and a cache of their own."""
  recipe = dataclasses.replace(
    classifier.RECIPE, widths=(8, 8, 16, 16), batch=32, epochs=1, min_steps=60
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(classifier, 'RECIPE', recipe)
    patch.setenv('BIGJAX_CACHE', str(tmp_path_factory.mktemp('cache')))
    yield


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
  """An empty cache for this test alone."""
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path))
  return tmp_path / 'classifiers'


TRAIN, HELD_OUT = pictures(1, 400), pictures(2, 200)


@pytest.fixture(scope='module')
def made(small):
  return make(TRAIN, HELD_OUT)


@pytest.fixture(scope='module')
def real(made):
  """What a perfect generator would make: images that the evaluator has never seen."""
  return pictures(3, 200)


def noisy(labelled, levels):
  noise = np.random.RandomState(0).randint(-levels, levels + 1, labelled[0].shape)
  return (labelled[0] + noise).clip(0, 255).astype(np.uint8), labelled[1]


# What scores well and what does not.


def test_unseen_real_images_score_as_real_ones_do(made, real):
  score, floor = made
  scores = score(real)
  assert scores['agreement'] >= 0.97 and scores['worst_class'] >= 0.9, scores
  for name in ('precision', 'coverage', 'std_ratio'):
    assert abs(scores[name] - floor[name]) < 0.15 and floor[name] > 0.8, (scores, floor)
  assert scores[DISTANCE] < 4 * floor[DISTANCE]


def test_floor_and_scores_have_the_same_names(made, real):
  score, floor = made
  assert list(floor) == list(score(real)) == NAMES
  assert all(isinstance(value, float) and np.isfinite(value) for value in floor.values())
  assert all(isinstance(value, float) for value in score(real).values())


def test_groups_of_classes_are_told_by_themselves(made, real):
  """One that is a single image of another is seen in its group alone."""
  groups = ('rare', np.array([3])), ('frequent', np.array([0])), ('none', np.array([99]))
  score, floor = quick.load('classifier', images(TRAIN), images(HELD_OUT), groups)
  samples = real[0].copy()
  samples[real[1] == 3] = real[0][real[1] == 1][0]
  scores = score((samples, real[1]))
  assert list(scores) == list(floor) == list(quick.scores('classifier', grouped=True))
  assert scores['agreement_rare'] < 0.1 and scores['std_ratio_rare'] < 0.01
  assert scores['agreement_frequent'] > 0.95 and scores['std_ratio_frequent'] > 0.8
  assert {name: scores[name] for name in NAMES} == made[0]((samples, real[1]))
  assert floor['agreement_rare'] > 0.9 and floor['std_ratio_rare'] > 0.8


def test_floor_is_what_it_says(made):
  """Agreement: held-out images. The rest: training images, as if they were samples."""
  score, floor = made
  held_out, train = score(HELD_OUT), score(TRAIN)
  for name in NAMES:
    assert floor[name] == (held_out if name in NAMES[:2] else train)[name]
  assert held_out[DISTANCE] < 1e-6 < floor[DISTANCE]
  assert held_out['std_ratio'] == held_out['precision'] == 1


def test_floor_agrees_as_held_out_images_do():
  """Not as the training images, whose labels are all right here."""
  labels = np.where(HELD_OUT[1] == 0, 1, HELD_OUT[1])
  _, floor = make(TRAIN, (HELD_OUT[0], labels))
  assert floor['agreement'] == pytest.approx(0.75, abs=0.02)
  assert floor['worst_class'] == pytest.approx(0.5, abs=0.02)


def test_floor_is_of_so_many_images(made, monkeypatch):
  score, _ = made
  monkeypatch.setattr(classifier, 'FLOOR', 50)
  _, floor = make(TRAIN, HELD_OUT)
  fewer = score(classifier.evenly(TRAIN, 50))
  assert [floor[name] for name in NAMES[2:]] == [fewer[name] for name in NAMES[2:]]
  assert floor[DISTANCE] > score(TRAIN)[DISTANCE]


def test_shuffled_labels_agree_by_chance(made, real):
  asked = np.random.RandomState(0).permutation(real[1])
  scores = made[0]((real[0], asked))
  assert abs(scores['agreement'] - 1 / CLASSES) < 0.1
  assert scores['std_ratio'] > 1.1  # each 'class' holds images of all
  same = made[0](real)
  assert scores[DISTANCE] == pytest.approx(same[DISTANCE])  # blind to labels


def test_one_class_drawn_as_another_is_the_worst_class(made, real):
  asked = np.where(real[1] == 3, 2, real[1]).astype(np.int32)
  swapped = np.where(real[1] == 2, 3, asked).astype(np.int32)
  assert made[0]((real[0], swapped))['worst_class'] < 0.1
  assert made[0]((real[0], swapped))['agreement'] == pytest.approx(0.5, abs=0.05)


def test_one_image_repeated_is_a_collapse(made, real):
  scores = made[0]((np.repeat(real[0][:1], 200, axis=0), real[1]))
  assert scores['std_ratio'] < 1e-3
  assert scores['coverage'] < 0.15
  assert scores[DISTANCE] > 20 * made[1][DISTANCE]


def test_one_image_per_class_is_a_collapse(made, real):
  """The whole set has its spread, the classes have none."""
  scores = made[0]((real[0][real[1]], real[1]))  # image i < CLASSES is of class i
  assert scores['agreement'] >= 0.97
  assert scores['std_ratio'] < 1e-3
  assert scores['coverage'] < 0.3


def test_distance_grows_with_noise(made, real):
  score, floor = made
  distances = [score(noisy(real, levels))[DISTANCE] for levels in (0, 30, 80)]
  pure = np.random.RandomState(1).randint(0, 256, real[0].shape).astype(np.uint8), real[1]
  distances.append(score(pure)[DISTANCE])
  assert distances == sorted(distances)
  assert distances[1] > 1.2 * distances[0] and distances[3] > 2 * distances[1], distances
  assert score(pure)['coverage'] < floor['coverage'] - 0.4


def test_scores_of_few_samples(made, real):
  for num in (1, 2, 5):
    scores = made[0]((real[0][:num], real[1][:num]))
    assert list(scores) == NAMES and all(np.isfinite(value) for value in scores.values())


def test_precision_and_coverage_hardly_depend_on_the_number_of_samples(made):
  """At equal numbers of both, coverage of the real distribution is 1 - 2^-3 (Naeem et al. 2020)."""
  for num in (50, 100, 600):
    scores = made[0](pictures(4, num))
    assert abs(scores['coverage'] - 7 / 8) < 0.15
    assert abs(scores['precision'] - 7 / 8) < 0.15


# The formulas.


def gaussian(rng, d, num=100):
  rows = rng.normal(size=(num, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)
  return classifier.moments(rows)


@pytest.mark.parametrize('d', [1, 6, 40])
def test_distance_against_the_formula_as_it_is_printed(d):
  rng = np.random.RandomState(d)
  (m_a, s_a), (m_b, s_b) = a, b = gaussian(rng, d), gaussian(rng, d)
  root = np.real(scipy.linalg.sqrtm(s_a @ s_b))
  expected = ((m_a - m_b) ** 2).sum() + np.trace(s_a + s_b - 2 * root)
  assert expected > 0.1
  assert frechet.frechet(a, b) == pytest.approx(expected, rel=1e-8)
  assert frechet.frechet(b, a) == pytest.approx(expected, rel=1e-8)


# With diagonal covariances the distance is |m_a - m_b|^2 + sum (sqrt s_a - sqrt s_b)^2.
@pytest.mark.parametrize(
  ('gap', 'a', 'b', 'expected'),
  [
    ([0, 0], [1, 4], [1, 4], 0),
    ([3, 4], [1, 4], [1, 4], 25),
    ([0, 0], [1, 4], [9, 16], 4 + 4),
    ([1, 0], [1, 0], [0, 4], 1 + 1 + 4),  # of rank 1 each
    ([0, 2], [0, 0], [0, 0], 4),
    ([0, 0], [0, 0], [4, 9], 13),
  ],
)
def test_distance_of_diagonal_covariances(gap, a, b, expected):
  found = frechet.frechet(
    frechet.Gaussian(np.zeros(2), np.diag(np.array(a, float))),
    frechet.Gaussian(np.array(gap, float), np.diag(np.array(b, float))),
  )
  assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize('num', [2, 5, 40])
def test_distance_where_rows_are_fewer_than_dimensions(num):
  """Gaussians within a subspace are as far apart as they are in its own coordinates."""
  rng = np.random.RandomState(num)
  basis, _ = np.linalg.qr(rng.normal(size=(96, 3)))
  low = [rng.normal(size=(num, 3)) * [1, 5, 0.1] + shift for shift in (0, 1)]
  high = [classifier.moments(rows @ basis.T) for rows in low]
  expected = frechet.frechet(*map(classifier.moments, low))
  scale = np.trace(high[0][1])
  assert frechet.frechet(*high) == pytest.approx(expected, abs=1e-6 * scale)
  assert 0 <= frechet.frechet(high[0], high[0]) < 1e-6 * scale


def test_moments_against_numpy():
  rows = np.random.RandomState(0).normal(size=(20, 3)).astype(np.float32) + 100
  mean, covariance = classifier.moments(rows)
  assert covariance.dtype == np.float64
  np.testing.assert_allclose(mean, rows.astype(np.float64).mean(0))
  np.testing.assert_allclose(covariance, np.cov(rows.astype(np.float64).T), rtol=1e-6)
  np.testing.assert_array_equal(classifier.moments(rows[:1])[1], 0)


def test_std_ratio_by_hand():
  """Classes 0 and 1 reach over 4 and 8 against 2 and 4; class 2 comes but once in `real`."""
  real = np.array([[0, 0], [0, 2], [5, 5], [5, 9], [0, 0]]), np.array([0, 0, 1, 1, 2])
  samples = np.array([[4, 0], [0, 0], [0, 8], [0, 0], [99, 99], [0, 0]]), np.arange(6) // 2
  assert classifier.std_ratio(samples, real) == pytest.approx((4 + 8) / (2 + 4))
  assert classifier.std_ratio(real, real) == pytest.approx(1)


def test_std_ratio_where_no_class_comes_twice():
  rows = np.array([[0.0], [2.0], [4.0]])
  assert classifier.std_ratio((3 * rows, np.arange(3)), (rows, np.arange(3))) == pytest.approx(3)
  constant = np.zeros((3, 1)), np.zeros(3, int)
  assert classifier.std_ratio(constant, constant) == 0


def test_evenly_keeps_classes_even():
  """Also where classes follow each other in a period that the spacing would hit."""
  labels = np.arange(4000, dtype=np.int32) % 10
  rows = np.arange(4000)
  picked, of_picked = classifier.evenly((rows, labels), 400)
  assert np.bincount(of_picked).tolist() == [40] * 10
  assert (np.diff(picked) > 0).all() and picked[0] < 100 and picked[-1] > 3900
  assert classifier.evenly((rows, labels), 4000)[0] is rows


# The cache.


def the_file(folder):
  (name,) = os.listdir(folder)
  return folder / name


def never(*args):
  raise AssertionError('the classifier was trained again')


def test_second_time_trains_nothing(no_cache, monkeypatch, capsys):
  score, floor = make(TRAIN, HELD_OUT)
  assert 'training a classifier on 400 real images for the scores, once' in capsys.readouterr().err
  expected = score(TRAIN)
  monkeypatch.setattr(classifier, 'fit', never)
  again, floor_again = make(TRAIN, HELD_OUT)
  assert 'training a classifier' not in capsys.readouterr().err
  assert floor_again == floor and again(TRAIN) == expected  # bit for bit


def test_the_same_data_gives_the_same_weights(no_cache, tmp_path_factory, monkeypatch):
  """Bit for bit, with nothing in the cache."""
  found = []
  for name in 'ab':
    folder = tmp_path_factory.mktemp(name)
    monkeypatch.setenv('BIGJAX_CACHE', str(folder))
    floor = make(TRAIN, HELD_OUT)[1]
    path = the_file(folder / 'classifiers')
    with np.load(path) as file:
      found.append((path.name, floor, {name: file[name].tobytes() for name in file.files}))
  assert found[0] == found[1]
  assert len(found[0][2]) == 4 * 5 + 2 * 2  # kernel, scale, bias, mean, var; the two linear heads


def truncate(path):
  os.truncate(path, os.path.getsize(path) // 2)


def flip_a_bit(path):
  """In the middle of a kernel, where only the check sum can tell."""
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def other_shapes(path):
  with np.load(path) as file:
    leaves = {name: file[name] for name in file.files}
  leaves['params/linear/bias'] = np.zeros(CLASSES + 1, np.float32)
  np.savez(path, **leaves)


def one_missing(path):
  with np.load(path) as file:
    leaves = {name: file[name] for name in file.files}
  leaves.pop('params/linear/bias')
  np.savez(path, **leaves)


@pytest.mark.parametrize(
  'damage',
  [
    truncate,
    flip_a_bit,
    other_shapes,
    one_missing,
    lambda path: path.write_bytes(b''),
    lambda path: path.write_bytes(b'\x93NUMPY'),
    lambda path: path.write_text('not an archive'),
  ],
)
def test_a_damaged_file_is_made_anew(no_cache, monkeypatch, damage):
  trained = []

  def fit(pictures, classes, num_classes, frames):  # cheap, and other weights for other pictures
    trained.append(num_classes)
    init = classifier.network(num_classes).init(jax.random.key(pictures.sum()), pictures[:1], False)
    return jax.device_get(init)

  monkeypatch.setattr(classifier, 'fit', fit)
  floor = make(TRAIN, HELD_OUT)[1]
  whole = the_file(no_cache).read_bytes()
  damage(the_file(no_cache))
  assert make(TRAIN, HELD_OUT)[1] == floor
  assert trained == [CLASSES, CLASSES]
  assert len(the_file(no_cache).read_bytes()) == len(whole)  # dates may differ
  assert make(TRAIN, HELD_OUT)[1] == floor
  assert len(trained) == 2


def test_what_changes_the_classifier_changes_the_digest(monkeypatch):
  picture, classes = TRAIN[0].copy(), TRAIN[1].astype(np.int64)
  seen = [classifier.training_digest(picture, classes)]
  assert classifier.training_digest(picture.copy(), classes.astype(np.int32)) == seen[0]
  seen.append(classifier.training_digest(picture[:-1], classes[:-1]))
  seen.append(classifier.training_digest(picture.reshape(400, 8, 32, 3), classes))
  picture[-1, -1, -1, -1] ^= 1
  seen.append(classifier.training_digest(picture, classes))
  classes[-1] ^= 1
  seen.append(classifier.training_digest(picture, classes))
  version = dataclasses.replace(classifier.RECIPE, version=classifier.RECIPE.version + 1)
  monkeypatch.setattr(classifier, 'RECIPE', version)
  seen.append(classifier.training_digest(picture, classes))
  assert len(set(seen)) == len(seen)


def test_other_data_trains_another(made, no_cache):
  make(TRAIN, HELD_OUT)
  make((TRAIN[0][:-1], TRAIN[1][:-1]), HELD_OUT)
  assert len(os.listdir(no_cache)) == 2


def test_a_write_that_fails_leaves_nothing_and_goes_on(no_cache, monkeypatch, capsys):
  def full(*args):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'replace', full)
  variables = {'params': {'linear': {'bias': np.zeros(2, np.float32)}}}
  files.write_cache(str(no_cache / 'x.npz'), trees.flat(variables), 'the classifier')
  assert 'No space left' in capsys.readouterr().err
  assert os.listdir(no_cache) == []


def test_a_cache_that_is_no_folder_is_no_error(tmp_path, monkeypatch, capsys):
  (tmp_path / 'classifiers').write_text('in the way')
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path))
  assert list(make(pictures(1, 12), pictures(2, 8))[1]) == NAMES
  assert 'cannot be kept' in capsys.readouterr().err


# Any kind of set.


@pytest.mark.parametrize(
  ('size', 'channels', 'train', 'held_out', 'classes'),
  [
    (32, 1, 64, 20, 10),  # grey, and 64 is no multiple of the batch
    (20, 3, 45, 12, 10),
    (96, 3, 24, 8, 2),  # reduced to 48
    (16, 3, 3, 5, 3),  # fewer than a batch
    (16, 1, 1, 4, 1),
  ],
)
def test_sets_of_any_size(size, channels, train, held_out, classes):
  train, held_out = [
    pictures(seed, num, size, channels, classes) for seed, num in ((1, train), (2, held_out))
  ]
  score, floor = make(train, held_out)
  assert floor['agreement'] >= 0.75
  samples = pictures(3, 30, size, channels, classes)
  assert list(score(samples)) == list(floor) == NAMES
  assert all(np.isfinite(value) for value in [*floor.values(), *score(samples).values()])


def test_one_class_always_agrees_and_still_tells_images_apart():
  train, held_out, real = [pictures(seed, 100, classes=1) for seed in (1, 2, 3)]
  score, floor = make(train, held_out)
  assert floor['agreement'] == floor['worst_class'] == 1
  noise = np.random.RandomState(0).randint(0, 256, real[0].shape).astype(np.uint8), real[1]
  assert score(noise)['agreement'] == score(noise)['worst_class'] == 1
  assert score(noise)[DISTANCE] > 5 * score(real)[DISTANCE]
  repeated = score((np.repeat(real[0][:1], 100, axis=0), real[1]))
  assert repeated['std_ratio'] < 1e-3 and repeated['coverage'] < 0.15


def test_one_class_learns_quarter_turns(monkeypatch):
  """All of its weights are trained, by a task that its images can be asked."""
  train = pictures(1, 100, classes=1)
  monkeypatch.setenv('BIGJAX_CACHE', '/dev/null')
  variables = classifier.cached(train[0], np.zeros(100, int), 1)
  turned = classifier.turn(pictures(2, 100, classes=1)[0], np.arange(100) % 4)
  logits, _, _ = classifier.network(1).apply(variables, turned, False)
  assert (np.asarray(logits).argmax(1) == np.arange(100) % 4).mean() > 0.9


def test_labels_with_gaps_and_classes_absent_from_either_side():
  """Trained on 5, 6, 7, 8; held out are 5 and 6; samples are of 5..9."""
  of = lambda labelled: (labelled[0], labelled[1] + 5)
  held_out = of(HELD_OUT)
  score, floor = make(of(TRAIN), tuple(part[held_out[1] < 7] for part in held_out))
  assert floor['agreement'] > 0.97
  samples = of(pictures(3, 200))
  assert score(samples)['agreement'] > 0.97
  unknown = samples[0], np.where(samples[1] == 8, 9, samples[1])
  assert score(unknown)['agreement'] == pytest.approx(0.75, abs=0.03)
  assert score(unknown)['worst_class'] == 0


def test_three_held_out_images_have_no_third_neighbours():
  held_out = tuple(part[:3] for part in HELD_OUT)
  score, floor = make(TRAIN, held_out)
  assert list(floor) == list(score(TRAIN)) == ['agreement', 'worst_class', DISTANCE, 'std_ratio']
  score, floor = make(TRAIN, tuple(part[:1] for part in HELD_OUT))
  assert all(np.isfinite(value) for value in [*floor.values(), *score(TRAIN).values()])


def test_asks_for_no_more_than_fits_in_memory(monkeypatch):
  asked = []

  def some(most):
    asked.append(most)
    return np.zeros((most, 128, 128, 3), np.uint8), np.zeros(most, np.int32)

  monkeypatch.setattr(classifier, 'MOST_BYTES', 10 * 128 * 128 * 3)
  assert classifier.take(some, 20)[0].shape == (10, 64, 64, 3)
  assert classifier.take(some, 5)[0].shape == (5, 64, 64, 3)
  assert asked == [1, 10, 1, 5]


# Its parts.


@pytest.mark.parametrize(
  ('size', 'side'), [(16, 16), (64, 64), (65, 32), (96, 48), (128, 64), (500, 62), (512, 64)]
)
def test_reduce(size, side):
  picture = np.random.RandomState(size).randint(0, 256, (2, size, size, 1)).astype(np.uint8)
  reduced = classifier.reduce(picture)
  factor = -(-size // 64)
  start = size % factor // 2
  assert reduced.shape == (2, side, side, 1) and reduced.dtype == np.uint8
  for i, j in ((0, 0), (side - 1, side // 2)):
    rows, columns = (slice(start + k * factor, start + (k + 1) * factor) for k in (i, j))
    mean = picture[1, rows, columns, 0].mean()
    assert abs(reduced[1, i, j, 0] - mean) <= 0.5


def test_augment_moves_and_mirrors_and_does_nothing_else():
  ramp = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)
  padded = np.pad(ramp, ((0, 0), (2, 2), (2, 2), (0, 0)), mode='edge')
  views = {
    padded[:, i : i + 8, j : j + 8][:, :, ::step].tobytes(): (i, j, step)
    for i in range(5) for j in range(5) for step in (1, -1)
  }  # fmt: skip
  found = classifier.augment(ramp, np.zeros(1000, int), 2, np.random.RandomState(0))
  seen = {views[image.tobytes()] for image in found}
  assert len(seen) == len(views) == 50
  two = np.stack([ramp[0], 255 - ramp[0]])
  still = classifier.augment(two, np.array([1, 0, 1]), 0, np.random.RandomState(0))
  for image, original in zip(still, two[[1, 0, 1]], strict=True):
    assert image.tobytes() in (original.tobytes(), original[:, ::-1].tobytes())


def test_fold_puts_squares_into_channels():
  x = np.arange(2 * 3 * 4 * 2, dtype=np.float32).reshape(2, 3, 4, 2)
  folded = np.asarray(models.fold(x, 2))
  assert folded.shape == (2, 2, 2, 8)
  np.testing.assert_array_equal(folded[1, 0, 1], x[1, 0:2, 2:4].reshape(-1))
  np.testing.assert_array_equal(folded[0, 1, 0], [*x[0, 2, 0:2].reshape(-1), 0, 0, 0, 0])
  np.testing.assert_array_equal(models.fold(x, 1), x)


@pytest.mark.parametrize('size', [4, 7, 16, 28, 33, 48, 64])
def test_network_takes_any_size(size):
  net = models.Classifier(3, 5, (4, 6, 8, 8))
  picture = np.random.RandomState(0).randint(0, 256, (2, size, size, 1)).astype(np.uint8)
  (logits, kinds, features), variables = jax.eval_shape(
    lambda: net.init_with_output(jax.random.key(0), picture, False)
  )
  assert logits.shape == (2, 3) and kinds.shape == (2, 5) and features.shape == (2, 8)
  assert variables['params']['conv_0']['kernel'].shape[2] == (-(-size // 16)) ** 2
