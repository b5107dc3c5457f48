"""TF-Hub's BigGAN, BigGAN-deep and BigBiGAN variables, under BigGAN-PyTorch's names."""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from bigjax.core import errors
from bigjax.sampling.importers.layout import (
  TF_HUB,
  Arrays,
  PublishedGenerator,
  Reader,
  hub_name,
  left_out,
)


def reordered(arrays: Arrays, names: Mapping[str, str]) -> Arrays:
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
        raise errors.UserError(
          f'{names[name]!r} has {len(w)} outputs; expected 4 x 4 times a number of channels.'
        )
      w = np.moveaxis(w.reshape(4, 4, len(w) // 16, *w.shape[1:]), 2, 0)
      found[name] = w.reshape(found[name].shape)
  return found


def truncation_grid(num: int) -> np.ndarray:
  """Return the truncations 0, ..., 1 of `num` sets of statistics: 0, 0.02, ..., 1 for 51."""
  return (np.arange(num) / max(num - 1, 1)).astype(np.float32)


# --- TF-Hub --------------------------------------------------------------------------------------


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


def _hub_weights(read: Reader, num: int, deep: bool, ema: str) -> Arrays:
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
  return reordered({placed(name): a for name, a in out.items()}, read.names)


def _attention_place(arrays: Arrays, num: int, deep: bool) -> int:
  """Return after which block attention comes: the one with as many channels as it has.

  Raises:
    UserError: there is none, or there are several.
  """
  channels, last = arrays['attention.theta.weight'].shape[1], 'conv4' if deep else 'conv2'
  ends = range(1, num, 2) if deep else range(num)
  found = [i for i in ends if len(arrays[f'blocks.{i}.0.{last}.weight']) == channels]
  if len(found) != 1:
    raise errors.UserError(
      f"'Generator/attention/theta/w' has {channels} inputs, as many as {len(found)} of the blocks "
      'have outputs, so that its place cannot be told.'
    )
  return found[0]


def _hub_stats(read: Reader, num: int, deep: bool) -> tuple[Arrays, np.ndarray]:
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
      raise errors.UserError(
        f'the weights have {len(stacks)} stacked statistics (stack_...); this generator has '
        f'{len(norms)} BatchNorms with a mean and a variance each, all at the same truncations.'
      )
    names = [f'{ours}.stored_{stat}' for _, ours in norms for stat in ('mean', 'var')]
    out = {ours: read(theirs, ours, 2) for ours, (_, theirs) in zip(names, stacks, strict=True)}
    return out, truncation_grid(len(out[names[0]]))
  if not any(name.endswith('/accumulated_mean') for name in read.arrays):
    return {}, np.zeros((0,), np.float32)
  out = {}
  for scope, ours in norms:
    for stat in ('mean', 'var'):
      name = f'{ours}.stored_{stat}'
      out[name] = read(f'{scope}/accumulated_{stat}', name, 1, 4).reshape(-1)
  return out, np.ones((1,), np.float32)


# BigBiGAN's generator is BigGAN's, but for these names: theirs, BigGAN's.
BIGBIGAN = (
  (r'^Generator/linear/', 'linear/'),
  (r'/GenZ/', '/G_Z/'),
  (r'^Generator/BatchNorm/(?=accum)', 'Generator/ScaledCrossReplicaBNbn/'),
  (r'^Generator/BatchNorm/', 'Generator/ScaledCrossReplicaBN/'),
  (r'/BatchNorm(_\d+)?/(?=accum)', r'/CrossReplicaBN\1/'),
  (r'/BatchNorm(_\d+)?/', r'/HyperBN\1/'),
  (r'/scale(?=/|$)', '/gamma'),
  (r'/offset(?=/|$)', '/beta'),
)


def of_biggan(name: str) -> str:
  """BigGAN's name of a variable of BigBiGAN's generator."""
  for theirs, ours in BIGBIGAN:
    name = re.sub(theirs, ours, name)
  return name


def from_hub(arrays: Arrays) -> PublishedGenerator:
  """Return a generator of the TF-Hub modules biggan-{128,256,512} and biggan-deep-{128,256,512}.

  And that of bigbigan-resnet50 and bigbigan-revnet50x4, whose one class is the vector that all
  share. Their encoders and discriminators are left out: what their variables are called is not
  public.

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
  bidirectional = deep and any(name.startswith('Generator/GBlock/conv_sc/') for name in arrays)
  if bidirectional:
    arrays, deep = {of_biggan(name): array for name, array in arrays.items()}, False
  of = 'BigBiGAN' if bidirectional else 'BigGAN-deep' if deep else 'BigGAN'
  read = Reader(arrays, f"TF-Hub's {of}")
  blocks = (re.match(r'Generator/GBlock(?:_(\d+))?/', name) for name in arrays)
  num = max((int(m[1] or 0) for m in blocks if m), default=-1) + 1
  emas = sorted({m[1] for m in (re.search(r'(/ema_[^/]+)$', name) for name in arrays) if m})
  ema = emas[-1] if emas else ''
  weights = _hub_weights(read, num, deep, ema)
  plain = {name.removesuffix(ema) for name in read.used if name.endswith(ema)} if ema else set()
  raw = _hub_weights(Reader(arrays, ''), num, deep, '') if ema and plain <= set(arrays) else {}
  stats, knots = _hub_stats(read, num, deep)
  rest = [
    name
    for name in arrays
    if name not in read.used | plain and not re.search(r'/(u[1-9]\d*|accumulation_counter)$', name)
  ]
  notes = [left_out(rest)] if rest else []
  if not ema:
    notes.append('there are no averaged variables (ema_...): the generator is the raw one')
  if not stats:
    notes.append('there are no standing statistics: they are measured when sampled')
  dialect = 'truncnorm'
  if bidirectional:  # which is sampled with whole normals
    knots, dialect = np.full_like(knots, np.inf), 'resample'
  return PublishedGenerator(
    TF_HUB, weights | stats, read.names, raw, {}, knots, dialect, 1e-4, 1e-4, 3, notes
  )
