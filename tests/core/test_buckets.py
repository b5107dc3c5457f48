"""Workdirs in buckets: what is copied when, and a run in a local S3-compatible server."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import fsspec
import jax
import numpy as np
import pytest

from bigjax.algorithms.base import configs
from bigjax.core import buckets, checkpoint, errors
from bigjax.sampling import loaded
from bigjax.training import loop


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path / 'cache'))


@pytest.fixture
def bucket():
  files = fsspec.filesystem('memory')
  yield files
  files.store.clear()
  files.pseudo_dirs[:] = ['']


def write(folder, name, text):
  os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
  with open(os.path.join(folder, name), 'w') as file:
    file.write(text)


def test_a_folder_stays_what_it_is(tmp_path):
  assert buckets.local(str(tmp_path)) == str(tmp_path)
  assert buckets.origin(str(tmp_path)) == ('', {})
  buckets.Copies(str(tmp_path), print).finish()


def test_what_changes_is_copied_and_found_again(bucket):
  folder = buckets.local('memory://runs/mine')
  assert buckets.origin(folder)[0] == 'memory://runs/mine'
  write(folder, 'metrics.jsonl', '{"step": 1}\n')  # before anything copies
  copies = buckets.Copies(folder, pytest.fail)
  write(folder, 'samples/1.png', 'one')
  write(folder, 'history.json.partial', 'half')
  copies.finish()
  assert sorted(bucket.find('/runs/mine')) == [
    '/runs/mine/metrics.jsonl', '/runs/mine/samples/1.png',
  ]  # fmt: skip
  before = bucket.created('/runs/mine/samples/1.png')
  write(folder, 'metrics.jsonl', '{"step": 1}\n{"step": 2}\n')
  copies.finish()
  assert bucket.cat('/runs/mine/metrics.jsonl') == b'{"step": 1}\n{"step": 2}\n'
  assert bucket.created('/runs/mine/samples/1.png') == before  # not again

  bucket.pipe('/runs/mine/checkpoints/4/state/big', b'x')  # its copy was cut short
  write(folder, 'only_here', 'a machine that died wrote this')
  again = buckets.local('memory://runs/mine/')
  assert again == folder
  assert sorted(os.listdir(again)) == ['.remote', 'metrics.jsonl', 'samples']


def test_checkpoints_are_copied_whole_and_go_when_they_go(bucket):
  folder = buckets.local('memory://runs/mine')
  copies = buckets.Copies(folder, pytest.fail)
  for step in (2, 4):
    write(folder, f'checkpoints/{step}/state/big', 'x')
    write(folder, f'checkpoints/{step}/generator/small', 'y')
  write(folder, 'checkpoints/6.orbax-checkpoint-tmp-1/state/big', 'half')
  copies.finish()
  assert not [path for path in bucket.find('/runs/mine') if 'tmp' in path]
  shutil.rmtree(os.path.join(folder, 'checkpoints', '2'))
  copies.finish()
  assert {path.split('/')[4] for path in bucket.find('/runs/mine/checkpoints')} == {'4'}
  sampling = buckets.local('memory://runs/mine')
  assert os.listdir(os.path.join(sampling, 'checkpoints', '4')) == ['generator']
  training = buckets.local('memory://runs/mine', training=True)
  assert sorted(os.listdir(os.path.join(training, 'checkpoints', '4'))) == ['generator', 'state']
  buckets.Copies(training, pytest.fail).finish()
  assert bucket.exists('/runs/mine/checkpoints/4/state/big')


def test_several_hosts_need_one_folder(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(errors.UserError, match='2 hosts cannot share'):
    buckets.local('memory://runs/mine')


def test_checkpoints_at_gs_are_orbax_own(bucket, tmp_path):
  folder = buckets.local(f'file://{tmp_path}/bucket/run')
  assert str(buckets.checkpoints_of(folder)) == f'{tmp_path}/bucket/run/checkpoints'
  write(tmp_path, 'bucket/run/checkpoints/4/state/big', 'x')
  write(tmp_path, 'bucket/run/metrics.jsonl', '{}\n')
  folder = buckets.local(f'file://{tmp_path}/bucket/run')
  assert sorted(os.listdir(folder)) == ['.remote', 'metrics.jsonl']
  assert checkpoint.list_steps(folder) == [4]
  copied = buckets.local('memory://runs/mine')
  assert str(buckets.checkpoints_of(copied)) == os.path.join(copied, 'checkpoints')


def test_a_copy_that_fails_is_tried_again(bucket, monkeypatch):
  folder, said = buckets.local('memory://runs/mine'), []
  copies = buckets.Copies(folder, said.append)
  write(folder, 'a', '1')
  whole = type(bucket).put_file

  def broken(*_, **__):
    raise OSError('no route')

  monkeypatch.setattr(type(bucket), 'put_file', broken)
  copies.push()
  with pytest.raises(errors.UserError, match='a cannot be copied'):
    copies.finish()
  assert len(said) == 2 and 'no route' in said[0] and 'tried again' in said[0]
  monkeypatch.setattr(type(bucket), 'put_file', whole)
  copies.finish()
  assert bucket.cat('/runs/mine/a') == b'1'


def test_commands_copy_back(bucket):
  with buckets.copied('memory://runs/mine') as folder:
    write(folder, 'evaluation/scores.jsonl', '{}\n')
  assert bucket.exists('/runs/mine/evaluation/scores.jsonl')
  with buckets.copied(None) as folder:
    assert folder is None


@pytest.mark.parametrize(
  ('url', 'said'),
  [('gopher://x/y', 'cannot be opened|not installed'), ('abfs://x/y', 'not installed')],
)
def test_what_no_library_reads_gets_a_sentence(url, said):
  with pytest.raises(errors.UserError, match=said):
    buckets.local(url)


@pytest.fixture
def s3(monkeypatch):
  """A local server that speaks S3, with a bucket."""
  pytest.importorskip('moto', reason='a local S3 server needs moto: pip install ".[oracle]"')
  boto = pytest.importorskip('s3fs', reason='s3:// needs s3fs: pip install ".[s3]"')
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  code = f'from moto.server import main; main(["-H", "127.0.0.1", "-p", "{port}"])'
  server = subprocess.Popen([sys.executable, '-c', code], stderr=subprocess.DEVNULL)
  for name, value in {
    'AWS_ENDPOINT_URL': f'http://127.0.0.1:{port}', 'AWS_ACCESS_KEY_ID': 'x',
    'AWS_SECRET_ACCESS_KEY': 'x', 'AWS_DEFAULT_REGION': 'us-east-1', 'AWS_REGION': 'us-east-1',
    'AWS_EC2_METADATA_DISABLED': 'true',
  }.items():  # fmt: skip
    monkeypatch.setenv(name, value)
  boto.S3FileSystem.clear_instance_cache()
  files = boto.S3FileSystem()
  try:
    for _ in range(100):
      try:
        files.mkdir('runs')
        break
      except Exception:  # not up yet
        time.sleep(0.2)
    yield files
  finally:
    server.kill()
    server.wait()
    boto.S3FileSystem.clear_instance_cache()


def test_a_run_in_a_bucket_resumes_and_samples(s3, monkeypatch):
  config = configs.read('digits:tiny')
  config.optim.d_steps = 1
  config.run.steps = 2
  loop.train(config, 's3://runs/mine', jax.devices()[:1])
  assert s3.exists('runs/mine/metrics.jsonl') and s3.exists('runs/mine/curves.png')
  assert s3.exists('runs/mine/export/generator.safetensors')
  config.run.steps = 4
  loop.train(config, 's3://runs/mine', jax.devices()[:1])
  rows = [json.loads(line) for line in s3.cat('runs/mine/metrics.jsonl').splitlines()]
  assert sorted({row['step'] for row in rows}) == [1, 2, 3, 4]
  assert checkpoint.list_steps(buckets.local('s3://runs/mine')) == [2, 4]
  images = loaded.load('s3://runs/mine')(labels=[3], seed=0)
  assert images.shape == (1, 16, 16, 1) and images.dtype == np.uint8


def test_a_home_that_cannot_be_written(bucket, tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path / 'file' / 'cache'))
  with pytest.raises(errors.UserError, match=r"of 'memory://runs/mine' .*BIGJAX_CACHE"):
    buckets.local('memory://runs/mine')
