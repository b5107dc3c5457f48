"""Cascades: what each stage is given, noise that is added or left in, misfits, one file of all."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.algorithms import diffusion
from bigjax.algorithms.base import configs, contract
from bigjax.algorithms.compositions import cascade
from bigjax.algorithms.compositions.cascade import Cascade
from bigjax.core import config as core_config
from bigjax.core import errors
from bigjax.nn.diffusion.tables import Tables
from bigjax.sampling import generator_file
from bigjax.sampling.loaded import load
from bigjax.sampling.sampler import from_card

import plain_unets
from plain_unets import CARD, PARAMS


@dataclasses.dataclass(frozen=True)
class Flat(contract.PlainGenerator):
  """A GAN of its own latents, with statistics to measure: grey images, brighter by their label."""

  shape: tuple[int, ...] = (4, 4, 3)
  latent_shape: tuple[int, ...] = (2,)
  num_classes: int = 5
  seen: list = dataclasses.field(default_factory=list, hash=False, compare=False)
  options = {'truncation': 'none'}  # noqa: RUF012

  def prepared(self, sampling):
    return [contract.NoChoice()]

  def prepare(self, gen, key, spec):
    return {**gen, 'measured': jnp.float32(1)}

  def bare(self, gen):
    return {'params': gen['params']}

  def provenance(self, gen, spec, sampling):
    return 'measured' in gen, 'of Flat'

  def generate(self, gen, z, y, spec):
    self.seen.append(y)
    grey = jnp.tanh(z.sum(1))[:, None, None, None] * gen['params'] + y[:, None, None, None] / 20
    return jnp.broadcast_to(grey, (len(z), *self.shape))


GENS = {'0': PARAMS, '1': PARAMS, '2': PARAMS}


def made(base=None, *enlargers):
  enlargers = enlargers or (plain_unets.upsampler(4), plain_unets.upsampler(8))
  return Cascade((base or plain_unets.base(4), *enlargers))


def sampling_of(generator, **options):
  return {'stages': [CARD] * len(generator.stages), 'options': options}


def spec_of(generator, given=None, **options):
  return generator.spec(sampling_of(generator, **options), given)


def samples(generator, spec, num=4, gen=GENS):
  z = generator.latents(jax.random.key(0), num, spec)
  return np.asarray(generator.generate(gen, z, jnp.arange(num) % 5, spec))


# --- What stages are given


def test_latents_are_those_of_all_stages_the_base_alone_first():
  generator = made()
  spec = spec_of(generator)
  assert generator.shape == (16, 16, 3) and generator.latent_shape == (48 + 192 + 768,)
  z = generator.latents(jax.random.key(3), 4, spec)
  base, first, second = generator.split(z)
  assert (base.shape, first.shape, second.shape) == ((4, 4, 4, 3), (4, 8, 8, 3), (4, 16, 16, 3))
  alone = generator.stages[0].latents(jax.random.key(3), 4, spec.parts[0])
  np.testing.assert_array_equal(base, alone)
  np.testing.assert_array_equal(generator.latents(jax.random.key(3), 2, spec, 2), z[2:])
  rest = np.asarray(z[:, 48:])
  assert abs(rest.mean()) < 0.05 and abs(rest.std() - 1) < 0.05
  assert len(np.unique(z)) == z.size  # no two stages share any
  scope = {}
  exec(generator.recipe(spec), scope)
  np.testing.assert_array_equal(scope['latents'](3, 4), z)


def test_all_stages_are_given_the_same_labels_and_the_images_before():
  base = Flat()
  generator = made(base, plain_unets.upsampler(4, augmentation='blur'))
  gen = {'0': base.prepare(PARAMS, None, None), '1': PARAMS}
  spec = spec_of(generator)
  z, y = generator.latents(jax.random.key(0), 5, spec), jnp.array([4, 0, 3, 1, 2])
  images = generator.generate(gen, z, y, spec)
  (told,) = generator.stages[1].teller.net.seen
  assert base.seen[0] is y and told['y'] is y
  small = base.generate(gen['0'], z[:, :2], y, None)
  np.testing.assert_array_equal(told['low'], small)
  want = 0.25 + y[:, None, None, None] / 10 + small[:, :1, :1] / 10
  np.testing.assert_allclose(images, jnp.broadcast_to(want, images.shape), atol=1e-5)


def test_samples_do_not_depend_on_their_batch():
  generator = made()
  spec = spec_of(generator, {'augmentation': '5', 'conditioning': 'truncated'})
  np.testing.assert_allclose(samples(generator, spec, 2), samples(generator, spec)[:2], atol=1e-5)


def test_noise_of_other_latents():
  """As along a path in z."""
  generator = made()
  spec = spec_of(generator, {'augmentation': '5'})
  z = generator.latents(jax.random.key(0), 2, spec)
  y, run = jnp.zeros(2, jnp.int32), generator.with_noise_of
  plain = generator.generate(GENS, z, y, spec)
  np.testing.assert_array_equal(run(GENS, z, y, spec, z), plain)
  assert np.abs(run(GENS, z, y, spec, z[::-1]) - plain).max() > 1e-3


# --- Conditioning augmentation


def test_noise_added_and_noise_left_in_are_one_where_there_is_none():
  generator = made()
  none = spec_of(generator)
  level0 = spec_of(generator, {'augmentation': '0', 'conditioning': 'truncated'})
  assert level0 == none and level0.left == (0, 0, 0)
  np.testing.assert_array_equal(samples(generator, level0), samples(generator, none))
  added = spec_of(generator, {'1.augmentation': '12'})
  left = spec_of(generator, {'1.augmentation': '12', '1.conditioning': 'truncated'})
  assert left.left[0] == left.parts[1].augmentation > 0 and left.left[1] == 0
  assert np.abs(samples(generator, left) - samples(generator, added)).max() > 1e-3
  assert str(left).count('(left in)') == 1 and left.described()['1']['conditioning'] == 'truncated'


def test_what_is_left_in_is_the_noise_of_the_level():
  """DDIM of a network that knows the image goes straight: all of its x are of one noise."""
  base = plain_unets.base(4)
  spec = base.spec({**CARD, 'steps': '20', 'sampler': 'ddim'})
  z, y = jax.random.normal(jax.random.key(0), (2, 4, 4, 3)), jnp.zeros(2, jnp.int32)
  a = base.process.tables.alpha_bar
  noise = (z - np.sqrt(a[-1]) * 0.25) / np.sqrt(1 - a[-1])
  for level in (1, 7, 20):
    x = base.unfinished(PARAMS, z, y, spec, z, level)
    want = np.sqrt(a[level - 1]) * 0.25 + np.sqrt(1 - a[level - 1]) * noise
    np.testing.assert_allclose(x, want, atol=2e-3)
  # A walk of fewer steps stops at the nearest of them, but never where there is no noise left.
  few = base.spec({**CARD, 'steps': '3'})
  levels = base.kept(few).timesteps + 1
  assert [base.reachable(few, level) for level in (0, 1, 3, 20)] == [0, *levels[[0, 0, 2]]]
  assert base.reachable(few, 9) == levels[1]


def test_a_stage_is_given_what_was_left_in():
  generator = made(None, plain_unets.upsampler(4))
  spec = spec_of(generator, {'augmentation': '9', 'conditioning': 'truncated'})
  z, y = generator.latents(jax.random.key(0), 2, spec), jnp.arange(2)
  generator.generate(GENS, z, y, spec)
  (told,) = generator.stages[1].teller.net.seen
  base, first, _ = (*generator.split(z), None)
  left = generator.stages[0].unfinished(PARAMS, base, y, spec.parts[0], base, spec.left[0])
  np.testing.assert_array_equal(told['low'], left)
  assert (np.asarray(told['level']) == spec.left[0]).all() and first.shape == (2, 8, 8, 3)


def test_noise_is_left_in_by_walks_of_the_same_process_alone():
  other = plain_unets.process('linear')
  for base, enlarger in (
    (plain_unets.base(4, other), plain_unets.upsampler(4)),
    (plain_unets.base(4), plain_unets.upsampler(4, augmentation='blur')),
    (Flat(), plain_unets.upsampler(4)),
  ):
    generator = made(base, enlarger)
    assert 'conditioning' not in generator.options
    with pytest.raises(errors.UserError, match='no sampling option'):
      spec_of(generator, {'conditioning': 'truncated'})


# --- Options


def test_options_are_of_all_stages_that_know_them_or_of_one():
  generator = made(Flat())
  assert {'steps', 'truncation', '1.steps', '2.augmentation', '0.truncation'} <= set(
    generator.options
  )
  assert not {'0.steps', '3.steps', '1.truncation', '1.conditioning'} & set(generator.options)
  steps = lambda spec: [part.steps for part in spec.parts[1:]]
  assert steps(spec_of(generator)) == ['4', '4']
  assert steps(spec_of(generator, {'2.steps': '2', 'steps': '3'})) == ['3', '2']
  # What the card says comes first, what the user says last.
  stored = {'2.steps': '5', 'augmentation': '3'}
  assert steps(spec_of(generator, **stored)) == ['4', '5']
  assert steps(spec_of(generator, {'steps': '2'}, **stored)) == ['2', '2']
  assert [part.augmentation for part in spec_of(generator, **stored).parts[1:]] == [3, 3]
  assert hash(spec_of(generator)) == hash(spec_of(generator))


@pytest.mark.parametrize(
  'given, said',
  [
    ({'step': '3'}, 'did you mean'),
    ({'0.augmentation': '3'}, 'no sampling option'),
    ({'3.steps': '3'}, 'no sampling option'),
    ({'1.steps': '300'}, 'process of 20'),
    ({'augmentation': '21'}, 'augmentation'),
    ({'conditioning': 'both'}, 'conditioning'),
  ],
)
def test_options_that_mean_nothing(given, said):
  with pytest.raises(errors.UserError, match=said):
    spec_of(made(), given)


@pytest.mark.parametrize(
  'sampling',
  [{}, {'stages': [CARD]}, {'stages': [CARD], 'options': {}}, {'stages': [], 'options': {}}],
)
def test_cards_with_other_settings(sampling):
  with pytest.raises(errors.UserError, match='export'):
    made().spec(sampling)


def test_what_a_base_needs_measured():
  generator = made(Flat())
  sampling = sampling_of(generator)
  (spec,) = generator.prepared(sampling)
  assert spec == spec_of(generator)
  ready = generator.prepare(GENS, jax.random.key(0), spec)
  assert 'measured' in ready['0'] and ready['1'] is PARAMS
  assert generator.provenance(ready, spec, sampling) == (True, 'of Flat')
  assert generator.provenance(GENS, spec, sampling)[0] is False
  assert generator.bare(ready)['0'] == PARAMS
  assert generator.weights(GENS) == PARAMS['params']


# --- Misfits


@pytest.mark.parametrize(
  'stages, said',
  [
    ([plain_unets.base(4)], 'a is alone'),
    ([plain_unets.base(4), plain_unets.base(8)], 'b needs a generator that enlarges'),
    ([plain_unets.base(8), plain_unets.upsampler(4)], r'b enlarges \[4, 4, 3\]'),
    ([plain_unets.base(4, channels=1), plain_unets.upsampler(4)], r'a makes samples \[4, 4, 1\]'),
    ([Flat((2, 4, 4, 3)), plain_unets.upsampler(4)], 'chain'),
    ([plain_unets.base(4, num_classes=3), plain_unets.upsampler(4)], 'a knows 3 classes, b 5'),
  ],
)
def test_stages_that_do_not_fit(stages, said):
  classes = [[str(i) for i in range(stage.num_classes)] for stage in stages]
  with pytest.raises(errors.UserError, match=said):
    cascade.check(stages, ['a', 'b'], classes)


def test_a_level_that_was_never_learnt():
  upsampler = plain_unets.upsampler(4)
  spec = spec_of(made()).parts[1]
  known = upsampler.conditioning.levels
  with pytest.raises(errors.UserError, match=f'knows {known} at most'):
    upsampler.at_level(spec, known + 1)


def test_stages_of_other_classes():
  stages = [plain_unets.base(4), plain_unets.upsampler(4)]
  with pytest.raises(errors.UserError, match="class 1 is 'cat' in a and 'dog' in b"):
    cascade.check(stages, ['a', 'b'], [['cow', 'cat'], ['cow', 'dog']])


# --- One file


def trained(name, **keys):
  """(gen, card) of a tiny network of two resolutions at most, freshly drawn."""
  keys = {
    'model.widths': (1,), 'model.attention': (), 'data.num_classes': 3, **{
      key.replace('__', '.'): value for key, value in keys.items()
    },
  }  # fmt: skip
  game = diffusion.make(core_config.changed(configs.read(name), keys))
  stage = game.stages(1)[0][1]
  shapes = jax.eval_shape(lambda key: game.generator(game.init(key), stage), jax.random.key(0))
  rng = np.random.default_rng(len(name))
  fill = lambda x: (0.1 * rng.normal(size=x.shape)).astype(x.dtype)
  card = {
    'format': generator_file.FORMAT, 'algorithm': 'diffusion', 'player': game.sampled,
    'architecture': game.architecture(stage), 'class_names': ['a', 'b', 'c'], 'step': 1,
    'sampling': game.sampling(), 'data': name,
  }  # fmt: skip
  return jax.tree.map(fill, shapes), card


def test_a_cascade_saved_and_loaded_makes_the_same_images(bigjax, tmp_path):
  """4 to 8 px, 20 steps; written by the verb, a bank of small images left out."""
  parts = trained('cdm:tiny', data__resolution=4), trained('cdm:sr32_64,tiny')
  assert 'low' in parts[1][0] and parts[1][0]['params']['input_blocks_0_0']['kernel'].shape[2] == 6
  gen, card = cascade.compose(parts, {'1.augmentation': '5'})
  assert set(gen['1']) == {'params'}
  sampler, gen, card = from_card(gen, card, jax.devices()[:1])
  spec = sampler.generator.spec(card['sampling'])
  assert [part.augmentation for part in spec.parts] == [0, 5]
  z, y = sampler.latents(0, 3, spec), np.array([2, 0, 1], np.int32)
  images = sampler.images(gen, z, y, spec)
  assert images.shape == (3, 8, 8, 3) and images.std() > 1

  given = [str(tmp_path / f'{name}.npz') for name in 'ab']
  for path, part in zip(given, parts, strict=True):
    generator_file.save_npz(path, *part)
  out = str(tmp_path / 'c.safetensors')
  status, said, wrong = bigjax(
    'export', '--cascade', *given, '--sampling', '1.augmentation=5', '--out', out
  )
  assert status == 0 and 'wrote' in said, wrong
  loaded = load(out)
  assert loaded.card == json.loads(json.dumps(card)) and loaded.num_classes == 3
  again = loaded(labels=[2, 0, 1])
  assert np.abs(again.astype(int) - images).max() <= 1
  # The same file is no cascade's first stage again, and a stage that enlarges nothing is none.
  for words, reason in (
    (('--cascade', out, given[1], '--out', tmp_path / 'd.npz'), 'chain'),
    (('--cascade', *given[::-1], '--out', tmp_path / 'd.npz'), 'needs a generator that enlarges'),
    (('--cascade', *given), '--out'),
    (('--cascade', *given, '--out', given[0]), 'is that file already'),
    (('--cascade', *given, '--sampling', '0.eta=3', '--out', tmp_path / 'd.npz'), 'eta'),
  ):
    status, _, wrong = bigjax('export', *words)
    assert status and reason in wrong, (words, wrong)


def test_infinite_truncations_of_a_base_lie_deeper():
  """Standing statistics are stored with a truncation of inf, which no file's check refuses."""
  arrays = {'0/knots': np.array([1, np.inf], np.float32)}
  generator_file.files.check_weights(arrays, 'x', generator_file.INFINITE)
  with pytest.raises(errors.UserError, match='not finite'):
    generator_file.files.check_weights({'0/other': arrays['0/knots']}, 'x', generator_file.INFINITE)


def test_a_process_is_the_same_by_its_tables():
  assert Tables('cosine', 20) == plain_unets.process().tables != Tables('cosine', 30)
