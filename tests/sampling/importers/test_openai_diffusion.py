"""OpenAI's diffusion weights in: names and shapes, whose they are, what is refused, samples."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import openai_unets
import pytest

from bigjax import convert
from bigjax.algorithms.base import contract
from bigjax.algorithms.compositions import guided
from bigjax.core import errors, trees
from bigjax.sampling import generator_file as cards
from bigjax.sampling.importers import openai_diffusion
from bigjax.sampling.loaded import load, of_cascade

import weight_files
from golden_files import golden, under
from golden_unets import nhwc

FULL = {  # what OpenAI's scripts build these of
  'adm:imagenet64': openai_unets.state_shapes(
    192, 3, (1, 2, 3, 4), (2, 4, 8), 1000, resblock_updown=True
  ),
  'adm:imagenet256': openai_unets.state_shapes(
    256, 2, (1, 1, 2, 2, 4, 4), (8, 16, 32), 1000, resblock_updown=True
  ),
  'adm:upsample64_256': openai_unets.state_shapes(
    192, 2, (1, 1, 2, 2, 4, 4), (8, 16, 32), 1000, in_channels=6, resblock_updown=True
  ),
  'adm:upsample128_512': openai_unets.state_shapes(
    192, 2, (1, 1, 2, 2, 4, 4), (16, 32), 1000, in_channels=6, resblock_updown=True
  ),
  'adm_classifier:imagenet64': openai_unets.classifier_shapes(64, 128, 4, (1, 2, 3, 4), (2, 4, 8)),
  'adm_classifier:imagenet128': openai_unets.classifier_shapes(
    128, 128, 2, (1, 1, 2, 3, 4), (4, 8, 16)
  ),
  'adm_classifier:imagenet256': openai_unets.classifier_shapes(
    256, 128, 2, (1, 1, 2, 2, 4, 4), (8, 16, 32)
  ),
  'adm_classifier:imagenet512': openai_unets.classifier_shapes(
    512, 128, 2, (0.5, 1, 1, 2, 2, 4, 4), (16, 32, 64)
  ),
  'iddpm:cifar10': openai_unets.state_shapes(128, 3, (1, 2, 2, 2), (2, 4)),
  'iddpm:lsun256': openai_unets.state_shapes(128, 2, (1, 1, 2, 2, 4, 4), (16,), scale_shift=False),
}
NUMBERS = {
  'adm:imagenet64': 295_904_454, 'adm:imagenet256': 553_838_086, 'iddpm:cifar10': 52_546_438,
  'iddpm:lsun256': 113_676_678, 'adm:upsample64_256': 311_795_910,
  'adm:upsample128_512': 308_835_270, 'adm_classifier:imagenet64': 65_438_568,
  'adm_classifier:imagenet128': 42_568_040, 'adm_classifier:imagenet256': 54_096_360,
  'adm_classifier:imagenet512': 54_448_360,
}  # fmt: skip


@pytest.mark.parametrize('name', FULL)
def test_published_networks_by_their_shapes(name):
  """Found by what they are, complete to the last array, with the published number of weights."""
  assert sum(map(math.prod, FULL[name].values())) == NUMBERS[name]
  arrays = openai_unets.without_numbers(FULL[name])
  network = openai_diffusion.bring_in(arrays, '')
  note, *uses = network.notes
  assert note.startswith(f'it has the structure of {name}')
  said = {'adm_classifier': '--classifier', 'adm:upsample': '--cascade'}
  assert [said[kind] in ' '.join(uses) for kind in said] == [name.startswith(k) for k in said]
  back = openai_diffusion.params_out(network.gen['params'])
  assert {at: w.shape for at, w in back.items()} == FULL[name]
  assert network.num_classes == (1000 if name.startswith('adm') else 1)


def test_networks_that_are_alike_are_named():
  shapes = openai_unets.state_shapes(256, 2, (1, 1, 2, 2, 4, 4), (8, 16, 32), resblock_updown=True)
  kind = openai_diffusion.DIFFUSION
  seen = kind.seen(openai_unets.without_numbers(shapes))
  name, (note,) = openai_diffusion.found(seen, kind)
  assert name == 'adm:imagenet256_uncond' and 'adm:lsun_bedroom, adm:lsun_cat' in note


# --- A small one

TINY = {
  'model_channels': 32, 'num_res_blocks': 1, 'channel_mult': (1, 2), 'attention_ds': (2,),
  'num_classes': 10, 'resblock_updown': True,
}  # fmt: skip
SETTINGS = """
def get_config():
  return {
    'algorithm': 'diffusion',
    'data': {'resolution': 8, 'num_classes': 10},
    'model': {
      'ch': 32, 'widths': (1, 2), 'blocks': 1, 'attention': (4,), 'heads': 2, 'updown': True,
      'num_steps': 20, 'schedule': 'cosine',
    },
    'export': {'steps': '3'},
  }
"""


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """(The weights, their config, what `bigjax convert` made of both)."""
  folder = tmp_path_factory.mktemp('openai')
  arrays = openai_unets.drawn(openai_unets.state_shapes(**TINY))
  pt = weight_files.write(folder / 'ema_0.9999_500000.pt', arrays)
  settings, out = folder / 'mine.py', folder / 'x.safetensors'
  settings.write_text(SETTINGS)
  names = folder / 'names.txt'
  names.write_text('\n'.join('abcdefghij'))
  words = ['--gen', pt, '--config', settings, '--class_names', names, '--out', out]
  convert.main(list(map(str, words)))
  return pt, settings, out


def test_a_small_network_by_its_file(files):
  """Its card, every array in its place, and samples of it."""
  _, _, out = files
  gen, card = cards.load(str(out))
  assert card['algorithm'] == 'diffusion' and card['player'] == 'net'
  assert card['class_names'] == list('abcdefghij')
  assert card['converted_from'] == "ema_0.9999_500000.pt (OpenAI's diffusion)"
  assert card['architecture']['heads'] == 2 and card['architecture']['num_steps'] == 20
  assert json.loads(out.with_suffix('.json').read_text())['sampling']['steps'] == '3'
  back = openai_diffusion.params_out(gen['params'])
  arrays = openai_unets.drawn(openai_unets.state_shapes(**TINY))
  assert back.keys() == arrays.keys()
  for name, w in arrays.items():
    np.testing.assert_array_equal(back[name], w, err_msg=name)
  loaded = load(str(out))
  images = loaded(['a', 'c'], num=2)
  assert images.shape == (2, 8, 8, 3) and images.std() > 10
  assert loaded.sampler.generator.likelihood.words == '20steps'
  teller = loaded.sampler.generator.teller
  x, t, y = jnp.ones((2, 8, 8, 3)), jnp.full(2, 7), jnp.arange(2)
  of_0, of_1 = jax.jit(lambda params: teller.say(params, x, t, y))(loaded.gen['params'])
  assert np.abs(of_0 - of_1).max() > 1e-3  # labels are known


@pytest.mark.parametrize('classes', [10, None])
def test_classes_that_a_config_leaves_open_are_those_of_the_arrays(tmp_path, classes):
  (tmp_path / 'mine.py').write_text(SETTINGS.replace(", 'num_classes': 10", ''))
  shapes = openai_unets.state_shapes(**{**TINY, 'num_classes': classes})
  network = openai_diffusion.bring_in(
    openai_unets.without_numbers(shapes), str(tmp_path / 'mine.py')
  )
  assert network.num_classes == (classes or 1)


OFFICIAL = """
def get_config():
  return {
    'algorithm': 'diffusion',
    'data': {'resolution': 16, 'num_classes': 5},
    'model': {
      'ch': 32, 'widths': (1, 2), 'blocks': 1, 'attention': (16, 8), 'heads': 2,
      'split_first': True, 'updown': True,
    },
    'export': {'steps': 'ddim5', 'sampler': 'ddim'},
  }
"""


def test_the_official_codes_samples(tmp_path):
  """From its weights and its noise, by the file."""
  arrays = golden('adm_cond')
  theirs = {name: w.astype(np.float32) for name, w in under(arrays, 'w/').items()}
  pt = weight_files.write(tmp_path / 'small_diffusion.pt', theirs)
  (tmp_path / 'mine.py').write_text(OFFICIAL)
  out = tmp_path / 'x.safetensors'
  words = ['--gen', pt, '--config', tmp_path / 'mine.py', '--out', out]
  convert.main(list(map(str, words)))
  loaded, z = load(str(out)), nhwc(arrays['in/traj/x_T'])
  y = jnp.asarray(arrays['in/traj/y' if 'in/traj/y' in arrays else 'in/y'][: len(z)], jnp.int32)
  images = jax.jit(loaded.sampler.generator.generate)(loaded.gen, z, y, loaded.spec())
  want = nhwc(arrays['out/ddim5_linear/samples'][-1])
  np.testing.assert_allclose(images, want, rtol=0, atol=1e-3 * np.abs(want).max())


def converted(folder, arrays, *words, ending='.pt'):
  """The sentence that refuses these arrays."""
  path = weight_files.write(folder / f'x{ending}', arrays)
  argv = ['--gen', path, '--out', folder / 'y.safetensors', *words]
  with pytest.raises(errors.UserError) as caught:
    convert.main(list(map(str, argv)))
  assert not (folder / 'y.safetensors').exists()
  return str(caught.value)


def test_what_does_not_fit_is_refused(files, tmp_path):
  _, settings, _ = files
  arrays = openai_unets.drawn(openai_unets.state_shapes(**TINY))
  say = lambda more, *words: converted(tmp_path, more, '--config', settings, *words)
  missing = dict(arrays)
  del missing['middle_block.1.qkv.bias']
  assert "'middle_block.1.qkv.bias' is missing in the weights" in say(missing)
  assert "'extra.weight' is no part of" in say({**arrays, 'extra.weight': np.zeros((2, 2), 'f')})
  wrong = {**arrays, 'middle_block.1.qkv.bias': np.zeros(7, np.float32)}
  assert "'middle_block.1.qkv.bias' of the weights" in say(wrong) and '[7]' in say(wrong)
  gone = {name: w for name, w in arrays.items() if not name.startswith('time_embed.0')}
  assert "'time_embed.0.weight' is missing" in say(gone)
  flat = {**arrays, 'time_embed.0.weight': np.zeros(5, np.float32)}
  assert "'time_embed.0.weight' has shape [5]; expected an array of rank 2" in say(flat)
  for other, what in (
    ({'channel_mult': (1, 1)}, 'widths (32, 32), '),
    ({'num_res_blocks': 2}, 'blocks 2, '),
    ({'attention_ds': (1, 2)}, 'attention (0, 1), '),
    ({'num_classes': None}, 'classes 0, '),
    ({'out_channels': 3}, 'learned variance False, '),
    ({'scale_shift': False}, 'scale shift False, '),
    ({'resblock_updown': False}, 'updown False, '),
    ({'in_channels': 1, 'out_channels': 2}, 'channels in 1, '),
    ({'model_channels': 64}, 'ch 64, '),
  ):
    shapes = openai_unets.state_shapes(**{**TINY, **other})
    sentence = converted(
      tmp_path, openai_unets.without_numbers(shapes), '--config', settings, ending='.npz'
    )
    assert f'a network with {what}' in sentence, sentence
  assert 'none of the networks that OpenAI published has ch 32' in converted(tmp_path, arrays)
  assert "--config=digits trains 'biggan'" in converted(tmp_path, arrays, '--config', 'digits')
  assert '--bn_eps has no use' in say(arrays, '--bn_eps', '1e-4')
  assert '--disc has no use' in say(arrays, '--disc', 'D.pt')


# --- What makes no images by itself: a classifier, and a network that enlarges

CLASSIFIER = {
  'image_size': 8, 'model_channels': 32, 'num_res_blocks': 1, 'channel_mult': (1, 2),
  'attention_ds': (2,), 'out_channels': 10,
}  # fmt: skip
OF_CLASSIFIER = """
def get_config():
  return {
    'algorithm': 'noised_classifier',
    'data': {'resolution': 8, 'num_classes': 10},
    'model': {
      'ch': 32, 'widths': (1, 2), 'blocks': 1, 'attention': (4,), 'head_dim': 32, 'num_steps': 20,
      'schedule': 'cosine',
    },
    'export': {'steps': '3', 'guidance': 2.0},
  }
"""
UPSAMPLER = {**TINY, 'channel_mult': (1, 1), 'in_channels': 6}
OF_UPSAMPLER = """
def get_config():
  return {
    'algorithm': 'diffusion',
    'data': {'resolution': 16, 'num_classes': 10},
    'model': {
      'ch': 32, 'widths': (1, 1), 'blocks': 1, 'attention': (8,), 'heads': 2, 'updown': True,
      'num_steps': 20, 'schedule': 'cosine', 'upsampling': 2,
    },
    'export': {'steps': '2'},
  }
"""


@pytest.fixture(scope='module')
def others(tmp_path_factory):
  """{name: (arrays, their config, what `bigjax convert` made of both)}."""
  folder, found = tmp_path_factory.mktemp('others'), {}
  (folder / 'names.txt').write_text('\n'.join('abcdefghij'))
  for name, shapes, settings in (
    ('classifier', openai_unets.classifier_shapes(**CLASSIFIER), OF_CLASSIFIER),
    ('upsampler', openai_unets.state_shapes(**UPSAMPLER), OF_UPSAMPLER),
  ):
    arrays, config = openai_unets.drawn(shapes, 1), folder / f'{name}.py'
    config.write_text(settings)
    pt, out = weight_files.write(folder / f'{name}.pt', arrays), folder / f'{name}.safetensors'
    words = ['--gen', pt, '--config', config, '--class_names', folder / 'names.txt', '--out', out]
    convert.main(list(map(str, words)))
    found[name] = arrays, config, out
  return found


def test_a_classifiers_classes_may_be_left_open(tmp_path):
  (tmp_path / 'mine.py').write_text(OF_CLASSIFIER.replace(", 'num_classes': 10", ''))
  arrays = openai_unets.without_numbers(openai_unets.classifier_shapes(**CLASSIFIER))
  assert openai_diffusion.bring_in(arrays, str(tmp_path / 'mine.py')).num_classes == 10


@pytest.mark.parametrize(
  ('name', 'algorithm'), [('classifier', 'noised_classifier'), ('upsampler', 'diffusion')]
)
def test_their_files_are_as_a_run_exports_them(others, name, algorithm):
  """Cards, every array in its place, and what training begins with."""
  arrays, config, out = others[name]
  gen, card = cards.load(str(out))
  game = openai_diffusion.game_of(str(config), openai_diffusion.kind_of(arrays))
  assert card['algorithm'] == algorithm and card['player'] == game.sampled
  assert card['architecture'] == json.loads(json.dumps(game.architecture(game.stages(1)[0][1])))
  assert card['sampling'] == dict(game.sampling()) and card['class_names'] == list('abcdefghij')
  back = openai_diffusion.params_out(gen['params'])
  assert back.keys() == arrays.keys()
  for at, w in arrays.items():
    np.testing.assert_array_equal(back[at], w, err_msg=at)
  weights = load(str(out)).sampler.generator.weights(gen)
  shapes = contract.state_shapes(game)['players']['net']['params']
  same = lambda tree: {path: w.shape for path, w in trees.flat(tree).items()}
  assert same(shapes) == same(weights)


def test_a_guided_diffusion_and_what_enlarges_its_samples(files, others, tmp_path):
  """All three of their files in one generator, which takes every scale of guidance."""
  path = str(tmp_path / 'guided.safetensors')
  classifier, upsampler = (str(others[name][2]) for name in ('classifier', 'upsampler'))
  gen, card = guided.compose(cards.load(str(files[2])), cards.load(classifier))
  assert card['sampling']['guidance'] == 2
  cards.save(path, gen, card)
  loaded = of_cascade([path, upsampler], {})
  images = loaded(['a', 'c'], num=2)
  assert images.shape == (2, 16, 16, 3) and images.std() > 10
  other = loaded(['a', 'c'], num=2, guidance=900)
  assert np.abs(images.astype(int) - other).max() > 3  # of the same program


def test_alone_there_is_nothing_to_enlarge(others):
  loaded = load(str(others['upsampler'][2]))
  said = r'enlarges images of 8 px and has none .* bigjax export --cascade BASE THIS'
  with pytest.raises(errors.UserError, match=said):
    loaded(['a'])
  generator, y = loaded.sampler.generator, jnp.zeros(1, jnp.int32)
  with pytest.raises(errors.UserError, match=said):
    generator.generate(loaded.gen, jnp.zeros((1, 16, 16, 3)), y, loaded.spec())


def test_other_classifiers_are_refused(others, tmp_path):
  arrays, config, _ = others['classifier']
  say = lambda more: converted(tmp_path, more, '--config', config)
  without = lambda *starts: {at: w for at, w in arrays.items() if not at.startswith(starts)}
  assert "'middle_block.1.qkv.bias' is missing in" in say(without('middle_block.1.qkv.bias'))
  assert "'extra.weight' is no part of" in say({**arrays, 'extra.weight': np.zeros((2, 2), 'f')})
  wrong = {**arrays, 'out.2.qkv_proj.bias': np.zeros(7, np.float32)}
  assert "'out.2.qkv_proj.bias' of the weights" in say(wrong) and '[7]' in say(wrong)
  assert "'input_blocks.1.0.out_layers.3.weight' is missing" in say(without('input_blocks.1.0.out'))
  assert 'half a U-Net' in say(without('out.2'))
  for other, what in (
    ({'channel_mult': (1, 1)}, 'channels by block (32, 32, 32, 32), '),
    ({'num_res_blocks': 2}, 'channels by block (32, 32, 32, 32, 64, 64), '),
    ({'attention_ds': (1, 2)}, 'attention in blocks (1, 3), '),
    ({'out_channels': 9}, 'classes 9, '),
    ({'image_size': 16}, 'smallest maps 8, '),
    ({'scale_shift': False}, 'scale shift False, '),
    ({'resblock_updown': False}, 'updown False, '),
    ({'in_channels': 1}, 'channels 1, '),
    ({'model_channels': 64}, 'ch 64, '),
  ):
    shapes = openai_unets.classifier_shapes(**{**CLASSIFIER, **other})
    sentence = converted(
      tmp_path, openai_unets.without_numbers(shapes), '--config', config, ending='.npz'
    )
    assert f'a network with {what}' in sentence, sentence
  assert 'none of the networks that OpenAI published has ch 32' in converted(tmp_path, arrays)


def test_configs_of_another_kind_are_refused(files, others, tmp_path):
  """A diffusion's of a classifier, and that of a network that enlarges or does not."""
  (half, of_half, _), (larger, of_larger, _) = others['classifier'], others['upsampler']
  whole = openai_unets.drawn(openai_unets.state_shapes(**{**TINY, 'channel_mult': (1, 1)}))
  for arrays, config, said in (
    (half, files[1], "trains 'diffusion', and these are the weights of a classifier of noisy"),
    (larger, of_half, "trains 'noised_classifier', and these are the weights of a diffusion"),
    (larger, files[1], 'a network with channels in 6, '),
    (whole, of_larger, 'a network with channels in 3, '),
  ):
    assert said in converted(tmp_path, arrays, '--config', config)
  four = openai_unets.without_numbers(openai_unets.state_shapes(**TINY, in_channels=4))
  assert 'takes 4 channels' in converted(tmp_path, four, ending='.npz')


def test_a_config_is_of_diffusions_alone(tmp_path):
  sentence = converted(tmp_path, {'linear.weight': np.ones((2, 2), 'f')}, '--config', 'adm')
  assert '--config=adm has no use' in sentence


def test_training_begins_with_them(files):
  """The player that a card names is the game's."""
  gen, card = cards.load(str(files[2]))
  game = openai_diffusion.game_of(str(files[1]), openai_diffusion.DIFFUSION)
  assert card['player'] == game.sampled
  shapes = contract.state_shapes(game)['players']['net']['params']
  same = lambda tree: {path: w.shape for path, w in trees.flat(tree).items()}
  assert same(shapes) == same(load(str(files[2])).sampler.generator.weights(gen))
  assert jax.tree.structure(shapes) == jax.tree.structure(gen['params'])
