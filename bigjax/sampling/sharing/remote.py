"""Exported generators on other machines, fetched to bigjax's cache, their digests said.

What comes is read as any file is: nothing in it is run. It is as large as it may be at most, whole
or not there, and what has not changed since is not fetched again; without a network, what was kept
is used, and that is said. The hub's files are those of one commit.

The hub's token ($HF_TOKEN, or that of `hf auth login`) goes to the hub's own host alone, and is in
no sentence.
"""

import functools
import hashlib
import io
import json
import os
import re
import urllib.parse
from collections.abc import Callable
from typing import IO, NamedTuple

from bigjax.core import errors, files, progress
from bigjax.core.web import downloads
from bigjax.sampling.sharing import addresses
from bigjax.sampling.sharing.addresses import Address

LARGEST = 2**34  # bytes of a generator; ADM's at 512 px has 2**31
LARGEST_CARD = 2**24
ENDPOINT = 'https://huggingface.co'  # but where $HF_ENDPOINT says otherwise
COMMIT = re.compile('[0-9a-f]{40}')


class Fetched(NamedTuple):
  """A file on this machine, and what it is called in sentences."""

  path: str
  name: str


class Answer(NamedTuple):
  """What came: its bytes, how many were promised, SHA-256, a tag that changes when they do."""

  size: int
  promised: int | None
  sha256: str
  tag: str


Get = Callable[[IO[bytes], str], Answer]  # (file to write to, known tag) -> what came


def endpoint() -> str:
  """Where the hub is."""
  return (os.environ.get('HF_ENDPOINT') or ENDPOINT).rstrip('/')


def token() -> str:
  """The user's token of the hub, '' for none: as huggingface_hub finds it."""
  if given := (
    os.environ.get('HF_TOKEN') or os.environ.get('HUGGING_FACE_HUB_TOKEN') or ''
  ).strip():
    return given
  cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  home = os.environ.get('HF_HOME') or os.path.join(cache, 'huggingface')
  path = os.path.expanduser(os.environ.get('HF_TOKEN_PATH') or os.path.join(home, 'token'))
  try:
    with open(path, encoding='utf-8') as file:
      return file.read().strip()
  except (OSError, ValueError):
    return ''


# --- one file


def of_server(url: str, what: str, card: bool, file: IO[bytes], tag: str, secret: str) -> Answer:
  """Get a file by http(s), unless its entity tag is still this one (downloads.Unchanged)."""
  headers, most = {'If-None-Match': tag} if tag else {}, LARGEST_CARD if card else LARGEST
  got = downloads.receive(url, file, what, most, headers, secret, shown=not card)
  return Answer(got.size, got.promised, got.sha256, got.headers.get('ETag') or '')


def of_bucket(url: str, what: str, card: bool, file: IO[bytes], tag: str, secret: str) -> Answer:
  """Get an object of a bucket, unless its tag is still this one (downloads.Unchanged)."""
  from bigjax.core import buckets  # and with it JAX

  del secret  # of the hub

  store, path = buckets.filesystem(url)
  try:
    store.invalidate_cache()
    size, now = store.size(path), str(store.ukey(path))
    if tag == now:
      raise downloads.Unchanged
    with store.open(path, 'rb') as source:
      most = LARGEST_CARD if card else LARGEST
      done, sha256 = downloads.copy(source, file, what, size, most, not card)
      return Answer(done, size, sha256, now)
  except (downloads.Unchanged, errors.UserError, *downloads.FAILURES):
    raise
  except Exception as error:  # whatever that library raises
    raise OSError(f'{type(error).__name__}: {error}') from None


def known(path: str) -> tuple[str, str]:
  """(SHA-256, tag) of a file that was kept, ('', '') where it is not as it was fetched."""
  try:
    with open(f'{path}.source', encoding='utf-8') as note, open(path, 'rb') as file:
      told = json.load(note)
      sha256, tag = told['sha256'], told['tag']
      if isinstance(tag, str) and hashlib.file_digest(file, 'sha256').hexdigest() == sha256:
        return sha256, tag
  except (OSError, ValueError, RecursionError, LookupError, TypeError):
    pass
  return '', ''


def keep(
  get: Get, name: str, path: str, sha256: str = '', for_ever: bool = False, secret: str = ''
) -> str:
  """Have a file at `path` as it is where it comes from; return its SHA-256.

  Args:
    get: fetches it.
    name: for sentences.
    path: in the cache.
    sha256: that is expected; '' for any.
    for_ever: whether what was kept once cannot have changed.
    secret: is left out of what is said.
  Raises:
    UserError: it cannot be had, or is another file than expected.
  """
  had, tag = known(path)
  if had and (for_ever or had == sha256) and sha256 in ('', had):
    return had
  try:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with files.whole(path, shared=True) as file:  # other processes may fetch it, too
      got = get(file, tag)
      if got.promised is not None and got.size < got.promised:
        raise errors.UserError(
          f'the download of {name} ended after {got.size:,} of {got.promised:,} bytes; try again.'
        )
      refuse_other(got.sha256, sha256, name)
    note = {'from': name, 'sha256': got.sha256, 'tag': got.tag}
    with files.whole(f'{path}.source', 'w', shared=True) as file:
      json.dump(note, file)
    return got.sha256
  except downloads.Unchanged:
    refuse_other(had, sha256, name)
    return had
  except downloads.FAILURES as error:
    status, why = getattr(error, 'code', 0), downloads.why(error, secret)
    if had and not (isinstance(status, int) and 400 <= status < 500):
      refuse_other(had, sha256, name)
      progress.say(f'warning: {name} cannot be reached ({why}); what was kept of it is used')
      return had
    raise errors.UserError(
      f'{name} cannot be fetched ({why}); is the address right, is there a network, and room in '
      f'{files.cache_dir()!r}?'
    ) from None


def refuse_other(found: str, expected: str, name: str) -> None:
  """Refuse bytes that are not those expected.

  Raises:
    UserError: says so.
  """
  if expected and found != expected:
    raise errors.UserError(
      f'what lies at {name} has the SHA-256 {found}, where {expected} was expected: it is another '
      'file, and was not read.'
    )


# --- the hub


def commit_of(address: Address, folder: str, secret: str) -> str:
  """The commit that a revision of a repository is now, or was when it was last asked for.

  Args:
    address: of the hub.
    folder: of the cache, where the answer is kept.
    secret: the token.
  Raises:
    UserError: there is none, or it has no such file.
  """
  if COMMIT.fullmatch(address.revision):
    return address.revision
  revision = urllib.parse.quote(address.revision, safe='')
  url = f'{endpoint()}/api/models/{address.repo}/revision/{revision}'
  repo, kept = f'hf://{address.repo}@{address.revision}', os.path.join(folder, f'{revision}.json')
  try:
    answer = io.BytesIO()
    downloads.receive(url, answer, repo, LARGEST_CARD, token=secret, shown=False)
    told = json.loads(answer.getvalue())
    commit, names = told['sha'], [one['rfilename'] for one in told['siblings']]
    if not COMMIT.fullmatch(commit):
      raise ValueError(commit)
  except downloads.FAILURES as error:
    status, why = getattr(error, 'code', 0), downloads.why(error, secret)
    if status in (401, 403, 404):
      raise errors.UserError(
        f'{repo} cannot be had ({why}): there is no such model or revision, or it is not public; '
        f'{"is your token one that may read it?" if secret else "set HF_TOKEN to your token."}'
      ) from None
    if before := _kept_commit(kept):
      progress.say(f'warning: the hub cannot be asked ({why}); the last known commit is used')
      return before
    raise errors.UserError(
      f'{repo} cannot be had, as {endpoint()} cannot be asked ({why}); is there a network?'
    ) from None
  except (ValueError, RecursionError, LookupError, TypeError):
    raise errors.UserError(
      f'{endpoint()} does not answer as a hub does when asked for {repo}; is HF_ENDPOINT right?'
    ) from None
  needed = [address.file, *([] if address.file.endswith('.npz') else [card_of(address.file)])]
  if missing := [name for name in needed if name not in names]:
    others = [ascii(name)[1:-1] for name in names if name.endswith(addresses.ENDINGS)]
    has = f'it has {", ".join(others[:5])}' if others else 'it has no file with such a name'
    raise errors.UserError(
      f'{repo} has no {" and no ".join(missing)}, as a generator of bigjax has; {has:.500}.'
    )
  os.makedirs(folder, exist_ok=True)
  with files.whole(kept, 'w', shared=True) as file:
    json.dump({'commit': commit}, file)
  return commit


def _kept_commit(path: str) -> str:
  """The commit that `commit_of` kept, '' for none."""
  try:
    with open(path, encoding='utf-8') as file:
      commit = json.load(file)['commit']
    return commit if COMMIT.fullmatch(commit) else ''
  except (OSError, ValueError, RecursionError, LookupError, TypeError):
    return ''


def card_of(file: str) -> str:
  """The name of the card beside a .safetensors file."""
  return os.path.splitext(file)[0] + '.json'


# --- a generator


def folder_of(name: str, what: str) -> str:
  """The folder of the cache for what lies at an address, by its readable name and all of it."""
  readable = re.sub(r'[^\w.-]+', '_', name.partition('://')[2], flags=re.ASCII)[-60:].strip('._')
  digest = hashlib.sha256(what.encode()).hexdigest()[:12]
  return os.path.join(files.cache_dir(), 'generators', f'{readable}-{digest}')


def fetch(given: str) -> Fetched:
  """Fetch a generator, and say what came: how large it is, and its SHA-256.

  Args:
    given: of which addresses.is_one is true.
  Returns:
    Where it lies now, its card beside it, if it has one.
  Raises:
    UserError: it cannot be had, or is larger than it may be, or another than was expected.
  """
  address = addresses.parse(given)
  secret, place, commit = '', address.url, ''
  if address.repo:
    secret = token()
    whole = f'{endpoint()}/{address.repo}'
    try:
      commit = commit_of(address, folder_of(f'hf://{address.repo}', whole), secret)
    except OSError as error:
      raise errors.UserError(
        f'nothing can be kept in {files.cache_dir()!r} ({error.strerror}); set BIGJAX_CACHE.'
      ) from None
    place = f'{whole}/resolve/{commit}/{urllib.parse.quote(address.file)}'
  _, ending = os.path.splitext(address.name)
  readable = f'hf://{address.repo}' if address.repo else address.name
  path = os.path.join(folder_of(readable, place), f'generator{ending}')
  served = place.startswith(('https://', 'http://'))
  of = functools.partial(of_server if served else of_bucket, secret=secret)
  kept = functools.partial(keep, for_ever=bool(commit), secret=secret)
  if ending == '.safetensors':
    beside = card_of(address.name)
    kept(functools.partial(of, addresses.card_url(place), beside, True), beside, card_of(path))
  what = address.name.rsplit('/', 1)[-1]
  sha256 = kept(functools.partial(of, place, what, False), address.name, path, address.sha256)
  at = f', commit {commit[:12]}' if commit else ''
  progress.say(f'{address.name}{at}: {os.path.getsize(path):,} bytes, SHA-256 {sha256}')
  return Fetched(path, address.name)
