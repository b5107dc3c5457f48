"""Generators at addresses: read as they are, fetched once, kept whole; and who is told a token."""

import hashlib
import json

import fsspec
import jax
import numpy as np
import pytest

from bigjax import sample
from bigjax.algorithms import family
from bigjax.core import errors
from bigjax.core.web import downloads
from bigjax.sampling import generator_file as cards
from bigjax.sampling.sharing import addresses, remote
from bigjax.training import init_from

import fake_hub
import toys  # noqa: F401 - the family toy_denoiser

TOKEN = 'hf_thisIsASecretOfTheUser'
FITS = {'width': 4, 'channels': 1, 'resolution': 8}
CARD = {
  'format': cards.FORMAT, 'algorithm': 'toy_denoiser', 'architecture': FITS, 'class_names': ['a'],
  'player': 'net', 'sampling': {}, 'step': 7,
}  # fmt: skip


@pytest.fixture(scope='module')
def here(tmp_path_factory):
  """A folder with a generator in both formats."""
  folder = tmp_path_factory.mktemp('here')
  net = family('toy_denoiser').make_generator(FITS).net
  gen = net.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))['params']
  cards.save(str(folder / 'generator.safetensors'), gen, CARD)
  cards.save_npz(str(folder / 'generator.npz'), gen, CARD)
  return folder


@pytest.fixture
def content(here):
  """{name: bytes} of its files."""
  return {path.name: path.read_bytes() for path in here.iterdir()}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setenv('HF_TOKEN_PATH', str(tmp_path / 'token'))
  for name in ('HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN', 'HF_ENDPOINT'):
    monkeypatch.delenv(name, raising=False)
  return tmp_path / 'cache'


@pytest.fixture
def server(content):
  """The files at /at/NAME."""
  with fake_hub.Files().running() as files:
    files.files |= {f'/at/{name}': one for name, one in content.items()}
    yield files


@pytest.fixture
def hub(content, monkeypatch):
  """The hub, with the generator in me/toy; its large files lie at another host."""
  with fake_hub.Files('localhost').running() as store, fake_hub.Hub(store).running() as hub:
    hub.commit('me/toy', content)
    monkeypatch.setenv('HF_ENDPOINT', hub.url)
    yield hub


def refusal(given, *words):
  with pytest.raises(errors.UserError) as caught:
    remote.fetch(given)
  said = str(caught.value)
  assert said.endswith(('.', '?')) and '\n' not in said and not [w for w in words if w not in said]
  return said


def digest(content):
  return hashlib.sha256(content).hexdigest()


def parts_in(folder):
  return sorted(path.name for path in folder.rglob('*') if path.is_file())


# --- addresses


@pytest.mark.parametrize(
  ('given', 'name'),
  [
    ('hf://me/toy', 'hf://me/toy@main/generator.safetensors'),
    ('hf://models/me/toy', 'hf://me/toy@main/generator.safetensors'),
    ('hf://me/toy@v1.0/small/g.npz', 'hf://me/toy@v1.0/small/g.npz'),
    ('hf://me/toy@refs/pr/1', 'hf://me/toy@refs/pr/1/generator.safetensors'),
    ('hf://me/toy@refs%2Fpr%2F1/g.npz', 'hf://me/toy@refs/pr/1/g.npz'),
    ('https://huggingface.co/me/toy', 'hf://me/toy@main/generator.safetensors'),
    ('https://huggingface.co/me/toy/blob/v1/g.npz', 'hf://me/toy@v1/g.npz'),
    ('https://host/a/g.safetensors?signature=secret', 'https://host/a/g.safetensors'),
    ('gs://bucket/runs/g.npz', 'gs://bucket/runs/g.npz'),
    ('http://localhost:80/g.npz', 'http://localhost:80/g.npz'),
  ],
)
def test_what_an_address_is_of(given, name):
  assert addresses.is_one(given) and addresses.parse(given).name == name


@pytest.mark.parametrize(
  'given',
  [
    'hf://', 'hf://toy', 'hf://me/toy@..', 'hf://me/toy/../../g.npz', 'hf://me/toy/g.pth',
    'hf://datasets/me/toy', 'hf://m e/toy', 'hf://me/toy@a b', 'hf://../x', 'https://',
    'https://host/secret.html', 'https://user:secret@host/g.npz', 'http://host/g.npz',
    'https://[::1/g.npz', 'https://host:secret/g.npz', 'https://host/g.npz?secret#sha256=secret',
    'https://huggingface.co/', 'hf://me/toy#sha256=0', 'hf://me/\x1b[31m',
  ],
)  # fmt: skip
def test_what_is_no_address_is_refused_in_a_sentence(given):
  with pytest.raises(errors.UserError) as caught:
    addresses.parse(given, '--params=')
  said = str(caught.value)
  assert said.startswith('--params=') and said.endswith('.') and said.isprintable()
  assert 'secret@' not in said and '?secret' not in said and '=secret' not in said


def test_workdirs_and_files_are_no_addresses(here):
  assert not addresses.is_one('gs://bucket/run') and not addresses.is_one(str(here))
  assert cards.is_workdir('gs://bucket/run') and not cards.is_workdir('gs://bucket/g.npz')
  assert not cards.is_workdir(str(here)) and cards.is_workdir(str(here.parent))


# --- over http


@pytest.mark.parametrize('name', ['generator.safetensors', 'generator.npz'])
def test_a_generator_is_the_one_that_lies_there(name, server, here, content, cache, capsys):
  url = f'{server.url}/at/{name}?signature=secret'
  theirs, ours = sample.load(url), sample.load(here / name)
  said = capsys.readouterr().err
  assert f'{server.url}/at/{name}: ' in said and digest(content[name]) in said
  assert 'secret' not in said
  np.testing.assert_array_equal(theirs(num=3, seed=5), ours(num=3, seed=5))
  server.asked.clear()
  sample.load(url)  # is asked for, and has not changed
  assert len(server.asked) == (2 if name.endswith('safetensors') else 1)
  assert 'downloading' not in capsys.readouterr().err
  assert not [name for name in parts_in(cache) if name.endswith('.partial')]
  weights, names = init_from.read(url)
  assert names == ['a'] and weights['net']


def test_what_has_changed_is_fetched_again(server, here, content):
  url, path = f'{server.url}/at/generator.npz', '/at/generator.npz'
  first = remote.fetch(url)
  net = family('toy_denoiser').make_generator(FITS).net
  gen = net.init(jax.random.key(1), np.zeros((1, 8, 8, 1), np.float32))['params']
  other = here.parent / 'other.npz'
  cards.save_npz(str(other), gen, CARD)
  server.files[path] = other.read_bytes()
  assert remote.fetch(url) == first
  with open(first.path, 'rb') as file:
    assert file.read() == server.files[path]


def test_a_kept_file_that_was_damaged_is_fetched_again(server, content):
  url = f'{server.url}/at/generator.npz'
  path = remote.fetch(url).path
  with open(path, 'r+b') as file:
    file.write(b'damaged')
  remote.fetch(url)
  with open(path, 'rb') as file:
    assert file.read() == content['generator.npz']


def test_without_a_network_what_was_kept_is_used_and_said(server, capsys):
  url = f'{server.url}/at/generator.npz'
  path = remote.fetch(url).path
  server._server.shutdown()
  server._server.server_close()
  assert remote.fetch(url).path == path
  said = capsys.readouterr().err
  assert 'cannot be reached' in said and 'kept' in said
  refusal(f'{server.url}/at/other.npz', 'cannot be fetched', 'refused')


def test_a_file_that_is_gone_is_not_that_which_was_kept(server):
  url = f'{server.url}/at/generator.npz'
  remote.fetch(url)
  del server.files['/at/generator.npz']
  refusal(url, '404')


def test_a_download_cut_short_is_not_kept(server, content, cache):
  server.cut = 1
  size = len(content['generator.npz'])
  refusal(f'{server.url}/at/generator.npz', f'{size - 1:,} of {size:,} bytes')
  assert parts_in(cache) == []


def test_other_bytes_than_expected_are_not_kept(server, content, cache):
  url = f'{server.url}/at/generator.npz'
  refusal(f'{url}#sha256={"0" * 64}', digest(content['generator.npz']), '0' * 64)
  assert parts_in(cache) == []
  right = f'{url}#sha256={digest(content["generator.npz"]).upper()}'
  remote.fetch(right)
  server.asked.clear()
  remote.fetch(right)
  assert server.asked == []  # nothing else can be meant
  refusal(f'{url}#sha256={"0" * 64}', '0' * 64)


def test_what_is_too_large_is_not_fetched(server, cache, monkeypatch):
  monkeypatch.setattr(remote, 'LARGEST', 1000)
  refusal(f'{server.url}/at/generator.npz', 'generator.npz has more than')
  monkeypatch.setattr(fake_hub.Files, 'give', lambda self, handler, content: endless(handler))
  refusal(f'{server.url}/at/generator.npz', 'generator.npz has more than')  # nor what does not say
  assert parts_in(cache) == []


def endless(handler):
  handler.send_response(200)
  handler.end_headers()
  handler.close_connection = True
  handler.wfile.write(bytes(2000))


def test_what_comes_is_read_with_the_guards_of_files(server, here):
  """A pickle is not run, a card of something else is refused; sentences say the address."""
  np.savez(here.parent / 'evil.npz', card=np.array([print], dtype=object))
  server.files['/at/evil.npz'] = (here.parent / 'evil.npz').read_bytes()
  server.files['/at/generator.json'] = b'{"format": 3}'
  for name in ('evil.npz', 'generator.safetensors'):
    with pytest.raises(errors.UserError, match=f'{server.url}/at/') as caught:
      sample.load(f'{server.url}/at/{name}')
    assert 'cache' not in str(caught.value)


# --- redirections, and the token


def test_https_leads_to_nothing_else():
  handler, request = downloads._Redirections(), downloads.urllib.request.Request('https://a/b')
  follow = lambda url: handler.redirect_request(request, None, 302, 'Found', {}, url)
  for url in ('http://a/b', 'ftp://a/b', 'file:///etc/passwd'):
    with pytest.raises(OSError, match='not https'):
      follow(url)
  assert follow('https://c/d').full_url == 'https://c/d'


def test_the_token_goes_to_its_host_alone(hub, capsys, monkeypatch):
  hub.token = TOKEN
  refusal('hf://me/toy', 'set HF_TOKEN', '401')
  monkeypatch.setenv('HF_TOKEN', TOKEN)
  remote.fetch('hf://me/toy')
  assert {told for _, _, told in hub.asked[1:]} == {f'Bearer {TOKEN}'}
  assert [told for _, _, told in hub.store.asked] == [None]
  assert TOKEN not in capsys.readouterr().err


def test_the_token_of_a_login_is_found(monkeypatch, tmp_path):
  (tmp_path / 'token').write_text(f'{TOKEN}\n', encoding='utf-8')
  assert remote.token() == TOKEN
  monkeypatch.setenv('HF_TOKEN', 'hf_other')
  assert remote.token() == 'hf_other'


def test_a_server_that_says_the_token_again_is_not_quoted(hub, monkeypatch):
  monkeypatch.setenv('HF_TOKEN', TOKEN)

  def echo(handler, given):
    handler.send_response(418, f'you said {handler.headers["Authorization"]}')
    handler.send_header('Content-Length', '0')
    handler.end_headers()

  monkeypatch.setattr(hub, 'respond', echo)
  said = refusal('hf://me/toy', '418', '***')
  assert TOKEN not in said
  assert TOKEN not in refusal(f'hf://me/toy@{"a" * 40}', '418', '***')


# --- the hub


def test_a_repository_is_read_at_its_commit(hub, here, content, capsys):
  theirs, ours = sample.load('hf://me/toy'), sample.load(here / 'generator.npz')
  np.testing.assert_array_equal(theirs(num=2), ours(num=2))
  commit = hub.commits['me/toy'][0][0]
  said = capsys.readouterr().err
  assert f'commit {commit[:12]}' in said and digest(content['generator.safetensors']) in said
  wanted = [f'/me/toy/resolve/{commit}/generator.{end}' for end in ('json', 'safetensors')]
  assert [path for path in hub.paths() if 'resolve' in path] == wanted
  hub.asked.clear()
  sample.load('hf://me/toy')
  assert hub.paths() == ['/api/models/me/toy/revision/main']  # a commit does not change
  hub.asked.clear()
  sample.load(f'hf://me/toy@{commit}')
  assert hub.paths() == []


def test_revisions_and_files_are_those_asked_for(hub, content):
  first = hub.commits['me/toy'][0][0]
  card = json.dumps({**CARD, 'step': 8}).encode()
  hub.commit('me/toy', {'generator.json': card, 'small/g.npz': content['generator.npz']})
  assert sample.load('hf://me/toy').card['step'] == 8
  assert sample.load(f'hf://me/toy@{first}').card['step'] == 7
  assert sample.load('hf://me/toy/small/g.npz').card['step'] == 7
  words = ('no large/g.safetensors and no large/g.json', 'small/g.npz')
  refusal('hf://me/toy/large/g.safetensors', *words)
  refusal('hf://me/toy@v9', '404', 'no such model or revision')
  refusal('hf://you/toy', '404', 'no such model or revision')


def test_without_a_network_the_last_known_commit_is_used(hub, capsys):
  path = remote.fetch('hf://me/toy').path
  hub._server.shutdown()
  hub._server.server_close()
  assert remote.fetch('hf://me/toy').path == path
  assert 'the last known commit is used' in capsys.readouterr().err
  refusal('hf://me/toy@v1', 'cannot be asked')


def test_what_is_no_hub_is_said(hub, monkeypatch):
  for nonsense in (b'<html>', b'[]', b'{"sha": "../..", "siblings": []}', b'{"sha": 3}'):
    answer = lambda handler, given, nonsense=nonsense: handler.answer(nonsense)
    monkeypatch.setattr(hub, 'respond', answer)
    refusal('hf://me/toy', 'HF_ENDPOINT')


# --- buckets


def test_a_bucket_gives_what_lies_in_it(here, content, capsys):
  files = fsspec.filesystem('memory')
  try:
    for name, one in content.items():
      files.pipe_file(f'/bucket/{name}', one)
    ours = sample.load(here / 'generator.npz')(num=2)
    for name in ('generator.safetensors', 'generator.npz'):
      np.testing.assert_array_equal(sample.load(f'memory://bucket/{name}')(num=2), ours)
      assert digest(content[name]) in capsys.readouterr().err
    sample.load('memory://bucket/generator.npz')
    assert 'downloading' not in capsys.readouterr().err
    refusal('memory://bucket/other.npz', 'memory://bucket/other.npz cannot be fetched')
  finally:
    files.store.clear()
    files.pseudo_dirs[:] = ['']


# --- options


@pytest.mark.parametrize('verb', ['sample', 'evaluate', 'export', 'project'])
def test_verbs_refuse_addresses_of_nothing_at_once(verb, bigjax):
  more = {'project': ['--images=x'], 'export': ['--out=x.npz']}.get(verb, [])
  for word, said in (('hf://toy', 'hf://OWNER/NAME'), ('https://host/x?secret', 'ends in')):
    status, _, err = bigjax(verb, f'--params={word}', *more)
    assert status == 2 and said in err and 'secret' not in err and len(err.splitlines()) == 1
  status, _, err = bigjax(verb, '--workdir=hf://me/toy', *more)
  assert status == 2 and '--params' in err


def test_sample_and_export_take_addresses(bigjax, hub, server, tmp_path):
  out = tmp_path / 'x.npz'
  assert bigjax('sample', '--params', 'hf://me/toy', '--num', 2, '--out', out)[0] == 0
  with np.load(out) as arrays:
    assert arrays['images'].shape == (2, 8, 8, 1)
  url = f'{server.url}/at/generator.safetensors'
  status, _, err = bigjax('export', '--params', url, '--format', 'npz')
  assert status == 2 and '--out' in err
  assert bigjax('export', '--params', url, '--out', tmp_path / 'y.npz')[0] == 0
  assert sample.load(tmp_path / 'y.npz').card['step'] == 7
