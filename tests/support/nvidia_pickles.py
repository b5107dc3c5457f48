"""Pickles of networks as NVIDIA's PyTorch code writes them, made without it and without torch."""

import collections
import io
import pickle
import re
import sys

import numpy as np

import pickles

SOURCE = 'import os\nos.abort()  # must never be run\n'
KINDS = (  # (modules by their path, their class, a few of their settings)
  (r'', 'Generator', {'c_dim': 0}),
  (r'mapping', 'MappingNetwork', {'w_avg_beta': 0.995}),
  (r'mapping\.fc\d+', 'FullyConnectedLayer', {'activation': 'lrelu', 'bias_gain': 0.01}),
  (r'synthesis', 'SynthesisNetwork', {}),
  (r'.*torgb', 'ToRGBLayer', {'conv_clamp': None}),
  (r'b4\.fc', 'FullyConnectedLayer', {'activation': 'lrelu', 'bias_gain': 1}),
  (r'b4\.mbstd', 'MinibatchStdLayer', {'group_size': 4, 'num_channels': 1}),
  (r'synthesis\.b\d+', 'SynthesisBlock', {'architecture': 'skip'}),
  (r'synthesis\.b\d+\.conv\d', 'SynthesisLayer', {'activation': 'lrelu', 'conv_clamp': None}),
  (r'.*\.(conv\d?|skip|fromrgb)', 'Conv2dLayer', {'activation': 'lrelu', 'conv_clamp': None}),
  (r'.*', 'FullyConnectedLayer', {'activation': 'linear', 'bias_gain': 1}),
)
BUFFERS = ('w_avg', 'noise_const', 'resample_filter')


def function(module, name):
  """A stand-in that pickles as module.name."""

  def stand_in():
    raise AssertionError('only its name is written')

  stand_in.__module__, stand_in.__qualname__ = module, name
  return stand_in


class Call:
  """Pickles as a call."""

  def __init__(self, function, *args):
    self.called = function, args

  def __reduce__(self):
    return self.called


class EasyDict(dict):
  """Pickles as dnnlib's."""


EasyDict.__module__, EasyDict.__qualname__ = 'dnnlib.util', 'EasyDict'
RECORD = function('torch_utils.persistence', '_reconstruct_persistent_obj')
REBUILD = function('torch._utils', '_rebuild_tensor_v2')
PARAMETER = function('torch._utils', '_rebuild_parameter')
STORED = function('torch.storage', '_load_from_bytes')


# Hugging Face's datasets bring dill, which changes Python's own pickler wherever it is imported.
if 'dill' in sys.modules:
  sys.modules['dill'].extend(use_dill=False)


class Writer(pickle._Pickler):
  """Writes globals by their names, whether or not they are there."""

  def save_global(self, obj, name=None):
    self.write(f'c{obj.__module__}\n{name or obj.__qualname__}\n'.encode())
    self.memoize(obj)

  dispatch = {**pickle._Pickler.dispatch, type(function): save_global}  # noqa: RUF012


def written(obj, protocol=3):
  file = io.BytesIO()
  Writer(file, protocol).dump(obj)
  return file.getvalue()


def storage(a):
  data = np.array(a, order='C')
  return pickles.in_legacy(pickles.storage(numel=data.size), {'0': data.tobytes()})


def tensor(a):
  strides = tuple(stride // 4 for stride in np.array(a, order='C').strides)
  stored = Call(STORED, storage(a))
  return Call(REBUILD, stored, 0, a.shape, strides, False, collections.OrderedDict())


def parameter(a):
  return Call(PARAMETER, tensor(a), False, collections.OrderedDict())


def record(class_name, state, **changes):
  meta = {
    'type': 'class', 'version': 6, 'module_src': SOURCE, 'class_name': class_name, 'state': state
  }  # fmt: skip
  return Call(RECORD, {**meta, **changes})


def module(arrays, path='', of_tensor=tensor, of_parameter=parameter, of_record=record, **settings):
  """A network of a state dict, with settings {path of a module: {name: value}} of its own."""
  state = {'training': False, '_parameters': {}, '_buffers': {}, '_modules': {}}
  state |= {'_non_persistent_buffers_set': set(), '_init_kwargs': EasyDict(a=EasyDict())}
  state |= {'weight_gain': 1 / np.sqrt(np.float64(3)), 'block_resolutions': [4, 8]}
  _, kind, own = next(kind for kind in KINDS if re.fullmatch(kind[0], path))
  state |= {**own, **settings.get(path, {})}
  for name in dict.fromkeys(name.split('.')[0] for name in arrays):
    inner = {n.split('.', 1)[1]: a for n, a in arrays.items() if n.startswith(f'{name}.')}
    if inner:
      below = f'{path}.{name}'.removeprefix('.')
      how = (of_tensor, of_parameter, of_record)
      state['_modules'][name] = module(inner, below, *how, **settings)
    elif name in BUFFERS:
      state['_buffers'][name] = of_tensor(arrays[name])
    else:
      state['_parameters'][name] = of_parameter(arrays[name])
  return of_record(kind, state)


def snapshot(arrays, **settings):
  """What a run saves, of state dicts by the network's name."""
  networks = {name: module(of, **settings) for name, of in arrays.items()}
  return {'training_set_kwargs': EasyDict(path='x.zip', use_labels=False), **networks,
          'augment_pipe': record('AugmentPipe', {'xflip': 1.0})}  # fmt: skip
