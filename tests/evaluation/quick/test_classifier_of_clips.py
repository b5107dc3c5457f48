"""Clips in a classifier's features: motion is seen, and what goes for images holds for clips."""

import dataclasses

import jax
import numpy as np
import pytest

from bigjax.core import errors
from bigjax.evaluation import distortions, feature_pass, image_sets, quick, reference
from bigjax.evaluation.metrics import frechet
from bigjax.evaluation.quick import classifier
from bigjax.models.pretrained import registry
from bigjax.models.pretrained import small_classifier as models

NAMES = list(quick.scores('classifier'))
DISTANCE = 'fd_held_out_classifier'
FRAMES, SIDE = 5, 8


def clips(seed, num, classes=4):
  """Clips [num, 5, 8, 8, 1] of a pattern of the class that wanders two pixels a frame to the right.

  Where it is at first is drawn, so that no frame tells the time.
  """
  rng = np.random.RandomState(seed)
  labels = (np.arange(num) % classes).astype(np.int32)
  of_class = np.random.RandomState(0).randint(0, 256, (classes, SIDE, SIDE, 1))[labels]
  still = (3 * of_class + rng.randint(0, 256, of_class.shape)) // 4
  first = rng.randint(0, SIDE, num)
  moved = [
    [np.roll(image, at + 2 * t, axis=1) for t in range(FRAMES)]
    for image, at in zip(still, first, strict=True)
  ]
  return np.array(moved, np.uint8), labels


def evenly(labelled):
  return lambda most: classifier.evenly(labelled, most)


@pytest.fixture(scope='module', autouse=True)
def small(tmp_path_factory):
  recipe = dataclasses.replace(classifier.CLIP_RECIPE, widths=(16, 16, 16, 32), min_steps=150)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(classifier, 'CLIP_RECIPE', recipe)
    patch.setenv('BIGJAX_CACHE', str(tmp_path_factory.mktemp('cache')))
    yield


@pytest.fixture(scope='module')
def made(small):
  return quick.load('classifier', evenly(clips(1, 300)), evenly(clips(2, 200)))


@pytest.fixture(scope='module')
def real(made):
  return clips(3, 200)


def shuffled(labelled, seed=0):
  rng = np.random.RandomState(seed)
  return np.stack([clip[rng.permutation(FRAMES)] for clip in labelled[0]]), labelled[1]


def test_unseen_real_clips_score_as_real_ones_do(made, real):
  score, floor = made
  scores = score(real)
  assert list(scores) == list(floor) == NAMES
  assert scores['agreement'] >= 0.95, scores
  assert abs(scores['precision'] - floor['precision']) < 0.2 and scores['coverage'] > 0.7
  assert scores[DISTANCE] < 5 * floor[DISTANCE]


def test_the_order_of_frames_is_seen(made, real):
  """Where every frame is a real one: shuffled, standing still, backwards, two swapped."""
  score = made[0]
  images, labels = real
  of = lambda order: score((images[:, order], labels))[DISTANCE]
  near = score(real)[DISTANCE]
  assert score(shuffled(real))[DISTANCE] > 10 * near
  assert of([2] * FRAMES) > 10 * near
  assert of(slice(None, None, -1)) > 5 * near
  assert of([0, 2, 1, 3, 4]) > 5 * near


def test_frame_by_frame_the_order_is_not_seen(real):
  """The distance of an image network's features, which are means over frames."""
  weights = np.random.RandomState(0).normal(size=(SIDE * SIDE, 6)).astype(np.float32)
  apply = lambda v, x: {'features': np.tanh(x.reshape(len(x), -1) / 128.0 - 1) @ v}
  network = registry.FeatureNetwork('toy', '', 'none', 6, 0, weights, apply)
  found = feature_pass.fitted(network, (FRAMES, SIDE, SIDE, 1))
  assert found.name == 'toy_frame_mean' and found.clips
  rows = lambda some: np.asarray(found.apply(weights, some)['features'], np.float64)
  a, b = (classifier.moments(rows(one[0])) for one in (real, shuffled(real)))
  assert frechet.frechet(a, b) < 1e-6 * np.trace(a[1])
  assert feature_pass.fitted(found, (FRAMES, SIDE, SIDE, 1)) is found
  with pytest.raises(errors.UserError, match="'toy_frame_mean' takes clips, and these are images"):
    feature_pass.fitted(found, (SIDE, SIDE, 1))


def test_a_collapse_is_seen(made, real):
  scores = made[0]((np.repeat(real[0][:1], 200, axis=0), real[1]))
  assert scores['std_ratio'] < 1e-3 and scores['coverage'] < 0.2
  assert scores['agreement'] < 0.3


def test_clips_without_labels(real):
  """Of one class all clips agree; the distance still sees their order."""
  blind = lambda labelled: evenly((labelled[0], np.zeros_like(labelled[1])))
  score, floor = quick.load('classifier', blind(clips(1, 200)), blind(clips(2, 100)))
  assert floor['agreement'] == floor['worst_class'] == 1
  none = np.zeros(200, np.int32)
  near = score((real[0], none))[DISTANCE]
  assert score((shuffled(real)[0], none))[DISTANCE] > 5 * near
  assert quick.load('none', None, None)[0]((real[0], none)) == {}


def test_pixels_take_clips(real):
  score, floor = quick.load('pixels', evenly(clips(1, 200)), evenly(clips(2, 100)))
  assert list(score(real)) == list(floor) == list(quick.scores('pixels'))
  assert score(real)['agreement'] > 0.9


def test_stacked_frames_are_channels(real):
  some = real[0][:3, :, :, :4]
  found = classifier.stacked(some)
  assert found.shape == (3, SIDE, 4, FRAMES)
  np.testing.assert_array_equal(found[1, :, :, 2], some[1, 2, :, :, 0])
  colour = np.arange(2 * 2 * 1 * 1 * 3).reshape(2, 2, 1, 1, 3)
  np.testing.assert_array_equal(classifier.stacked(colour)[1, 0, 0], [6, 7, 8, 9, 10, 11])


def test_large_clips_are_stacked_a_few_at_a_time(monkeypatch):
  """All of them at once would be a copy of up to 4 GiB."""
  large = np.random.RandomState(0).randint(0, 256, (5, 3, 128, 128, 1)).astype(np.uint8)
  whole, stacked, sizes = classifier.reduced(large), classifier.stacked, []
  monkeypatch.setattr(classifier, 'CHUNK', 2)
  monkeypatch.setattr(classifier, 'stacked', lambda x: sizes.append(len(x)) or stacked(x))
  np.testing.assert_array_equal(classifier.reduce(large), whole)
  assert whole.shape == (5, 64, 64, 3) and max(sizes) == 2


@pytest.mark.parametrize(
  ('frames', 'expected'),
  [
    (1, [[0]]),
    (2, [[0, 1]]),
    (3, [[0, 1, 2]]),
    (4, [[0, 1, 2], [1, 2, 3]]),
    (5, [[0, 1, 2], [2, 3, 4]]),
    (8, [[0, 1, 2], [2, 3, 4], [4, 5, 6], [5, 6, 7]]),
  ],
)
def test_windows_hold_each_pair_of_frames(frames, expected):
  times = np.arange(frames)
  images = np.stack([times, times + 100]).reshape(2, 1, 1, frames)
  found = np.asarray(models.windows(images, frames)).reshape(2, len(expected), -1)
  np.testing.assert_array_equal(found[0], expected)
  np.testing.assert_array_equal(found[1], np.array(expected) + 100)


def test_distortions_in_time(real):
  """Whole frames are kept, and put in another order; of a colour its channels stay together."""
  clip = np.stack([np.full((8, 8, 2), (10 * t, 10 * t + 1), np.uint8) for t in range(4)])
  images = classifier.stacked(np.stack([clip] * 400))
  changed, kinds = distortions.distort_clips(images, 4, np.random.RandomState(0))
  assert set(kinds) == set(range(1, len(distortions.CLIP_KINDS)))
  orders = changed.reshape(400, 8, 8, 4, 2)[:, 3, 3]
  of = {name: orders[kinds == i] for i, name in enumerate(distortions.CLIP_KINDS)}
  assert (of['reversed'][:, :, 0] == [30, 20, 10, 0]).all()
  assert (of['frozen'] == of['frozen'][:, :1]).all() and len(np.unique(of['frozen'])) == 8
  assert (np.sort(of['shuffled'][:, :, 0]) == [0, 10, 20, 30]).all()
  assert len(np.unique(of['shuffled'][:, :, 0], axis=0)) > 10
  for name in ('reversed', 'frozen', 'shuffled'):
    assert (of[name][..., 1] == of[name][..., 0] + 1).all()


def test_clips_are_not_mirrored():
  """A clip that goes to the right never goes to the left."""
  ramp = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)
  seen = classifier.augment(ramp, np.zeros(50, int), 0, np.random.RandomState(0), mirror=False)
  assert (seen == ramp).all()


def test_digests_of_clips_are_their_own():
  """Frames and channels are not taken for each other."""
  images, classes = np.zeros((4, 8, 8, 6), np.uint8), np.arange(4)
  digests = [classifier.training_digest(images, classes, frames) for frames in (1, 2, 6)]
  assert len(set(digests)) == 3
  net = classifier.network(3, 16)
  shapes = jax.eval_shape(
    lambda: net.init_with_output(jax.random.key(0), np.zeros((2, 64, 64, 48), np.uint8), False)
  )
  (logits, kinds, features), variables = shapes
  assert logits.shape == (2, 3) and kinds.shape == (2, 8) and features.shape == (2, 32)
  assert variables['params']['conv_0']['kernel'].shape == (3, 3, 3 * 3 * 16, 16)


def test_a_network_for_scores_is_of_clips():
  """--features=classifier of a reference of clips, which is given them whole."""
  some, labels = clips(1, 40)
  shape = (FRAMES, SIDE, SIDE, 1)
  names = ('a', 'b', 'c', 'd')
  train = image_sets.ImageSet(
    'toy', 'train', 40, shape, 4, '', None, evenly((some, labels)), class_names=names
  )
  network = reference.open_network('classifier', None, train)
  assert network.clips and network.class_names == names and network.dim == 32
  assert feature_pass.fitted(network, shape) is network
  found = network.apply(network.variables, some[:7])
  assert found['features'].shape == (7, 32) and found['logits'].shape == (7, 4)
