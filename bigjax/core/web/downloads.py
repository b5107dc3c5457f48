"""Downloads over http(s): in blocks, with a line of progress, never more than was allowed.

A redirection never leads from https to anything else, and a secret header goes to the host that it
is for alone. What is received is the caller's to keep or to throw away (`files.whole`).
"""

import hashlib
import http.client
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import IO, Any, NamedTuple

from bigjax.core import errors, progress

BLOCK = 1 << 20  # bytes read at once
PATIENCE = 20.0  # seconds without an answer or a byte
FAILURES = (OSError, http.client.HTTPException)  # no network, no space, refused, cut short


class Unchanged(Exception):
  """The server says that what lies there is what is known already."""


class Received(NamedTuple):
  """What came: its bytes, as many as were promised (None: nobody said), SHA-256, headers."""

  size: int
  promised: int | None
  sha256: str
  headers: Mapping[str, str]


class Report:
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


class _Redirections(urllib.request.HTTPRedirectHandler):
  """Follows those that stay as safe as they began."""

  def redirect_request(
    self,
    req: urllib.request.Request,
    fp: IO[bytes],
    code: int,
    msg: str,
    headers: http.client.HTTPMessage,
    newurl: str,
  ) -> urllib.request.Request | None:
    there = urllib.parse.urlsplit(newurl)
    if there.scheme != 'https' and (there.scheme != 'http' or req.type == 'https'):
      raise urllib.error.URLError(f'it leads on to {there.scheme[:20]}://, which is not https')
    request = super().redirect_request(req, fp, code, msg, headers, newurl)
    if request and (there.scheme, there.netloc) == (req.type, req.host):
      for name, value in req.unredirected_hdrs.items():
        if name.lower() == 'authorization':
          request.add_unredirected_header(name, value)
    return request


def receive(
  url: str,
  file: IO[bytes],
  what: str,
  most: int | None = None,
  headers: Mapping[str, str] | None = None,
  token: str = '',
  shown: bool = True,
) -> Received:
  """Write what lies at `url` to a file.

  Args:
    url: http(s)://...
    file: open for writing.
    what: it is called.
    most: bytes that it may have; None: any number.
    headers: of the request.
    token: sent to this host alone, as that of the bearer; '' for none.
    shown: whether with a line of progress.
  Raises:
    Unchanged: answers one of the headers, If-None-Match.
    UserError: it is larger.
    FAILURES: whatever else goes wrong.
  """
  request = urllib.request.Request(url, headers=dict(headers or {}))
  if token:
    request.add_unredirected_header('Authorization', f'Bearer {token}')
  try:
    opened = urllib.request.build_opener(_Redirections).open(request, timeout=PATIENCE)
  except urllib.error.HTTPError as error:
    error.close()
    if error.code == 304:
      raise Unchanged from None
    raise
  with opened as response:
    length = response.headers.get('Content-Length', '')
    promised = int(length) if length.isdecimal() else None
    size, sha256 = copy(response, file, what, promised, most, shown)
  return Received(size, promised, sha256, response.headers)


def copy(
  source: Any, file: IO[bytes], what: str, promised: int | None, most: int | None, shown: bool
) -> tuple[int, str]:
  """Copy a stream to a file, with progress; return its size and SHA-256.

  Args:
    source: has read(size).
    file, what, most, shown: as of `receive`.
    promised: bytes that there should be; None: nobody said.
  Raises:
    UserError: it is larger than it may be.
  """
  check_size(promised or 0, most, what)
  say, sha256, done = Report(f'downloading {what}', promised), hashlib.sha256(), 0
  while block := source.read(BLOCK):
    done += len(block)
    check_size(done, most, what)
    file.write(block)
    sha256.update(block)
    if shown:
      say(done)
  if shown:
    say(done, end=True)
  return done, sha256.hexdigest()


def check_size(size: int, most: int | None, what: str) -> None:
  """Refuse what is larger than it may be.

  Raises:
    UserError: says so.
  """
  if most is not None and size > most:
    raise errors.UserError(
      f'{what} has more than {progress.size(most)}, which is all that is downloaded of such a '
      'file; get it by other means, and give its path.'
    )


def why(error: Exception, *secrets: str) -> str:
  """Return what went wrong in one line, without secrets, which a server may say again."""
  told = not isinstance(error, urllib.error.HTTPError) and getattr(error, 'reason', None)
  words = ' '.join(str(told or str(error) or type(error).__name__).split())
  for secret in filter(None, secrets):
    words = words.replace(secret, '***')
  return words[:200].encode('unicode_escape').decode()
