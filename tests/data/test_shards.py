"""Records of TFRecord shards: what is read, how often files are opened, and damage."""

import concurrent.futures
import os
import threading

import numpy as np
import pytest

from bigjax import data
from bigjax.data.reading import shards, tfrecord

pytest.importorskip('google_crc32c')

NUM, SHARDS = 40, 4


def record(i):
  """Another for every number, some of them empty."""
  return bytes([i]) * (i % 7 * 100)


@pytest.fixture
def paths(tmp_path):
  """Shards that TensorFlow has written."""
  tf = data.tensorflow()
  names = [str(tmp_path / f'{i}') for i in range(SHARDS)]
  for i, name in enumerate(names):
    with tf.io.TFRecordWriter(name) as writer:
      for number in range(i * NUM // SHARDS, (i + 1) * NUM // SHARDS):
        writer.write(record(number))
  return names


@pytest.fixture
def opened(monkeypatch):
  """The paths that were opened, and how often each open file was closed."""
  files, closed, whole, end = [], [], os.open, os.close

  def note(path, *given):
    files.append(str(path))
    return whole(path, *given)

  monkeypatch.setattr(shards.os, 'open', note)
  monkeypatch.setattr(shards.os, 'close', lambda file: closed.append(file) or end(file))
  return files, closed


def over(paths):
  return shards.Shards(paths, **tfrecord.index(paths, [NUM // SHARDS] * SHARDS))


def test_the_checksum_is_castagnolis():
  """That of '123456789' is 0xE3069283 (RFC 3720); TFRecord rotates it and adds."""
  plain = 0xE3069283
  expected = ((plain >> 15 | plain << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32
  assert shards.checksum(b'123456789') == expected


def test_every_shard_is_opened_once(paths, opened):
  """By threads at the same time, in any order, and closed with the last use of it."""
  files, closed = opened
  of_all = over(paths)
  files.clear()
  orders = [np.random.RandomState(i).permutation(NUM) for i in range(8)]
  together = threading.Barrier(len(orders))

  def read(order):
    together.wait()
    return of_all.read(order)

  with concurrent.futures.ThreadPoolExecutor(len(orders)) as pool:
    for order, found in zip(orders, pool.map(read, orders), strict=True):
      assert found == [record(i) for i in order]
  assert sorted(files) == paths and not closed
  of_all = None  # the last use of it
  assert len({*closed}) == len(closed) == SHARDS


def test_more_shards_than_may_be_open(paths, opened, monkeypatch):
  """The rest is opened for a call, and closed after it."""
  files, closed = opened
  monkeypatch.setattr(shards.resource, 'getrlimit', lambda which: (shards.SPARE + 1, 10**6))
  of_all = over(paths)
  files.clear()
  for _ in range(2):
    assert of_all.read(np.arange(NUM)) == [record(i) for i in range(NUM)]
  assert len(files) == 1 + 2 * (SHARDS - 1) and len(closed) == 2 * (SHARDS - 1)


@pytest.mark.parametrize(
  ('at', 'words'), [(0, 'cut'), (8, 'checksum'), (12, 'checksum'), (-1, 'checksum')]
)
@pytest.mark.parametrize('number', [11, 19])  # of the second shard, the latter its last
def test_damage_is_seen(paths, number, at, words):
  """A flipped bit in the length, in either checksum, in the data; and what is behind it is read."""
  of_all = over(paths)
  (start, end) = np.append(tfrecord.record_offsets(paths[1]), os.path.getsize(paths[1]))[
    number - 10 : number - 8
  ]
  with open(paths[1], 'r+b') as file:
    place = start + at if at >= 0 else end + at
    file.seek(place)
    (byte,) = file.read(1)
    file.seek(place)
    file.write(bytes([byte ^ 1]))
  with pytest.raises(ValueError, match=words):
    of_all.read(np.array([3, number]))
  rest = np.delete(np.arange(NUM), number)
  assert of_all.read(rest) == [record(i) for i in rest]


def test_a_cut_file_is_seen(paths):
  of_all = over(paths)
  os.truncate(paths[1], os.path.getsize(paths[1]) - 1)
  with pytest.raises(ValueError, match='cut'):
    of_all.read(np.array([19]))


def test_a_removed_shard_is_missed_and_a_replaced_one_read(paths):
  """What is open could still be read, and would be another file than the one by that name."""
  of_all = over(paths)
  assert of_all.read(np.array([11])) == [record(11)]
  os.rename(paths[1], paths[1] + '.aside')
  os.link(paths[1] + '.aside', paths[1] + '.copy')
  os.unlink(paths[1] + '.aside')
  os.unlink(paths[1] + '.copy')
  with pytest.raises(FileNotFoundError, match='No such file'):
    of_all.read(np.array([11]))
  tf = data.tensorflow()
  with tf.io.TFRecordWriter(paths[1]) as writer:
    for number in range(10, 20):
      writer.write(record(number)[:-1] + b'+' if record(number) else b'')
  assert of_all.read(np.array([11])) == [record(11)[:-1] + b'+']
