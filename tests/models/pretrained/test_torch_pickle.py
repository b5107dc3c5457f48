"""PyTorch state dicts: files made by hand (right, wrong and hostile), and torch as the oracle."""

import collections
import copyreg
import io
import os
import pickle
import random
import struct
import time
import zipfile

import ml_dtypes
import numpy as np
import pytest

from bigjax.core import errors
from bigjax.models.pretrained import pickle_machine, torch_pickle

from pickles import (
  MAGIC,
  ORDERED,
  REBUILD,
  SYSTEM,
  W,
  call,
  dict_of,
  in_legacy,
  in_zip,
  integer,
  name_of,
  pickled,
  storage,
  tensor,
  text,
  tuple_of,
)

# Pickles by hand, opcode by opcode: torch need not be there, and some no pickler would write.


def stack_name(module, name):
  return text(module) + text(name) + b'\x93'


CONTAINERS = pytest.mark.parametrize('container', [in_zip, in_legacy])


@pytest.fixture
def read(tmp_path):
  def read(content):
    path = tmp_path / 'weights.pth'
    path.write_bytes(content)
    return torch_pickle.read(str(path))

  return read


@pytest.fixture
def refused(read):
  """Read a file that must be refused, in one sentence with these words and the file's name."""

  def refused(content, *words):
    start = time.process_time()
    with pytest.raises(errors.UserError) as error:
      read(content)
    said = str(error.value)
    assert time.process_time() - start < 20
    assert 'weights.pth' in said and '\n' not in said and said.endswith('.') and len(said) < 700
    assert error.value.__suppress_context__
    for word in words:
      assert word in said, said

  return refused


# Files that are right.


@CONTAINERS
def test_a_tensor_made_by_hand(read, container):
  found = read(container(dict_of(w=tensor())))
  assert list(found) == ['w'] and found['w'].dtype == np.float32
  np.testing.assert_array_equal(found['w'], W)
  assert not found['w'].flags.writeable


@CONTAINERS
def test_strides_offsets_and_shared_storage(read, container):
  found = read(
    container(
      dict_of(
        t=tensor((4, 3), (1, 4)),
        row=tensor((4,), (1,), 4),
        scalar=tensor((), (), 11),
        repeated=tensor((5, 4), (0, 1), 8),
        empty=tensor((0, 3), (3, 1)),
        empty_far=tensor((2, 0), (1, 1), 99),  # of no elements, none can lie outside
      )
    )
  )
  np.testing.assert_array_equal(found['t'], W.T)
  np.testing.assert_array_equal(found['row'], W[1])
  np.testing.assert_array_equal(found['scalar'], W[2, 3])
  np.testing.assert_array_equal(found['repeated'], np.broadcast_to(W[2], (5, 4)))
  assert found['scalar'].shape == () and found['empty'].shape == (0, 3)
  assert found['empty_far'].shape == (2, 0)
  assert np.shares_memory(found['t'], found['row'])


@CONTAINERS
def test_names_through_dicts_and_sequences_and_what_is_left_out(read, container):
  inner = dict_of(weight=tensor(), note=text('hello'), none=b'N', yes=b'\x88')
  pair = tuple_of(tensor((), ()), text('x'))
  optim = b'}(' + integer(140) + b'](' + tensor((), ()) + integer(1) + pair + b'eu'
  body = dict_of(
    state_dict=inner, optim=optim, itr=integer(7), lr=b'G' + struct.pack('>d', 0.1),
    dtype=name_of('torch', 'float16'), device=call(name_of('torch', 'device'), text('cuda')),
    size=call(name_of('torch', 'Size'), tuple_of(integer(3))), bare=storage(),
    size_of_torch_1=name_of('torch', 'Size') + tuple_of(tuple_of(integer(3))) + b'\x81',
  )  # fmt: skip
  assert list(read(container(body))) == ['state_dict.weight', 'optim.140.0', 'optim.140.2.0']


@CONTAINERS
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'uint16'])
def test_parameters_metadata_and_rebuilds_of_other_versions(read, container, dtype):
  v3 = name_of('torch._utils', '_rebuild_tensor_v3')
  v1 = name_of('torch._utils', '_rebuild_tensor')
  wrap = name_of('torch._utils', '_rebuild_parameter')
  untyped = storage(numel=48, kind=('torch.storage', 'UntypedStorage'))
  numbers = [integer(0), *(tuple_of(integer(n)) for n in (5, 1))]
  kept = {
    'plain': tensor((), ()),
    'parameter': call(wrap, tensor((), ()), b'\x88', ORDERED),
    'old': call(v1, storage(), *numbers),
  }
  if dtype != 'float32':
    kept = {'new': call(v3, untyped, *numbers, b'\x89', ORDERED, name_of('torch', dtype))}
  attributes = dict_of(_metadata=ORDERED)
  body = ORDERED + b'(' + b''.join(text(k) + v for k, v in kept.items()) + b'u' + attributes + b'b'
  found = read(container(body, width=1) if container is in_legacy and len(kept) == 1
               else container(body))  # fmt: skip
  assert list(found) == list(kept)
  if dtype != 'float32':
    expected = W.reshape(-1).view(getattr(ml_dtypes, dtype, dtype))[:5]
    np.testing.assert_array_equal(found['new'], expected)
    assert found['new'].dtype == dtype


def test_an_old_zip_has_no_byteorder_and_a_legacy_storage_may_name_no_view(read):
  for content in (
    in_zip(dict_of(w=tensor())).replace(b'byteorder', b'otherwise'),
    in_legacy(dict_of(w=tensor(stored=storage(more=[b'N'])))),
    in_legacy(b'\x80\x04\x95' + bytes(8) + dict_of(w=tensor())),  # a frame, as protocol 4 has
  ):
    np.testing.assert_array_equal(read(content)['w'], W)


# Files that would run something: each with its own way to reach os.system.


@pytest.fixture
def sentinel(tmp_path):
  return tmp_path / 'it-ran'


def attacks(sentinel):
  command = text(f'touch {sentinel}')
  system = name_of('os', 'system')
  evaluate = text(f'open({str(sentinel)!r}, "w").close()')
  fetched = call(name_of('builtins', 'getattr'), name_of('os', 'path'), text('os'))
  return {
    'reduce': (call(system, command), "'os.system'"),
    'stack_global': (stack_name('os', 'system') + command + b'\x85R', "'os.system'"),
    'eval': (call(name_of('builtins', 'eval'), evaluate), "'builtins.eval'"),
    'python2': (call(name_of('__builtin__', 'eval'), evaluate), "'__builtin__.eval'"),
    'inst': (b'(' + command + b'i' + system[1:], 'INST'),
    'obj': (b'(' + system + command + b'o', "'os.system'"),
    'newobj': (system + command + b'\x85\x81', "'os.system'"),
    'getattr': (call(fetched, command), "'builtins.getattr'"),
    'build': (ORDERED + system + b'b' + call(system, command), "'os.system'"),
    'key': (b'}' + call(system, command) + b'Ns', "'os.system'"),
    'persistent id': (tuple_of(text('storage'), call(system, command)) + b'Q', "'os.system'"),
  }


@pytest.mark.skipif(os.name != 'posix', reason='runs touch')
@pytest.mark.parametrize('name', ['reduce', 'stack_global', 'eval', 'inst', 'obj', 'key'])
def test_the_attacks_are_live(sentinel, name):
  assert not sentinel.exists()
  pickle.loads(pickled(attacks(sentinel)[name][0]))
  assert sentinel.exists()


@CONTAINERS
@pytest.mark.parametrize('name', attacks(''))
def test_nothing_is_run(refused, sentinel, container, name):
  body, word = attacks(sentinel)[name]
  for place in (body, dict_of(w=tensor(), x=body), dict_of(w=tensor()) + body):
    refused(container(place), word, 'nothing of it was run', 'torch.save(model.state_dict(), PATH)')
  assert not sentinel.exists()


@pytest.mark.parametrize('where', ['magic', 'version', 'system', 'keys'])
def test_nothing_is_run_in_the_other_pickles_of_a_legacy_file(refused, sentinel, where):
  evil = pickled(attacks(sentinel)['reduce'][0])
  evil = pickle.dumps(MAGIC, 2)[:-1] + evil[2:] if where == 'magic' else evil
  refused(in_legacy(dict_of(w=tensor()), **{where: evil}), 'asks for the global')
  assert not sentinel.exists()


@CONTAINERS
@pytest.mark.parametrize('opcode', ['82fa', '83fa00', '84fa000000'])
def test_extension_codes_are_refused_even_where_one_is_registered(
  refused, sentinel, container, opcode
):
  code, command = bytes.fromhex(opcode), text(f'touch {sentinel}')
  copyreg.add_extension(os.system.__module__, 'system', 0xFA)
  try:
    refused(container(code + command + b'\x85R'), 'opcode EXT')
  finally:
    copyreg.remove_extension(os.system.__module__, 'system', 0xFA)
  assert not sentinel.exists()


@CONTAINERS
@pytest.mark.parametrize(
  ('module', 'name'),
  [
    ('torch', 'load'),
    ('torch.hub', 'load'),
    ('torch.nn.modules.linear', 'Linear'),
    ('__main__', 'Generator'),
    ('collections', 'OrderedDict.__init__'),
    ('collections', 'OrderedDict.__reduce__'),
    ('collections', 'namedtuple'),
    ('torch._utils', '_rebuild_tensor_v2.__globals__'),
    ('torch', 'FloatStorage.from_file'),
    ('torch', 'ByteStorages'),
    ('numpy', 'dtype'),
    ('numpy.core.multiarray', '_reconstruct'),
    ('builtins', 'set'),
    ('bigjax.pth', '_tensor'),
    ('', ''),
    ('torch', ''),
    ('torch.', 'FloatStorage'),
  ],
)
def test_other_globals_are_refused_by_name(refused, container, module, name):
  for named in (name_of(module, name), stack_name(module, name)):
    refused(container(dict_of(w=tensor(), x=named)), f'{module}.{name}')


@CONTAINERS
@pytest.mark.parametrize(
  ('body', 'word'),
  {
    'call of a string': (call(text('os.system'), text('ls')), 'calls what is no function'),
    'call of a dict': (call(ORDERED), 'calls what is no function'),
    'call of a tensor': (call(tensor()), 'calls what is no function'),
    'call of a storage class': (call(name_of('torch', 'FloatStorage')), 'torch.FloatStorage'),
    'call of a dtype': (call(name_of('torch', 'float32')), 'calls torch.float32'),
    'wrong arguments': (call(REBUILD, integer(1)), 'damaged'),
    'arguments for a dict': (call(ORDERED[:-2], tuple_of(tuple_of(text('a'), b'N'))), 'Python 2'),
    'arguments that are no tuple': (REBUILD + integer(1) + b'R', 'damaged'),
    'state of a function': (REBUILD + dict_of(__code__=b'N') + b'b', 'sets attributes'),
    'slots of a class': (
      ORDERED[:-2] + b'N' + dict_of(__init__=b'N') + b'\x86b', 'sets attributes',
    ),
    'state of a tensor': (tensor() + dict_of(offset=integer(9)) + b'b', 'sets attributes'),
    'state of a list': (b']' + b'Nb', 'sets attributes'),
    'text persistent id': (b'Pstorage\n', 'opcode PERSID'),
    'module persistent id': (
      tuple_of(text('module'), text('Generator'), text('a.py'), text('')) + b'Q', 'persistent id',
    ),
    'unknown storage': (storage(kind=('torch', 'Size')), 'persistent id'),
    'storage by its name alone': (
      tuple_of(*map(text, ['storage', 'torch.FloatStorage', '0', 'cpu']), integer(12)) + b'Q',
      'persistent id',
    ),
    'negative storage': (storage(numel=-1), "'0'"),
    'storage of two sizes': (dict_of(a=storage(), b=storage(numel=11)), "'0'"),
    'view of a storage': (storage(more=[tuple_of(text('1'), integer(0), integer(3))]), 'part of'),
    'tensor of a tensor': (dict_of(w=tensor(stored=tensor())), 'damaged'),
    'tensor of a dict': (dict_of(w=tensor(stored=ORDERED)), 'damaged'),
    'odd key': (b'}' + tuple_of() + b'Ns', 'key'),
    'key without a value': (b'}(' + text('a') + b'u', 'damaged'),
    'update of a list': (b'](' + text('a') + b'Nu', 'damaged'),
    'set': (b'\x8f', 'opcode EMPTY_SET'),
    'out-of-band buffer': (b'\x97', 'opcode NEXT_BUFFER'),
    'empty stack': (b'R', 'damaged'),
    'no mark': (b't', 'damaged'),
    'no memo': (b'h\x07', 'damaged'),
    'no opcode': (b'\xff', 'damaged'),
    'no tensors': (dict_of(itr=integer(3)), 'holds no tensors'),
    'a tensor alone': (tensor(), 'without a name'),
    'two of one name': (
      dict_of(a=dict_of(b=tensor()), **{'a.b': tensor()}), "'a.b'",
    ),
    'negated view': (
      dict_of(w=tensor()[:-2] + dict_of(neg=b'\x88') + b'tR'), 'resolve_neg',
    ),
  }.values(),
)  # fmt: skip
def test_odd_pickles_are_refused(refused, container, body, word):
  refused(container(body), word)


def doubled(times):
  """Return a dict that holds a dict twice, that holds a dict twice, ..., that holds a tensor."""
  layers = b''.join(b'q\x01}(' + text('a') + b'h\x01' + text('b') + b'h\x01u' for _ in range(times))
  return dict_of(w=tensor()) + layers


def nested(times):
  """A tuple of a tuple twice, of a tuple twice, ...: short to write, without end to read."""
  return b')' + b'q\x09h\x09\x86' * times


def nested_dicts(times):
  return b'}' + (text('') + b'}') * times + b's' * times


def dict_of_integers(key, value):
  return b'}' + integer(key) + value + b's'


def shaped(size, stride):
  return dict_of(w=call(REBUILD, storage(), integer(0), size, stride, b'\x89', ORDERED))


@CONTAINERS
@pytest.mark.parametrize(
  ('body', 'word'),
  [
    (b'})' + b'\x85' * 1_000_000 + b'Ns', 'key'),  # crashes pickle.Unpickler
    (b'Nr\xff\xff\xff\xff', 'no tensors'),  # pickle.Unpickler allocates 64 GiB
    (b'\x8e' + struct.pack('<Q', 1 << 62) + b'ab', 'damaged'),
    (b'X\xff\xff\xff\xff', 'damaged'),
    (b'}q\x01' + text('a') + b'h\x01s', 'without end'),
    (b'}q\x01' + text('') + b'h\x01s', 'without end'),
    (b']q\x01' + b'h\x01a' * 1000, 'without end'),
    (doubled(60), 'without end'),
    (dict_of(**{'k' * 2000: dict_of(w=tensor())}), 'without end'),
    (dict_of(w=tensor((1 << 40, 1 << 40), (0, 0))), '64 times'),
    (dict_of(w=tensor((1 << 62,) * 60, (0,) * 60)), '64 times'),
    (dict_of(w=tensor((0, 1 << 62, 1 << 62), (1, 1, 1))), 'damaged'),
    (dict_of(w=tensor((1,) * 100_000, (1,) * 100_000)), 'no valid shape'),
    (dict_of(w=tensor(stored=storage(numel=1 << 62))), '.'),
    (dict_of(w=tensor(), x=nested(40)), 'without end'),
    (tensor(size=(0,), stored=nested(40)), 'damaged'),
    (shaped(dict_of_integers(3, nested(40)), tuple_of(integer(1))), 'no valid shape'),
    (shaped(tuple_of(integer(3)), dict_of_integers(1, nested(40))), 'no valid shape'),
    (shaped(nested(40), nested(40)), 'no valid shape'),
    (call(name_of('torch', 'device'), *[b'N'] * 17), 'calls torch.device with 17 arguments'),
    (call(REBUILD, storage(), *[b'N'] * 100), '_rebuild_tensor_v2 with 101 arguments'),
    (b'\x8b' + struct.pack('<i', 256) + b'\x01' * 256, 'opcode LONG4'),
    (dict_of(**{'k' * 10_001: tensor()}), 'a key of more than 10000 letters'),
    (dict_of(w=storage('7' * 1001)), 'persistent id'),
    (b'](' + tensor((64, 12), (0, 1)) + b'q\x07' + b'h\x07' * 100 + b'e', '64 times the file'),
    (
      dict_of(**{'k' * 900: b'](' + tensor((), ()) + b'q\x07' + b'h\x07' * 12_000 + b'e'}),
      'names without end',
    ),
    (nested_dicts(1001), 'nests without end'),
  ],
  ids=range(27),
)
def test_bombs_are_refused_at_once(refused, container, body, word):
  refused(container(body), word)


# Files that are damaged.


@CONTAINERS
@pytest.mark.parametrize(
  ('size', 'stride', 'offset'),
  [
    ((3, 4), (4, 1), 1),
    ((3, 4), (5, 1), 0),
    ((13,), (1,), 0),
    ((), (), 12),
    ((1,), (1,), 1 << 62),
    ((2, 2), (1 << 62, 1), 0),
    ((3, 4), (4, -1), 3),
    ((-3, 4), (4, 1), 0),
    ((3, 4), (4, 1), -1),
    ((3, 4), (4,), 0),
    ((12 * 64 + 1,), (0,), 0),
  ],
)
def test_a_tensor_outside_its_storage_is_refused(refused, container, size, stride, offset):
  refused(container(dict_of(ok=tensor(), far=tensor(size, stride, offset))), "'far'")


@CONTAINERS
@pytest.mark.parametrize('held', [0, 44, 47, 52])
def test_a_storage_of_another_length_is_refused(refused, container, held):
  words = ["'0'"] if container is in_zip else []
  refused(container(dict_of(w=tensor()), {'0': bytes(held)}), *words)


@CONTAINERS
def test_a_storage_that_is_not_there_is_refused(refused, container):
  refused(container(dict_of(w=tensor(stored=storage('7')))), 'storages' if container is in_legacy
          else 'archive/data/7')  # fmt: skip


@CONTAINERS
def test_every_truncation_is_refused(refused, container):
  content = container(dict_of(w=tensor()))
  for length in range(len(content)):
    refused(content[:length])


def test_legacy_heads_are_checked(refused):
  body = dict_of(w=tensor())
  refused(in_legacy(body, magic=MAGIC + 1), 'begins with')
  refused(in_legacy(body, version=1002), '1001')
  refused(in_legacy(body, system=SYSTEM | {'little_endian': False}), 'big-endian')
  refused(in_legacy(body, system=[]), 'damaged')
  refused(in_legacy(body) + b'\0', 'storages end')
  for keys in (['1'], ['0', '0'], [], [0], 7, ('0',)):
    refused(in_legacy(body, keys=keys))


def test_keys_of_legacy_storages_are_not_sorted(refused):
  """Two tuples without end, equal but not the same, are not compared."""
  keys = pickled(b'](' + nested(40) + nested(40) + b'e')
  refused(in_legacy(dict_of(a=tensor(), b=tensor(stored=storage('1'))), keys=keys), 'lists other')


# What the machine does with any language.


class Seen(tuple):
  """A tuple that counts who walks through it."""

  walks = 0

  def __iter__(self):
    Seen.walks += 1
    return super().__iter__()


@pytest.mark.parametrize('num', [17, 1000])
def test_arguments_are_counted_before_they_are_copied(num):
  called = []
  language = pickle_machine.Language({'a.b': lambda *args: called.append(args)}, (), 'sorry', None)
  with pytest.raises(pickle_machine.Refused, match=f'calls a.b with {num} arguments, sorry'):
    language.call(pickle_machine.Global('a.b'), Seen(range(num)))
  for args in ([1], {1: 2}, 'ab', None, range(2)):
    with pytest.raises(TypeError, match='no tuple'):
      language.call(pickle_machine.Global('a.b'), args)
  assert not called and not Seen.walks
  language.call(pickle_machine.Global('a.b'), tuple(range(16)))
  assert called == [tuple(range(16))]


def test_integer_keys_do_not_collide():
  """Python's own hash of each of these is 0: a megabyte of them took minutes."""
  keys = [k * (2**61 - 1) for k in range(1, 500)]
  assert {hash(key) for key in keys} == {0}
  longs = b''.join(b'\x8a\x20' + key.to_bytes(32, 'little') + b'N' for key in keys)
  language = pickle_machine.Language({}, (), 'sorry', None)
  found = pickle_machine.unpickle(io.BytesIO(pickled(b'}(' + longs + b'u')), language)
  assert [str(key) for key in found] == list(map(str, keys))
  assert len({hash(key) for key in found}) > 490


def test_told_looks_into_nothing():
  endless = ()
  for _ in range(60):
    endless = (endless, endless)
  for held in (endless, [endless], {1: endless}, 10**5000, b'x' * 10**6):
    assert pickle_machine.told(held) == f'of the type {type(held).__name__!r}'
  assert pickle_machine.told('a\x1b[2J\n' + 'b' * 10**6) == repr('a\x1b[2J\n' + 'b' * 44)
  for held in (None, True, -3, 2.5, 1 << 63):
    assert pickle_machine.told(held) == repr(held)


def test_zip_entries_are_checked(refused):
  body = dict_of(w=tensor())
  refused(in_zip(body, byteorder=b'big'), 'big-endian')
  refused(in_zip(body, compression=zipfile.ZIP_DEFLATED), 'packed entries')
  refused(in_zip(body, prefix='weights'), 'not one that torch.save wrote')
  content = in_zip(body)
  start = content.rindex(b'PK\x01\x02')  # the central entry of the storage
  for field, value in [(24, 1 << 30), (24, 40), (20, 40), (16, 12345), (42, 1), (8, 1), (10, 99)]:
    width = '<H' if field in (8, 10) else '<I'
    lied = bytearray(content)
    struct.pack_into(width, lied, start + field, value)
    refused(bytes(lied))


@pytest.mark.parametrize(
  'content',
  [b'', b'<!DOCTYPE html><html>', b'version https://git-lfs.github.com/spec/v1\n', b'PK\x03\x04',
   b'PK\x03\x04' * 100, pickle.dumps({'w': [1.0]}), bytes(1000), b'\x80\x02\x8a\n'],
)  # fmt: skip
def test_what_is_no_state_dict_at_all_is_refused(refused, content):
  refused(content)


def test_a_file_that_cannot_be_opened(tmp_path):
  for path in (tmp_path / 'absent.pth', tmp_path):
    with pytest.raises(errors.UserError, match=r'cannot read .*give a \.pth, \.pt or \.bin file\.'):
      torch_pickle.read(str(path))


def mutated(content, rng):
  content = bytearray(content)
  for _ in range(rng.choice([1, 1, 1, 2, 8])):
    content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
  return bytes(content)


def outcome(read, content):
  """Return the arrays, or None for a UserError; anything else goes on to fail the test."""
  try:
    return read(content)
  except errors.UserError:
    return None


def check_mutations(read, content, num=200):
  """Change random bytes: a zip file has checksums, so what is read at all of it is right."""
  rng, whole, refusals = random.Random(0), read(content), 0
  for _ in range(num):
    found = outcome(read, mutated(content, rng))
    refusals += found is None
    if found is not None and content.startswith(b'PK'):
      assert list(found) == list(whole)
      for name, array in whole.items():
        assert found[name].tobytes() == array.tobytes() and found[name].shape == array.shape
  assert refusals > num // 10


def check_storage_mutations(read, content, start, num=200):
  """Change one byte at or after `start` in a legacy file: no other storage sees it."""
  rng, whole = random.Random(0), read(content)
  for _ in range(num):
    changed, place = bytearray(content), rng.randrange(start, len(content))
    changed[place] ^= rng.randrange(1, 256)
    found = outcome(read, bytes(changed))
    if found is not None:
      assert list(found) == list(whole)
      touched = [n for n, array in whole.items() if found[n].tobytes() != array.tobytes()]
      assert all(np.shares_memory(found[a], found[b]) for a in touched for b in touched)


TWO = dict_of(a=tensor(), b=tensor(stored=storage('1')), c=tensor((4, 3), (1, 4)))
TWO_DATA = {'0': W.tobytes(), '1': W[::-1].tobytes()}


@CONTAINERS
def test_random_changes_to_files_made_by_hand(read, container):
  check_mutations(read, container(TWO, TWO_DATA))


def test_random_changes_to_legacy_storages(read):
  content = in_legacy(TWO, TWO_DATA)
  check_storage_mutations(read, content, len(content) - 2 * (8 + 48))


# torch itself as the oracle; it is no dependency of bigjax, so these mostly skip.


class TestAgainstTorch:
  @pytest.fixture
  def torch(self):
    return pytest.importorskip('torch')

  @pytest.fixture(params=['zip', 'legacy'])
  def saved(self, request, torch):
    def saved(tree, **options):
      file = io.BytesIO()
      torch.save(tree, file, _use_new_zipfile_serialization=request.param == 'zip', **options)
      return file.getvalue()

    return saved

  @staticmethod
  def check(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
      value = value.detach()
      assert str(value.dtype) == f'torch.{found[name].dtype}'
      assert found[name].shape == tuple(value.shape)
      assert found[name].tolist() == value.tolist()

  @pytest.mark.parametrize(
    'dtype',
    'float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool'.split(),  # noqa: E501, SIM905
  )
  @pytest.mark.parametrize('protocol', [2, 3, 4, 5])
  def test_dtypes_and_protocols(self, torch, saved, read, dtype, protocol):
    values = torch.arange(-3, 21).abs().reshape(2, 3, 4).to(getattr(torch, dtype))
    tree = {'all': values, 'one': values[1, 2, 3].clone(), 'none': values[:0].clone()}
    self.check(read(saved(tree, pickle_protocol=protocol)), tree)

  def test_views_and_shared_storages(self, torch, saved, read):
    w = torch.randn(4, 5, 6)
    tree = {
      'w': w, 't': w.transpose(0, 2), 'part': w[1:3, ::2, 1:-1], 'one': w[3, 4, 5],
      'expanded': w[0, 0].expand(7, 6), 'diagonal': w[0].diagonal(), 'empty': w[4:],
      'last': w.permute(2, 0, 1).to(memory_format=torch.contiguous_format),
      'nhwc': torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }  # fmt: skip
    found = read(saved(tree))
    self.check(found, tree)
    assert np.shares_memory(found['w'], found['part'])
    assert not np.shares_memory(found['w'], found['nhwc'])
    for name, value in tree.items():
      if value.numel():
        steps = tuple(step // value.element_size() for step in found[name].strides)
        assert steps == value.stride()

  def test_the_state_dict_of_a_module(self, torch, saved, read):
    nn = torch.nn
    conv = nn.utils.spectral_norm(nn.Conv2d(3, 8, 3))
    net = nn.Sequential(conv, nn.BatchNorm2d(8), nn.Linear(8, 2), nn.Embedding(5, 4)).double()
    self.check(read(saved(net.state_dict())), net.state_dict())
    self.check(read(saved(dict(net.named_parameters()))), dict(net.named_parameters()))

  def test_parameters_with_attributes(self, torch, saved, read):
    weight = torch.nn.Parameter(torch.randn(3, 2))
    weight.note = 'mine'
    tree = {'w': weight, 'tied': weight, 'b': torch.nn.Parameter(torch.ones(2), False)}
    self.check(read(saved(tree)), tree)

  def test_a_training_checkpoint(self, torch, saved, read):
    net = torch.nn.Linear(3, 2)
    adam = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    adam.step()
    tree = {
      'state_dict': net.state_dict(), 'optimizer': adam.state_dict(), 'itr': 12, 'best': 9.5,
      'name': 'é', 'device': torch.device('cpu'), 'dtype': torch.bfloat16, 'nothing': None,
      'big': 1 << 80, 'size': net.weight.shape, 'bare': torch.ones(3).untyped_storage(),
      'ordered': collections.OrderedDict(a=torch.ones(1)),
      'pair': (torch.zeros(2), [torch.ones(3)]),
    }  # fmt: skip
    expected = {f'state_dict.{name}': value for name, value in net.state_dict().items()}
    for index, state in adam.state_dict()['state'].items():
      expected |= {f'optimizer.state.{index}.{name}': value for name, value in state.items()}
    expected |= {'ordered.a': torch.ones(1), 'pair.0': torch.zeros(2), 'pair.1.0': torch.ones(3)}
    self.check(read(saved(tree)), expected)

  def test_a_whole_module_is_refused(self, torch, saved, refused):
    refused(saved(torch.nn.Linear(2, 2)), 'torch.nn.modules.linear.Linear', 'state_dict()')

  def test_other_kinds_of_tensor_are_refused(self, torch, saved, refused):
    refused(saved({'c': torch.ones(2, dtype=torch.complex64)}), 'torch.ComplexFloatStorage')
    refused(saved({'s': torch.eye(3).to_sparse()}), '_rebuild_sparse_tensor')
    negated = torch.imag(torch.ones(2, dtype=torch.complex64).conj())
    refused(saved({'n': negated}))

  def test_traced_modules_are_refused(self, torch, tmp_path):
    path = str(tmp_path / 'traced.pt')
    with open(path, 'wb') as file:
      torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), file)
    with pytest.raises(errors.UserError, match='TorchScript'):
      torch_pickle.read(path)

  def test_random_changes(self, torch, saved, read):
    tree = {'w': torch.randn(6, 5), 'n': torch.arange(9), 'h': torch.randn(7).half()}
    tree |= {'t': tree['w'].t(), 'p': torch.nn.Parameter(torch.randn(4))}
    content = saved({'state_dict': tree, 'itr': 3})
    check_mutations(read, content)
    if not content.startswith(b'PK'):
      num_bytes = 4 * 30 + 8 * 9 + 2 * 7 + 4 * 4
      check_storage_mutations(read, content, len(content) - num_bytes - 4 * 8)
