"""The exported generator: its formats, and the program that runs where bigjax is not installed."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from bigjax import export
from bigjax.algorithms.base import configs
from bigjax.core import device, trees
from bigjax.sampling import generator_file as cards
from bigjax.sampling import stablehlo
from bigjax.sampling.loaded import load
from bigjax.training.program import make_program

from places import ROOT

# Imports of the project fail here, as where only jax and flatbuffers are installed.
ALONE = """
import importlib.abc, json, sys

class Missing(importlib.abc.MetaPathFinder):
  def find_spec(self, name, path, target=None):
    if name.split('.')[0] in {'bigjax', 'flax', 'orbax', 'safetensors', 'tensorflow', 'optax'}:
      raise ModuleNotFoundError(f'{name} is not installed')

sys.meta_path.insert(0, Missing())
try:
  import bigjax
except ModuleNotFoundError:
  pass
else:
  raise SystemExit('bigjax is there')
import numpy as np
for name in sys.argv[1:]:
  card = json.load(open(name + '.stablehlo.json'))
  given, scope = dict(np.load(name + '.npz')), {}
  exec('\\n'.join(card['use']), scope)  # as pasted
  pasted, run = scope['images'], scope['jax'].jit(scope['program'].call)
  drawn = scope['latents'](3, len(given['z']))
  y = given['labels']
  y = np.eye(10, dtype=np.float32)[y] if 'weights' in card['inputs']['y'] else y
  images, few = run(given['z'], y), run(given['z'][:3], y[:3])
  np.savez(name + '-alone.npz', drawn=drawn, images=images, few=few, pasted=pasted)
"""
OURS = """
import sys
import numpy as np
from bigjax import sample
gen = sample.load(sys.argv[1])
for word in sys.argv[2:]:
  name, truncation = word.split('=')
  ask = ['--params', sys.argv[1], '--truncation', truncation, '--seed', '3', '--num', '20']
  sample.main([*ask, '--out', name + '.npz'])
  z = gen.sampler.latents(3, 20, gen.spec(truncation))
  np.savez(name + '.npz', z=z, **np.load(name + '.npz'))
"""


def outside(code, *argv, cwd):
  """Run Python on one CPU device, as users have it, in a folder; return its standard output."""
  env = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  done = subprocess.run(
    [sys.executable, '-I', '-c', code, *map(str, argv)],
    cwd=cwd, env=env, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  return done.stdout


def read(path):
  with np.load(path) as arrays:
    return dict(arrays)


CASES = {'whole': ('none', 'numbers'), 'cut': ('0.7', 'weights')}


def test_programs_alone_make_the_images_of_sample(bigjax, params, tmp_path):
  """Bit for bit, where bigjax cannot be imported; and the card tells how to draw the latents."""
  for name, (truncation, labels) in CASES.items():
    ask = ('--truncation', truncation, '--labels', labels, '--out', tmp_path / f'{name}.stablehlo')
    status, said, _ = bigjax('export', '--params', params, *ask)
    assert status == 0 and said.startswith(f'wrote {tmp_path / name}.stablehlo (')
  outside(OURS, params, *(f'{name}={t}' for name, (t, _) in CASES.items()), cwd=tmp_path)
  outside(ALONE, *CASES, cwd=tmp_path)
  for name in CASES:
    ours, alone = read(tmp_path / f'{name}.npz'), read(tmp_path / f'{name}-alone.npz')
    np.testing.assert_array_equal(alone['drawn'], ours['z'])
    np.testing.assert_array_equal(ours['labels'], np.arange(20) // 2)
    assert alone['images'].shape == (20, 16, 16, 1) and alone['images'].dtype == np.uint8
    np.testing.assert_array_equal(alone['images'], ours['images'])
    assert alone['pasted'].shape == (2, 16, 16, 1) and alone['pasted'].dtype == np.uint8
    assert (alone['pasted'][0] != alone['pasted'][1]).any()
    np.testing.assert_allclose(alone['few'].astype(int), ours['images'][:3].astype(int), atol=1)


# As ALONE, for a generator of which psi is an input.
STYLED = (
  ALONE[: ALONE.index('import numpy as np')]
  + """
import numpy as np
card, given, scope = json.load(open('styled.stablehlo.json')), dict(np.load('styled.npz')), {}
exec('\\n'.join(card['use']), scope)  # as pasted
run, z = scope['jax'].jit(scope['program'].call), scope['latents'](3, len(given['y']))
images = [run(z, given['y'], np.float32(psi)) for psi in given['psi']]
np.savez('alone.npz', z=z, images=images)
"""
)


def test_psi_is_an_input_of_a_program(bigjax, tmp_path):
  """A StyleGAN2's, where bigjax cannot be imported: each psi gives what sampling gives at it."""
  path, y, psi = str(tmp_path / 'styled.safetensors'), np.arange(6, dtype=np.int32), (0.0, 0.5, 1.0)
  program = make_program(configs.read('stylegan2:tiny'), jax.devices()[:1])
  stage, state = program.stage(0), program.init(jax.random.key(0), {})
  state['aux']['w_avg'] = state['aux']['w_avg'] + 0.3
  described = {
    'format': cards.FORMAT, 'algorithm': 'stylegan2', 'player': program.algorithm.sampled,
    'architecture': program.algorithm.architecture(stage), 'step': 1,
    'class_names': [str(k) for k in range(program.sampler(stage).generator.num_classes)],
    'sampling': program.algorithm.sampling(),
  }  # fmt: skip
  cards.save(path, program.gen(state, stage), described)
  status, said, _ = bigjax('export', '--params', path, '--out', tmp_path / 'styled.stablehlo')
  assert status == 0 and 'untruncated' in said
  card = json.loads((tmp_path / 'styled.stablehlo.json').read_text())
  assert list(card['inputs']) == ['z', 'y', 'psi']
  np.savez(tmp_path / 'styled.npz', y=y, psi=np.float32(psi))
  outside(STYLED, cwd=tmp_path)
  alone, gen = read(tmp_path / 'alone.npz'), load(path)
  for at, images in zip(psi, alone['images'], strict=True):
    spec = gen.spec(str(at))
    np.testing.assert_allclose(gen.sampler.latents(3, 6, spec), alone['z'], rtol=1e-6)
    ours = gen(y, truncation=at, seed=3)
    assert np.abs(images.astype(int) - ours).max() <= 1
  of_average, half, whole = alone['images'].astype(int)
  assert (of_average != half).any() and (half != whole).any()


def test_the_card_of_a_program(bigjax, params, tmp_path):
  out = tmp_path / 'x.stablehlo'
  assert bigjax('export', '--params', params, '--truncation', '0.5', '--out', out)[0] == 0
  card = json.loads((tmp_path / 'x.stablehlo.json').read_text())
  assert card['inputs']['z'] == 'float32 [b, 12]' and card['inputs']['y'].startswith('int32 [b], 0')
  assert card['output'] == 'uint8 [b, 16, 16, 1], for any b'
  assert card['made_at'] == {
    'truncation': '0.5:resample', 'dialect': 'resample', 'standing_passes': 2, 'standing_batch': 16,
  }  # fmt: skip
  page = (ROOT / 'docs' / 'sampling.md').read_text()
  shown = re.findall(r'```python\n(.*?)```', page, re.S)[-1]  # of digits, whose z is larger
  shown = re.sub(r'\b60\b', '12', shown).replace('runs/digits/export/generator', 'x')
  assert shown.splitlines() == card['use']
  assert card['platforms'] == ['cpu', 'cuda', 'tpu']
  assert card['program'] == 'x.stablehlo' and jax.__version__ in card['made_with']
  assert card['class_names'] == list('0123456789') and card['step'] == 4
  assert len(card['class_counts']) == 10 and sum(card['class_counts']) == 1347
  assert card['data_share'] == {'fraction': 1, 'per_class': 0, 'imbalance': 1}
  assert jax.export.deserialize(out.read_bytes()).platforms == ('cpu', 'cuda', 'tpu')


def test_a_program_is_the_same_whatever_device_it_is_made_on(params, monkeypatch):
  loaded = load(params)
  spec = loaded.spec('0.5')
  loaded.prepare(spec)

  def text():  # without lines that say where in which file it comes from
    module = jax.export.deserialize(stablehlo.program(loaded, spec)).mlir_module()
    return [line for line in module.splitlines() if not line.startswith('#loc')]

  here = text()
  gpu = types.SimpleNamespace(device_kind='NVIDIA H200', compute_capability='9.0')
  monkeypatch.setattr(jax, 'local_devices', lambda: [gpu])
  kinds, of_any = [], device.device_kind
  monkeypatch.setattr(device, 'device_kind', lambda: kinds.append(of_any()) or kinds[-1])
  assert text() == here
  assert set(kinds) == {'any'}  # else a program for CUDA, which runs nowhere else


def test_npz_holds_the_same_generator(bigjax, params, tmp_path):
  out = tmp_path / 'sub' / 'g.npz'
  status, said, _ = bigjax('export', '--params', params, '--out', out)
  assert status == 0 and said.startswith(f'wrote {out} (') and 'step 4' in said
  (theirs, their_card), (ours, our_card) = cards.load(str(params)), cards.load(str(out))
  assert our_card == their_card
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  arrays = read(out)
  assert json.loads(str(arrays.pop('card'))) == their_card
  assert set(arrays) == set(trees.flat(theirs))
  assert sorted(os.listdir(out.parent)) == ['g.npz']
  assert bigjax('sample', '--params', out, '--out', tmp_path / 'x.png')[0] == 0


def test_several_formats_at_once(bigjax, params, tmp_path):
  ask = ('export', '--params', params, '--out', tmp_path / 'many.v1')
  status, said, _ = bigjax(*ask, '--format', 'safetensors,npz,stablehlo')
  assert status == 0 and said.count('wrote ') == 3
  names = ['json', 'npz', 'safetensors', 'stablehlo', 'stablehlo.json']
  assert sorted(os.listdir(tmp_path)) == [f'many.v1.{name}' for name in names]
  gen, card = cards.load(str(tmp_path / 'many.v1.safetensors'))
  assert card == cards.load(str(params))[1] and gen['knots'].tolist() == [0.5, 1, 2, np.inf]


@pytest.mark.parametrize(
  ('out', 'formats', 'workdir', 'params', 'found'),
  [
    (None, None, 'w', None, {'safetensors': 'w/export/generator.safetensors'}),
    (None, 'stablehlo', 'w', None, {'stablehlo': 'w/export/generator.stablehlo'}),
    (None, 'npz', None, 'd/g.safetensors', {'npz': 'd/g.npz'}),
    ('x.npz', None, 'w', None, {'npz': 'x.npz'}),
    ('x.npz', 'npz', 'w', None, {'npz': 'x.npz'}),
    ('x.npz', 'npz,stablehlo', 'w', None, {'npz': 'x.npz', 'stablehlo': 'x.stablehlo'}),
    ('d/x.2', 'npz,stablehlo', 'w', None, {'npz': 'd/x.2.npz', 'stablehlo': 'd/x.2.stablehlo'}),
  ],
)
def test_where_it_is_written(out, formats, workdir, params, found):
  assert export.places(out, formats, workdir, params) == found


@pytest.mark.parametrize(
  ('argv', 'words'),
  [
    (['--out', 'x.bin'], ['--out=x.bin', '.safetensors or .npz or .stablehlo']),
    (['--out', 'x.npz', '--format', 'stablehlo'], ['ends in .stablehlo']),
    (['--format', 'npy'], ['--format', "'npy'", 'did you mean npz?']),
    (['--format', 'safetensors'], ['is that file already']),
    (['--format', 'npz', '--truncation', '1'], ['are for --format=stablehlo']),
    (['--format', 'npz', '--labels', 'weights'], ['are for --format=stablehlo']),
    (['--format', 'stablehlo', '--truncation', '-1'], ['truncation -1']),
    (['--format', 'stablehlo', '--checkpoint', '2'], ['--checkpoint']),
    (['--classifier', 'c.npz'], ['--classifier=c.npz makes a new generator', '--out']),
    (['--classifier', 'c.npz', '--format', 'npz'], ['--classifier=c.npz makes', '--out']),
    (['--classifier', 'c.npz', '--out', './c.npz'], ['--classifier=c.npz is that file already']),
  ],
)
def test_an_export_that_makes_no_sense(bigjax, params, tmp_path, monkeypatch, argv, words):
  monkeypatch.chdir(tmp_path)
  status, out, err = bigjax('export', '--params', params, *argv)
  assert status == 2 and out == ''
  assert err.startswith('bigjax: ') and err.count('\n') == 1
  assert all(word in err for word in words), err
  assert not list(tmp_path.iterdir())


def test_what_is_guided_does_not_take_the_place_of_the_runs_own_export(bigjax, tmp_path):
  status, _, err = bigjax('export', '--workdir', tmp_path, '--classifier', 'c.npz')
  assert status == 2 and 'makes a new generator: say with --out' in err and err.count('\n') == 1


def test_a_workdir_that_is_none(bigjax, tmp_path):
  status, _, err = bigjax('export', '--workdir', tmp_path)
  assert status == 2 and 'is not the workdir of a run' in err and err.count('\n') == 1


@pytest.mark.parametrize('formats', ['stablehlo', 'safetensors,stablehlo'])
def test_without_flatbuffers(bigjax, tmp_path, monkeypatch, formats):
  """Said before anything is read, which is not there, or written."""
  found = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util, 'find_spec', lambda name: None if name == 'flatbuffers' else found(name)
  )
  ask = ('--params', tmp_path / 'none.npz', '--format', formats)
  status, _, err = bigjax('export', *ask)
  assert status == 2 and err.count('\n') == 1 and "pip install 'bigjax[export]'" in err
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('content', 'words'),
  [
    (None, ['no exported generator']),
    (b'', ['damaged']),
    (b'PK\x03\x04nothing', ['damaged']),
    ('other', ['no card']),
    ('card', ['not a card of format']),
  ],
)
def test_an_npz_that_is_not_one(bigjax, tmp_path, content, words):
  path = tmp_path / 'g.npz'
  if content in ('other', 'card'):
    np.savez(path, **{content: np.array('{}')})
  elif content is not None:
    path.write_bytes(content)
  status, _, err = bigjax('sample', '--params', path, '--out', tmp_path / 'x.png')
  assert status == 2 and err.startswith('bigjax: ') and err.count('\n') == 1
  assert all(word in err for word in [*words, 'g.npz']), err
