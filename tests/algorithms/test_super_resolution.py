"""Diffusions that enlarge: what they are shown in training, what they keep, what they make."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.algorithms import diffusion
from bigjax.algorithms.base import configs, draws
from bigjax.algorithms.base.generators import parts, walker
from bigjax.core import config as core_config
from bigjax.core import errors, trees
from bigjax.nn.diffusion import conditioning as conditionings
from bigjax.nn.diffusion.process import Process
from bigjax.nn.diffusion.tables import Tables
from bigjax.nn.resizing import resize

import plain_unets
from golden_files import golden
from golden_unets import assert_same, official

TABLES = Tables('cosine', 20)


def made(name='cdm:sr32_64,tiny', **keys):
  keys = {key.replace('__', '.'): value for key, value in keys.items()}
  return diffusion.make(core_config.changed(configs.read(name), keys))


def keys_for(num, seed=0):
  return jax.random.split(jax.random.key(seed), num)


def pictures(num, side, seed=0):
  values = np.random.default_rng(seed).uniform(-1, 1, (num, side, side, 3))
  return jnp.asarray(values, jnp.float32)


# --- What is enlarged in training


def test_small_images_are_means_over_squares_and_come_back_bilinearly():
  images = pictures(2, 8)
  low = conditionings.shrink(images, 4)
  np.testing.assert_allclose(low[1, 2, 3], images[1, 4:6, 6:8].mean((0, 1)), rtol=1e-6)
  assert conditionings.shrink(images, 2).shape == (2, 2, 2, 3)
  wide = np.pad(low[:, :, :1, :], ((0, 0), (1, 1), (0, 0), (0, 0)), mode='edge')
  up = resize(low, 8, 'torch_bilinear')[:, :, :1, :]  # the first column is the small image's own
  np.testing.assert_allclose(up[:, 2], 0.25 * wide[:, 1] + 0.75 * wide[:, 2], atol=1e-6)
  np.testing.assert_allclose(up[:, 3], 0.75 * wide[:, 2] + 0.25 * wide[:, 3], atol=1e-6)
  np.testing.assert_allclose(up[:, 0], wide[:, 1], atol=1e-6)


def test_small_images_as_the_official_code_makes_them():
  arrays = golden('adm_superres')
  _, _, inputs = official('adm_superres')
  low = conditionings.shrink(inputs['high_res'], 8)
  assert_same(low, arrays['out/high_res_area_down'], 1e-6)


@pytest.mark.parametrize('name', conditionings.AUGMENTATIONS)
def test_training_and_sampling_are_shown_the_same(name):
  """The same shapes and dtypes; without an augmentation, the same numbers."""
  of, images, keys = conditionings.make(4, name, TABLES, 0), pictures(6, 8), keys_for(6)
  trained = of.draw(keys, images)
  low = conditionings.shrink(images, 4)
  sampled = of.given(keys, low, 0)
  describe = lambda given: {key: (x.shape, x.dtype) for key, x in given.items()}
  assert describe(trained) == describe(sampled) == describe(of.blank(6, 3))
  assert set(of.names) == set(sampled)
  np.testing.assert_array_equal(sampled['low'], low)  # neither blurred nor noisy
  if name == 'none':
    np.testing.assert_array_equal(trained['low'], low)
  else:
    assert np.abs(trained['low'] - low).max() > 0.05
  again = of.draw(keys[2:4], images[2:4])  # each of its own key, whatever the others are
  for key, x in again.items():
    np.testing.assert_array_equal(x, trained[key][2:4])


def test_noise_has_levels_and_the_first_is_none():
  of = conditionings.make(4, 'gaussian', TABLES, 5)
  low, keys = pictures(1200, 4), keys_for(1200)
  drawn = of.draw(keys, jnp.repeat(jnp.repeat(low, 2, 1), 2, 2))
  level = np.asarray(drawn['level'])
  counts = np.bincount(level)
  assert len(counts) == 6 and counts.min() > 150  # 0 to 5, evenly: 200 each
  same = (np.asarray(drawn['low']) == np.asarray(low)).all((1, 2, 3))
  assert (same == (level == 0)).all()
  for s in range(1, 6):  # q(z_s | z) of step s - 1
    a = TABLES.alpha_bar[s - 1]
    noise = (drawn['low'] - np.sqrt(a) * low)[level == s] / np.sqrt(1 - a)
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
  assert conditionings.make(4, 'gaussian', TABLES, 0).levels == 20


def test_half_of_the_small_images_are_blurred_by_a_gaussian_of_three_pixels():
  of = conditionings.make(4, 'blur', TABLES, 0)
  beside = np.asarray(of.neighbours(keys_for(2000)))
  assert abs((beside > 0).mean() - 0.5) < 0.04
  sigma = np.sqrt(-0.5 / np.log(beside[beside > 0]))
  assert 0.4 <= sigma.min() < 0.41 and 0.59 < sigma.max() <= 0.6
  images = pictures(2, 5)
  blurred = conditionings.blur(images, jnp.array([0.1, 0.0]))
  line = np.array([0.1, 1, 0.1]) / 1.2
  kernel = (line[:, None] * line[None])[..., None]
  np.testing.assert_allclose(
    blurred[0, 2, 3], (images[0, 1:4, 2:5] * kernel).sum((0, 1)), atol=1e-6
  )
  np.testing.assert_array_equal(blurred[1], images[1])
  constant = conditionings.blur(jnp.ones((1, 5, 5, 3)), jnp.array([0.2]))
  np.testing.assert_allclose(constant, 1, rtol=1e-6)


# --- The game


def batch_for(game, seed=0):
  rng, stage = np.random.RandomState(seed), game.stages(1)[0][1]
  shape = stage.minibatches, stage.examples
  return {
    'image': rng.randint(0, 256, (*shape, *stage.image)).astype(np.uint8),
    'label': rng.randint(0, game.teller.num_classes, shape).astype(np.int32),
  }


def test_a_network_that_enlarges_is_given_both_images():
  game = made()
  params = jax.eval_shape(game.init, jax.random.key(0))['players']['net']['params']
  assert params['input_blocks_0_0']['kernel'].shape[2] == 6
  assert 'aug_embed_0' in params and game.teller.net.low_resolution == 4
  assert (
    'aug_embed_0'
    not in jax.eval_shape(made('cdm:sr64_256,tiny').init, jax.random.key(0))['players']['net'][
      'params'
    ]
  )


def test_without_small_images_no_tree_changes():
  game = made('cdm:tiny')
  state = jax.eval_shape(game.init, jax.random.key(0))
  assert set(state['aux']) == {'skipped'}
  assert set(jax.eval_shape(lambda s: game.generator(s, None), state)) == {'params'}
  assert not set(game.architecture(None)) & set(conditionings.CARD)


class Sum(nn.Module):
  """A network of one number: it adds up what it is told."""

  resolution: int = 8
  channels: int = 3
  num_classes: int = 10

  @nn.compact
  def __call__(self, x, t, y=None, keys=None, low=None, level=None):
    told = low.mean((1, 2, 3), keepdims=True) + level.astype(x.dtype)[:, None, None, None]
    return jnp.zeros_like(x) + self.param('kernel', nn.initializers.ones, (1, 1, 1, 1)) * told


@functools.cache
def summing():
  """The game with that network, its state, a batch."""
  plain = made(optim__loss='mse', model__variance='fixed_small')
  game = dataclasses.replace(plain, teller=dataclasses.replace(plain.teller, net=Sum()))
  return game, jax.jit(game.init)(jax.random.key(1)), batch_for(game)


def test_the_loss_is_of_what_the_network_was_given():
  """By hand."""
  game, state, batch = summing()
  examples = game.examples(state, batch)
  terms = game.terms(state['ema'], examples, dropout=False)
  said = np.asarray(examples['low']).mean((1, 2, 3)) + np.asarray(examples['level'])
  want = np.square(np.asarray(examples['noise']) - said[:, None, None, None]).mean((1, 2, 3))
  np.testing.assert_allclose(terms['loss'], want, rtol=1e-5)
  assert len(set(np.asarray(examples['level']).tolist())) > 2


def test_a_step_keeps_the_small_images_of_its_batch():
  """Before those of earlier batches, as many as there is room for."""
  game, state, batch = summing()
  stage = game.stages(1)[0][1]
  after, metrics = jax.jit(lambda state, batch: game.step(state, batch, stage))(state, batch)
  assert np.isfinite(metrics['net_loss']) and metrics['refused'] == 0
  describe = lambda tree: {k: (v.shape, v.dtype) for k, v in trees.flat(tree).items()}
  assert describe(after) == describe(state)
  gen = game.generator(after, stage)
  assert set(gen) == {'params', 'low', 'label'}
  want = batch['image'][0].reshape(-1, 4, 2, 4, 2, 3).mean((2, 4))
  assert np.abs(np.asarray(gen['low'][:8], float) - want).max() <= 0.5001
  np.testing.assert_array_equal(gen['label'][:8], batch['label'][0])
  assert len(gen['low']) == conditionings.BANK and (gen['low'][8:] == 128).all()
  later = game.conditioning.keep(after['aux']['bank'], jnp.ones((252, 8, 8, 3)), jnp.zeros(252))
  assert (later['low'][:252] == 255).all()
  np.testing.assert_array_equal(later['low'][252:], gen['low'][:4])
  assert len(game.conditioning.start(300, 3)['label']) == 300


def test_the_generator_of_a_run_alone():
  """Its shapes, of its card; and what it says of its samples."""
  game = made()
  stage = game.stages(1)[0][1]
  gen = jax.eval_shape(lambda key: game.generator(game.init(key), stage), jax.random.key(0))
  generator = diffusion.make_generator(game.architecture(stage))
  spec = generator.spec(game.sampling())
  z = jax.eval_shape(lambda: generator.latents(jax.random.key(0), 2, spec))
  make = lambda gen, z, y: generator.generate(gen, z, y, spec)
  images = jax.eval_shape(make, gen, z, jnp.zeros(2, jnp.int32))
  assert images.shape == (2, 8, 8, 3) and generator.low_shape == (4, 4, 3)
  ready, words = generator.provenance(gen, spec, game.sampling())
  assert ready and '256 images of its last batches' in words
  assert set(generator.enlarging(gen)) == {'params'} and generator.weights(gen) is gen['params']


@pytest.mark.parametrize(
  'keys, said',
  [
    ({'model__upsampling': 3}, 'does not divide'),
    ({'model__upsampling': 1}, 'enlarged'),
    ({'model__augmentation': 'blur', 'model__augmentation_most': 3}, 'gaussian'),
    ({'model__augmentation_most': 21}, 'more than the 20 steps'),
    ({'model__augmentation': 'jpeg'}, 'jpeg'),
  ],
)
def test_configs_that_cannot_be_built(keys, said):
  with pytest.raises(errors.UserError, match=said):
    made(**keys)


# --- The sampled network


def test_an_image_of_the_bank_is_picked_by_label_and_latents():
  generator = plain_unets.upsampler()
  low = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
  gen = {**plain_unets.PARAMS, 'low': jnp.asarray(low), 'label': jnp.array([0, 1, 1, 1, 2, 2])}
  z = generator.latents(jax.random.key(0), 60, None)

  def pick(y):
    images = np.asarray(generator.picked(gen, y, draws.keys_of(z)))
    return np.round((images[:, 0, 0, 0] + 1) * 127.5)

  assert set(pick(jnp.ones(60, jnp.int32))) == {1, 2, 3}
  assert set(pick(jnp.full(60, 4))) == set(range(6))  # none is of that label
  half = jnp.tile(jnp.array([[0.5, 0, 0.5, 0, 0]]), (60, 1))
  assert set(pick(half)) == {0, 4, 5}
  one_hot = jax.nn.one_hot(jnp.ones(60, jnp.int32), 5)
  np.testing.assert_array_equal(pick(one_hot), pick(jnp.ones(60, jnp.int32)))
  spec = generator.spec(plain_unets.CARD)
  images = generator.generate(gen, z[:4], jnp.arange(4), spec)
  part = generator.generate(gen, z[2:4], jnp.arange(2, 4), spec)
  np.testing.assert_allclose(part, images[2:], atol=1e-6)  # whatever the batch


def test_enlarging_is_told_the_level_and_never_blurs():
  z, y, low = pictures(2, 8, 1), jnp.arange(2), pictures(2, 4)
  for name, given, told in (
    ('none', {}, None), ('blur', {}, None), ('gaussian', {}, 0),
    ('gaussian', {'augmentation': '7'}, 7),
  ):  # fmt: skip
    generator = plain_unets.upsampler(augmentation=name)
    spec = generator.spec(plain_unets.CARD, given)
    images = generator.enlarge(plain_unets.PARAMS, low, z, y, spec)
    seen = generator.teller.net.seen[0]
    assert (seen['level'] is None) if told is None else (np.asarray(seen['level']) == told).all()
    assert (np.asarray(seen['low']) == np.asarray(low)).all() == (not given)
    want = 0.25 + y[:, None, None, None] / 10 + resize(seen['low'], 8, 'torch_bilinear') / 10
    np.testing.assert_allclose(images, want.clip(-1, 1), atol=1e-5)
  noisy = generator.enlarge(plain_unets.PARAMS, low, z, y, spec, noisy=True)
  np.testing.assert_array_equal(generator.teller.net.seen[-1]['low'], low)
  assert np.abs(noisy - images).max() > 1e-3
  assert 'noise 7' in str(spec) and spec.described()['augmentation'] == 7
  assert 'augmentation' not in generator.spec(plain_unets.CARD).described()


@pytest.mark.parametrize('name', conditionings.AUGMENTATIONS)
def test_levels_that_there_are_not(name):
  generator = plain_unets.upsampler(augmentation=name)
  with pytest.raises(errors.UserError, match='augmentation'):
    generator.spec(plain_unets.CARD, {'augmentation': '21' if name == 'gaussian' else '1'})
  assert ('augmentation' in generator.options) == (name == 'gaussian')


def test_what_makes_images_of_latents_alone_enlarges_nothing():
  with pytest.raises(errors.UserError, match=r'b\.npz needs a generator that enlarges'):
    parts.enlarger_of(plain_unets.base(), 'b.npz')
  generator = plain_unets.upsampler()
  assert parts.enlarger_of(generator, '') is generator


def test_the_official_network_through_a_card():
  """What the generator's network says of x_t, of a step and of the small image."""
  arrays = golden('adm_superres')
  net, params, inputs = official('adm_superres')
  tables = Tables('linear', 1000)
  teller, small = walker.Teller(net, 1000, False, False), conditionings.Small(8)
  generator = walker.make(walker.card(teller, Process(tables), small))
  assert isinstance(generator, walker.Upsampler) and not generator.conditioning.levels
  y = jnp.zeros(len(inputs['x_t']), jnp.int32)
  given = generator.conditioning.given(keys_for(len(y)), inputs['low_res'], 0)
  said = jax.jit(lambda: generator.teller.say(params, inputs['x_t'], inputs['t'], y, **given))()
  assert_same(said, arrays['out/model_out'])
