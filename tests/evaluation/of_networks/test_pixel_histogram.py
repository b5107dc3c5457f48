"""Code length by histograms of pixels, against closed forms."""

import numpy as np

from bigjax.evaluation.of_networks import pixel_histogram


def length(train, test):
  return pixel_histogram.bits(pixel_histogram.fitted(train), test)


def test_levels_that_are_known_and_unknown():
  """10 images of one level: (10 + 1) in (10 + 256) for it, 1 in that for any other."""
  train = np.full((10, 2, 3, 1), 7, np.uint8)
  test = np.stack([train[0], train[0] + 1, train[0]])
  test[2, 0] += 1  # half of the numbers
  known, other = np.log2(266 / 11), np.log2(266)
  np.testing.assert_allclose(length(train, test), [known, other, (known + other) / 2])


def test_places_and_channels_are_apart():
  train = np.zeros((4, 1, 2, 3), np.uint8)
  train[:, :, 1], train[..., 2] = 50, 90
  swapped = train[:1, :, ::-1]
  same, other = np.log2(260 / 5), np.log2(260)
  np.testing.assert_allclose(length(train, train[:1]), same)
  np.testing.assert_allclose(length(train, swapped), (4 * other + 2 * same) / 6)


def test_it_comes_to_the_entropy():
  """Of levels 0 to 15, as likely each: 4 bits, and what smoothing costs."""
  rng = np.random.default_rng(0)
  draw = lambda num: rng.integers(0, 16, (num, 4, 4, 1)).astype(np.uint8)
  many = length(draw(20_000), draw(50)).mean()
  assert 4 < many < 4.05
  assert length(draw(20), draw(50)).mean() > 6
  np.testing.assert_allclose(length(draw(0), draw(5)), 8)  # nothing is known
