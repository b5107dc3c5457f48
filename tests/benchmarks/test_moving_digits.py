"""The benchmark of clips: configs that can be built, centroids, tables."""

import moving_digits
import numpy as np
import pytest

from bigjax.algorithms import dvdgan


@pytest.mark.parametrize('part', moving_digits.PARTS)
def test_recipes_can_be_built(part):
  recipes, steps, seeds = moving_digits.PARTS[part]
  assert steps > 0 and seeds > 0
  for given, keys in recipes.values():
    config = moving_digits.config_of(given, keys, part == 'classes')
    algorithm = dvdgan.make(config)
    assert (algorithm.gen_net.num_given > 0) == (part != 'classes')
  if part == 'units':
    made = {dvdgan.make(moving_digits.config_of(*one, False)).critics for one in recipes.values()}
    assert len(made) == 1  # judged alike


def test_centroids_are_of_light():
  frames = np.zeros((1, 2, 8, 8, 1), np.uint8)
  frames[0, 0, 2, 5] = 200
  frames[0, 1, 0, 0] = frames[0, 1, 4, 2] = 100
  np.testing.assert_allclose(moving_digits.centroids(frames)[0], [[2, 5], [2, 1]], atol=1e-3)


def test_a_table_has_a_row_for_each_prediction():
  of = lambda x: {score: [x, x + 1] for score in moving_digits.WORDS}
  run = {'recipe': 'gru', 'seed': 0, 'of': {'predicted': of(3.0), 'black': of(1.0)}}
  lines = moving_digits.prediction_table([run]).splitlines()
  assert [line.split('|')[1].strip() for line in lines[2:]] == ['gru', 'black']
  assert lines[2].split('|')[3:5] == [' 3.000 ', ' 4.000 ']
