"""A FastGAN as it is sampled: its option `noise`, paths of one noise, what is measured for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.algorithms.base.generators.kinds import KINDS, NoisySpec
from bigjax.core import errors, trees

FIELDS = {'resolution': 8, 'num_classes': 1, 'z_dim': 4, 'ngf': 2, 'channels': 1}
SAMPLING = {
  'dialect': 'resample', 'standing_passes': 2, 'standing_batch': 4, 'truncations': ['none'],
}  # fmt: skip


def sampled(name='fastgan'):
  return KINDS[name].sampled(FIELDS)


def made_up(generator):
  """Weights and moments, of which nothing is computed; the noise is as loud as what it joins."""
  rng, spec = np.random.RandomState(0), generator.spec(SAMPLING)
  z, y = jnp.zeros((2, 4)), jnp.zeros(2, jnp.int32)
  init = lambda: generator.net.init(jax.random.key(0), z, y, train=True)['params']

  def draw(path, s):
    kernel = rng.randn(*s.shape) / max(np.prod(s.shape[:-1]), 1) ** 0.5
    return np.float32(kernel if path.endswith('kernel') else np.full(s.shape, 'bias' not in path))

  params = trees.map_paths(draw, jax.eval_shape(init))
  shapes = jax.eval_shape(generator.moments, {'params': params}, jax.random.key(0), spec)
  ones = jax.tree.map(lambda s: np.ones((1, *s.shape), np.float32), shapes)
  return {'params': params, 'stats': ones, 'knots': np.float32([np.inf])}


def test_noise_is_an_option_of_those_that_have_any():
  generator = sampled()
  for words, said in (({}, 'untruncated'), ({'noise': 'const'}, 'untruncated, noise const')):
    spec = generator.spec(SAMPLING, words)
    assert str(spec) == said and hash(spec) == hash(generator.spec(SAMPLING, words))
    described = spec.described()
    assert described.get('noise') == words.get('noise')
    assert generator.spec(SAMPLING, {'noise': described.get('noise', 'random')}) == spec
  with pytest.raises(errors.UserError, match="the noise is 'some'"):
    generator.spec(SAMPLING, {'noise': 'some'})
  light = sampled('fastgan_lite')
  with pytest.raises(errors.UserError, match="no sampling option 'noise'"):
    light.spec(SAMPLING, {'noise': 'const'})
  assert not hasattr(light, 'with_noise_of')  # one program for paths and samples


def test_a_path_in_z_has_the_noise_of_its_first_end():
  generator = sampled()
  gen, rng, y = made_up(generator), np.random.RandomState(1), np.zeros(3, np.int32)
  z, other = (rng.randn(3, 4).astype(np.float32) for _ in range(2))
  near = z + np.float32(1e-4)

  @jax.jit
  def run(gen, z, near, other):
    of = lambda z, noise='random': generator.generate(gen, z, y, NoisySpec(noise=noise))
    with_noise = lambda z, of: generator.with_noise_of(gen, z, y, NoisySpec(), of)
    alike = jnp.concatenate([z[:1], other[1:]])
    return {
      'sample': of(z), 'near': of(near), 'near_of_first': with_noise(near, z),
      'same': with_noise(z, z), 'const': of(z, 'const'), 'near_const': of(near, 'const'),
      'none': of(z, 'none'), 'near_none': of(near, 'none'), 'of_first_alone': of(alike, 'const'),
    }  # fmt: skip

  found = jax.device_get(run(gen, z, near, other))
  away = lambda a, b: np.abs(found[a] - found[b]).max()
  np.testing.assert_array_equal(found['sample'], found['same'])
  assert away('sample', 'near') > 0.1
  for a, b in (('sample', 'near_of_first'), ('const', 'near_const'), ('none', 'near_none')):
    assert 0 < away(a, b) < 0.01
  assert min(away('sample', 'const'), away('sample', 'none'), away('const', 'none')) > 0.1
  np.testing.assert_allclose(found['of_first_alone'][0], found['const'][0], rtol=1e-5)


def test_moments_of_another_noise_are_measured():
  generator = sampled()
  gen = made_up(generator)
  assert generator.provenance(gen, generator.spec(SAMPLING), SAMPLING) == (True, '')
  for noise in ('const', 'none'):
    ready, words = generator.provenance(gen, generator.spec(SAMPLING, {'noise': noise}), SAMPLING)
    assert not ready and f'measuring standing statistics at untruncated, noise {noise}' in words
  both = jax.jit(
    lambda bare: [
      generator.moments(bare, jax.random.key(0), NoisySpec(standing_batch=4, noise=noise))
      for noise in ('random', 'none')
    ]
  )
  loud, still = (trees.flat(found) for found in both(generator.bare(gen)))
  for path, one in still.items():
    same = path.startswith('init/')  # before any noise
    assert np.array_equal(one, loud[path]) == same, path
