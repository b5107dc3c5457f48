"""Workdirs in buckets (gs://, s3://, whatever fsspec reads): a local folder and its copy there.

Objects in a bucket can neither be appended to nor replaced by a rename, which rows and pictures
need. So a run whose workdir is a URL writes them to a folder of bigjax's cache, and a thread copies
what has changed to the bucket. Checkpoints at gs:// are written there by Orbax, by all hosts;
elsewhere they are copied like everything else, rows first, so that a run that goes on from one, on
whatever machine, has all rows up to it; such runs have one host.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Container, Iterator
from typing import Any

import fsspec
import jax
from etils import epath

from bigjax.core import errors
from bigjax.core.files import cache_dir, unwritable

MARK = '.remote'  # in a local copy, JSON: the URL that it is the copy of, and what came from there
HELD = '.held'  # in a workdir: which run writes to it now; see training/holder.py
WHOLE = '.copied'  # in a checkpoint in a bucket: all of it is there
DIRECT = ('gs://', 'file://')  # where Orbax itself writes checkpoints
ASIDE = ('corrupt', 'rolled_back')  # folders that nothing reads again
SNAPSHOTS = 'posthoc_ema'  # a folder of stored averages: many and large, for few commands
MODULES = {'gs': "pip install 'bigjax[gcs]'", 's3': "pip install 'bigjax[s3]'"}


def is_url(path: str) -> bool:
  """Return whether a path names something on another machine."""
  return '://' in path


Stats = dict[str, tuple[int, int]]  # of files, by their path in the workdir: size, time of change


def _stat(path: str) -> tuple[int, int]:
  stat = os.stat(path)
  return stat.st_size, stat.st_mtime_ns


def origin(folder: str) -> tuple[str, Stats]:
  """Return the URL that a folder is the local copy of, and the files as they came from there.

  ('', {}) of any other folder.
  """
  path = os.path.join(folder, MARK)
  if not os.path.exists(path):
    return '', {}
  with open(path, encoding='utf-8') as file:
    mark = json.load(file)
  return mark['url'], {name: tuple(stat) for name, stat in mark['files'].items()}


def filesystem(url: str) -> tuple[Any, str]:
  """The file system of a URL, and the path in it.

  Raises:
    UserError: no library here does.
  """
  scheme = url.partition('://')[0]
  try:
    return fsspec.core.url_to_fs(url, **({'auto_mkdir': True} if scheme == 'file' else {}))
  except ImportError:
    how = MODULES.get(scheme, f'a package for fsspec that reads {scheme}://')
    raise errors.UserError(f'{url!r} needs a library that is not installed; run: {how}') from None
  except ValueError as error:
    raise errors.UserError(
      f'{url!r} cannot be opened ({error}); give a folder, gs:// or s3://.'
    ) from None


def local(workdir: str, training: bool = False, state: bool = False) -> str:
  """Return a local folder for a workdir: itself, or a fresh copy of what a bucket has.

  Args:
    workdir: a folder or a URL.
    training: for a run that writes there; the folder is its own.
    state: with the training state in the checkpoints and stored averages, as such runs have it,
      not only the generators.
  Raises:
    UserError: the bucket cannot be read, or several hosts cannot share it.
  """
  if not is_url(workdir):
    return workdir
  url, num = workdir.rstrip('/'), jax.process_count()
  if num > 1 and not url.startswith(DIRECT):
    raise errors.UserError(
      f'the workdir {workdir!r} is a URL that {num} hosts cannot share; give gs://, or a folder '
      'that is mounted on all of them.'
    )
  files, root = filesystem(url)
  name = hashlib.sha256(url.encode()).hexdigest()[:12]
  name += f'-{jax.process_index()}' if num > 1 else ''  # hosts may share a home
  name += '' if training else '-read'  # while a run on this machine writes to its own
  folder = os.path.join(cache_dir(), 'workdirs', f'{os.path.basename(url)}-{name}')
  shutil.rmtree(folder, ignore_errors=True)  # the bucket has what counts
  if why := unwritable(folder):
    raise errors.UserError(
      f'the copy of {workdir!r} on this machine cannot be written to {folder!r} ({why}); set '
      'BIGJAX_CACHE to a folder that can be.'
    )
  found: Stats = {}
  try:
    files.invalidate_cache()
    paths = files.find(root) if files.exists(root) else []
    inside = {os.path.relpath(path, root.rstrip('/')).replace(os.sep, '/'): path for path in paths}
    for name, path in inside.items():
      if wanted(name, inside, training or state, url):
        target = os.path.join(folder, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        files.get_file(path, target)
        found[name] = _stat(target)
  except Exception as error:  # whatever that library raises
    raise errors.UserError(
      f'{url!r} cannot be read ({type(error).__name__}: {error}); does the bucket exist, and may '
      'you read it?'
    ) from None
  with open(os.path.join(folder, MARK), 'w', encoding='utf-8') as file:
    json.dump({'url': url, 'files': found}, file)
  return folder


def checkpoints_of(workdir: str) -> epath.Path:
  """Return where the checkpoints of a workdir lie, a folder as `local` returns it."""
  url, _ = origin(workdir)
  base = url.removeprefix('file://') if url.startswith(DIRECT) else os.path.abspath(workdir)
  return epath.Path(base) / 'checkpoints'


def wanted(name: str, names: Container[str], state: bool, url: str) -> bool:
  """Return whether a file of a bucket, by its path in the workdir, belongs in a local copy."""
  first, *rest = name.split('/')
  if first in ('..', HELD) or rest[-1:] == [WHOLE]:
    return False
  if first == SNAPSHOTS:
    return state
  if first != 'checkpoints':
    return first not in ASIDE
  if url.startswith(DIRECT):
    return False
  whole = f'checkpoints/{rest[0]}/{WHOLE}' in names
  return whole and (state or 'state' not in rest[1:2])


def try_to_write(url: str) -> None:
  """Write, read and remove a small object.

  Raises:
    UserError: that cannot be done.
  """
  files, root = filesystem(url.rstrip('/'))
  probe = f'{root.rstrip("/")}/.writable'
  try:
    files.pipe_file(probe, b'1')
    files.cat_file(probe)
    files.rm_file(probe)
  except Exception as error:  # whatever that library raises
    raise errors.UserError(
      f'{url!r} cannot be written ({type(error).__name__}: {error}); does the bucket exist, and '
      'may you write to it?'
    ) from None


class Copies:
  """Copies what changes in a folder to the bucket that it stands for; nothing, where there is none.

  Args:
    folder: a workdir, as `local` returns it.
    warn: what is said of copies that fail, which are tried again the next time.
  """

  def __init__(self, folder: str, warn: Callable[[str], None]):
    self._folder, self._warn = folder, warn
    self._url, self._known = origin(folder)
    self._thread = concurrent.futures.ThreadPoolExecutor(1)
    self._pending: concurrent.futures.Future | None = None
    if self._url:
      self._files, self._root = filesystem(self._url)

  def _stats(self) -> Stats:
    """Files that are complete and changed since the last copy.

    Those of checkpoints come last, and of each of them its mark of being whole.
    """
    found: Stats = {}
    for where, folders, names in os.walk(self._folder):
      inside = os.path.relpath(where, self._folder).replace(os.sep, '/')
      if inside == '.' and self._url.startswith(DIRECT):
        folders[:] = [name for name in folders if name not in ('checkpoints', *ASIDE)]
      if inside == 'checkpoints':
        folders[:] = [name for name in folders if name.isdigit()]  # others are not finished
      folders.sort(key=lambda name: (name == 'checkpoints', name))
      for name in names:
        if name not in (MARK, HELD) and not name.endswith('.partial'):
          with contextlib.suppress(FileNotFoundError):  # an old checkpoint may go at any time
            found[f'{inside}/{name}'.removeprefix('./')] = _stat(os.path.join(where, name))
    steps = {name.split('/')[1] for name in found if name.startswith('checkpoints/')}
    return found | {f'checkpoints/{step}/{WHOLE}': (0, 0) for step in sorted(steps)}

  def push(self) -> None:
    """Begin to copy what has changed since the last time, unless that is still under way."""
    if self._url and (self._pending is None or self._pending.done()):
      self._pending = self._thread.submit(self._copy, self._stats())

  def finish(self) -> None:
    """Copy everything.

    Raises:
      UserError: it cannot be written.
    """
    if not self._url:
      return
    if self._pending:
      self._pending.result()
    if failed := self._copy(self._stats()):
      raise errors.UserError(f'{failed}; it is in {self._folder!r}.')

  def _copy(self, now: Stats) -> str:
    """Copy and remove what differs; return what went wrong, or ''."""
    try:
      for name, stat in now.items():
        if self._known.get(name) == stat:
          continue
        target, path = f'{self._root.rstrip("/")}/{name}', os.path.join(self._folder, name)
        if name.endswith(WHOLE):
          self._files.pipe_file(target, b'1')
        elif os.path.exists(path):
          self._files.put_file(path, target)
        self._known[name] = stat
      for name in [name for name in self._known if name not in now]:
        self._files.rm_file(f'{self._root.rstrip("/")}/{name}')
        del self._known[name]
    except Exception as error:  # whatever that library raises
      words = f'{name} cannot be copied to {self._url} ({type(error).__name__}: {error})'
      self._warn(f'warning: {words}; it will be tried again')
      return words
    return ''


@contextlib.contextmanager
def copied(workdir: str | None, state: bool = False) -> Iterator[str | None]:
  """Within, a workdir is a local folder; afterwards, what was written to it is copied back.

  Args:
    workdir: a folder or a URL.
    state: as of `local`.
  Raises:
    UserError: the bucket cannot be read, or not be written.
  """
  folder = workdir and local(workdir, state=state)
  copies = Copies(folder or '', lambda words: None)
  yield folder
  copies.finish()
