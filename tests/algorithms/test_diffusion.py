"""The diffusion game: configs' networks, what is trained at which steps, what samples come of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.algorithms import diffusion
from bigjax.algorithms.base import configs
from bigjax.core import config as core_config
from bigjax.core import errors, trees
from bigjax.nn import optim

from counts import of_players

COUNTS = {
  'iddpm': 52_546_438, 'iddpm:imagenet64': 121_063_942, 'iddpm:imagenet64_cond': 273_049_350,
  'iddpm:lsun256': 113_676_678, 'adm': 421_529_606, 'adm:imagenet64': 295_904_454,
  'adm:imagenet256': 553_838_086, 'adm:imagenet256_uncond': 552_814_086,
  'adm:imagenet512': 558_997_638, 'adm:upsample64_256': 311_795_910,
}  # fmt: skip
SAME = (('iddpm:cifar10,vlb', 'iddpm'), ('iddpm:scale128', 'iddpm:imagenet64'))


def made(name='iddpm:tiny', **keys):
  keys = {key.replace('__', '.'): value for key, value in keys.items()}
  return diffusion.make(core_config.changed(configs.read(name), keys))


@pytest.mark.parametrize('name', COUNTS)
def test_configs_have_the_published_numbers_of_parameters(name):
  assert of_players(made(name), ('net',)) == (COUNTS[name],)


@pytest.mark.parametrize(('name', 'other'), SAME)
def test_other_recipes_of_the_same_network(name, other):
  assert made(name).teller.net == made(other).teller.net
  assert made(name) != made(other)


def batch_for(game, seed=0):
  rng, stage = np.random.RandomState(seed), game.stages(1)[0][1]
  shape = stage.minibatches, stage.examples
  return {
    'image': rng.randint(0, 256, (*shape, *stage.image)).astype(np.uint8),
    'label': rng.randint(0, game.teller.num_classes, shape).astype(np.int32),
  }


@functools.cache
def initial(**keys):
  """(A game of the tiny config with these keys, its state at step 0)."""
  game = made(**keys)
  return game, jax.jit(game.init)(jax.random.key(0))


@functools.cache
def begun(**keys):
  """The same, with weights of which none is 0."""
  game, state = initial(**keys)
  fill = lambda path, x: (
    x + 0.02 * jax.random.normal(jax.random.key(trees.stable_hash(path)), x.shape)
  )
  net = state['players']['net']
  params = trees.map_paths(fill, net['params'])
  players = {'net': {**net, 'params': params}}
  return game, {**state, 'players': players, 'ema': jax.tree.map(jnp.copy, params)}


def test_the_loss_is_that_of_its_steps_and_noise():
  """By hand, of what the step draws: noise the images, ask the network, compare."""
  game, state = begun(optim__loss='mse', model__variance='fixed_small')
  batch = batch_for(game)
  params = state['players']['net']['params']
  of = lambda state, batch, params: game.losses(state, batch, game.stages(1)[0][1])['net'](params)
  loss, metrics = jax.jit(of)(state, batch, params)
  drawn = game.examples(state, batch)
  a = game.process.tables.alpha_bar[np.asarray(drawn['t'])][:, None, None, None]
  clean = batch['image'][0] / 127.5 - 1
  x = np.sqrt(a) * clean + np.sqrt(1 - a) * np.asarray(drawn['noise'])
  told = drawn['t'].astype(jnp.float32) * 50  # of 20 steps as of 1,000
  said = jax.jit(game.teller.net.apply)(
    {'params': params}, jnp.asarray(x, jnp.float32), told, drawn['label']
  )
  want = np.square(np.asarray(said) - np.asarray(drawn['noise'])).mean()
  np.testing.assert_allclose(loss, want, rtol=1e-4)
  assert set(metrics) == {'net_loss', 'net_mse'}
  assert len(set(np.asarray(drawn['t']))) > 3 and (drawn['weight'] == 1).all()


@pytest.mark.slow  # another step to compile
def test_steps_drawn_by_their_losses():
  """What is known of the losses is part of the state, and weighs them once all steps were seen."""
  game, state = begun(
    optim__loss='rescaled_kl',
    optim__steps_law='second_moment',
    model__num_steps=2,
    export__steps='2',
  )
  stage = game.stages(1)[0][1]
  step = jax.jit(lambda state, batch: game.step(state, batch, stage))
  for i in range(6):
    state, metrics = step(state, batch_for(game, i))
    assert np.isfinite(metrics['net_loss'])
  assert (state['aux']['known']['seen'] == game.steps.history).all()
  p = game.steps.probabilities(state['aux']['known'])
  moments = np.square(state['aux']['known']['losses']).mean(1)
  np.testing.assert_allclose(p, np.sqrt(moments) / np.sqrt(moments).sum(), atol=2e-3)
  drawn = game.examples(state, batch_for(game))
  np.testing.assert_allclose(drawn['weight'], 1 / (2 * p[drawn['t']]), rtol=1e-5)


def test_labels_that_are_left_out():
  game, state = begun(model__label_dropout=0.5)
  assert game.teller.net.num_classes == 11 and game.teller.num_classes == 10
  drawn = game.examples(state, batch_for(game))
  assert 0 < drawn['none'].sum() < len(drawn['none'])
  x, t = jnp.ones((3, 8, 8, 3)), jnp.arange(3, dtype=jnp.int32)
  run = jax.jit(lambda y, none: game.teller.say(state['ema'], x, t, y, none=none))
  say = lambda y, none: run(jnp.array(y, jnp.int32), jnp.full(3, none))
  np.testing.assert_allclose(say([1, 2, 3], True), say([4, 5, 6], True), atol=1e-6)
  assert np.abs(say([1, 2, 3], False) - say([4, 5, 6], False)).max() > 1e-3
  assert np.abs(say([1, 2, 3], False) - say([1, 2, 3], True)).max() > 1e-3


def generator_of(game):
  return diffusion.make_generator(game.architecture(game.stages(1)[0][1]))


def walker(**keys):
  game, state = begun(**keys)
  return game, generator_of(game), {'params': state['ema']}


def test_samples_follow_from_latents_and_settings():
  game, generator, gen = walker(model__label_dropout=0.1)
  key, y = jax.random.key(7), jnp.arange(4, dtype=jnp.int32)
  card = game.sampling()
  run = jax.jit(generator.generate)

  def images(y=y, num=4, **words):
    spec = generator.spec(card, words)
    return run(gen, generator.latents(key, num, spec), y[:num], spec)

  plain = images()
  assert plain.shape == (4, 8, 8, 3)
  np.testing.assert_array_equal(images(), plain)
  np.testing.assert_allclose(images(num=2), plain[:2], atol=2e-5)
  different = (
    images(steps='5'), images(sampler='ddim'), images(sampler='dpm'), images(y=y + 1),
    images(label_guidance='3'), images(sampler='ddim', eta='1'),
  )  # fmt: skip
  for i, one in enumerate(different):
    assert np.abs(one - plain).max() > 1e-4, i
  np.testing.assert_array_equal(images(label_guidance='1'), plain)  # no other program, even
  assert (
    str(generator.spec(card, {'label_guidance': '2'})) == '3 steps, ancestral, label guidance 2'
  )


# --- Bits per dimension


def by_hand(of, images, keys, clip=1.0):
  """The bound's bits of images where a network says 0 of noise and variance, in float64."""
  a = np.cumprod(1 - of.betas)
  before, total = np.append(1.0, a[:-1]), np.zeros(len(images))
  mean_of = lambda x: x.mean((1, 2, 3)) / np.log(2)
  kl = lambda gap, p, q: 0.5 * (p / q - 1 - np.log(p / q) + gap**2 / q)  # variances
  variance = of.betas * (1 - before) / (1 - a)
  variance[0] = variance[1]
  for t in range(of.num):
    noise = [jax.random.normal(jax.random.fold_in(key, t), images.shape[1:]) for key in keys]
    x = np.sqrt(a[t]) * images + np.sqrt(1 - a[t]) * np.stack(noise)
    said = np.clip(x / np.sqrt(a[t]), -clip, clip)
    share = of.betas[t] * np.sqrt(before[t]) / (1 - a[t])
    rest = (1 - before[t]) * np.sqrt(1 - of.betas[t]) / (1 - a[t]) * x
    mean, true = share * said + rest, share * images + rest
    p_variance = np.sqrt(of.betas[t] * variance[t])
    if t:
      total += mean_of(kl(true - mean, variance[t], p_variance))
      continue
    cdf = lambda z: 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
    low, high = [cdf((images + e - mean) / np.sqrt(p_variance)) for e in (-1 / 255, 1 / 255)]
    high, low = np.where(images > 0.999, 1, high), np.where(images < -0.999, 0, low)
    total += mean_of(-np.log(np.maximum(high - low, 1e-12)))
  return total + mean_of(kl(np.sqrt(a[-1]) * images, 1 - a[-1], 1.0))


@functools.cache
def bits_of():
  """(The generator's process, bits of images as one program)."""
  _, generator, _ = walker()
  return generator.process, jax.jit(generator.likelihood.bits)


def some_levels():
  levels = np.random.RandomState(0).randint(0, 256, (4, 8, 8, 3))
  levels[0, :2], levels[1, :2] = 0, 255  # the outer bins
  return levels / 127.5 - 1


def test_the_bound_by_hand():
  """Of a network as it begins, which says 0: every step's term, clipped, and the prior's."""
  process, run = bits_of()
  gen = {'params': initial()[1]['ema']}
  images, keys = some_levels(), jax.random.split(jax.random.key(5), 4)
  found = run(gen, jnp.asarray(images, jnp.float32), jnp.zeros(4, jnp.int32), keys)
  want = by_hand(process.tables, images, keys)
  np.testing.assert_allclose(found, want, rtol=1e-4)
  assert np.abs(by_hand(process.tables, images, keys, clip=9.0) / want - 1).min() > 1e-2


def test_bits_follow_from_image_label_and_key():
  (_, run), (_, generator, gen) = bits_of(), walker()
  keys, images = jax.random.split(jax.random.key(1), 4), jnp.asarray(some_levels(), jnp.float32)
  y = jnp.arange(4, dtype=jnp.int32)
  bits = run(gen, images, y, keys)
  assert bits.shape == (4,) and np.isfinite(bits).all()
  np.testing.assert_allclose(run(gen, images[::-1], y[::-1], keys[::-1])[::-1], bits, rtol=1e-5)
  assert np.abs(run(gen, images, y + 1, keys) - bits).min() > 1e-6
  assert np.abs(run(gen, images, y, keys[::-1]) - bits).min() > 1e-4
  assert generator.likelihood.words == '20steps'


@pytest.mark.parametrize(
  'words, said',
  [
    ({'sampler': 'euler'}, 'there is no sampler'),
    ({'sampler': 'dim'}, 'did you mean ddim'),
    ({'steps': '0'}, 'steps'),
    ({'steps': '21'}, 'process of 20'),
    ({'steps': ''}, 'steps'),
    ({'eta': '2', 'sampler': 'ddim'}, 'eta'),
    ({'eta': '0.5'}, 'is of the sampler ddim'),
    ({'label_guidance': '2'}, 'trained without labels'),
    ({'label_guidance': 'much'}, 'label_guidance'),
    ({'truncation': '0.5'}, 'no sampling option'),
  ],
)
def test_settings_that_mean_nothing(words, said):
  game = made()
  with pytest.raises(errors.UserError, match=said):
    generator_of(game).spec(game.sampling(), words)


@pytest.mark.parametrize(
  'keys, said',
  [
    ({'data__resolution': 20, 'model__widths': ()}, 'published widths'),
    ({'model__widths': (1, 1, 1, 1, 1)}, 'fewer widths'),
    ({'model__ch': 48}, '32 groups'),
    ({'model__widths': (0.5, 1)}, '32 groups'),
    ({'model__label_dropout': 0.1, 'data__num_classes': 1}, 'there are no labels'),
    ({'optim__loss': 'kl', 'model__variance': 'fixed_small'}, 'needs model.variance'),
    ({'export__steps': '30'}, 'process of 20'),
    ({'export__eta': 0.5}, 'sampler ddim'),
    ({'model__heads': 3}, 'does not divide'),
    ({'model__attention': (4, 16)}, 'has 16, but maps are of 8, 4'),
    ({'optim__loss': 'mae'}, 'mae'),
  ],
)
def test_configs_that_cannot_be_built(keys, said):
  with pytest.raises(errors.UserError, match=said):
    made(**keys)


def test_the_probe_looks_at_all_steps_alike():
  game, state = begun()
  probe = jax.jit(lambda *a: game.probe(*a, game.stages(1)[0][1]))
  found = probe(state, batch_for(game), batch_for(game, 1))
  assert {'train_loss', 'held_out_loss', 'weight_norm_net'} <= set(found)
  again = probe({**state, 'step': state['step']}, batch_for(game), batch_for(game))
  np.testing.assert_allclose(again['train_loss'], found['train_loss'], rtol=1e-4)


def test_decay_of_weights():
  """AdamW's: the decoupled part alone, where there is no gradient."""
  tx = optim.adamw(0.1, 0.9, 0.999, 1e-8, 0.05)
  params = {'w': jnp.array([1.0, -2.0])}
  updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
  np.testing.assert_allclose(updates['w'], -0.1 * 0.05 * params['w'], rtol=1e-6)
  plain = optim.adam(0.1, 0.9, 0.999, 1e-8)
  grads = {'w': jnp.array([0.3, -0.1])}
  one, _ = optim.adamw(0.1, 0.9, 0.999, 1e-8, 0.0).update(grads, plain.init(params), params)
  other, _ = plain.update(grads, plain.init(params), params)
  np.testing.assert_allclose(one['w'], other['w'], rtol=1e-6)
