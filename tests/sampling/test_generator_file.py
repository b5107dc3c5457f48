"""Exported generators as anybody may send them: read, or refused in one line.

`fuzz.py --target cards` found what is in DAMAGED: each ended in another exception once.
"""

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib

import jax
import numpy as np
import pytest
import safetensors.numpy

from bigjax.algorithms import family
from bigjax.core import errors
from bigjax.sampling import generator_file as cards
from bigjax.sampling.sampler import from_card

import toys  # noqa: F401 - the family toy_denoiser

CARD = {
  'format': cards.FORMAT,
  'algorithm': 'biggan',
  'architecture': {'ch': 8},
  'class_names': ['été', 'b'],
  'player': 'gen',
  'sampling': {'dialect': 'resample'},
}
ARRAYS = {'params/conv/kernel': np.ones((2, 3), np.float32), 'knots': np.arange(3.0)}
HUGE = b'[' * 100_000


def tensors(header, body=b''):
  """The bytes of a safetensors file."""
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  return struct.pack('<Q', len(text)) + text + body


def tensor(kind='F32', shape=(1,), size=4):
  return {'dtype': kind, 'shape': list(shape), 'data_offsets': [0, size]}


def member(header, body=b''):
  """The bytes of a .npy file."""
  return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header)) + header + body


def array(given):
  out = io.BytesIO()
  np.lib.format.write_array(out, np.asarray(given))
  return out.getvalue()


def npz(members, card=CARD, how=zipfile.ZIP_STORED):
  """The bytes of an .npz with members of these bytes, and a card."""
  out = io.BytesIO()
  with zipfile.ZipFile(out, 'w', how) as archive:
    archive.writestr('card.npy', array(card if isinstance(card, str) else json.dumps(card)))
    for name, given in members.items():
      archive.writestr(f'{name}.npy', given)
  return out.getvalue()


def claim(shape, kind='<f4'):
  return f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}}}\n".encode()


def version(given):
  """The same zip, said to need a version that no reader has."""
  at = given.index(b'PK\1\2')
  return given[: at + 6] + b'\xff\0' + given[at + 8 :]


WHOLE = safetensors.numpy.save(ARRAYS)
DAMAGED = {  # a card's text, a safetensors file, or an .npz
  'nested card': ('json', HUGE),
  'nested object': ('json', b'{"a":' * 100_000),
  'card of digits': ('json', b'9' * 10_000),
  'card of bytes': ('json', b'\xff\xfe'),
  'card of nothing': ('json', b''),
  'tensor within another': ('safetensors', tensors({'a': tensor(), 'a/b': tensor()}, bytes(4))),
  'one after the other': (
    'safetensors',
    tensors({'a/b': tensor(), 'a': {**tensor(), 'data_offsets': [4, 8]}}, bytes(8)),
  ),
  'a path too deep': ('safetensors', tensors({'a/' * 5000 + 'x': tensor()}, bytes(4))),
  'four bits': ('safetensors', tensors({'a': tensor('F4', (2,), 1)}, bytes(1))),
  'nested header': ('safetensors', tensors(HUGE)),
  'a header of its own': ('safetensors', tensors({'a': tensor(shape=(2**40, 2**40))}, bytes(4))),
  'no tensors': ('safetensors', b'\xff' * 8),
  'zeros': ('safetensors', bytes(64)),
  'nested card in npz': ('npz', npz({}, HUGE.decode())),
  'card of numbers': ('npz', npz({}, '[1, 2')),
  'an array of terabytes': ('npz', npz({'a': member(claim((2**42,)))})),
  'beyond all numbers': ('npz', npz({'a': member(claim((2**70, 3)))})),
  'of negative size': ('npz', npz({'a': member(claim((-3,)))})),
  'a header that does not end': ('npz', npz({'a': member(b"{'descr': (((")})),
  'a header of brackets': ('npz', npz({'a': member(b'(' * 9000)})),
  'objects': ('npz', npz({'a': member(claim((1,), '|O'), b'cos\nsystem\n')})),
  'another version': ('npz', version(npz({}))),
  'array within another': ('npz', npz({'a': array(1.0), 'a/b': array(1.0)})),
  'not an array': ('npz', npz({'a': b'no array'})),
  'a bare array': ('npz', array(np.ones(3))),
  'a pickle': ('npz', b'\x80\x04cos\nsystem\n(S"true"\ntR.'),
  'zip bomb': ('npz', npz({'a': array(np.zeros(2**23))}, how=zipfile.ZIP_DEFLATED)),
}


def write(folder, **files):
  """Write a generator, some of its files replaced; return the folder."""
  (folder / 'g.safetensors').write_bytes(files.get('safetensors', WHOLE))
  (folder / 'g.json').write_bytes(files.get('json', json.dumps(CARD).encode()))
  (folder / 'g.npz').write_bytes(files.get('npz', npz({k: array(v) for k, v in ARRAYS.items()})))
  return folder


def refusal(call, *given):
  """The one sentence with which something is refused."""
  with pytest.raises(errors.UserError) as error:
    call(*(str(one) if isinstance(one, os.PathLike) else one for one in given))
  message = str(error.value)
  assert message.isprintable() and len(message) < 600, message
  return message


@pytest.mark.parametrize('kind', ['safetensors', 'npz'])
def test_what_was_written_is_read(tmp_path, kind):
  gen, card = cards.load(str(write(tmp_path) / f'g.{kind}'))
  assert card == CARD and set(gen) == {'params', 'knots'}
  np.testing.assert_array_equal(gen['params']['conv']['kernel'], np.ones((2, 3)))


@pytest.mark.parametrize('rate', [0, -8, float('nan'), '8', None, True])
def test_a_frame_rate_is_a_number(rate):
  cards.check({**CARD, 'frame_rate': 12.5}, 'g.json')
  assert 'expected frames per second' in refusal(cards.check, {**CARD, 'frame_rate': rate}, 'g')


@pytest.mark.parametrize('fit', ['zoom', None, ['crop']])
def test_how_images_were_made_square_is_a_word(fit):
  cards.check({**CARD, 'fit': 'pad'}, 'g.json')
  assert 'expected crop, pad, stretch' in refusal(cards.check, {**CARD, 'fit': fit}, 'g')


@pytest.mark.parametrize('name', DAMAGED)
def test_damage_is_one_sentence(tmp_path, name):
  kind, given = DAMAGED[name]
  path = write(tmp_path, **{kind: given}) / f'g.{kind}'
  message = refusal(cards.load, path.with_suffix('.safetensors') if kind == 'json' else path)
  assert 'g.' in message and ('is damaged (' in message or 'not a card' in message), message


@pytest.mark.parametrize('given', [HUGE, b'{', b'\xff', b'[]', b'{"format": 2}'])
def test_a_workdir_whose_card_is_damaged(tmp_path, given):
  (tmp_path / 'card.json').write_bytes(given)
  assert 'card.json' in refusal(cards.load_workdir, tmp_path)


WRONG = {
  'algorithm': (7, None, ['biggan']),
  'architecture': ('x', [], None),
  'class_names': ('ab', [1], {'a': 1}, None),
  'player': (0, ['gen'], None),
  'sampling': ('none', ['0.5'], 1, None),
  'format': (str(cards.FORMAT), cards.FORMAT - 1, cards.FORMAT + 1, None, [], True, 3.0),
}


@pytest.mark.parametrize(('key', 'value'), [(k, v) for k, given in WRONG.items() for v in given])
def test_a_card_of_other_things_is_refused(tmp_path, key, value):
  """Naming what is wrong, in either file."""
  card = {**CARD, key: value}
  write(tmp_path, json=json.dumps(card).encode(), npz=npz({}, card))
  for kind in ('safetensors', 'npz'):
    message = refusal(cards.load, tmp_path / f'g.{kind}')
    assert 'format' in message if key == 'format' else f'its {key!r} is ' in message


@pytest.mark.parametrize('kind', ['safetensors', 'npz'])
@pytest.mark.parametrize(
  ('name', 'value', 'said'),
  [
    ('params/conv/kernel', np.nan, 'not finite'),
    ('params/conv/kernel', np.inf, 'not finite'),
    ('stats/bn/var', -0.1, 'at least 0'),
    ('knots', np.nan, 'not finite'),
    ('knots', np.inf, ''),  # the statistics of untruncated samples
    ('stats/bn/mean', -0.1, ''),
  ],
)
def test_weights_that_are_no_networks_are_refused_by_name(tmp_path, kind, name, value, said):
  arrays = {**ARRAYS, name: np.full((2, 3), 1.0)}
  arrays[name][1, 2] = value
  write(
    tmp_path, safetensors=safetensors.numpy.save(arrays),
    npz=npz({k: array(v) for k, v in arrays.items()}),
  )  # fmt: skip
  if not said:
    cards.load(str(tmp_path / f'g.{kind}'))
    return
  message = refusal(cards.load, tmp_path / f'g.{kind}')
  assert name in message and f'g.{kind}' in message and said in message


@pytest.mark.parametrize(
  'value', [-1, 2**31, 2**63, 10**30, float('nan'), float('inf'), [8, -1], {'ch': -1}]
)
def test_numbers_of_a_card_have_a_range(tmp_path, value):
  write(tmp_path, json=json.dumps({**CARD, 'architecture': {'ch': value}}).encode())
  assert "'ch'" in refusal(cards.load, tmp_path / 'g.safetensors')


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    ({}, ''),
    ({'architecture': {'width': 4, 'channels': 3, 'resolution': 8}}, 'Conv_0'),
    ({'architecture': {'width': 'x', 'channels': 1, 'resolution': 8}}, 'do not fit together'),
    ({'architecture': {'width': 4}}, 'do not fit together'),
    ({'class_names': ['a', 'b']}, 'names 2 classes, its generator has 1'),
  ],
)
def test_a_card_and_arrays_that_are_not_of_one_generator_are_refused(change, said):
  """Before anything is computed of them, or written."""
  fits = {'width': 4, 'channels': 1, 'resolution': 8}
  card = {**CARD, 'algorithm': 'toy_denoiser', 'architecture': fits, 'class_names': ['a']}
  card['sampling'] = {}
  generator = family('toy_denoiser').make_generator(fits)
  gen = generator.net.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))['params']
  if not said:
    from_card(gen, card)
    return
  with pytest.raises(errors.UserError, match=said):
    from_card(gen, {**card, **change})


def test_odd_names_do_not_leave_the_sentence(tmp_path):
  """Nor steer a terminal."""
  name = 'x\n\x1b[31m' * 3
  write(tmp_path, safetensors=tensors({name: tensor(), f'{name}/b': tensor()}, bytes(4)))
  refusal(cards.load, tmp_path / 'g.safetensors')


def test_a_bomb_is_not_unpacked(tmp_path):
  """Two GiB of zeros in 2 MB: refused by what the archive says of itself, before any is read."""
  pack = zlib.compressobj(9, wbits=-15)
  block = pack.compress(bytes(2**24)) + pack.flush(zlib.Z_FULL_FLUSH)
  head = member(claim((2**29,)))
  raw = zlib.compressobj(9, wbits=-15)
  raw = raw.compress(head) + raw.flush(zlib.Z_FULL_FLUSH) + block * 128 + b'\x03\x00'
  good = npz({})
  at, directory = good.index(b'PK\1\2'), good[good.index(b'PK\1\2') : good.index(b'PK\5\6')]
  sizes = struct.pack('<III', 0, len(raw), len(head) + 2**31)
  local = b'PK\3\4' + struct.pack('<HHHHH', 20, 0, 8, 0, 33) + sizes + struct.pack('<HH', 5, 0)
  entry = b'PK\1\2' + struct.pack('<HHHHHH', 20, 20, 0, 8, 0, 33) + sizes
  entry += struct.pack('<HHHHHII', 5, 0, 0, 0, 0, 0, at)
  start = at + len(local) + 5 + len(raw)
  listed = directory + entry + b'a.npy'
  end = b'PK\5\6' + struct.pack('<HHHHIIH', 0, 0, 2, 2, len(listed), start, 0)
  (tmp_path / 'g.npz').write_bytes(good[:at] + local + b'a.npy' + raw + listed + end)
  code = (
    'import resource, sys\nfrom bigjax.core import errors\n'
    'from bigjax.sampling import generator_file\n'
    'most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nbefore = most()\n'
    'try:\n  generator_file.load(sys.argv[1])\nexcept errors.UserError as error:\n  print(error)\n'
    'print((most() - before) // 1024)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code, str(tmp_path / 'g.npz')],
    env=os.environ, capture_output=True, text=True, check=True, timeout=100,
  )  # fmt: skip
  said, mib = done.stdout.splitlines()
  assert 'it would unpack to 2,147,4' in said and int(mib) < 200, done.stdout
