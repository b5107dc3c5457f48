"""The game of BigGAN: who sees what and when, what is measured (specs/biggan.md 2, 3.6, T33-T56).

Where the game is the point, the networks have two layers, which compile in a second; where the
networks are, they are BigGAN's at 8 px: one block in the generator, two in the discriminator.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from bigjax.algorithms import biggan as algorithm
from bigjax.algorithms.base import configs, contract
from bigjax.algorithms.base.draws import purpose
from bigjax.algorithms.base.player import Player, spectral
from bigjax.core import errors, parallel, trees
from bigjax.models import biggan as models
from bigjax.nn import layers, linalg, spectral_norm
from bigjax.nn.latents import SamplingSpec
from bigjax.nn.objectives import perturbations
from bigjax.training.program import make_program

CLASSES, Z_DIM, SIDE = 10, 12, 4


def changed(name='digits:tiny', **values):
  """A config with other values: 'group__key' as in config.group.key."""
  config = configs.read(name)
  for key, value in values.items():
    group, _, key = key.partition('__')
    with config.ignore_type():
      config[group][key] = value
  return config


class SmallGenerator(nn.Module):
  """z, y -> BatchNorm -> a 4x4 image."""

  resolution: int = SIDE
  num_classes: int = CLASSES
  z_dim: int = Z_DIM
  channels: int = 1
  bn_group: int | None = None
  microbatches: int = 1

  @nn.compact
  def __call__(self, z, y, train):
    h = layers.Dense(16 * 3, name='linear')(z) + layers.Embed(self.num_classes, 48, name='shared')(
      y
    )
    h = h.reshape(-1, SIDE, SIDE, 3)
    norm = layers.BatchNorm(3, name='bn')
    h = nn.relu(norm(h, norm.moments(h, train)))
    return jnp.tanh(layers.Conv(self.channels, name='conv')(h))


class SmallDiscriminator(nn.Module):
  """Two convolutions and BigGAN's head."""

  resolution: int = SIDE
  num_classes: int = CLASSES
  num_features: int = 5

  @nn.compact
  def __call__(self, x, y, mask=None):
    h = layers.Conv(4, name='blocks_0')(x)
    h = layers.Conv(self.num_features, name='blocks_1')(jnp.tanh(h))
    return layers.projection_score(h, y, self.num_classes, mask)


def small(config, **fields):
  """BigGAN of a config around the small networks."""
  game = algorithm.make(config)
  return dataclasses.replace(
    game, gen_net=SmallGenerator(), disc_net=SmallDiscriminator(), **fields
  )


def stage_of(batch):
  """The stage of the small networks: (minibatches, examples) of images."""
  return contract.Stage(*batch, contract.image_inputs(SIDE, 1))


def only_stage(game):
  """The one stage of a game."""
  ((first, stage),) = game.stages(1)
  assert first == 0
  return stage


def pictures(shape, seed=0):
  rng = np.random.default_rng(seed)
  return {
    'image': rng.integers(0, 256, (*shape, SIDE, SIDE, 1)).astype(np.uint8),
    'label': rng.integers(0, CLASSES, shape).astype(np.int32),
  }


def plain(state):
  """A state as NumPy arrays that outlive it."""
  show = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
  return jax.tree.map(lambda x: np.array(show(x)), state)


def random_like(shapes, dtype=np.float64, seed=0):
  """Random weights of the size that orthogonal initialisation gives; biases and gamma too."""
  rng = np.random.default_rng(seed)

  def one(s):
    w = rng.normal(size=s.shape) / max(s.size // s.shape[-1], 1) ** 0.5 if s.ndim > 1 else None
    return (rng.uniform(0.5, 1, s.shape) if w is None else w).astype(dtype)

  return jax.tree.map(one, shapes)


def top_vectors(params, which):
  """The spectral state in which sigma is the norm."""
  vs = {
    path: np.linalg.svd(
      np.asarray(linalg.matrix(spectral_norm.kernel(path, w))), full_matrices=False
    )[0][:, 0]
    for path, w in trees.flat(params).items()
    if which(path, w)
  }
  return spectral_norm.SpectralState({}, trees.nest(vs))


def player_like(shapes, vectors, params):
  """A player's state around these weights and left singular vectors."""
  is_ours = lambda x: isinstance(x, spectral_norm.SpectralState)
  zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
  opt = jax.tree.map(
    lambda x: x._replace(sn_v=vectors.sn_v) if is_ours(x) else x, zeros['opt'], is_leaf=is_ours
  )
  return {'params': params, 'opt': opt}


def begin(game):
  """A state at step 0 with random weights, exact singular vectors, and nothing to compile."""
  shapes = jax.eval_shape(game.init, jax.random.key(0))
  zeros = lambda tree: jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), tree)
  state = {**shapes, 'step': np.int32(0), 'key': jax.random.key(0), 'aux': zeros(shapes['aux'])}
  state['players'] = {}
  for seed, (name, player) in enumerate(shapes['players'].items()):
    params = random_like(player['params'], np.float32, seed)
    vectors = top_vectors(params, spectral_norm.spec(embeddings=name == 'disc'))
    state['players'][name] = player_like(player, vectors, params)
  state['ema'] = jax.tree.map(np.copy, state['players']['gen']['params'])
  return state


# Four steps, recorded: plain SGD, so that an update is the gradient.

LR, STEPS, BATCH = 0.1, 4, (2, 16)


class Recorded(algorithm.BigGAN):
  """BigGAN that notes the examples of each loss."""

  def note(self, player, batch):
    show = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    jax.debug.callback(lambda b: SEEN.append((player, b)), {k: show(x) for k, x in batch.items()})

  def disc_loss(self, weights, shared, batch, due=frozenset()):
    self.note('disc', batch)
    return super().disc_loss(weights, shared, batch, due)

  def gen_loss(self, weights, shared, batch, due=frozenset()):
    self.note('gen', batch)
    return super().gen_loss(weights, shared, batch, due)


SEEN = []


@dataclasses.dataclass
class Step:
  """One recorded step: states around it, metrics, the examples of each D step and of the G step."""

  before: dict
  after: dict
  metrics: dict
  batch: dict
  disc: list
  gen: dict


def sgd(embeddings):
  return Player(optax.sgd(LR), reparametrisation=spectral(spectral_norm.spec(embeddings), eps=1e-4))


@pytest.fixture(scope='module')
def played():
  """(the game, four steps): latents narrow over three of them, the average starts at the third."""
  config = changed(model__latent='annealed_normal:3', optim__ema_start=2, optim__ema_decay=0.9)
  game = small(config, gen=sgd(False), disc=sgd(True))
  game = Recorded(**{f.name: getattr(game, f.name) for f in dataclasses.fields(game)})
  step = jax.jit(game.step, static_argnums=2)
  state = begin(game)
  steps = []
  for i in range(STEPS):
    SEEN.clear()
    batch, before = pictures(BATCH, seed=i), plain(state)
    state, metrics = step(state, batch, stage_of(BATCH))
    jax.effects_barrier()
    seen = jax.tree.map(np.array, SEEN)
    disc = [b for player, b in seen if player == 'disc']
    disc.sort(key=lambda b: not np.array_equal(b['image'], batch['image'][0]))  # callbacks may swap
    (gen,) = (b for player, b in seen if player == 'gen')
    steps.append(Step(before, plain(state), jax.device_get(metrics), batch, disc, gen))
  return game, steps


def test_each_discriminator_step_has_a_real_minibatch_of_its_own(played):
  """T34."""
  for step in played[1]:
    assert len(step.disc) == 2
    for i, examples in enumerate(step.disc):
      np.testing.assert_array_equal(examples['image'], step.batch['image'][i])
      np.testing.assert_array_equal(examples['label'], step.batch['label'][i])
    assert 'image' not in step.gen


def test_latents_labels_and_keys_are_fresh_in_every_forward(played):
  """T34: two D steps and one G step, of each of four steps."""
  forwards = [f for step in played[1] for f in (*step.disc, step.gen)]
  assert len(forwards) == 3 * STEPS
  z = np.concatenate([f['z'] for f in forwards])
  assert z.shape == (3 * STEPS * BATCH[1], Z_DIM)
  assert len(np.unique(z[:, 0])) == len(z)
  labels = {f['y'].tobytes() for f in forwards}
  assert len(labels) == len(forwards)
  keys = [f['aug'] for f in forwards] + [f['aug_real'] for step in played[1] for f in step.disc]
  keys = np.concatenate(keys)
  assert len(np.unique(keys, axis=0)) == len(keys)


def test_latents_follow_the_law_through_training(played):
  for step, std in zip(played[1], (2, 5 / 3, 4 / 3, 1), strict=True):
    z = np.concatenate([f['z'] for f in (*step.disc, step.gen)])
    np.testing.assert_allclose(z.std(), std, rtol=0.1)
    assert abs(z.mean()) < 0.3


def score(game, params, images, labels):
  return game.disc_net.apply({'params': params}, images, labels)


@functools.partial(jax.jit, static_argnums=0)
def disc_by_hand(game, params, gen_weights, vectors, examples):
  """(L_D, its gradient): E relu(1 - D(x, y)) + E relu(1 + D(G(z, y'), y'))."""

  def loss(params):
    weights = spectral_norm.normalize(params, vectors)
    fake = game.gen_net.apply({'params': gen_weights}, examples['z'], examples['y'], train=True)
    real = examples['image'].astype(jnp.float32) / 127.5 - 1
    on_real = jnp.maximum(0, 1 - score(game, weights, real, examples['label']))
    return (on_real + jnp.maximum(0, 1 + score(game, weights, fake, examples['y']))).mean()

  return jax.value_and_grad(loss)(params)


@functools.partial(jax.jit, static_argnums=0)
def gen_by_hand(game, params, disc_weights, vectors, examples):
  """(L_G, its gradient): -E D(G(z, y'), y')."""

  def loss(params):
    weights = spectral_norm.normalize(params, vectors)
    fake = game.gen_net.apply({'params': weights}, examples['z'], examples['y'], train=True)
    return -score(game, disc_weights, fake, examples['y']).mean()

  return jax.value_and_grad(loss)(params)


def norm(tree):
  return np.sqrt(sum(np.square(np.asarray(x, np.float64)).sum() for x in jax.tree.leaves(tree)))


def assert_trees(got, want, atol):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for path, leaf in trees.flat(want).items():
    np.testing.assert_allclose(trees.flat(got)[path], leaf, atol=atol, err_msg=path)


@pytest.mark.parametrize('index', [0, 3])
def test_each_player_follows_its_own_loss_alone(played, index):
  """T33: D's weights move by -lr grad L_D twice, then G's by -lr grad L_G; with their norms."""
  game, steps = played
  step = steps[index]
  gen, disc = (step.before['players'][name] for name in ('gen', 'disc'))
  gen_weights, update = jax.jit(game.gen.weights)(gen), jax.jit(game.disc.update)
  losses, norms = [], []
  for examples in step.disc:
    vectors = spectral_norm.vectors(disc['opt'])
    loss, grads = disc_by_hand(game, disc['params'], gen_weights, vectors, examples)
    losses.append(float(loss))
    norms.append(norm(grads))
    disc, _ = update(disc, grads, loss)
  assert_trees(step.after['players']['disc']['params'], disc['params'], atol=1e-5)
  np.testing.assert_allclose(step.metrics['d_loss'], np.mean(losses), rtol=1e-5)
  np.testing.assert_allclose(step.metrics['d_grad_norm'], np.mean(norms), rtol=1e-5)

  after = jax.jit(game.disc.weights)(step.after['players']['disc'])  # G meets the updated D
  vectors = spectral_norm.vectors(gen['opt'])
  loss, grads = gen_by_hand(game, gen['params'], after, vectors, step.gen)
  want = jax.tree.map(lambda w, g: w - LR * np.asarray(g), gen['params'], grads)
  assert_trees(step.after['players']['gen']['params'], want, atol=1e-5)
  np.testing.assert_allclose(step.metrics['g_loss'], loss, rtol=1e-5)
  np.testing.assert_allclose(step.metrics['g_grad_norm'], norm(grads), rtol=1e-5)
  assert norm(grads) > 0.1 and abs(norms[0] - norms[1]) > 1e-3 and 'd_r1' not in step.metrics


def test_average_is_the_weights_before_its_start_and_moves_once_per_step_after(played):
  """T36: two D steps, one average."""
  for i, step in enumerate(played[1]):
    params = trees.flat(step.after['players']['gen']['params'])
    for path, average in trees.flat(step.after['ema']).items():
      if i < 2:
        np.testing.assert_array_equal(average, params[path], err_msg=path)
      else:
        old = trees.flat(step.before['ema'])[path]
        want = 0.9 * old.astype(np.float64) + 0.1 * params[path]
        np.testing.assert_allclose(average, want, atol=1e-6, err_msg=path)
  last = steps_apart(played[1][-1])
  assert last > 1e-3  # it is behind the weights by then


def steps_apart(step):
  params, average = step.after['players']['gen']['params'], step.after['ema']
  return norm(jax.tree.map(lambda p, a: p - a, params, average))


def test_labels_of_fakes_are_not_those_of_the_real_images(played):
  """T40: they agree by chance alone, one in ten."""
  agree = [f['y'] == f['label'] for step in played[1] for f in step.disc]
  assert np.mean(agree) < 0.25


def test_labels_of_fakes_are_uniform_over_all_classes():
  """T40: over all ten, evenly, whatever the real ones are."""
  game = algorithm.make(changed())
  fresh = jax.jit(lambda key: game.fresh(key, (2, 5000), jnp.int32(0)))(jax.random.key(0))
  y = np.asarray(fresh['y'])
  assert y.shape == (2, 5000) and fresh['z'].shape == (2, 5000, Z_DIM)
  for minibatch in y:
    assert stats.chisquare(np.bincount(minibatch, minlength=CLASSES)).pvalue > 1e-3
  table = np.histogram2d(y[0], y[1], CLASSES)[0]  # of one D step and of the next
  assert stats.chi2_contingency(table).pvalue > 1e-3
  assert y.min() == 0 and y.max() == CLASSES - 1


def test_training_and_sampling_draw_from_the_law_of_the_config():
  games = {
    latent: algorithm.make(changed(model__latent=latent))
    for latent in ('normal', 'bernoulli', 'censored_normal')
  }

  @jax.jit
  def draw(key):
    samplers = {
      name: algorithm.make_generator(g.architecture(only_stage(g))) for name, g in games.items()
    }
    return {
      name: (
        game.fresh(key, (1000,), jnp.int32(0))['z'],
        samplers[name].latents(key, 1000, SamplingSpec()),
      )
      for name, game in games.items()
    }

  for name, draws in draw(jax.random.key(0)).items():
    for z in draws:
      assert z.shape == (1000, Z_DIM)
      np.testing.assert_allclose((z > 0).mean(), 0.5, atol=0.02)
      assert (set(np.unique(z)) == {0, 1}) == (name == 'bernoulli')
      assert (z.min() == 0) == (name != 'normal')


# Dropout of the discriminator's summed features.


def test_dropout_multiplies_the_summed_features():
  """T29, T30, with a mask: linear and projection see the same masked features."""
  net = models.Discriminator(8, CLASSES, ch=8, attention=())
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(6, 8, 8, 1)).astype(np.float32), np.asarray([0, 9, 3, 3, 1, 2])
  params = random_like(jax.eval_shape(net.init, jax.random.key(0), x, y)['params'], np.float32)
  assert net.num_features == 16
  mask = perturbations.kept(jax.random.split(jax.random.key(0), 6), (16,), 0.4)

  @jax.jit
  def run(params, mask):
    scores, seen = net.apply({'params': params}, x, y, mask, capture_intermediates=True)
    return scores, seen['intermediates']['blocks_1']['__call__'][0]

  scores, maps = run(params, mask)
  h = np.maximum(np.asarray(maps, np.float64), 0).sum((1, 2)) * np.asarray(mask)
  linear = h @ params['linear']['kernel'][:, 0] + params['linear']['bias']
  want = linear + (h * np.asarray(params['embed']['embedding'])[y]).sum(1)
  np.testing.assert_allclose(scores, want, rtol=1e-4)
  assert np.abs(scores - run(params, None)[0]).min() > 1e-3


def test_each_forward_has_dropout_of_its_own():
  """Real and fake of one example, and every forward, are masked apart: each by its own keys."""
  game = small(changed(model__disc_dropout=0.5))
  keys = jax.random.split(jax.random.key(5), (2, 16))
  examples = {**game.fresh(jax.random.key(1), (16,), jnp.int32(0)), **first(pictures((1, 16)))}
  examples = {**examples, 'aug': keys[0], 'aug_real': keys[1]}

  @jax.jit
  def run(players, examples):
    gen, disc = players['gen'], players['disc']
    weights = {'gen': game.gen.weights(gen), 'disc': game.disc.weights(disc)}
    _, d = game.disc_loss(weights['disc'], weights, examples)
    _, g = game.gen_loss(weights['gen'], weights, examples)
    fake = game.gen_net.apply({'params': weights['gen']}, examples['z'], examples['y'], train=True)
    real = examples['image'].astype(jnp.float32) / 127.5 - 1

    def masked(images, labels, keys):
      mask = perturbations.kept(purpose(keys, 'dropout'), (game.disc_net.num_features,), 0.5)
      return game.disc_net.apply({'params': weights['disc']}, images, labels, mask).mean()

    by_hand = {
      'd_logit_real': masked(real, examples['label'], examples['aug_real']),
      'd_logit_fake': masked(fake, examples['y'], examples['aug']),
    }
    return {**d, **g}, {**by_hand, 'g_loss': -by_hand['d_logit_fake']}

  players = begin(game)['players']
  metrics, by_hand = run(players, examples)
  for name, value in by_hand.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
  swapped, _ = run(players, {**examples, 'aug': keys[1], 'aug_real': keys[0]})
  assert abs(swapped['d_logit_real'] - metrics['d_logit_real']) > 1e-4


def first(batch):
  return {name: x[0] for name, x in batch.items()}


# BigGAN's own networks in float64, at 8 px: microbatches, rematerialisation and R1 against the
# plain loss.


@pytest.fixture(scope='module', autouse=True)
def eight_pixels():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(models.GEN_WIDTHS, 8, (4, 2))
    patch.setitem(models.DISC_WIDTHS, 8, ((1, 2), 1))
    yield


def real_game(**values):
  values = {'data__resolution': 8, 'model__dtype': 'float64', **values}
  return algorithm.make(changed(**values))


@functools.cache
def inputs():
  """Weights, spectral vectors and one batch of 16, in float64; called under x64 only."""
  shapes = jax.eval_shape(real_game().init, jax.random.key(0))['players']
  params = {name: random_like(shapes[name]['params']) for name in ('gen', 'disc')}
  vectors = {
    'gen': top_vectors(params['gen'], spectral_norm.spec()),
    'disc': top_vectors(params['disc'], spectral_norm.spec(embeddings=True)),
  }
  rng, keys = np.random.default_rng(1), jax.random.split(jax.random.key(0), (2, 16))
  batch = {
    'image': rng.uniform(-1, 1, (16, 8, 8, 1)),
    'label': rng.integers(0, CLASSES, 16).astype(np.int32),
    'z': rng.normal(size=(16, Z_DIM)),
    'y': rng.integers(0, CLASSES, 16).astype(np.int32),
    'aug': keys[0],
    'aug_real': keys[1],
  }
  return params, vectors, batch


@functools.cache
def losses(grads=('gen', 'disc'), **values):
  """{player: ((loss, metrics), gradient)} of one minibatch; called under x64 only.

  Without the gradients of a player that is not in `grads`, which compile for seconds.
  """
  game = real_game(**values)
  params, vectors, batch = inputs()

  @jax.jit
  def run(params):
    weights = {name: spectral_norm.normalize(params[name], vectors[name]) for name in params}
    out = {}
    for name, loss in (('gen', game.gen_loss), ('disc', game.disc_loss)):

      def of(params, name=name, loss=loss):
        return loss(spectral_norm.normalize(params, vectors[name]), weights, batch)

      if name in grads:
        out[name] = jax.value_and_grad(of, has_aux=True)(params[name])
      else:
        out[name] = of(params[name]), {}
    return out

  return jax.tree.map(np.asarray, run(params))


# A batch of 16: microbatches of 8 are two groups of 4, or half of one of 16, or of the whole batch.
# D sees the groups in its fakes alone.
@pytest.mark.parametrize(
  ('bn_group', 'like', 'remat', 'grads'),
  [(0, 0, True, ('gen', 'disc')), (4, 4, False, ('gen',)), (16, 0, False, ('gen',))],
)
def test_microbatches_change_nothing_but_memory(bn_group, like, remat, grads, x64):
  got = losses(grads, model__bn_group=bn_group, run__microbatches=2, run__remat=remat)
  want = losses(*() if like == 0 else (grads,), model__bn_group=like)
  for player in ('disc', 'gen'):
    ((loss, metrics), got_grads), ((want_loss, want_metrics), want_grads) = (
      got[player],
      want[player],
    )
    np.testing.assert_allclose(loss, want_loss, rtol=1e-10)
    for name, value in want_metrics.items():
      np.testing.assert_allclose(metrics[name], value, rtol=1e-6, err_msg=name)
    if player in grads:
      assert norm(want_grads) > 0.1
      np.testing.assert_allclose(norm(got_grads), norm(want_grads), rtol=1e-10)
      for path, grad in trees.flat(want_grads).items():
        error = np.linalg.norm(trees.flat(got_grads)[path] - grad)
        assert error <= 1e-9 * norm(want_grads), (player, path, error)


def test_batchnorm_groups_change_the_loss(x64):
  # What the comparison above compares is not indifferent to the groups.
  whole, groups = losses(model__bn_group=0), losses(('gen',), model__bn_group=4)
  for player in ('disc', 'gen'):
    assert abs(whole[player][0][0] - groups[player][0][0]) > 1e-3


def batch_like(*shape, side):
  return {
    'image': jax.ShapeDtypeStruct((*shape, side, side, 1), jnp.uint8),
    'label': jax.ShapeDtypeStruct(shape, jnp.int32),
  }


@pytest.mark.parametrize(('microbatches', 'bn_group'), [(3, 0), (3, 4), (32, 0)])
def test_microbatches_that_do_not_divide_are_refused(microbatches, bn_group):
  game = real_game(run__microbatches=microbatches, model__bn_group=bn_group, model__dtype='float32')
  state, batch = jax.eval_shape(game.init, jax.random.key(0)), batch_like(2, 16, side=8)
  with pytest.raises(errors.UserError, match=f'run.microbatches is {microbatches}, which does not'):
    jax.eval_shape(lambda s, b: game.step(s, b, only_stage(game)), state, batch)


@pytest.mark.parametrize('bn_group', [0, 1])
def test_microbatches_of_one_example_per_device_are_refused(bn_group):
  config = changed(
    optim__batch_size=8, optim__d_steps=1, run__microbatches=2, model__bn_group=bn_group
  )
  with pytest.raises(errors.UserError, match='does not divide the 1 examples of each device'):
    make_program(config)


GAMMA = 3.0


def r1_by_hand():
  """(mean |grad D(x)|^2 / 2 over real images, its gradient), image by image."""
  params, vectors, batch = inputs()
  net = real_game().disc_net

  def of_image(params, image, label):
    weights = spectral_norm.normalize(params, vectors['disc'])
    return net.apply({'params': weights}, image[None], label[None])[0]

  def penalty(params):
    grads = jax.vmap(jax.grad(of_image, argnums=1), (None, 0, 0))
    grads = grads(params, batch['image'], batch['label'])
    return jnp.square(grads).sum((1, 2, 3)).mean() / 2, grads

  (value, grads), slope = jax.jit(jax.value_and_grad(penalty, has_aux=True))(params['disc'])
  # Gradients of the images by finite differences, at a few pixels.
  forward = jax.jit(jax.vmap(of_image, (None, 0, 0)))
  for pixel in [(0, 0), (3, 5), (7, 7)]:
    step = np.zeros((8, 8, 1))
    step[pixel] = 1e-6
    ends = [
      forward(params['disc'], batch['image'] + sign * step[None], batch['label'])
      for sign in (1, -1)
    ]
    np.testing.assert_allclose(grads[:, *pixel, 0], (ends[0] - ends[1]) / 2e-6, atol=1e-6)
  return float(value), slope


def test_r1_of_the_discriminator(x64):
  """Eq. 5: gamma / 2 E |grad D(x)|^2 on real images is added to L_D, whole or in parts."""
  value, slope = r1_by_hand()
  assert value > 1e-3 and norm(slope) > 1e-3
  without = losses(model__bn_group=0)
  got = losses(('disc',), model__bn_group=0, optim__r1_gamma=GAMMA, run__microbatches=2)
  (loss, metrics), grads = got['disc']
  (want_loss, want_metrics), want_grads = without['disc']
  np.testing.assert_allclose(metrics['d_r1'], GAMMA * value, rtol=1e-9)
  np.testing.assert_allclose(loss, want_loss + GAMMA * value, rtol=1e-9)
  np.testing.assert_allclose(metrics['d_loss'], want_metrics['d_loss'], rtol=1e-9)
  for path, grad in trees.flat(grads).items():
    want = trees.flat(want_grads)[path] + GAMMA * trees.flat(slope)[path]
    np.testing.assert_allclose(grad, want, atol=1e-8 * norm(want_grads), err_msg=path)
  np.testing.assert_allclose(got['gen'][0][0], without['gen'][0][0], rtol=1e-10)  # none of G's


# All of it on eight devices.


def test_a_step_on_eight_devices_is_that_on_one():
  """With R1, dropout and the clamp: masks belong to examples, not to devices."""
  config = changed(
    optim__d_steps=1, optim__r1_gamma=1.0, model__disc_dropout=0.2, optim__sigma_tool='clamp',
    optim__sigma_reg=0.8,
  )  # fmt: skip
  game = small(config)
  state, batch = begin(game), pictures((1, 16))
  results = []
  for num in (1, 8):
    with jax.set_mesh(parallel.make_mesh(jax.devices()[:num])):
      step = jax.jit(game.step, static_argnums=2)
      after, metrics = step(state, batch, stage_of((1, 16)))
      results.append((plain(after), jax.device_get(metrics)))
  (one, one_metrics), (many, metrics) = results
  for name, value in one_metrics.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
  assert metrics['skipped'] == 0 and metrics['d_r1'] > 0
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((one, many)))
  # What was the largest singular value of G's first layer is 0.8 after Adam's step.
  values = np.linalg.svd(many['players']['gen']['params']['linear']['kernel'], compute_uv=False)
  assert values.max() > 1.5 and np.abs(values - 0.8).min() < 1e-4


@pytest.fixture(scope='module')
def everything():
  """(metrics, state before, after) of one step of digits:tiny at 8 px, everything on, 8 devices."""
  config = changed(
    data__resolution=8, optim__d_steps=1, optim__freeze_disc=1, optim__r1_gamma=1.0,
    model__disc_dropout=0.2, optim__sigma_tool='penalty', optim__sigma_weight=0.1,
    run__microbatches=2, augment__name='translation', model__latent='censored_normal',
  )  # fmt: skip
  program = make_program(config)
  state, rng = begin(program.algorithm), np.random.default_rng(0)
  before = plain(state)
  batch = {
    'image': rng.integers(0, 256, (1, 16, 8, 8, 1)).astype(np.uint8),
    'label': rng.integers(0, CLASSES, (1, 16)).astype(np.int32),
  }
  state = jax.device_put(state, parallel.zero_sharding(program.mesh, state))
  state, metrics = program.step(state, batch)
  return jax.device_get(metrics), before, plain(state)


def test_everything_at_once_is_a_finite_step(everything):
  metrics, _, after = everything
  assert all(np.isfinite(value) for value in metrics.values())
  assert metrics['skipped'] == 0 and metrics['d_r1'] > 0
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


def test_frozen_blocks_stay_bit_for_bit_and_the_others_move(everything):
  """FreezeD: the first block, with its Adam moments going on; nothing of G is held."""
  _, before, after = everything
  for player in ('gen', 'disc'):
    old, new = (trees.flat(s['players'][player]['params']) for s in (before, after))
    still = {path for path in old if np.array_equal(old[path], new[path])}
    first = {path for path in old if path.startswith('blocks_0/')}
    assert still == (first if player == 'disc' else set())
    assert len(first) > 3


# What the probe reports.


def test_probe_reports_three_singular_values_of_every_normalised_tensor():
  """T55: of raw weights, by player and path; sigma_max is what normalisation divides by."""
  program = make_program(changed(data__resolution=8), jax.devices()[:1])
  state, want = begin(program.algorithm), {}
  for name, which in (('gen', spectral_norm.spec()), ('disc', spectral_norm.spec(embeddings=True))):
    params = state['players'][name]['params']
    weights = {path: w for path, w in trees.flat(params).items() if which(path, w)}
    for path, w in weights.items():
      values = np.linalg.svd(w.reshape(-1, w.shape[-1]).astype(np.float64), compute_uv=False)
      want |= {f'sigma{i}_{name}/{path}': value for i, value in enumerate(values[:3])}
    want[f'sigma_max_{name}'] = max(want[f'sigma0_{name}/{path}'] for path in weights)
    want[f'weight_norm_{name}'] = norm(params)
  state = jax.device_put(state, parallel.zero_sharding(program.mesh, state))
  batch = {
    'image': np.zeros((2, 16, 8, 8, 1), np.uint8),
    'label': np.zeros((2, 16), np.int32),
  }
  signs = jax.device_get(program.probe(state, batch, batch, program.stage(0)))
  assert {name for name in signs if name.startswith('sigma')} == {
    name for name in want if name.startswith('sigma')
  }
  assert {
    'sigma2_gen/linear/kernel',
    'sigma2_gen/blocks_0/bn1/gain/kernel',
    'sigma2_disc/embed/embedding',
    'sigma0_disc/linear/kernel',
  } <= set(signs)
  assert 'sigma1_disc/linear/kernel' not in signs and 'sigma0_gen/shared/embedding' not in signs
  for name, value in want.items():
    np.testing.assert_allclose(signs[name], value, rtol=1e-3, err_msg=name)


# Configs that cannot be built.


@pytest.mark.parametrize(
  ('name', 'values', 'words'),
  [
    ('digits:tiny', {'model__shared_dim': 0}, ['model.skip_z', 'model.shared_dim is 0']),
    ('digits:tiny', {'model__disc_widths': (1, 2)}, ['disc_widths has 2 entries', 'has 3']),
    ('digits:tiny', {'model__network': 'biggan_deeep'}, ['did you mean biggan_deep']),
    ('digits:tiny', {'model__network': 'biggan_deep'}, ['config.model.rgb_filters is missing']),
    ('digits:tiny', {'optim__sigma_tool': 'clip'}, ["optim.sigma_tool is 'clip'", 'clamp']),
    ('digits:tiny', {'optim__name': 'lion'}, ["optim.name is 'lion'", 'adam_b1_0']),
    ('digits:tiny', {'model__disc_dropout': 1.0}, ['disc_dropout is 1.0', 'less than 1']),
    ('digits:tiny', {'model__disc_dropout': -0.1}, ['disc_dropout is -0.1']),
    ('digits:tiny', {'run__microbatches': 0}, ['run.microbatches is 0', 'at least 1']),
    ('digits:tiny', {'model__latent': 'gauss'}, ["model.latent is 'gauss'"]),
    ('digits:tiny', {'model__z_dim': 13}, ['z_dim is 13', '3 equal chunks']),
    ('digits:tiny', {'data__resolution': 24}, ['data.resolution is 24', '16, 32']),
    ('digits:tiny', {'model__gen_attention': (64,)}, ['gen_attention has 64', 'at 16 px', '8, 16']),
    ('digits:tiny', {'model__disc_attention': (16,)}, ['disc_attention has 16', '8, 4']),
    ('digits:tiny', {'model__ch': 4, 'model__disc_attention': (8,)}, ['4 channels', 'at least 8']),
    (
      'imagenet128_deep:tiny',
      {'data__resolution': 128, 'model__gen_attention': (96,)},
      ['gen_attention has 96', 'at 128 px', '8, 16, 32, 64, 128'],
    ),
    (
      'imagenet128_deep:tiny',
      {'data__resolution': 128, 'model__disc_attention': (128,)},
      ['disc_attention has 128', 'at 128 px', '64, 32'],
    ),
    ('imagenet128_deep:tiny', {'model__shared_dim': 0}, ['biggan_deep', 'shared']),
    (
      'imagenet128_deep:tiny',
      {'data__resolution': 128, 'model__disc_widths': (1,)},
      ['has 1 entries', 'has 6'],
    ),
    ('imagenet128_deep:tiny', {'data__resolution': 32}, ['biggan_deep has networks for 64']),
  ],
)  # fmt: skip
def test_configs_that_cannot_be_built_are_refused_in_one_sentence(name, values, words):
  with pytest.raises(errors.UserError) as error:
    algorithm.make(changed(name, **values))
  message = str(error.value)
  assert all(word in message for word in words), message
  assert '\n' not in message and message.endswith('.')


def test_options_reach_the_networks():
  values = {'model__disc_widths': (2, 1, 3), 'model__disc_attention': (8,), 'run__remat': True}
  game = algorithm.make(changed(**values, model__bn_group=4, model__skip_z=False))
  disc, gen = game.disc_net, game.gen_net
  assert (disc.widths, disc.attention, disc.remat) == ((2, 1, 3), (8,), True)
  assert (gen.bn_group, gen.skip_z, gen.attention, gen.remat) == (4, False, (), True)
