"""Projected GAN's game: what is frozen, what discriminators are shown, losses, rates, configs."""

import dataclasses
import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax import data
from bigjax.algorithms import projected_gan
from bigjax.algorithms.base import configs
from bigjax.core import checkpoint, errors, trees
from bigjax.core import config as core_config
from bigjax.models.pretrained import registry, taps
from bigjax.nn.augment import diffaugment
from bigjax.nn.augment.blur import FadingBlur, no_blur
from bigjax.training import ready, workdir
from bigjax.training.program import make_program

from counts import of_players


def tiny(name='projected_gan:tiny', **changes):
  flat = {key.replace('__', '.'): value for key, value in changes.items()}
  return core_config.changed(configs.read(name), flat)


class FourTaps(nn.Module):
  """A network of seconds in the place of EfficientNet: pixels at four scales, squared."""

  @nn.compact
  def __call__(self, images):
    scale = self.param('scale', nn.initializers.ones, (), jnp.float32)
    found = []
    for stride in (4, 8, 16, 32):
      b, h, w, c = images.shape
      x = images.reshape(b, h // stride, stride, w // stride, stride, c).mean((2, 4)) / 127.5 - 1
      found.append(scale * jnp.concatenate([x, jnp.square(x)], -1))
    return {'taps': tuple(found)}


@dataclasses.dataclass(frozen=True)
class StandIn(projected_gan.Critic):
  """A critic whose network is FourTaps."""

  @property
  def tapped(self):
    variables = {'params': {'scale': np.ones((), np.float32)}}
    return taps.Tapped('four_taps', '0' * 16, '', variables)


def light(config):
  """(The game of a config with a stand-in for its network, its stage)."""
  algorithm = projected_gan.make(config)
  fields = {f.name: getattr(algorithm.critic, f.name) for f in dataclasses.fields(algorithm.critic)}
  critic = StandIn(**{**fields, 'trunk': FourTaps()})
  algorithm = dataclasses.replace(algorithm, critic=critic)
  return algorithm, algorithm.stages(4)[0][1]


def batch_of(stage, seed=0):
  rng = np.random.RandomState(seed)
  shapes = {name: x.shape for name, x in stage.shapes().items()}
  return {
    'image': rng.randint(0, 256, shapes['image']).astype(np.uint8),
    'label': np.zeros(shapes['label'], np.int32),
  }


def state_of(algorithm):
  """A state about as it is at the start, which nothing is compiled for."""
  rng = np.random.RandomState(0)

  def one(path, s):
    if path.endswith(('kernel', 'const', 'embedding')) and ('/opt/' not in path or '/sn_' in path):
      return (rng.normal(size=s.shape) / max(np.prod(s.shape[:-1]), 1) ** 0.5).astype(s.dtype)
    return np.full(s.shape, path.endswith(('gain', 'scale')), s.dtype)

  shapes = dict(jax.eval_shape(algorithm.init, jax.random.key(0)))
  del shapes['key']
  return trees.map_paths(one, shapes) | {'key': jax.random.key(0)}


def looks(algorithm, stage, state, batch):
  """Scores of the generator's fakes, the discriminators' and the reals; what their loss says."""
  players = state['players']
  of_gen, of_disc = algorithm.examples(state, batch, stage)
  gen, disc = algorithm.gen.weights(players['gen']), algorithm.disc.weights(players['disc'])
  shared = algorithm.shared(state, stage)
  judge = lambda images, keys, y: algorithm.score(disc, algorithm.maps(shared, keys, images), y)
  fakes = [
    judge(algorithm.synthesis.images(gen, b['z'], b['y'], b['keys']), b['keys'], b['y'])
    for b in (of_gen, of_disc)
  ]
  real = of_disc['image'].astype(jnp.float32) / 127.5 - 1
  told = algorithm.losses(state, batch, stage)['disc'](players['disc']['params'])[1]
  return *fakes, judge(real, of_disc['keys_real'], of_disc['label']), told


@functools.cache
def program():
  """The program of a game with the stand-in, at 8 px, which is compiled once."""
  # Of the two FastGANs the one with fewer layers to compile; tests/contract runs the other.
  config = tiny('projected_gan:fastgan_lite256,tiny', data__resolution=8)
  algorithm, _ = light(config)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(projected_gan, 'make', lambda *_: algorithm)
    return make_program(config, jax.devices()[:1])


@functools.cache
def one_step():
  """(Game, state, state after a step, metrics, looks)."""
  algorithm, stage = program().algorithm, program().stage(0)
  state, batch = state_of(algorithm), batch_of(stage)
  seen = jax.jit(lambda state, batch: looks(algorithm, stage, state, batch))(state, batch)
  after = program().step(state_of(algorithm), batch)  # the state that is given is donated
  return algorithm, state, *jax.device_get((*after, seen))


# --- What is frozen


def test_nobody_trains_averages_or_keeps_what_is_frozen():
  """pg2-01."""
  algorithm, state, after, *_ = one_step()
  assert trees.flat(state['frozen'])
  for path, leaf in trees.flat(state['frozen']).items():
    np.testing.assert_array_equal(trees.flat(after['frozen'])[path], leaf, err_msg=path)
  assert set(state['frozen']) == {'features', 'projection'}
  for tree in (state['players'], state['ema'], state['aux']):
    assert not [path for path in trees.flat(tree) if 'ccm' in path or 'csm' in path]
  gen = jax.eval_shape(lambda state: algorithm.generator(state, None), state)
  assert set(gen) == {'params'}


def test_frozen_weights_are_those_of_the_network_that_the_config_names():
  algorithm = projected_gan.make(tiny())
  network = registry.load('efficientnet_lite0_random')
  frozen = jax.eval_shape(algorithm.critic.frozen)
  whole = trees.flat(network.variables)
  for path, leaf in trees.flat(frozen['features']).items():
    assert leaf.shape == whole[path].shape
  told = algorithm.frozen_card()['critic']
  assert told == {
    'features': 'efficientnet_lite0_random', 'digest': network.digest, 'licence': '', 'side': 64,
  }  # fmt: skip


def test_missing_weights_are_refused_before_anything_is_compiled(monkeypatch):
  def missing(name, path):
    assert (name, path) == ('efficientnet_lite0', '/nowhere/weights.pth')
    raise errors.UserError('there are no weights.')

  config = tiny(model__features='efficientnet_lite0', run__features_file='/nowhere/weights.pth')
  algorithm = projected_gan.make(config)  # a config can be looked at without them
  monkeypatch.setattr(taps, 'load', missing)
  with pytest.raises(errors.UserError, match='there are no weights'):
    jax.eval_shape(algorithm.init, jax.random.key(0))
  config.data.update(source='synthetic')
  program = make_program(config)  # as for `plan` and `--dry_run`: shapes need none
  ready.check_program(program, None, config)
  assert 'features/params/_conv_stem/kernel' in trees.flat(program.shapes()['frozen'])
  with pytest.raises(errors.UserError, match='there are no weights'):
    ready.make_ready(config, data.load(config.data), None)


def test_where_the_weights_lie_is_no_part_of_a_runs_identity():
  hashes = {configs.config_hash(tiny(run__features_file=path)) for path in ('', '/a.pth')}
  assert len(hashes) == 1
  assert configs.config_hash(tiny(model__features='efficientnet_lite0')) not in hashes


def test_the_projection_does_not_follow_from_jaxs_generator_of_numbers():
  algorithm, _ = light(tiny())
  want = trees.flat(algorithm.critic.frozen()['projection'])
  with jax.default_prng_impl('rbg'):
    found = trees.flat(algorithm.critic.frozen()['projection'])
  for path, leaf in want.items():
    np.testing.assert_array_equal(found[path], leaf, err_msg=path)


def test_resuming_equals_going_on_and_needs_the_same_frozen_weights(tmp_path):
  """Bit for bit, with what is frozen made anew: no checkpoint has it."""
  start = program().init(jax.random.key(0), {})
  frozen = jax.tree.map(np.array, start['frozen'])
  checkpoints = checkpoint.Checkpoints(str(tmp_path))

  def go_on(state, first):
    rows = []
    for step in range(first, 3):
      state, metrics = program().step(state, batch_of(program().stage(step), step), step)
      rows.append(jax.device_get(metrics))
      if step == 0:
        meta = {'config_hash': 'ours', 'frozen': workdir.frozen_digest(state)}
        checkpoints.save(1, workdir.thawed(state), {'w': np.zeros(1)}, meta)
        checkpoints.close()
    return {**state, 'key': jax.random.key_data(state['key'])}, rows[-2:]

  whole = go_on(start, 0)
  checkpoints = checkpoint.Checkpoints(str(tmp_path))
  state, step = workdir.restore(program(), checkpoints, 'ours', print)
  assert step == 1
  for path, leaf in trees.flat(state['frozen']).items():
    np.testing.assert_array_equal(leaf, trees.flat(frozen)[path], err_msg=path)
  for ours, theirs in zip(go_on(state, 1), whole, strict=True):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)

  frozen['projection']['layer0_csm']['bias'] = frozen['projection']['layer0_csm']['bias'] + 1e-6
  other = dataclasses.replace(program(), init=lambda *_: {'frozen': frozen})
  with pytest.raises(errors.UserError, match='trained with other frozen weights'):
    workdir.restore(other, checkpoints, 'ours', print)


# --- What discriminators are shown


def test_images_are_blurred_then_augmented_then_enlarged():
  """At their own resolution both, and in either player's step; reals and fakes by other keys."""
  algorithm, stage = light(tiny(data__channels=1))
  seen = []

  def note(what):
    return lambda *args: (seen.append((what, [x.shape for x in args[:2]])), args[what == 'aug'])[1]

  def looks(variables, images):
    seen.append(('features', images.shape))
    return FourTaps().apply(variables, images)

  algorithm = dataclasses.replace(
    algorithm, blur=note('blur'), augment=note('aug'),
    critic=dataclasses.replace(algorithm.critic, trunk=types.SimpleNamespace(apply=looks)),
  )  # fmt: skip
  state = jax.eval_shape(algorithm.init, jax.random.key(0))
  seen.clear()
  jax.eval_shape(lambda s, b: algorithm.step(s, b, stage)[1], state, batch_of(stage))
  of = lambda num: [
    ('blur', [(num, 16, 16, 1), ()]), ('aug', [(num,), (num, 16, 16, 1)]),
    ('features', (num, 64, 64, 3)),
  ]  # fmt: skip
  assert seen == of(8) + of(16)  # fakes; then reals and fakes


def test_the_policy_is_diffaugments_with_a_smaller_square():
  algorithm = projected_gan.make(tiny('projected_gan'))
  assert algorithm.augment == diffaugment.policy('color,translation,cutout', 0.2)
  assert diffaugment._size(256, algorithm.augment.cutout_ratio) == 51
  assert algorithm.blur is no_blur


def test_blur_is_the_official_filter_and_fades():
  images = np.zeros((1, 21, 21, 1), np.float32)
  images[0, 10, 10] = 1
  blur = jax.jit(FadingBlur(2.0, 1000.0))
  for seen, sigma in ((0, 2.0), (450, 1.1), (900, 0.2), (1000, 0), (5000, 0)):
    size = int(3 * sigma)
    taps = 2.0 ** -((np.arange(-size, size + 1) / max(sigma, 1e-6)) ** 2)
    want = np.zeros((21, 21))
    want[10 - size : 11 + size, 10 - size : 11 + size] = np.outer(taps, taps) / taps.sum() ** 2
    found = blur(images, jnp.float32(seen))
    np.testing.assert_allclose(found[0, ..., 0], want, atol=1e-6)
  border = blur(np.ones((1, 21, 21, 1), np.float32), jnp.float32(0))[0, ..., 0]
  assert border[10, 10] == pytest.approx(1, abs=1e-6) and border[0, 10] < 0.8  # zeros beyond


# --- Losses and rates


def test_the_losses_are_means_over_all_scores():
  """pg2-04: hinge, of images and scores alike, BatchNorm seeing reals and fakes apart."""
  _, _, _, metrics, (of_gen, fake, real, told) = one_step()
  assert of_gen.shape == fake.shape == real.shape == (8, 3 * 25 + 1)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4)
  close(metrics['g_loss'], -np.mean(of_gen), atol=1e-6)
  close(metrics['d_loss'], metrics['d_loss_real'] + metrics['d_loss_fake'])
  close(told['d_loss_fake'], np.maximum(1 + fake, 0).mean())
  close(told['d_loss_real'], np.maximum(1 - real, 0).mean())


def test_rates_are_the_official_ones():
  opt = configs.read('projected_gan').optim
  assert opt.gen_lr == 2e-4 and opt.disc_lr == pytest.approx(1.88235e-4, rel=1e-5)
  assert opt.gen_b2 == 0.99 and opt.disc_b2 == pytest.approx(0.99 ** (16 / 17))
  ema = projected_gan.make(configs.read('projected_gan')).ema
  assert float(ema(jnp.int32(0), 64)) == 0  # a copy at first
  assert float(ema(jnp.int32(10**6), 64)) == pytest.approx(0.5 ** (64 / 20_000))


def test_stylegan2_carries_its_average_w():
  algorithm, stage = light(tiny('projected_gan:stylegan2_256,tiny', data__resolution=8))
  state = state_of(algorithm)

  @jax.jit
  def run(state, batch):  # what moves is not asked for: that is compiled above
    after, metrics = algorithm.step(state, batch, stage)
    return after['aux']['w_avg'], metrics

  w_avg, metrics = run(state, batch_of(stage))
  assert set(algorithm.synthesis.start()) == {'w_avg'}
  assert not np.any(state['aux']['w_avg']) and np.any(w_avg)
  gen = jax.eval_shape(lambda state: algorithm.generator(state, None), state)
  assert set(gen) == {'params', 'w_avg'}
  generator = projected_gan.make_generator(algorithm.architecture(None))
  spec = lambda psi: generator.spec({}, {'truncation': psi})
  shown = lambda psi: jax.eval_shape(
    lambda gen: generator.generate(gen, jnp.ones((2, 16)), jnp.zeros(2, jnp.int32), spec(psi)), gen
  )
  assert shown('0.5').shape == (2, 8, 8, 3)
  assert all(np.isfinite(value) for value in metrics.values())


# --- Configs


@pytest.mark.parametrize(
  ('variant', 'counts'),
  [
    ('fastgan256', (105_684_175, 10_331_328)),
    ('fastgan_lite256', (79_354_307, 10_331_328)),
    ('fastgan1024', (105_884_483, 10_331_328)),
    ('stylegan2_256', (24_615_586, 696_512)),
  ],
)
def test_configs_have_the_official_numbers_of_parameters(variant, counts):
  config = tiny(f'projected_gan:{variant}', model__features='efficientnet_lite0_random')
  assert of_players(light(config)[0]) == counts


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'model__features_side': 0}, '16 px'),
    ({'model__features_side': 100}, '100 px'),
    ({'data__channels': 2}, 'data.channels is 2; .* give 3, or 1 for grey'),
    ({'data__resolution': 48, 'model__features_side': 64}, 'FastGAN has networks for 8, 16'),
  ],
)
def test_sizes_that_do_not_fit_are_refused(changes, words):
  with pytest.raises(errors.UserError, match=words):
    projected_gan.make(tiny(**changes))
