"""StyleGAN's layers: counts and closed forms (tests/models/test_stylegan.py: golden numbers)."""

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.core import trees
from bigjax.models import msggan
from bigjax.nn.style import equalized, stylegan

from counts import num_params
from networks import LABELS, f32, latents, weights


def test_counts_of_the_parts():
  # the official README's: mapping 2,101,248 and synthesis 24,118,379 at 1024 px
  init = lambda net, *xs: jax.eval_shape(lambda *xs: net.init(jax.random.key(0), *xs), *xs)
  assert num_params(init(stylegan.Mapping(), f32(2, 512), LABELS)) == 2_101_248
  synthesis = stylegan.Synthesis(1024)
  assert synthesis.num_layers == 18
  assert num_params(init(synthesis, f32(2, 18, 512))) == 24_118_379
  conditional = init(stylegan.Mapping(num_classes=10), f32(2, 512), LABELS)
  assert num_params(conditional) == 2_101_248 + 10 * 512 + 512 * 512
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
  noise = jax.eval_shape(lambda keys: stylegan.noise_maps(keys, 1024), keys)
  assert num_params(noise) == 2_796_192


def test_statistics_at_initialisation():
  how = {'z_dim': 64, 'w_dim': 64, 'mapping_features': 64, 'mapping_layers': 4}
  net = msggan.StyleGenerator(8, fmap_base=512, **how)
  z, y = latents(256, 64), jnp.zeros(256, jnp.int32)

  @jax.jit
  def run(key):
    raw = net.init(key, z[:2], y[:2])['params']
    params = equalized.scale(raw, stylegan.GAINS)
    w = net.apply({'params': params}, z, y, method=lambda net, z, y: net.mapping(z, y))
    return raw, params, w

  raw, params, w = jax.device_get(run(jax.random.key(0)))
  assert abs(float(raw['mapping']['Dense3']['kernel'].std()) - 100) < 5
  flat = trees.flat(params)
  for path, gain, fan_in in (
    ('mapping/Dense3/kernel', 2**0.5, 64),  # 100 times lrmul
    ('synthesis/8x8/Conv0_up/kernel', 2**0.5, 9 * 256),
    ('synthesis/8x8/Conv0_up/StyleMod/kernel', 1, 64),
    ('synthesis/ToRGB_lod0/kernel', 1, 128),
  ):
    np.testing.assert_allclose(flat[path].std() * fan_in**0.5, gain, rtol=0.15, err_msg=path)
  assert 0.7 < float(w.std()) < 1.3
  assert float(np.abs(params['synthesis']['4x4']['Const']['const'] - 1).max()) == 0


def test_noise_and_styles():
  net = msggan.StyleGenerator(8, z_dim=8, w_dim=8, mapping_features=8, fmap_base=64)
  z, y = latents(3, 8), jnp.zeros(3, jnp.int32)
  params = weights(jax.eval_shape(net.init, jax.random.key(0), z, y)['params'])
  keys = jax.random.split(jax.random.key(2), 3)
  maps = jax.jit(stylegan.noise_maps, static_argnums=1)
  noise = jax.device_get(maps(keys, 8))
  assert [x.shape for x in noise] == [(3, 4, 4, 1)] * 2 + [(3, 8, 8, 1)] * 2
  # of its own key each: not of the others in the batch, and not the same in two layers
  np.testing.assert_array_equal(noise[2][1:], maps(keys[1:], 8)[2])
  assert np.abs(noise[0] - noise[1]).min() > 0
  apply = jax.jit(lambda params, noise: net.apply({'params': params}, z, y, noise))
  run = lambda params, noise: jax.device_get(apply(params, noise))
  silence = jax.tree.map(np.zeros_like, noise)
  params = jax.device_get(params)
  without = lambda leaf: trees.map_paths(lambda path, w: 0 * w if leaf in path else w, params)
  for silent, noisy in zip(run(params, silence), run(params, noise), strict=True):
    assert np.abs(silent - noisy).max() > 0.01
  weak = without('Noise')  # as at initialisation
  for silent, noisy in zip(run(weak, silence), run(weak, noise), strict=True):
    np.testing.assert_array_equal(silent, noisy)
  for image in run(without('StyleMod'), silence):  # all are of the one constant
    np.testing.assert_allclose(image, np.broadcast_to(image[:1], image.shape), atol=1e-5)


def test_instance_norm():
  x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32) * 5 + 2
  y = np.asarray(jax.jit(stylegan.instance_norm)(x))
  np.testing.assert_allclose(y.mean((1, 2)), 0, atol=1e-6)
  np.testing.assert_allclose(y.var((1, 2)), 1, rtol=1e-5)


def test_truncation():
  ws = np.asarray(stylegan.broadcast(np.float32([[1.0, 2.0], [3.0, -2.0]]), 4))
  centre = np.ones(2, np.float32)
  truncate = jax.jit(stylegan.truncate, static_argnums=(2, 3))
  np.testing.assert_array_equal(truncate(ws, centre, 1.0), ws)
  assert np.abs(truncate(ws, centre, 0.0) - centre[None, None]).max() == 0
  some = truncate(ws, centre, 0.5, 2)
  np.testing.assert_array_equal(some[:, 2:], ws[:, 2:])
  np.testing.assert_allclose(some[1, :2], [[2.0, -0.5]] * 2)
