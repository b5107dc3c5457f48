"""StyleGAN's game: growth, mixed styles, the average w, sampling, Table 1, runs that resume."""

import functools
import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.algorithms import stylegan
from bigjax.algorithms.base import configs, contract, truncation
from bigjax.core import config as core_config
from bigjax.core import errors, trees
from bigjax.sampling import stablehlo
from bigjax.sampling.loaded import Loaded
from bigjax.sampling.sampler import from_card
from bigjax.training import loop, ready
from bigjax.training.program import make_program

from counts import of_players
from networks import latents, weights


def tiny(name='stylegan:tiny', **changes):
  flat = {key.replace('__', '.'): value for key, value in changes.items()}
  return core_config.changed(configs.read(name), flat)


def batch_of(stage, seed=0):
  rng = np.random.RandomState(seed)
  image, label = (stage.shapes()[name].shape for name in ('image', 'label'))
  return {
    'image': rng.randint(0, 256, image).astype(np.uint8),
    'label': rng.randint(0, 10, label).astype(np.int32),
  }


def synthetic(**changes):
  """A tiny run of two stages, of the classes that synthetic data has; few layers to compile."""
  changes = {'model__mapping_layers': 2, **changes}
  return tiny(data__source='synthetic:80', data__num_classes=10, **changes)


# --- runs


@pytest.fixture(scope='module')
def program():
  return make_program(synthetic(), jax.devices()[:1])


@pytest.fixture(scope='module')
def states(program):
  """(Program, states before each of the four steps and after the last, as NumPy, metrics)."""
  state, found, metrics = program.init(jax.random.key(0), {}), [], []
  kept = lambda state: jax.tree.map(np.array, {k: state[k] for k in ('players', 'aux')})
  for step in range(4):
    found.append(kept(state))
    state, said = program.step(state, batch_of(program.stage(step), step), step)
    metrics.append(jax.device_get(said))
  return program, [*found, kept(state)], metrics


def test_the_stages_of_a_tiny_run(states):
  program, found, metrics = states
  assert [(first, stage.image[0]) for first, stage in program.stages] == [(0, 4), (1, 8)]
  assert [float(row['fade']) for row in metrics] == [1, 0, 0.5, 1]
  assert all(np.isfinite(list(row.values())).all() for row in metrics)
  averages = [state['aux']['w_avg'] for state in found]
  assert not averages[0].any() and all((a != b).all() for a, b in itertools.pairwise(averages))


def test_what_moves_in_a_stage_and_what_begins_anew(states):
  """At 4 px the blocks of 8 px stay bit for bit; moments are new at both ends of the fade."""
  _, found, _ = states
  for player, new in (('gen', ('8x8/', 'ToRGB_lod0/')), ('disc', ('8x8/', 'FromRGB_lod0/'))):
    flat = [trees.flat(state['players'][player]) for state in found]
    idle = [path for path in flat[0] if any(name in path for name in new)]
    assert idle
    for path in idle:
      np.testing.assert_array_equal(flat[0][path], flat[1][path], err_msg=path)
    kernels = [p for p in flat[0] if p.startswith('params') and p.endswith('kernel')]
    assert all((flat[2][p] != flat[3][p]).any() for p in kernels)
    counts = [{int(x) for p, x in of.items() if p.endswith('count')} for of in flat[1:]]
    assert counts == [{1}, {1}, {2}, {1}]


@pytest.mark.usefixtures('no_pictures')
def test_resuming_in_a_fade_equals_going_on(tmp_path, program, monkeypatch):
  """With the average w and what Adam begins anew; to the last bit."""
  monkeypatch.setattr(ready, 'make_program', lambda *_: program)  # compiled for the tests above
  config = synthetic(run__keep=9, run__checkpoint_every=1, run__eval_every=0)
  whole, other = tmp_path / 'whole', tmp_path / 'resumed'
  loop.train(config, str(whole), jax.devices()[:1])
  shutil.copytree(whole, other)
  for step in (3, 4):
    shutil.rmtree(other / 'checkpoints' / str(step))
  loop.train(config, str(other), jax.devices()[:1])
  assert (other / 'metrics.jsonl').read_bytes() == (whole / 'metrics.jsonl').read_bytes()
  for name in ('generator.safetensors', 'generator.json'):
    ours, theirs = ((path / 'export' / name).read_bytes() for path in (other, whole))
    assert ours == theirs, name
  rows = [json.loads(line) for line in (whole / 'metrics.jsonl').read_text().splitlines()]
  assert [row['fade'] for row in rows if 'fade' in row] == [1, 0, 0.5, 1]


# --- styles


@functools.cache
def made(name='stylegan:tiny', **changes):
  """(Algorithm, its last stage, weights of a generator)."""
  algorithm = stylegan.make(tiny(name, model__mapping_layers=2, **changes))
  shapes = jax.eval_shape(algorithm.init, jax.random.key(0))['players']['gen']['params']
  return algorithm, algorithm.stages(4)[-1][1], weights(shapes)


def test_where_styles_are_mixed():
  """At one layer of those in use for a whole minibatch; as often as asked; or there is no z2."""
  algorithm, stage, _ = made(optim__style_mixing=1.0)
  drawn = jax.jit(lambda key, stage: algorithm.fresh(key, (64, 8), stage), static_argnums=1)
  for level, cutoffs in ((stage, {1, 2, 3}), (algorithm.stages(4)[0][1], {1})):
    found = np.asarray(drawn(jax.random.key(0), level)['cutoff'])
    assert (found == found[:, :1]).all() and set(found[:, 0]) == cutoffs
  z, z2 = (drawn(jax.random.key(0), stage)[name] for name in ('z', 'z2'))
  assert not np.any(z == z2)
  plain, stage, _ = made(optim__style_mixing=0.0)
  shapes = jax.eval_shape(lambda key: plain.fresh(key, (2, 8), stage), jax.random.key(0))
  assert set(shapes) == {'z', 'y', 'keys'}


def test_images_of_mixed_styles():
  algorithm, stage, params = made()
  z, z2, y = latents(4, 16), latents(4, 16, seed=1), np.zeros(4, np.int32)
  keys = jax.random.split(jax.random.key(0), 4)

  @jax.jit
  def images(z, z2, cutoff):
    batch = {'z': z, 'z2': z2, 'y': y, 'keys': keys, 'cutoff': jnp.full(4, cutoff)}
    return algorithm.images(params, batch, stage, jnp.float32(1))

  own, other = images(z, z2, 4), images(z2, z, 4)
  np.testing.assert_array_equal(images(z, z2, 0), other)
  for cutoff in (1, 2, 3):
    mixed = images(z, z2, cutoff)
    assert np.abs(mixed - own).max() > 1e-3 and np.abs(mixed - other).max() > 1e-3
    np.testing.assert_array_equal(mixed, images(z, z2, cutoff))


def test_the_average_w_follows_the_latents_of_both_players():
  """In the order of the official code, the discriminator's first; not those that are mixed in."""
  algorithm, stage, params = made(optim__d_steps=2)

  @jax.jit
  def run(w_avg, state, batch):
    of_disc, of_gen = algorithm.examples(state, batch, stage)
    w = lambda z, y: algorithm.gen_net.apply({'params': params}, z, y, method='w').mean(0)
    means = [*(w(of_disc['z'][i], of_disc['y'][i]) for i in range(2)), w(of_gen['z'], of_gen['y'])]
    w_avg = truncation.averaged_over_step(w_avg, algorithm.w, params, of_disc, of_gen)
    return w_avg, means

  batch = batch_of(stage)
  batch['label'] *= 0
  start = np.ones(16, np.float32)
  found, means = run(start, {'key': jax.random.key(0), 'step': jnp.int32(3)}, batch)
  want = functools.reduce(lambda old, new: 0.995 * old + 0.005 * np.asarray(new), means, start)
  np.testing.assert_allclose(found, want, rtol=1e-5)
  assert np.abs(found - start).max() > 1e-4


def test_weights_count_for_half_after_so_many_images():
  algorithm = stylegan.make(configs.read('stylegan'))
  decay = jax.jit(algorithm.ema, static_argnums=1)
  np.testing.assert_allclose(decay(np.int32(0), 32), 0.9977844, rtol=1e-6)
  np.testing.assert_allclose(decay(np.int32(9), 256) ** (10_000 / 256), 0.5, rtol=1e-4)


# --- sampling


@pytest.fixture(scope='module')
def sampled():
  """(Generator, words -> images) of random weights with noise in them and an average w."""
  algorithm, stage, params = made()
  generator = stylegan.make_generator(algorithm.architecture(stage))
  gen = {'params': params, 'w_avg': jnp.ones(16), 'alpha': jnp.float32(1)}
  z = generator.latents(jax.random.key(1), 3, generator.spec({}))
  run = jax.jit(generator.generate)

  def images(start=0, **words):
    given = z[start:], np.zeros(3 - start, np.int32)
    return np.asarray(run(gen, *given, generator.spec({}, words)))

  return generator, images


def test_truncation_is_towards_the_average_w(sampled):
  generator, images = sampled
  assert generator.shape == (8, 8, 3) and generator.latent_shape == (16,)
  plain = images()
  np.testing.assert_array_equal(plain, images(truncation='1'))
  assert generator.spec({}).psi == 1  # as scores have it
  average = images(truncation='0', noise='const')
  np.testing.assert_array_equal(average, average[:1].repeat(3, 0))
  some = images(truncation='0:1', noise='const')
  assert np.abs(some - average).max() > 1e-3 and np.abs(some - images(noise='const')).max() > 1e-3


def test_noise_is_of_each_sample_or_of_all_or_none(sampled):
  _, images = sampled
  differ = lambda a, b: np.abs(a - b).max() > 1e-3
  average = {noise: images(truncation='0', noise=noise) for noise in ('random', 'const', 'none')}
  assert differ(average['random'][0], average['random'][1])
  assert differ(average['const'], average['none'])
  np.testing.assert_array_equal(average['none'], average['none'][:1].repeat(3, 0))
  np.testing.assert_allclose(images(1), images()[1:], rtol=1e-5, atol=1e-5)  # alone it is the same


def test_an_exported_program_takes_psi():
  """One program makes the images of every truncation; its card says how."""
  export = pytest.importorskip('jax.export')
  pytest.importorskip('flatbuffers')
  algorithm, stage, params = made()
  card = {
    'algorithm': 'stylegan', 'architecture': algorithm.architecture(stage), 'sampling': {},
    'class_names': list('0123456789'),
  }  # fmt: skip
  gen = {'params': params, 'w_avg': jnp.ones(16), 'alpha': jnp.float32(1)}
  sampler, gen, card = from_card(gen, card, jax.devices()[:1])
  generator = Loaded(sampler, gen, card)
  z, y = sampler.latents(0, 3, generator.spec()), np.zeros(3, np.int32)
  program = export.deserialize(stablehlo.program(generator, generator.spec()))
  run = jax.jit(program.call)
  made_at = {psi: np.asarray(run(z, y, np.float32(psi))).astype(int) for psi in (1, 0.5)}
  for psi, images in made_at.items():
    assert np.abs(images - generator.images(z, y, generator.spec(psi))).max() <= 1
  assert np.abs(made_at[1] - made_at[0.5]).max() > 3
  card = stablehlo.program_card(generator, generator.spec('0.7:2'), False, 'x.stablehlo')
  assert set(card['inputs']) == {'z', 'y', 'psi'}
  assert 'images = np.asarray(jax.jit(program.call)(z, y, np.float32(0.7)))' in card['use'][-1]


def test_rows_have_the_options_of_what_they_have():
  options = {}
  for row in ('f', 'd', 'b'):
    algorithm = stylegan.make(tiny(f'stylegan:{row},tiny'))
    generator = stylegan.make_generator(algorithm.architecture(algorithm.stages(1)[0][1]))
    options[row] = set(generator.options)
  assert options == {'f': {'truncation', 'noise'}, 'd': {'truncation'}, 'b': set()}
  with pytest.raises(errors.UserError, match="no sampling option 'truncation'"):
    generator.spec({}, {'truncation': '0.5'})


# --- configs


# What each row of Table 1 switches of the one after it.
SWITCHES = [
  ('f', 'e', {'optim.style_mixing'}),
  ('e', 'd', {'model.noisy'}),
  ('d', 'c', {'model.constant'}),
  ('c', 'b', {'model.styled', 'model.mapping_layers'}),
  ('b', 'a', {
    'model.blurred', 'model.first_resolution', 'run.steps', 'optim.loss', 'optim.r1_gamma',
    'optim.gp_weight', 'optim.drift',
  }),
]  # fmt: skip


@pytest.mark.parametrize(('after', 'before', 'want'), SWITCHES)
def test_rows_of_table_1_switch_what_the_table_switches(after, before, want):
  rows = [core_config.flat(configs.read(f'stylegan:{row}')) for row in (after, before)]
  assert {key for key in rows[0] if rows[0][key] != rows[1][key]} == want
  # On CelebA-HQ the loss is WGAN-GP in every row.
  rows = [core_config.flat(configs.read(f'stylegan:celeba_hq,{row}')) for row in (after, before)]
  loss = {'optim.loss', 'optim.r1_gamma', 'optim.gp_weight', 'optim.drift'}
  changed = {key for key in rows[0] if rows[0][key] != rows[1][key]}
  assert changed == want - loss | ({'optim.lr_at'} if before == 'a' else set())


CONFIGS = {
  'ffhq': (26_219_627, 25, 8, 0.003),
  'celeba_hq': (26_219_627, 25, 8, 0.002),
  'd': (26_214_539, 25, 8, 0.003),
  'b': (23_079_115, 25, 8, 0.003),
  'a': (23_079_115, 12, 4, 0.003),
  'celeba_hq,a': (23_079_115, 12, 4, 0.003),
}


@pytest.mark.parametrize('name', CONFIGS)
def test_configs_have_the_official_sizes_and_lengths(name):
  gen, million, first, last_rate = CONFIGS[name]
  config = configs.read(f'stylegan:{name}')
  algorithm = stylegan.make(config)
  assert of_players(algorithm) == (gen, 23_087_249)
  stages = algorithm.stages(config.run.steps)
  assert contract.position_at(stages, config.run.steps) == million * 10**6
  assert stages[0][1].image[0] == first and stages[-1][1].lr == last_rate
  assert {stage.image[0]: stage.examples for _, stage in stages[-6:]} == {
    32: 64, 64: 32, 128: 32, 256: 32, 512: 32, 1024: 32,
  }  # fmt: skip


@pytest.mark.parametrize(
  ('name', 'terms'),
  [
    ('tiny', {'d_r1'}),
    ('celeba_hq,tiny', {'d_gp', 'd_drift'}),
  ],
)
def test_losses_of_the_published_games(name, terms):
  algorithm = stylegan.make(tiny(f'stylegan:{name}'))
  (_, stage), *_ = algorithm.stages(4)
  state = jax.eval_shape(algorithm.init, jax.random.key(0))
  step = lambda state, batch: algorithm.step(state, batch, stage)[1]
  metrics = jax.eval_shape(step, state, batch_of(stage))
  assert {key for key in metrics if key in ('d_r1', 'd_gp', 'd_drift')} == terms
  assert ('d_accuracy_real' in metrics) == (terms == {'d_r1'})  # signs mean something
  assert [float(term(2.0)) for _, term in algorithm.score_terms] == (
    [pytest.approx(0.004)] if 'd_drift' in terms else []
  )


def test_settings_that_mean_nothing_together():
  with pytest.raises(errors.UserError, match='of a generator without styles'):
    stylegan.make(tiny('stylegan:b,tiny', optim__style_mixing=0.5))
  with pytest.raises(errors.UserError, match=r'model\.first_resolution is 16, above'):
    stylegan.make(tiny(model__first_resolution=16))
