"""Generators of other codes, renamed to BigGAN-PyTorch's names and layout, which `convert` reads.

Three layouts are told apart by their names: ajbrock/BigGAN-PyTorch, huggingface's
pytorch-pretrained-BigGAN (BigGAN-deep), and the variables of DeepMind's TF-Hub modules (BigGAN and
BigGAN-deep). The second is checked against that code's own network. No TensorFlow code of the third
is public: its names, its order [z, E(y)], its kernels [H, W, in, out] and its statistics are taken
from what the public converters of it agree on (BigGAN-PyTorch's TFHub/converter.py,
pytorch-pretrained-BigGAN's convert_tf_to_pytorch.py), and checked against the networks that these
make. All three divide a kernel by |W v| for a stored vector, not by its exact norm; so does the
converted generator, since the stored statistics were measured that way.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bigjax.core import errors
from bigjax.sampling.importers.layout import HUGGING_FACE, Arrays, PublishedGenerator, Reader
from bigjax.sampling.importers.tf_hub import reordered, truncation_grid

# --- pytorch-pretrained-BigGAN -------------------------------------------------------------------


def config_beside(path: str) -> dict[str, Any]:
  """Return config.json from beside a pytorch_model.bin, {} where there is none.

  Raises:
    UserError: it cannot be read.
  """
  folder, name = os.path.split(path)
  name = re.sub(r'pytorch_model\.\w+$', 'config.json', name)  # biggan-deep-128-config.json, too
  path = os.path.join(folder, name)
  if not name.endswith('config.json') or not os.path.isfile(path):
    return {}
  try:
    with open(path, encoding='utf-8') as file:
      config = json.load(file)
  except (OSError, ValueError) as error:
    raise errors.UserError(f'{path!r} cannot be read ({error}).') from None
  if not isinstance(config, dict):
    raise errors.UserError(f'{path!r} is no configuration of a BigGAN: it holds no object.')
  return config


def _hf_modules(num: int, attention: list[int]) -> Iterator[tuple[str, str, int, bool]]:
  """Yield (their module, ours, rank of its kernel, has it a bias) of all under spectral norm."""
  yield 'generator.gen_z', 'linear', 2, True
  block = -1
  for i in range(num):
    layer = f'generator.layers.{i}'
    if i in attention:
      for name in ('theta', 'phi', 'g', 'o'):
        theirs = f'{layer}.snconv1x1_{name}' + ('_conv' if name == 'o' else '')
        yield theirs, f'blocks.{block}.1.{name}', 4, False
      continue
    block += 1
    for j in range(4):
      yield f'{layer}.bn_{j}.scale', f'blocks.{block}.0.bn{j + 1}.gain', 2, False
      yield f'{layer}.bn_{j}.offset', f'blocks.{block}.0.bn{j + 1}.bias', 2, False
      yield f'{layer}.conv_{j}', f'blocks.{block}.0.conv{j + 1}', 4, True
  yield 'generator.conv_to_rgb', 'output_layer.2', 4, True


def from_hugging_face(arrays: Arrays, config: Mapping[str, Any]) -> PublishedGenerator:
  """Return a generator of pytorch-pretrained-BigGAN.

  Its kernels are stored before the division by u^T W v (`weight_orig`, `weight_u`, `weight_v`) or
  after it (`weight`). Statistics are stored at 51 truncations, 0 to 1, of its only dialect. Between
  two of them that code has the weights of the two swapped (at 0.405 the set of 0.40 weighs 0.25,
  not 0.75; `truncation / 0.02` also rounds 0.58 down, to the set of 0.56); we do not.

  Args:
    arrays: its state dict.
    config: its config.json, {} where there is none.
  Raises:
    UserError: an array is missing, superfluous or of the wrong rank, or the two do not agree.
  """
  read, out, norms = Reader(arrays, 'a generator of pytorch-pretrained-BigGAN'), {}, {}
  # Which layers attend, and how many there are.
  places = {int(m[1]) for m in (re.match(r'generator\.layers\.(\d+)\.', n) for n in arrays) if m}
  attends = re.compile(r'generator\.layers\.(\d+)\.(?:gamma|snconv1x1_)')
  attention = sorted({int(m[1]) for m in map(attends.match, arrays) if m})
  if attention and attention[0] == 0:
    raise errors.UserError('the weights begin with an attention block; expected a residual one.')
  num = max(places, default=-1) + 1
  # Kernels and biases, BatchNorm's statistics, gains of the attention, the output layer.
  for theirs, ours, rank, has_bias in _hf_modules(num, attention):
    if f'{theirs}.weight' in arrays and f'{theirs}.weight_orig' not in arrays:
      out[f'{ours}.weight'], norms[ours] = read(f'{theirs}.weight', f'{ours}.weight', rank), 1.0
    else:
      out[f'{ours}.weight'] = w = read(f'{theirs}.weight_orig', f'{ours}.weight', rank)
      u, v = (read(f'{theirs}.weight_{k}', f'{ours}.{k}', 1) for k in 'uv')
      norms[ours] = _sigma(f'{theirs}.weight_orig', w, u, v)
    if has_bias:
      out[f'{ours}.bias'] = read(f'{theirs}.bias', f'{ours}.bias', 1)
  for block, i in enumerate(i for i in range(num) if i not in attention):
    for j in range(4):
      base = f'generator.layers.{i}.bn_{j}.running'
      for stat in ('mean', 'var'):
        ours = f'blocks.{block}.0.bn{j + 1}.stored_{stat}'
        out[ours] = read(f'{base}_{stat}s', ours, 2)
  for before, i in enumerate(attention):
    ours = f'blocks.{i - before - 1}.1.gamma'
    out[ours] = read(f'generator.layers.{i}.gamma', ours, 0, 1).reshape(-1)[0]
  out['shared.weight'] = read('embeddings.weight', 'shared.weight', 2).T
  for theirs, ours, rank in (
    ('weight', 'gain', 1), ('bias', 'bias', 1), ('running_means', 'stored_mean', 2),
    ('running_vars', 'stored_var', 2),
  ):  # fmt: skip
    out[f'output_layer.0.{ours}'] = read(f'generator.bn.{theirs}', f'output_layer.0.{ours}', rank)
  # Nothing may be left over, and the config must say the same.
  rest = sorted(set(arrays) - read.used)
  if rest:
    raise errors.UserError(
      f'the weights have {rest[0]!r}, which {read.what} has no place for ({len(rest)} such arrays).'
    )
  _check_config(config, out, num - len(attention))
  eps = config.get('eps', 1e-4)
  notes = [] if config else [f'no config.json is beside the weights: BatchNorm epsilon {eps:g}']
  knots = truncation_grid(len(out['output_layer.0.stored_mean']))
  return PublishedGenerator(
    HUGGING_FACE, reordered(out, read.names), read.names, {}, norms, knots, 'truncnorm', eps, eps,
    3, notes,
  )  # fmt: skip


def _sigma(name: str, w: np.ndarray, u: np.ndarray, v: np.ndarray) -> float:
  """Return u^T W v, as torch's spectral_norm has it when it does not train."""
  m = w.reshape(len(w), -1)
  if m.shape != (u.size, v.size):
    raise errors.UserError(
      f'{name!r} has shape {list(w.shape)}, but its vectors of spectral norm have {u.size} and '
      f'{v.size} entries.'
    )
  sigma = float(u.astype(np.float64) @ (m @ v.astype(np.float64)))
  if not 0 < sigma < np.inf:
    raise errors.UserError(
      f'{name!r} has the spectral norm {sigma:g} by its stored vectors; expected more than 0: the '
      'file is damaged, or of a network that never ran.'
    )
  return sigma


def _check_config(config: Mapping[str, Any], arrays: Arrays, num_blocks: int) -> None:
  """Refuse a config.json that is not that of the arrays (in BigGAN-PyTorch's layout).

  Raises:
    UserError: names what differs.
  """
  num_classes, shared_dim = arrays['shared.weight'].shape
  told = {
    'output_dim': 4 * 2 ** (num_blocks // 2),
    'z_dim': arrays['linear.weight'].shape[1] - shared_dim,
    'num_classes': num_classes,
    'channel_width': len(arrays['output_layer.0.gain']),
    'n_stats': len(arrays['output_layer.0.stored_mean']),
  }
  for key, value in told.items():
    if config.get(key, value) != value:
      raise errors.UserError(
        f'config.json has {key} {config[key]!r}, but by the weights it is {value}; give the '
        'config.json of these weights, or none.'
      )
  ups = [bool(layer[0]) for layer in config.get('layers', [])]
  if ups and ups != [i % 2 == 1 for i in range(num_blocks)]:
    raise errors.UserError(
      'config.json has other layers than pairs of blocks of which the second doubles the '
      'resolution, which is all that bigjax has.'
    )
  eps = config.get('eps', 1e-4)
  if not isinstance(eps, int | float) or not 0 <= eps < 1:
    raise errors.UserError(f'config.json has eps {eps!r}; expected a small number such as 1e-4.')
