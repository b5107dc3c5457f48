"""StyleGAN2-ADA's networks in and out: restricted reading, names, golden images, the verb."""

import collections
import json
import os
import pickle
import random
import sys
import time
import types

import golden_style
import jax
import numpy as np
import nvidia_pickles as nv
import pytest
import safetensors.numpy

from bigjax import convert
from bigjax.core import errors, trees
from bigjax.models import stylegan2
from bigjax.nn.style import equalized
from bigjax.sampling import generator_file as cards
from bigjax.sampling.importers import conversion, nvidia_pickle, stylegan2_ada
from bigjax.sampling.importers.stylegan2_ada import FILTER
from bigjax.sampling.sampler import from_card

import pickles
from golden_files import golden, under

NAMES = ('stylegan2_uncond32', 'stylegan2_cond32')
TINY = {
  'resolution': 8, 'num_classes': 1, 'fmap_base': 8, 'fmap_max': 3, 'z_dim': 5, 'w_dim': 4,
  'mapping_layers': 2, 'channels': 3, 'architecture': 'skip',
}  # fmt: skip


def random_tree(shapes, seed=0):
  rng = np.random.RandomState(seed)
  return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)


@pytest.fixture(scope='module')
def tiny():
  """State dicts of a tiny run, without its discriminator."""
  params = random_tree(stylegan2_ada.gen_shapes(TINY))
  arrays = stylegan2_ada.generator_out(params, np.arange(4, dtype=np.float32), 8)
  return {'G': {name: 2 * a if 'weight' in name else a for name, a in arrays.items()},
          'G_ema': arrays}  # fmt: skip


def of_golden(name):
  """State dicts of a golden file; G's weights are not its average's."""
  arrays = golden(name)
  gen = {n: np.float32(a) for n, a in under(arrays, 'G/').items()}
  disc = {n: np.float32(a) for n, a in under(arrays, 'D/').items()}
  raw = {n: a if a.ndim < 2 or n.endswith('noise_const') else 2 * a for n, a in gen.items()}
  return {'G': raw, 'D': disc, 'G_ema': gen}


def saved(path, networks, protocol=3, **settings):
  path.write_bytes(nv.written(nv.snapshot(networks, **settings), protocol))
  return path


def converted(gen, *more):
  out = gen.parent / 'x.safetensors'
  convert.main(list(map(str, ['--gen', gen, '--out', out, *more])))
  return out


# --- The golden networks


@pytest.fixture(scope='module', params=NAMES)
def brought_in(request, tmp_path_factory):
  """(Name, the file that a golden network's .pkl became, with filters as the code has them)."""
  networks = of_golden(request.param)
  for arrays in networks.values():
    arrays |= {'b8.resample_filter': FILTER} if 'b4.fc.bias' in arrays else {}
  path = tmp_path_factory.mktemp('nv') / 'network-snapshot.pkl'
  return request.param, converted(saved(path, networks))


def test_images_are_the_golden_ones(brought_in):
  """With the noise that came with the weights; and truncated by the average w that did."""
  name, path = brought_in
  arrays, (gen, card) = golden(name), cards.load(str(path))
  sampler, gen, _ = from_card(gen, card, jax.devices()[:1])
  y = arrays['in/c'].argmax(1) if 'in/c' in arrays else np.zeros(len(arrays['in/z']))
  generate = jax.jit(sampler.generator.generate)
  psi = float(arrays['cfg/psi'])
  for words, wanted in (
    ({'noise': 'const'}, 'out/img_const'),
    ({'noise': 'const', 'truncation': str(psi)}, 'out/img_psi_const'),
  ):
    spec = sampler.generator.spec(card['sampling'], words)
    images = generate(gen, np.float32(arrays['in/z']), y.astype(np.int32), spec)
    golden_style.close(images, arrays[wanted], 1e-4)


def test_scores_are_the_golden_ones(brought_in):
  """Of the raw weights that training begins with, scaled as training scales them."""
  name, path = brought_in
  arrays, card = golden(name), json.loads(path.with_suffix('.json').read_text())
  stored = safetensors.numpy.load_file(cards.players_path(str(path)))
  fields, _ = stylegan2_ada.disc_architecture(of_golden(name)['D'])
  net = stylegan2.Discriminator(**fields, stddev_group=int(arrays['cfg/mb']))
  params = trees.nest(conversion.below(stored, 'disc/'))
  y = arrays['in/c'].argmax(1) if 'in/c' in arrays else np.zeros(len(arrays['in/z']))
  images = np.float32(arrays['out/img_const']).transpose(0, 2, 3, 1)
  run = jax.jit(
    lambda p, x, y: net.apply({'params': equalized.scale(p, stylegan2.DISC_GAINS)}, x, y)
  )
  golden_style.close(run(params, images, y.astype(np.int32)), arrays['out/d_fake'][:, 0], 1e-4)
  raw, ema = (conversion.below(stored, f'{name}/') for name in ('gen', 'ema'))
  kernel = 'synthesis/b8/conv0/kernel'
  np.testing.assert_array_equal(raw[kernel], 2 * ema[kernel])
  assert card['algorithm'] == 'stylegan2' and card['player'] == 'gen'
  assert card['converted_from'] == 'network-snapshot.pkl (StyleGAN2-ADA)'
  assert len(card['class_names']) == card['architecture']['num_classes'] == max(
    1, int(arrays['cfg/c'])
  )  # fmt: skip


@pytest.mark.parametrize('name', NAMES)
def test_golden_names_and_shapes_go_out_as_they_came(name):
  for player, theirs in of_golden(name).items():
    if player == 'D':
      shapes = stylegan2_ada.disc_shapes(*stylegan2_ada.disc_architecture(theirs))
      params, _ = stylegan2_ada.params_in(theirs, shapes, 'discriminator')
      back = stylegan2_ada.discriminator_out(params)
    else:
      fields = stylegan2_ada.gen_architecture(theirs)
      params, _ = stylegan2_ada.params_in(theirs, stylegan2_ada.gen_shapes(fields), 'generator')
      back = stylegan2_ada.generator_out(params, theirs['mapping.w_avg'], fields['resolution'])
    filters = {key for key in back if key.endswith('resample_filter')}
    assert filters and set(back) - filters == set(theirs)
    for key, want in theirs.items():
      assert back[key].shape == want.shape and back[key].dtype == np.float32
      if not key.endswith('noise_const'):  # of ours, what noise=const is
        np.testing.assert_array_equal(back[key], want, err_msg=key)


@pytest.mark.parametrize('kind', ['orig', 'resnet'])
def test_other_architectures_are_recognised(kind):
  theirs = under(golden('stylegan2_arch32'), f'G/{kind}/')
  assert stylegan2_ada.gen_architecture(theirs)['architecture'] == kind
  shapes = stylegan2_ada.gen_shapes(stylegan2_ada.gen_architecture(theirs))
  stylegan2_ada.params_in(theirs, shapes, 'generator')


# --- There and back


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_every_protocol_gives_the_arrays_and_settings(tiny, tmp_path, protocol):
  if protocol == 2:  # bytes are made by a call there, which torch's code never did
    with pytest.raises(errors.UserError, match=r'_codecs\.encode'):
      nvidia_pickle.read(str(saved(tmp_path / 'x.pkl', tiny, protocol)))
    return
  found = nvidia_pickle.read(str(saved(tmp_path / 'x.pkl', tiny, protocol)))
  assert set(found) == set(tiny)
  for name, network in found.items():
    assert set(network.arrays) == set(tiny[name])
    for key, want in tiny[name].items():
      np.testing.assert_array_equal(network.arrays[key], want, err_msg=key)
  by_path = {module.path: module for module in found['G_ema'].modules}
  assert by_path[''].class_name == 'Generator'
  assert by_path['mapping.fc0'].settings['bias_gain'] == 0.01
  assert by_path['mapping.fc0'].settings['weight_gain'] == pytest.approx(3**-0.5)  # numpy's number


def test_arrays_by_their_names_are_the_same_generator(tiny, tmp_path):
  """What goes out comes in: as .npz, G and G_ema by two options."""
  ours = converted(saved(tmp_path / 'x.pkl', tiny)).read_bytes()
  paths = {name: tmp_path / f'{name}.npz' for name in tiny}
  for name, path in paths.items():
    np.savez(path, **tiny[name])
  assert converted(paths['G_ema'], '--raw_gen', paths['G']).read_bytes() == ours


def test_const_noise_of_ours_comes_back(tiny, tmp_path):
  path = converted(saved(tmp_path / 'x.pkl', tiny))
  gen, card = cards.load(str(path))
  sampler, gen, _ = from_card(gen, card, jax.devices()[:1])
  plain = {name: gen[name] for name in ('params', 'w_avg')}
  z, y, spec = np.ones((1, 5), np.float32), np.zeros(1, np.int32), {'noise': 'const'}
  run = jax.jit(sampler.generator.generate)
  images = [run(of, z, y, sampler.generator.spec({}, spec)) for of in (gen, plain)]
  np.testing.assert_allclose(*images, rtol=1e-5)
  for name in trees.flat(gen['noise_const']):
    gen['noise_const'][name.split('/')[0]][name.split('/')[1]] += 1
  assert np.abs(run(gen, z, y, sampler.generator.spec({}, spec)) - images[0]).max() > 1e-2


def test_a_run_goes_out_and_comes_back(tmp_path, monkeypatch):
  gen, ema = (random_tree(stylegan2_ada.gen_shapes(TINY), seed) for seed in (1, 2))
  fields = {key: TINY[key] for key in ('resolution', 'num_classes', 'fmap_base', 'fmap_max')}
  disc = random_tree(stylegan2_ada.disc_shapes(fields, 3), 3)
  players = {'gen': {'params': gen}, 'disc': {'params': disc}}
  state = {'players': players, 'ema': ema, 'aux': {'w_avg': np.float32([1, 2, 3, 4])}}
  leaves, card = trees.flat(state), {'algorithm': 'stylegan2', 'architecture': TINY, 'step': 7}
  monkeypatch.setattr(cards, 'load_workdir', lambda *_: ({}, card))
  part = lambda _, step, wanted: {p: w for p, w in leaves.items() if wanted(p)}
  monkeypatch.setattr(conversion.checkpoint, 'restore_part', part)
  convert.main(['--workdir', 'run', '--out', str(tmp_path)])
  given = {'--raw_gen': 'G.npz', '--disc': 'D.npz'}
  words = [word for key, name in given.items() for word in (key, tmp_path / name)]
  path = converted(tmp_path / 'G_ema.npz', *words)
  back = safetensors.numpy.load_file(cards.players_path(str(path)))
  wanted = trees.flat({'gen': gen, 'disc': disc, 'ema': ema})
  assert set(back) == set(wanted)
  for key, want in wanted.items():
    np.testing.assert_array_equal(back[key], want, err_msg=key)
  ours, theirs = cards.load(str(path))
  assert theirs['architecture'] == TINY
  np.testing.assert_array_equal(ours['w_avg'], [1, 2, 3, 4])
  folded = equalized.scale(ema, stylegan2.GEN_GAINS)
  np.testing.assert_array_equal(
    ours['params']['mapping']['fc0']['kernel'], folded['mapping']['fc0']['kernel']
  )


# --- What is refused


@pytest.fixture
def refused(tmp_path):
  """Asserts that bytes, or a snapshot, are refused in one sentence with a word in it, and soon."""

  def check(content, *words):
    path = tmp_path / 'x.pkl'
    path.write_bytes(content if isinstance(content, bytes) else nv.written(content))
    start = time.process_time()
    with pytest.raises(errors.UserError) as caught:
      convert.main(['--gen', str(path), '--out', str(tmp_path / 'x.safetensors')])
    said = str(caught.value)
    assert time.process_time() - start < 5 and '\n' not in said and said.endswith('.')
    assert all(word in said for word in words), said
    assert os.listdir(tmp_path) == ['x.pkl']

  return check


def module_of(state=(), **changes):
  empty = {'_parameters': {}, '_buffers': {}, '_modules': {}}
  return nv.record('Generator', {**empty, **dict(state)}, **changes)


def attacked(what):
  """Where in a snapshot an object may hide."""
  return {
    'alone': what,
    'a network': {'G_ema': what},
    'a network that is not looked at': {'G_ema': module_of(), 'augment_pipe': what},
    'an attribute': {'G_ema': module_of({'x': [1, {'y': (what,)}]})},
    'a parameter': {'G_ema': module_of({'_parameters': {'w': what}})},
    'a source': {'G_ema': module_of(module_src=what)},
    'bytes of a storage': {'G_ema': module_of({'_parameters': {'w': nv.Call(
      nv.REBUILD, nv.Call(nv.STORED, pickles.in_legacy(nv.written(what)[2:-1])), 0, (3,), (1,),
    )}})},
  }  # fmt: skip


@pytest.mark.parametrize('where', attacked(None))
@pytest.mark.parametrize('name', ['os.system', 'builtins.eval', 'builtins.getattr', 'torch.load'])
def test_nothing_is_run(refused, tmp_path, where, name):
  sentinel = f'open({str(tmp_path / "ran")!r}, "w")'
  words = {'os.system': f'touch {tmp_path / "ran"}'}.get(name, sentinel)
  refused(attacked(nv.Call(nv.function(*name.rsplit('.', 1)), words))[where], repr(name))


def test_the_attack_is_live(tmp_path):
  """The same bytes, by pickle itself, do run: and a record runs its source in the official code."""
  pickle.loads(nv.written({'x': nv.Call(os.system, f'touch {tmp_path / "ran"}')}))
  assert (tmp_path / 'ran').exists()


@pytest.mark.parametrize(
  'name',
  [
    'torch_utils.persistence._src_to_module', 'torch_utils.persistence._import_hooks',
    'torch.nn.modules.linear.Linear', 'numpy.core.multiarray._reconstruct',
    'copyreg._reconstructor',
    'torch._utils._rebuild_tensor_v2.__globals__', 'builtins.dict', 'dnnlib.util.open_url',
    'functools.partial', 'torch.storage._load_from_bytes.__call__', 'training.networks.Generator',
  ],
)  # fmt: skip
def test_other_globals_are_refused_by_name(refused, name):
  refused({'G_ema': module_of({'x': nv.Call(nv.function(*name.rsplit('.', 1)))})}, repr(name))


@pytest.mark.parametrize(
  ('found', 'words'),
  {
    'nothing': ({}, ["no network 'G_ema'"]),
    'a list': ([1, 2], ['no networks by name']),
    'a state dict': ({'G_ema': {'w': nv.tensor(np.ones(3, np.float32))}}, ["no network 'G_ema'"]),
    'another record': ({'G_ema': module_of(type='function')}, ['another kind']),
    'a newer record': ({'G_ema': module_of(version=7)}, ['another kind']),
    'another network': ({'G_ema': module_of()}, ['no weights of StyleGAN2']),
    'a module that is none': ({'G_ema': module_of({'_modules': {'a': 3}})}, ["module 'a'"]),
    'a tensor that is none': ({'G_ema': module_of({'_buffers': {'a': 3}})}, ["tensor 'a'"]),
    'bytes that are none': (
      {'G_ema': module_of({'_buffers': {'a': nv.Call(nv.STORED, [1])}})}, ['not made of bytes'],
    ),
    'no storage': (
      {'G_ema': module_of({'_buffers': {'a': nv.Call(
        nv.REBUILD, nv.Call(nv.STORED, b'abc'), 0, (3,), (1,),
      )}})}, ['torch did not write'],
    ),
    'a tensor beyond its storage': (
      {'G_ema': module_of({'_buffers': {'a': nv.Call(
        nv.REBUILD, nv.Call(nv.STORED, nv.storage(np.ones(3, np.float32))), 0, (2**40,), (1,),
      )}})}, ['outside of its storage'],
    ),
    'a tensor that repeats its storage': (
      {'G_ema': module_of({'_buffers': {'a': nv.Call(
        nv.REBUILD, nv.Call(nv.STORED, nv.storage(np.ones(3, np.float32))), 0, (2**40,), (0,),
      )}})}, ['expands it'],
    ),
  }.values(),
)  # fmt: skip
def test_what_are_no_networks_is_refused(refused, found, words):
  refused(found, *words)


def test_modules_without_end_are_refused(refused):
  """One that many share and that holds much; and one that holds itself twice."""
  empty = {'_parameters': {}, '_buffers': {}, '_modules': {}}
  wide = nv.record('Generator', {**empty, 'x': dict.fromkeys(range(30_000))})
  many = {str(i): wide for i in range(30_000)}
  refused({'G_ema': module_of({'_modules': many})}, 'without end')

  held = {'type': 'class', 'class_name': 'Generator'}
  meta = pickles.dict_of(**{k: pickles.text(v) for k, v in held.items()}, version=b'K\x06',
                         state=b'h\x00')  # fmt: skip
  record = pickles.call(pickles.name_of('torch_utils.persistence', nv.RECORD.__qualname__), meta)
  modules = pickles.text('_modules') + pickles.dict_of(a=b'h\x01', b=b'h\x01')
  body = b'}q\x00' + record + b'q\x01' + b'h\x00' + modules + b's'
  refused(pickles.pickled(body + pickles.dict_of(G_ema=b'h\x01')), 'without end')


@pytest.mark.parametrize(
  'body',
  [
    b'\x8e' + (2**62).to_bytes(8, 'little') + b'abc',  # bytes of 4 exabytes
    b'\x8d' + (2**40).to_bytes(8, 'little') + b'abc',
    b'\x8b' + (2**31 - 1).to_bytes(4, 'little') + b'abc',
    b'(' * 300_000,
    b']' + b'(' * 3 + b'e',
    b'\x80\x02}q\x00h\x00h\x00s',
  ],
)
def test_sizes_that_are_not_there_are_refused(refused, body):
  refused(b'\x80\x04' + body + b'.')


def test_every_truncation_and_change_ends_in_a_sentence(tiny, tmp_path):
  path, content = tmp_path / 'x.pkl', nv.written(nv.snapshot({'G_ema': tiny['G_ema']}))
  rng = random.Random(0)
  cuts = [content[: rng.randrange(len(content))] for _ in range(40)] + [content[:-1]]
  for i in range(200):
    changed = bytearray(cuts[0] if i % 9 == 0 else content)
    for _ in range(rng.choice([1, 1, 3, 20])):
      changed[rng.randrange(len(changed))] = rng.randrange(256)
    cuts.append(bytes(changed))
  sentences = 0
  for changed in cuts:
    path.write_bytes(changed)
    try:
      nvidia_pickle.read(str(path))
    except errors.UserError as error:
      sentences += str(error).startswith(repr(str(path)))
  assert sentences > 100


@pytest.mark.parametrize(
  ('path', 'name', 'value'),
  [
    ('mapping.fc1', 'bias_gain', 0.1), ('mapping.fc0', 'activation', 'relu'),
    ('synthesis.b4.conv1.affine', 'bias_gain', 0.5), ('synthesis.b8.conv0', 'activation', 'linear'),
  ],
)  # fmt: skip
def test_layers_that_compute_something_else_are_refused(tiny, refused, path, name, value):
  refused(nv.snapshot({'G_ema': tiny['G_ema']}, **{path: {name: value}}), repr(path), name)


def test_arrays_that_do_not_fit_are_refused(tiny, refused):
  arrays = tiny['G_ema']
  but = lambda **changes: nv.snapshot({'G_ema': {**arrays, **changes}})
  without = lambda name: nv.snapshot({'G_ema': {n: a for n, a in arrays.items() if n != name}})
  for name in ('mapping.fc1.bias', 'mapping.w_avg', 'synthesis.b8.conv1.noise_strength'):
    refused(without(name), repr(name))
  refused(without('synthesis.b8.conv1.noise_const'), 'constant noise')
  filters = {'synthesis.b8.resample_filter': np.ones((4, 4), np.float32) / 16}
  refused(but(**filters), 'another filter')
  refused(but(**{'mapping.fc0.bias': np.ones(3, np.float32)}), 'expected [4]')
  refused(but(**{'mapping.extra.bias': np.ones(3, np.float32)}), 'no place')
  refused(but(**{'mapping.fc0.bias': np.full(4, np.nan, np.float32)}), 'mapping.fc0.bias')
  b16 = {n.replace('b8', 'b32'): a for n, a in arrays.items() if '.b8.' in n}
  refused(but(**b16), '[4, 8, 32]')


def test_options_without_a_use_are_refused(tiny, tmp_path):
  path = saved(tmp_path / 'x.pkl', tiny)
  for option in ('--disc=D.npz', '--raw_gen=G.npz', '--bn_eps=1e-4'):
    with pytest.raises(errors.UserError, match='leave'):
      converted(path, option)


def test_clamps_are_noted(tiny, tmp_path, capsys):
  clamped = {'synthesis.b8.conv0': {'conv_clamp': 256}}
  converted(saved(tmp_path / 'x.pkl', tiny, **clamped))
  assert 'cut off at +-256' in capsys.readouterr().out


def endless(times=40):
  """A tuple of one tuple three times, of one tuple three times, ...: 300 bytes in a file."""
  found = ()
  for _ in range(times):
    found = (found, found, found)
  return found


def test_objects_that_are_shared_are_not_printed(refused):
  """The repr of 22 such tuples took a minute, and twice that for every five bytes more."""
  refused({'G_ema': module_of(x=nv.Call(nv.function('numpy', 'dtype'), endless()))},
          "unknown type of the type 'tuple'")  # fmt: skip
  refused({'G_ema': module_of(x=nv.Call(nv.function('numpy', 'dtype'), 'V8\x1b[2J'))},
          r"unknown type 'V8\x1b[2J'")  # fmt: skip
  view = nv.Call(nv.REBUILD, nv.Call(nv.STORED, nv.storage(np.ones(3, np.float32))), endless(),
                 endless(), endless())  # fmt: skip
  refused({'G_ema': module_of({'_parameters': {'w': view}})}, "no valid shape for tensor 'w'")


@pytest.mark.parametrize(
  ('name', 'calls'),
  [
    (('torch._utils', nv.REBUILD.__qualname__), '_rebuild_tensor_v2'),
    (('builtins', 'set'), 'builtins.set'), (('dnnlib.util', 'EasyDict'), 'dnnlib.util.EasyDict'),
  ],
)  # fmt: skip
def test_arguments_are_few(refused, name, calls):
  refused({'G_ema': nv.Call(nv.function(*name), *range(17))}, calls, 'with 17 arguments')


def test_attributes_without_end_are_refused(monkeypatch):
  """A module of many empty dicts, in many places: it is not walked through as often as that."""
  monkeypatch.setattr(nvidia_pickle, '_MAX_ENTRIES', 1000)
  leaf = nvidia_pickle._Record('Layer', {str(i): {} for i in range(99)})
  walked = lambda num: list(nvidia_pickle._walk(
    nvidia_pickle._Record('G', {'_modules': {str(i): leaf for i in range(num)}})
  ))  # fmt: skip
  assert len(walked(9)) == 10
  with pytest.raises(nvidia_pickle.Refused, match='without end'):
    walked(10)


def test_tensors_that_share_one_storage_are_bounded(refused):
  """Each is as large as its storage may be expanded, and would be copied."""
  stored = nv.Call(nv.STORED, nv.storage(np.ones(10_000, np.float32)))
  view = nv.Call(nv.REBUILD, stored, 0, (32, 10_000), (0, 1))
  shared = {f'w{i}': view for i in range(3)}
  refused({'G_ema': module_of({'_parameters': shared})}, 'more than 64 times the file')


def test_names_without_end_are_refused(refused):
  view = nv.tensor(np.ones(3, np.float32))
  refused({'G_ema': module_of({'_parameters': {'w' * 1001: view}})}, 'names without end')
  refused({'G_ema': module_of({'w' * 10_001: 1})}, 'a key of more than 10000 letters')


@pytest.mark.parametrize(
  'value',
  [True, 'a\x1b[2Jb\n' + 'c' * 1000, 10**5000, -(10**5000), np.nan, np.inf, 2**63, b'4'],
  ids=range(8),
)
@pytest.mark.parametrize('key', ['conv_clamp', 'group_size', 'num_channels'])
def test_settings_that_are_no_numbers_are_refused(key, value):
  """Whatever it is: in one printable sentence."""
  module = nvidia_pickle.Module('b4.mbstd', 'MinibatchStdLayer', {'group_size': 4, key: value})
  if key == 'num_channels' and value is True:
    return  # as good as 1
  with pytest.raises(errors.UserError) as caught:
    stylegan2_ada.check_settings([module])
  said = str(caught.value)
  assert said.startswith(f"'b4.mbstd' has {key} ") and said.endswith('.')
  assert said.isprintable() and len(said) < 200


def test_a_clamp_that_would_steer_a_terminal_is_refused(tiny, refused):
  clamped = {'synthesis.b8.conv0': {'conv_clamp': '\x1b[2J'}}
  refused(nv.snapshot({'G_ema': tiny['G_ema']}, **clamped), "'synthesis.b8.conv0'", r"'\x1b[2J'")


def test_settings_that_are_numbers_are_noted():
  notes = lambda **settings: stylegan2_ada.check_settings(
    [nvidia_pickle.Module('b4.mbstd', 'MinibatchStdLayer', settings)]
  )
  assert notes(group_size=4, conv_clamp=None) == []
  assert '+-256.5' in notes(group_size=4, conv_clamp=256.5)[0]
  assert 'compares all examples' in notes(group_size=None)[0]
  assert 'compares 8 examples' in notes(group_size=8)[0]


def test_networks_of_no_sizes_are_refused(tiny):
  """Before anything is made of them: powers of two of 100,000 bits, or layers without number."""
  arrays, scalar = tiny['G_ema'], np.zeros((), np.float32)
  architecture = lambda more: stylegan2_ada.gen_architecture({**arrays, **more})
  with pytest.raises(errors.UserError, match='blocks are of'):
    architecture({f'synthesis.b{i}.x': scalar for i in range(50_000)})
  with pytest.raises(errors.UserError, match='a mapping of 1000 layers; at most 100'):
    architecture({f'mapping.fc{i}.weight': scalar for i in range(1000)})
  with pytest.raises(errors.UserError, match='5 inputs, no more than the 9 of its classes'):
    architecture({'mapping.embed.weight': np.zeros((9, 3), np.float32),
                  'synthesis.b4.conv1.affine.weight': np.zeros((3, 9), np.float32)})  # fmt: skip


# --- Other precisions


def typed(a):
  """A tensor in its own type, which `nv.tensor` takes for float32."""
  kind = {'f8': 'DoubleStorage', 'f2': 'HalfStorage', 'f4': 'FloatStorage'}[a.dtype.str[1:]]
  record = pickles.storage(numel=a.size, kind=('torch', kind))
  stored = nv.Call(nv.STORED, pickles.in_legacy(record, {'0': a.tobytes()}, width=a.itemsize))
  strides = tuple(stride // a.itemsize for stride in a.strides)
  return nv.Call(nv.REBUILD, stored, 0, a.shape, strides, False, collections.OrderedDict())


@pytest.mark.parametrize('dtype', [np.float16, np.float64])
def test_every_array_is_widened_or_narrowed_to_float32(tiny, tmp_path, dtype):
  """The average w and constant noise as well, which lie in the generator as they were read."""
  arrays = {name: np.array(a, dtype, order='C') for name, a in tiny['G_ema'].items()}
  network = nv.module(arrays, of_tensor=typed, of_parameter=typed)
  (tmp_path / 'x.pkl').write_bytes(nv.written({'G_ema': network}))
  found = nvidia_pickle.read(str(tmp_path / 'x.pkl'))['G_ema']
  assert set(found.arrays) == set(arrays)
  for name, want in arrays.items():
    assert found.arrays[name].dtype == np.float32
    np.testing.assert_array_equal(found.arrays[name], want.astype(np.float32), err_msg=name)
  gen, *_ = stylegan2_ada.bring_in({'G_ema': found})
  assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(gen))
  assert gen['noise_const'] and gen['w_avg'].shape == (4,)


# --- Torch's own pickles


def test_pickles_that_torch_writes_are_read(tiny, tmp_path, monkeypatch):
  """Real tensors, parameters and modules, some with their channels last, pickled by C."""
  torch = pytest.importorskip('torch')
  for name in ('torch_utils', 'torch_utils.persistence', 'dnnlib', 'dnnlib.util'):
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
  monkeypatch.setattr(sys.modules['torch_utils.persistence'], nv.RECORD.__qualname__, nv.RECORD,
                      raising=False)  # fmt: skip
  monkeypatch.setattr(nv.RECORD, '__name__', nv.RECORD.__qualname__)
  monkeypatch.setattr(sys.modules['dnnlib.util'], 'EasyDict', nv.EasyDict, raising=False)

  def buffer(a):
    a = torch.from_numpy(np.array(a))
    return a.to(memory_format=torch.channels_last) if a.ndim == 4 else a

  def record(kind, state):
    own = torch.nn.Module()
    return nv.record(kind, {**own.__dict__, **state})

  parameter = lambda a: torch.nn.Parameter(buffer(a), requires_grad=False)
  networks = {n: nv.module(of, '', buffer, parameter, record) for n, of in tiny.items()}
  ordered = collections.OrderedDict(networks)
  for protocol in (3, 4, 5):
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(dict(ordered), protocol))
    for name, network in nvidia_pickle.read(str(tmp_path / 'x.pkl')).items():
      assert set(network.arrays) == set(tiny[name])
      for key, want in tiny[name].items():
        np.testing.assert_array_equal(network.arrays[key], want, err_msg=key)
