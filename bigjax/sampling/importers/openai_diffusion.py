"""Arrays of OpenAI's diffusion codes <-> ours, by rename and transpose.

openai/improved-diffusion and openai/guided-diffusion, the networks of models/unet.py. Kernels of
1-d convolutions, in their attention, are ours of one pixel.

Their files hold arrays and nothing else. Widths, blocks, places of attention, classes and whether
the variance is learned follow from names and shapes; heads, the images' size and the process do
not. So a config says whose they are: one that is given, or that of the published network of this
structure.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigjax.algorithms import diffusion
from bigjax.algorithms.base import configs, contract
from bigjax.core import errors, trees

Arrays = Mapping[str, np.ndarray]
# Whose networks the authors published.
PUBLISHED = (
  'iddpm:cifar10', 'iddpm:imagenet64', 'iddpm:imagenet64_cond', 'iddpm:lsun256', 'adm:imagenet64',
  'adm:imagenet128', 'adm:imagenet256', 'adm:imagenet256_uncond', 'adm:imagenet512',
  'adm:lsun_bedroom', 'adm:lsun_cat', 'adm:lsun_horse',
)  # fmt: skip
LEAVES = {'kernel': 'weight', 'scale': 'weight', 'embedding': 'weight'}
ONE_DIMENSIONAL = ('qkv', 'proj_out', 'qkv_proj', 'c_proj')


def their_name(path: str) -> str:
  """'input_blocks_1_0/in_layers_2/kernel' -> 'input_blocks.1.0.in_layers.2.weight'."""
  *modules, leaf = path.split('/')
  modules = [re.sub(r'_(\d+)', r'.\1', name) for name in modules]
  return '.'.join([*modules, LEAVES.get(leaf, leaf)])


def leaf_out(path: str, w: np.ndarray) -> np.ndarray:
  """One of our parameters in their layout."""
  *modules, leaf = path.split('/')
  if leaf == 'positional_embedding':
    return w.T
  if leaf != 'kernel':
    return w
  if modules[-1] in ONE_DIMENSIONAL:
    return w.reshape(w.shape[-2:]).T[..., None]
  return w.transpose(3, 2, 0, 1) if w.ndim == 4 else w.T  # HWIO -> OIHW


def leaf_in(path: str, w: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """One of their parameters in our layout and shape: the inverse of `leaf_out`."""
  *_, leaf = path.split('/')
  if leaf == 'positional_embedding':
    return w.T
  if leaf != 'kernel':
    return w
  if w.ndim == 4:
    return w.transpose(2, 3, 1, 0)
  return w.reshape(w.shape[:2]).T.reshape(shape)


def params_out(params: dict) -> dict[str, np.ndarray]:
  """Our parameters by their names, in their layout."""
  flat = trees.flat(params)
  return {their_name(path): leaf_out(path, np.asarray(w)) for path, w in flat.items()}


def params_in(arrays: Arrays, shapes: dict, what: str) -> dict:
  """Their arrays as our parameters, float32.

  Args:
    arrays: {their name: array}.
    shapes: of our parameters, a tree.
    what: they are, for the sentence.
  Raises:
    UserError: an array is missing, more than there should be, or of another shape.
  """
  wanted = {path: tuple(leaf.shape) for path, leaf in trees.flat(shapes).items()}
  names = {their_name(path): path for path in wanted}
  for found, expected, words in (
    (arrays, names, 'is no part of'),
    (names, arrays, 'is missing in'),
  ):
    strange = [name for name in found if name not in expected]
    if strange:
      raise errors.UserError(
        f'{strange[0]!r} {words} the weights of {what}, as are {len(strange) - 1} others; '
        'give weights and settings that belong together.'
      )
  loaded = {}
  for name, path in names.items():
    w = np.asarray(arrays[name], np.float32)
    theirs = leaf_out(path, np.broadcast_to(np.float32(0), wanted[path])).shape
    if w.shape != theirs:
      raise errors.UserError(
        f'{name!r} of the weights of {what} is {list(w.shape)}, and should be {list(theirs)}; give '
        'weights and settings that belong together.'
      )
    loaded[path] = leaf_in(path, w, wanted[path])
  return trees.map_paths(lambda path, _: loaded[path], shapes)


# --- Whose arrays they are

_UP = re.compile(r'output_blocks\.\d{1,4}\.[12]\.(conv|in_layers\.0)\.weight$')
_OUTPUT = re.compile(r'output_blocks\.(\d{1,4})\.')


class Structure(NamedTuple):
  """What names and shapes tell of a network; the words are those of sentences."""

  ch: int
  channels: int  # of images
  classes: int  # 0: no labels
  widths: tuple[int, ...]  # channels by resolution, from the largest on
  blocks: int
  attention: tuple[int, ...]  # levels, of which the largest resolution is 0
  learned_variance: bool
  scale_shift: bool
  updown: bool


def structure(arrays: Arrays) -> Structure:
  """What the arrays of a network tell of it.

  Raises:
    UserError: they are those of another kind of network, or of none.
  """
  if not any(name.startswith('output_blocks.') for name in arrays):
    raise errors.UserError(
      'these are the weights of a classifier of noisy images (64x64_classifier.pt?), or of half a '
      'network: they make no images; give those of a diffusion, such as 64x64_diffusion.pt.'
    )
  shape = lambda name, rank: _shape(arrays, name, rank)
  (_, ch), (_, channels, *_) = shape('time_embed.0.weight', 2), shape('input_blocks.0.0.weight', 4)
  out = shape('out.2.weight', 4)[0]
  if channels not in (1, 3):
    raise errors.UserError(
      f'this network takes {channels} channels: it enlarges images, which it is given beside the '
      'noisy ones, and makes none by itself; give a diffusion without another before it.'
    )
  ups = [_UP.match(name) for name in arrays]
  ups = [match[1] for match in ups if match]  # what doubles maps
  num = 1 + max((int(match[1]) for match in map(_OUTPUT.match, arrays) if match), default=0)
  levels, blocks = len(ups) + 1, num // (len(ups) + 1) - 1
  first = [1 + level * (blocks + 1) for level in range(levels)]  # block of each resolution
  widths = tuple(shape(f'input_blocks.{i}.0.out_layers.3.weight', 4)[0] for i in first)
  said = shape(f'input_blocks.{first[0]}.0.emb_layers.1.weight', 2)[0]
  return Structure(
    ch,
    channels,
    shape('label_emb.weight', 2)[0] if 'label_emb.weight' in arrays else 0,
    widths,
    blocks,
    tuple(level for level, i in enumerate(first) if f'input_blocks.{i}.1.qkv.weight' in arrays),
    out == 2 * channels,
    said == 2 * widths[0],
    'in_layers.0' in ups,
  )


def _shape(arrays: Arrays, name: str, rank: int) -> tuple[int, ...]:
  if name not in arrays:
    raise errors.UserError(
      f"{name!r} is missing in the weights, and every network of OpenAI's diffusion codes has it."
    )
  if arrays[name].ndim != rank:
    raise errors.UserError(
      f'{name!r} has shape {list(arrays[name].shape)}; expected an array of rank {rank}.'
    )
  return arrays[name].shape


def _game(given: str) -> diffusion.Diffusion:
  config = configs.read(given)
  if config.algorithm != 'diffusion':
    raise errors.UserError(
      f'--config={given} trains {config.algorithm!r}, and these are the weights of a diffusion: '
      f'give one of {", ".join(PUBLISHED)}, or a file with the settings of their network.'
    )
  return diffusion.make(config)


def _structure_of(net: Any) -> Structure:
  """Of a network of ours."""
  levels = range(len(net.multiples))
  return Structure(
    net.ch,
    net.channels,
    net.num_classes if net.num_classes > 1 else 0,
    tuple(int(multiple * net.ch) for multiple in net.multiples),
    net.blocks,
    tuple(level for level in levels if net.resolution >> level in net.attention),
    net.learned,
    net.scale_shift,
    net.updown,
  )


def found(seen: Structure) -> tuple[str, list[str]]:
  """(The published network's config that has this structure, notes).

  Raises:
    UserError: none has it, or some that differ in what the arrays do not tell.
  """
  games = {name: _game(name) for name in PUBLISHED}
  names = [name for name, game in games.items() if _structure_of(game.teller.net) == seen]
  cards = [_architecture(games[name]) for name in names]
  if not names or cards.count(cards[0]) < len(cards):
    raise errors.UserError(
      f'{" and ".join(names) or "none"} of the networks that OpenAI published has {_said(seen)}, '
      'as these weights have, and heads, size and process are not in the file: give --config, a '
      'name or a file with the settings of their network.'
    )
  others = f' (and of {", ".join(names[1:])})' if names[1:] else ''
  return names[0], [
    f'it has the structure of {names[0]}{others}, whose heads, process and sampling it is given; '
    'where it is of another, say so by --config'
  ]


def _said(seen: Structure) -> str:
  words = [f'{name.replace("_", " ")} {value}' for name, value in seen._asdict().items()]
  return ', '.join(words)


def _architecture(game: diffusion.Diffusion) -> dict[str, Any]:
  return game.architecture(game.stages(1)[0][1])


def bring_in(
  arrays: Arrays, given: str
) -> tuple[Any, dict[str, Any], dict[str, Any], int, Sequence[str]]:
  """(gen as it is sampled, the card's architecture and sampling, classes, notes).

  Args:
    arrays: of the network, by their names.
    given: config whose network and process it is; '': the published one that it can be.
  Raises:
    UserError: the arrays are another network's, or their config cannot be told.
  """
  seen = structure(arrays)
  name, notes = (given, []) if given else found(seen)
  game = _game(name)
  for what, theirs, ours in zip(
    Structure._fields, seen, _structure_of(game.teller.net), strict=True
  ):
    if theirs != ours:
      raise errors.UserError(
        f'the weights are of a network with {what.replace("_", " ")} {theirs}, {name} has {ours}; '
        'give --config that of their network.'
      )
  params = params_in(arrays, contract.state_shapes(game)['ema'], name)
  architecture = _architecture(game)
  return {'params': params}, architecture, game.sampling(), game.teller.num_classes, notes


def describe(architecture: Mapping[str, Any]) -> str:
  """An architecture in a few words."""
  return (
    f'diffusion, {architecture["resolution"]} px, ch {architecture["ch"]}, '
    f'{max(architecture["num_classes"], 1)} classes, {architecture["schedule"]} schedule of '
    f'{architecture["num_steps"]:,} steps'
  )
