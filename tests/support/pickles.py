"""Pickles written by hand, in the layouts of torch.save."""

import io
import pickle
import struct
import zipfile

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C


SYSTEM = {'protocol_version': 1001, 'little_endian': True, 'type_sizes': {'short': 2, 'int': 4}}


W = np.arange(12, dtype=np.float32).reshape(3, 4)


def text(value):
  return b'X' + struct.pack('<I', len(value.encode())) + value.encode()


def integer(value):
  return b'\x8a\x08' + struct.pack('<q', value)


def tuple_of(*items):
  return b'(' + b''.join(items) + b't'


def dict_of(**items):
  return b'}(' + b''.join(text(key) + value for key, value in items.items()) + b'u'


def name_of(module, name):
  return f'c{module}\n{name}\n'.encode()


def call(function, *args):
  return function + tuple_of(*args) + b'R'


def storage(key='0', numel=12, kind=('torch', 'FloatStorage'), more=()):
  fields = [text('storage'), name_of(*kind), text(key), text('cuda:0'), integer(numel), *more]
  return tuple_of(*fields) + b'Q'


REBUILD = name_of('torch._utils', '_rebuild_tensor_v2')


ORDERED = name_of('collections', 'OrderedDict') + b')R'


def tensor(size=(3, 4), stride=(4, 1), offset=0, stored=None, rebuild=REBUILD):
  numbers = [integer(offset), *(tuple_of(*map(integer, n)) for n in (size, stride))]
  return call(rebuild, storage() if stored is None else stored, *numbers, b'\x89', ORDERED)


def pickled(body):
  return b'\x80\x02' + body + b'.'


def in_zip(body, data=None, byteorder=b'little', prefix='archive/', **options):
  data = {'0': W.tobytes()} if data is None else data
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w', **options) as archive:
    archive.writestr(f'{prefix}data.pkl', pickled(body))
    archive.writestr(f'{prefix}byteorder', byteorder)
    for key, content in data.items():
      archive.writestr(f'{prefix}data/{key}', content)
  return file.getvalue()


def in_legacy(body, data=None, magic=MAGIC, version=1001, system=SYSTEM, keys=None, width=4):
  data = {'0': W.tobytes()} if data is None else data
  heads = [magic, version, system]
  parts = [head if isinstance(head, bytes) else pickle.dumps(head, 2) for head in heads]
  keys = list(data) if keys is None else keys
  parts += [pickled(body), keys if isinstance(keys, bytes) else pickle.dumps(keys, 2)]
  parts += [struct.pack('<q', len(content) // width) + content for content in data.values()]
  return b''.join(parts)
