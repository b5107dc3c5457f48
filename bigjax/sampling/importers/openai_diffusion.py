"""Arrays of OpenAI's diffusion codes <-> ours, by rename and transpose.

openai/improved-diffusion and openai/guided-diffusion, the networks of models/unet.py: diffusions,
those that enlarge images, and classifiers of noisy ones. Kernels of 1-d convolutions, in their
attention, are ours of one pixel.

Their files hold arrays and nothing else. What follows from names and shapes is in
`openai_structures.py`; heads, the images' size and the process do not. So a config says whose they
are: one that is given, or that of the published network of this structure.
"""

import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from bigjax.algorithms import diffusion, noised_classifier
from bigjax.algorithms.base import configs, contract
from bigjax.core import config as core_config
from bigjax.core import errors, trees
from bigjax.sampling.importers import openai_structures
from bigjax.sampling.importers.openai_structures import Arrays, Structure

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


class Kind(NamedTuple):
  """A kind of network that the authors published.

  Attributes:
    words: what one is.
    game: its family.
    seen: (arrays) -> what they tell of it.
    ours: (network of ours) -> the same.
    published: whose networks there are.
  """

  words: str
  game: ModuleType
  seen: Callable[[Arrays], Structure]
  ours: Callable[[Any], Structure]
  published: tuple[str, ...]

  @property
  def algorithm(self) -> str:
    return self.game.__name__.rpartition('.')[2]


DIFFUSION = Kind(
  'a diffusion', diffusion, openai_structures.whole, openai_structures.whole_of,
  (
    'iddpm:cifar10', 'iddpm:imagenet64', 'iddpm:imagenet64_cond', 'iddpm:lsun256', 'adm:imagenet64',
    'adm:imagenet128', 'adm:imagenet256', 'adm:imagenet256_uncond', 'adm:imagenet512',
    'adm:lsun_bedroom', 'adm:lsun_cat', 'adm:lsun_horse', 'adm:upsample64_256',
    'adm:upsample128_512',
  ),
)  # fmt: skip
CLASSIFIER = Kind(
  'a classifier of noisy images', noised_classifier, openai_structures.half,
  openai_structures.half_of,
  (
    'adm_classifier:imagenet64', 'adm_classifier:imagenet128', 'adm_classifier:imagenet256',
    'adm_classifier:imagenet512',
  ),
)  # fmt: skip


def kind_of(arrays: Arrays) -> Kind:
  return CLASSIFIER if openai_structures.is_half(arrays) else DIFFUSION


def game_of(given: str, kind: Kind, classes: int = 0) -> Any:
  """The game of a config.

  Args:
    given: the config.
    kind: of the network that it must be of.
    classes: that the arrays know, 0 for none; taken where the config leaves it to the data.
  Raises:
    UserError: it is of another kind of network.
  """
  config = configs.read(given)
  if config.algorithm != kind.algorithm:
    raise errors.UserError(
      f'--config={given} trains {config.algorithm!r}, and these are the weights of {kind.words}: '
      f'give one of {", ".join(kind.published)}, or a file with the settings of their network.'
    )
  if config.data.num_classes is None:
    config = core_config.changed(config, {'data.num_classes': classes or 1})
  return kind.game.make(config)


def found(seen: Structure, kind: Kind) -> tuple[str, list[str]]:
  """(The published network's config that has this structure, notes).

  Raises:
    UserError: none has it, or some that differ in what the arrays do not tell.
  """
  games = {name: game_of(name, kind) for name in kind.published}
  names = [name for name, game in games.items() if kind.ours(game.teller.net) == seen]
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


def _architecture(game: Any) -> dict[str, Any]:
  return game.architecture(game.stages(1)[0][1])


class Network(NamedTuple):
  """A network that was read.

  Attributes:
    algorithm, player: as a run's card has them.
    gen: as it is sampled.
    architecture, sampling: of its card.
    num_classes: that it knows, 1 for none.
    notes: sentences for people.
  """

  algorithm: str
  player: str
  gen: dict[str, Any]
  architecture: dict[str, Any]
  sampling: dict[str, Any]
  num_classes: int
  notes: list[str]


def bring_in(arrays: Arrays, given: str) -> Network:
  """Their network as ours.

  Args:
    arrays: of the network, by their names.
    given: config whose network and process it is; '': the published one that it can be.
  Raises:
    UserError: the arrays are another network's, or their config cannot be told.
  """
  kind = kind_of(arrays)
  seen = kind.seen(arrays)
  name, notes = (given, []) if given else found(seen, kind)
  game = game_of(name, kind, seen.classes)
  ours = kind.ours(game.teller.net)
  for what, theirs, own in zip(seen._fields, seen, ours, strict=True):
    if theirs != own:
      raise errors.UserError(
        f'the weights are of a network with {what.replace("_", " ")} {theirs}, {name} has {own}; '
        'give --config that of their network.'
      )
  params = params_in(arrays, contract.state_shapes(game)['ema'], name)
  architecture = _architecture(game)
  return Network(
    kind.algorithm, game.sampled, {'params': params}, architecture, game.sampling(),
    game.teller.num_classes, notes + uses(kind, architecture),
  )  # fmt: skip


def uses(kind: Kind, architecture: Mapping[str, Any]) -> list[str]:
  """What can be done with a network that makes no images by itself."""
  if kind is CLASSIFIER:
    return ['it guides a diffusion: give it as --classifier of bigjax sample, evaluate or export']
  if 'low_resolution' not in architecture:
    return []
  return [
    f'it enlarges images of {architecture["low_resolution"]} px, and is sampled after a generator '
    'of such: bigjax export --cascade'
  ]


def describe(network: Network) -> str:
  """A network in a few words."""
  of = network.architecture
  low = of.get('low_resolution')
  size = f'{low} to {of["resolution"]}' if low else of['resolution']
  return (
    f'{network.algorithm}, {size} px, ch {of["ch"]}, {network.num_classes} classes, '
    f'{of["schedule"]} schedule of {of["num_steps"]:,} steps'
  )
