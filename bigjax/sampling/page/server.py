"""Serves the page of `bigjax view` to browsers on this machine, and to nobody else.

It listens on 127.0.0.1, answers who calls it localhost (else a page elsewhere could have its own
name point here and read along), and knows a fixed list of addresses, of which none is a path: files
of a run are looked up in what `run_files.pictures` found. Nothing that is asked for changes
anything.
"""

import dataclasses
import functools
import http.server
import importlib.resources
import json
import re
import select
import shlex
import signal
import socket
import socketserver
import sys
import threading
import traceback
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

from bigjax.core import errors, processes
from bigjax.sampling.page import run_files
from bigjax.sampling.page.explorer import Shelf, by_name, encoded, file_name, read_settings

ADDRESS = '127.0.0.1'
HOST = re.compile(r'(localhost|127\.0\.0\.1)(:\d{1,5})?', re.I)  # ssh -L may have another port
STATIC = {
  '/': ('page.html', 'text/html'),
  '/page.css': ('page.css', 'text/css'),
  '/page.js': ('page.js', 'text/javascript'),
}
HEADERS = {
  'Content-Security-Policy': "default-src 'none'; script-src 'self'; style-src 'self'; "
  "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
  "frame-ancestors 'none'",
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cache-Control': 'no-store',
}
TEXT = 'text/plain; charset=utf-8'
WAITING = 0.2  # seconds between two looks at whether a browser still wants its image


@dataclasses.dataclass(frozen=True)
class Answer:
  """What a browser is sent."""

  body: bytes
  media: str = TEXT
  status: int = 200
  headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


def refusal(status: int, words: str) -> Answer:
  return Answer(words.encode(errors='replace'), TEXT, status)


def as_json(value: Any) -> Answer:
  return Answer(json.dumps(value).encode(), 'application/json')


@functools.cache
def asset(name: str) -> bytes:
  """A file of the page."""
  return importlib.resources.files('bigjax.sampling.page').joinpath(name).read_bytes()


class Site:
  """Answers requests by their addresses.

  Args:
    shelf: the generators.
    title: of the page.
  """

  def __init__(self, shelf: Shelf, title: str):
    self._shelf, self._title = shelf, title

  def answer(self, target: str, wanted: Callable[[], bool] = lambda: True) -> Answer:
    """The answer to GET.

    Args:
      target: of the request, with its query.
      wanted: whether whoever asked is still there.
    """
    path, _, query = target.partition('?')
    try:
      path = urllib.parse.unquote(path, errors='strict')
      if path in STATIC:
        name, media = STATIC[path]
        return Answer(asset(name), f'{media}; charset=utf-8')
      if path == '/run.json':
        return self._run()
      if path.startswith('/run/'):
        return self._picture(path.removeprefix('/run/'))
      if path in ('/about.json', '/image'):
        pairs = urllib.parse.parse_qsl(query, keep_blank_values=True, max_num_fields=50)
        words = by_name(pairs)
        return self._made(self._about if path == '/about.json' else self._image, words, wanted)
    except errors.UserError as error:
      return refusal(422, str(error))
    except ValueError:  # of a path that is no UTF-8, or a query with too many fields
      pass
    return refusal(404, 'There is nothing here.')

  def idle(self, patience: float) -> bool:
    """Waits so many seconds until nothing is being made; from then on nothing is."""
    return self._shelf.lock.acquire(timeout=patience)

  def _run(self) -> Answer:
    if not self._shelf.is_workdir:
      return as_json(None)
    return as_json(run_files.about(self._shelf.path))

  def _picture(self, name: str) -> Answer:
    found = run_files.pictures(self._shelf.path) if self._shelf.is_workdir else {}
    try:
      return Answer(found[name].read(), found[name].media)
    except (KeyError, OSError):
      return refusal(404, 'There is no such picture.')

  def _made(
    self,
    make: Callable[[Mapping[str, str]], Answer],
    words: Mapping[str, str],
    wanted: Callable[[], bool],
  ) -> Answer:
    """What the generator makes: one thing at a time, and nothing for who has gone."""
    while not self._shelf.lock.acquire(timeout=WAITING):
      if not wanted():
        return refusal(503, 'Nobody waits for this any more.')
    try:
      return make(words)
    except errors.UserError:
      raise
    except Exception as error:  # of JAX, such as memory that does not suffice: the page lives on
      traceback.print_exc()
      return refusal(500, f'{type(error).__name__}: {str(error).strip().splitlines()[:1]}')
    finally:
      self._shelf.lock.release()

  def _about(self, words: Mapping[str, str]) -> Answer:
    settings = read_settings({k: v for k, v in words.items() if k == 'step'}, 1)
    explorer = self._shelf.at(settings.step)
    if 'measure' in words:
      explorer.measure()
    title = {'title': self._title, 'is_workdir': self._shelf.is_workdir}
    return as_json({**title, **explorer.about()})

  def _image(self, words: Mapping[str, str]) -> Answer:
    num = self._shelf.at().loaded.num_classes
    settings = read_settings(words, num)
    explorer = self._shelf.at(settings.step)
    body, media, ending = encoded(explorer.image(settings), explorer.rate)
    settings = dataclasses.replace(settings, step=explorer.step)
    about = {
      'name': file_name(self._title, settings, ending),
      'command': explorer.command(settings),
      'note': explorer.spec(settings)[1].partition('; --')[0],
    }
    return Answer(body, media, headers={'Bigjax-About': urllib.parse.quote(json.dumps(about))})


class Handler(http.server.BaseHTTPRequestHandler):
  """A browser's requests."""

  protocol_version, server_version, sys_version = 'HTTP/1.1', 'bigjax', ''
  timeout = 300  # seconds that a connection may be idle
  disable_nagle_algorithm = True  # an answer is two writes, of which the second must not wait
  server: 'Server'

  def do_GET(self) -> None:
    refused = self._refused()
    if refused is None and self.command != 'GET':
      refused = Answer(b'Only GET is answered.', status=405, headers={'Allow': 'GET'})
    if refused:
      self.close_connection = True  # there may be a body, which nobody reads
    answer = refused or self.server.site.answer(self.path, self._is_there)
    self.send_response(answer.status)
    if refused:
      self.send_header('Connection', 'close')
    length = {'Content-Type': answer.media, 'Content-Length': str(len(answer.body))}
    for name, value in {**HEADERS, **length, **answer.headers}.items():
      self.send_header(name, value)
    self.end_headers()
    if self.command != 'HEAD':
      self.wfile.write(answer.body)

  do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_GET

  def _refused(self) -> Answer | None:
    """Why a request is not answered: it is meant for another host, or another page sent it."""
    hosts = self.headers.get_all('Host') or []
    if len(hosts) != 1 or not HOST.fullmatch(hosts[0].strip()):
      return refusal(403, 'This page is for localhost alone.')
    site = self.headers.get('Sec-Fetch-Site', 'none')
    if site not in ('none', 'same-origin') and self.path != '/':
      return refusal(403, 'This page answers itself alone.')
    return None

  def _is_there(self) -> bool:
    """Whether the browser still holds the line."""
    try:
      readable, _, _ = select.select([self.connection], [], [], 0)
      return not readable or bool(self.connection.recv(1, socket.MSG_PEEK))
    except (OSError, ValueError):
      return False

  def log_message(self, *_: Any) -> None:
    pass


class Server(http.server.ThreadingHTTPServer):
  """Listens on this machine's own address.

  Args:
    port: 0: a free one.
  Raises:
    UserError: it cannot be had.
  """

  site: Site

  def __init__(self, port: int):
    try:
      super().__init__((ADDRESS, port), Handler)
    except OSError as error:
      raise errors.UserError(
        f'--port={port} cannot be had ({error.strerror}); give another, or leave it out for one '
        'that is free.'
      ) from None

  def server_bind(self) -> None:
    """Without looking up the machine's name, which may take seconds."""
    socketserver.TCPServer.server_bind(self)
    self.server_name, self.server_port = ADDRESS, self.server_address[1]

  def handle_error(self, request: Any, client_address: Any) -> None:
    if not isinstance(sys.exception(), ConnectionError | TimeoutError):  # browsers come and go
      super().handle_error(request, client_address)


def words(port: int) -> str:
  """What is printed of a page at a port."""
  name = socket.gethostname()
  return (
    f'http://localhost:{port}/\n'
    f'from another machine: ssh -N -L {port}:{ADDRESS}:{port} {shlex.quote(name)}, '
    'then the same address there. Ctrl-C ends it.'
  )


def serve(server: Server, site: Site) -> None:
  """Answers until it is told to end, by Ctrl-C or SIGTERM."""
  server.site, told = site, threading.Event()

  def hear(signum: int) -> bool:
    del signum
    told.set()
    return True

  with processes.INTERRUPTS.heard_by(hear, [signal.SIGINT, signal.SIGTERM]):
    threading.Thread(target=server.serve_forever, args=[0.1], daemon=True).start()
    print(words(server.server_port), flush=True)
    told.wait()
  server.shutdown()
  server.server_close()
  if not site.idle(1):
    processes.end('', 0)  # an orderly exit would wait for the image that is being made
