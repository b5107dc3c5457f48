"""StyleGAN2's game: the official code's gradients and iterations, lazy terms, ADA, its configs."""

import dataclasses
import functools
import shutil

import flax.linen as nn
import golden_style
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.algorithms import stylegan2
from bigjax.algorithms.base import configs, contract, player, truncation
from bigjax.core import config as core_config
from bigjax.core import errors, parallel, trees
from bigjax.models.stylegan2 import rgb_images
from bigjax.nn import optim
from bigjax.nn.style import fir
from bigjax.training import loop

from counts import of_players
from golden_files import golden, under
from networks import weights


def tiny(name='stylegan2:tiny', **changes):
  flat = {key.replace('__', '.', 1): value for key, value in changes.items()}
  return core_config.changed(configs.read(name), flat)


# --- The official code's gradients and iterations, in float64


@dataclasses.dataclass(frozen=True)
class Given(stylegan2.StyleGAN2):
  """The game with what the official code has drawn, which the examples bring."""

  def examples(self, state, batch):
    return batch

  def noise(self, batch):
    return batch['noise']

  def directions(self, batch):
    return batch['directions']


def given(game):
  return Given(**{field.name: getattr(game, field.name) for field in dataclasses.fields(game)})


def given_game(arrays, **changes):
  """The game that a golden file was made by."""
  cfg = under(arrays, 'cfg/')
  number = lambda key: int(cfg[key])
  config = tiny(
    data__resolution=number('res'), data__num_classes=max(number('c'), 1),
    model__fmap_base=number('base') // 2, model__fmap_max=number('cmax'),
    model__z_dim=number('z'), model__w_dim=number('w'), model__mapping_layers=number('map'),
    model__disc_mapping_layers=number('dmap'), model__stddev_group=number('mb'),
    model__gen_architecture=str(cfg.get('garch', 'skip')),
    model__disc_architecture=str(cfg.get('darch', 'resnet')),
    model__dtype='float64', optim__batch_size=number('n'), optim__r1_gamma=float(cfg['gamma']),
    optim__pl_weight=float(cfg['plw']), **changes,
  )  # fmt: skip
  return given(stylegan2.make(config))


def params_of(arrays, prefix):
  return golden_style.nested(golden_style.stylegan2(under(arrays, prefix)))


def numbers(x):
  return golden_style.pictures(x) if x.ndim == 4 else jnp.asarray(x, jnp.float64)


def examples_of(arrays, prefix, num_ws):
  """What a phase of the official code was given, as the game's examples."""
  has = under(arrays, prefix)
  num = len(has['z'])
  label = lambda c: jnp.asarray(c.argmax(1), jnp.int32)
  cut = int(has['mix_cutoff']) if has.get('mix_u', 1) < 0.9 else num_ws
  batch = {
    'z': numbers(has['z']), 'z2': numbers(has.get('mix_z', has['z'])),
    'cutoff': jnp.full(num, cut, jnp.int32),
    'y': label(has['c']) if 'c' in has else jnp.zeros(num, jnp.int32),
    'noise': golden_style.noise_of_layers(arrays, f'{prefix}noise.'),
    'keys': jax.random.split(jax.random.key(0), num),
  }  # fmt: skip
  return batch | ({'directions': numbers(has['pl_noise'])} if 'pl_noise' in has else {})


def reals(arrays, name, label=''):
  image = numbers(arrays[name])
  none = jnp.zeros(len(image), jnp.int32)
  y = jnp.asarray(arrays[label].argmax(1), jnp.int32) if label in arrays else none
  return {'image': image, 'label': y, 'real_keys': jax.random.split(jax.random.key(1), len(image))}


@pytest.mark.slow  # the first of the iterations sees the same kind of fault
@pytest.mark.parametrize('name', ['stylegan2_uncond32', 'stylegan2_cond32'])
def test_gradients_of_every_phase(name, x64):
  arrays = golden(name)
  game = given_game(arrays, optim__style_mixing=0.0)
  gen, disc = (params_of(arrays, at) for at in ('G/', 'D/'))
  phase = {at: examples_of(arrays, f'in/{at}/', game.gen_net.num_ws)
           for at in ('Gmain', 'Gpl', 'Dmain')}  # fmt: skip
  phase['Dmain'] |= reals(arrays, 'in/real', 'in/real_c')
  w_avg, old = (numbers(arrays[at]) for at in ('G/mapping.w_avg', 'in/Gpl/pl_mean'))

  @jax.jit
  def everything(gen, disc):
    of_gen, of_disc = game.gen.reparametrisation.fold, game.disc.reparametrisation.fold
    shared = {'gen': of_gen(gen), 'disc': of_disc(disc), 'pl_mean': old}
    slope = lambda loss, weights, params, batch: jax.value_and_grad(
      lambda params: loss(weights(params), shared, batch), has_aux=True
    )(params)
    averages = {at: game.averaged_w(w_avg, of_gen(gen), batch) for at, batch in phase.items()}
    return averages, {
      'Gmain': slope(game.gen_loss, of_gen, gen, phase['Gmain']),
      'Gpl': slope(game.path_length, of_gen, gen, phase['Gpl']),
      'Dmain': slope(game.disc_loss, of_disc, disc, phase['Dmain']),
      'Dr1': slope(game.r1, of_disc, disc, phase['Dmain']),
    }

  averages, found = everything(gen, disc)
  for at, ((loss, metrics), grads) in found.items():
    np.testing.assert_allclose(loss, arrays[f'out/{at}/loss'], rtol=1e-9, err_msg=at)
    theirs = golden_style.stylegan2(under(arrays, f'grad_{at}/'))
    golden_style.assert_same(grads, theirs)
    if at == 'Gpl':
      np.testing.assert_allclose(metrics['pl_mean'], arrays['out/Gpl/pl_mean'], rtol=1e-9)
    if at != 'Dr1':
      golden_style.close(averages[at], arrays[f'out/{at}/w_avg'])


# The first has all four updates; the slow ones show that they share Adam's moments.
@pytest.mark.parametrize('num', [1, pytest.param(5, marks=pytest.mark.slow)])
def test_iterations(num, x64):
  """Losses, averages, weights and Adam's moments, through `step` itself."""
  arrays = golden('step_stylegan2')
  cfg = under(arrays, 'cfg/')
  rate = float(cfg['lr'])
  game = given_game(
    arrays, optim__style_mixing=float(cfg['mix']), optim__gen_lr=rate, optim__disc_lr=rate,
    optim__pl_every=int(cfg['greg']), optim__r1_every=int(cfg['dreg']),
  )  # fmt: skip
  law = lambda step, examples: float(cfg['ema_beta'])
  game = dataclasses.replace(game, ema=law, mixing=1.0)
  stage, num_ws = game.stages(num)[0][1], game.gen_net.num_ws

  @jax.jit
  def begin(gen, disc):
    players = {'gen': game.gen.init(gen), 'disc': game.disc.init(disc)}
    aux = {'w_avg': numbers(arrays['G/mapping.w_avg']), 'pl_mean': jnp.zeros((), jnp.float64)}
    return player.initial_state(jax.random.key(0), players, gen, aux)

  state = begin(params_of(arrays, 'G/'), params_of(arrays, 'D/'))
  step = jax.jit(functools.partial(game.step, stage=stage), static_argnames='due')
  for i in range(num):
    batch = {'gen': examples_of(arrays, f'in/{i}/Gmain/', num_ws)}
    batch['disc'] = examples_of(arrays, f'in/{i}/Dmain/', num_ws) | reals(arrays, f'in/{i}/real')
    due = frozenset(name for name, every in game.periods.items() if i % every == 0)
    if 'pl' in due:
      batch['pl'] = examples_of(arrays, f'in/{i}/Greg/', num_ws)
    state, metrics = step(state, batch, due=due)
    of_phase = {'g_loss': 'Gmain', 'g_pl': 'Greg', 'd_loss': 'Dmain', 'd_r1': 'Dreg'}
    for ours, theirs in of_phase.items():
      assert (ours in metrics) == (f'{i}/{theirs}/loss' in arrays)
      if ours in metrics:
        np.testing.assert_allclose(metrics[ours], arrays[f'{i}/{theirs}/loss'], rtol=1e-6)
    for ours in ('pl_mean', 'w_avg'):
      np.testing.assert_allclose(state['aux'][ours], arrays[f'{i}/{ours}'], rtol=1e-6)

  theirs = lambda at: golden_style.stylegan2(under(arrays, f'after{num}/{at}/'))
  found = {'ema': state['ema']}
  for ours, name in (('gen', 'G'), ('disc', 'D')):
    moved = state['players'][ours]
    nu = trees.only(moved['opt'], optim.SecondMomentState, 'Adam').nu
    found |= {name: moved['params'], f'nu_{name}': nu}
  for at, tree in found.items():
    golden_style.assert_same(tree, theirs(at))


# --- Steps of a game whose networks compile at once: linear in w, and in the pixels but for a tanh


class Linear(nn.Module):
  """A generator whose images are w A, of the sum of w over its layers."""

  resolution: int = 4
  channels: int = 3
  z_dim: int = 5
  w_dim: int = 5
  num_ws: int = 3

  def setup(self):
    shape = self.w_dim, self.resolution**2 * self.channels
    self.kernel = self.param('kernel', nn.initializers.normal(), shape, jnp.float32)

  def mapping(self, z, y):
    del y
    return z

  def synthesis(self, ws, noise):
    del noise
    side = self.resolution
    return (ws.sum(1) @ self.kernel).reshape(-1, side, side, self.channels)

  def __call__(self, z, y):
    return self.synthesis(jnp.repeat(self.mapping(z, y)[:, None], self.num_ws, 1), None)


class Bent(nn.Module):
  """A discriminator of one hidden layer."""

  @nn.compact
  def __call__(self, x, y):
    del y
    x = x.reshape(len(x), -1)
    kernel = self.param('kernel', nn.initializers.normal(), (x.shape[1], 2), jnp.float32)
    return jnp.tanh(x @ kernel).sum(1)


def batch_of(stage, seed):
  rng = np.random.RandomState(seed)
  shapes = {name: x.shape for name, x in stage.shapes().items()}
  return {
    'image': rng.randint(0, 256, shapes['image']).astype(np.uint8),
    'label': rng.randint(0, 10, shapes['label']).astype(np.int32),
  }


ADA = {'augment__name': 'ada_brightness', 'augment__target': 0.6, 'augment__kimg': 0.1}
IN_TWO = {'data__resolution': 4, 'optim__pl_every': 2, 'optim__r1_every': 2}


@pytest.fixture(scope='module')
def rows():
  """What five steps say, the aux before each and after the last, and means of the latents drawn."""
  game = stylegan2.make(tiny(**ADA, **IN_TWO))
  game = dataclasses.replace(game, gen_net=Linear(), disc_net=Bent())
  stage, found, aux, means = game.stages(1)[0][1], [], [], []
  step = jax.jit(functools.partial(game.step, stage=stage), static_argnames='due')
  draw = jax.jit(lambda *of: {name: x['z'].mean(0) for name, x in game.examples(*of).items()})
  state = jax.jit(game.init)(jax.random.key(0))
  for i in range(5):
    aux.append(jax.device_get(state['aux']))
    means.append(jax.device_get(draw(state, batch_of(stage, i))))
    state, said = step(state, batch_of(stage, i), due=contract.due_at(game.periods, i))
    found.append(jax.device_get(said))
  return found, [*aux, jax.device_get(state['aux'])], means


def test_what_is_due_moves_and_the_rest_stays(rows):
  found, aux, _ = rows
  assert [('g_pl' in row, 'd_r1' in row) for row in found] == [(True, True), (False, False)] * 2 + [
    (True, True)
  ]
  for before, after, row in zip(aux, aux[1:], found, strict=False):
    assert (before['w_avg'] != after['w_avg']).all()
    assert (before['pl_mean'] != after['pl_mean']) == ('g_pl' in row)
    if 'g_pl' in row:  # a hundredth of the way to the minibatch's mean
      step = 0.01 * (row['pl_length'] - before['pl_mean'])
      np.testing.assert_allclose(after['pl_mean'] - before['pl_mean'], step, rtol=1e-4)
      assert row['pl_mean'] == after['pl_mean'] > 0


def test_the_average_w_moves_in_every_update_that_draws_latents(rows):
  """Of both players, and of the path length where it is due; w is z in these networks."""
  found, aux, means = rows
  for before, after, row, mean in zip(aux, aux[1:], found, means, strict=False):
    w = before['w_avg']
    for name in ('gen', 'pl', 'disc'):
      w = mean[name] + 0.995 * (w - mean[name]) if name != 'pl' or 'g_pl' in row else w
    np.testing.assert_allclose(after['w_avg'], w, rtol=1e-4, atol=1e-6)


def test_the_strength_follows_what_the_discriminator_says(rows):
  """Over four steps; those of R1 count twice, as it judges real images again."""
  found, aux, _ = rows
  augment = [of['terms']['augment'] for of in aux]
  assert [int(of['logits']) for of in augment] == [0, 16, 24, 40, 0, 16]
  shares = [2 if 'd_r1' in row else 1 for row in found[:4]]
  r_t = np.average([row['d_overfit'] for row in found[:4]], weights=shares)
  np.testing.assert_allclose(found[3]['augment_r_t'], r_t, rtol=1e-5, atol=1e-6)
  step = 8 * 4 / (0.1 * 1000)  # examples of four steps, over those in which p goes from 0 to 1
  want = max(np.sign(r_t - 0.6) * step, 0)
  assert [float(of['p']) for of in augment[:4]] == [0] * 4
  np.testing.assert_allclose(augment[4]['p'], want, rtol=1e-6)


@pytest.mark.slow  # that a step is a function of the state, tests/contract sees
@pytest.mark.usefixtures('no_pictures')
def test_a_resumed_run_equals_one_that_went_on(tmp_path):
  """Bit for bit, with the average w, the average length, p and what p follows."""
  config = tiny(
    data__source='synthetic:80', run__steps=5, run__keep=9, run__checkpoint_every=1,
    run__eval_every=0, run__log_every=1, **ADA, **IN_TWO,
  )  # fmt: skip
  whole, other = tmp_path / 'whole', tmp_path / 'resumed'
  loop.train(config, str(whole), jax.devices()[:1])
  shutil.copytree(whole, other)
  for step in (4, 5):  # the fourth moves p
    shutil.rmtree(other / 'checkpoints' / str(step))
  loop.train(config, str(other), jax.devices()[:1])
  assert (other / 'metrics.jsonl').read_bytes() == (whole / 'metrics.jsonl').read_bytes()
  for name in ('generator.safetensors', 'generator.json'):
    ours, theirs = ((path / 'export' / name).read_bytes() for path in (other, whole))
    assert ours == theirs, name


# --- What is drawn


def drawn(game, num):
  return jax.jit(functools.partial(game.fresh, num=num))(jax.random.key(0))


def test_where_styles_are_mixed():
  """From a layer on that is neither the first nor beyond the last, for nine in ten."""
  game = stylegan2.make(tiny(data__resolution=16))
  cutoff = np.asarray(drawn(game, 2000)['cutoff'])
  assert game.gen_net.num_ws == 6 and set(cutoff) == {1, 2, 3, 4, 5, 6}
  assert abs((cutoff < 6).mean() - 0.9) < 0.03
  counts = np.bincount(cutoff)[1:6]
  assert counts.min() > 300


def test_without_mixing_the_mapping_is_called_once():
  products = {}
  for share in (0.0, 0.9):
    game = stylegan2.make(tiny(optim__style_mixing=share))
    shapes = jax.eval_shape(game.init, jax.random.key(0))['players']['gen']['params']
    examples = jax.eval_shape(functools.partial(game.fresh, num=4), jax.random.key(0))
    products[share] = str(jax.make_jaxpr(game.styles)(shapes, examples)).count('dot_general')
  assert products[0.9] == 2 * products[0.0] == 2 * 2


def test_styles_are_one_latents_before_the_cutoff_and_the_others_from_there():
  game = stylegan2.make(tiny())
  shapes = jax.eval_shape(game.init, jax.random.key(0))['players']['gen']['params']
  params, batch = weights(shapes), drawn(game, 4)

  @jax.jit
  def run(batch):
    one, other = (stylegan2.mapped(game.gen_net, params, batch[z], batch['y']) for z in ('z', 'z2'))
    return game.styles(params, batch), one, other

  ws, one, other = run({**batch, 'cutoff': jnp.array([1, 2, 3, 4], jnp.int32)})
  for i, cutoff in enumerate((1, 2, 3, 4)):
    np.testing.assert_array_equal(ws[i, :cutoff], np.broadcast_to(one[i], (cutoff, 16)))
    np.testing.assert_array_equal(ws[i, cutoff:], np.broadcast_to(other[i], (4 - cutoff, 16)))


def test_labels_of_fakes_are_as_frequent_as_in_the_data():
  game = stylegan2.make(tiny(data__num_classes=2), lambda: [30, 10])
  assert abs(np.mean(np.asarray(drawn(game, 2000)['y']) == 0) - 0.75) < 0.04


# --- Regularisers


def test_path_length_of_a_linear_generator(x64):
  """|A y|, whatever the latents; the average begins with a hundredth of it."""
  rng = np.random.default_rng(0)
  matrix, y = rng.normal(size=(5, 48)), jnp.asarray(rng.normal(size=(3, 4, 4, 3)))
  batch = {'z': jnp.asarray(rng.normal(size=(3, 5))), 'y': jnp.zeros(3, jnp.int32)}
  batch |= {'directions': y, 'noise': None}
  game = stylegan2.make(tiny(optim__style_mixing=0.0))
  game = dataclasses.replace(given(game), gen_net=Linear())
  lengths = lambda matrix: jnp.linalg.norm(y.reshape(3, -1) / 4 @ matrix.T, axis=1)

  def by_hand(matrix):
    along = lengths(matrix)  # of each layer alike, whose mean it is
    return 2 * jnp.square(along - 0.01 * along.mean()).mean()

  @jax.jit
  def both(matrix):
    old = {'pl_mean': jnp.zeros((), jnp.float64)}
    ours = lambda matrix: game.path_length({'kernel': matrix}, old, batch)
    return jax.value_and_grad(ours, has_aux=True)(matrix), jax.value_and_grad(by_hand)(matrix)

  ((value, metrics), grad), (want, want_grad) = both(jnp.asarray(matrix))
  np.testing.assert_allclose(value, want)
  np.testing.assert_allclose(grad, want_grad)  # through the average, too
  np.testing.assert_allclose(metrics['pl_mean'], 0.01 * np.mean(lengths(matrix)))


def test_rates_and_decays_make_up_for_lazy_updates():
  """Base rate 0.002: 0.00188235 and 0.99058546 with R1 every 16 steps, 0.0016 and 0.99199197."""

  def one(of, gradient):
    params = {'w': jnp.zeros(())}
    state = of.init(params)
    updates, opt = of.tx.update({'w': gradient}, state['opt'], params, loss=jnp.zeros(()))
    return updates['w'], trees.only(opt, optim.SecondMomentState, 'Adam').nu['w']

  for changes, of, rate, decay in (
    ({}, 'disc', 0.00188235, 0.99058546),
    ({}, 'gen', 0.0016, 0.99199197),
    ({'optim__pl_weight': 0.0}, 'gen', 0.0016, 0.99199197),  # as in the official code
    ({'optim__lazy': False}, 'gen', 0.002, 0.99),
    ({'optim__lazy': False}, 'disc', 0.002, 0.99),
  ):
    game = stylegan2.make(tiny(**changes))
    update, nu = jax.jit(functools.partial(one, getattr(game, of)))(jnp.float32(3))
    np.testing.assert_allclose(update, -rate, rtol=1e-5)
    np.testing.assert_allclose(nu, (1 - decay) * 9, rtol=1e-4)


def metrics_of(game):
  """The names of what a step without lazy terms says."""
  stage = game.stages(1)[0][1]
  state = jax.eval_shape(game.init, jax.random.key(0))
  return set(
    jax.eval_shape(functools.partial(game.step, stage=stage), state, batch_of(stage, 0))[1]
  )


def test_terms_that_are_not_lazy_are_in_every_loss():
  game = stylegan2.make(tiny(data__resolution=4, optim__lazy=False))
  assert game.periods == {} and {'g_pl', 'pl_mean', 'd_r1'} <= metrics_of(game)
  game = stylegan2.make(tiny(data__resolution=4, optim__pl_weight=0.0))
  assert game.periods == {'r1': 16} and not {'g_pl', 'd_r1'} & metrics_of(game)


def test_due_terms_over_seventeen_steps():
  periods = stylegan2.make(configs.read('stylegan2')).periods
  due = [contract.due_at(periods, step) for step in range(17)]
  assert [step for step in range(17) if 'pl' in due[step]] == [0, 4, 8, 12, 16]
  assert [step for step in range(17) if 'r1' in due[step]] == [0, 16]


def test_a_path_length_that_cannot_be_split_is_refused():
  game = stylegan2.make(tiny(optim__pl_batch_shrink=8))
  words = r'1 examples .* 2 devices; lower optim\.pl_batch'
  mesh = parallel.make_mesh(jax.devices()[:2])
  with jax.set_mesh(mesh), pytest.raises(errors.UserError, match=words):
    metrics_of(game)


def test_frozen_layers():
  """The layers of a resolution in the official order; those of the last block stay free."""
  config = tiny(data__resolution=16)
  resnet, skip = (
    stylegan2.make_nets(core_config.changed(config, {'model.disc_architecture': shape}))[1]
    for shape in ('resnet', 'skip')
  )
  names = ['fromrgb', 'conv0', 'conv1', 'skip', 'conv0', 'conv1', 'skip']
  assert [path.split('/')[1] for path in stylegan2.disc_layers(resnet)] == names
  names = ['fromrgb', 'conv0', 'conv1'] * 2
  assert [path.split('/')[1] for path in stylegan2.disc_layers(skip)] == names
  still = stylegan2.frozen(resnet, 2)
  params = jax.eval_shape(stylegan2.make(config).init, jax.random.key(0))['players']['disc']
  held = {path for path, leaf in trees.flat(params['params']).items() if still(path, leaf)}
  assert held == {f'b16/{name}' for name in (
    'fromrgb/kernel', 'fromrgb/bias', 'conv0/kernel', 'conv0/bias')}  # fmt: skip
  with pytest.raises(errors.UserError, match='has 7 layers'):
    stylegan2.frozen(resnet, 8)


def test_a_frozen_layer_does_not_move():
  game = stylegan2.make(tiny(data__resolution=8, optim__freeze_disc=1))
  params = jax.eval_shape(game.init, jax.random.key(0))['players']['disc']['params']
  params = trees.map_paths(lambda path, s: jnp.ones(s.shape), params)
  move = lambda params: game.disc.update(game.disc.init(params), params, jnp.zeros(()))[0]
  moved = jax.jit(move)(params)['params']
  still = {path for path, w in trees.flat(moved).items() if np.all(w == 1)}
  assert still == {'b8/fromrgb/kernel', 'b8/fromrgb/bias'}


# --- Sampling


def test_truncation_and_noise():
  game = stylegan2.make(tiny(data__resolution=4, data__num_classes=1))
  generator = stylegan2.make_generator(game.architecture(None))
  shapes = jax.eval_shape(game.init, jax.random.key(0))['players']['gen']['params']
  gen = {'params': weights(shapes), 'w_avg': jnp.ones(16)}
  z, y = generator.latents(jax.random.key(1), 3, generator.spec({})), np.zeros(3, np.int32)
  run = jax.jit(generator.generate)
  shown = lambda **given: np.asarray(run(gen, z, y, generator.spec({}, given)))
  plain = shown()
  np.testing.assert_array_equal(plain, shown(truncation='1'))  # scores are of psi 1
  assert np.abs(plain - shown(truncation='0.5')).max() > 1e-3
  for noise in ('const', 'none'):
    average = shown(truncation='0', noise=noise)
    np.testing.assert_allclose(average, average[:1].repeat(3, 0), atol=1e-5)
  assert np.abs(shown(truncation='0') - average).max() > 1e-3  # the noise is each sample's own
  assert np.abs(shown(truncation='0:1', noise='none') - average).max() > 1e-3


# --- Configs


@pytest.mark.parametrize(
  ('name', 'gen', 'disc'),
  [
    ('stylegan2', 30_370_060, 29_012_513),
    ('stylegan2:e', 24_900_764, 24_038_161),
    ('stylegan2:church', 30_034_338, 28_864_129),
    ('ada:stylegan2_cifar10', 19_947_539, 20_720_641),
    ('ada:stylegan2_cifar10_cond', 20_215_315, 20_988_416),
    ('ada:stylegan2_cifarbaseline', 21_523_475, 21_507_073),
    ('ada:stylegan2_auto256', 23_191_522, 24_001_089),
    ('ada:stylegan2_paper256', 24_767_458, 24_001_089),
    ('ada:stylegan2_paper512', 30_276_583, 28_982_849),
    ('diffaug:stylegan2_cifar10', 13_506_963, 13_918_849),
  ],
)
def test_configs_have_the_official_numbers_of_parameters(name, gen, disc):
  config = configs.read(name)
  assert of_players(stylegan2.make(config)) == (gen, disc)
  assert config.algorithm == 'stylegan2'


def test_the_authors_choice_at_128_px_has_their_numbers_of_parameters():
  config = core_config.changed(configs.read('ada:stylegan2_auto256'), {'data.resolution': 128})
  assert of_players(stylegan2.make(config)) == (22_949_277, 23_882_369)


def test_what_the_ladder_switches():
  """From row to row, the last first."""
  flat = {row: core_config.flat(configs.read(f'stylegan2:{row}')) for row in 'bcdef'}
  differs = lambda a, b: {key for key in flat[a] if flat[a][key] != flat[b][key]}
  assert differs('f', 'e') == {'model.fmap_base', 'optim.r1_gamma'}
  assert differs('e', 'd') == {
    'model.gen_architecture', 'model.disc_architecture', 'optim.r1_gamma', 'optim.gen_lr',
    'optim.disc_lr',
  }  # fmt: skip
  assert differs('d', 'c') == {'optim.pl_weight'}
  assert differs('c', 'b') == {'optim.lazy'}
  first, theirs = (core_config.flat(configs.read(name)) for name in ('stylegan2:a', 'stylegan'))
  assert first == theirs


def test_what_of_the_other_game_a_variant_leaves():
  """What all games share stays; a key of BigGAN's networks has no meaning here."""
  config = configs.read('diffaug:stylegan2_cifar10')
  assert config.data.flip and config.scores.reference == 'test'
  assert 'ch' not in config.model and config.optim.b2 == 0.99
  config = configs.read('ada:stylegan2_cifar10,cifar10_500')
  assert (config.data.per_class, config.augment.kimg) == (50, 20)
  assert configs.read('ada:stylegan2_auto256').optim.r1_gamma == pytest.approx(0.2048)
  assert configs.read('ada:stylegan2_cifar10,noaug').augment.target == 0
  assert configs.read('ada:stylegan2_cifar10,transfer').augment.kimg == 100


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'optim__pl_batch_shrink': 3}, r'optim\.pl_batch_shrink is 3, which does not divide'),
    ({'optim__freeze_disc': 9}, r'optim\.freeze_disc is 9'),
    ({'augment__name': 'ada_bgc'}, 'needs a probability'),
    ({'augment__kimg': 3.0}, r'augment\.kimg=3.0 says how'),
    ({'optim__ema_decay': 0.9}, 'two laws of one average'),
  ],
)
def test_configs_that_mean_nothing(changes, words):
  with pytest.raises(errors.UserError, match=words):
    stylegan2.make(tiny(**changes))


# --- What each resolution adds to the image


def test_what_resolutions_add_makes_the_image_and_its_shares():
  """However many devices there are."""
  game = stylegan2.make(tiny())

  @jax.jit
  def made(key):
    weights = game.gen.weights(game.gen.init(game.gen_net.init(key, *zeros)['params']))
    batch = game.fresh(key, 8)
    given = game.styles(weights, batch), game.noise(batch)
    parts = rgb_images(game.gen_net, weights, *given)
    image = truncation.synthesized(game.gen_net, weights, *given)
    return parts, fir.upsample(parts[4]) + parts[8], image, weights, batch

  zeros = jnp.zeros((1, 16)), jnp.zeros((1,), jnp.int32)
  with jax.set_mesh(parallel.make_mesh(jax.devices()[:1])):
    parts, total, image, weights, batch = jax.device_get(made(jax.random.key(0)))
  np.testing.assert_allclose(total, image, atol=1e-5)
  stds = np.array([np.std(parts[size]) for size in (4, 8)])
  for devices in (1, 2):
    with jax.set_mesh(parallel.make_mesh(jax.devices()[:devices])):
      shares = jax.device_get(jax.jit(game.rgb_shares)(weights, batch))
    found = [shares.pop(f'rgb_share_{size}') for size in (4, 8)]
    np.testing.assert_allclose(found, stds / stds.sum(), rtol=1e-4)
    assert not shares
