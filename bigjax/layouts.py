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
from typing import Any, NamedTuple

import numpy as np

from bigjax import utils

Arrays = dict[str, np.ndarray]

TORCH = 'BigGAN-PyTorch'
HUGGING_FACE = 'pytorch-pretrained-BigGAN'
TF_HUB = 'TF-Hub'
# A name that every generator (and for the first, discriminator) of the layout has.
MARKS = {
  TORCH: ('linear.weight',),
  HUGGING_FACE: ('generator.gen_z.weight_orig', 'generator.gen_z.weight'),
  TF_HUB: ('Generator/G_Z/G_linear/', 'Generator/GenZ/G_linear/'),
}
LAST_EPS = 1e-5  # of BigGAN-PyTorch's last BatchNorm, whatever its BN_eps is


class Source(NamedTuple):
  """A generator in BigGAN-PyTorch's layout, and what its arrays do not tell.

  Attributes:
    layout: a key of MARKS.
    arrays: weights, vectors u0 and standing statistics, [C] or [K, C].
    names: what the arrays were called, where it was something else.
    raw: weights before averaging, {} where they are not known.
    norms: the sigma that the code divides a module's kernel by, where no u0 tells it.
    knots: truncations [K] of the statistics; inf is untruncated.
    dialect: of those truncations.
    bn_eps: epsilon of the BatchNorms.
    last_eps: epsilon of the last one.
    channels: of the images, None where the last convolution's filters tell.
    notes: sentences for people.
  """

  layout: str
  arrays: Arrays
  names: dict[str, str]
  raw: Arrays
  norms: dict[str, float]
  knots: np.ndarray
  dialect: str
  bn_eps: float
  last_eps: float
  channels: int | None
  notes: list[str]


# --- which is it ---------------------------------------------------------------------------------


def layout(arrays: Mapping[str, Any]) -> str:
  """Return which code's names these are: a key of MARKS.

  Raises:
    UserError: they are the names of an optimizer's state.
  """
  if any(hub_name(name).startswith(MARKS[TF_HUB]) for name in arrays):
    return TF_HUB
  if any(name.endswith(MARKS[HUGGING_FACE]) for name in arrays):
    return HUGGING_FACE
  if arrays and all(re.search(r'\.(exp_avg|exp_avg_sq|step)$', name) for name in arrays):
    raise utils.UserError(
      'these are the moments of an optimizer (G_optim.pth?), not the weights of a network; give '
      'the file beside it, such as G.pth or G_ema.pth.'
    )
  return TORCH


def network(arrays: Arrays) -> tuple[Arrays, list[str]]:
  """Return (the network among the tensors of a checkpoint, notes on what was left out).

  A checkpoint may hold it under a key, beside an optimizer's state: 'state_dict.linear.weight'.

  Raises:
    UserError: there are several networks.
  """
  marks = (*MARKS[TORCH], *MARKS[HUGGING_FACE])
  prefixes = {
    name.removesuffix(mark)
    for name in arrays
    for mark in marks
    if name == mark or name.endswith(f'.{mark}')
  }
  if '' in prefixes or not prefixes:
    return arrays, []
  if len(prefixes) > 1:
    keys = ', '.join(repr(prefix.removesuffix('.')) for prefix in sorted(prefixes))
    raise utils.UserError(
      f'the file holds several networks, under {keys}; save one of them as a file of its own.'
    )
  (prefix,) = prefixes
  rest = [name for name in arrays if not name.startswith(prefix)]
  notes = [_left_out(rest)] if rest else []
  return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}, notes


def _left_out(names: list[str]) -> str:
  more = f' and {len(names) - 5} more' if len(names) > 5 else ''
  return f'left out: {", ".join(names[:5])}{more}'


# --- shared by the two that come from TensorFlow -------------------------------------------------


class _Reader:
  """Takes arrays by the names they have, and remembers which."""

  def __init__(self, arrays: Arrays, what: str):
    self.arrays, self.what = arrays, what
    self.used: set[str] = set()
    self.names: dict[str, str] = {}

  def __call__(self, theirs: str, ours: str, *ranks: int) -> np.ndarray:
    """Return the array called `theirs`, which becomes `ours`.

    Raises:
      UserError: it is missing, or has none of the ranks.
    """
    if theirs not in self.arrays:
      raise utils.UserError(f'the weights have no {theirs!r}, which {self.what} needs.')
    array = self.arrays[theirs]
    if array.ndim not in ranks:
      wanted = ' or '.join(map(str, ranks))
      raise utils.UserError(
        f'{theirs!r} has shape {list(array.shape)}; expected an array of rank {wanted}.'
      )
    self.used.add(theirs)
    self.names[ours] = theirs
    return array


def _reordered(arrays: Arrays, names: Mapping[str, str]) -> Arrays:
  """Return conditions [z, E(y)] as [E(y), z], and the first layer's outputs H, W, C as C, H, W."""
  deep, shared_dim = 'blocks.0.0.conv3.weight' in arrays, arrays['shared.weight'].shape[1]
  found = dict(arrays)
  for name, w in arrays.items():
    joined = re.search(r'\.bn\d\.(gain|bias)\.weight$', name) or (deep and name == 'linear.weight')
    if joined:
      found[name] = np.roll(w, shared_dim, axis=1)
  for name in ('linear.weight', 'linear.bias', 'linear.u0'):
    if name in found:
      w = found[name].reshape(-1) if name == 'linear.u0' else found[name]
      if len(w) % 16:
        raise utils.UserError(
          f'{names[name]!r} has {len(w)} outputs; expected 4 x 4 times a number of channels.'
        )
      w = np.moveaxis(w.reshape(4, 4, len(w) // 16, *w.shape[1:]), 2, 0)
      found[name] = w.reshape(found[name].shape)
  return found


def _grid(num: int) -> np.ndarray:
  """Return the truncations 0, ..., 1 of `num` sets of statistics: 0, 0.02, ..., 1 for 51."""
  return (np.arange(num) / max(num - 1, 1)).astype(np.float32)


# --- BigGAN-PyTorch ------------------------------------------------------------------------------


def from_torch(arrays: Arrays) -> Source:
  """Return a generator of BigGAN-PyTorch: its eps 1e-5 is what its scripts train with."""
  return Source(
    TORCH, arrays, {}, {}, {}, np.float32([np.inf]), 'resample', 1e-5, LAST_EPS, None, []
  )


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
    with open(path) as file:
      config = json.load(file)
  except (OSError, ValueError) as error:
    raise utils.UserError(f'{path!r} cannot be read ({error}).') from None
  if not isinstance(config, dict):
    raise utils.UserError(f'{path!r} is no configuration of a BigGAN: it holds no object.')
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


def from_hugging_face(arrays: Arrays, config: Mapping[str, Any]) -> Source:
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
  read, out, norms = _Reader(arrays, 'a generator of pytorch-pretrained-BigGAN'), {}, {}
  places = {int(m[1]) for m in (re.match(r'generator\.layers\.(\d+)\.', n) for n in arrays) if m}
  attends = re.compile(r'generator\.layers\.(\d+)\.(?:gamma|snconv1x1_)')
  attention = sorted({int(m[1]) for m in map(attends.match, arrays) if m})
  if attention and attention[0] == 0:
    raise utils.UserError('the weights begin with an attention block; expected a residual one.')
  num = max(places, default=-1) + 1
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
  rest = sorted(set(arrays) - read.used)
  if rest:
    raise utils.UserError(
      f'the weights have {rest[0]!r}, which {read.what} has no place for ({len(rest)} such arrays).'
    )
  _check_config(config, out, num - len(attention))
  eps = config.get('eps', 1e-4)
  notes = [] if config else [f'no config.json is beside the weights: BatchNorm epsilon {eps:g}']
  knots = _grid(len(out['output_layer.0.stored_mean']))
  return Source(
    HUGGING_FACE, _reordered(out, read.names), read.names, {}, norms, knots, 'truncnorm', eps, eps,
    3, notes,
  )  # fmt: skip


def _sigma(name: str, w: np.ndarray, u: np.ndarray, v: np.ndarray) -> float:
  """Return u^T W v, as torch's spectral_norm has it when it does not train."""
  m = w.reshape(len(w), -1)
  if m.shape != (u.size, v.size):
    raise utils.UserError(
      f'{name!r} has shape {list(w.shape)}, but its vectors of spectral norm have {u.size} and '
      f'{v.size} entries.'
    )
  sigma = float(u.astype(np.float64) @ (m @ v.astype(np.float64)))
  if not 0 < sigma < np.inf:
    raise utils.UserError(
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
      raise utils.UserError(
        f'config.json has {key} {config[key]!r}, but by the weights it is {value}; give the '
        'config.json of these weights, or none.'
      )
  ups = [bool(layer[0]) for layer in config.get('layers', [])]
  if ups and ups != [i % 2 == 1 for i in range(num_blocks)]:
    raise utils.UserError(
      'config.json has other layers than pairs of blocks of which the second doubles the '
      'resolution, which is all that bigjax has.'
    )
  eps = config.get('eps', 1e-4)
  if not isinstance(eps, int | float) or not 0 <= eps < 1:
    raise utils.UserError(f'config.json has eps {eps!r}; expected a small number such as 1e-4.')


# --- TF-Hub --------------------------------------------------------------------------------------


def hub_name(name: str) -> str:
  """Return a variable's name without the module's scope and the output: 'Generator/conv_2d/w'."""
  return re.sub(r'^module(_\d+)?/|:\d+$', '', name)


def _hub_modules(num: int, deep: bool) -> Iterator[tuple[str, str, int, bool]]:
  """Yield (their module, ours, rank of its kernel, has it a bias); attention's is 'attention'."""
  numbered = lambda name, i: f'{name}_{i}' if i else name
  yield ('Generator/GenZ/G_linear' if deep else 'Generator/G_Z/G_linear'), 'linear', 2, True
  for i in range(num):
    block, ours = numbered('Generator/GBlock', i), f'blocks.{i}.0'
    for j in range(4 if deep else 2):
      yield f'{block}/conv{j}', f'{ours}.conv{j + 1}', 4, True
      norm = numbered(f'{block}/{"BatchNorm" if deep else "HyperBN"}', j)
      yield f'{norm}/{"scale" if deep else "gamma"}', f'{ours}.bn{j + 1}.gain', 2, False
      yield f'{norm}/{"offset" if deep else "beta"}', f'{ours}.bn{j + 1}.bias', 2, False
    if not deep:
      yield f'{block}/conv_sc', f'{ours}.conv_sc', 4, True
  for name in ('theta', 'phi', 'g', 'o'):
    theirs = f'Generator/attention/{name}' + ('_conv' if name == 'o' else '')
    yield theirs, f'attention.{name}', 4, False
  yield f'Generator/{"conv_to_rgb" if deep else "conv_2d"}', 'output_layer.2', 4, True


def _hub_norms(num: int, deep: bool) -> Iterator[tuple[str, str]]:
  """Yield (scope of the statistics, our BatchNorm), in the order of the network."""
  for i in range(num):
    for j in range(4 if deep else 2):
      scope = f'GBlock{f"_{i}" if i else ""}/{"BatchNorm" if deep else "CrossReplicaBN"}'
      yield f'Generator/{scope}{f"_{j}" if j else ""}', f'blocks.{i}.0.bn{j + 1}'
  yield f'Generator/{"BatchNorm" if deep else "ScaledCrossReplicaBNbn"}', 'output_layer.0'


def _hub_weights(read: _Reader, num: int, deep: bool, ema: str) -> Arrays:
  """Return the weights with this ending ('/ema_0.9999', '/ema_b999900', or '' for raw ones)."""
  out: Arrays = {}
  for theirs, ours, rank, has_bias in _hub_modules(num, deep):
    w = read(f'{theirs}/w{ema}', f'{ours}.weight', rank)
    out[f'{ours}.weight'] = w.T if rank == 2 else w.transpose(3, 2, 0, 1)  # HWIO -> OIHW
    if has_bias:
      out[f'{ours}.bias'] = read(f'{theirs}/b{ema}', f'{ours}.bias', 1, 4).reshape(-1)
    if f'{theirs}/u0' in read.arrays:
      out[f'{ours}.u0'] = read(f'{theirs}/u0', f'{ours}.u0', 1, 2).reshape(1, -1)
  out['attention.gamma'] = read(f'Generator/attention/gamma{ema}', 'attention.gamma', 0, 1).reshape(
    -1
  )[0]
  out['shared.weight'] = read(f'linear/w{ema}', 'shared.weight', 2)
  norm = 'BatchNorm' if deep else 'ScaledCrossReplicaBN'
  for theirs, ours in zip(
    ('scale', 'offset') if deep else ('gamma', 'beta'), ('gain', 'bias'), strict=True
  ):
    name = f'output_layer.0.{ours}'
    out[name] = read(f'Generator/{norm}/{theirs}{ema}', name, 1, 4).reshape(-1)
  place = _attention_place(out, num, deep)
  placed = lambda name: re.sub(r'^attention\.', f'blocks.{place}.1.', name)
  read.names |= {placed(ours): theirs for ours, theirs in read.names.items()}
  return _reordered({placed(name): a for name, a in out.items()}, read.names)


def _attention_place(arrays: Arrays, num: int, deep: bool) -> int:
  """Return after which block attention comes: the one with as many channels as it has.

  Raises:
    UserError: there is none, or there are several.
  """
  channels, last = arrays['attention.theta.weight'].shape[1], 'conv4' if deep else 'conv2'
  ends = range(1, num, 2) if deep else range(num)
  found = [i for i in ends if len(arrays[f'blocks.{i}.0.{last}.weight']) == channels]
  if len(found) != 1:
    raise utils.UserError(
      f"'Generator/attention/theta/w' has {channels} inputs, as many as {len(found)} of the blocks "
      'have outputs, so that its place cannot be told.'
    )
  return found[0]


def _hub_stats(read: _Reader, num: int, deep: bool) -> tuple[Arrays, np.ndarray]:
  """Return (statistics by our names, their truncations): stacked ones before the variables.

  The public converters take `accumulated_mean` and `accumulated_var` as they are, and not, as their
  names might have it, as sums over `accumulation_counter`; so do we.
  """
  norms = list(_hub_norms(num, deep))
  stacks = sorted(
    (int(m[1]), name)
    for name in read.arrays
    if (m := re.fullmatch(r'(?:.*/)?stack_(\d+)', name)) and read.arrays[name].ndim == 2
  )
  if stacks:
    if len(stacks) != 2 * len(norms) or len({len(read.arrays[name]) for _, name in stacks}) > 1:
      raise utils.UserError(
        f'the weights have {len(stacks)} stacked statistics (stack_...); this generator has '
        f'{len(norms)} BatchNorms with a mean and a variance each, all at the same truncations.'
      )
    names = [f'{ours}.stored_{stat}' for _, ours in norms for stat in ('mean', 'var')]
    out = {ours: read(theirs, ours, 2) for ours, (_, theirs) in zip(names, stacks, strict=True)}
    return out, _grid(len(out[names[0]]))
  if not any(name.endswith('/accumulated_mean') for name in read.arrays):
    return {}, np.zeros((0,), np.float32)
  out = {}
  for scope, ours in norms:
    for stat in ('mean', 'var'):
      name = f'{ours}.stored_{stat}'
      out[name] = read(f'{scope}/accumulated_{stat}', name, 1, 4).reshape(-1)
  return out, np.ones((1,), np.float32)


def from_hub(arrays: Arrays) -> Source:
  """Return a generator of the TF-Hub modules biggan-{128,256,512} and biggan-deep-{128,256,512}.

  The averaged variables `.../ema_...` are the generator; those without the ending, where all are
  there, are what to go on training from. Variables say nothing of truncations below 1: their
  statistics are taken as those of 1, and others are measured when asked for. The deep modules
  have 51 sets as constants of their graph, `module_apply_default/stack_N`, which are used where
  they are among the arrays.

  Args:
    arrays: every variable by its name, `module/Generator/conv_2d/w/ema_b999900:0` for example.
  Raises:
    UserError: an array is missing or of the wrong rank.
  """
  arrays = {hub_name(name): array for name, array in arrays.items()}
  deep = any(name.startswith('Generator/GenZ/') for name in arrays)
  read = _Reader(arrays, f"TF-Hub's {'BigGAN-deep' if deep else 'BigGAN'}")
  blocks = (re.match(r'Generator/GBlock(?:_(\d+))?/', name) for name in arrays)
  num = max((int(m[1] or 0) for m in blocks if m), default=-1) + 1
  emas = sorted({m[1] for m in (re.search(r'(/ema_[^/]+)$', name) for name in arrays) if m})
  ema = emas[-1] if emas else ''
  weights = _hub_weights(read, num, deep, ema)
  plain = {name.removesuffix(ema) for name in read.used if name.endswith(ema)} if ema else set()
  raw = _hub_weights(_Reader(arrays, ''), num, deep, '') if ema and plain <= set(arrays) else {}
  stats, knots = _hub_stats(read, num, deep)
  rest = [
    name
    for name in arrays
    if name not in read.used | plain and not re.search(r'/(u[1-9]\d*|accumulation_counter)$', name)
  ]
  notes = [_left_out(rest)] if rest else []
  if not ema:
    notes.append('there are no averaged variables (ema_...): the generator is the raw one')
  if not stats:
    notes.append('there are no standing statistics: they are measured when sampled')
  return Source(
    TF_HUB, weights | stats, read.names, raw, {}, knots, 'truncnorm', 1e-4, 1e-4, 3, notes
  )
