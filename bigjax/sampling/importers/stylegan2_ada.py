"""StyleGAN2's networks as NVIDIA's PyTorch code of ADA names them (also DiffAugment's) <-> ours.

Their state dict becomes our raw parameters by renaming, transposing, and turning the kernels of the
`conv0` that upsample, which convolve there and correlate here. Its buffers are the average w, the
constant noise, which a generator of ours may carry, and the filter, of which we know one. What the
arrays do not tell (activations, gains) a .pkl says of every module, and must be what ours do.
"""

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.algorithms.base.truncation import StyleSpec, noise_maps
from bigjax.core import errors, trees
from bigjax.models import stylegan2
from bigjax.models.pretrained.pickle_machine import told
from bigjax.nn.style import equalized, fir
from bigjax.nn.style.blocks import FIRST, num_maps
from bigjax.sampling.importers.layout import Arrays
from bigjax.sampling.importers.nvidia_pickle import Module, Network

FILTER = np.outer(fir.TAPS, fir.TAPS).astype(np.float32)
CLAMP = (
  'its convolutions are cut off at +-{}, for float16, and ours are not: images differ where one '
  'goes beyond'
)
GROUP = 'its discriminator compares {} examples: train on with model.stddev_group={}'
MAX_LEVELS, MAX_LAYERS = 16, 100  # of what a file may have us make networks of
# (modules, by their path; a setting; what it must be).
SETTINGS = (
  (r'mapping\.fc\d+', 'activation', 'lrelu'),
  (r'mapping\.fc\d+', 'bias_gain', stylegan2.LRMUL),
  (r'mapping\.embed|.*\.affine|b4\.(fc|out)', 'bias_gain', 1),
  (r'mapping\.embed|.*\.affine|b4\.out', 'activation', 'linear'),
  (r'(synthesis\.)?b\d+\.conv[01]?|b\d+\.fromrgb|b4\.fc', 'activation', 'lrelu'),
  (r'b4\.mbstd', 'num_channels', 1),
)


class Player(NamedTuple):
  """One network: raw parameters, the fields of its module, its buffers, notes for people."""

  params: Any
  fields: dict[str, Any]
  buffers: Arrays
  notes: list[str]


# --- Names and arrays


def their_name(path: str) -> str:
  """'synthesis/b8/conv0/kernel' -> 'synthesis.b8.conv0.weight'."""
  name = path.replace('embed_bias', 'embed/bias').replace('/', '.')
  return re.sub(r'\.(kernel|embedding)$', '.weight', name)


def is_turned(path: str) -> bool:
  return path.startswith('synthesis/') and path.endswith('conv0/kernel')


def leaf_in(path: str, w: np.ndarray) -> np.ndarray:
  """A tensor of theirs as ours, float32."""
  w = np.array(w, np.float32)
  if path == 'b4/fc/kernel':  # of a flattened map, channels first there
    return w.reshape(len(w), -1, 4, 4).transpose(2, 3, 1, 0).reshape(-1, len(w))
  if path.endswith('const'):
    return w.transpose(1, 2, 0)
  if path.endswith(('kernel', 'embedding')):
    w = w.transpose(2, 3, 1, 0) if w.ndim == 4 else w.T
  return w[::-1, ::-1] if is_turned(path) else w


def leaf_out(path: str, w: np.ndarray) -> np.ndarray:
  """The inverse of `leaf_in`."""
  w = w[::-1, ::-1] if is_turned(path) else w
  if path == 'b4/fc/kernel':
    return w.reshape(4, 4, -1, w.shape[1]).transpose(3, 2, 0, 1).reshape(w.shape[1], -1)
  if path.endswith('const'):
    return w.transpose(2, 0, 1)
  if path.endswith(('kernel', 'embedding')):
    w = w.transpose(3, 2, 0, 1) if w.ndim == 4 else w.T
  return w


# --- Architectures, read off the arrays


def _levels(arrays: Arrays, prefix: str, what: str) -> list[int]:
  """log2 of the resolutions that there are blocks of."""
  found = {int(m[1]) for m in (re.match(rf'{prefix}b(\d{{1,6}})\.', n) for n in arrays) if m}
  sizes = [2**level for level in range(FIRST, FIRST + min(len(found), MAX_LEVELS))]
  if sorted(found) != sizes:
    raise errors.UserError(
      f"these are no weights of StyleGAN2's {what}: its blocks are of {sorted(found)[:20]} px, "
      'where 4, 8, 16 ... were expected.'
    )
  return list(range(FIRST, FIRST + len(found)))


def _shape(arrays: Arrays, name: str, rank: int, what: str) -> tuple[int, ...]:
  if name not in arrays or arrays[name].ndim != rank or 0 in arrays[name].shape:
    held = f'of shape {list(arrays[name].shape)}' if name in arrays else 'not there'
    raise errors.UserError(
      f"these are no weights of StyleGAN2's {what}: {name!r} is {held}, where one with {rank} axes "
      'was expected.'
    )
  return arrays[name].shape


def _maps(widths: Mapping[int, int], what: str) -> dict[str, int]:
  """The rule by which these are the numbers of maps, by log2 of the resolution."""
  most = widths[FIRST]
  base = max(width << (level - 1) for level, width in widths.items())
  if any(num_maps(level, base, most) != width for level, width in widths.items()):
    raise errors.UserError(
      f"StyleGAN2's {what} has {list(widths.values())} maps from 4 px on, which follow no rule of "
      "ours: at most model.fmap_max, and as many as model.fmap_base over the map's half side."
    )
  return {'fmap_base': base, 'fmap_max': most}


def _mapping(arrays: Arrays, what: str) -> dict[str, int]:
  num = sum(bool(re.fullmatch(r'mapping\.fc\d+\.weight', name)) for name in arrays)
  embedded = 'mapping.embed.weight' in arrays
  if num > MAX_LAYERS:
    raise errors.UserError(
      f"StyleGAN2's {what} has a mapping of {num} layers; at most {MAX_LAYERS} are read."
    )
  classes = _shape(arrays, 'mapping.embed.weight', 2, what)[1] if embedded else 1
  if embedded and classes < 2:
    raise errors.UserError(f"StyleGAN2's {what} has an embedding of a single class; ours has none.")
  return {'mapping_layers': num, 'num_classes': classes}


def _kind(marks: Mapping[str, str], arrays: Arrays) -> str:
  return next((kind for kind, mark in marks.items() if mark in arrays), 'orig')


def gen_architecture(arrays: Arrays) -> dict[str, Any]:
  """What a card says of a generator.

  Raises:
    UserError: it is none of StyleGAN2, or of sizes that ours cannot have.
  """
  what = 'generator'
  levels = _levels(arrays, 'synthesis.', what)
  conv = lambda level: _shape(arrays, f'synthesis.b{2**level}.conv1.weight', 4, what)
  widths, mapping = {level: conv(level)[0] for level in levels}, _mapping(arrays, what)
  w_dim = _shape(arrays, 'synthesis.b4.conv1.affine.weight', 2, what)[1]
  inputs = _shape(arrays, 'mapping.fc0.weight', 2, what)[1]
  z_dim = inputs - (w_dim if mapping['num_classes'] > 1 else 0)
  if z_dim < 1:
    raise errors.UserError(
      f"these are no weights of StyleGAN2's {what}: 'mapping.fc0.weight' has {inputs} inputs, no "
      f'more than the {w_dim} of its classes.'
    )
  top = 2 ** levels[-1]
  marks = {'resnet': 'synthesis.b8.skip.weight', 'skip': 'synthesis.b4.torgb.weight'}
  return {
    'resolution': top, **mapping, **_maps(widths, what),
    'z_dim': z_dim, 'w_dim': w_dim,
    'channels': _shape(arrays, f'synthesis.b{top}.torgb.weight', 4, what)[0],
    'architecture': _kind(marks, arrays),
  }  # fmt: skip


def disc_architecture(arrays: Arrays) -> tuple[dict[str, Any], int]:
  """(The fields of a discriminator's module, its images' channels); UserError as above."""
  what = 'discriminator'
  levels = _levels(arrays, '', what)
  names = {level: f'b{2**level}.conv0.weight' for level in levels} | {FIRST: 'b4.conv.weight'}
  widths = {level: _shape(arrays, name, 4, what)[0] for level, name in names.items()}
  top = 2 ** levels[-1]
  marks = {'resnet': f'b{top}.skip.weight', 'skip': 'b4.fromrgb.weight'}
  fields = {
    'resolution': top, **_mapping(arrays, what), **_maps(widths, what),
    'architecture': _kind(marks, arrays),
  }  # fmt: skip
  return fields, _shape(arrays, f'b{top}.fromrgb.weight', 4, what)[1]


def gen_shapes(fields: Mapping[str, Any]) -> Any:
  net = stylegan2.Generator(**fields)
  y = jnp.zeros((1,), jnp.int32)
  return jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, net.z_dim)), y)['params']


def disc_shapes(fields: Mapping[str, Any], channels: int) -> Any:
  net = stylegan2.Discriminator(**fields)
  images = jax.ShapeDtypeStruct((1, net.resolution, net.resolution, channels), jnp.float32)
  y = jnp.zeros((1,), jnp.int32)
  return jax.eval_shape(net.init, jax.random.key(0), images, y)['params']


# --- Theirs -> ours


def is_buffer(name: str) -> bool:
  return name.rsplit('.', 1)[-1] in ('resample_filter', 'noise_const', 'w_avg')


def params_in(arrays: Arrays, shapes: Any, what: str) -> tuple[Any, Arrays]:
  """(Our raw parameters, the buffers by their names).

  Raises:
    UserError: an array is missing, has no place, or another shape.
  """
  params, wanted = {}, {their_name(path): (path, s.shape) for path, s in trees.flat(shapes).items()}
  for name, (path, shape) in wanted.items():
    if name not in arrays:
      raise errors.UserError(f"the weights have no {name!r}, which StyleGAN2's {what} needs.")
    theirs = leaf_out(path, np.broadcast_to(np.float32(0), shape)).shape
    if arrays[name].shape != theirs:
      raise errors.UserError(
        f'{name!r} has shape {list(arrays[name].shape)}; expected {list(theirs)}.'
      )
    params[path] = leaf_in(path, arrays[name])
  buffers = {name: w for name, w in arrays.items() if name not in wanted and is_buffer(name)}
  rest = [name for name in arrays if name not in wanted and name not in buffers]
  if rest:
    raise errors.UserError(
      f"the weights have {rest[0]!r:.100}, which StyleGAN2's {what} has no place for "
      f'({len(rest)} such arrays).'
    )
  for name, w in buffers.items():
    if name.endswith('resample_filter') and (
      w.shape != FILTER.shape or not np.allclose(w, FILTER, rtol=0, atol=1e-6)
    ):
      raise errors.UserError(
        f'{name!r:.100} is another filter than [1, 3, 3, 1], which ours all have.'
      )
  return trees.nest(params), buffers


def _number(module: Module, key: str) -> float | None:
  """A setting that notes tell; UserError: it is neither None nor a finite number."""
  held = module.settings.get(key)
  if held is None or (type(held) in (int, float) and abs(held) < 2**63):
    return held
  raise errors.UserError(
    f'{module.path!r:.100} has {key} {told(held)}; expected None or a finite number.'
  )


def check_settings(modules: Iterable[Module]) -> list[str]:
  """Notes on modules that are nearly ours.

  Raises:
    UserError: one computes something else.
  """
  notes = []
  for module in modules:
    for pattern, key, wanted in SETTINGS:
      held = module.settings.get(key, wanted)
      if re.fullmatch(pattern, module.path) and held != wanted:
        raise errors.UserError(
          f'{module.path!r:.100} has {key} {told(held)}; ours has {wanted!r}, and no other.'
        )
    clamp, group = (_number(module, key) for key in ('conv_clamp', 'group_size'))
    notes += [CLAMP.format(clamp)] if clamp is not None else []
    if module.path == 'b4.mbstd' and group != 4:
      notes.append(GROUP.format(group or 'all', group or 0))
  return list(dict.fromkeys(notes))


def generator_in(network: Network) -> Player:
  """A generator; UserError: it is another network than ours."""
  notes, fields = check_settings(network.modules), gen_architecture(network.arrays)
  params, buffers = params_in(network.arrays, gen_shapes(fields), 'generator')
  if buffers.get('mapping.w_avg', np.zeros(0)).shape != (fields['w_dim'],):
    raise errors.UserError(
      f"the generator has no average w, 'mapping.w_avg', of {fields['w_dim']} numbers."
    )
  return Player(params, fields, buffers, notes)


def discriminator_in(network: Network) -> Player:
  """A discriminator; UserError: it is another network than ours."""
  notes, (fields, channels) = check_settings(network.modules), disc_architecture(network.arrays)
  params, buffers = params_in(network.arrays, disc_shapes(fields, channels), 'discriminator')
  return Player(params, {**fields, 'channels': channels}, buffers, notes)


def noise_in(buffers: Arrays, fields: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
  """({'noise_const': maps by layer} or {}, notes): what a sampled generator may carry.

  Raises:
    UserError: there is noise, but not of every layer.
  """
  wanted = dict(noise_names(fields['resolution']))
  held = {name: w for name, w in buffers.items() if name.endswith('noise_const')}
  if not held:
    return {}, ['it has no constant noise, so that noise=const is ours']
  if {name: w.shape for name, w in held.items()} != {n: (r, r) for n, r in wanted.items()}:
    raise errors.UserError('its constant noise is not one map for each convolution.')
  layers = {name.split('.', 1)[1].replace('.', '/'): w for name, w in held.items()}
  flat = {layer.removesuffix('/noise_const'): np.asarray(w) for layer, w in layers.items()}
  return {'noise_const': trees.nest(flat)}, []


def noise_names(resolution: int) -> list[tuple[str, int]]:
  """(Name of a layer's constant noise, its pixels a side), in the order of the layers."""
  sizes = stylegan2.noise_sizes(resolution)
  convs = itertools.chain(['conv1'], itertools.cycle(['conv0', 'conv1']))
  return [
    (f'synthesis.b{size}.{conv}.noise_const', size)
    for size, conv in zip(sizes, convs, strict=False)
  ]


def bring_in(networks: Mapping[str, Network]) -> tuple[Any, dict[str, Any], dict[str, Any], list]:
  """(gen as it is sampled, the card's architecture, raw weights by player, notes).

  Raises:
    UserError: a network is another than ours, or they do not belong together.
  """
  ema = generator_in(networks['G_ema'])
  noise, notes = noise_in(ema.buffers, ema.fields)
  notes = ema.notes + notes
  folded = equalized.scale(ema.params, stylegan2.GEN_GAINS)
  gen = {'params': folded, 'w_avg': ema.buffers['mapping.w_avg'], **noise}
  players = {'gen': ema.params, 'ema': ema.params}
  if 'G' in networks:
    raw = generator_in(networks['G'])
    if raw.fields != ema.fields:
      raise errors.UserError('the generator and its average are networks of different sizes.')
    players['gen'] = raw.params
  if 'D' in networks:
    disc = discriminator_in(networks['D'])
    for key in ('resolution', 'num_classes', 'channels'):
      if disc.fields[key] != ema.fields[key]:
        raise errors.UserError(
          f"the discriminator's {key} is {disc.fields[key]}, the generator's {ema.fields[key]}; "
          'give two of the same run.'
        )
    players['disc'], notes = disc.params, notes + disc.notes
  return gen, ema.fields, players, list(dict.fromkeys(notes))


def describe(architecture: Mapping[str, Any]) -> str:
  """An architecture in a few words."""
  widths = f'{architecture["fmap_base"]}/{architecture["fmap_max"]}'
  return (
    f'stylegan2, {architecture["architecture"]}, {architecture["resolution"]} px, maps {widths}, '
    f'z {architecture["z_dim"]}, w {architecture["w_dim"]}, {architecture["num_classes"]} classes'
  )


# --- Ours -> theirs


def _filters(modules: Iterable[str]) -> Arrays:
  return {f'{module}.resample_filter': FILTER for module in modules}


def generator_out(params: Any, w_avg: np.ndarray, resolution: int) -> Arrays:
  """A generator's state dict of raw parameters; its constant noise is what noise=const is here."""
  flat = {path: np.asarray(w) for path, w in trees.flat(params).items()}
  names = noise_names(resolution)
  keys = StyleSpec(noise='const').noise_keys(jnp.asarray(w_avg))
  assert keys is not None, 'constant noise has a key'
  maps = noise_maps(keys, resolution)
  noise = {name: np.asarray(w)[0, :, :, 0] for (name, _), w in zip(names, maps, strict=True)}
  layers = {name.removesuffix('.noise_const') for name in noise}
  blocks = {layer.rsplit('.', 1)[0] for layer in layers}
  skips = {
    their_name(path).removesuffix('.weight') for path in flat if path.endswith('skip/kernel')
  }
  return {
    **{their_name(path): leaf_out(path, w) for path, w in flat.items()},
    'mapping.w_avg': np.asarray(w_avg), **noise, **_filters(sorted(layers | blocks | skips)),
  }  # fmt: skip


def discriminator_out(params: Any) -> Arrays:
  """A discriminator's state dict of raw parameters."""
  found = {
    their_name(path): leaf_out(path, np.asarray(w)) for path, w in trees.flat(params).items()
  }
  convs = {name.removesuffix('.weight') for name, w in found.items() if w.ndim == 4}
  blocks = {conv.split('.')[0] for conv in convs} - {'b4'}
  return found | _filters(sorted(convs | blocks))
