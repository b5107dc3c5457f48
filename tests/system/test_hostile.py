"""Files that mean harm or none: none stops, fills or ends the process, and none runs as a program.

The images are surveyed in a process of their own, which says what became of each and how much
memory it took. What `fuzz.py` found is here with its smallest case.
"""

import ast
import io
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageFile

from bigjax import data
from bigjax.core import errors
from bigjax.data.reading import decode, image_headers, tfrecord

import places
from hostile_pictures import HOSTILE, LEFT, grey, jpeg_of_scans
from pictures import encoded, smooth

BIGJAX = places.ROOT / 'bigjax'
MIB = 512  # that surveying may take above what TensorFlow itself does


SURVEY = """
import json, os, resource, sys
import ml_collections, numpy as np
from bigjax import data
from bigjax.data.reading import listing, photo_files
from bigjax.data.sources import folder
tf = data.tensorflow()
tf.io.decode_png(open(sys.argv[2], 'rb').read())
most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = most()
given = ml_collections.ConfigDict(
  {'source': 'folder', 'resolution': 1, 'channels': 1, 'crop': 'center', 'frames': 0})
known = folder.examine(listing.walk(sys.argv[1]), [], given)
lookup = data.from_pictures(photo_files.picture_of(known), given, lambda i: known['names'][i])
images, _ = data.read(lookup, np.arange(len(known['names'])))
print(json.dumps({
  'read': dict(zip(known['names'].tolist(), images.reshape(-1).tolist())),
  'left': dict(zip(known['unreadable'].tolist(), known['reasons'].tolist())),
  'said': photo_files.of_files('x', known)[1],
  'mib': most() - before,
}))
"""


@pytest.fixture(scope='module')
def survey(tmp_path_factory):
  """What became of a folder of hostile files, in at most a minute or two."""
  root, out = tmp_path_factory.mktemp('hostile'), tmp_path_factory.mktemp('elsewhere')
  for name, (given, _) in HOSTILE.items():
    (root / name).write_bytes(given)
  (root / 'folder.png').mkdir()
  (root / 'folder.png' / 'within.png').write_bytes(grey(40))
  os.mkfifo(root / 'pipe.png')
  (out / 'good.png').write_bytes(grey(40))
  (root / 'link.png').symlink_to(out / 'good.png')
  (root / 'zero.png').symlink_to('/dev/zero')
  (root / 'nowhere.png').symlink_to(out / 'none.png')
  with open(root / 'huge.png', 'wb') as file:
    file.write(grey(40))
    file.truncate(2**34)  # bytes, none of which are on the disk
  done = subprocess.run(
    [sys.executable, '-c', SURVEY, str(root), str(out / 'good.png')],
    env={**os.environ, 'BIGJAX_CACHE': str(out)},
    capture_output=True, text=True, timeout=150,
  )  # fmt: skip
  assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
  return json.loads(done.stdout)


SPECIAL = {
  'folder.png/within.png': 40,
  'link.png': 40,  # links are followed, on purpose
  'pipe.png': 'not a file',
  'zero.png': 'not a file',
  'nowhere.png': LEFT,
  'huge.png': 'over 512 MiB',
}


@pytest.mark.parametrize('name', [*HOSTILE, *SPECIAL], ids=ascii)
def test_a_hostile_image_is_read_or_left_out(survey, name):
  """As it should look, or named, with the reason where it was not even tried."""
  expected = SPECIAL[name] if name in SPECIAL else HOSTILE[name][1]
  if isinstance(expected, int):
    assert abs(survey['read'][name] - expected) <= 1
  elif expected is None:
    assert name not in survey['read'] and name not in survey['left']
  else:
    assert name not in survey['read']
    assert survey['left'][name] == ('' if expected == LEFT else expected)


def test_none_of_them_is_decoded_into_memory(survey):
  assert survey['mib'] < MIB, survey['mib']


def test_they_are_counted_and_named_on_one_line(survey):
  num = len(survey['left'])
  total = num + len(survey['read'])
  assert survey['said'].startswith(
    f"{num} of {total} images in 'x' cannot be read and are left out"
  )
  assert '12000.jpg (too many pixels)' in survey['said']
  assert survey['said'].isprintable()


def test_names_steer_no_terminal():
  assert data.printable('a\nb\x1b[31m\u202egnp') == r'a\nb\x1b[31m\u202egnp'
  for plain in ('été', '雪 ❄', 'می\u200cخواهم', '👩\u200d🚀', 'a  b\\n'):
    assert data.printable(plain) == plain


@pytest.mark.parametrize('given', [jpeg_of_scans(64, 9), encoded(smooth(20, 20), 'JPEG')])
def test_scans_are_counted(given):
  """Of a JPEG in one scan nothing but its header is read."""
  num_scans = lambda given: image_headers._num_scans(io.BytesIO(given))
  expected = given.count(b'\xff\xda')
  assert num_scans(given) == expected
  with_exif = given[:2] + b'\xff\xe1\0\x0a' + b'\xff\xda' * 4 + given[2:]  # as of a thumbnail
  assert num_scans(with_exif) == (1 if expected == 1 else expected + 4)
  broken = given[:2] + b'\0' + given[2:]  # decoders look for the next segment: count what is there
  assert num_scans(broken * 3) == 3 * expected


def test_the_largest_picture_that_is_decoded():
  """A pixel more than MOST_PIXELS is refused, whatever the format; it itself is not."""
  tf = data.tensorflow()
  for size, allowed in ((2**27, True), (2**27 + 1, False)):
    given = tf.constant(b'x')
    call = lambda given=given, size=size: decode.checked(
      tf, given, True, tf.constant([1, size], tf.int64)
    )
    if allowed:
      assert call().numpy() == b'x'
    else:
      with pytest.raises(tf.errors.InvalidArgumentError, match='134217728'):
        call()


# Nothing that is read is executed: T80.

UNSAFE_MODULES = {
  'pickle', 'cPickle', '_pickle', 'dill', 'cloudpickle', 'joblib', 'marshal', 'shelve', 'yaml',
  'tarfile', 'code', 'codeop', 'runpy', 'imp',
}  # fmt: skip
UNSAFE_NAMES = {'eval', 'exec', 'compile', '__import__', 'execfile'}
UNSAFE_METHODS = {
  'exec_module', 'load_module', 'system', 'popen', 'extractall', 'unpack_archive', 'Unpickler',
  'read_pickle',
}  # fmt: skip
STATED = {
  'core/config.py': ['exec_module'],  # a config is a Python file, and is executed
  'sampling/sharing/hub_folder.py': ['yaml'],  # writes it, and reads none
}


def unsafe(source):
  """Return what in a program executes or unpickles what it reads, or unpacks an archive."""
  found = []
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, (ast.Import, ast.ImportFrom)):
      names = [alias.name for alias in node.names]
      names += [node.module or ''] if isinstance(node, ast.ImportFrom) else []
      found += [name for name in names if name.split('.')[0] in UNSAFE_MODULES]
    elif isinstance(node, ast.Name) and node.id in UNSAFE_NAMES:
      found.append(node.id)
    elif isinstance(node, ast.Attribute) and (
      node.attr in UNSAFE_METHODS or (node.attr in UNSAFE_NAMES and of_builtins(node))
    ):
      found.append(node.attr)
    elif isinstance(node, ast.keyword) and node.arg in ('allow_pickle', 'shell'):
      if not (isinstance(node.value, ast.Constant) and node.value.value is False):
        found.append(node.arg)
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in ('torch.load', 'np.fromregex'):
      found.append(ast.unparse(node.func))
    elif isinstance(node, ast.Call) and ast.unparse(node.func) == 'importlib.import_module':
      fixed = ast.unparse(node.args[0])
      if not re.match(r"f?'bigjax\.|f'\{(__name__|\w+\.__name__)\}\.", fixed):
        found.append(f'import_module({fixed})')
  return found


def of_builtins(node):
  return isinstance(node.value, ast.Name) and node.value.id in ('builtins', '__builtins__')


@pytest.mark.parametrize('path', sorted(BIGJAX.rglob('*.py')), ids=lambda p: p.name)
def test_nothing_that_is_read_is_executed(path):
  """The exceptions are stated: a config is a Python file, and the front matter is YAML."""
  name = str(path.relative_to(BIGJAX))
  assert unsafe(path.read_text()) == STATED.get(name, [])


@pytest.mark.parametrize(
  'program',
  [
    'import pickle', 'from pickle import loads', 'def f():\n  import marshal as m', 'eval("1")',
    'run = exec', 'np.load(p, allow_pickle=True)', 'np.load(p, allow_pickle=x)', 'import shelve',
    'subprocess.run(x, shell=True)', 'from yaml import load', 'spec.loader.exec_module(m)',
    'torch.load(p)', 'builtins.eval(x)', 'os.system(x)', 'z.extractall()', 'import tarfile',
    'importlib.import_module(card["algorithm"])',
  ],
)  # fmt: skip
def test_the_walk_sees_what_executes(program):
  assert unsafe(program)


class Program:
  """What an unpickler would run."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return (pathlib.Path.touch, (self.path,))


def test_a_cache_is_not_unpickled(tmp_path, monkeypatch):
  """An index that holds objects is made again, and nothing in it runs."""
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path))
  (tmp_path / 'data').mkdir()
  path, ran = tmp_path / 'data' / 'tfrecord-x.npz', tmp_path / 'ran'
  objects = np.array([Program(ran)], object)
  np.savez(path, offsets=objects, shards=np.zeros(1))
  assert np.load(path, allow_pickle=True)['offsets'] is not None and ran.exists()
  ran.unlink()
  made = tfrecord.cached('tfrecord', 'x', lambda: {'offsets': np.arange(3)})
  assert made['offsets'].tolist() == [0, 1, 2] and not ran.exists()
  with np.load(path) as kept:
    assert kept['offsets'].tolist() == [0, 1, 2]


def test_shards_lie_in_their_folder():
  """Whatever the names in a set's dataset_info.json are."""
  good = ['/data/x/1.0.0/x-train.tfrecord-00000-of-00001', 'gs://b/x/1.0.0/y']
  for path, folder in zip(good, ('/data/x/1.0.0', 'gs://b/x/1.0.0'), strict=True):
    tfrecord.refuse_outside(folder, [path])
  for path in ('/etc/passwd', '/data/x/1.0.0/../y', '/data/x/1.0.0/a/../../y', '/data/x/1.0.0x/y'):
    with pytest.raises(errors.UserError, match='outside that folder'):
      tfrecord.refuse_outside('/data/x/1.0.0', [path])


def test_a_header_is_read_without_the_picture(tmp_path, monkeypatch):
  """Pillow decodes a PNG whole where it is asked for EXIF that is not in front of the pixels."""
  exif, decoded = Image.Exif(), []
  exif[image_headers.ORIENTATION] = 6
  for kind in ('PNG', 'JPEG', 'WEBP'):
    (tmp_path / kind).write_bytes(encoded(smooth(20, 20), kind))
    (tmp_path / f'{kind} turned').write_bytes(encoded(smooth(20, 20), kind, exif=exif))
  for plugin in Image.Image, *Image.Image.__subclasses__(), *ImageFile.ImageFile.__subclasses__():
    if 'load' in vars(plugin):
      monkeypatch.setattr(plugin, 'load', lambda self: decoded.append(self.format))
  for kind in ('PNG', 'JPEG', 'WEBP'):
    assert image_headers.examine(str(tmp_path / kind)) == (1, '')
    assert image_headers.examine(str(tmp_path / f'{kind} turned')) == (6, '')
  assert decoded == []
