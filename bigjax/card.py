"""The exported generator on disk: safetensors and a JSON card that says what they are, or npz."""

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from bigjax import checkpoint, report, utils
from bigjax.latents import How, parse

FORMAT = 2
CARD_KEYS = (
  'format',
  'algorithm',
  'architecture',
  'class_names',
  'dialect',
  'standing_passes',
  'standing_batch',
  'truncations',
)


def how(card: Mapping[str, Any], truncation: str) -> How:
  """Return how to sample at 't[:dialect]' with the standing-statistics settings of a card."""
  asked = parse(truncation, card['dialect'])
  return How(asked.truncation, asked.dialect, card['standing_passes'], card['standing_batch'])


def card_path(path: str) -> str:
  """Return where the card of a safetensors file lies: the same name with .json."""
  return os.path.splitext(path)[0] + '.json'


def save_tensors(path: str, tree: Any) -> None:
  """Write a tree of arrays as safetensors, by path, whole or not at all."""
  os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
  tensors = {name: np.asarray(leaf, order='C') for name, leaf in utils.flat(tree).items()}
  partial = path + '.partial'
  with open(partial, 'wb') as file:  # safetensors' own would be readable by its owner alone
    file.write(safetensors.numpy.save(tensors, metadata={'bigjax': f'format {FORMAT}'}))
  os.replace(partial, path)


def save(path: str, gen: Any, card: Mapping[str, Any]) -> None:
  """Write a generator: `path` (.safetensors) and its card beside it."""
  save_tensors(path, gen)
  report.write_json(card_path(path), card)


def save_npz(path: str, gen: Any, card: Mapping[str, Any]) -> None:
  """Write a generator as one .npz for NumPy alone: arrays by path, and `card`, the card's JSON."""
  os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
  arrays = {name: np.asarray(leaf) for name, leaf in utils.flat(gen).items()}
  with open(path + '.partial', 'wb') as file:
    np.savez(file, card=np.array(json.dumps(card)), **arrays)
  os.replace(path + '.partial', path)


def load_npz(path: str) -> tuple[Any, dict[str, Any]]:
  """Return (gen, card) of a generator that `save_npz` wrote.

  Raises:
    UserError: the file is missing, damaged, or something else.
  """
  if not os.path.isfile(path):
    raise utils.UserError(f'there is no exported generator {path!r}.')
  try:
    with np.load(path) as file:
      arrays = {name: file[name] for name in file.files}
    card = json.loads(str(arrays.pop('card')))
  except KeyError:
    raise utils.UserError(f'{path!r} holds no generator that bigjax wrote: no card.') from None
  except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    raise utils.UserError(f'{path!r} is damaged ({error}).') from None
  check(card, path)
  return {'stats': {}, **utils.nest(arrays)}, card


def check(card: Any, path: str) -> None:
  """Refuse a card that is not one.

  Raises:
    UserError: says what is wrong with it.
  """
  known = set(card) if isinstance(card, dict) else set()
  missing = [key for key in CARD_KEYS if key not in known]
  if missing or card['format'] != FORMAT:
    why = f' (missing: {", ".join(missing)})' if missing else ''
    raise utils.UserError(f'{path!r} is not a card of format {FORMAT}{why}.')


def load(path: str) -> tuple[Any, dict[str, Any]]:
  """Return (gen, card) of an exported generator.

  Args:
    path: of .safetensors, with its card beside it, or of .npz.
  Raises:
    UserError: a file is missing, damaged, or of another format.
  """
  if path.endswith('.npz'):
    return load_npz(path)
  for needed, what in ((path, 'exported generator'), (card_path(path), 'card')):
    if not os.path.isfile(needed):
      raise utils.UserError(
        f'there is no {what} {needed!r}; give the .safetensors file that bigjax wrote, '
        'with its .json beside it.'
      )
  try:
    with open(card_path(path)) as f:
      card = json.load(f)
    gen = utils.nest(safetensors.numpy.load_file(path))
  except (ValueError, safetensors.SafetensorError) as error:
    raise utils.UserError(f'{path!r} or its card is damaged ({error}).') from None
  check(card, card_path(path))
  return {'stats': {}, **gen}, card


def load_workdir(workdir: str, which: str = 'last') -> tuple[Any, dict[str, Any]]:
  """Return (gen, card) of a checkpoint of a run: its step, 'last' or 'best'.

  Raises:
    UserError: the workdir is not one, or has no such checkpoint.
  """
  path = os.path.join(workdir, 'card.json')
  if not os.path.isfile(path):
    raise utils.UserError(f'{workdir!r} is not the workdir of a run: it has no card.json.')
  try:
    with open(path) as f:
      card = json.load(f)
  except ValueError as error:
    raise utils.UserError(f'{path!r} is damaged ({error}).') from None
  check(card, path)
  gen, step = checkpoint.restore_generator(workdir, which)
  return gen, {**card, 'step': step}
