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
from bigjax.core import errors, trees
from bigjax.sampling import generator_file as cards
from bigjax.sampling.importers import openai_diffusion
from bigjax.sampling.loaded import load

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
  'iddpm:cifar10': openai_unets.state_shapes(128, 3, (1, 2, 2, 2), (2, 4)),
  'iddpm:lsun256': openai_unets.state_shapes(128, 2, (1, 1, 2, 2, 4, 4), (16,), scale_shift=False),
}
NUMBERS = {
  'adm:imagenet64': 295_904_454, 'adm:imagenet256': 553_838_086, 'iddpm:cifar10': 52_546_438,
  'iddpm:lsun256': 113_676_678,
}  # fmt: skip


@pytest.mark.parametrize('name', FULL)
def test_published_networks_by_their_shapes(name):
  """Found by what they are, complete to the last array, with the published number of weights."""
  assert sum(map(math.prod, FULL[name].values())) == NUMBERS[name]
  arrays = openai_unets.without_numbers(FULL[name])
  gen, _, _, classes, (note,) = openai_diffusion.bring_in(arrays, '')
  assert note.startswith(f'it has the structure of {name}')
  back = openai_diffusion.params_out(gen['params'])
  assert {at: w.shape for at, w in back.items()} == FULL[name]
  assert classes == (1000 if name.startswith('adm') else 1)


def test_networks_that_are_alike_are_named():
  shapes = openai_unets.state_shapes(256, 2, (1, 1, 2, 2, 4, 4), (8, 16, 32), resblock_updown=True)
  seen = openai_diffusion.structure(openai_unets.without_numbers(shapes))
  name, (note,) = openai_diffusion.found(seen)
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
  say = lambda y: teller.say(
    loaded.gen['params'], jnp.ones((1, 8, 8, 3)), jnp.full(1, 7), jnp.full(1, y)
  )
  assert np.abs(say(0) - say(1)).max() > 1e-3  # labels are known


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
    ({'in_channels': 1, 'out_channels': 2}, 'channels 1, '),
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


def test_other_networks_of_theirs_are_refused(tmp_path):
  arrays = openai_unets.without_numbers(openai_unets.state_shapes(**TINY, in_channels=6))
  assert 'takes 6 channels: it enlarges images' in converted(tmp_path, arrays, ending='.npz')
  half = {name: w for name, w in arrays.items() if not name.startswith('output_blocks')}
  half['out.2.positional_embedding'] = np.zeros((64, 17), np.float32)
  assert 'classifier of noisy images' in converted(tmp_path, half, ending='.npz')


def test_a_config_is_of_diffusions_alone(tmp_path):
  sentence = converted(tmp_path, {'linear.weight': np.ones((2, 2), 'f')}, '--config', 'adm')
  assert '--config=adm has no use' in sentence


def test_training_begins_with_them(files):
  """The player that a card names is the game's."""
  gen, card = cards.load(str(files[2]))
  game = openai_diffusion._game(str(files[1]))
  assert card['player'] == game.sampled
  shapes = contract.state_shapes(game)['players']['net']['params']
  same = lambda tree: {path: w.shape for path, w in trees.flat(tree).items()}
  assert same(shapes) == same(load(str(files[2])).sampler.generator.weights(gen))
  assert jax.tree.structure(shapes) == jax.tree.structure(gen['params'])
