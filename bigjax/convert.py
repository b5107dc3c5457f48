"""Published BigGAN weights <-> ours: BigGAN-PyTorch's arrays by name, and what `layouts` renames.

`bigjax convert` turns a generator (.pth, .bin, .npz or .safetensors of BigGAN-PyTorch, Hugging
Face's pytorch-pretrained-BigGAN or TF-Hub) into one that `bigjax sample` and `--config.init_from`
read, or writes a run's networks under BigGAN-PyTorch's names. The architecture is read off the
arrays. A tensor maps by rename and transpose; the first layer's outputs also go from channel-major
to channel-minor. Of the stored vectors of spectral norm, u is theirs exactly, and v follows from
it. Pickles are read by `pth`, which runs nothing of them.
"""

import math
import os
import re
import zipfile
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

import bigjax
from bigjax import card as cards
from bigjax import checkpoint, layouts, linalg, pth, spectral, transfer, utils
from bigjax.algorithms import biggan as algorithm
from bigjax.models import biggan, biggan_deep

Arrays = dict[str, np.ndarray]
Architecture = dict[str, Any]
# Of BigGAN-PyTorch's buffers, these say nothing about the weights.
IGNORED = re.compile(r'(\.sv\d+|\.u[1-9]\d*|accumulation_counter|num_batches_tracked)$')
LAST_VAR = 'output_layer.0.stored_var'
STATS = {'mean': ('stored_mean', 'running_mean'), 'var': ('stored_var', 'running_var')}


# --- names and layouts ---------------------------------------------------------------------------


def torch_module(path: str) -> str:
  """Return BigGAN-PyTorch's name of one of our modules: 'blocks_3/bn1' -> 'blocks.3.0.bn1'."""
  path = re.sub(r'^(blocks|attention)_(\d+)_(\d+)', r'blocks.\2.\3', path)
  path = re.sub(r'^blocks_(\d+)', r'blocks.\1.0', path)
  path = re.sub(r'^attention_(\d+)', r'blocks.\1.1', path)
  path = re.sub(r'^output/bn', 'output_layer.0', path)
  path = re.sub(r'^output/conv', 'output_layer.2', path)
  return path.replace('/', '.')


def torch_name(path: str) -> str:
  """Return BigGAN-PyTorch's name of one of our parameters."""
  module, _, leaf = path.rpartition('/')
  leaf = {'kernel': 'weight', 'embedding': 'weight'}.get(leaf, leaf)
  return f'{torch_module(module)}.{leaf}'


def to_torch(path: str, w: np.ndarray) -> np.ndarray:
  """Return one of our parameters in PyTorch's layout."""
  if path.endswith('kernel') and w.ndim == 4:
    return w.transpose(3, 2, 0, 1)  # HWIO -> OIHW
  if path.endswith('kernel'):
    return _channel_major(path, w).T
  return _channel_major(path, w)


def from_torch(path: str, w: np.ndarray) -> np.ndarray:
  """Return a parameter in our layout: the inverse of `to_torch`."""
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
    raise utils.UserError(
      f'these are no weights of a {what}: there are {num_blocks(arrays)} blocks; '
      f'expected one of {sorted(set(sizes.values()))}.'
    )
  return found[0]


def _require(arrays: Arrays, ranks: Mapping[str, int], what: str) -> None:
  """Refuse arrays among which those that tell the architecture are missing or of another rank."""
  for name, rank in ranks.items():
    if name not in arrays or arrays[name].ndim != rank:
      raise utils.UserError(
        f'these are no weights of a {what}: there is no {name!r} of rank {rank}.'
      )


def gen_architecture(
  arrays: Arrays, bn_eps: float = 1e-4, channels: int | None = None
) -> Architecture:
  """Return what `make_generator` needs for a generator in BigGAN-PyTorch's layout.

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
  _require(arrays, ranks, 'generator')
  filters, last_width = arrays['output_layer.2.weight'].shape[:2]
  gain, inputs = arrays['blocks.0.0.bn1.gain.weight'], arrays['linear.weight'].shape[1]
  shared = arrays.get('shared.weight')
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
    widths = ()
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
  net = algorithm.make_generator(architecture).net
  z = jax.ShapeDtypeStruct((2, net.z_dim), jnp.float32)
  y = jax.ShapeDtypeStruct((2,), jnp.int32)
  return jax.eval_shape(lambda z, y: net.init(jax.random.key(0), z, y, train=True), z, y)


def disc_shapes(network: str, fields: Architecture, channels: int) -> Any:
  """Return the shapes of a discriminator's parameters."""
  net = algorithm.NETWORKS[network].Discriminator(**fields)
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
    name = torch_name(path)
    if name not in arrays:
      raise utils.UserError(f'the weights have no {name!r}, which this network needs.')
    used.add(name)
    w = np.asarray(arrays[name])
    ours = from_torch(path, w) if w.ndim == shape.ndim else w
    if ours.shape != shape.shape:
      raise utils.UserError(
        f'{names.get(name, name)!r} has shape {list(w.shape)} (in the layout of PyTorch); the '
        f'network that fits the other arrays has {list(shape.shape)} (in ours).'
      )
    u = f'{name.rpartition(".")[0]}.u0'
    if path.rsplit('/', 1)[-1] in ('kernel', 'embedding') and u in arrays:
      used.add(u)
      us[path] = _channel_minor(path, np.asarray(arrays[u]).reshape(-1))
    return ours

  params = utils.map_paths(take, shapes)
  rest = [n for n in arrays if n not in used and not IGNORED.search(n) and not _is_stat(n)]
  if rest:
    raise utils.UserError(
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
  for path, ours in utils.flat(moments).items():
    module, _, leaf = path.rpartition('/')
    base = torch_module(module.removesuffix('/norm'))
    # Its own and its synchronised BatchNorms keep them in a submodule `bn`.
    candidates = [f'{base}{inner}.{stat}' for inner in ('', '.bn') for stat in STATS[leaf]]
    name = next((n for n in candidates if n in arrays), None)
    if name is None:
      return None
    value, shape = np.asarray(arrays[name]), ours.shape if num is None else (num, *ours.shape)
    if value.size != math.prod(shape) or value.shape[-1:] != shape[-1:]:
      raise utils.UserError(
        f'{names.get(name, name)!r} has shape {list(value.shape)}; its layer needs {list(shape)}.'
      )
    counter = arrays.get(f'{name.rpartition(".")[0]}.accumulation_counter')
    passes = 0 if counter is None else float(np.asarray(counter).reshape(-1)[0])
    found[path] = (value / np.float32(passes) if passes > 0 else value).reshape(shape)
  return utils.nest(found)


def vectors_in(params: Any, us: Mapping[str, np.ndarray]) -> spectral.SpectralState:
  """Return the state of spectral norm that belongs to weights and stored vectors u."""
  ws = utils.flat(params)
  vs = {
    p: spectral.left(spectral.kernel(p, jnp.asarray(ws[p])), jnp.asarray(u)) for p, u in us.items()
  }
  return spectral.SpectralState(utils.nest(us), utils.nest(vs))


def params_out(params: Any, vectors: spectral.SpectralState | None = None) -> Arrays:
  """Return a network's parameters, and u and sigma of spectral norm, in BigGAN-PyTorch's layout."""
  arrays = {}
  for path, w in utils.flat(params).items():
    arrays[torch_name(path)] = np.asarray(to_torch(path, np.asarray(w)), order='C')
  if vectors is not None:
    norms = spectral.sigmas(params, vectors)
    for path, u in utils.flat(vectors.sn_u).items():
      name = torch_name(path).rpartition('.')[0]
      arrays[f'{name}.u0'] = _channel_major(path, np.asarray(u))[None]
      arrays[f'{name}.sv0'] = np.asarray(norms[path]).reshape(1)
  return arrays


def stats_out(stats: Any) -> Arrays:
  """Return standing statistics [C] in BigGAN-PyTorch's layout."""
  arrays = {}
  for path, value in utils.flat(stats).items():
    module, _, leaf = path.rpartition('/')
    arrays[f'{torch_module(module.removesuffix("/norm"))}.stored_{leaf}'] = np.asarray(value)
  return arrays


# --- the verb ------------------------------------------------------------------------------------


def read_arrays(path: str) -> Arrays:
  """Return the arrays of a .pth, .npz or .safetensors file by name.

  Raises:
    UserError: it cannot be read.
  """
  if not os.path.isfile(path):
    raise utils.UserError(f'there is no file {path!r}.')
  try:
    if path.endswith('.npz'):
      with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    elif path.endswith('.safetensors'):
      arrays = safetensors.numpy.load_file(path)
    else:
      arrays = pth.read(path)
  except (EOFError, OSError, ValueError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
    raise utils.UserError(f'{path!r} cannot be read ({error}).') from None
  # torch.nn.DataParallel puts `module.` before every name; half-precision weights are widened.
  return {
    name.removeprefix('module.'): np.asarray(array, np.float32) for name, array in arrays.items()
  }


def read_class_names(path: str, num: int) -> list[str]:
  """Return the names in a text file, one per line, or numbers where no file is given.

  Raises:
    UserError: the file cannot be read or has another number of lines.
  """
  if not path:
    return [str(i) for i in range(num)]
  try:
    with open(path) as file:
      names = [line.strip() for line in file if line.strip()]
  except (OSError, UnicodeDecodeError) as error:
    raise utils.UserError(f'--class_names={path} cannot be read ({error}).') from None
  if len(names) != num:
    raise utils.UserError(
      f'--class_names={path} has {len(names)} lines; the weights have {num} classes.'
    )
  return names


def read_generator(path: str) -> layouts.Source:
  """Return a generator of any layout.

  Raises:
    UserError: the file cannot be read, or holds none.
  """
  arrays, notes = layouts.network(read_arrays(path))
  match layouts.layout(arrays):
    case layouts.HUGGING_FACE:
      source = layouts.from_hugging_face(arrays, layouts.config_beside(path))
    case layouts.TF_HUB:
      source = layouts.from_hub(arrays)
    case _:
      source = layouts.from_torch(arrays)
  return source._replace(notes=notes + source.notes)


def plain_tables(params: Any, us: Mapping[str, np.ndarray]) -> tuple[Any, dict[str, np.ndarray]]:
  """Return (parameters, u) of a generator with its tables over classes divided by their norm.

  Ours, as BigGAN-PyTorch's, has none there; a `shared.u0` is of a variant of it that does.
  """
  scaled = lambda path, w: w / _norm(path, w, us) if utils.is_table(path) and path in us else w
  return utils.map_paths(scaled, params), {p: u for p, u in us.items() if not utils.is_table(p)}


def _norm(path: str, w: np.ndarray, us: Mapping[str, np.ndarray]) -> np.ndarray:
  """Return |v M|, what the codes divide by that keep u: one power iteration from it."""
  m = np.asarray(linalg.matrix(spectral.kernel(path, w)), np.float64)
  v = m @ us[path]
  return np.float32(np.linalg.norm(v @ m) / np.linalg.norm(v))


def folded(params: Any, us: Mapping[str, np.ndarray], norms: Mapping[str, float]) -> Any:
  """Divide every kernel by its norm: as the code it is of has it, else the exact one.

  Args:
    params: of a generator.
    us: {path: u of spectral norm}.
    norms: {module in BigGAN-PyTorch's names: norm}.
  """

  def fold(path, w):
    if not spectral.spec()(path, w):
      return w
    module = torch_name(path).rpartition('.')[0]
    sigma = norms.get(module)
    if sigma is None:
      told = path in us and np.any(us[path])
      sigma = _norm(path, w, us) if told else max(float(spectral.norm(w)), 1e-12)
    return w / np.float32(sigma)

  return utils.map_paths(fold, params)


def generator_in(source: layouts.Source, architecture: Architecture) -> tuple[Any, Any, Any]:
  """Return (exported generator, its weights before the division by their norms, shapes).

  Raises:
    UserError: an array is missing, superfluous, or of another shape.
  """
  shapes = gen_shapes(architecture)
  params, us = plain_tables(*params_in(source.arrays, shapes['params'], source.names))
  knots = source.knots
  stats = stats_in(source.arrays, shapes['moments'], len(knots), source.names)
  if stats is None:
    stats, knots = {}, np.zeros((0,), np.float32)
  # The epsilon of the last BatchNorm that is not ours goes into its variance.
  shift = np.float32(source.last_eps - architecture['bn_eps'])
  last = lambda path, s: s + shift if path.startswith('output/') and path.endswith('var') else s
  gen = {
    'params': folded(params, us, source.norms),
    'stats': utils.map_paths(last, stats),
    'knots': knots,
  }
  return gen, params, shapes


def bring_in(args: Any) -> None:
  """Write an exported generator, and where there is more than that the players, from files."""
  source = read_generator(args.gen)
  if args.bn_eps is not None:
    own = source.layout == layouts.TORCH  # its last BatchNorm has an epsilon of its own
    source = source._replace(bn_eps=args.bn_eps, last_eps=source.last_eps if own else args.bn_eps)
  architecture = gen_architecture(source.arrays, source.bn_eps, source.channels)
  gen, params, shapes = generator_in(source, architecture)
  own = '' if source.layout == layouts.TORCH else f' ({source.layout})'
  card = {
    'format': cards.FORMAT,
    'bigjax': bigjax.__version__,
    'algorithm': 'biggan',
    'architecture': architecture,
    'class_names': read_class_names(args.class_names, architecture['num_classes']),
    'license': 'that of the weights it was converted from',
    'converted_from': os.path.basename(args.gen) + own,
    'dialect': source.dialect,
    'truncations': [f'{k:g}' if np.isfinite(k) else 'none' for k in gen['knots']] or ['none'],
    'standing_passes': 100,
    'standing_batch': 64,
    'step': 0,
  }
  players = {}
  raw = source._replace(arrays=source.raw) if source.raw else source
  if args.raw_gen:
    raw = read_generator(args.raw_gen)
  if args.raw_gen or args.disc or source.raw:
    raw_params = plain_tables(*params_in(raw.arrays, shapes['params'], raw.names))[0]
    players['gen'], players['ema'] = raw_params, params
  if args.disc:
    arrays, notes = layouts.network(read_arrays(args.disc))
    source.notes.extend(notes)
    fields = disc_architecture(arrays)
    for key in ('resolution', 'num_classes'):
      if fields[key] != architecture[key]:
        names = {'resolution': 'pixels a side', 'num_classes': 'classes'}
        raise utils.UserError(
          f'the discriminator is for {fields[key]} {names[key]}, the generator for '
          f'{architecture[key]}; give two of the same run.'
        )
    wanted = disc_shapes(architecture['network'], fields, architecture['channels'])
    players['disc'], _ = params_in(arrays, wanted)
  cards.save(args.out, gen, card)
  print(
    f'wrote {args.out} and {cards.card_path(args.out)} from {source.layout}: '
    f'{describe(architecture)}'
  )
  if players:
    path = transfer.players_path(args.out)
    cards.save_tensors(path, players)
    print(f'wrote {path}: {", ".join(players)}, for --config.init_from={args.out}')
  for note in source.notes:
    print(f'{note}.')


def describe(architecture: Architecture) -> str:
  """Return an architecture in a few words."""
  return (
    f'{architecture["network"]}, {architecture["resolution"]} px, ch {architecture["ch"]}, '
    f'z {architecture["z_dim"]}, {architecture["num_classes"]} classes, attention at '
    f'{", ".join(map(str, architecture["attention"])) or "no place"}'
  )


def below(leaves: Arrays, prefix: str, mark: str = '') -> Arrays:
  """Return the leaves of which the path begins with `prefix`, by what follows it, and `mark`."""
  inner = {p.removeprefix(prefix): leaf for p, leaf in leaves.items() if p.startswith(prefix)}
  return (
    {path.split(mark, 1)[1]: leaf for path, leaf in inner.items() if mark in path}
    if mark
    else inner
  )


def take_out(args: Any) -> None:
  """Write the networks of a run's checkpoint in BigGAN-PyTorch's layout."""
  gen, card = cards.load_workdir(args.workdir, args.checkpoint)
  if card['algorithm'] != 'biggan':
    raise utils.UserError(
      f'{args.workdir!r} is a run of {card["algorithm"]!r}, which BigGAN-PyTorch has no layout for.'
    )
  wanted = lambda path: transfer.is_weight(path) or '/sn_u/' in path or '/sn_v/' in path
  leaves = checkpoint.restore_part(args.workdir, card['step'], wanted)
  files = {
    name: params_out(
      utils.nest(below(leaves, f'players/{player}/params/')),
      spectral.SpectralState(
        *(utils.nest(below(leaves, f'players/{player}/opt/', mark)) for mark in ('sn_u/', 'sn_v/'))
      ),
    )
    for player, name in (('gen', 'G'), ('disc', 'D'))
  }
  ema = utils.nest(below(leaves, 'ema/'))
  files['G_ema'] = params_out(ema, leading_vectors(ema))
  knots = np.asarray(gen['knots'])
  if np.isinf(knots).any():
    (at,) = np.flatnonzero(np.isinf(knots))
    stats = stats_out(jax.tree.map(lambda s: s[at], gen['stats']))
    # Its last BatchNorm adds an epsilon of its own.
    shift = np.float32(card['architecture']['bn_eps'] - layouts.LAST_EPS)
    files['G_ema'] |= stats | {LAST_VAR: stats[LAST_VAR] + shift}
  os.makedirs(args.out, exist_ok=True)
  for name, arrays in files.items():
    np.savez(os.path.join(args.out, f'{name}.npz'), **arrays)
  print(
    f'wrote {", ".join(f"{args.out}/{name}.npz" for name in files)}: step {card["step"]}, '
    f'{describe(card["architecture"])}; BatchNorm epsilon is {card["architecture"]["bn_eps"]:g}'
  )
  if card['architecture'].get('rgb_filters'):
    print(
      f'the last convolution has {card["architecture"]["rgb_filters"]} filters, of which an image '
      "takes the first three; BigGAN-PyTorch's own has three, and must be told."
    )


def leading_vectors(params: Any) -> spectral.SpectralState:
  """Return the exact vectors of averaged weights, which the trained ones' would not be."""
  us, vs = {}, {}
  for path, w in utils.flat(params).items():
    if spectral.spec()(path, w):
      m = np.asarray(linalg.matrix(spectral.kernel(path, w)), np.float64)
      rows, columns = m.shape
      top = np.linalg.eigh(m @ m.T if rows < columns else m.T @ m)[1][:, -1]
      u = top @ m if rows < columns else top
      us[path] = u / np.linalg.norm(u)
      vs[path] = m @ us[path] / np.linalg.norm(m @ us[path])
  narrow = lambda leaves: utils.nest({p: a.astype(np.float32) for p, a in leaves.items()})
  return spectral.SpectralState(narrow(us), narrow(vs))


GEN_HELP = (
  'a generator of BigGAN-PyTorch (G_ema.pth), of pytorch-pretrained-BigGAN (pytorch_model.bin) or '
  'the variables of a TF-Hub module (.npz); .pth, .bin, .npz or .safetensors'
)


def main(argv: list[str]) -> None:
  """`bigjax convert`."""
  parser = utils.Arguments(prog='bigjax convert', description=__doc__.split('\n\n')[0])
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument('--gen', help=GEN_HELP)
  source.add_argument('--workdir', help='a run, to be written in the layout of BigGAN-PyTorch')
  parser.add_argument('--disc', default='', help='with --gen: the discriminator, to train on')
  parser.add_argument(
    '--raw_gen', default='', help='with --gen: the generator before averaging, to train on'
  )
  parser.add_argument(
    '--bn_eps',
    type=float,
    default=None,
    help="epsilon of the generator's BatchNorms (default: 1e-5 for BigGAN-PyTorch, as its scripts "
    'train with; that of config.json, or 1e-4, for the others)',
  )
  parser.add_argument('--class_names', default='', help='with --gen: a text file, one per line')
  parser.add_argument('--checkpoint', default='last', help='with --workdir: last, best or a step')
  parser.add_argument(
    '--out', required=True, help='with --gen: x.safetensors; with --workdir: a folder'
  )
  args = parser.parse_args(argv)
  if args.gen and not args.out.endswith('.safetensors'):
    raise utils.UserError(f'--out={args.out}: give a name that ends in .safetensors.')
  try:
    (bring_in if args.gen else take_out)(args)
  except OSError as error:
    raise utils.UserError(f'--out={args.out} cannot be written ({error.strerror}).') from None
