"""ADM's classifier: configs' networks, what is trained at which steps and rates, what it draws."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.algorithms import noised_classifier
from bigjax.algorithms.base import configs
from bigjax.algorithms.base.generators import parts
from bigjax.algorithms.base.metrics import ACCURACY, CLASS_ACCURACY
from bigjax.core import config as core_config
from bigjax.core import errors
from bigjax.nn.diffusion.tables import Tables

from counts import of_players

COUNTS = {
  'imagenet64': 65_438_568, 'imagenet128': 42_568_040, 'imagenet256': 54_096_360,
  'imagenet512': 54_448_360,
}  # fmt: skip


def made(name='adm_classifier:tiny', **keys):
  keys = {key.replace('__', '.'): value for key, value in keys.items()}
  return noised_classifier.make(core_config.changed(configs.read(name), keys))


@pytest.mark.parametrize('variant', COUNTS)
def test_configs_have_the_published_numbers_of_parameters(variant):
  assert of_players(made(f'adm_classifier:{variant}'), ('net',)) == (COUNTS[variant],)


@dataclasses.dataclass(frozen=True)
class Linear:
  """Logits that are linear in the image, and in how noisy it is: in place of the network."""

  resolution: int = 4
  channels: int = 1
  num_classes: int = 3

  def init(self, key, x, t):
    del t
    size = x[0].size
    return {'params': {'kernel': jax.random.normal(key, (size, self.num_classes))}}

  def apply(self, variables, x, t):
    h = x.reshape(x.shape[0], -1) @ variables['params']['kernel']
    return h * (1 + t.astype(jnp.float32))[:, None]


def linear_game(**fields):
  game = made(**fields)
  return dataclasses.replace(game, teller=dataclasses.replace(game.teller, net=Linear()))


def batch_for(seed=0, num=8):
  rng = np.random.RandomState(seed)
  return {
    'image': rng.randint(0, 256, (1, num, 4, 4, 1)).astype(np.uint8),
    'label': rng.randint(0, 3, (1, num)).astype(np.int32),
  }


def test_the_loss_is_the_cross_entropy_of_images_noised_at_drawn_steps():
  game, batch = linear_game(), batch_for()
  state, (_, stage) = game.init(jax.random.key(0)), game.stages(1)[0]
  params = state['players']['net']['params']
  loss, metrics = game.losses(state, batch, stage)['net'](params)
  drawn = game.examples(state, batch)
  t = np.asarray(drawn['t'])
  a = Tables('cosine', 20).alpha_bar[t][:, None, None, None]
  clean = batch['image'][0] / 127.5 - 1
  x = np.sqrt(a) * clean + np.sqrt(1 - a) * np.asarray(drawn['noise'])
  logits = x.reshape(8, -1) @ np.asarray(params['kernel']) * (1 + t)[:, None]
  picked = logits[np.arange(8), batch['label'][0]]
  want = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1) - picked
  np.testing.assert_allclose(loss, want.mean(), rtol=1e-4)
  right = (logits.argmax(1) == batch['label'][0]).mean()
  assert 0 < right < 1 and metrics['net_accuracy'] == np.float32(right)
  many = game.examples(state, batch_for(num=4000))['t']  # every step is as likely
  assert 120 < np.bincount(many, minlength=20).min() <= np.bincount(many).max() < 280
  parts, _ = dataclasses.replace(game, microbatches=4).losses(state, batch, stage)['net'](params)
  np.testing.assert_allclose(parts, loss, rtol=1e-5)


def test_what_is_told_gets_better_and_the_probe_says_so():
  game, (_, stage) = linear_game(), made().stages(1)[0]
  state, batch = game.init(jax.random.key(1)), batch_for()
  step = jax.jit(lambda state, batch: game.step(state, batch, stage))
  probe = jax.jit(lambda *of: game.probe(*of, stage))
  first = probe(state, batch, batch_for(1))
  for _ in range(30):
    state, metrics = step(state, batch)
  last = probe(state, batch, batch_for(1))
  names = [f'{name}_{what}' for name in ('train', 'held_out') for what in ('loss', 'accuracy')]
  assert set(names) <= set(last) and last['train_loss'] < first['train_loss']
  named = [name for name in (*names, *metrics) if name.endswith('accuracy')]
  # Not of the kind that a watchdog wants to be neither 0 nor 1.
  assert all(name in CLASS_ACCURACY and name not in ACCURACY for name in named)
  t = game.teller.tables.evenly(8)
  assert t.tolist() == [1, 3, 6, 8, 11, 13, 16, 18]  # of 20, at every probe


def test_rate_and_decay_are_the_authors():
  """set_annealed_lr of scripts/classifier_train.py, and AdamW's decoupled decay."""
  game = made('adm_classifier')
  tx, params = game.net.optimizer, {'w': jnp.array([2.0])}
  state, zero = tx.init(params), {'w': jnp.zeros(1)}
  for step in (0, 150_000, 299_999):
    now = (state[0]._replace(count=jnp.int32(step)), *state[1:])
    updates, _ = tx.update(zero, now, params)
    want = -3e-4 * (1 - step / 300_000) * 0.05 * 2
    np.testing.assert_allclose(updates['w'], [want], rtol=1e-4)
  assert game.batch == 256 and game.ema(jnp.int32(5), 256) == 0  # no average


@pytest.mark.parametrize(
  'keys, said',
  [
    ({'data__num_classes': 1}, 'tells classes'),
    ({'model__schedule': 'linear'}, '20 steps of linear noise'),
    ({'model__widths': (1, 1, 1, 1, 1)}, 'fewer widths'),
    ({'model__ch': 48}, '32 groups'),
    ({'model__heads': 3}, 'does not divide'),
    ({'model__attention': (4, 16)}, 'has 16, but maps are of 8, 4'),
    ({'export__steps': '30'}, 'process of 20'),
    ({'export__steps': ''}, 'steps are empty'),
    ({'export__guidance': -1.0}, 'export.guidance'),
  ],
)
def test_configs_that_cannot_be_built(keys, said):
  with pytest.raises(errors.UserError, match=said):
    made(**keys)


def shown(**keys):
  game = made(**keys)
  return noised_classifier.make_generator(game.architecture(game.stages(1)[0][1])), game.sampling()


@pytest.mark.parametrize(
  'words, said',
  [
    ({'guidance': '-1'}, 'guidance=-1'),
    ({'guidance': 'much'}, 'guidance=much'),
    ({'steps': '21'}, 'process of 20'),
    ({'sampler': 'ddim'}, 'no sampling option'),
  ],
)
def test_settings_that_mean_nothing(words, said):
  generator, card = shown()
  assert str(generator.spec(card)) == '3 steps, guidance 1'
  with pytest.raises(errors.UserError, match=said):
    generator.spec(card, words)


def test_what_shows_it_is_a_walk_to_normal_images():
  """Unguided, few steps: of N(0, I), whose x_0 is sqrt(alpha_bar) x; held in [-1, 1] at the end."""
  walker = noised_classifier.NormalWalker((8, 8, 1), Tables('cosine', 50))
  spec = walker.spec({'steps': '5'})
  z = walker.latents(jax.random.key(0), 64, spec)
  images = jax.jit(walker.generate)({}, z, jnp.zeros(64, jnp.int32), spec)
  assert np.abs(images).max() == 1
  # P(|x| < 1) of a normal number is 0.683.
  np.testing.assert_allclose((np.abs(images) < 1).mean(), 0.683, atol=0.03)
  generator, _ = shown()
  assert parts.classifier_of(generator, 'a test').noising == parts.Noising('cosine', 20)
