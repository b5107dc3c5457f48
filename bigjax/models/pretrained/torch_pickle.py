"""PyTorch state dicts as numpy arrays, without torch (too large to ask for) and without risk.

A .pth file is a pickle, that is a program; pickle_machine.py reads it, with one table of names.
Two containers are read: the zip file of torch >= 1.6, and the older one (five pickles, then the
raw storages) in which the weights of BigGAN-PyTorch were published in 2019.
"""

import dataclasses
import io
import math
import os
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from bigjax.core import errors
from bigjax.models.pretrained.pickle_machine import DAMAGE, Global, Language, Refused, unpickle

_ZIP_MAGIC = b'PK\x03\x04'
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(10, 'little')
_LEGACY_VERSION = 1001
# Elements of a tensor per element of its storage, by strides of 0; bytes of all per byte of a file.
MAX_EXPANSION = 64
MAX_NAME = 1000
_MAX_NODES = 1_000_000  # entries of dicts and lists: one that holds itself has no end
_MAX_LETTERS = 10_000_000  # of the names of all tensors

_KINDS = {  # torch.FloatStorage holds torch.float32
  'Float': np.float32, 'Double': np.float64, 'Half': np.float16, 'BFloat16': ml_dtypes.bfloat16,
  'Long': np.int64, 'Int': np.int32, 'Short': np.int16, 'Char': np.int8, 'Byte': np.uint8,
  'Bool': np.bool_,
}  # fmt: skip
_STORAGES = {f'torch.{kind}Storage': np.dtype(dtype) for kind, dtype in _KINDS.items()}
_STORAGES['torch.storage.UntypedStorage'] = np.dtype(np.uint8)
_DTYPES = {f'torch.{dtype}': dtype for dtype in _STORAGES.values()}
_DTYPES |= {f'torch.uint{bits}': np.dtype(f'uint{bits}') for bits in (16, 32, 64)}
_NAMES = {**_STORAGES, **_DTYPES}


@dataclasses.dataclass(frozen=True, slots=True)
class Storage:
  """A run of numbers in memory, which tensors are views of; `numel` counts elements."""

  key: str
  dtype: np.dtype
  numel: int


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor:
  """What the pickle says of a tensor, counted in elements; `array` checks it."""

  storage: Storage
  offset: int
  size: tuple[int, ...]
  stride: tuple[int, ...]
  dtype: np.dtype


def _ordered_dict(*items):
  if items:
    raise Refused('was written by Python 2; load it with torch in Python 3 and save it again')
  return {}


def rebuilt(storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None):
  del requires_grad, hooks
  if metadata:
    raise Refused('has a negated view; load it with torch and save its .resolve_neg()')
  return Tensor(storage, offset, size, stride, storage.dtype)


def _tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype, metadata=None):
  tensor = rebuilt(storage, offset, size, stride, requires_grad, hooks, metadata)
  return dataclasses.replace(tensor, dtype=_DTYPES[dtype.name])


# None of these loops or copies: a pickle may call one of them every few bytes.
_CALLS: dict[str, Callable] = {
  'collections.OrderedDict': _ordered_dict,
  'torch.Size': lambda size: size,
  'torch.device': lambda *where: None,
  'torch._utils._rebuild_tensor': rebuilt,  # torch < 0.4
  'torch._utils._rebuild_tensor_v2': rebuilt,
  'torch._utils._rebuild_tensor_v3': _tensor_v3,  # dtypes without a storage class, as uint16
  'torch._utils._rebuild_parameter': lambda data, requires_grad, hooks: data,
  'torch._utils._rebuild_parameter_with_state': lambda data, requires_grad, hooks, state: data,
}
_ADVICE = (
  'which no state dict needs: nothing of it was run; if you trust the file, load it with torch and '
  'save only the tensors: torch.save(model.state_dict(), PATH)'
)


def _build(target: Any, state: Any) -> None:
  del state  # the attributes of an OrderedDict, as _metadata: dropped
  if not isinstance(target, dict):
    raise Refused(f'sets attributes of what is not a dict, {_ADVICE}')


def _storage(pid: Any, storages: dict[str, Storage]) -> Storage:
  match pid:
    case ('storage', Global(name=name), str(key), _, int(numel), *view) if (
      name in _STORAGES and len(key) <= MAX_NAME
    ):
      storage = Storage(key, _STORAGES[name], numel)
    case _:
      raise Refused(f'has a persistent id that is not a storage of a known type, {_ADVICE}')
  if view not in ([], [None]) or storages.setdefault(key, storage) != storage or numel < 0:
    raise Refused(
      f'describes storage {key[:100]!r} in two ways, or as a part of another, as torch < 0.4 did; '
      'load it with torch and save it again'
    )
  return storage


def _unpickle(stream: BinaryIO, storages: dict[str, Storage]) -> Any:
  """Return the object of the next pickle; `storages` collects what it refers to."""
  find = lambda pid: _storage(pid, storages)
  return unpickle(stream, Language(_CALLS, _NAMES, _ADVICE, _build, find))


def _flatten(tree: Any) -> dict[str, Tensor]:
  found, num_nodes, num_letters = {}, 0, 0
  todo = [('', iter([('', tree)]))]
  while todo:
    outer, items = todo[-1]
    entry = next(items, None)  # one at a time: a list may be named in many places
    if entry is None:
      todo.pop()
      continue
    key, node = entry
    name = f'{outer}.{key}' if outer else str(key)
    num_nodes += 1
    num_letters += len(name) if isinstance(node, Tensor) else 0
    endless = num_nodes > _MAX_NODES or num_letters > _MAX_LETTERS
    if endless or max(len(name), len(todo)) > MAX_NAME:
      raise Refused('nests without end, or has names without end; save a plain state dict')
    if isinstance(node, Tensor):
      if not name or name in found:
        raise Refused(f'has a tensor without a name of its own ({name!r:.100}); save a state dict')
      found[name] = node
    elif isinstance(node, dict | list | tuple):
      todo.append((name, iter(node.items() if isinstance(node, dict) else enumerate(node))))
  if not found:
    raise Refused('holds no tensors; give what torch.save(model.state_dict(), PATH) writes')
  return found


def _check_little_endian(little: Any) -> None:
  if little is not True:
    raise Refused('was written on a big-endian machine; save it again on another one')


def _read_zip(file: BinaryIO, size: int) -> tuple[dict[str, Tensor], dict[str, bytes]]:
  archive = zipfile.ZipFile(file)
  entries = {entry.filename: entry for entry in archive.infolist()}
  if any(entry.compress_type or entry.flag_bits & 1 for entry in entries.values()):
    raise Refused('has packed entries (a TorchScript module?); give what torch.save writes')
  if sum(entry.file_size for entry in entries.values()) > size:
    raise Refused('has zip entries that overlap or lie about their size; download it again')
  roots = [name.removesuffix('data.pkl') for name in entries if name.endswith('/data.pkl')]
  if len(roots) != 1:
    raise Refused('is a zip file, but not one that torch.save wrote; give a .pth or .pt file')
  root, storages = roots[0], {}
  if f'{root}byteorder' in entries:  # torch >= 2.1
    _check_little_endian(archive.read(f'{root}byteorder') == b'little')
  tensors = _flatten(_unpickle(io.BytesIO(archive.read(f'{root}data.pkl')), storages))
  used = {tensor.storage.key for tensor in tensors.values()}
  return tensors, {key: archive.read(f'{root}data/{key}') for key in used}


def _legacy(content: bytes, as_found: Callable[[Any], Any]) -> tuple[Any, dict[str, memoryview]]:
  """(What `as_found` makes of the object, what its storages hold) of the older container."""
  stream, storages, data = io.BytesIO(content), {}, {}
  _, version, system = (_unpickle(stream, {}) for _ in range(3))
  if version != _LEGACY_VERSION:
    raise Refused(f'has another version of the format than {_LEGACY_VERSION}; save it again')
  _check_little_endian(system['little_endian'])
  found, keys = as_found(_unpickle(stream, storages)), _unpickle(stream, {})
  known = (
    isinstance(keys, list)
    and len(keys) == len(storages)
    and all(isinstance(key, str) and key in storages for key in keys)
  )  # nothing else is compared: to compare nested tuples, as to sort does, may have no end
  if not known or len(set(keys)) != len(keys):
    raise Refused('lists other storages than its tensors ask for; copy or download it again')
  end = stream.tell()
  for key in keys:
    (numel,) = struct.unpack_from('<q', content, end)
    start, end = end + 8, end + 8 + storages[key].numel * storages[key].dtype.itemsize
    data[key] = memoryview(content)[start:end]
    if numel != storages[key].numel:
      raise Refused(f'has {numel} elements in storage {key[:100]!r}, not the number it declares')
  if end != len(content):
    raise Refused(
      f'has {len(content)} bytes, but its storages end at {end}; copy or download it again'
    )
  return found, data


def _read_legacy(file: BinaryIO, size: int) -> tuple[dict[str, Tensor], dict[str, memoryview]]:
  del size
  return _legacy(file.read(), _flatten)


def _only_storage(found: Any) -> Storage:
  if not isinstance(found, Storage):
    raise Refused('has something else where a storage was expected; save it again')
  return found


def stored(content: bytes) -> tuple[Storage, memoryview]:
  """(A storage, what it holds), as torch writes a storage that is pickled outside of torch.save.

  Raises:
    Refused, any of pickle_machine.DAMAGE: it is something else.
  """
  if _LEGACY_MAGIC not in content[:32]:
    raise Refused('has bytes for a storage that torch did not write; save it again')
  storage, data = _legacy(content, _only_storage)
  return storage, data[storage.key]


def array(name: str, tensor: Tensor, data: bytes | memoryview) -> np.ndarray:
  """Return the tensor as a view of its storage, once it is known to lie inside."""
  storage, offset, size, stride = tensor.storage, tensor.offset, tensor.size, tensor.stride
  if len(data) != storage.numel * storage.dtype.itemsize:
    raise Refused(
      f'has {len(data)} bytes in storage {storage.key[:100]!r}, where {storage.numel} elements of '
      f'{storage.dtype} were expected; copy or download it again'
    )
  sequences = isinstance(size, tuple | list) and isinstance(stride, tuple | list)
  # torch and numpy have at most 64 dimensions.
  if (
    not sequences
    or not len(size) == len(stride) <= 64
    or not all(type(n) is int and 0 <= n < 2**63 for n in (offset, *size, *stride))
  ):
    raise Refused(f'has no valid shape for tensor {name!r:.100}; save it again with torch')
  if 0 in size:
    return np.zeros(size, tensor.dtype)
  width = tensor.dtype.itemsize
  last, held = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)), len(data)
  if (last + 1) * width > held or math.prod(size) * width > MAX_EXPANSION * held:
    raise Refused(
      f'puts tensor {name!r:.100} of shape {size!s:.100}, strides {stride!s:.100} outside of its '
      f'storage, or expands it more than {MAX_EXPANSION} times; save its .contiguous() copy'
    )
  return np.ndarray(size, tensor.dtype, data, offset * width, [s * width for s in stride])


def check_total(num_bytes: int, size: int) -> None:
  """Refuses tensors that have so many bytes together, of a file of this size: readers copy them."""
  if num_bytes > MAX_EXPANSION * size:
    raise Refused(
      f'has tensors of {num_bytes} bytes, more than {MAX_EXPANSION} times the file, because they '
      'share storages; save each once, or their .clone()s'
    )


def read(path: str) -> dict[str, np.ndarray]:
  """Return the tensors of a state dict (.pth, .pt, .bin) by name, in the order of the file.

  Nested dicts, lists and tuples give names joined with '.': {'state_dict': {'linear.weight': W}}
  gives 'state_dict.linear.weight', a list '0', '1', ... What else lies in them (numbers, strings,
  None, dtypes, bare storages, the `_metadata` of a state dict) is left out. The arrays are
  read-only, have the strides of the tensors and share memory where these did.

  Raises:
    UserError: there is no such file, it is damaged or no state dict, or it asks for anything that
      a state dict does not need. Nothing of the file is ever run.
  """
  try:
    with open(path, 'rb') as file:
      head, size = file.read(32), os.fstat(file.fileno()).st_size
      file.seek(0)
      if not head.startswith(_ZIP_MAGIC) and _LEGACY_MAGIC not in head:
        raise Refused(f'begins with {head!r}, unlike what torch.save writes; download it again')
      tensors, data = (_read_zip if head.startswith(_ZIP_MAGIC) else _read_legacy)(file, size)
    arrays = {name: array(name, t, data[t.storage.key]) for name, t in tensors.items()}
    check_total(sum(found.nbytes for found in arrays.values()), size)
    return arrays
  except OSError as error:
    why = error.strerror or error
    raise errors.UserError(
      f'cannot read {path!r} ({why}); give a .pth, .pt or .bin file.'
    ) from None
  except Refused as error:
    raise errors.UserError(f'{path!r} {error}.') from None
  except DAMAGE as error:
    why = f'{type(error).__name__}: {error!s:.200}'.replace('\n', ' ')
    raise errors.UserError(f'{path!r} is damaged ({why}); copy or download it again.') from None
