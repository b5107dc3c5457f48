"""Servers on this machine: files over http, and as much of the Hugging Face hub as bigjax uses.

`Hub` takes what huggingface_hub sends (create, preupload, git-lfs, commit) and gives it back; large
files lie at another host, as the hub's do. Everything that was asked is in `asked`.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator


class Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'

  def log_message(self, *args):
    del args

  def body(self) -> bytes:
    if 'chunked' not in self.headers.get('Transfer-Encoding', ''):
      return self.rfile.read(int(self.headers.get('Content-Length') or 0))
    parts = []
    while size := int(self.rfile.readline().strip() or b'0', 16):
      parts.append(self.rfile.read(size))
      self.rfile.readline()
    self.rfile.readline()
    return b''.join(parts)

  def answer(self, content: bytes = b'', status: int = 200, **headers: str) -> None:
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name.replace('_', '-'), value)
    if 'Content_Length' not in headers:
      self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    if self.command != 'HEAD':
      self.wfile.write(content)

  def do_GET(self):
    given = self.body()
    server = self.server.owner
    server.asked.append((self.command, self.path, self.headers.get('Authorization')))
    server.respond(self, given)

  do_HEAD = do_POST = do_PUT = do_GET


class Files:
  """Files by their path: given whole, and again only where their entity tag is another.

  Attributes:
    files: {path: bytes}.
    asked: [(method, path, Authorization)].
    host: by which the server calls itself.
  """

  def __init__(self, host: str = '127.0.0.1'):
    self.files: dict[str, bytes] = {}
    self.asked: list[tuple[str, str, str | None]] = []
    self.host = host
    self.cut = 0  # bytes that are not sent of what is promised
    self._server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    self._server.daemon_threads = True
    self._server.owner = self

  @property
  def url(self) -> str:
    return f'http://{self.host}:{self._server.server_address[1]}'

  @contextlib.contextmanager
  def running(self) -> Iterator['Files']:
    thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
      yield self
    finally:
      self._server.shutdown()
      self._server.server_close()
      thread.join()

  def paths(self, method: str = 'GET') -> list[str]:
    return [path for how, path, _ in self.asked if how == method]

  def respond(self, handler: Handler, given: bytes) -> None:
    path = urllib.parse.urlsplit(handler.path).path
    if handler.command == 'PUT':  # as to where the hub's large files lie, with a signed address
      self.files[path] = given
      handler.answer()
      return
    self.give(handler, self.files.get(path))

  def give(self, handler: Handler, content: bytes | None, **headers: str) -> None:
    if content is None:
      handler.answer(b'nothing here', 404)
      return
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    if handler.headers.get('If-None-Match') == tag:
      handler.answer(status=304, ETag=tag)
      return
    handler.close_connection = bool(self.cut)
    sent = content[: len(content) - self.cut]
    handler.answer(sent, ETag=tag, Content_Length=str(len(content)), **headers)


class Hub(Files):
  """Repositories of models.

  Attributes:
    token: without which nothing is given or taken; '' for a public hub.
    store: the other host, of large files.
    commits: {repository: [(commit, {path: bytes})]}, the newest last.
    private: repositories that are.
    echo: whether errors say the request's headers again, tokens too.
  """

  def __init__(self, store: Files, token: str = ''):
    super().__init__()
    self.store, self.token = store, token
    self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
    self.private: set[str] = set()
    self.echo = False

  def commit(self, repo: str, files: dict[str, bytes]) -> str:
    """Add a commit, as a push does; return its name."""
    history = self.commits.setdefault(repo, [])
    whole = {**(history[-1][1] if history else {}), **files}
    text = f'{repo} {len(history)} {[hashlib.sha256(one).hexdigest() for one in whole.values()]}'
    history.append((hashlib.sha1(text.encode()).hexdigest(), whole))
    return history[-1][0]

  def at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
    history = self.commits.get(repo) or [('0' * 40, {})] * (repo in self.commits)
    if revision == 'main':
      return history[-1] if history else None
    return next((one for one in history if one[0] == revision), None)

  def respond(self, handler: Handler, given: bytes) -> None:
    if self.token and handler.headers.get('Authorization') != f'Bearer {self.token}':
      handler.answer(b'{"error": "Invalid credentials"}', 401)
      return
    if self.echo:
      words = f'no, {handler.headers.get("Authorization")}'
      handler.answer(json.dumps({'error': words}).encode(), 403, X_Error_Message=words)
      return
    path = urllib.parse.urlsplit(handler.path).path
    for pattern, method in self.ROUTES:
      if found := re.fullmatch(pattern, path):
        words = [urllib.parse.unquote(word) for word in found.groups()]
        getattr(self, method)(handler, given, *words)
        return
    handler.answer(b'{"error": "no such page"}', 404)

  ROUTES = (
    ('/api/repos/create', 'create'),
    ('/api/validate-yaml', 'validate'),
    (r'/api/models/([^/]+/[^/]+)', 'info'),
    (r'/api/models/([^/]+/[^/]+)/revision/([^/]+)', 'info'),
    (r'/api/models/([^/]+/[^/]+)/preupload/([^/]+)', 'preupload'),
    (r'/api/models/([^/]+/[^/]+)/commit/([^/]+)', 'take'),
    (r'/([^/]+/[^/]+)\.git/info/lfs/objects/batch', 'batch'),
    (r'/([^/]+/[^/]+)/resolve/([^/]+)/(.+)', 'resolve'),
  )

  def say(self, handler: Handler, told: object, status: int = 200) -> None:
    handler.answer(json.dumps(told).encode(), status, Content_Type='application/json')

  def create(self, handler, given):
    told = json.loads(given)
    repo = f'{told.get("organization") or "me"}/{told["name"]}'
    there = repo in self.commits
    self.commits.setdefault(repo, [])
    if not there and (told.get('private') or told.get('visibility') == 'private'):
      self.private.add(repo)
    self.say(handler, {'url': f'{self.url}/{repo}', 'id': repo}, 409 if there else 200)

  def validate(self, handler, given):
    card = json.loads(given)['content']
    fine = card.startswith('---\n') and '\nlicense: ' in card
    wrong = [] if fine else [{'message': 'no licence'}]
    self.say(handler, {'errors': wrong, 'warnings': []}, 200 if fine else 400)

  def info(self, handler, given, repo, revision='main'):
    del given
    found = self.at(repo, revision)
    if found is None:
      handler.answer(b'{"error": "Repository not found"}', 404, X_Error_Code='RepoNotFound')
      return
    names = [{'rfilename': name} for name in found[1]]
    private = repo in self.private
    self.say(handler, {'id': repo, 'sha': found[0], 'private': private, 'siblings': names})

  def preupload(self, handler, given, repo, revision):
    del repo, revision
    how = lambda path: 'lfs' if path.endswith(('.safetensors', '.png')) else 'regular'
    files = [
      {'path': one['path'], 'uploadMode': how(one['path']), 'shouldIgnore': False, 'oid': None}
      for one in json.loads(given)['files']
    ]
    self.say(handler, {'files': files})

  def batch(self, handler, given, repo):
    del repo
    objects = [
      {**one, 'actions': {'upload': {'href': f'{self.store.url}/{one["oid"]}'}}}
      for one in json.loads(given)['objects']
    ]
    self.say(handler, {'transfer': 'basic', 'objects': objects})

  def take(self, handler, given, repo, revision):
    assert revision == 'main'
    files = {}
    for line in given.splitlines():
      told = json.loads(line)
      value = told['value']
      if told['key'] == 'file':
        files[value['path']] = base64.b64decode(value['content'])
      elif told['key'] == 'lfsFile':
        files[value['path']] = self.store.files[f'/{value["oid"]}']
    commit = self.commit(repo, files)
    url = f'{self.url}/{repo}/commit/{commit}'
    self.say(handler, {'success': True, 'commitOid': commit, 'commitUrl': url})

  def resolve(self, handler, given, repo, revision, name):
    del given
    found = self.at(repo, revision)
    content = found and found[1].get(name)
    if content is not None and name.endswith('.safetensors'):
      oid = hashlib.sha256(content).hexdigest()
      self.store.files[f'/{oid}'] = content
      handler.answer(status=302, Location=f'{self.store.url}/{oid}', X_Repo_Commit=found[0])
      return
    self.give(handler, content, **({'X_Repo_Commit': found[0]} if found else {}))
