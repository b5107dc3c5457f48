"""GradInit: the authors' numbers, closed forms of its pitfalls, what is refused, a run with it."""

import ast
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from bigjax.algorithms.base import configs, player
from bigjax.core import checkpoint, errors, files, trees
from bigjax.nn import spectral_norm
from bigjax.training import gradinit, loop, plots, ready
from bigjax.training import history as histories
from bigjax.training.batches import load_data
from bigjax.training.gradinit import Method, iterate
from bigjax.training.program import make_program

import toys
from golden_files import golden, under

OPTIMIZERS = ('adam', 'sgd', 'normalised_sgd')


def learned(method, params, losses, scaled=None):
  """Scales and rows after an iteration on each (loss, loss_after)."""
  paths = tuple(params) if scaled is None else scaled

  @jax.jit
  def run():
    scales, rows = gradinit.initial(len(paths), next(iter(params.values())).dtype), []
    for pair in losses:
      scales, row = iterate(method, params, paths, *pair, scales)
      rows.append(row)
    return scales, rows

  return run()


def repeated(method, params, loss, num, scaled=None, start=None):
  """Scales after `num` iterations on one loss, and all rows, stacked."""
  paths = tuple(params) if scaled is None else scaled
  step = lambda old, _: iterate(method, params, paths, loss, loss, old)
  first = lambda: gradinit.initial(len(paths)) if start is None else start
  return jax.device_get(jax.jit(lambda: lax.scan(step, first(), length=num))())


# --- the authors' code


def classify(params, images, stride=2):
  """conv3 - [BatchNorm] - relu - conv3 of stride 2 - relu - mean - linear, in their layout."""
  pads, dims = ((1, 1), (1, 1)), ('NCHW', 'OIHW', 'NCHW')
  wide = lambda bias: 0 if bias is None else bias[None, :, None, None]
  conv = lambda x, name, stride: (
    lax.conv_general_dilated(
      x, params[f'{name}.weight'], (stride, stride), pads, dimension_numbers=dims
    )
    + wide(params.get(f'{name}.bias'))
  )
  h = conv(images, 'c1', 1)
  if 'bn1.weight' in params:
    mean, var = h.mean((0, 2, 3), keepdims=True), h.var((0, 2, 3), keepdims=True)
    h = (h - mean) / jnp.sqrt(var + 1e-5) * wide(params['bn1.weight']) + wide(params['bn1.bias'])
  h = jax.nn.relu(conv(jax.nn.relu(h), 'c2', stride)).mean((2, 3))
  return h @ params['fc.weight'].T + params['fc.bias'][None]


CASES = sorted({key.partition('/')[0] for key in golden('gradinit') if key.startswith('case')})


@pytest.mark.parametrize('case', CASES)  # the third is in shared/ only
def test_golden(case, x64):
  """Scales, branches, norms, losses and slopes of 14 iterations of the official code."""
  arrays = under(golden('gradinit'), f'{case}/')
  said = ast.literal_eval(str(arrays['settings']))
  name = 'normalised_sgd' if said['normalize'] else said['alg']
  method = Method(name, said['lr'], said['eta'], said['gamma'])
  params = {k: np.asarray(w, np.float64) for k, w in under(arrays, 'w0/').items()}
  paths = tuple(path for path, w in params.items() if np.any(w))

  @jax.jit
  def run(old, one, other):
    loss = lambda x, y: (
      lambda params: (
        -jnp.take_along_axis(jax.nn.log_softmax(classify(params, x)), y[:, None], 1).mean()
      )
    )
    return iterate(method, params, paths, loss(*one), loss(*other), old)

  def halves(*numbers):
    images, labels = (np.concatenate([arrays[f'in/batches_{x}'][i] for i in numbers]) for x in 'xy')
    return images.astype(np.float64), labels

  scales = jax.device_get(gradinit.initial(len(paths), jnp.float64))
  for i, first in enumerate(arrays['out/iter/batches_used_before']):
    # The second half of S~ is new; so is the first, after it in the order, without overlap.
    other = (first + 3, first + 2) if said['no_overlap'] else (first, first + 2)
    scales, row = jax.device_get(run(scales, halves(first, first + 1), halves(*other)))
    assert bool(row['lowered']) == bool(arrays['out/iter/is_constraint'][i]) and row['finite']
    norm = arrays['out/iter/gnorm_l1' if name == 'adam' else 'out/iter/gnorm_l2'][i]
    np.testing.assert_allclose(row['norm'], norm, rtol=1e-4)
    np.testing.assert_allclose(row['loss'], arrays['out/iter/init_loss'][i], rtol=1e-4)
    np.testing.assert_allclose(row['loss_after'], arrays['out/iter/updated_loss'][i], rtol=1e-4)
    for path, scale, slope in zip(paths, scales.scales, row['slopes'], strict=True):
      if (case, path) == ('case0', 'c1.bias'):
        continue  # before BatchNorm: rounding noise, which Adam makes steps of
      np.testing.assert_allclose(slope, arrays[f'out/grad_alpha/{path}'][i], rtol=1e-4, atol=1e-6)
      np.testing.assert_allclose(scale, arrays[f'out/alpha/{path}'][i], rtol=1e-4, err_msg=path)
  final = jax.jit(lambda scales: gradinit.scaled(params, paths, scales))(scales.scales)
  for path, theirs in under(arrays, 'w_final/').items():
    if (case, path) != ('case0', 'c1.bias'):
      np.testing.assert_allclose(final[path], theirs, rtol=1e-4, atol=1e-7, err_msg=path)


# --- closed forms


def test_no_scale_goes_below_its_floor_and_a_bias_that_is_gone_stays():
  """L is the sum of all parameters, each positive: smaller is better, for ever."""
  params = {'a/kernel': jnp.ones((2, 2)), 'a/bias': jnp.ones((2,)), 'a/gain': jnp.ones((2,))}
  loss = lambda params: sum(x.sum() for x in params.values())
  scales, rows = repeated(Method('sgd', scale_lr=0.3, gamma=100.0), params, loss, 6)
  np.testing.assert_allclose(scales.scales, [0.01, 0, 0.01], rtol=1e-6)
  assert not rows['lowered'].any() and scales.counts.tolist() == [0, 6]
  # Were it turned round, what is at its floor would grow again, but not a bias of norm 0.
  turned = lambda params: -loss(params)
  scales, _ = repeated(Method('sgd', scale_lr=0.3, gamma=100.0), params, turned, 20, start=scales)
  assert scales.scales[1] == 0 and (scales.scales[[0, 2]] > 0.01).all()


def mlp(gain, seed=0):
  """(Weights of a network 6-16-16-1 times `gain`, its squared error on 32 examples)."""
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  sizes = (6, 16, 16, 1)
  params = {}
  for i, (n, m) in enumerate(itertools.pairwise(sizes)):
    params[f'l{i}/kernel'] = np.float32(gain * (2 / n) ** 0.5) * normal(n, m)
    params[f'l{i}/bias'] = np.zeros(m, np.float32)
  x = normal(32, 6)
  y = np.sin(x.sum(1))

  def loss(params):
    h = x
    for i in range(3):
      h = h @ params[f'l{i}/kernel'] + params[f'l{i}/bias'][None]
      h = jax.nn.relu(h) if i < 2 else h
    return jnp.square(h[:, 0] - y).mean()

  return params, loss


KERNELS = ('l0/kernel', 'l1/kernel', 'l2/kernel')


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_the_norm_is_lowered_first_until_it_is_below_gamma(optimizer):
  params, loss = mlp(gain=4.0)
  method = Method(optimizer, scale_lr=0.03, eta=0.01, gamma=5.0)
  scales, rows = repeated(method, params, loss, 120, KERNELS)
  np.testing.assert_array_equal(rows['lowered'], rows['norm'] > 5)
  assert rows['norm'][0] > 100 and rows['lowered'][:10].all()
  assert not rows['lowered'].all() and rows['norm'].min() <= 5 and rows['finite'].all()
  np.testing.assert_array_equal(np.isnan(rows['loss_after']), rows['lowered'])
  assert (scales.scales >= 0.01).all() and scales.counts.sum() == 120
  # Zero biases are no part of it.
  after = jax.jit(lambda scales: gradinit.scaled(params, KERNELS, scales))(scales.scales)
  assert not after['l0/bias'].any()


def test_the_first_step_lowers_the_loss_further_than_without():
  params, loss = mlp(gain=2.0)
  method = Method('sgd', scale_lr=0.03, eta=0.05, gamma=3.0)
  scales, _ = repeated(method, params, loss, 150, KERNELS)

  @jax.jit
  def stepped(scales):
    p = gradinit.scaled(params, KERNELS, scales)
    return loss(jax.tree.map(lambda x, g: x - 0.05 * g, p, jax.grad(loss)(p)))

  assert stepped(scales.scales) < stepped(np.ones_like(scales.scales))


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_the_step_is_a_constant_to_the_scales(optimizer):
  """Their slopes are the products of the drawn weights and the gradient after the step."""
  params, loss = mlp(gain=1.0)
  params = {path: x + np.float32(0.1) for path, x in params.items()}
  _, other = mlp(gain=1.0, seed=1)
  method = Method(optimizer, eta=0.03, gamma=1e6)
  _, (row,) = learned(method, params, [(loss, other)])
  value, grads = jax.device_get(jax.jit(jax.value_and_grad(loss))(params))
  norm = np.sqrt(sum(np.square(g).sum() for g in grads.values()))
  by = {'adam': np.sign, 'sgd': lambda g: g, 'normalised_sgd': lambda g: g / norm}[optimizer]
  moved = {path: x - np.float32(0.03) * by(grads[path]) for path, x in params.items()}
  after = jax.device_get(jax.jit(jax.grad(other))(moved))
  want = [(after[path] * x).sum() / 0.03 for path, x in params.items()]
  np.testing.assert_allclose(row['slopes'], want, rtol=1e-4)
  np.testing.assert_allclose(row['loss'], value, rtol=1e-6)
  # Not detached it is another number, but for signs, which have no slope.
  bent = jax.jit(jax.grad(lambda s: other(jax.tree.map(
    lambda x, g: x - 0.03 * g, gradinit.scaled(params, tuple(params), s),
    jax.grad(loss)(gradinit.scaled(params, tuple(params), s))
  )) / 0.03))(np.ones(len(params), np.float32))  # fmt: skip
  assert optimizer != 'sgd' or not np.allclose(row['slopes'], bent, rtol=1e-2)


def test_the_two_goals_have_a_first_moment_each_and_share_the_second():
  """Adam by hand: slopes of 1 (clipped), 0.5, and 0.2 of the constraint, objective, objective."""
  scales = gradinit.initial(1)
  update = jax.jit(lambda *args: gradinit.updated(*args, 0.01, jnp.zeros((1,))))
  for slope, which in ((7.0, 0), (0.5, 1), (0.2, 1)):
    scales = update(scales, np.float32([slope]), np.int32(which))
  second = [0.001, 0.001 * 0.999 + 0.001 * 0.25]
  second.append(second[1] * 0.999 + 0.001 * 0.04)
  first = [0.1, 0.05, 0.05 * 0.9 + 0.02]
  count = [1, 1, 2]
  moved = sum(
    0.01 * (m / (1 - 0.9**c)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    for m, c, v, t in zip(first, count, second, (1, 2, 3), strict=True)
  )
  np.testing.assert_allclose(scales.scales, [1 - moved], rtol=1e-5)
  assert scales.counts.tolist() == [1, 2]


def test_what_is_not_finite_changes_nothing():
  params = {'kernel': np.ones(2, np.float32)}
  fine, broken = lambda p: p['kernel'].sum(), lambda p: jnp.nan * p['kernel'].sum()
  for pair in ((broken, fine), (fine, broken)):
    scales, (row,) = learned(Method(gamma=10.0), params, [pair])
    assert not row['finite'] and scales.scales.tolist() == [1] and not scales.counts.any()


def spectral_loss():
  """(Params, loss) of a player with one spectrally normalised kernel, a table and a gain."""
  one = player.Player(
    optax.sgd(0.1), reparametrisation=player.spectral(spectral_norm.spec(), 1e-12)
  )
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  params = {
    'dense': {'kernel': normal(4, 3), 'bias': np.zeros(3, np.float32)},
    'gain': np.full(3, 1.5, np.float32),
  }
  x = normal(8, 4)

  def fn(weights, shared, batch):
    h = jnp.tanh(batch @ weights['dense']['kernel'] + weights['dense']['bias'][None])
    return jnp.square(h * weights['gain'][None] - 1).mean(), {}

  return params, one.loss(jax.jit(one.init)(params), fn, {}, x)


def test_spectral_norm_divides_a_scale_out_and_says_of_what():
  params, loss = spectral_loss()
  assert loss.scale_free == {'dense/kernel'}
  grads = jax.jit(jax.grad(lambda p: loss(p)[0]))(params)
  slopes = {path: (g * x).sum() for (path, g), x in
            zip(trees.flat(grads).items(), trees.flat(params).values(), strict=True)}  # fmt: skip
  assert abs(slopes['dense/kernel']) < 1e-6 < 1e-2 < abs(slopes['gain'])
  assert player.IDENTITY.scale_free(params) == frozenset()


# --- an algorithm's


def config_of(name, **changes):
  (path,) = [path for path in toys.CONFIGS if name in path]
  values = {
    'optimizer': 'adam',
    'steps': 3,
    'scale_lr': 0.03,
    'eta': 0.01,
    'gamma': 20.0,
    **changes,
  }
  off = values['optimizer'] == 'none'
  config = configs.read(f'{path}:tiny')
  config.gradinit = {'optimizer': 'none'} if off else values
  return config


@functools.cache
def toy(name, num_devices):
  """(Program, its fresh state, all scaled weights, reports) of a toy family's first stage."""
  config, source = load_data(config_of(name))
  program = make_program(config, jax.devices()[:num_devices], source.class_counts)
  state = program.init(jax.random.key(3), {})
  images = gradinit.batches(program, source, config, histories.begin(3))
  return program, state, *gradinit.learn(program, config, state, images)


def test_weights_keep_their_direction_and_zeros_stay():
  program, state, given, reports = toy('denoiser', 1)
  (of,) = reports.values()
  assert of.zero == ['Conv_0/bias', 'Conv_1/bias'] and set(of.scales) == {
    'Conv_0/kernel', 'Conv_1/kernel'
  }  # fmt: skip
  assert not of.scale_free and of.refused == 0 and min(of.scales.values()) >= 0.01
  assert any(scale != 1 for scale in of.scales.values())
  drawn = trees.flat(state['players']['net']['params'])
  assert given['net'].keys() == drawn.keys()
  for path, x in drawn.items():
    want = np.float32(of.scales.get(path, 1.0)) * np.asarray(x)
    np.testing.assert_array_equal(given['net'][path], want, err_msg=path)
  after = program.init(jax.random.key(3), given)
  for tree in (after['players']['net']['params'], after['ema']):
    for path, x in trees.flat(tree).items():
      np.testing.assert_array_equal(x, given['net'][path], err_msg=path)


@pytest.mark.parametrize('name', ['denoiser', pytest.param('video', marks=pytest.mark.slow)])
def test_four_devices_learn_the_scales_of_one(name):
  """Of three players against a frozen network, too."""
  one, four = (toy(name, num)[-1] for num in (1, 4))
  assert one.keys() == four.keys()
  for who, of in one.items():
    assert of.lowered == four[who].lowered
    np.testing.assert_allclose(of.norm, four[who].norm, rtol=1e-3)
    for path, scale in of.scales.items():
      assert abs(scale - four[who].scales[path]) < 1e-3, (who, path)


def test_players_take_turns_and_see_the_scaled_weights_of_those_before(monkeypatch):
  """The sampled player is the last."""
  config = config_of('video')
  program = make_program(config, jax.devices()[:1])
  state = program.init(jax.random.key(0), {})
  drawn = {name: one['params'] for name, one in state['players'].items()}
  seen = {}

  def halved(program, name, paths, method, steps, state, images):
    seen[name] = {other: one['params'] for other, one in state['players'].items()}
    scales = gradinit.initial(len(paths))
    row = {'norm': 1.0, 'lowered': True, 'finite': True}
    return scales._replace(scales=np.asarray(scales.scales) / 2), [row] * steps

  monkeypatch.setattr(gradinit, 'learn_player', halved)
  gradinit.learn(program, config, state, None)
  assert list(seen) == ['whole', 'small', 'gen']
  for i, now in enumerate(seen.values()):
    for other, params in now.items():
      factor = 0.5 if other in list(seen)[:i] else 1.0
      want = jax.tree.map(lambda x, factor=factor: factor * np.asarray(x), drawn[other])
      jax.tree.map(np.testing.assert_array_equal, params, want)


def test_a_second_time_is_the_same():
  program, state, _, reports = toy('denoiser', 1)
  config, source = load_data(config_of('denoiser'))
  images = gradinit.batches(program, source, config, histories.begin(3))
  assert gradinit.learn(program, config, state, images)[1] == reports


def test_half_of_the_second_batch_is_that_of_the_first():
  images = np.arange(2 * 5).reshape(2, 5, 1)
  found = jax.jit(gradinit.mixed)({'image': images})['image']
  assert found[0, :, 0].tolist() == [0, 6, 2, 8, 4] and found.shape == images.shape
  np.testing.assert_array_equal(found[1], images[1])


# --- what is refused


def test_trained_weights_are_refused():
  config = config_of('denoiser')
  gradinit.check(config)
  config.init_from = '/runs/other'
  with pytest.raises(errors.UserError, match='leave out one of the two'):
    ready.check(config)
  config.gradinit.optimizer = 'none'
  gradinit.check(config)


def test_a_player_with_nothing_to_scale_is_refused(monkeypatch):
  program, *_ = toy('denoiser', 1)
  free = {'net': frozenset({'Conv_0/kernel', 'Conv_1/kernel'})}
  monkeypatch.setattr(gradinit, 'scale_free', lambda program: free)
  with pytest.raises(errors.UserError) as error:
    ready.check_program(program, None, config_of('denoiser'))
  assert 'the player net has nothing to scale' in str(error.value)
  assert 'scale of 2 of its tensors out again, and the other 2 begin at 0' in str(error.value)
  ready.check_program(program, None, config_of('denoiser', optimizer='none'))


# --- a run


def test_a_run_begins_with_them_and_learns_them_once(tmp_path, capsys, monkeypatch):
  """Its step has a learning rate of 0, so that the checkpoint holds what it began with."""
  workdir, config = str(tmp_path / 'run'), config_of('denoiser', steps=2)
  config.run.steps, config.optim.lr = 1, 0.0
  given, learn = {}, gradinit.learn

  def heard(*args):
    weights, reports = learn(*args)
    given.update(weights['net'])
    return weights, reports

  monkeypatch.setattr(gradinit, 'learn', heard)
  loop.train(config, workdir, jax.devices()[:1])
  said = capsys.readouterr().err
  assert 'GradInit of net: gradient norm' in said and 'not scaled, as they begin at 0' in said
  told = files.read_json(f'{workdir}/gradinit.json')
  assert set(told['net']['scales']) == {'Conv_0/kernel', 'Conv_1/kernel'}
  assert all(scale != 1 for scale in told['net']['scales'].values())
  assert (tmp_path / 'run' / 'gradinit.png').stat().st_size > 5000
  saved = checkpoint.restore_part(workdir, 1, lambda path: path.startswith(('players', 'ema')))
  for path, x in given.items():
    for place in ('players/net/params', 'ema'):
      np.testing.assert_array_equal(saved[f'{place}/{path}'], x, err_msg=f'{place}/{path}')
  config.run.steps = 2
  loop.train(config, workdir, jax.devices()[:1])
  said = capsys.readouterr().err
  assert 'resuming at step 1' in said and 'GradInit' not in said
  assert files.read_json(f'{workdir}/gradinit.json') == told


def test_every_tensor_has_its_dot():
  shown = {
    'disc': {'a/kernel': 0.5, 'a/bias': 0.0},
    'gen': {f'l{i}/kernel': 1.0 for i in range(30)},
  }
  figure = plots.scales_figure(shown, 'GradInit')
  for axis, (name, scales) in zip(figure.axes, shown.items(), strict=True):
    assert axis.get_title('left') == f'player {name}'
    assert [label.get_text() for label in axis.get_yticklabels()] == list(scales)
    assert list(axis.get_lines()[-1].get_xdata()) == list(scales.values())
