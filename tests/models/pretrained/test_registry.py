"""Weights found, fetched and refused: what can be wrong with a file, and a server of our own."""

import contextlib
import dataclasses
import hashlib
import http.server
import os
import socket
import threading

import damaged_archives
import jax
import numpy as np
import pytest

from bigjax.core import errors, trees
from bigjax.core.web import downloads
from bigjax.models.pretrained import cifar_resnet, registry, torch_layout
from bigjax.models.pretrained.published import PUBLISHED, PublishedFile

from feature_networks import draw, pictures

NAME = 'cifar_resnet56'  # the small one; `fetched` gives it an address


def save(path, seed=0, **changes):
  """Write weights in torch's layout; a change of None leaves an array out."""
  state = draw(torch_layout.shapes(registry.NETWORKS[NAME].make()), seed) | changes
  np.savez(path, **{name: value for name, value in state.items() if value is not None})
  return str(path)


@pytest.fixture(scope='module', autouse=True)
def small():
  """Eight layers stand for fifty-six."""
  with pytest.MonkeyPatch.context() as patch:
    tiny = dataclasses.replace(registry.NETWORKS[NAME], make=cifar_resnet.NETWORKS['tiny'])
    patch.setitem(registry.NETWORKS, NAME, tiny)
    yield


@pytest.fixture(scope='module')
def published(small, tmp_path_factory):
  return save(tmp_path_factory.mktemp('published') / 'weights.npz')


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
  """Return the cache folder: nothing is anywhere."""
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path / 'cache'))
  monkeypatch.delenv('BIGJAX_WEIGHTS', raising=False)
  monkeypatch.setenv('no_proxy', '*')
  return tmp_path / 'cache'


@contextlib.contextmanager
def served(answer):
  """Serve on this machine; `answer(handler)` writes to each request. Yields the address."""

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      answer(self)

    def log_message(self, *args):
      pass

  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f'http://127.0.0.1:{server.server_port}/releases/weights.npz'
    server.shutdown()
    thread.join()


def whole(content, cut=None, length=True):
  """Return an answer with this content, of which only `cut` bytes come."""

  def answer(handler):
    handler.send_response(200)
    if length:
      handler.send_header('Content-Length', str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[:cut])

  return answer


@pytest.fixture
def fetched(monkeypatch, published):
  """Return a function that has the network's weights published at an address."""
  with open(published, 'rb') as file:
    content = file.read()

  def publish(url):
    weights = PublishedFile('weights.npz', hashlib.sha256(content).hexdigest()[:8], url)
    network = dataclasses.replace(registry.NETWORKS[NAME], weights=weights)
    monkeypatch.setitem(registry.NETWORKS, NAME, network)
    return content

  return publish


def fails(*words, name=NAME, path=None):
  """Load, which must fail with one sentence that has these words."""
  with pytest.raises(errors.UserError) as caught:
    registry.load(name, path)
  text = str(caught.value)
  assert text.endswith('.') and '\n' not in text
  for word in words:
    assert word in text, text


def files(folder):
  return sorted(p.name for p in folder.rglob('*') if p.is_file()) if folder.exists() else []


# What is loaded.


def test_a_file_becomes_a_network(tmp_path):
  path = save(tmp_path / 'any.npz')
  network = registry.load(NAME, path)
  assert (network.name, network.dim, network.num_logits) == (NAME, 64, 10)
  assert network.resizer == 'none_32' and len(network.digest) == 16
  assert int(network.digest, 16) >= 0
  assert {type(leaf) for leaf in jax.tree.leaves(network.variables)} == {np.ndarray}
  images = pictures(32, 32)
  found = jax.jit(network.apply)(network.variables, images)
  shapes = {name: (value.shape, value.dtype.name) for name, value in found.items()}
  assert shapes == {'features': ((2, 64), 'float32'), 'logits': ((2, 10), 'float32')}
  assert all(np.isfinite(value).all() and np.ptp(value) > 0.1 for value in found.values())


def test_the_digest_is_of_the_values_not_of_the_file(tmp_path):
  same = [save(tmp_path / 'a.npz'), str(tmp_path / 'b.npz')]
  with np.load(same[0]) as arrays:
    state = dict(arrays)
  state['bn1.num_batches_tracked'] = np.array(1)  # of no use here
  np.savez_compressed(same[1], **dict(reversed(state.items())))
  other = save(tmp_path / 'c.npz', **{'linear.bias': state['linear.bias'] + np.float32(1e-6)})
  a, b, c = (registry.load(NAME, path).digest for path in (*same, other))
  assert a == b != c


def test_halves_and_doubles_become_float32(tmp_path):
  kernel = np.random.RandomState(0).randn(10, 64)
  for dtype in (np.float16, np.float64):
    network = registry.load(
      NAME, save(tmp_path / 'any.npz', **{'linear.weight': kernel.astype(dtype)})
    )
    found = network.variables['params']['linear']['kernel']
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, kernel.astype(dtype).astype(np.float32).T)


def test_a_torch_file_gives_what_its_npz_gives(tmp_path):
  torch = pytest.importorskip('torch')
  npz, pth = save(tmp_path / 'any.npz'), str(tmp_path / 'any.pth')
  with np.load(npz) as arrays:
    torch.save({name: torch.from_numpy(value) for name, value in arrays.items()}, pth)
  assert registry.load(NAME, pth).digest == registry.load(NAME, npz).digest


def test_every_network_has_its_published_file():
  """Which verbs list without importing a network."""
  assert {name: network.weights for name, network in registry.NETWORKS.items()} == PUBLISHED


@pytest.mark.parametrize('name', [n for n in registry.NETWORKS if n.startswith('inception')])
def test_checkpoints_of_the_references_load(name, tmp_path):
  torch = pytest.importorskip('torch')
  models = pytest.importorskip('torchvision.models')
  net = models.inception_v3(
    weights=None,
    init_weights=False,
    num_classes=1000 if name == 'inception_torchvision' else 1008,
    aux_logits=name == 'inception_torchvision',
  )
  path = str(tmp_path / 'any.pth')
  torch.save(net.state_dict(), path)
  network = registry.load(name, path)
  kernel = network.variables['params']['Mixed_6b']['branch7x7_2']['conv']['kernel']
  theirs = net.Mixed_6b.branch7x7_2.conv.weight.detach().numpy()
  np.testing.assert_array_equal(kernel, theirs.transpose(2, 3, 1, 0))  # [1, 7, in, out]
  assert (network.dim, network.num_logits) == (2048, net.fc.out_features)
  other = {'inception': 'inception_torchvision', 'inception_torchvision': 'inception'}
  if name in other:
    fails('is no file of weights for', other[name], name=other[name], path=path)


def test_grey_is_three_equal_channels(tmp_path):
  network = registry.load(NAME, save(tmp_path / 'any.npz'))
  grey = pictures(32, 32)[..., :1]
  apply = jax.jit(network.apply)
  ours, three = apply(network.variables, grey), apply(network.variables, grey.repeat(3, 3))
  np.testing.assert_array_equal(ours['features'], three['features'])


@pytest.mark.parametrize(
  ('shape', 'words'),
  [((1, 28, 28, 1), ['32x32', '28x28']), ((1, 32, 64, 3), ['32x64']), ((1, 32, 32, 4), ['not 4'])],
)
def test_images_that_do_not_fit_are_refused(shape, words, published):
  network = registry.load(NAME, published)
  with pytest.raises(errors.UserError) as caught:
    jax.eval_shape(network.apply, network.variables, np.zeros(shape, np.uint8))
  for word in (NAME, *words):
    assert word in str(caught.value)


def test_images_in_floats_are_a_generators_and_gradients_reach_them(published):
  """A critic on frozen features needs d features / d image; the values are those of uint8."""
  network = registry.load(NAME, published)
  images = np.random.RandomState(0).randint(0, 256, (2, 32, 32, 3)).astype(np.uint8)
  floats = images.astype(np.float32) / 127.5 - 1
  seen = [network.apply(network.variables, x)['features'] for x in (images, floats)]
  np.testing.assert_allclose(*seen, rtol=1e-4, atol=1e-4)
  total = lambda x: network.apply(network.variables, x)['features'].sum()
  grads = np.asarray(jax.grad(total)(floats))
  assert np.isfinite(grads).all() and (np.abs(grads).max((1, 2, 3)) > 0).all()
  with pytest.raises(TypeError, match='expected uint8, or floats'):
    network.apply(network.variables, images.astype(np.int32))


SLOW = ('inception_pytorch_fid', 'inception_clean')  # but for the resize, inception


@pytest.mark.parametrize(
  'name',
  [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in registry.NETWORKS],
)
def test_every_network_says_what_it_gives(name):
  network = registry.NETWORKS[name]
  module, side = network.make(), network.side or 40
  shape = getattr(module, 'example', (side, side, 3))
  images = jax.ShapeDtypeStruct((3, *shape), np.uint8)
  found, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), images)
  assert found['features'].shape == (3, module.dim)
  assert found['logits'].shape == (3, module.num_logits) if module.num_logits else len(found) == 1
  torch = [torch_layout.torch_name(path) for path in trees.flat(variables)]
  assert len(set(torch)) == len(torch)


# What is wrong with a file.


def test_another_layout_is_refused_by_the_names_of_its_tensors(tmp_path):
  def refused(*words, **changes):
    path = save(tmp_path / 'any.npz', **changes)
    fails(path, NAME, 'resnet56_cifar10.npz', *words, path=path)

  refused('lacks linear.bias;', **{'linear.bias': None})
  refused('has fc.bias, which', **{'fc.bias': np.zeros(3)})
  more = {f'linear.{i}': np.zeros(1) for i in range(5)}
  refused('lacks bn1.bias and has linear.0', 'and 2 more, which', **{'bn1.bias': None}, **more)
  kernel = np.zeros((64, 10), np.float32)
  refused('linear.weight of shape (64, 10), where (10, 64)', **{'linear.weight': kernel})


@pytest.mark.parametrize(
  ('name', 'value'), [('linear.bias', np.nan), ('bn1.running_var', -1.0), ('bn1.weight', np.inf)]
)
def test_weights_of_a_network_that_failed_are_refused_by_name(tmp_path, name, value):
  size = 10 if name.startswith('linear') else 16
  path = save(tmp_path / 'any.npz', **{name: np.full(size, value, np.float32)})
  fails(path, f"the array '{name}'", path=path)


@pytest.mark.parametrize('ending', ['.npz', '.pth'])
def test_damaged_files_are_refused(ending, tmp_path, published):
  path = tmp_path / f'any{ending}'
  fails(str(path), 'No such file', path=str(path))
  with open(published, 'rb') as file:
    content = file.read()
  wrong = content.replace(b'conv1', b'conv2', 1)
  middle = len(content) // 2
  wrong = wrong[:middle] + bytes(64) + wrong[middle + 64 :]
  for damaged in (b'', b'text', content[:5000], content[:-10], wrong):
    path.write_bytes(damaged)
    fails(str(path), path=str(path))
  os.remove(path)
  path.mkdir()
  fails(str(path), 'directory', path=str(path))


@pytest.mark.parametrize('name', damaged_archives.NAMES)
def test_no_kind_of_damage_ends_in_a_traceback(name, tmp_path):
  damaged_archives.write(tmp_path)
  fails('cannot read', name, path=str(tmp_path / name))


def test_a_pickle_in_an_npz_is_not_run(tmp_path):
  path = str(tmp_path / 'any.npz')
  np.savez(path, **{'linear.weight': np.array([{'any': 'object'}], object)})
  fails(path, 'allow_pickle=False', path=path)


def test_there_is_no_other_network():
  fails('inception_tf', 'did you mean inception', name='inception_tf')


# Where it comes from.


def test_a_note_says_that_a_file_is_not_the_published_one(tmp_path, fetched, capsys, published):
  fetched('http://127.0.0.1/unused')
  registry.load(NAME, published)
  assert capsys.readouterr().err == ''
  path = save(tmp_path / 'own.npz', seed=1)
  registry.load(NAME, path)
  assert f'{path} is not the published file weights.npz' in capsys.readouterr().err


def test_what_cannot_be_fetched_must_be_given(empty):
  fails('resnet56_cifar10.npz', '$BIGJAX_WEIGHTS', str(empty / 'weights'), 'path')


def test_a_folder_of_weights_comes_first_and_then_the_cache(
  empty, tmp_path, monkeypatch, fetched, published
):
  content = fetched('http://127.0.0.1:1/nowhere')
  (empty / 'weights').mkdir(parents=True)
  (empty / 'weights' / 'weights.npz').write_bytes(content)
  digest = registry.load(NAME).digest
  folder = tmp_path / 'folder'
  folder.mkdir()
  monkeypatch.setenv('BIGJAX_WEIGHTS', str(folder))
  assert registry.load(NAME).digest == digest  # which is not in the folder
  (folder / 'weights.npz').write_bytes(b'other')
  found = hashlib.sha256(b'other').hexdigest()[:16]
  fails(str(folder), found, hashlib.sha256(content).hexdigest()[:8], 'remove it')


@pytest.mark.parametrize('length', [True, False])
def test_a_download_is_kept(length, empty, fetched, published, capsys):
  asked = []

  def answer(handler):
    asked.append(handler.path)
    whole(content, length=length)(handler)

  with served(answer) as url:
    content = fetched(url)
    digest = registry.load(NAME).digest
    assert registry.load(NAME).digest == digest == registry.load(NAME, published).digest
  assert asked == ['/releases/weights.npz']  # once
  assert files(empty) == ['weights.npz']
  assert (empty / 'weights' / 'weights.npz').read_bytes() == content
  assert 'downloading weights.npz: ' in capsys.readouterr().err


def test_progress_says_how_much_is_left(monkeypatch, capsys):
  clock = iter([0.0, 2.0, 20.0, 30.0, 60.0])
  monkeypatch.setattr(downloads.time, 'monotonic', lambda: next(clock))
  say = downloads.Report('downloading any', total=30_000_000)
  for done in (1_000_000, 10_000_000, 15_000_000):
    say(done)
  say(30_000_000, end=True)
  assert capsys.readouterr().err.splitlines() == [
    'downloading any: 10.0 MB of 30.0 MB, 0.5 MB/s, 40s left',
    'downloading any: 15.0 MB of 30.0 MB, 0.5 MB/s, 30s left',
    'downloading any: 30.0 MB in 1m00s',
  ]


def test_a_download_cut_short_is_not_kept(empty, fetched):
  with served(lambda handler: whole(content, cut=1000)(handler)) as url:
    content = fetched(url)
    fails(url, f'1,000 of {len(content):,} bytes', 'try again', str(empty / 'weights'))
  with served(lambda handler: whole(content, cut=1000, length=False)(handler)) as url:
    fetched(url)  # nothing but the checksum shows it
    fails(url, hashlib.sha256(content[:1000]).hexdigest()[:16])
  assert files(empty) == []


def test_a_download_of_something_else_is_not_kept(empty, fetched):
  with served(whole(b'<html>please log in</html>')) as url:
    content = fetched(url)
    fails(url, hashlib.sha256(content).hexdigest()[:8], 'not the published file', 'BIGJAX_WEIGHTS')
  assert files(empty) == []


def test_no_network_is_said(empty, fetched):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  url = f'http://127.0.0.1:{port}/weights.npz'
  fetched(url)
  fails(url, 'refused', 'weights.npz', 'BIGJAX_WEIGHTS', 'path')
  assert files(empty) == []


def test_answers_that_are_none_are_said(empty, fetched, monkeypatch):
  with served(lambda handler: handler.send_error(404)) as url:
    fetched(url)
    fails(url, '404')
  with served(lambda handler: handler.wfile.write(b'nonsense\r\n\r\n')) as url:
    fetched(url)
    fails(url, 'nonsense')
  done = threading.Event()
  monkeypatch.setattr(downloads, 'PATIENCE', 0.2)
  with served(lambda handler: done.wait(20)) as url:
    fetched(url)
    fails(url, 'timed out')
    done.set()
  assert files(empty) == []


def test_a_cache_that_cannot_be_written_is_said(empty, fetched):
  empty.write_bytes(b'a file where the folder should be')
  with served(whole(b'')) as url:
    fetched(url)
    fails(url, str(empty))
