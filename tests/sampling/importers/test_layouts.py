"""Other codes' generators: each importer against that code's own network with random weights.

The golden files hold what public code makes of the weights of `recipe`, in float32 on a CPU (torch
2.14.1, NumPy 2.4.6): hf_* by huggingface/pytorch-pretrained-BigGAN@1e18aed; torch_* by
ajbrock/BigGAN-PyTorch@9845943. No TensorFlow code of the TF-Hub modules is public. hub_biggan* went
through BigGAN-PyTorch's TFHub/converter.py and are what its two networks make of them (`v1`:
biggan_v1.py; `biggan`: BigGAN.py, its last epsilon set to 1e-4 for 128 px, as in v1), hub_deep*
through convert_tf_to_pytorch.py of pytorch-pretrained-BigGAN. Images are [B, 3, 1024 pixels].
"""

import functools
import json
import os

import damaged_archives
import jax
import numpy as np
import pytest
import safetensors.numpy

from bigjax import convert
from bigjax.core import errors, trees
from bigjax.nn.latents import SamplingSpec
from bigjax.sampling import generator_file
from bigjax.sampling import generator_file as cards
from bigjax.sampling.importers import biggan_pytorch, conversion, hugging_face, layout, tf_hub
from bigjax.sampling.loaded import load
from bigjax.sampling.sampler import from_card
from bigjax.training import init_from

import pickles
import recipe
from golden_files import HERE
from weight_files import write

HF, HUB, HUB_DEEP = 'hf_deep128_ch8', 'hub_biggan128_ch8', 'hub_deep128_ch8'
NUM_NORMS = 41  # BatchNorms of BigGAN-deep at 128 px


def golden(name):
  with np.load(HERE / f'{name}.npz') as file:
    return dict(file)


@functools.cache
def drawn(name):
  return recipe.tensors(recipe.unpack(golden(name)['shapes']))


def weights(name):
  """Return a network in the layout it was published in."""
  return dict(drawn(name))


def converted(folder, arrays, *words, name='x.npz', config=None):
  """Write arrays to a file, run `bigjax convert` on it, and return where the generator is."""
  folder.mkdir(exist_ok=True)
  if config is not None:
    (folder / 'config.json').write_text(config if isinstance(config, str) else json.dumps(config))
  out = folder / 'x.safetensors'
  words = ['--gen', write(folder / name, arrays), '--out', out, *words]
  convert.main(list(map(str, words)))
  return out


def generate(path, name):
  """Return images(t) of an exported generator for the latents of a golden file, as it has them."""
  gen, card = cards.load(str(path))
  sampler, gen, _ = from_card(gen, card, jax.devices()[:1])
  z, y = golden(name)['in/z'], golden(name)['in/y'].astype(np.int32)
  run = jax.jit(sampler.generator.generate)

  def images(t):
    x = np.asarray(run(gen, z, y, SamplingSpec(np.float32(t), card['sampling']['dialect'])))
    b, h, w, c = x.shape
    places = recipe.places(golden(name)[OUT[name]].shape[-1], h, w)
    return x.reshape(b, h * w, c)[:, places].transpose(0, 2, 1)

  return images


OUT = {
  HF: 'out/0.4', HUB: 'out/biggan', 'hub_biggan512_ch8': 'out/biggan', HUB_DEEP: 'out/stack',
  'torch_biggan32_ch8': 'out/eval', 'torch_deep64_ch8': 'out/eval',
}  # fmt: skip


def assert_close(ours, theirs, atol=2e-4):
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


# --- pytorch-pretrained-BigGAN


def hf_config():
  return json.loads(golden(HF)['config'].tobytes())


@pytest.fixture(scope='module')
def hf(tmp_path_factory):
  folder = tmp_path_factory.mktemp('hf')
  return converted(folder, weights(HF), name='pytorch_model.bin', config=hf_config())


@pytest.fixture(scope='module')
def hf_images(hf):
  return generate(hf, HF)


@pytest.mark.parametrize('t', ['0.4', '1.0', '0.41'])
def test_hugging_face_at_and_midway_between_its_truncations(hf_images, t):
  assert_close(hf_images(float(t)), golden(HF)[f'out/{t}'])


def test_hugging_face_is_interpolated_the_right_way_round(hf_images):
  """At 0.405 the published code gives the set of 0.42 the weight of that of 0.40."""
  published, right = golden(HF)['out/0.405'], golden(HF)['out/0.405_right']
  assert_close(hf_images(0.405), right)
  assert_close(hf_images(0.415), published)
  assert np.abs(right - published).max() > 0.1


def test_card_of_hugging_face(hf):
  gen, card = cards.load(str(hf))
  assert card['architecture'] == {
    'network': 'biggan_deep', 'latent': 'normal', 'bn_eps': 1e-4, 'resolution': 128, 'ch': 8,
    'num_classes': 6, 'shared_dim': 16, 'channels': 3, 'attention': [64], 'z_dim': 16,
    'rgb_filters': 8,
  }  # fmt: skip
  assert card['sampling']['dialect'] == 'truncnorm' and card['converted_from'].endswith('BigGAN)')
  truncations = card['sampling']['truncations']
  assert len(truncations) == 51 and truncations[20] == '0.4'
  np.testing.assert_array_equal(gen['knots'], np.float32([float(f'{i / 50}') for i in range(51)]))


def test_hugging_face_is_sampled_between_its_truncations(hf, capsys):
  loaded = load(str(hf))
  for t, said in (('0.4', ''), ('1', ''), ('0.405', 'interpolated between those at 0.4 and 0.42')):
    loaded.prepare(loaded.spec(t))
    assert said in capsys.readouterr().err
    assert loaded.gen is loaded.stored  # nothing is measured


def test_the_stored_vectors_of_hugging_face_tell_the_norms(hf):
  """And not the exact norms, which after one power iteration are larger."""
  w = weights(HF)
  base = 'generator.layers.0.conv_1.weight_'
  m = w[f'{base}orig'].reshape(len(w[f'{base}u']), -1)
  sigma, exact = w[f'{base}u'] @ m @ w[f'{base}v'], np.linalg.svd(m)[1][0]
  kernel = cards.load(str(hf))[0]['params']['blocks_0']['conv2']['kernel']
  assert_close(kernel, w[f'{base}orig'].transpose(2, 3, 1, 0) / sigma, 1e-6)
  assert exact / sigma > 1.05


def test_hugging_face_after_the_division(hf, tmp_path):
  """A state dict from which `remove_spectral_norm` took the vectors."""
  arrays = weights(HF)
  for name in [name for name in arrays if name.endswith('weight_orig')]:
    base, w = name.removesuffix('_orig'), arrays.pop(name)
    u, v = arrays.pop(f'{base}_u'), arrays.pop(f'{base}_v')
    arrays[base] = w / (u @ w.reshape(len(w), -1) @ v)
  out = converted(tmp_path, arrays, name='m.safetensors')
  ours, wanted = (cards.load(str(path)) for path in (out, hf))
  assert ours[1]['architecture'] == wanted[1]['architecture']
  for path, want in trees.flat(wanted[0]).items():
    np.testing.assert_allclose(trees.flat(ours[0])[path], want, atol=2e-6, err_msg=path)


def test_epsilon_of_hugging_face(tmp_path, capsys):
  def eps(*words, config=None):
    out = converted(tmp_path / str(len(words)), weights(HF), *words, config=config)
    return cards.load(str(out))[1]['architecture']['bn_eps'], capsys.readouterr().out

  found, said = eps()
  assert found == 1e-4 and 'no config.json is beside the weights' in said
  os.rename(tmp_path / '0' / 'x.npz', tmp_path / '0' / 'biggan-deep-128-pytorch_model.npz')
  (tmp_path / '0' / 'biggan-deep-128-config.json').write_text(json.dumps({'eps': 1e-3}))
  beside = hugging_face.config_beside(str(tmp_path / '0' / 'biggan-deep-128-pytorch_model.npz'))
  assert beside == {'eps': 1e-3}
  assert hugging_face.from_hugging_face(weights(HF), beside).bn_eps == 1e-3
  assert eps('--bn_eps=1e-2')[0] == 1e-2


@pytest.mark.parametrize(
  ('change', 'says'),
  [
    ({'z_dim': 128}, 'z_dim 128'),
    ({'output_dim': 256}, 'output_dim 256'),
    ({'channel_width': 128}, 'channel_width 128'),
    ({'num_classes': 1000}, 'num_classes 1000'),
    ({'n_stats': 50}, 'n_stats 50'),
    ({'layers': [[True, 16, 16]] * 10}, 'other layers'),
    ({'eps': 'small'}, "eps 'small'"),
  ],
)
def test_a_configuration_of_other_weights_is_refused(change, says):
  with pytest.raises(errors.UserError, match=says):
    hugging_face.from_hugging_face(weights(HF), {**hf_config(), **change})


@pytest.mark.parametrize('text', ['{', '[]', '\xff'])
def test_a_configuration_that_is_none_is_refused(tmp_path, text):
  (tmp_path / 'config.json').write_text(text, encoding='latin1')
  with pytest.raises(errors.UserError, match=r'config\.json'):
    hugging_face.config_beside(str(tmp_path / 'pytorch_model.bin'))


# --- TF-Hub


@pytest.fixture(scope='module')
def hub(tmp_path_factory):
  return converted(tmp_path_factory.mktemp('hub'), weights(HUB))


def test_hub_as_its_converter_has_it(hub):
  """Images of the two networks of the converter differ by more than ours from one of them.

  biggan_v1.py adds its epsilon to the norms in the power iteration: 1e-4 of these small weights.
  """
  images, g = generate(hub, HUB)(1.0), golden(HUB)
  assert_close(images, g['out/biggan'])
  assert_close(images, g['out/v1'], 1e-2)
  gen, card = cards.load(str(hub))
  assert card['architecture'] == {
    'network': 'biggan', 'latent': 'normal', 'bn_eps': 1e-4, 'resolution': 128, 'ch': 8,
    'num_classes': 5, 'shared_dim': 128, 'channels': 3, 'attention': [64], 'z_dim': 120,
    'skip_z': True,
  }  # fmt: skip
  assert gen['knots'].tolist() == [1] and card['sampling']['truncations'] == ['1']
  assert card['sampling']['dialect'] == 'truncnorm' and card['player'] == 'gen'


@pytest.mark.slow
def test_hub_at_512(tmp_path):
  """Seven blocks, z 128, attention at 64 px."""
  name = 'hub_biggan512_ch8'
  out = converted(tmp_path, weights(name))
  assert cards.load(str(out))[1]['architecture']['attention'] == [64]
  assert_close(generate(out, name)(1.0), golden(name)['out/biggan'])


def stacked():
  """Return what the deep module's graph has beside its variables: constants, others between."""
  arrays, norms = {}, [n for n in weights(HUB_DEEP) if n.endswith('accumulated_mean:0')]
  for i, name in enumerate(norms):
    for j, stat in ((1, 'mean'), (3, 'var')):
      at = 10 * (i // 2) + j + 5 * (i % 2)
      rows = recipe.tensor(f'stack/{stat}/{i}', (51, *weights(HUB_DEEP)[name].shape))
      arrays[f'module_apply_default/stack_{at}:0'] = rows
  assert len(arrays) == 2 * NUM_NORMS
  return {**arrays, 'module_apply_default/stack_2:0': np.zeros(3, np.float32)}


@pytest.fixture(scope='module')
def hub_deep(tmp_path_factory):
  return converted(tmp_path_factory.mktemp('deep'), weights(HUB_DEEP) | stacked())


def test_deep_hub_with_the_statistics_of_its_graph(hub_deep):
  images = generate(hub_deep, HUB_DEEP)
  assert_close(images(0.4), golden(HUB_DEEP)['out/stack'])
  architecture = cards.load(str(hub_deep))[1]['architecture']
  assert architecture['attention'] == [64] and architecture['rgb_filters'] == 8


def test_deep_hub_with_the_statistics_of_its_variables(tmp_path):
  out = converted(tmp_path, weights(HUB_DEEP))
  gen = cards.load(str(out))[0]
  assert gen['knots'].tolist() == [1]
  want = weights(HUB_DEEP)['module/Generator/GBlock_7/BatchNorm_2/accumulated_var:0']
  np.testing.assert_array_equal(gen['stats']['blocks_7']['bn3']['norm']['var'], want[None])


@pytest.mark.slow
def test_images_of_deep_hub_with_the_statistics_of_its_variables(tmp_path):
  out = converted(tmp_path, weights(HUB_DEEP))
  assert_close(generate(out, HUB_DEEP)(1.0), golden(HUB_DEEP)['out/accumulated'])


def test_averaged_variables_are_sampled_and_raw_ones_trained(hub, hub_deep):
  path = generator_file.players_path(str(hub))
  players = safetensors.numpy.load_file(path)
  name, w = 'blocks_1/conv1/kernel', weights(HUB)
  raw, ema = (w[f'module/Generator/GBlock_1/conv0/w{end}:0'] for end in ('', '/ema_b999900'))
  np.testing.assert_array_equal(players[f'gen/{name}'], raw)
  np.testing.assert_array_equal(players[f'ema/{name}'], ema)
  folded = cards.load(str(hub))[0]['params']['blocks_1']['conv1']['kernel']
  ratio = folded / ema
  assert_close(ratio, np.full_like(ratio, ratio.mean()), 1e-4)
  assert not os.path.exists(
    generator_file.players_path(str(hub_deep))
  )  # of which no raw ones are given


def test_what_the_hub_has_beside_a_generator_is_named(tmp_path, capsys):
  arrays = {n: a for n, a in weights(HUB_DEEP).items() if 'accumul' not in n}
  gen = cards.load(str(converted(tmp_path, {**arrays, 'module/seed:0': np.zeros(1)})))[0]
  said = capsys.readouterr().out
  assert 'left out: seed.' in said and 'no standing statistics' in said
  assert set(gen) == {'params'}


def test_the_hub_without_averages_or_vectors():
  arrays = {n: a for n, a in weights(HUB).items() if 'ema_' not in n and '/u0' not in n}
  source = tf_hub.from_hub(arrays)
  assert source.raw == {} and 'raw one' in source.notes[0]
  assert not any(name.endswith('u0') for name in source.arrays)


def test_stacks_that_are_not_all_there_are_refused():
  arrays = weights(HUB_DEEP) | stacked()
  del arrays['module_apply_default/stack_21:0']
  with pytest.raises(errors.UserError, match='81 stacked statistics'):
    tf_hub.from_hub(arrays)


def test_attention_without_a_place_is_refused():
  arrays = weights(HUB)
  for name in arrays:
    if 'attention/theta/w' in name or 'attention/phi/w' in name:
      arrays[name] = np.zeros((1, 1, 17, 2), np.float32)
  with pytest.raises(errors.UserError, match='17 inputs'):
    tf_hub.from_hub(arrays)


def as_bigbigan(arrays):
  """BigGAN's variables as BigBiGAN's module calls them, with one vector for all classes.

  By the table of a public converter, which goes the other way.
  """
  found = {}
  for name, array in arrays.items():
    name = name.removeprefix('module/').replace('ema_b999900', 'ema_0.9999').replace('G_Z', 'GenZ')
    if name.startswith('linear/'):
      name, array = f'Generator/{name}', array[:1]
    affine = 'HyperBN' in name or 'ScaledCrossReplicaBN/' in name
    for ours in ('ScaledCrossReplicaBNbn', 'ScaledCrossReplicaBN', 'HyperBN', 'CrossReplicaBN'):
      name = name.replace(ours, 'BatchNorm')
    if affine:
      name = name.replace('/gamma', '/scale').replace('/beta', '/offset')
    found[f'module/GenEncWrapper/{name}'] = array
  return found


def test_the_generator_of_bigbigan(hub, tmp_path, capsys):
  """The same weights under its names are BigGAN's generator of the first class."""
  arrays = as_bigbigan(weights(HUB))
  assert 'module/GenEncWrapper/Generator/GBlock_2/BatchNorm_1/scale/w/ema_0.9999:0' in arrays
  assert 'module/GenEncWrapper/Generator/BatchNorm/accumulated_mean:0' in arrays
  assert 'module/GenEncWrapper/Generator/attention/gamma:0' in arrays
  out = converted(tmp_path, {**arrays, 'module/GenEncWrapper/Encoder/conv/w:0': np.zeros(3)})
  assert 'left out: Encoder/conv/w.' in capsys.readouterr().out
  (gen, card), (wanted, of_biggan) = (cards.load(str(path)) for path in (out, hub))
  assert card['architecture'] == {**of_biggan['architecture'], 'num_classes': 1}
  assert card['sampling']['truncations'] == ['none']
  assert np.isinf(gen['knots']).all()
  found = trees.flat({name: gen[name] for name in ('params', 'stats')})
  for path, want in trees.flat({name: wanted[name] for name in ('params', 'stats')}).items():
    want = want[:1] if path.endswith('shared/embedding') else want
    np.testing.assert_array_equal(found[path], want, err_msg=path)


# --- BigGAN-PyTorch


@pytest.mark.parametrize('name', ['torch_biggan32_ch8', 'torch_deep64_ch8'])
def test_biggan_pytorch_with_vectors_that_have_not_converged(tmp_path, name):
  """The first sums its statistics over 3 passes; the second's last epsilon, 1e-5, matters."""
  arrays = weights(name)
  for key in arrays:
    if key.endswith('accumulation_counter'):
      arrays[key] = np.full_like(arrays[key], 3)
  out = converted(tmp_path, arrays, '--bn_eps=1e-4', name='G_ema.pth')
  assert_close(generate(out, name)(np.inf), golden(name)['out/eval'])


def test_a_counter_of_zero_says_that_statistics_are_means():
  arrays = {
    f'output_layer.0.bn.{name}': np.float32(value)
    for name, value in (
      ('stored_mean', [6, 9]), ('stored_var', [3, 12]), ('accumulation_counter', [3]),
    )
  }  # fmt: skip
  moments = {'output': {'bn': {s: jax.ShapeDtypeStruct((2,), np.float32) for s in ('mean', 'var')}}}
  stats = biggan_pytorch.stats_in(arrays, moments)['output']['bn']
  assert stats['mean'].tolist() == [2, 3] and stats['var'].tolist() == [1, 4]
  arrays['output_layer.0.bn.accumulation_counter'][:] = 0
  assert biggan_pytorch.stats_in(arrays, moments)['output']['bn']['mean'].tolist() == [6, 9]


def test_a_normalised_class_embedding_is_divided(tmp_path):
  """BigGAN-PyTorch has none in its generator; a network with one has `shared.u0`."""
  arrays = weights('torch_deep64_ch8')
  w = arrays['shared.weight']
  u = np.linalg.svd(w)[0][:, :1].T
  out = converted(tmp_path, {**arrays, 'shared.u0': u}, '--raw_gen', tmp_path / 'x.npz')
  players = safetensors.numpy.load_file(generator_file.players_path(str(out)))
  want = w / np.linalg.norm(w, 2)
  assert_close(cards.load(str(out))[0]['params']['shared']['embedding'], want, 1e-6)
  assert_close(players['gen/shared/embedding'], want, 1e-6)


# --- checkpoints with more than a network


def test_a_network_beside_an_optimizer(tmp_path, capsys):
  arrays = weights('torch_deep64_ch8')
  whole = {f'state_dict.module.{name}': a for name, a in arrays.items()}
  whole |= {'optimizer.state.0.exp_avg': arrays['linear.weight']}
  found, notes = layout.network(whole)
  assert set(found) == set(arrays) and notes == ['left out: optimizer.state.0.exp_avg']
  converted(tmp_path, whole, name='checkpoint.pth')
  assert 'left out: optimizer.state.0.exp_avg' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('name', 'value', 'ending'),
  [
    ('linear.weight', np.nan, 'npz'), ('linear.weight', np.inf, 'safetensors'),
    ('blocks.0.0.bn1.stored_var', -1.0, 'pth'), ('linear.bias', 'text', 'npz'),
  ],
)  # fmt: skip
def test_weights_of_a_network_that_failed_are_refused_by_name(tmp_path, name, value, ending):
  arrays = {'linear.weight': np.ones((2, 2), np.float32), name: np.array([value, value])}
  if isinstance(value, float):
    arrays[name] = arrays[name].astype(np.float32)
  path = write(tmp_path / f'x.{ending}', arrays)
  with pytest.raises(errors.UserError, match=f'the array .*{name}.* of .*x.{ending}'):
    conversion.read_arrays(str(path))


def test_files_that_hold_no_network_or_several_are_refused():
  with pytest.raises(errors.UserError, match='moments of an optimizer'):
    layout.layout({'state.0.exp_avg': np.zeros(1), 'state.0.step': np.zeros(1)})
  with pytest.raises(errors.UserError, match="'D', 'G'"):
    layout.network({'G.linear.weight': np.zeros(1), 'D.linear.weight': np.zeros(1)})
  assert layout.layout({}) == layout.TORCH


def test_names_of_what_is_left_out_steer_no_terminal():
  names = ['linear.weight', 'a\x1b[2J\n' + 'b' * 1000]
  _, (note,) = layout.network({f'G.{n}': np.zeros(1) for n in names} | {names[1]: np.zeros(1)})
  assert note.startswith(r'left out: a\x1b[2J\n') and note.isprintable() and len(note) < 150


# --- every name


FROM = {
  HF: lambda arrays: hugging_face.from_hugging_face(arrays, {}),
  HUB: tf_hub.from_hub,
  HUB_DEEP: tf_hub.from_hub,
}
OPTIONAL = ('/u0:0', '/u1:0', 'accumulation_counter:0')


@pytest.mark.parametrize('name', FROM)
def test_every_array_is_used_and_none_may_be_missing(name):
  arrays = weights(name)
  source = FROM[name](arrays)
  needed = [n for n in arrays if not n.endswith(OPTIONAL)]
  raw = [n for n in needed if name == HUB and n.endswith(('/w:0', '/b:0', '/gamma:0', '/beta:0'))]
  known = {tf_hub.hub_name(n) for n in needed} - {tf_hub.hub_name(n) for n in raw}
  assert known <= set(source.names.values())
  assert not [note for note in source.notes if 'left out' in note]
  without = lambda key: {n: a for n, a in arrays.items() if n != key}
  for key in set(needed) - set(raw):
    with pytest.raises(errors.UserError, match=r'which .* needs') as caught:
      FROM[name](without(key))
    assert tf_hub.hub_name(key).split('/ema')[0].rsplit('_orig')[0] in str(caught.value)
  if raw:
    assert source.raw and not FROM[name](without(raw[0])).raw


@pytest.mark.parametrize('name', FROM)
def test_arrays_of_another_rank_are_refused_by_name(name):
  arrays = weights(name)
  for key in list(arrays)[::7]:
    if not key.endswith(OPTIONAL):
      with pytest.raises(errors.UserError, match='rank') as caught:
        FROM[name]({**arrays, key: np.zeros((2, 2, 2), np.float32)})
      assert tf_hub.hub_name(key) in str(caught.value)


WRONG = {
  'a superfluous array': (HF, {'generator.extra': np.zeros(1)}, "'generator.extra'"),
  'a superfluous layer': (HF, {'generator.layers.11.conv_0.bias': np.zeros(1)}, 'layers.11'),
  'vectors of another size': (HF, {'generator.gen_z.weight_u': np.zeros(7)}, 'gen_z.weight_orig'),
  'vectors of nothing': (HF, {'generator.gen_z.weight_u': np.zeros(2048)}, 'spectral norm 0'),
  'a width': (
    HF, {'generator.layers.3.conv_1.bias': np.zeros(33)}, "'generator.layers.3.conv_1.bias'",
  ),
  'a width of statistics': (
    HF, {'generator.layers.3.bn_1.running_vars': np.ones((51, 7))}, 'layers.3.bn_1.running_vars',
  ),
  'numbers of statistics': (
    HF, {'generator.layers.3.bn_1.running_vars': np.ones((50, 32))}, 'layers.3.bn_1.running_vars',
  ),
  'outputs': (HUB, {'module/Generator/G_Z/G_linear/b/ema_b999900:0': np.zeros(9)}, '9 outputs'),
  'a kernel': (
    HUB, {'module/Generator/GBlock/conv0/w/ema_b999900:0': np.zeros((3, 3, 128, 127))},
    "'Generator/GBlock/conv0/w/ema_b999900'",
  ),
}  # fmt: skip


@pytest.mark.parametrize('case', WRONG)
def test_wrong_arrays_are_refused_by_name(tmp_path, case):
  name, changes, says = WRONG[case]
  changes = {key: np.asarray(a, np.float32) for key, a in changes.items()}
  with pytest.raises(errors.UserError) as caught:
    converted(tmp_path, weights(name) | changes)
  assert says in str(caught.value) and str(caught.value).endswith('.')
  assert not (tmp_path / 'x.safetensors').exists()


# --- what comes after, and what must never happen


@pytest.mark.parametrize('which', ['hf', 'hub', 'hub_deep'])
def test_init_from_takes_all_of_it(request, which):
  path = str(request.getfixturevalue(which))
  _, card = cards.load(path)
  wanted = trees.flat(biggan_pytorch.gen_shapes(card['architecture'])['params'])
  weights, class_names = init_from.read(path)
  given, rows = init_from.match(weights, {'gen': wanted, 'ema': wanted}, True)
  assert class_names == card['class_names']
  assert set(given['gen']) == set(given['ema']) == set(wanted)
  assert all(row.new == row.dropped == 0 for row in rows)


def test_a_model_file_that_runs_code_is_refused(bigjax, tmp_path):
  sentinel = tmp_path / 'ran'
  words = pickles.tuple_of(pickles.text(f'touch {sentinel}'))
  evil = pickles.name_of('os', 'system') + words + b'R'
  for name, container in (('zip', pickles.in_zip), ('legacy', pickles.in_legacy)):
    path = tmp_path / name / 'pytorch_model.bin'
    path.parent.mkdir()
    path.write_bytes(container(pickles.dict_of(**{'generator.gen_z.weight': evil})))
    status, out, err = bigjax('convert', '--gen', path, '--out', tmp_path / 'x.safetensors')
    assert status == 2 and out == '' and err.count('\n') == 1
    assert 'os.system' in err and 'pytorch_model.bin' in err
  assert not sentinel.exists() and not (tmp_path / 'x.safetensors').exists()


class Evil:
  """An object whose pickle makes a file when it is loaded."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


def test_an_npz_file_that_runs_code_is_refused(bigjax, tmp_path):
  sentinel, path = tmp_path / 'ran', tmp_path / 'hub.npz'
  np.savez(path, **{'module/Generator/GenZ/G_linear/b:0': np.array([Evil(sentinel)], object)})
  status, out, err = bigjax('convert', '--gen', path, '--out', tmp_path / 'x.safetensors')
  assert status == 2 and out == '' and err.count('\n') == 1 and 'hub.npz' in err
  assert not sentinel.exists() and not (tmp_path / 'x.safetensors').exists()


@pytest.mark.parametrize('name', damaged_archives.NAMES)
def test_no_kind_of_damage_ends_in_a_traceback(name, tmp_path):
  damaged_archives.write(tmp_path)
  with pytest.raises(errors.UserError, match='cannot be read'):
    conversion.read_arrays(str(tmp_path / name))
