"""BigGAN-PyTorch's arrays <-> ours, by rename and transpose.

The architecture is read off the arrays. The first layer's outputs also go from channel-major to
channel-minor. Of the stored vectors of spectral norm, u is theirs exactly, and v follows from it.
"""

import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.algorithms import biggan as algorithm
from bigjax.core import errors, trees
from bigjax.models import biggan, biggan_deep, sngan
from bigjax.nn import linalg, spectral_norm
from bigjax.sampling.importers import layout

Arrays = dict[str, np.ndarray]
Architecture = dict[str, Any]
# Of BigGAN-PyTorch's buffers, these say nothing about the weights.
IGNORED = re.compile(r'(\.sv\d+|\.u[1-9]\d*|accumulation_counter|num_batches_tracked)$')
NETWORKS = {**algorithm.NETWORKS, 'sngan': sngan}  # whose modules are called alike
LAST_VAR = 'output_layer.0.stored_var'
STATS = {'mean': ('stored_mean', 'running_mean'), 'var': ('stored_var', 'running_var')}


# --- names and layouts ---------------------------------------------------------------------------


def their_module(path: str) -> str:
  """Return BigGAN-PyTorch's name of one of our modules: 'blocks_3/bn1' -> 'blocks.3.0.bn1'."""
  path = re.sub(r'^(blocks|attention)_(\d+)_(\d+)', r'blocks.\2.\3', path)
  path = re.sub(r'^blocks_(\d+)', r'blocks.\1.0', path)
  path = re.sub(r'^attention_(\d+)', r'blocks.\1.1', path)
  path = re.sub(r'^output/bn', 'output_layer.0', path)
  path = re.sub(r'^output/conv', 'output_layer.2', path)
  return path.replace('/', '.')


def their_name(path: str) -> str:
  """Return BigGAN-PyTorch's name of one of our parameters."""
  module, _, leaf = path.rpartition('/')
  leaf = {'kernel': 'weight', 'embedding': 'weight'}.get(leaf, leaf)
  return f'{their_module(module)}.{leaf}'


def leaf_out(path: str, w: np.ndarray) -> np.ndarray:
  """Return one of our parameters in PyTorch's layout."""
  if path.endswith('kernel') and w.ndim == 4:
    return w.transpose(3, 2, 0, 1)  # HWIO -> OIHW
  if path.endswith('kernel'):
    return _channel_major(path, w).T
  return _channel_major(path, w)


def leaf_in(path: str, w: np.ndarray) -> np.ndarray:
  """Return a parameter in our layout: the inverse of `leaf_out`."""
  if path.endswith('kernel') and w.ndim == 4:
    return w.transpose(2, 3, 1, 0)
  if path.endswith('kernel'):
    return _channel_minor(path, w.T)
  return _channel_minor(path, w)


def _channel_major(path: str, w: np.ndarray) -> np.ndarray:
  """Order the outputs [..., 4 * 4 * C] of the generator's first layer as PyTorch's C, H, W."""
  if path.split('/')[0] != 'linear' or w.shape[-1] % 16:
    return w
  lead = w.shape[:-1]
  return np.moveaxis(w.reshape(*lead, 16, -1), -1, -2).reshape(w.shape)


def _channel_minor(path: str, w: np.ndarray) -> np.ndarray:
  if path.split('/')[0] != 'linear' or w.shape[-1] % 16:
    return w
  lead = w.shape[:-1]
  return np.moveaxis(w.reshape(*lead, -1, 16), -1, -2).reshape(w.shape)


# --- architectures -------------------------------------------------------------------------------


def num_blocks(arrays: Arrays) -> int:
  """Return how many residual blocks a network of BigGAN-PyTorch has."""
  places = [int(m[1]) for m in (re.match(r'blocks\.(\d+)\.', name) for name in arrays) if m]
  return max(places, default=-1) + 1


def _network(arrays: Arrays) -> str:
  return 'biggan_deep' if 'blocks.0.0.conv3.weight' in arrays else 'biggan'


def _resolution(arrays: Arrays, sizes: Mapping[int, int], what: str) -> int:
  """Return the resolution whose network has as many blocks as there are."""
  found = [r for r, num in sizes.items() if num == num_blocks(arrays)]
  if not found:
    raise errors.UserError(
      f'these are no weights of a {what}: there are {num_blocks(arrays)} blocks; '
      f'expected one of {sorted(set(sizes.values()))}.'
    )
  return found[0]


def _require(arrays: Arrays, ranks: Mapping[str, int], what: str) -> None:
  """Refuse arrays among which those that tell the architecture are missing or of another rank."""
  for name, rank in ranks.items():
    if name not in arrays or arrays[name].ndim != rank or not arrays[name].size:
      found = f', but one of shape {list(arrays[name].shape)}' if name in arrays else ''
      raise errors.UserError(
        f'these are no weights of a {what}: there is no {name!r} of rank {rank}{found}.'
      )


def gen_architecture(
  arrays: Arrays, bn_eps: float = 1e-4, channels: int | None = None
) -> Architecture:
  """Architecture, as `make_generator` takes it, of a generator in BigGAN-PyTorch's layout.

  Args:
    arrays: the generator.
    bn_eps: epsilon of its BatchNorms, which no array tells.
    channels: of its images; by default as many as it has filters, or three of more than four.
  Raises:
    UserError: the arrays are not those of one.
  """
  name = _network(arrays)
  network, per = algorithm.NETWORKS[name], 2 if name == 'biggan_deep' else 1
  sizes = {r: per * (len(widths) - 1) for r, widths in network.GEN_WIDTHS.items()}
  resolution = _resolution(arrays, sizes, 'generator')
  ranks = {'linear.weight': 2, 'output_layer.2.weight': 4, 'blocks.0.0.bn1.gain.weight': 2}
  shared = arrays.get('shared.weight')
  _require(arrays, ranks if shared is None else {**ranks, 'shared.weight': 2}, 'generator')
  filters, last_width = arrays['output_layer.2.weight'].shape[:2]
  gain, inputs = arrays['blocks.0.0.bn1.gain.weight'], arrays['linear.weight'].shape[1]
  shared_dim = 0 if shared is None else shared.shape[1]
  found = {
    'network': name,
    'latent': 'normal',
    'bn_eps': bn_eps,
    'resolution': resolution,
    'num_classes': len(gain) if shared is None else len(shared),
    'ch': last_width // network.GEN_WIDTHS[resolution][-1],
    'shared_dim': shared_dim,
    'channels': channels or (3 if filters > 4 else filters),
    'attention': [
      4 * 2 ** (i // per + 1) for i in range(num_blocks(arrays)) if f'blocks.{i}.1.gamma' in arrays
    ],
  }
  if name == 'biggan_deep':
    filters = 0 if filters == found['channels'] else filters
    return {**found, 'z_dim': inputs - shared_dim, 'rgb_filters': filters}
  skip_z = shared is not None and gain.shape[1] > shared_dim
  chunks = biggan.num_chunks(resolution, skip_z)
  return {**found, 'z_dim': inputs * chunks, 'skip_z': skip_z}


def disc_architecture(arrays: Arrays) -> Architecture:
  """Return the fields of a discriminator in BigGAN-PyTorch's layout.

  Raises:
    UserError: the arrays are not those of one.
  """
  deep = _network(arrays) == 'biggan_deep'
  network = biggan_deep if deep else biggan
  stem = 1 if deep else 0  # the stem has a width, but is no block
  sizes = {r: network.num_disc_widths(r) - stem for r in network.DISC_WIDTHS}
  resolution = _resolution(arrays, sizes, 'discriminator')
  last = 'conv4' if deep else 'conv2'
  ranks = {f'blocks.{i}.0.{last}.weight': 4 for i in range(num_blocks(arrays))}
  ranks |= {'linear.weight': 2, 'embed.weight': 2} | ({'input_conv.weight': 4} if deep else {})
  _require(arrays, ranks, 'discriminator')
  outs = [len(arrays[f'blocks.{i}.0.{last}.weight']) for i in range(num_blocks(arrays))]
  outs = [len(arrays['input_conv.weight']), *outs] if deep else outs
  published = network.DISC_WIDTHS[resolution]
  published = published if deep else published[0]
  ch = outs[0] // published[0]
  if tuple(outs) == tuple(w * ch for w in published):
    widths: tuple[int, ...] = ()
  else:
    ch = math.gcd(*outs)
    widths = tuple(n // ch for n in outs)
  return {
    'resolution': resolution,
    'num_classes': len(arrays['embed.weight']),
    'ch': ch,
    'widths': widths,
    'attention': tuple(
      resolution >> (i + 1)
      for i in range(num_blocks(arrays))
      if f'blocks.{i}.{1 + stem}.gamma' in arrays
    ),
  }


def gen_shapes(architecture: Architecture) -> Any:
  """Return the shapes {params, moments} of a generator."""
  fields = {**architecture, 'attention': tuple(architecture['attention'])}
  del fields['latent']
  net = NETWORKS[fields.pop('network')].Generator(**fields)
  z = jax.ShapeDtypeStruct((2, net.z_dim), jnp.float32)
  y = jax.ShapeDtypeStruct((2,), jnp.int32)
  return jax.eval_shape(lambda z, y: net.init(jax.random.key(0), z, y, train=True), z, y)


def disc_shapes(network: str, fields: Architecture, channels: int) -> Any:
  """Return the shapes of a discriminator's parameters."""
  net = NETWORKS[network].Discriminator(**fields)
  x = jax.ShapeDtypeStruct((2, net.resolution, net.resolution, channels), jnp.float32)
  y = jax.ShapeDtypeStruct((2,), jnp.int32)
  return jax.eval_shape(lambda x, y: net.init(jax.random.key(0), x, y)['params'], x, y)


# --- in and out ----------------------------------------------------------------------------------


def params_in(
  arrays: Arrays, shapes: Any, names: Mapping[str, str] = MappingProxyType({})
) -> tuple[Any, dict[str, np.ndarray]]:
  """Return (parameters in our layout, {path: u of spectral norm}).

  Args:
    arrays: a network in BigGAN-PyTorch's layout.
    shapes: of our parameters.
    names: what arrays were called before they came into that layout.
  Raises:
    UserError: an array is missing, superfluous, or of another shape.
  """
  used, us = set(), {}

  def take(path, shape):
    name = their_name(path)
    if name not in arrays:
      raise errors.UserError(f'the weights have no {name!r}, which this network needs.')
    used.add(name)
    w = np.asarray(arrays[name])
    ours = leaf_in(path, w) if w.ndim == shape.ndim else w
    if ours.shape != shape.shape:
      raise errors.UserError(
        f'{names.get(name, name)!r} has shape {list(w.shape)} (in the layout of PyTorch); the '
        f'network that fits the other arrays has {list(shape.shape)} (in ours).'
      )
    u = f'{name.rpartition(".")[0]}.u0'
    if path.rsplit('/', 1)[-1] in ('kernel', 'embedding') and u in arrays:
      used.add(u)
      us[path] = _channel_minor(path, np.asarray(arrays[u]).reshape(-1))
    return ours

  params = trees.map_paths(take, shapes)
  rest = [n for n in arrays if n not in used and not IGNORED.search(n) and not _is_stat(n)]
  if rest:
    raise errors.UserError(
      f'the weights have {rest[0]!r}, which this network has no place for '
      f'({len(rest)} such arrays).'
    )
  return params, us


def _is_stat(name: str) -> bool:
  return name.rsplit('.', 1)[-1] in (*STATS['mean'], *STATS['var'])


def stats_in(
  arrays: Arrays,
  moments: Any,
  num: int | None = None,
  names: Mapping[str, str] = MappingProxyType({}),
) -> Any | None:
  """Return the standing statistics stored with a generator, None where there are none.

  BigGAN-PyTorch's own BatchNorm stores sums once `accumulation_counter` counts passes.

  Args:
    arrays: a generator in BigGAN-PyTorch's layout.
    moments: shapes [C] of our statistics.
    num: of truncations K, for statistics [K, C]; None for [C].
    names: what arrays were called before they came into that layout.
  Raises:
    UserError: one of them has another shape than its layer.
  """
  found = {}
  for path, ours in trees.flat(moments).items():
    module, _, leaf = path.rpartition('/')
    base = their_module(module.removesuffix('/norm'))
    # Its own and its synchronised BatchNorms keep them in a submodule `bn`.
    candidates = [f'{base}{inner}.{stat}' for inner in ('', '.bn') for stat in STATS[leaf]]
    name = next((n for n in candidates if n in arrays), None)
    if name is None:
      return None
    value, shape = np.asarray(arrays[name]), ours.shape if num is None else (num, *ours.shape)
    if value.size != math.prod(shape) or value.shape[-1:] != shape[-1:]:
      raise errors.UserError(
        f'{names.get(name, name)!r} has shape {list(value.shape)}; its layer needs {list(shape)}.'
      )
    counter = arrays.get(f'{name.rpartition(".")[0]}.accumulation_counter')
    passes = 0 if counter is None else float(np.asarray(counter).reshape(-1)[0])
    found[path] = (value / np.float32(passes) if passes > 0 else value).reshape(shape)
  return trees.nest(found)


def params_out(params: Any, vectors: spectral_norm.SpectralState | None = None) -> Arrays:
  """Return a network's parameters, and u and sigma of spectral norm, in BigGAN-PyTorch's layout."""
  arrays = {}
  for path, w in trees.flat(params).items():
    arrays[their_name(path)] = np.asarray(leaf_out(path, np.asarray(w)), order='C')
  if vectors is not None:
    norms = spectral_norm.sigmas(params, vectors)
    for path, u in trees.flat(vectors.sn_u).items():
      name = their_name(path).rpartition('.')[0]
      arrays[f'{name}.u0'] = _channel_major(path, np.asarray(u))[None]
      arrays[f'{name}.sv0'] = np.asarray(norms[path]).reshape(1)
  return arrays


def stats_out(stats: Any) -> Arrays:
  """Return standing statistics [C] in BigGAN-PyTorch's layout."""
  arrays = {}
  for path, value in trees.flat(stats).items():
    module, _, leaf = path.rpartition('/')
    arrays[f'{their_module(module.removesuffix("/norm"))}.stored_{leaf}'] = np.asarray(value)
  return arrays


def plain_tables(params: Any, us: Mapping[str, np.ndarray]) -> tuple[Any, dict[str, np.ndarray]]:
  """Return (parameters, u) of a generator with its tables over classes divided by their norm.

  Ours, as BigGAN-PyTorch's, has none there; a `shared.u0` is of a variant of it that does.
  """
  scaled = lambda path, w: w / _norm(path, w, us) if trees.is_table(path) and path in us else w
  return trees.map_paths(scaled, params), {p: u for p, u in us.items() if not trees.is_table(p)}


def _norm(path: str, w: np.ndarray, us: Mapping[str, np.ndarray]) -> float:
  """Return |v M|, what the codes divide by that keep u: one power iteration from it."""
  m = np.asarray(linalg.matrix(spectral_norm.kernel(path, w)), np.float64)
  v = m @ us[path]
  return float(np.linalg.norm(v @ m) / np.linalg.norm(v))


def folded(params: Any, us: Mapping[str, np.ndarray], norms: Mapping[str, float]) -> Any:
  """Divide every kernel by its norm: as the code it is of has it, else the exact one.

  Args:
    params: of a generator.
    us: {path: u of spectral norm}.
    norms: {module in BigGAN-PyTorch's names: norm}.
  """

  def fold(path, w):
    if not spectral_norm.spec()(path, w):
      return w
    module = their_name(path).rpartition('.')[0]
    sigma = norms.get(module)
    if sigma is None:
      told = path in us and np.any(us[path])
      sigma = _norm(path, w, us) if told else max(float(spectral_norm.norm(w)), 1e-12)
    return w / np.float32(sigma)

  return trees.map_paths(fold, params)


def from_biggan_pytorch(arrays: Arrays) -> layout.PublishedGenerator:
  """A generator of BigGAN-PyTorch as it is: its eps 1e-5 is what its scripts train with."""
  return layout.PublishedGenerator(
    layout.TORCH, arrays, {}, {}, {}, np.array([np.inf], np.float32), 'resample', 1e-5,
    layout.LAST_EPS, None, [],
  )  # fmt: skip


def generator_in(
  source: layout.PublishedGenerator, architecture: Architecture
) -> tuple[Any, Any, Any]:
  """Return (exported generator, its weights before the division by their norms, shapes).

  Raises:
    UserError: an array is missing, superfluous, or of another shape.
  """
  shapes = gen_shapes(architecture)
  params, us = plain_tables(*params_in(source.arrays, shapes['params'], source.names))
  gen = {'params': folded(params, us, source.norms)}
  stats = stats_in(source.arrays, shapes['moments'], len(source.knots), source.names)
  # The epsilon of the last BatchNorm that is not ours goes into its variance.
  shift = np.float32(source.last_eps - architecture['bn_eps'])
  last = lambda path, s: s + shift if path.startswith('output/') and path.endswith('var') else s
  if stats is not None:
    gen |= {'stats': trees.map_paths(last, stats), 'knots': source.knots}
  return gen, params, shapes


def leading_vectors(params: Any) -> spectral_norm.SpectralState:
  """Return the exact vectors of averaged weights, which the trained ones' would not be."""
  us, vs = {}, {}
  for path, w in trees.flat(params).items():
    if spectral_norm.spec()(path, w):
      m = np.asarray(linalg.matrix(spectral_norm.kernel(path, w)), np.float64)
      rows, columns = m.shape
      top = np.linalg.eigh(m @ m.T if rows < columns else m.T @ m)[1][:, -1]
      u = top @ m if rows < columns else top
      us[path] = u / np.linalg.norm(u)
      vs[path] = m @ us[path] / np.linalg.norm(m @ us[path])
  narrow = lambda leaves: trees.nest({p: a.astype(np.float32) for p, a in leaves.items()})
  return spectral_norm.SpectralState(narrow(us), narrow(vs))
