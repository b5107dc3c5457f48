"""Files of a run and of the cache: rows and values as JSON, arrays as .npz; endings of names."""

import contextlib
import errno
import json
import math
import os
import re
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np

from bigjax.core import errors, paths, progress


@contextlib.contextmanager
def whole(path: str, mode: str = 'wb', shared: bool = False) -> Iterator[IO[Any]]:
  """A file that replaces what is at `path` when the block ends, and is gone where that fails.

  Until then it lies beside it, as PATH.partial; what a killed process leaves there, the next one
  writes over.

  Args:
    path: of the file; its folder is there.
    mode: wb, or w for text.
    shared: whether others may write it at once; each then has a PATH.*.partial of its own.
  """
  partial = f'{path}.{secrets.token_hex(4)}.partial' if shared else f'{path}.partial'
  try:
    with open(partial, mode, encoding=None if 'b' in mode else 'utf-8') as file:
      yield file
    os.replace(partial, path)
  except BaseException:
    with contextlib.suppress(OSError):
      os.remove(partial)
    raise


class JsonLines:
  """A file of one JSON object per line, each with a step, in ascending order.

  Args:
    path: of the file; it may exist.
    last_step: rows after this step are dropped, because they will be written again.
  """

  def __init__(self, path: str, last_step: int):
    rows = [row for row in read_rows(path) if row['step'] <= last_step]
    with whole(path, 'w') as f:
      f.writelines(json.dumps(row) + '\n' for row in rows)
    self._file = open(path, 'a', buffering=1, encoding='utf-8')  # noqa: SIM115 - closed by close()

  def write(self, row: Mapping[str, Any]) -> None:
    self._file.write(json.dumps(row) + '\n')

  def close(self) -> None:
    self._file.close()


def read_rows(path: str) -> list[dict[str, Any]]:
  """Return the rows of a JSON-lines file; a last line that was cut off is left out.

  Raises:
    UserError: a line within it is damaged.
  """
  rows = []
  if os.path.isfile(path):
    with open(path, errors='replace', encoding='utf-8') as f:
      for line in f:
        if not line.endswith('\n'):
          break
        try:
          rows.append(json.loads(line))
        except (ValueError, RecursionError):
          rows.append(None)
        if not isinstance(rows[-1], dict):
          raise errors.UserError(f'{path!r} is damaged at: {line[:40]!r}; mend or remove it.')
  return rows


def write_json(path: str, value: Any) -> None:
  """Write a JSON file whole or not at all."""
  with whole(path, 'w') as f:
    json.dump(value, f, indent=2)
    f.write('\n')


def read_json(path: str) -> Any:
  """The content of a JSON file of a workdir.

  Raises:
    UserError: it cannot be read.
  """
  try:
    with open(path, encoding='utf-8') as f:
      return json.load(f)
  except (OSError, ValueError, RecursionError) as error:
    raise errors.UserError(
      f'{path!r} cannot be read ({error}); mend it, or use another --workdir.'
    ) from None


KINDS = {  # of arrays, by the kinds of their dtypes
  'u': 'whole numbers from 0 on',
  'iu': 'whole numbers',
  'fiu': 'numbers',
  'fiub': 'numbers',
}


def check_array(
  array: np.ndarray,
  what: str,
  kinds: str = 'fiu',
  shape: tuple[int | None, ...] | None = None,
  least: float = -math.inf,
  most: float = math.inf,
) -> None:
  """Refuse an array of a file that is not what it should be: type, shape, finiteness, range.

  Args:
    array: as it was read.
    what: it is, with the name of the file: "the array 'mu' of 'stats.npz'".
    kinds: a key of KINDS.
    shape: of the array; None for any length.
    least, most: of its elements.
  Raises:
    UserError: names it.
  """
  fits = shape is None or (
    len(shape) == array.ndim
    and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
  )
  if array.dtype.kind not in kinds or not fits:
    of = '' if shape is None else f' [{", ".join("n" if n is None else str(n) for n in shape)}]'
    raise errors.UserError(
      f'{what} is {array.dtype} {list(array.shape)}; expected {KINDS[kinds]}{of}.'
    )
  if not array.size:
    raise errors.UserError(f'{what} is empty.')
  wrong = ~np.isfinite(array)
  if wrong.any():
    raise errors.UserError(
      f'{what} has {wrong.sum():,} of {wrong.size:,} elements that are not finite: it is damaged, '
      'or of a computation that had failed.'
    )
  low, high = array.min(), array.max()
  if low < least:
    raise errors.UserError(f'{what} has an element {low}; expected at least {least:g}.')
  if high > most:
    raise errors.UserError(f'{what} has an element {high}; expected at most {most:g}.')


VARIANCE = re.compile(r'(^|[/._])var(iance)?(:0)?$')  # names that networks give to variances


def check_weights(
  arrays: Mapping[str, np.ndarray], path: str, infinite: Collection[str] = ()
) -> None:
  """Refuse a network's arrays of which one is no numbers, not finite, or a negative variance.

  Args:
    arrays: by name.
    path: of their file.
    infinite: last names of those that may hold infinities.
  Raises:
    UserError: names the first.
  """
  for name, array in arrays.items():
    what = f'the array {name[:80]!r} of {path!r}'
    if array.dtype.kind == 'V' and array.dtype.name == 'bfloat16':
      array = array.astype(np.float32)
    if name.rpartition('/')[2] in infinite:
      array = np.nan_to_num(array, nan=np.nan, posinf=0.0)
    if array.size:
      check_array(array, what, 'fiub', least=0 if VARIANCE.search(name) else -math.inf)


class Null:
  """A writer that writes nothing: for processes other than the first."""

  def write(self, row: Mapping[str, Any]) -> None:
    del row

  def close(self) -> None:
    pass


def ending(option: str, path: str, endings: Sequence[str], folder: bool = False) -> str:
  """Which of these endings a path to be written has, in any case of letters; '' of a folder.

  Args:
    option: that gave it.
    path: as given.
    endings: '.png' and others that can be written.
    folder: whether it may be a folder instead: one that exists, or a name that ends in a slash or
      has no ending. An ending begins with a letter, so that `truncation-0.5` has none.
  Raises:
    UserError: it has another ending, or none.
  """
  found = re.fullmatch(r'(?s).*(\.[A-Za-z]\w*)', os.path.basename(path))
  known = found[1].lower() if found else ''
  if folder and (not known or os.path.isdir(path)):
    return ''
  if known not in endings:
    expected = ' or '.join(endings)
    if not folder:
      raise errors.UserError(f'{option}={path}: give a name that ends in {expected}.')
    expected = f'a name that ends in {expected}, or ' if endings else ''
    raise errors.UserError(f'{option}={path}: give {expected}a folder, {path}/.')
  return known


def prepare_folder(option: str, path: str) -> None:
  """Make the folder of a file to be written, before work is done for it.

  Args:
    option: that gave the path.
    path: of the file.
  Raises:
    UserError: nothing can be written there.
  """
  is_folder = os.path.isdir(path)
  why = os.strerror(errno.EISDIR) if is_folder else _refusal(f'{path}.partial')  # as `whole` begins
  if why:
    raise errors.UserError(f'{option}={path} cannot be written ({why}).')


def cache_dir() -> str:
  """Return bigjax's cache folder: $BIGJAX_CACHE, $XDG_CACHE_HOME/bigjax or ~/.cache/bigjax."""
  base = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  return paths.expanded(os.environ.get('BIGJAX_CACHE') or os.path.join(base, 'bigjax'))


def unwritable(folder: str) -> str:
  """Why no file can be made in a folder, which is made where it is missing; '' if one can."""
  return _refusal(os.path.join(folder, f'.writable-{secrets.token_hex(4)}'))


def _refusal(path: str) -> str:
  """Why no file can be made at a path, whose folder is made where it is missing; '' if one can."""
  try:
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    with open(path, 'wb'):
      pass
    os.remove(path)
  except OSError as error:
    return error.strerror or type(error).__name__
  return ''


def read_npz(path: str) -> dict[str, np.ndarray]:
  """The arrays of an .npz by name; nothing in it is run.

  Raises:
    ValueError: it is none, or damaged: why, in words.
  """
  try:
    with np.load(path, allow_pickle=False) as file:
      return {name: file[name] for name in file.files}  # checks the CRC of each
  except Exception as error:  # zipfile and NumPy have dozens of ways to say that a file is damaged
    why = getattr(error, 'strerror', None) or f'{type(error).__name__}: {error!s:.200}'
    raise ValueError(why) from None


def read_cache(path: str) -> dict[str, np.ndarray] | None:
  """The arrays that `write_cache` wrote, or None where the file is missing or damaged.

  Damaged is one, too, that holds numbers which are not finite.
  """
  try:
    arrays = read_npz(path)
    floats = [array for array in arrays.values() if array.dtype.kind == 'f']
    return arrays if all(np.isfinite(array).all() for array in floats) else None
  except ValueError:
    return None


def write_cache(path: str, arrays: Mapping[str, np.ndarray], what: str = '') -> None:
  """Write arrays as an .npz, whole or not at all; a cache that cannot be written is no error.

  Args:
    path: of the file; its folder is made.
    arrays: by name.
    what: they are, for the warning where they cannot be kept; '' for none.
  """
  folder = os.path.dirname(path)
  try:
    os.makedirs(folder, exist_ok=True)
    with whole(path, shared=True) as file:  # by all hosts
      np.savez(file, **dict[str, Any](arrays))
  except OSError as error:
    if what:
      progress.say(
        f'warning: {what} cannot be kept in {folder!r} ({error.strerror}) and will be made again'
      )
