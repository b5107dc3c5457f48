"""The clock of growing games: when a resolution begins, fades in, holds, and what begins anew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.algorithms.base import contract, growing
from bigjax.algorithms.base.player import Player
from bigjax.core import errors
from bigjax.nn import optim


def plan(resolutions, kimg, batch=lambda resolution: 100, num_steps=10**9):
  stage_of = lambda r: contract.Stage(1, batch(r), contract.image_inputs(r, 3))
  return growing.stages(resolutions, num_steps, stage_of, kimg, kimg, {})


def lod_at(stages, images, full):
  """The authors' clock: levels below the full resolution, fractional in a fade."""
  (step,) = {
    first + round((images - stage.before) / stage.num_images)
    for (first, stage), (_, after) in zip(stages, [*stages[1:], (0, None)], strict=True)
    if stage.before <= images and (after is None or images < after.before)
  }
  stage = contract.stage_at(stages, step)
  return full - stage.level + 1 - float(stage.alpha(jnp.int32(step))), stage.image[0]


# (thousand images, lod, pixels), as the authors' code has them.
CLOCKS = [
  (1024, 600, [
    (0, 8, 4), (900, 7.5, 8), (1200, 7, 8), (2100, 6.5, 16), (3600, 5, 32), (4800, 4, 64),
    (6000, 3, 128), (7200, 2, 256), (8400, 1, 512), (9600, 0, 1024), (11000, 0, 1024),
  ]),
  (128, 800, [(1200, 4.5, 8), (3200, 3, 16), (4800, 2, 32), (6400, 1, 64), (8000, 0, 128)]),
  (32, 400, [(2400, 0, 32)]),
]  # fmt: skip


@pytest.mark.parametrize(('full', 'kimg', 'want'), CLOCKS)
def test_the_clock_is_the_authors(full, kimg, want):
  stages = plan(growing.resolutions(4, full), kimg)
  for thousand, lod, pixels in want:
    at, size = lod_at(stages, 1000 * thousand, full.bit_length() - 1)
    assert (round(at, 6), size) == (lod, pixels), thousand
  # At a change of resolution the images are still those of the one before: alpha is 0.
  for first, stage in stages[1:]:
    assert float(stage.alpha(jnp.int32(first))) == 0
    assert float(stage.alpha(jnp.int32(stage.whole - 1))) < 1
    assert float(stage.alpha(jnp.int32(stage.whole))) == 1


def test_stages_hold_as_many_images_whatever_their_batch():
  stages = plan([4, 8, 16], 1.0, batch=lambda resolution: {4: 64, 8: 32, 16: 7}[resolution])
  assert [stage.before for _, stage in stages] == [0, 1024, 1024 + 2016]
  assert [first for first, _ in stages] == [0, 16, 16 + 63]
  assert [stage.examples for _, stage in stages] == [64, 32, 7]
  assert plan([4, 8, 16], 1.0, num_steps=5) == plan([4], 1.0)  # stages that begin later: left out


def test_moments_begin_anew_at_both_ends_of_a_fade():
  _, (first, stage) = plan([4, 8], 1.0)
  anew = [i for i in range(first, first + 40) if stage.begins_anew(jnp.int32(i))]
  assert anew == [first, stage.whole] == [10, 20]
  whole = plan([8], 1.0)[0][1]
  assert not any(whole.begins_anew(jnp.int32(i)) for i in range(9))

  player = Player(optim.OPTIMIZERS['adam'](0.1, 0.0, 0.99, 1e-8))
  state = player.init({'w': jnp.ones(3)})
  moved, _ = player.update(state, {'w': jnp.ones(3)}, jnp.float32(0))
  kept = growing.begun_anew(player, moved, jnp.array(False))
  anew = growing.begun_anew(player, moved, jnp.array(True))
  assert all(np.array_equal(a, b) for a, b in zip(*map(leaves, (kept, moved)), strict=True))
  assert all(
    np.array_equal(a, b) for a, b in zip(*map(leaves, (anew['opt'], state['opt'])), strict=True)
  )
  np.testing.assert_array_equal(anew['params']['w'], moved['params']['w'])


def leaves(tree):
  return [np.asarray(x) for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize(
  ('first', 'last', 'said'),
  [(4, 48, 'data.resolution is 48'), (6, 32, 'first_resolution is 6'), (64, 32, 'above')],
)
def test_resolutions_that_cannot_grow_get_a_sentence(first, last, said):
  with pytest.raises(errors.UserError, match=said):
    growing.resolutions(first, last)


@pytest.mark.parametrize('word', ['64', 'x:8', '64:', '64:-8', '64:0'])
def test_numbers_at_resolutions(word):
  assert growing.at_resolutions('optim.batch_at', ('4:512', '8:256'), int) == {4: 512, 8: 256}
  with pytest.raises(errors.UserError, match=r'optim\.batch_at has'):
    growing.at_resolutions('optim.batch_at', (word,), int)
