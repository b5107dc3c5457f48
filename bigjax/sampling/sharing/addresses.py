"""Where exported generators lie on other machines: hf://, https://, gs://, s3://. Fetches nothing.

  hf://OWNER/NAME[@REVISION][/FILE]     the Hugging Face hub; FILE: generator.safetensors
  https://HOST/PATH.safetensors         with its card beside it, PATH.json; or PATH.npz
  gs://BUCKET/PATH.npz, s3://...        likewise

Behind any of these, #sha256=HEX says which bytes are expected. Addresses may hold secrets (a
signature behind a question mark): `name` does not, and is what sentences say.
"""

import os
import re
import urllib.parse
from typing import NamedTuple

from bigjax.core import errors

FILE = 'generator.safetensors'  # of a folder or repository, unless told
ENDINGS = ('.safetensors', '.npz')
HUB_HOSTS = ('huggingface.co', 'www.huggingface.co', 'hf.co')
THIS_MACHINE = ('localhost', '127.0.0.1', '::1')  # where http:// is as good as https://
PIN = '#sha256='
_REPO = re.compile(r'(?!.*(--|\.\.))[\w.-]{1,96}/[\w.-]{1,96}', re.ASCII)
_FORM = 'hf://OWNER/NAME, hf://OWNER/NAME@REVISION or hf://OWNER/NAME/FILE.safetensors'


class Address(NamedTuple):
  """Where a generator lies.

  Attributes:
    url: of the file; of the hub's, hf://...
    name: what it is called in sentences, without what may be secret; ends in .safetensors or .npz.
    sha256: of the bytes that are expected; '' for any.
    repo, revision, file: of the hub; '' elsewhere.
  """

  url: str
  name: str
  sha256: str = ''
  repo: str = ''
  revision: str = ''
  file: str = ''


def is_one(path: str) -> bool:
  """Whether a path is the address of an exported generator: of no file here, and of no workdir."""
  scheme, separator, _ = path.partition('://')
  if not separator:
    return False
  return scheme.lower() in ('hf', 'https', 'http') or PIN in path or path.endswith(ENDINGS)


def shown(path: str) -> str:
  """A path for a sentence or a title: an address is without what may be secret in it."""
  return printable(path) if '://' in path else path


def printable(url: str) -> str:
  """An address in printable ASCII, without a user's name, a query, a fragment."""
  scheme, _, rest = url.partition('://')
  rest = re.split(r'[?#]', rest)[0]
  host, slash, path = rest.partition('/')
  return ascii(f'{scheme}://{host.rpartition("@")[2] if scheme != "hf" else host}{slash}{path}')[
    1:-1
  ]


def card_url(url: str) -> str:
  """The address of the card beside a .safetensors file."""
  path, mark, query = url.partition('?')
  return os.path.splitext(path)[0] + '.json' + mark + query


def check_repo(option: str, repo: str) -> None:
  """Refuse what cannot be a repository of the hub.

  Raises:
    UserError: says what it looks like.
  """
  if not _REPO.fullmatch(repo) or any(part[0] in '.-' or part[-1] in '.-' for part in _parts(repo)):
    raise errors.UserError(
      f'{option}{ascii(repo)[1:-1]:.200} is no repository of the hub: give OWNER/NAME, of letters, '
      "digits, '-', '_' and '.'."
    )


def _parts(repo: str) -> list[str]:
  return [part for part in repo.split('/') if part]


def parse(given: str, option: str = '') -> Address:
  """The address that a text is.

  Args:
    given: of which `is_one` is true.
    option: that gave it, for the error: '--params='.
  Raises:
    UserError: it is none, or not a safe one.
  """
  url, pin, digest = given.partition(PIN)
  if pin and not re.fullmatch('[0-9a-fA-F]{64}', digest):
    raise errors.UserError(
      f'{option}{printable(url)}{PIN}...: a SHA-256 has 64 hexadecimal digits, this has '
      f'{len(digest)} letters.'
    )
  scheme, _, rest = url.partition('://')
  scheme = scheme.lower()
  try:
    parts = urllib.parse.urlsplit(url) if scheme in ('http', 'https') else None
    reachable = parts is None or (parts.port, bool(parts.hostname))[1]
  except ValueError:  # of a port, of brackets
    reachable = False
  if not reachable:
    raise errors.UserError(f'{option}{printable(url)} is no address: give https://HOST/PATH.')
  if scheme == 'hf':
    return _of_hub(rest, digest, option)
  if parts and parts.hostname in HUB_HOSTS:
    return _of_page(parts.path, digest, option)
  name = printable(url)
  if parts and scheme == 'http' and parts.hostname not in THIS_MACHINE:
    raise errors.UserError(
      f'{option}{name}: what comes by http:// can be changed on its way; give an https:// address.'
    )
  if parts and '@' in parts.netloc:
    raise errors.UserError(
      f'{option}{name}: leave the name and password out of the address; download the file with '
      'what may send them, and give its path.'
    )
  if not name.endswith(ENDINGS):
    raise errors.UserError(
      f'{option}{name}: give the address of a file that ends in {" or ".join(ENDINGS)}, or '
      f'{_FORM.partition(",")[0]}.'
    )
  # Letters that http has not, spaces among them, as every browser writes them.
  url = urllib.parse.quote(url, safe="%/:?#[]@!$&'()*+,;=~") if parts else url
  return Address(url.partition('#')[0], name, digest.lower())


def _of_hub(rest: str, digest: str, option: str) -> Address:
  """Of OWNER/NAME[@REVISION][/FILE]."""
  kind, _, after = rest.partition('/')
  if kind in ('datasets', 'spaces', 'buckets') and after.count('/'):
    raise errors.UserError(f'{option}hf://{rest:.200} is no model: write {_FORM}.')
  rest = after if kind == 'models' and after.count('/') else rest
  # refs/pr/1 is the one kind of revision that is written with its slashes.
  form = r'([^/@]+/[^/@]+)(?:@(refs/\w+/\w+|[^/@]+))?(?:/(.+))?/?'
  found = re.fullmatch(form, rest)
  if not found:
    raise errors.UserError(f'{option}{printable("hf://" + rest):.200}: write {_FORM}.')
  repo, revision, file = found[1], urllib.parse.unquote(found[2] or 'main'), found[3] or FILE
  check_repo(f'{option}hf://', repo)
  if not re.fullmatch(r'[\w./-]{1,200}', revision, re.ASCII) or '..' in revision:
    raise errors.UserError(
      f'{option}hf://{repo}: {revision!a:.200} is no revision; give a branch, a tag or a commit.'
    )
  inside = file.split('/')
  if not file.endswith(ENDINGS) or not file.isprintable() or {'', '.', '..'} & set(inside):
    raise errors.UserError(
      f'{option}hf://{repo}: {file!a:.200} is no generator; its name ends in '
      f'{" or ".join(ENDINGS)}.'
    )
  name = printable(f'hf://{repo}@{revision}/{file}')
  return Address(name, name, digest.lower(), repo, revision, file)


def _of_page(path: str, digest: str, option: str) -> Address:
  """Of an address of the hub as a browser shows it."""
  owner, name, *rest = [*urllib.parse.unquote(path).strip('/').split('/'), ''][:9]
  after = ''
  if len(rest) > 2 and rest[0] in ('blob', 'resolve', 'tree', 'raw'):
    file = '/'.join(word for word in rest[2:] if word)
    after = f'@{rest[1]}' + (f'/{file}' if file.endswith(ENDINGS) else '')
  return _of_hub(f'{owner}/{name}{after}', digest, option)
