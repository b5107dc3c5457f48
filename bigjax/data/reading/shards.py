"""Records of TFRecord shards on local disks, many in one call: each shard is opened once.

TensorFlow's own operations open a file for every record that they read out of order, which takes
as long as decoding an image of 32 px. Here a record is one `pread`, without a lock, and its
checksum is verified by google-crc32c.
"""

import contextlib
import os
import resource
import struct
import threading
import weakref
from collections.abc import Sequence

import numpy as np

HEADER, FOOTER = 12, 4  # bytes around a TFRecord's data: length and its checksum, checksum
SPARE = 256  # files that others in this process may open, of those that the system allows


def checksum(given: bytes) -> int:
  """The masked CRC-32C of TFRecord, Castagnoli's polynomial."""
  import google_crc32c

  crc = google_crc32c.value(given)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def able() -> bool:
  """Whether checksums can be verified here."""
  try:
    import google_crc32c
  except ImportError:
    return False
  return google_crc32c.implementation == 'c'


class Shards:
  """Local TFRecord files of which every record's place is known.

  Threads may share it. Files are opened when they are first asked for, and as many stay open as the
  system allows; of more, each is opened for each call. One that is removed is missed, and one that
  is replaced opened anew, though the old one could still be read.
  """

  def __init__(self, paths: Sequence[str], shards: np.ndarray, offsets: np.ndarray):
    """Takes the shard, int32 [n], and the offset in it, int64 [n], of every record, in order."""
    self._paths = list(paths)
    self._shards, self._offsets = shards, offsets
    last = np.append(shards[1:] != shards[:-1], True)
    self._sizes = np.where(last, 0, np.append(offsets[1:], 0) - offsets)  # 0: to the file's end
    self._open: dict[int, int] = {}
    self._replaced: list[int] = []  # which other threads may still read
    self._lock = threading.Lock()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    self._most = max(soft - SPARE, 1) if soft != resource.RLIM_INFINITY else len(self._paths)
    weakref.finalize(self, _close, self._open, self._replaced)

  def read(self, numbers: np.ndarray) -> list[bytes]:
    """The data of these records, int64 [m].

    Raises:
      OSError: a shard cannot be opened or read.
      ValueError: a record is cut, or its checksum is another.
    """
    of = self._shards[numbers].tolist()
    places = zip(of, self._offsets[numbers].tolist(), self._sizes[numbers].tolist(), strict=True)
    with contextlib.ExitStack() as until_read:
      files = {shard: self._file(shard, until_read) for shard in {*of}}
      return [_record(files[shard], offset, size) for shard, offset, size in places]

  def _file(self, shard: int, until_read: contextlib.ExitStack) -> int:
    """The open file of a shard; closed with `until_read` where no more can stay open."""
    file = self._open.get(shard)
    if file is not None and os.fstat(file).st_nlink:
      return file
    with self._lock:
      now = self._open.get(shard)
      if now is not None and now != file:  # another thread has opened it
        return now
      new = os.open(self._paths[shard], os.O_RDONLY | os.O_CLOEXEC)
      if now is not None:
        self._replaced.append(now)
      if now is not None or len(self._open) < self._most:
        self._open[shard] = new
      else:
        until_read.callback(os.close, new)
      return new


def _close(files: dict[int, int], replaced: list[int]) -> None:
  for file in (*files.values(), *replaced):
    os.close(file)


def _record(file: int, offset: int, size: int) -> bytes:
  """The data of the record at an offset of an open file; `size` as stored, 0 where it is last."""
  given = os.pread(file, size or os.fstat(file).st_size - offset, offset)
  whole = len(given) >= HEADER + FOOTER
  length, of_length = struct.unpack_from('<QI', given) if whole else (0, 0)
  if len(given) != HEADER + length + FOOTER:
    raise ValueError('the record is cut, or its length is damaged')
  found, (of_data,) = given[HEADER:-FOOTER], struct.unpack('<I', given[-FOOTER:])
  if checksum(given[:8]) != of_length or checksum(found) != of_data:
    raise ValueError('the record is damaged: its checksum is another')
  return found
