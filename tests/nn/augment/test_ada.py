"""ADA's pipeline against the official code: order, draws, images and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from bigjax.core import device
from bigjax.nn.augment import ada, warp

from golden_files import golden
from keyed import distance, images, keys, nhwc

SETS = {**ada.SETS, **{name: (name,) for name in ada.TRANSFORMS}}


def random_draws(arrays, p, dtype):
  """The draws of a golden file's random pipe."""
  draws = {}
  for name in ada.TRANSFORMS:
    draws[name] = {}
    for part in ada.DRAWS[name]:
      at = f'in/p{p}/{name}.{part}'
      if name == 'imgfilter':
        value = np.concatenate([arrays[f'{at}{band}'] for band in range(4)], 1)
      elif part == 'pixel_n':
        value = arrays[at].transpose(0, 2, 3, 1)
      else:
        value = arrays[at][:, 0] if arrays[at].shape[1] == 1 else arrays[at]
      draws[name][part] = np.asarray(value, dtype)
  return draws


def percentile_draws(names, q, num, pixel_n):
  """Every draw at a percentile, as the official code's debugging has them, and all coins heads.

  Its Gaussians are erfinv(2 q - 1), without the square root of 2, the noise's erfinv(q); of the two
  rotations it makes the first.
  """

  def value(part):
    if 'coin' in part:
      return 2.0 if part == 'post_coin' else 0.0
    if part == 'sigma_n':
      return special.erfinv(q)
    return special.erfinv(2 * q - 1) if part.endswith('n') else q

  draws = {
    name: {
      part: np.full((num, *shape), value(part))
      for part, shape in ada.DRAWS[name].items()
      if part != 'pixel_n'
    }
    for name in names
  }
  if 'noise' in draws:
    draws['noise']['pixel_n'] = pixel_n
  return draws


def official_margins(draws, p, h, w):
  """What the official code pads a batch by: the widest that an image of it needs."""
  x, y = (w - 1) / 2, (h - 1) / 2
  maps = jax.jit(lambda draws, p: ada.inverse_map(draws, p, h, w))(draws, p)
  corners = np.array([[-x, -y, 1], [x, -y, 1], [x, y, 1], [-x, y, 1]]).T
  reached = (np.asarray(maps) @ corners)[:, :2]
  need = lambda at, half, side: int(np.ceil(np.clip(at + 6 - half, 0, side - 1)))
  (left, top), (right, bottom) = -reached.min((0, 2)), reached.max((0, 2))
  return (need(top, y, h), need(bottom, y, h)), (need(left, x, w), need(right, x, w))


transform = jax.jit(ada.transform, static_argnums=3)


@jax.jit
def vjp(x, draws, cotangent):
  return jax.vjp(lambda x: ada.transform(x, draws, 1.0), x)[1](cotangent)[0]


def test_the_whole_pipeline_is_as_the_official_code_runs_it():
  # tests/golden/ada_p1.npz: the official code in float64, all transforms on, every draw its own.
  arrays = golden('ada_p1')
  draws = random_draws(arrays, '1.0', np.float32)
  y = transform(nhwc(arrays['in/img_random'], np.float32), draws, 1.0)
  assert distance(y, nhwc(arrays['out/p1.0/img'])) < 1e-4


def test_filters_are_as_published():
  arrays = golden('ada_p1')
  assert distance(warp.TAPS, arrays['P/Hz_geom']) < 1e-7
  assert distance(ada.bands(), arrays['P/Hz_fbank']) < 1e-6
  np.testing.assert_allclose(ada.bands().sum(0), np.eye(1, 43, 21)[0], atol=1e-12)


@pytest.mark.parametrize('p', ['0.3', '1.0'])
def test_random_draws_are_as_official(p, x64):
  arrays = golden('ada')
  x, want = nhwc(arrays['in/img_random']), nhwc(arrays[f'out/p{p}/img'])
  draws = random_draws(arrays, p, np.float64)
  margins = official_margins(draws, float(p), *x.shape[1:3])
  assert distance(transform(x, draws, float(p), margins), want) < 1e-6
  # The widest margins: what others in the batch happen to need makes this much of a difference.
  assert distance(transform(x, draws, float(p)), want) < 1e-4


@pytest.mark.parametrize('q', ['0.1', '0.5', '0.9'])
def test_percentiles_and_gradients_are_as_official(q, x64):
  arrays = golden('ada')
  x, cotangent = nhwc(arrays['in/img']), nhwc(arrays['in/cotangent'])
  pixel_n = nhwc(arrays['in/noise_pixel_n'])
  compared = 0
  for key in arrays:
    if not key.startswith(f'out/q{q}/'):
      continue
    name, _, kind = key.split('/')[-1].partition('.')
    draws = percentile_draws(SETS[name], float(q), len(x), pixel_n)
    found = vjp(x, draws, cotangent) if kind else transform(x, draws, 1.0)
    assert distance(found, nhwc(arrays[key])) < 1e-6, key
    compared += 1
  assert compared == 30


@pytest.mark.parametrize(('side', 'channels'), [(8, 1), (32, 3)])
def test_at_strength_0_it_is_the_identity(side, channels):
  # The filters fail below 22 px in the official code; here they mirror the image again.
  x = images(2, side, side, channels)
  run = jax.jit(ada.pipeline('bgcfnc'))
  np.testing.assert_allclose(run(keys(2), x, jnp.float32(0)), x, atol=1e-5)
  assert np.abs(run(keys(2), x, jnp.float32(1)) - x).max() > 0.1


@jax.jit
def apart(keys, p):
  """What each transform alone does to images of 32 x 64: maps, colours, gains, centres of cuts."""
  draws = ada.draw(keys, frozenset(ada.TRANSFORMS), (4, 4, 1))
  alone = {name: {name: draws[name]} for name in draws}
  maps = {name: ada.inverse_map(alone[name], p, 32, 64) for name in (*ada.BLIT, *ada.GEOM)}
  colors = {name: ada.color_map(alone[name], p, 3) for name in ('brightness', 'contrast')}
  return maps, colors, ada.band_gains(draws['imgfilter'], p), draws['cutout']['center_u']


def test_coins_are_of_each_transform_and_example():
  # At strength p an image is mirrored with p / 2, turned by quarters with 3 p / 4, turned at all by
  # an angle with p: two coins of 1 - sqrt(1 - p).
  num, p = 4000, 0.5
  maps, _, gains, _ = jax.device_get(apart(keys(num), p))
  moved = lambda name: (abs(maps[name] - np.eye(3)) > 1e-6).any((1, 2))
  assert abs(moved('xflip').mean() - p / 2) < 0.035
  assert abs(moved('rotate90').mean() - 3 * p / 4) < 0.035
  assert abs(moved('rotate').mean() - p) < 0.035
  assert abs(moved('scale').mean() - p) < 0.035
  assert abs(moved('xfrac').mean() - p) < 0.035
  coins = np.stack([moved('xflip'), moved('scale'), moved('aniso'), moved('xfrac')])
  assert abs(np.corrcoef(coins) - np.eye(4)).max() < 0.08
  assert abs((gains == 1).all(1).mean() - (1 - p) ** 4) < 0.035


def test_draws_have_the_published_laws():
  num = 4000
  alone, colors, _, cut = jax.device_get(apart(keys(num), 1.0))
  # 1/8 of 32 rows and of 64 columns, at most, in whole pixels.
  assert set(alone['xint'][:, 1, 2]) == set(range(-4, 5))
  assert set(alone['xint'][:, 0, 2]) == set(range(-8, 9))
  assert abs(np.log2(alone['scale'][:, 0, 0]).std() - 0.2) < 0.01
  np.testing.assert_allclose(np.linalg.det(alone['aniso'][:100]), 1, atol=1e-5)
  assert abs(alone['xfrac'][:, 0, 2].std() / 64 - 0.125) < 0.006
  assert abs(colors['brightness'][:, 1, 3].std() - 0.2) < 0.01
  assert abs(np.log2(colors['contrast'][:, 1, 1]).std() - 0.5) < 0.025
  assert cut.shape == (num, 2) and abs(cut.mean(0) - 0.5).max() < 0.02


def test_what_is_drawn_does_not_depend_on_the_set():
  order = []

  def draw(keys, names):
    draws = ada.draw(keys, names, (4, 4, 1))
    order.append(list(draws))
    return draws

  draw = jax.jit(draw, static_argnums=1)
  few, many = draw(keys(2), frozenset({'scale', 'hue'})), draw(keys(2), frozenset(ada.TRANSFORMS))
  assert order == [['scale', 'hue'], list(ada.TRANSFORMS)]
  for name, parts in few.items():
    for part, value in parts.items():
      np.testing.assert_array_equal(value, many[name][part])


def test_grey_images_get_the_mean_colour():
  names = ('brightness', 'contrast', 'lumaflip')
  grey = images(4, 8, 8, 1)
  more = jax.jit(lambda keys: ada.draw(keys, frozenset(ada.COLOR), (8, 8, 1)))(keys(4))
  draws = {name: more[name] for name in names}
  got = transform(grey, draws, 1.0)
  rgb = transform(np.broadcast_to(grey, (4, 8, 8, 3)), draws, 1.0)
  np.testing.assert_allclose(got[..., 0], np.asarray(rgb).mean(3), atol=1e-5)
  # Hue and saturation are of colours.
  np.testing.assert_array_equal(transform(grey, more, 1.0), got)


def test_a_penalty_sees_the_same_gradient_at_strength_0():
  x, weight = images(2, 16, 16, 3), images(2, 16, 16, 3)
  fn = ada.pipeline('bgc')
  score = lambda x: (jnp.tanh(fn(keys(2), x, jnp.float32(0))) * weight).sum()
  want = weight / np.cosh(x) ** 2
  np.testing.assert_allclose(jax.jit(jax.grad(score))(x), want, atol=1e-5)


def test_on_tpus_nothing_is_looked_up_or_scattered(monkeypatch):
  monkeypatch.setattr(device, 'on_tpu', lambda: True)
  fn = ada.pipeline('bgcfnc')
  loss = lambda x, keys: fn(keys, x, 0.5).sum()
  shape = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  program = str(jax.make_jaxpr(jax.grad(loss))(shape, keys(2)))
  assert 'gather' not in program and 'scatter' not in program
