"""DVD-GAN's game: losses of several critics, what is given and kept, samples, configs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.algorithms import dvdgan
from bigjax.algorithms.base import configs, contract
from bigjax.algorithms.base.player import to_float
from bigjax.core import config as core_config
from bigjax.core import errors, trees

from counts import of_players


def game(name='dvdgan:tiny', **changes):
  flat = {key.replace('__', '.'): value for key, value in changes.items()}
  return dvdgan.make(core_config.changed(configs.read(name), flat))


FEW = {'data__channels': 1, 'optim__batch_size': 4}


def state_of(algorithm):
  """A state about as it is at the start, which nothing is compiled for."""
  draw = np.random.RandomState(0).normal

  def one(path, s):
    if '/bank/frames' in path:
      return jnp.full(s.shape, 128, s.dtype)
    if s.ndim > 1 or '/sn_' in path:
      fan_in = np.prod(s.shape[:-1]) if s.ndim > 1 else s.size
      return jnp.asarray(draw(size=s.shape) / fan_in**0.5, s.dtype)
    return jax.random.key(0) if path == 'key' else jnp.zeros(s.shape, s.dtype)

  return trees.map_paths(one, contract.state_shapes(algorithm))


@pytest.fixture(scope='module')
def predicts():
  """(A game that predicts two frames from one, its state, its stage)."""
  found = game(data__num_classes=2, **FEW)
  return found, state_of(found), found.stages(1)[0][1]


def batch_of(stage, seed=0):
  rng, shapes = np.random.RandomState(seed), stage.shapes()
  return {
    'image': jnp.asarray(rng.randint(0, 256, shapes['image'].shape), jnp.uint8),
    'label': jnp.asarray(rng.randint(0, 2, shapes['label'].shape), jnp.int32),
  }


def test_clips_have_given_frames_first(predicts):
  algorithm, state, stage = predicts
  batch = batch_of(stage)
  of_disc, of_gen = algorithm.examples(state, batch, stage)
  one = jax.tree.map(lambda x: x[0], of_disc)
  weights = algorithm.gen.weights(state['players']['gen'])
  made = jax.jit(algorithm.fakes)(weights, one)
  real = to_float(batch['image'][0])
  assert made.shape == real.shape
  np.testing.assert_allclose(made[:, :1], real[:, :1], atol=1e-6)
  assert np.abs(made[:, 1:] - real[:, 1:]).max((1, 2, 3, 4)).min() > 0.1
  # It goes on with a clip, so that the label is that clip's.
  np.testing.assert_array_equal(of_disc['y'], batch['label'])
  np.testing.assert_array_equal(of_gen['y'], batch['label'][0])


def test_critics_of_frames_never_see_given_ones(predicts):
  algorithm, state, stage = predicts
  weights = algorithm.disc.weights(state['players']['disc'])
  clips = to_float(batch_of(stage)['image'][0])
  y, keys = jnp.zeros((4,), jnp.int32), jax.random.split(jax.random.key(0), 4)
  judge = jax.jit(algorithm.judge)
  found, other = (judge(weights, x, y, keys) for x in (clips, clips.at[:, 0].add(1.0)))
  assert [view.single for view in algorithm.critics.views] == [True, False]
  np.testing.assert_array_equal(found[:, 0], other[:, 0])
  assert np.abs(found[:, 1] - other[:, 1]).min() > 1e-4


def test_losses_add_up_over_critics(predicts):
  """Against scores that are known: 0 of every critic, then constants by their biases."""
  algorithm, _, stage = predicts
  of_disc, of_gen = algorithm.examples(
    {'key': jax.random.key(0), 'step': jnp.int32(0)}, batch_of(stage), stage
  )
  first = jax.tree.map(lambda x: x[0], of_disc)

  @dataclasses.dataclass(frozen=True)
  class Known(dvdgan.DVDGAN):
    """Scores by the mean of the last frame: 2 and -3 times it."""

    def judge(self, weights, clips, y, keys):
      mean = clips[:, -1].mean((1, 2, 3))
      return jnp.stack([2 * mean, -3 * mean], 1)

    def fakes(self, weights, batch):
      return jnp.full((4, *self.clip), 0.25)

  fields = {f.name: getattr(algorithm, f.name) for f in dataclasses.fields(algorithm)}
  known = Known(**fields)
  loss, metrics = known.disc_loss({}, {'gen': {}}, first)
  mean = (np.asarray(first['image'])[:, -1] / 127.5 - 1).mean((1, 2, 3))
  relu = lambda x: np.maximum(x, 0)
  real = [relu(1 - 2 * mean).mean(), relu(1 + 3 * mean).mean()]
  fake = [1 + 0.5, 1 - 0.75]
  assert float(loss) == pytest.approx(sum(real) + sum(fake), rel=1e-5)
  assert float(metrics['d_loss_real']) == pytest.approx(sum(real), rel=1e-5)
  assert float(metrics['d_frames_2_loss']) == pytest.approx(real[0] + fake[0], rel=1e-5)
  assert float(metrics['d_clip_loss']) == pytest.approx(real[1] + fake[1], rel=1e-5)
  assert float(metrics['d_accuracy_fake']) == 0.5
  loss, _ = known.gen_loss({}, {'disc': {}}, of_gen)
  assert float(loss) == pytest.approx(-0.5 + 0.75, rel=1e-5)


def test_the_bank_has_the_newest_clips_first(predicts):
  algorithm, _, stage = predicts
  bank = algorithm.empty_bank()
  assert bank['frames'].shape == (256, 64) and (bank['frames'] == 128).all()
  bank = jax.tree.map(lambda x: x[:4], bank)
  old, new = batch_of(stage, 1), batch_of(stage, 2)
  bank = algorithm.kept(bank, old)
  np.testing.assert_array_equal(bank['frames'], old['image'][0][:, 0].reshape(4, -1))
  small = jax.tree.map(lambda x: x[:, :2], new)
  bank = algorithm.kept(bank, small)
  np.testing.assert_array_equal(bank['frames'][:2], small['image'][0][:, 0].reshape(2, -1))
  np.testing.assert_array_equal(bank['frames'][2:], old['image'][0][:2, 0].reshape(2, -1))
  np.testing.assert_array_equal(bank['label'][:2], small['label'][0])


def test_samples_go_on_with_clips_of_their_label(predicts):
  algorithm, state, stage = predicts
  batch = {**batch_of(stage), 'label': jnp.array([[0, 0, 1, 1]])}
  bank = algorithm.kept(algorithm.empty_bank(), batch)  # most of it is not yet seen
  state = {**state, 'aux': {**state['aux'], 'bank': bank}}
  made = dvdgan.make_generator(algorithm.architecture(stage))
  assert made.shape == (3, 8, 8, 1)
  spec = made.spec({**algorithm.sampling(), 'standing_passes': 1, 'standing_batch': 4})
  gen = made.prepare(algorithm.generator(state, stage), jax.random.key(0), spec)
  z, y = made.latents(jax.random.key(1), 8, spec), jnp.arange(8) % 2
  generate = jax.jit(lambda y: made.generate(gen, z, y, spec))
  samples = generate(y)
  assert samples.shape == (8, 3, 8, 8, 1)
  first = np.rint((np.asarray(samples[:, :1]) + 1) * 127.5).astype(np.uint8)
  of = [[i for i in range(4) if (first[n].ravel() == bank['frames'][i]).all()] for n in range(8)]
  assert all(len(one) == 1 and one[0] // 2 == n % 2 for n, one in enumerate(of))
  assert len({one[0] for one in of}) > 2
  # The part that is given a caller's frames says the same of the same.
  rest = jax.jit(made.predictor.predict)(gen, samples[:, :1], z, y, spec)
  np.testing.assert_allclose(rest, samples[:, 1:], atol=1e-5)
  # On a path, it goes on with one clip all the way.
  path = jax.jit(made.with_noise_of)(gen, z, y, spec, jnp.broadcast_to(z[:1], z.shape))
  assert (path[y == 0][:, :1] == samples[:1, :1]).all()
  # Weights over classes choose, too.
  mixed = generate(jax.nn.one_hot(y, 2))
  np.testing.assert_allclose(mixed, samples, atol=1e-5)
  assert set(made.bare(gen)) == {'params', 'bank'}


def test_a_step_keeps_the_tree_and_fills_the_bank(predicts):
  algorithm, state, stage = predicts
  after, metrics = jax.eval_shape(
    lambda state, batch: algorithm.step(state, batch, stage), state, batch_of(stage)
  )
  same = lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype)
  assert all(jax.tree.leaves(jax.tree.map(same, state, after)))
  assert {'d_loss', 'g_loss', 'd_frames_2_loss', 'd_clip_loss', 'skipped'} <= set(metrics)


def test_without_given_frames_there_is_no_bank():
  algorithm = game(model__num_given=0, **FEW)
  state = contract.state_shapes(algorithm)
  assert set(state['aux']) == {'skipped'}
  made = dvdgan.make_generator(algorithm.architecture(algorithm.stages(1)[0][1]))
  assert made.predictor is None and made.shape == (3, 8, 8, 1)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'data__frames': 0}, r'data.frames is 0, of which'),
    ({'model__num_given': 3}, r'data.frames is 3, of which model.num_given=3 are given'),
    ({'model__critics': ()}, r'model.critics is empty'),
    ({'model__critics': ('clip', 'clip')}, r'with a view that is there twice'),
    ({'model__critics': ('frames:8',)}, r'frames:8, but 2 frames of a clip are generated'),
    ({'model__critics': ('clip/2',)}, r'clip/2, which is 4 px of 8'),
    ({'model__critics': ('clip/3',)}, r'clip/3, and 3 does not divide the 8 px'),
    ({'model__fake_labels': 'data'}, r'model.fake_labels is data, but with model.num_given=1'),
    ({'model__critics': ('clips',)}, r"model.critics has 'clips'; give words"),
    ({'data__resolution': 24}, r'data.resolution is 24; dvdgan has networks for 8, 16'),
  ],
)
def test_what_does_not_fit_is_refused(changes, message):
  with pytest.raises(errors.UserError, match=message):
    game(**changes)


def test_keys_of_the_warp_are_of_units_that_warp():
  assert 'warp_size' not in configs.read('dvdgan').model
  assert configs.read('trivdgan').model.warp_size == 3


def test_networks_of_the_configs_have_their_sizes():
  """Numbers of parameters as they were when the networks were read against the papers."""
  assert of_players(game('trivdgan')) == (410_453_535, 20_994_562)
  assert of_players(game('dvdgan')) == (310_904_131, 236_336_642)


def test_every_matrix_but_the_shared_embedding_is_normalised():
  state = contract.state_shapes(game('trivdgan:tiny'))
  for name, player in state['players'].items():
    vectors = {
      path.partition('/sn_v/')[2] for path in trees.flat(player['opt']) if '/sn_v/' in path
    }
    kernels = {path for path, w in trees.flat(player['params']).items() if w.ndim > 1}
    assert kernels - vectors == ({'shared/embedding'} if name == 'gen' else set())
