"""DiffAugment: what its transforms may and may not change, and the official code's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import errors
from bigjax.nn.augment import diffaugment

from golden_files import golden
from keyed import distance, images, keys, nhwc

TRANSLATE = jax.jit(diffaugment.translation)


def shifts(before, after):
  """The (dy, dx) with after[i, j] = before[i - dy, j - dx] and 0 outside; None if there is none."""
  h, w, _ = before.shape
  for dy in range(-h + 1, h):
    for dx in range(-w + 1, w):
      want = np.zeros_like(before)
      want[max(dy, 0) : h + min(dy, 0), max(dx, 0) : w + min(dx, 0)] = before[
        max(-dy, 0) : h + min(-dy, 0), max(-dx, 0) : w + min(-dx, 0)
      ]
      if np.array_equal(want, after):
        return dy, dx
  return None


def test_translation_shifts_up_to_an_eighth_and_fills_with_zero():
  # DiffAugment (Zhao et al. 2020): translation by up to 1/8 of each side; 16 x 8 px -> +-2, +-1.
  num = 300
  x = jnp.broadcast_to(images(1, 16, 8, 2), (num, 16, 8, 2))
  y = np.asarray(TRANSLATE(keys(num), x, 1.0))
  found = [shifts(np.asarray(x[0]), one) for one in y[:60]]
  assert None not in found  # each is a pure shift of the whole image
  assert {dy for dy, _ in found} == {-2, -1, 0, 1, 2}
  assert {dx for _, dx in found} == {-1, 0, 1}
  # 15 equally likely outcomes in 300 draws: 20 +- 4.3 each.
  counts = np.unique(y.reshape(num, -1), axis=0, return_counts=True)[1]
  assert len(counts) == 15 and counts.min() > 4 and counts.max() < 45


def test_translation_moves_real_and_fake_alike_under_one_key():
  real, fake = images(3, 16, 16, 1), 2 * images(3, 16, 16, 1)
  np.testing.assert_array_equal(TRANSLATE(keys(3), fake, 1.0), 2 * TRANSLATE(keys(3), real, 1.0))


def with_vjp(fn, x, cotangent):
  @jax.jit
  def both(x, cotangent):
    y, vjp = jax.vjp(fn, x)
    return y, vjp(cotangent)[0]

  return both(x, cotangent)


def test_translation_gradient_is_the_shift_backwards():
  # A pixel shifted out of the frame gets no gradient, every other one exactly 1.
  x = images(8, 16, 16, 1)
  y, grad = with_vjp(lambda x: diffaugment.translation(keys(8), x, 1.0), x, np.ones_like(x))
  assert set(np.unique(grad)) == {0.0, 1.0}
  np.testing.assert_allclose((np.asarray(grad) * x).sum((1, 2, 3)), np.sum(y, (1, 2, 3)), rtol=1e-5)


def test_translation_rounds_an_eighth_as_published():
  # int(side / 8 + 1/2): 28 px -> 4, where whole eighths are 3.
  x = jnp.broadcast_to(images(1, 28, 8, 1), (200, 28, 8, 1))
  y = np.asarray(TRANSLATE(keys(200), x, 1.0))
  blank_above = np.array([np.flatnonzero(one.any((1, 2)))[0] for one in y])
  assert set(blank_above) == set(range(5))


def test_translation_keeps_its_numbers():
  # From before DiffAugment's other transforms came: a run with the same seed is the same run.
  x = jnp.broadcast_to(images(1, 16, 16, 1), (8, 16, 16, 1))
  y = np.asarray(TRANSLATE(keys(8), x, 1.0))
  assert [shifts(np.asarray(x[0]), one) for one in y] == [
    (1, -1), (0, 0), (-2, 0), (2, 2), (2, -2), (-1, -2), (1, 1), (1, -2),
  ]  # fmt: skip


def test_cutout_blanks_a_clipped_square():
  num = 400
  x = jnp.ones((num, 8, 16, 1), jnp.float32)
  y = np.asarray(jax.jit(diffaugment.cutout)(keys(num), x, 1.0))[..., 0] == 0
  areas = y.sum((1, 2))
  assert areas.min() == 2 * 4 and areas.max() == 4 * 8  # 4 x 8 px, a quarter of it in the corners
  rows, columns = y.any(2), y.any(1)
  np.testing.assert_array_equal(y, rows[:, :, None] & columns[:, None])
  for line, side in ((rows, 8), (columns, 16)):
    first, last = line.argmax(1), side - 1 - line[:, ::-1].argmax(1)
    np.testing.assert_array_equal(line.sum(1), last - first + 1)  # no hole
    # Of side + 1 centres, equally likely, side / 4 + 1 reach the first pixel, as many the last.
    for hit in (line[:, 0], line[:, -1]):
      assert abs(hit.mean() - (side / 4 + 1) / (side + 1)) < 0.1


def test_color_moves_brightness_saturation_and_contrast_alone():
  num = 300
  x = jnp.broadcast_to(images(1, 8, 8, 3), (num, 8, 8, 3))
  y = np.asarray(jax.jit(diffaugment.color)(keys(num), x, 1.0))
  x = np.asarray(x)
  moved = y.mean((1, 2, 3)) - x.mean((1, 2, 3))
  assert -0.5 <= moved.min() < -0.45 and 0.45 < moved.max() <= 0.5
  grey = lambda a: a.mean(3) - a.mean((1, 2, 3))[:, None, None]
  contrast = (grey(y) * grey(x)).sum((1, 2)) / (grey(x) ** 2).sum((1, 2))
  assert 0.5 <= contrast.min() < 0.55 and 1.45 < contrast.max() <= 1.5
  tint = lambda a: a - a.mean(3, keepdims=True)
  both = (tint(y) * tint(x)).sum((1, 2, 3)) / (tint(x) ** 2).sum((1, 2, 3))
  saturation = both / contrast
  assert -1e-5 <= saturation.min() < 0.1 and 1.9 < saturation.max() <= 2 + 1e-5
  assert abs(np.corrcoef([moved, contrast, saturation]) - np.eye(3)).max() < 0.2


def apply(name, given, x, ratio):
  """The policy of a golden file, of its draws."""
  for part in name.removeprefix('pg_').split('+'):
    if part == 'color':
      x = diffaugment.adjust_color(x, *(given[k] for k in ('brightness', 'saturation', 'contrast')))
    elif part == 'translation':
      x = diffaugment.shift(x, *given['shift_hw'].T)
    else:
      x = diffaugment.cut(x, *given['cutout_offset_hw'].T, ratio)
  return x


def check_golden(arrays, dtype, tolerance):
  names = sorted({key.split('/')[1] for key in arrays if key.startswith('out/')})
  x, cotangent = nhwc(arrays['in/img'], dtype), nhwc(arrays['in/cotangent'], dtype)
  for name in names:
    prefix = f'in/{name}/'
    given = {key.removeprefix(prefix): a for key, a in arrays.items() if prefix in key}
    ratio = 0.2 if name.startswith('pg_') else diffaugment.CUTOUT
    y, grad = with_vjp(lambda x, n=name, g=given, r=ratio: apply(n, g, x, r), x, cotangent)
    assert distance(y, nhwc(arrays[f'out/{name}/img'], dtype)) < tolerance, name
    assert distance(grad, nhwc(arrays[f'out/{name}/dimg'], dtype)) < tolerance, name
  return names


def test_three_images_are_as_the_official_code_makes_them():
  # tests/golden/diffaug_three.npz: of the official code, in float64.
  assert check_golden(golden('diffaug_three'), np.float32, 1e-6) == ['color+translation+cutout']


def test_every_policy_is_as_the_official_code_makes_it(x64):
  names = check_golden(golden('diffaug'), np.float64, 2e-7)
  assert {'translation+cutout', 'cutout+translation', 'pg_cutout'} < set(names)


def test_policies_are_in_order_and_of_independent_draws():
  x = images(64, 16, 16, 3)
  texts = 'translation', 'color,translation', 'translation,color', 'translation,translation'
  fill = jax.jit(lambda k, x: {text: diffaugment.policy(text)(k, x, 1.0) for text in texts})
  filled = jax.device_get(fill(keys(64), x))
  np.testing.assert_array_equal(filled['translation'], TRANSLATE(keys(64), x, 1.0))
  # What is shifted in comes before the colours change, or after.
  assert (filled['color,translation'] == 0).any((1, 2, 3)).mean() > 0.5
  assert not (filled['translation,color'] == 0).any()
  assert not np.array_equal(filled['translation,translation'], filled['translation'])


def test_a_policy_has_projected_gans_cutout():
  x = jnp.ones((64, 16, 16, 1), jnp.float32)
  y = np.asarray(jax.jit(diffaugment.policy('cutout', cutout_ratio=0.2))(keys(64), x, 1.0))
  assert (y == 0).sum((1, 2, 3)).max() == 9  # int(16 / 5 + 1/2) squared


def test_an_unknown_transform_is_refused():
  with pytest.raises(errors.UserError, match='did you mean translation'):
    diffaugment.policy('color,translate')
