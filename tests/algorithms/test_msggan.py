"""MSG-GAN's game: latents of both players, the average w, what is sampled, and its configs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.algorithms import msggan
from bigjax.algorithms.base import configs
from bigjax.core import config as core_config
from bigjax.core import errors, trees

from counts import of_players


def tiny(name='msggan:tiny', **changes):
  flat = {key.replace('__', '.'): value for key, value in changes.items()}
  return core_config.changed(configs.read(name), flat)


def made(config):
  algorithm = msggan.make(config)
  return algorithm, algorithm.stages(4)[0][1]


def shapes_of(algorithm):
  return jax.eval_shape(algorithm.init, jax.random.key(0))


def batch_of(stage):
  rng = np.random.RandomState(0)
  shapes = {name: x.shape for name, x in stage.shapes().items()}
  return {
    'image': rng.randint(0, 256, shapes['image']).astype(np.uint8),
    'label': np.zeros(shapes['label'], np.int32),
  }


@functools.cache
def state_of_tiny():
  """As at the start: unit normal kernels, the mapping's 100 times that; no noise."""
  rng = np.random.RandomState(0)

  def one(path, s):
    if path.endswith(('kernel', 'const', 'embedding')) and '/opt/' not in path:
      return rng.normal(size=s.shape).astype(np.float32) * (100 if 'mapping/Dense' in path else 1)
    return np.zeros(s.shape, s.dtype)

  shapes = shapes_of(msggan.make(tiny()))
  del shapes['key']
  return trees.map_paths(one, shapes) | {'key': jax.random.key(0)}


@pytest.mark.parametrize('same', [False, True])
def test_latents_of_the_generators_step(same):
  """Fresh ones, or those that the discriminator has seen last (BMSG-GAN)."""
  algorithm, stage = made(tiny(optim__same_latents=same, optim__d_steps=2))
  examples = jax.jit(functools.partial(algorithm.examples, stage=stage))
  of_disc, of_gen = examples({'key': jax.random.key(0), 'step': jnp.int32(0)}, batch_of(stage))
  assert of_disc['z'].shape == (2, 8, 16) and of_gen['z'].shape == (8, 16)
  assert np.array_equal(of_disc['z'][1], of_gen['z']) == same
  assert not np.array_equal(of_disc['z'][0], of_disc['z'][1])


def test_the_average_w_follows_the_latents_of_both_players():
  algorithm, stage = made(tiny())

  @jax.jit
  def run(state, batch):
    after, metrics = algorithm.step(state, batch, stage)
    of_disc, of_gen = algorithm.examples(state, batch, stage)
    weights = algorithm.gen.weights(state['players']['gen'])
    w = lambda z, y: msggan.mapped(algorithm.gen_net, weights, z, y).mean(0)
    means = w(of_disc['z'][0], of_disc['y'][0]), w(of_gen['z'], of_gen['y'])
    return after['aux']['w_avg'], metrics, means

  w_avg, metrics, (of_disc, of_gen) = run(state_of_tiny(), batch_of(stage))
  want = 0.995 * 0.005 * of_disc + 0.005 * of_gen
  np.testing.assert_allclose(w_avg, want, rtol=1e-4, atol=1e-7)
  assert 'w_avg' not in shapes_of(msggan.make(tiny('msggan:progan,tiny')))['aux']
  assert all(np.isfinite(value) for value in jax.tree.leaves(metrics))


@pytest.mark.parametrize(
  ('name', 'terms'),
  [('tiny', {'d_r1'}), ('progan,tiny', {'d_gp'}), ('progan,relativistic,tiny', set())],
)
def test_losses_of_the_published_games(name, terms):
  """Of shapes alone: R1 with StyleGAN's networks, WGAN-GP with PGGAN's, neither in BMSG-GAN."""
  algorithm, stage = made(tiny(f'msggan:{name}'))
  step = lambda s, b: (algorithm.step(s, b, stage)[1], algorithm.examples(s, b, stage))
  metrics, (_, of_gen) = jax.eval_shape(step, shapes_of(algorithm), batch_of(stage))
  assert {key for key in metrics if key in ('d_r1', 'd_gp')} == terms
  assert ('d_accuracy_real' in metrics) == (terms == {'d_r1'})  # signs mean something
  # A relativistic loss compares with real images in the generator's step, too.
  assert ('image' in of_gen) == ('relativistic' in name)


@pytest.fixture(scope='module')
def styled():
  """(Generator, spec -> (images of every scale, image)) of MSG-StyleGAN, with an average w."""
  algorithm, stage = made(tiny())
  generator = msggan.make_generator(algorithm.architecture(stage))
  gen = jax.jit(lambda state: algorithm.generator(state, stage))(state_of_tiny())
  gen['w_avg'] = jnp.ones_like(gen['w_avg'])
  given = gen, generator.latents(jax.random.key(1), 3, generator.spec({})), np.zeros(3, np.int32)
  run = jax.jit(
    lambda gen, z, y, spec: (
      generator.images(gen, z, y, spec, z),
      generator.generate(gen, z, y, spec),
    )
  )
  return generator, lambda spec: run(*given, spec)


def test_truncation_is_towards_the_average_w(styled):
  generator, run = styled
  shown = lambda **given: np.asarray(run(generator.spec({}, given))[1])
  plain, average = shown(), shown(truncation='0')
  np.testing.assert_array_equal(plain, shown(truncation='none'))
  np.testing.assert_array_equal(plain, shown(truncation='1'))
  assert np.abs(plain - shown(truncation='0.5')).max() > 1e-3
  # At 0 only the noise, which follows z, tells samples apart; it has no weight at the start.
  np.testing.assert_allclose(average, average[:1].repeat(3, 0), atol=1e-4)
  assert np.abs(shown(truncation='0:1') - average).max() > 1e-3  # the first layer alone
  assert str(generator.spec({}, {'truncation': '0.7:3'})) == '0.7 (psi, 3 layers)'


def test_any_scale_can_be_shown(styled):
  generator, run = styled
  (small, large), _ = run(generator.spec({}))
  assert (small.shape, large.shape) == ((3, 4, 4, 3), (3, 8, 8, 3))
  _, image = run(generator.spec({}, {'scale': '4'}))
  np.testing.assert_array_equal(image, np.asarray(small).repeat(2, 1).repeat(2, 2))
  with pytest.raises(
    errors.UserError, match='scale=16 is none of this generator; give one of 4, 8'
  ):
    generator.spec({}, {'scale': '16'})
  progan = msggan.make_generator(msggan.make(tiny('msggan:progan,tiny')).architecture(None))
  with pytest.raises(errors.UserError, match="no sampling option 'truncation'"):
    progan.spec({}, {'truncation': '0.5'})


COUNTS = {
  'celeba_hq': (26_219_627, 24_238_625),
  'flowers102': (26_086_229, 24_198_273),
}


@pytest.mark.parametrize('name', COUNTS)
def test_configs_have_the_official_numbers_of_parameters(name):
  assert of_players(msggan.make(configs.read(f'msggan:{name}'))) == COUNTS[name]


def test_the_ablation_changes_what_the_discriminator_is_given():
  seen = {}
  for scales in ('all', 'none', 'coarse', 'middle', 'fine'):
    given = 'celeba_hq' if scales == 'all' else f'celeba_hq,scales_{scales}'
    seen[scales] = msggan.make(configs.read(f'msggan:{given}')).disc_net.looked_at
  assert [sum(seen[name]) for name in seen] == [9, 1, 3, 3, 5]
