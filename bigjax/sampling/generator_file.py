"""The exported generator on disk: safetensors and a JSON card that says what they are, or npz.

Both may come from anybody: nothing in them is executed or unpickled, and whatever bytes they hold,
reading them ends in a generator or in one sentence.
"""

import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from bigjax.core import buckets, checkpoint, errors, files, ranges, trees
from bigjax.core.config import FITS
from bigjax.sampling.sharing import addresses, remote

FORMAT = 3
PACKED = 64  # times its size is what an .npz may unpack to: weights hardly compress at all
INFINITE = ('knots',)  # of a generator: inf is the truncation of untruncated samples
ARCHITECTURE = ranges.Range(0, ranges.LARGEST, whole=False)  # of the numbers in a card's
DEEPEST = 64  # names in the path of an array
CLASS_NUMBERS = (  # what a card says of its class_names
  'a number is a place in class_names, from 0 on; a text is a name, or a place where no class is '
  'named by another number'
)
_texts = lambda value: isinstance(value, list) and all(isinstance(text, str) for text in value)
CARD_KEYS = {  # what a card must have, at least: what it is in words, and whether a value is that
  'format': ('a number', lambda value: type(value) is int),
  'algorithm': ('a name', lambda value: isinstance(value, str)),
  'architecture': ('an object', lambda value: isinstance(value, dict)),
  'class_names': ('a list of names', _texts),
  'player': ('a name', lambda value: isinstance(value, str)),
  'sampling': ('an object', lambda value: isinstance(value, dict)),
}
FRAME_RATE = ranges.Range(above=0, most=10_000, whole=False)  # of clips, in cards that have one


def card_path(path: str) -> str:
  """Return where the card of a safetensors file lies: the same name with .json."""
  return os.path.splitext(path)[0] + '.json'


def save_tensors(path: str, tree: Any) -> None:
  """Write a tree of arrays as safetensors, by path, whole or not at all."""
  os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
  tensors = {name: np.asarray(leaf, order='C') for name, leaf in trees.flat(tree).items()}
  with files.whole(path) as file:  # safetensors' own would be readable by its owner alone
    file.write(safetensors.numpy.save(tensors, metadata={'bigjax': f'format {FORMAT}'}))


def save(path: str, gen: Any, card: Mapping[str, Any]) -> None:
  """Write a generator: `path` (.safetensors) and its card beside it."""
  save_tensors(path, gen)
  files.write_json(card_path(path), card)


def save_npz(path: str, gen: Any, card: Mapping[str, Any]) -> None:
  """Write a generator as one .npz for NumPy alone: arrays by path, and `card`, the card's JSON."""
  os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
  arrays: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in trees.flat(gen).items()}
  with files.whole(path) as file:
    np.savez(file, card=np.array(json.dumps(card)), **arrays)


def load_npz(path: str, name: str = '') -> tuple[Any, dict[str, Any]]:
  """Return (gen, card) of a generator that `save_npz` wrote.

  Args:
    path: of the file.
    name: that sentences call it by; '' for its path.
  Raises:
    UserError: the file is missing, damaged, or something else.
  """
  name = name or path
  if not os.path.isfile(path):
    raise errors.UserError(f'there is no exported generator {path!r}.')
  try:
    with zipfile.ZipFile(path) as archive:
      unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > PACKED * os.path.getsize(path) + 2**20:
      raise ValueError(f'it would unpack to {unpacked:,} bytes')
    with np.load(path, allow_pickle=False) as file:
      arrays = {name: file[name] for name in file.files}
    card = json.loads(str(arrays.pop('card'))) if 'card' in arrays else None
    gen = tree(arrays)
  except Exception as error:  # zipfile and NumPy have dozens of ways to say that a file is damaged
    raise damaged(repr(name), error) from None
  if card is None:
    raise errors.UserError(f'{name!r} holds no generator that bigjax wrote: no card.')
  check(card, name)
  files.check_weights(arrays, name, INFINITE)
  return gen, card


def tree(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Return arrays by path as a tree.

  Raises:
    ValueError: the paths make no tree.
  """
  for path, array in arrays.items():
    if not isinstance(array, np.ndarray):  # NumPy gives the bytes of what is no array
      raise ValueError(f'no array: {path[:80]!r}')
    if path.count('/') >= DEEPEST:
      raise ValueError('an array lies too deep')
    if any(path[:i] in arrays for i, c in enumerate(path) if c == '/'):
      raise ValueError(f'an array lies within another: {path[:80]!r}')
  return trees.nest(arrays)


def damaged(what: str, error: Exception) -> errors.UserError:
  """Return the error of a file that a reader failed at, in one line of printable ASCII."""
  said = ' '.join(str(error).split()) or type(error).__name__
  return errors.UserError(f'{what} is damaged ({said[:200].encode("unicode_escape").decode()}).')


def check(card: Any, path: str) -> None:
  """Refuse a card that is not one.

  Raises:
    UserError: says what is wrong with it.
  """
  known = set(card) if isinstance(card, dict) else set()
  missing = [key for key in CARD_KEYS if key not in known]
  if missing or card['format'] != FORMAT:
    why = f' (missing: {", ".join(missing)})' if missing else ''
    raise errors.UserError(
      f'{path!r} is not a card of format {FORMAT}{why}; export the generator again with this '
      'version of bigjax, or read it with the one that wrote it.'
    )
  for key, number in numbers_in(card['architecture'], 'architecture'):
    if ARCHITECTURE.refusal(number):
      raise errors.UserError(
        f"{path!r} is no card: its architecture's {ascii(key)[:80]} is {ascii(number)[:80]}; "
        f'{ARCHITECTURE.refusal(number)}.'
      )
  for key, (what, holds) in CARD_KEYS.items():
    if not holds(card[key]):
      raise errors.UserError(
        f'{path!r} is no card: its {key!r} is {ascii(card[key])[:80]}, expected {what}.'
      )
  rate = card.get('frame_rate', 1)
  if type(rate) not in (int, float) or FRAME_RATE.refusal(rate):
    raise errors.UserError(
      f"{path!r} is no card: its 'frame_rate' is {ascii(rate)[:80]}, expected frames per second."
    )
  if card.get('fit', FITS[0]) not in FITS:
    raise errors.UserError(
      f"{path!r} is no card: its 'fit' is {ascii(card['fit'])[:80]}, expected {', '.join(FITS)}."
    )


def numbers_in(value: Any, key: str) -> Iterator[tuple[str, float]]:
  """Yield the numbers in a value of JSON, however deep, each with the key that it lies under."""
  waiting = [(key, value)]
  while waiting:
    key, value = waiting.pop()
    if isinstance(value, dict):
      waiting += value.items()
    elif isinstance(value, list):
      waiting += [(key, one) for one in value]
    elif isinstance(value, int | float):
      yield key, value


def in_folder(path: str) -> str:
  """The file of a generator: of a folder that holds one, that; of a file, itself."""
  inside = os.path.join(path, addresses.FILE)
  return inside if os.path.isdir(path) and os.path.isfile(inside) else path


def is_workdir(path: str) -> bool:
  """Whether a path means a workdir, here or in a bucket, and not an exported generator."""
  if buckets.is_url(path):
    return not addresses.is_one(path)
  return os.path.isdir(path) and in_folder(path) == path


def load(path: str) -> tuple[Any, dict[str, Any]]:
  """Return (gen, card) of an exported generator.

  Args:
    path: of .safetensors, with its card beside it, or of .npz; or of a folder that holds
      generator.safetensors, as `bigjax export --hub` writes it; or an address (addresses.py).
  Raises:
    UserError: a file is missing, damaged, or of another format, or cannot be fetched.
  """
  path, name = remote.fetch(path) if addresses.is_one(path) else (in_folder(path), in_folder(path))
  if path.endswith('.npz'):
    return load_npz(path, name)
  for needed, what in ((path, 'exported generator'), (card_path(path), 'card')):
    if not os.path.isfile(needed):
      raise errors.UserError(
        f'there is no {what} {needed!r}; give the .safetensors file that bigjax wrote, '
        'with its .json beside it.'
      )
  try:
    with open(card_path(path), encoding='utf-8') as f:
      card = json.load(f)
    gen = tree(safetensors.numpy.load_file(path))
  except Exception as error:  # of JSON: nested too deep; of safetensors: a type NumPy has not
    raise damaged(f'{name!r} or its card', error) from None
  check(card, card_path(name))
  files.check_weights(trees.flat(gen), name, INFINITE)
  return gen, card


def card_of(workdir: str, which: str = 'last') -> dict[str, Any]:
  """Return the card of a checkpoint of a run: its step, 'last' or 'best'.

  The architecture is the checkpoint's own: networks that grow are smaller in earlier ones.

  Raises:
    UserError: the workdir is not one, or has no such checkpoint.
  """
  path = os.path.join(workdir, 'card.json')
  if not os.path.isfile(path):
    raise errors.UserError(f'{workdir!r} is not the workdir of a run: it has no card.json.')
  try:
    with open(path, encoding='utf-8') as f:
      card = json.load(f)
  except (OSError, ValueError, RecursionError) as error:
    raise damaged(repr(path), error) from None
  check(card, path)
  step = checkpoint.find_step(workdir, which)
  meta = checkpoint.read_meta(workdir, step)
  card = {**card, 'step': step, 'architecture': meta.get('architecture', card['architecture'])}
  check(card, f'checkpoint {step} of {workdir}')
  return card


def load_workdir(workdir: str, which: str = 'last') -> tuple[Any, dict[str, Any]]:
  """Return (gen, card) of a checkpoint of a run: its step, 'last' or 'best'.

  Raises:
    UserError: the workdir is not one, or has no such checkpoint, or it cannot be read.
  """
  card = card_of(workdir, which)
  gen, step = checkpoint.restore_generator(workdir, str(card['step']))
  files.check_weights(trees.flat(gen), f'checkpoint {step} of {workdir}', INFINITE)
  return gen, card


def players_path(path: str) -> str:
  """Return where the trainable weights behind an exported generator lie, if they were kept."""
  return os.path.splitext(path)[0] + '.players.safetensors'


def is_weight(path: str) -> bool:
  """Return whether a path of the training state is that of a parameter or an averaged one."""
  return path.startswith('ema/') or '/params/' in path
