"""Views of clips: pixels, frames in order, crops that stay in place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import errors
from bigjax.nn.video import frames, views
from bigjax.nn.video.views import Crop, Frames, Whole

CLIP = (48, 128, 128, 3)


def num_pixels(found):
  shapes = [view.shape(CLIP) for view in found]
  return sum(frames * height * width for frames, height, width, _ in shapes)


def keys(num):
  return jax.random.split(jax.random.key(3), num)


def test_pixels_are_those_of_the_papers():
  read = lambda *words: tuple(views.read(word, 'key') for word in words)
  assert num_pixels(read('clip')) == 786_432
  assert num_pixels(read('frames:8', 'clip/2')) == 327_680
  assert num_pixels(read('frames:8/2', 'crop/2')) == 229_376
  k, scale = 5, 4
  found = num_pixels(read(f'frames:{k}/{scale}', f'crop/{scale}'))
  assert found == (k + 48) * 128 * 128 // scale**2


def test_frames_are_different_ones_in_order():
  clips = jnp.broadcast_to(jnp.arange(6.0)[None, :, None, None, None], (200, 6, 4, 4, 1))
  seen = np.asarray(Frames(3, 2)(keys(200), clips))
  assert seen.shape == (200, 3, 2, 2, 1)
  numbers = seen[:, :, 0, 0, 0]
  assert (np.diff(numbers, axis=1) > 0).all()
  share = np.array([(numbers == i).any(1).mean() for i in range(6)])
  assert np.abs(share - 0.5).max() < 0.15  # each as likely as the others
  later = np.asarray(Frames(3, first=3)(keys(200), clips))[:, :, 0, 0, 0]
  np.testing.assert_array_equal(later, np.broadcast_to([3, 4, 5], later.shape))


def test_crops_are_of_one_place_at_all_frames():
  where = jnp.arange(64.0).reshape(1, 1, 8, 8, 1)
  clips = jnp.broadcast_to(where, (100, 5, 8, 8, 1))
  seen = np.asarray(Crop(2)(keys(100), clips))
  assert seen.shape == (100, 5, 4, 4, 1)
  np.testing.assert_array_equal(seen, np.broadcast_to(seen[:, :1], seen.shape))
  corners = seen[:, 0, 0, 0, 0].astype(int)
  assert {corner // 8 for corner in corners} == {corner % 8 for corner in corners} == set(range(5))
  np.testing.assert_array_equal(seen[0, 0, :, :, 0] - seen[0, 0, 0, 0, 0], where[0, 0, :4, :4, 0])


def test_whole_clips_are_means_of_squares():
  clips = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 1))
  np.testing.assert_allclose(
    Whole(2)(keys(2), clips)[:, :, 0, 0], clips[:, :, :2, :2].mean((2, 3)), rtol=1e-5
  )
  np.testing.assert_array_equal(Whole()(keys(2), clips), clips)


@pytest.mark.parametrize('word', ['frames', 'frames:0', 'crop', 'crop/1', 'clip/0', 'all', ''])
def test_other_words_are_refused(word):
  with pytest.raises(errors.UserError, match=r'model.critics has .*frames:8'):
    views.read(word, 'model.critics')


def test_words_are_read_back():
  for word in ('frames:8', 'frames:8/2', 'clip', 'clip/2', 'crop/2'):
    assert str(views.read(word, 'key')) == word


def test_frames_fold_and_unfold():
  x = jnp.arange(24.0).reshape(2, 3, 2, 2, 1)
  np.testing.assert_array_equal(frames.unfold(frames.fold(x), 3), x)
  np.testing.assert_array_equal(frames.fold(x)[4], x[1, 1])


def test_pairs_of_frames_are_pooled_and_an_odd_one_stays():
  x = jnp.arange(5.0).reshape(1, 5, 1, 1, 1)
  np.testing.assert_array_equal(frames.pool_time(x).ravel(), [0.5, 2.5, 4])
