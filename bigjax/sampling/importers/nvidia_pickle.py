"""Pickled networks of NVIDIA's PyTorch code (StyleGAN2-ADA and what builds on it), without torch.

Such a .pkl carries more than weights: each module is a record of its class's name, of the source
text that its code would execute to get that class back, and of its attributes, among which its
tensors are. Here a record is data: the text is never looked at, the tensors are read by hand, and
whatever else a file asks for is refused by name, by models/pretrained/pickle_machine.py.
"""

import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from bigjax.core import errors
from bigjax.models.pretrained import torch_pickle
from bigjax.models.pretrained.pickle_machine import DAMAGE, Language, Refused, told, unpickle

VERSIONS = range(1, 7)  # of the records
_MAX_ENTRIES = 100_000  # of all modules of a network, some thousands: one may hold itself
_MAX_DEPTH = 20
_ADVICE = (
  'which no networks of StyleGAN2-ADA need: nothing of it was run; if you trust the file, load it '
  'with its own code, and save the arrays of G_ema.state_dict() as .npz, to give that file'
)
# numpy's numbers, which some settings are.
_DTYPES = {code: np.dtype(f'<{code}') for code in ('f8', 'f4', 'f2', 'i8', 'i4')}
_DTYPES['b1'] = np.dtype('?')


@dataclasses.dataclass(frozen=True, slots=True)
class _Bytes:
  """A storage as it was pickled; read only where a tensor of a network is asked for."""

  content: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class _Dtype:
  dtype: np.dtype


@dataclasses.dataclass(frozen=True, slots=True)
class _View:
  """A tensor, by the arguments that torch would rebuild it from."""

  storage: _Bytes
  args: tuple


@dataclasses.dataclass(frozen=True, slots=True)
class _Record:
  class_name: str
  state: dict[str, Any]


def _record(meta: Any) -> _Record:
  match meta:
    case {'type': 'class', 'version': int(version), 'class_name': str(name), 'state': dict(state)}:
      if version in VERSIONS:
        return _Record(name, state)
  raise Refused('has a record of another kind than the modules of StyleGAN2-ADA')


def _bytes(content: Any) -> _Bytes:
  if not isinstance(content, bytes):
    raise Refused('has a storage that is not made of bytes')
  return _Bytes(content)


def _view(storage: Any, *args: Any) -> _View:
  if not isinstance(storage, _Bytes):
    raise Refused('has a tensor whose storage is none')
  return _View(storage, args)


def _dtype(code: Any, *how: Any) -> _Dtype:
  del how
  if not isinstance(code, str) or code not in _DTYPES:
    raise Refused(f'has a number of the unknown type {told(code)}')
  return _Dtype(_DTYPES[code])


def _number(dtype: _Dtype, content: bytes) -> Any:
  if len(content) != dtype.dtype.itemsize:
    raise Refused('has a number of another length than its type')
  return np.frombuffer(content, dtype.dtype)[0].item()


def _build(target: Any, state: Any) -> None:
  """Attributes are those of a number's type alone, which say in what order its bytes are."""
  if not isinstance(target, _Dtype):
    raise Refused(f'sets attributes of what has none, {_ADVICE}')
  if state[1] not in ('<', '|'):
    raise Refused('was written on a big-endian machine; save it again on another one')


def _items(*of: Any) -> list:
  return of[0] if of and isinstance(of[0], list) else []


def _dict(*of: Any) -> dict:
  if of:
    raise Refused('has a dict that is made by a call')
  return {}


# None of these loops or copies: a pickle may call one of them every few bytes.
_CALLS: dict[str, Callable] = {
  'torch_utils.persistence._reconstruct_persistent_obj': _record,
  'dnnlib.util.EasyDict': _dict,
  'collections.OrderedDict': _dict,
  'builtins.set': _items,
  '__builtin__.set': _items,
  'torch.storage._load_from_bytes': _bytes,
  'torch._utils._rebuild_tensor_v2': _view,
  'torch._utils._rebuild_parameter': lambda data, requires_grad, hooks: data,
  'numpy.dtype': _dtype,
  'numpy.core.multiarray.scalar': _number,
  'numpy._core.multiarray.scalar': _number,
}
LANGUAGE = Language(_CALLS, (), _ADVICE, _build, sets=True)


# --- Modules


@dataclasses.dataclass(frozen=True)
class Module:
  """A module of a network.

  Attributes:
    path: 'synthesis.b4.conv1'; '' is the network.
    class_name: 'SynthesisLayer'.
    settings: its attributes of Python's own types, by name.
  """

  path: str
  class_name: str
  settings: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Network:
  """A network as its state dict, float32 arrays, and its modules, itself first."""

  arrays: dict[str, np.ndarray]
  modules: list[Module]


def _children(record: _Record, kind: str) -> list[tuple[str, Any]]:
  found = record.state.get(kind, {})
  if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
    raise Refused(f'has a module whose {kind} are not named')
  return [(name, child) for name, child in found.items() if child is not None]


def _walk(record: _Record) -> Iterator[tuple[str, _Record]]:
  """The modules of a network by their paths, itself first."""
  todo, num = [('', record, 0)], 0
  while todo:
    path, module, depth = todo.pop()
    inner = (len(of) for of in module.state.values() if isinstance(of, dict))
    num += 1 + len(module.state) + sum(inner)
    if num > _MAX_ENTRIES or depth > _MAX_DEPTH or len(path) > torch_pickle.MAX_NAME:
      raise Refused('has modules without end')
    yield path, module
    for name, child in _children(module, '_modules')[::-1]:
      if not isinstance(child, _Record):
        raise Refused(f'has something else where the module {name!r:.100} was expected')
      todo.append((f'{path}{name}.', child, depth + 1))


class _Storages:
  """Reads each storage of a file once; `size` counts the bytes of the file."""

  def __init__(self, size: int):
    self.read: dict[int, Any] = {}
    self.size, self.num_bytes = size, 0

  def array(self, name: str, view: Any) -> np.ndarray:
    if len(name) > torch_pickle.MAX_NAME:
      raise Refused('has names without end')
    if not isinstance(view, _View):
      raise Refused(f'has something else where the tensor {name!r:.100} was expected')
    content = view.storage.content
    if id(content) not in self.read:
      self.read[id(content)] = torch_pickle.stored(content)
    storage, data = self.read[id(content)]
    found = torch_pickle.array(name, torch_pickle.rebuilt(storage, *view.args), data)
    self.num_bytes += found.nbytes
    torch_pickle.check_total(self.num_bytes, self.size)
    return found


def _network(record: _Record, storages: _Storages) -> Network:
  arrays, modules = {}, []
  for path, module in _walk(record):
    plain = {
      key: value
      for key, value in module.state.items()
      if isinstance(value, str | int | float | bool | None)
    }
    modules.append(Module(path.removesuffix('.'), module.class_name, plain))
    for kind in ('_parameters', '_buffers'):
      for name, view in _children(module, kind):
        # Half precision is widened, as the arrays of an .npz are, whoever is to use them.
        with np.errstate(over='ignore'):  # infinities are refused with all others
          arrays[path + name] = np.asarray(storages.array(path + name, view), np.float32)
  return Network(arrays, modules)


def _networks(content: bytes) -> dict[str, Network]:
  found, storages = unpickle(io.BytesIO(content), LANGUAGE), _Storages(len(content))
  if not isinstance(found, dict):
    raise Refused('holds no networks by name, as StyleGAN2-ADA saves them')
  networks = {
    name: _network(found[name], storages)
    for name in ('G', 'D', 'G_ema')
    if isinstance(found.get(name), _Record)
  }
  if 'G_ema' not in networks:
    raise Refused("holds no network 'G_ema', as StyleGAN2-ADA saves them")
  return networks


def read(path: str) -> dict[str, Network]:
  """The networks of a .pkl file: 'G_ema', and 'G' and 'D' where they are there.

  Raises:
    UserError: there is no such file, it is damaged, or it asks for anything that StyleGAN2-ADA's
      networks do not need. Nothing of the file is ever run.
  """
  try:
    with open(path, 'rb') as file:
      content = file.read()
    return _networks(content)
  except OSError as error:
    why = error.strerror or error
    raise errors.UserError(f'cannot read {path!r} ({why}); give a .pkl file.') from None
  except Refused as error:
    raise errors.UserError(f'{path!r} {error}.') from None
  except DAMAGE as error:
    why = f'{type(error).__name__}: {error!s:.200}'.replace('\n', ' ')
    raise errors.UserError(f'{path!r} is damaged ({why}); copy or download it again.') from None
