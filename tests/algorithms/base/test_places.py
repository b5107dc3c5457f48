"""The five places of a residual GAN's step: what fills them, in closed form on linear players."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_players import DISC, GEN, NUM, SIZE, V, fakes, game, score

from bigjax import algorithms
from bigjax.algorithms import wgan_gp
from bigjax.algorithms.base import configs, places_config
from bigjax.algorithms.base.draws import purpose
from bigjax.core import config as core_config
from bigjax.core import errors, parallel, trees
from bigjax.nn import layers
from bigjax.nn.augment import diffaugment
from bigjax.nn.objectives import losses, regularizers

from keyed import keys

SLOPE = float(np.linalg.norm(V))  # of the score, everywhere


def config(**stated):
  """digits:tiny with these keys, GROUP__KEY."""
  values = core_config.flat(configs.read('digits:tiny'))
  values |= {name.replace('__', '.', 1): value for name, value in stated.items()}
  here = core_config.existing(configs.keys(values), values)
  return configs.complete({name: value for name, value in values.items() if name in here})


def examples():
  rng = np.random.default_rng(0)
  return {
    'image': rng.uniform(-1, 1, (NUM, SIZE, SIZE, 1)).astype(np.float32),
    'label': np.int32([0, 1, 1, 0, 1, 0, 0, 1, 0, 0]),
    'z': rng.normal(size=(NUM, 3)).astype(np.float32),
    'y': np.int32([1, 1, 0, 0, 1, 1, 1, 0, 1, 1]),
    'aug': keys(NUM), 'aug_real': keys(NUM, seed=1),
  }  # fmt: skip


def disc_loss(given, terms=None, **fields):
  shared = {'gen': GEN} | ({'terms': terms} if terms else {})
  with jax.numpy_rank_promotion('allow'):
    return jax.jit(game(given, **fields).disc_loss)(DISC, shared, examples())


def gen_loss(given, terms=None, **fields):
  shared = {'disc': DISC} | ({'terms': terms} if terms else {})
  with jax.numpy_rank_promotion('allow'):
    return jax.jit(game(given, **fields).gen_loss)(GEN, shared, examples())


@pytest.mark.parametrize('parts', [1, 2])
def test_terms_of_the_discriminator(parts):
  given = places_config.places(config(
    optim__r1_gamma=2.0, optim__r1_every=4, optim__r2_gamma=3.0, optim__gp_weight=10.0,
    optim__dragan_weight=5.0 if parts == 1 else 0.0, optim__cr_weight=10.0,
    optim__cr_fake_weight=7.0, optim__cr_augment='flip', optim__zcr_weight=5.0,
    optim__zcr_sigma=0.5, optim__lecam_weight=0.3,
  ))  # fmt: skip
  assert dict(given.periods) == {'r1': 4}
  given, x = dataclasses.replace(given, periods=()), examples()
  terms = given.start(GEN, jax.random.key(0))
  total, metrics = disc_loss(given, terms, microbatches=parts)

  real, fake = x['image'], fakes(x['z'])
  flipped = lambda name, images: diffaugment.flip(purpose(x['aug'], name), images, 1.0)
  near = fakes(regularizers.nearby(purpose(x['aug'], 'near'), x['z'], 0.5))
  squared = lambda a, b: np.square(score(a) - score(b)).mean()
  mean_real, mean_fake = 0.01 * score(real).mean(), 0.01 * score(fake).mean()
  expected = {
    'd_r1': 4 * 2 * SLOPE**2 / 2, 'd_r2': 3 * SLOPE**2 / 2,
    'd_gp': 10 * (SLOPE - 1) ** 2, 'd_dragan': 5 * (SLOPE - 1) ** 2,
    'd_cr': 10 * squared(real, flipped('cr', real)),
    'd_cr_fake': 7 * squared(fake, flipped('cr_fake', fake)),
    'd_zcr': 5 * squared(fake, near),
    'd_lecam': 0.3 * (
      np.square(score(real) - mean_fake).mean() + np.square(mean_real - score(fake)).mean()
    ),
  }  # fmt: skip
  if parts > 1:
    del expected['d_dragan']
  for name, value in expected.items():
    assert value > 1e-3, name
    np.testing.assert_allclose(metrics[name], value, rtol=2e-4, err_msg=name)
  np.testing.assert_allclose(total, metrics['d_loss'] + sum(expected.values()), rtol=1e-5)
  state = metrics['terms']['lecam']
  np.testing.assert_allclose([state['real'], state['fake']], [mean_real, mean_fake], rtol=1e-4)


def test_what_is_not_due_or_off_is_not_there():
  given = places_config.places(config(optim__r1_gamma=2.0, optim__r1_every=4))
  assert 'd_r1' not in disc_loss(given)[1]
  off, none = places_config.places(config()), frozenset()
  for named in (off.disc_terms, off.score_terms, off.gen_terms, off.weight_terms, off.filters):
    assert off.due(named, none) == ()
  assert off.starts == off.latents == off.periods == ()
  always = {'d_loss', 'd_loss_real', 'd_loss_fake', 'd_logit_real', 'd_logit_fake'}
  assert set(disc_loss(off)[1]) == {*always, 'd_accuracy_real', 'd_accuracy_fake'}


def test_terms_of_the_generator():
  given = places_config.places(config(optim__zcr_gen_weight=0.5, optim__top_k_least=0.5))
  x = examples()
  total, metrics = gen_loss(given, given.start(GEN, jax.random.key(0)))
  near = fakes(regularizers.nearby(purpose(x['aug'], 'near'), x['z'], 0.05))
  zcr = -0.5 * np.square(fakes(x['z']) - near).mean()
  np.testing.assert_allclose(metrics['g_zcr'], zcr, rtol=1e-4)
  np.testing.assert_allclose(metrics['g_loss'], -score(fakes(x['z'])).mean(), rtol=1e-5)
  np.testing.assert_allclose(total, metrics['g_loss'] + zcr, rtol=1e-5)
  opt = config().optim  # of as many images as there are classes, because no data is read
  share = 0.99 ** (opt.batch_size * opt.d_steps / 10)
  np.testing.assert_allclose(metrics['terms']['top_k'], share, rtol=1e-6)


def test_an_acgans_head():
  given = wgan_gp.with_classes(places_config.places(config()), 1.0, 0.1)
  x = examples()
  entropy = lambda s, y: np.mean(np.log1p(np.exp(-2 * s * np.where(y == 0, 1, -1))))
  _, metrics = disc_loss(given, class_head=True)
  np.testing.assert_allclose(metrics['d_class'], entropy(score(x['image']), x['label']), rtol=1e-4)
  _, metrics = gen_loss(given, class_head=True)
  expected = 0.1 * entropy(score(fakes(x['z'])), x['y'])
  np.testing.assert_allclose(metrics['g_class'], expected, rtol=1e-4)


def test_the_transform_is_of_every_score():
  given = places_config.places(
    config(optim__scores='gran', optim__gran_k=2.0, optim__gran_eps=0.5, optim__gp_weight=1.0,
           optim__spectral_norm='none')
  )  # fmt: skip
  x, factor = examples(), 2 * SLOPE / (SLOPE**2 + 0.5)
  _, metrics = disc_loss(given)
  real, fake = factor * score(x['image']), factor * score(fakes(x['z']))
  loss = [float(part) for part in losses.hinge_disc(jnp.asarray(real), jnp.asarray(fake))]
  np.testing.assert_allclose([metrics['d_loss_real'], metrics['d_loss_fake']], loss, rtol=1e-5)
  np.testing.assert_allclose(metrics['d_gp'], (factor * SLOPE - 1) ** 2, rtol=1e-4)
  np.testing.assert_allclose(gen_loss(given)[1]['g_loss'], -fake.mean(), rtol=1e-5)


def test_fakes_pass_for_images_with_their_labels():
  given = places_config.places(config(augment__pseudo=True, augment__p=1.0))
  x = examples()
  image, label = given.shown(keys(NUM), (x['image'], x['label']), (fakes(x['z']), x['y']))
  np.testing.assert_array_equal(image, fakes(x['z']))
  np.testing.assert_array_equal(label, x['y'])
  found = disc_loss(given)[1]['d_logit_real']
  np.testing.assert_allclose(found, score(fakes(x['z'])).mean(), rtol=1e-5)


def test_the_probability_follows_what_the_discriminator_says():
  given = places_config.places(
    config(augment__name='ada_xflip', augment__target=0.6, augment__kimg=1.0)
  )
  states = given.start(GEN, jax.random.key(0))
  assert given.strengthened(states).strength == 0
  for _ in range(4):
    states, metrics = given.adapted(states, {'d_overfit': jnp.float32(0.9)}, NUM)
  np.testing.assert_allclose(
    metrics['augment_p'], 4 * config().optim.batch_size * config().optim.d_steps / 1000, rtol=1e-6
  )
  np.testing.assert_allclose(metrics['augment_r_t'], 0.9, rtol=1e-6)
  assert given.strengthened(states).strength == metrics['augment_p']


def test_refused_updates_leave_the_states_of_terms():
  """One batch that is not finite, and all goes on as before."""
  given = places_config.places(
    config(augment__name='ada_xflip', augment__target=0.6, optim__lecam_weight=1.0)
  )
  one, x = game(given), examples()
  batch = {'image': x['image'][None], 'label': x['label'][None]}
  ((_, stage),) = one.stages(10)
  with jax.numpy_rank_promotion('allow'), jax.set_mesh(parallel.make_mesh(jax.devices()[:1])):
    step = jax.jit(lambda state, batch: one.step(state, batch, stage))
    state, _ = step(jax.jit(one.init)(jax.random.key(0)), batch)
    broken, metrics = step(state, {**batch, 'image': batch['image'] * jnp.nan})
  assert metrics['refused'] > 0
  for path, leaf in trees.flat(state['aux']['terms']).items():
    np.testing.assert_array_equal(trees.flat(broken['aux']['terms'])[path], leaf, err_msg=path)


# Products: everything that goes together is one step of each game, and its states are its own.

ALL = {
  'optim.r1_gamma': 1.0, 'optim.r1_every': 2, 'optim.gp_weight': 1.0, 'optim.dragan_weight': 1.0,
  'optim.cr_weight': 1.0, 'optim.cr_fake_weight': 1.0, 'optim.zcr_weight': 1.0,
  'optim.zcr_gen_weight': 1.0, 'optim.lecam_weight': 1.0, 'optim.top_k_least': 0.5,
  'optim.gsr_weight': 1.0, 'optim.gsr_every': 2, 'optim.loss': 'hinge', 'optim.r1_plain': True,
  'optim.schedule': 'cosine', 'optim.warmup': 2, 'augment.name': 'ada_bgcfnc',
  'augment.target': 0.6, 'model.disc_perturb': 'gauss_mult', 'model.disc_dropout': 0.1,
  'data.resolution': 16,
}  # fmt: skip


# sagan:tiny is the game of digits:tiny, which has attention here, too.
@pytest.mark.parametrize(
  'name',
  ['digits:tiny', 'sngan:tiny', pytest.param('sagan:tiny', marks=pytest.mark.slow), 'wgan_gp:tiny'],
)
def test_all_at_once_is_a_step_of(name):
  values = {**core_config.flat(configs.read(name)), **ALL, 'data.num_classes': 10}
  if name == 'digits:tiny':
    values |= {'model.gen_attention': (8,), 'model.disc_attention': (8,)}
  one = configs.complete(values)
  algorithm = algorithms.family(one.algorithm).make(one)
  ((_, stage),) = algorithm.stages(4)
  lead = stage.minibatches, stage.examples
  batch = {
    name: jax.ShapeDtypeStruct((*lead, *given.shape), given.dtype)
    for name, given in stage.inputs
  }  # fmt: skip
  with jax.set_mesh(parallel.make_mesh(jax.devices()[:1])):
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    step = lambda state, batch: algorithm.step(state, batch, stage, frozenset(algorithm.periods))
    after, metrics = jax.eval_shape(step, state, batch)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
    lambda x: (x.shape, x.dtype), state
  )
  assert set(state['aux']['terms']) == {'lecam', 'gsr', 'top_k', 'augment'}
  assert {'d_r1', 'd_gp', 'd_dragan', 'd_cr', 'd_cr_fake', 'd_zcr', 'd_lecam', 'g_zcr', 'g_gsr',
          'augment_p', 'augment_r_t'} <= set(metrics)  # fmt: skip
  assert set(algorithm.periods) == {'r1', 'gsr'}


# What means nothing together is said in a sentence.


@pytest.mark.parametrize(
  ('name', 'stated', 'words'),
  [
    ('digits:tiny', {'augment.p': 0.2, 'augment.target': 0.6, 'augment.name': 'ada_bgc'},
     'augment.p=0.2 fixes the probability .* augment.target=0.6 adapts it; give one'),
    ('digits:tiny', {'augment.target': 0.6}, 'augment.target is 0.6, but augment.name=none has no'),
    ('digits:tiny', {'augment.p': 0.2, 'augment.name': 'color'}, 'augment.name=color has no prob'),
    ('digits:tiny', {'augment.name': 'ada_bgc'}, 'augment.name=ada_bgc needs a probability'),
    ('digits:tiny', {'augment.pseudo': True}, 'augment.pseudo=True needs a probability'),
    ('digits:tiny', {'augment.pseudo': True, 'augment.p': 0.1, 'augment.name': 'ada_bgc'},
     'would both be driven by one probability'),
    ('digits:tiny', {'optim.cr_weight': 1.0, 'optim.cr_augment': 'none'}, 'both are none; give'),
    ('digits:tiny', {'optim.scores': 'gran', 'optim.gran_k': 1.0, 'optim.gran_eps': 0.1},
     'bounds the slope of the discriminator in place of spectral norm'),
    ('sagan:tiny', {'optim.scores': 'gn', 'optim.spectral_norm': 'gen',
                    'model.disc_attention': (8,)}, 'linear in pieces .* this one computes `dot_'),
    ('sngan:tiny', {'optim.gsr_weight': 1.0, 'data.num_classes': 1},
     'this generator has no BatchNorm with gains and biases by class'),
    ('wgan_gp:tiny', {'augment.name': 'ada_bgc', 'augment.target': 0.6},
     'says nothing with optim.loss=wasserstein'),
    ('digits:tiny', {'optim.dragan_weight': 1.0, 'run.microbatches': 2}, 'deviation of the whole'),
    ('digits:tiny', {'optim.r1_every': 4}, 'optim.r1_every=4 says how, but optim.r1_gamma is 0'),
    ('digits:tiny', {'optim.cr_augment': 'color'}, 'cr_weight and optim.cr_fake_weight are 0'),
    ('digits:tiny', {'optim.top_k_decay': 0.5}, 'says how, but optim.top_k_least is 1, which is'),
    ('digits:tiny', {'augment.name': 'ada_hue,saturation', 'augment.p': 0.2},
     'changes colours alone, and images are grey'),
    ('digits:tiny', {'optim.schedule_start': 1}, 'schedule_start=1 says when .* linear or cosine'),
    ('sngan:tiny', {'optim.schedule_end': 2}, 'schedule_end=2 says when .*schedule=constant has'),
    ('digits:tiny', {'optim.ema_half_life': 10.0}, 'two laws of one average'),
    ('wgan_gp:tiny', {'optim.ema_ramp': 0.1}, 'limits optim.ema_half_life, and that is 0'),
    ('wgan_gp:tiny', {'model.class_head': True, 'optim.class_weight': 1.0,
                      'optim.class_gen_weight': 0.1, 'data.num_classes': 1}, 'nothing for an A'),
  ],
)  # fmt: skip
def test_what_is_refused(name, stated, words):
  one = configs.complete({**core_config.flat(configs.read(name)), **stated})
  with pytest.raises(errors.UserError, match=words):
    algorithms.family(one.algorithm).make(one)


@pytest.mark.parametrize('stated', [{'optim.r1_gamma': 1.0}, {'optim.gp_weight': 1.0}])
def test_batchnorm_in_the_discriminator_is_refused(stated, monkeypatch):
  from bigjax.algorithms.base import residual_config
  from bigjax.models import sngan

  class Mixing(sngan.Discriminator):
    @nn.compact
    def __call__(self, x, y, mask=None):
      norm = layers.BatchNorm(x.shape[-1], name='norm')
      return super().__call__(norm(x, norm.moments(x, True)), y, mask)

  one = configs.complete({**core_config.flat(configs.read('sngan:tiny')), **stated})
  nets = {'resolution': 32, 'num_classes': 10, 'ch': 8}
  gen, disc = sngan.Generator(**nets), sngan.Discriminator(**nets)
  residual_config.check_nets(one, gen, disc)
  with pytest.raises(errors.UserError, match=f'{next(iter(stated))} needs scores .* BatchNorm'):
    residual_config.check_nets(one, gen, Mixing(**nets))
