"""Guidance by a classifier: closed forms, the official walk, what does not fit, files and verbs."""

import dataclasses
import functools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from bigjax.algorithms import biggan, diffusion, generator_of, noised_classifier
from bigjax.algorithms.base import configs, contract
from bigjax.algorithms.base.generators import parts
from bigjax.algorithms.base.noising.guided import Guided, GuidedSpec
from bigjax.algorithms.compositions import guided
from bigjax.core import config as core_config
from bigjax.core import errors, trees
from bigjax.nn.diffusion.tables import Tables
from bigjax.sampling import generator_file, stablehlo
from bigjax.sampling.sampler import from_card

from golden_files import golden
from golden_unets import assert_same, nhwc, official, official_classifier

pytest_plugins = ['tiny_run']

SHAPE = (4, 4, 1)


# --- Closed forms: a classifier whose log-probabilities are linear in the image, of normal ones


@dataclasses.dataclass(frozen=True)
class LinearTells:
  """Classes of which each has a weight for every pixel: no softmax, so that gradients are those."""

  shape = SHAPE
  num_classes: int = 3
  noising = parts.Noising('cosine', 20)

  def log_probabilities(self, gen, x, t):
    del t
    return x.reshape(x.shape[0], -1) @ gen

  def weights(self):
    return jax.random.normal(jax.random.key(9), (16, self.num_classes))


class Toy(Guided):
  def split(self, gen):
    return {}, gen


TABLES = Tables('cosine', 20)
WALKER = noised_classifier.NormalWalker(SHAPE, TABLES)
TOY = Toy(WALKER, LinearTells())
CARD = {'steps': '5', 'guidance': 0.01}


def toy_images(generator=TOY, y=(0, 1), **words):
  spec = generator.spec(CARD, words)
  z = 0.01 * generator.latents(jax.random.key(3), len(y), spec)  # far from the ends of [-1, 1]
  return jax.jit(generator.generate)(generator.tells.weights(), z, jnp.array(y), spec)


def test_every_step_moves_by_the_variance_times_the_gradient(monkeypatch):
  """Without noise the walk is linear: what guidance adds follows from the tables alone."""
  monkeypatch.setattr('bigjax.nn.diffusion.sampling.Walk.draws', False)
  found = toy_images(y=(2, 0)) - toy_images(y=(2, 0), guidance='0')
  of = Tables('cosine', 20, '5')
  added = 0.0
  for t in reversed(range(5)):
    shrink = of.posterior_coef1[t] * np.sqrt(of.alpha_bar[t]) + of.posterior_coef2[t]
    added = shrink * added + (of.betas[t] if t else of.posterior_variance[1])
  w = np.asarray(LinearTells().weights())[:, [2, 0]].T.reshape(2, *SHAPE)
  np.testing.assert_allclose(found, 0.01 * added * w, rtol=1e-4, atol=1e-6)
  # weights over classes mix the gradients
  y = jnp.array([[0.5, 0.5, 0.0]])
  z = jnp.zeros((1, *SHAPE))
  mixed = TOY.generate(LinearTells().weights(), z, y, TOY.spec(CARD))
  of_both = np.asarray(LinearTells().weights())[:, :2].mean(1).reshape(SHAPE)
  np.testing.assert_allclose(mixed[0], 0.01 * added * of_both, rtol=1e-4, atol=1e-6)


def test_the_noise_of_other_latents():
  spec, weights, y = TOY.spec(CARD), LinearTells().weights(), jnp.array([0, 1])
  z, others = (0.01 * TOY.latents(jax.random.key(seed), 2, spec) for seed in (3, 4))
  own = TOY.generate(weights, z, y, spec)
  np.testing.assert_array_equal(TOY.with_noise_of(weights, z, y, spec, z), own)
  moved = TOY.with_noise_of(weights, z, y, spec, others)
  assert np.abs(moved - own).max() > 0.01
  off = TOY.spec(CARD, {'guidance': '0'})
  walked = WALKER.with_noise_of({}, z, y, off.walk, others)
  np.testing.assert_array_equal(TOY.with_noise_of(weights, z, y, off, others), walked)


def test_a_scale_of_0_is_no_other_program_and_any_other_is_a_number():
  off, one, two = (GuidedSpec(WALKER.spec(CARD), scale) for scale in (0.0, 1.0, 2.0))
  assert jax.tree.leaves(off) == [] and jax.tree.leaves(two) == [2.0]
  assert jax.tree.structure(one) == jax.tree.structure(two) != jax.tree.structure(off)
  assert jax.tree.map(lambda x: x, off) == off and jax.tree.map(lambda x: x, two) == two
  np.testing.assert_array_equal(
    toy_images(guidance='0'),
    jax.jit(WALKER.generate)(
      {}, 0.01 * TOY.latents(jax.random.key(3), 2, off), jnp.zeros(2, jnp.int32), off.walk
    ),
  )
  assert str(two) == '5 steps, guidance 2'
  assert two.described() == {'steps': '5', 'guidance': 2.0}


def test_labels_go_to_both_or_to_the_classifier_alone():
  seen = []

  class Walks(contract.PlainGenerator):
    shape = latent_shape = SHAPE

    def __init__(self, num_classes):
      self.num_classes, self.steerable = num_classes, self

    def steered(self, gen, z, y, spec, gradient, others):
      seen.append(np.asarray(y).tolist())
      return gradient(z, jnp.zeros(z.shape[:1], jnp.int32))

  weights, y = LinearTells().weights(), jnp.array([2, 1])
  for num_classes in (3, 1):
    generator = Toy(Walks(num_classes), LinearTells())
    spec = GuidedSpec(contract.NoChoice(), 2.0)
    moved = generator.generate(weights, jnp.zeros((2, *SHAPE)), y, spec)
    np.testing.assert_allclose(moved.reshape(2, -1), 2 * weights[:, [2, 1]].T, rtol=1e-6)
    assert generator.num_classes == 3
  assert seen == [[2, 1], [0, 0]]


def test_a_program_takes_the_scale(tmp_path):
  spec = TOY.spec(CARD, {'guidance': '0.02'})
  loaded = types.SimpleNamespace(
    sampler=types.SimpleNamespace(generator=TOY), gen=TOY.tells.weights(), num_classes=3,
    shape=SHAPE, card={},
  )  # fmt: skip
  program = export.deserialize(stablehlo.program(loaded, spec))
  z, y = 0.01 * TOY.latents(jax.random.key(3), 2, spec), np.array([0, 1], np.int32)
  for scale in (0.0, 0.02, 0.05):
    made = program.call(z, y, np.float32(scale)).astype(int)
    want = stablehlo.to_uint8(toy_images(guidance=str(scale))).astype(int)
    assert np.abs(made - want).max() <= 1
  card = stablehlo.program_card(loaded, spec, False, 'p.stablehlo')
  assert list(card['inputs']) == ['z', 'y', 'guidance'] and 'np.float32(0.02)' in card['use'][-1]


# --- The official walk


def test_official_guided_walk_of_the_composed_generator():
  schedule, arrays = 'linear', golden('adm_guidance')
  (net, params, _), (classifier, weights) = official('adm_cond'), official_classifier()
  process = {'schedule': schedule, 'num_steps': 1000}
  more = {'mean': 'epsilon', 'variance': 'learned_range', 'rescale_steps': False}
  generator = guided.make_generator({
    'generator': {
      'algorithm': 'diffusion',
      'architecture': {**card_of(net), **process, **more, 'learned': True, 'unlabelled': False},
    },
    'classifier': {
      'algorithm': 'noised_classifier', 'architecture': {**card_of(classifier), **process},
    },
  })  # fmt: skip
  gen = {'generator': {'params': params}, 'classifier': {'params': weights}}
  card = {'steps': 'ddim5', 'sampler': 'ddim', 'eta': 0.0, 'guidance': float(arrays['in/scale'])}
  x, y = nhwc(arrays['in/guided/x']), jnp.asarray(arrays['in/guided/y'].astype(np.int32))
  images = jax.jit(generator.generate)(gen, x, y, generator.spec(card))
  assert_same(images, arrays[f'out/guided/ddim5_{schedule}/samples'][-1], 1e-3)


def card_of(net):
  names = diffusion.noising_config.FIELDS
  lists = {'widths': list(net.multiples), 'attention': list(net.attention)}
  return {**{name: getattr(net, name) for name in names}, **lists}


# --- Files, verbs, and what does not fit


def tiny(name, family, **keys):
  """(Game, card) of a tiny config."""
  keys = {key.replace('__', '.'): value for key, value in keys.items()}
  config = core_config.changed(configs.read(f'{name}:tiny'), keys)
  game = family.make(config)
  stage = game.stages(1)[0][1]
  num = generator_of({
    'algorithm': config.algorithm, 'architecture': game.architecture(stage)
  }).num_classes  # fmt: skip
  return game, {
    'format': generator_file.FORMAT, 'algorithm': config.algorithm, 'player': game.sampled,
    'architecture': json.loads(json.dumps(game.architecture(stage))),
    'class_names': [str(i) for i in range(num)], 'sampling': game.sampling(), 'step': 7,
  }  # fmt: skip


def drawn(game):
  """A generator with weights of which none is 0, drawn without compiling anything."""
  shapes = jax.eval_shape(lambda: game.init(jax.random.key(0)))['ema']
  rng = np.random.RandomState(0)
  return {
    'params': trees.map_paths(lambda path, x: 0.1 * rng.randn(*x.shape).astype(np.float32), shapes)
  }


@functools.cache
def pair():
  """((gen, card) of a diffusion without labels, of a classifier of ten classes)."""
  game, card = tiny('adm', diffusion, data__num_classes=1)
  other, of_classifier = tiny('adm_classifier', noised_classifier)
  names = [f'kind {i}' for i in range(10)]
  return (drawn(game), card), (drawn(other), {**of_classifier, 'class_names': names})


def test_a_walk_without_labels_gets_those_of_the_classifier_and_is_one_file(tmp_path):
  (gen, card), (weights, of_classifier) = pair()
  both, said = guided.compose((gen, card), (weights, of_classifier), 3.0)
  assert set(both) == {'generator', 'classifier'}
  assert said['algorithm'] == 'guided' and said['class_names'] == of_classifier['class_names']
  assert said['sampling'] == {**card['sampling'], 'guidance': 3.0} and said['step'] == 7
  assert set(said['architecture']) == {'generator', 'classifier'}
  path = str(tmp_path / 'both.npz')
  generator_file.save_npz(path, both, said)
  sampler, read, again = from_card(*generator_file.load(path), jax.devices()[:1])
  assert again == json.loads(json.dumps(said))
  generator = sampler.generator
  assert str(generator.spec(again['sampling'])) == '3 steps, ancestral, guidance 3'
  assert set(trees.flat(generator.weights(read))) == set(trees.flat(gen['params']))
  broken = trees.map_paths(lambda path, x: x[..., :1] if 'qkv_proj/kernel' in path else x, both)
  for scale in (0.0, 1.0):  # the classifier's arrays are looked at whether it guides or not
    with pytest.raises(errors.UserError, match='do not fit together'):
      from_card(broken, {**said, 'sampling': {**said['sampling'], 'guidance': scale}})


def test_verbs(bigjax, tmp_path):
  paths = [str(tmp_path / f'{name}.safetensors') for name in ('walk', 'classifier', 'both')]
  for path, (gen, card) in zip(paths, pair(), strict=False):
    generator_file.save(path, gen, card)
  walk, classifier, both = paths
  guide = '--classifier', classifier
  status, _, said = bigjax('sample', '--params', walk, '--guidance', 2)
  assert status and 'give one with --classifier' in said
  status, _, said = bigjax('sample', '--params', walk, *guide, '--guidance', 'no')
  assert status and '--guidance=no' in said
  status, _, said = bigjax('sample', '--params', walk, '--classifier', walk)
  assert status and '--classifier needs a classifier of noisy images' in said
  status, _, said = bigjax('evaluate', '--images', walk, *guide)
  assert status and 'guides a generator' in said
  assert bigjax('export', '--params', walk, *guide, '--guidance', 4, '--out', both)[0] == 0
  _, card = generator_file.load(both)
  assert card['sampling']['guidance'] == 4.0
  status, _, said = bigjax('export', '--params', walk, *guide, '--steps', 5, '--out', both)
  assert status and '--format=stablehlo' in said
  out = tmp_path / 'some.npz'
  ask = '--classes', 'kind 3,kind 7', '--num', 4, '--out', out
  assert bigjax('sample', '--params', walk, *guide, '--guidance', 4, *ask)[0] == 0
  images, labels = (np.load(out)[name] for name in ('images', 'labels'))
  assert images.shape == (4, 8, 8, 3) and set(labels.tolist()) == {3, 7}
  assert images.std() > 0


def refused(said, generator, classifier):
  with pytest.raises(errors.UserError, match=said):
    guided.compose(({}, generator), ({}, classifier))


def test_what_does_not_fit():
  of = lambda **keys: tiny('adm', diffusion, **keys)[1]
  classifier = tiny('adm_classifier', noised_classifier)[1]
  guided.compose(({}, of()), ({}, classifier))  # does
  refused(
    '16x16 px with 3 channels, and 8x8', of(data__resolution=16, model__attention=(8,)), classifier
  )
  refused('8x8 px with 1 channels, and 8x8', of(data__channels=1), classifier)
  refused('classes .* differ: 5, and 10', of(data__num_classes=5), classifier)
  refused('cosine, 30 steps, and cosine, 20', of(model__num_steps=30), classifier)
  linear = of(model__num_steps=30, model__schedule='linear')
  thirty = tiny('adm_classifier', noised_classifier, model__num_steps=30)[1]
  refused('linear, 30 steps, and cosine, 30', linear, thirty)
  gan = tiny('digits', biggan)[1]
  refused('walks from noise to an image and can be steered', gan, classifier)
  refused('needs a classifier of noisy images', of(), of())
  _, both = guided.compose(({}, of()), ({}, classifier))
  refused('can be steered', both, classifier)


def test_classes_are_the_same_ones_where_they_have_names():
  names = lambda card, *names: {**card, 'class_names': [*names, *'34567890']}
  card = tiny('adm', diffusion)[1]
  classifier = tiny('adm_classifier', noised_classifier)[1]
  cats, dogs = names(card, 'cat', 'dog'), names(classifier, 'dog', 'cat')
  refused("class 0 is 'cat' in the generator and 'dog' in its --classifier", cats, dogs)
  for ours in (card, names(card, 'cat', 'dog')):
    _, said = guided.compose(({}, ours), ({}, classifier))
    assert said['class_names'] == ours['class_names']
  licences = [{**one, 'license': text} for one, text in ((card, 'theirs'), (classifier, 'ours'))]
  _, said = guided.compose(*(({}, one) for one in licences))
  assert [part['license'] for part in said['parts']] == ['theirs', 'ours']
