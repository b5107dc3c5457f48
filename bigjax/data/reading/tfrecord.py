"""Random access to the records of a prepared TFDS split, whichever of its formats it is stored in.

ArrayRecord has it built in. Of TFRecord files the offsets of all records are found once, by reading
their lengths, and kept in bigjax's cache. Many records of either are read in one call, but of
TFRecord files in buckets, which TensorFlow reads, one after the other is.
"""

import dataclasses
import hashlib
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from bigjax.core import errors, files, progress
from bigjax.data.reading import shards
from bigjax.data.reading.shards import FOOTER, HEADER

# (tf, scalar int64) -> (encoded image, or all of a video's; int64 label)
Read = Callable[[Any, Any], tuple[Any, Any]]
SMALL_READ = 2**12  # bytes per read at least: what is read beyond a small record is for nothing
REMOTE_READ = 2**18  # where every read is a request


def open_split(tf: Any, builder: Any, split: str, video: str = '') -> Read:
  """Return the function that reads one example of a split by its number.

  Args:
    tf: the TensorFlow module.
    builder, split: of the set.
    video: where the frames of a video lie in a record, to read those, encoded [T], in place of an
      encoded image; '' for that.
  Raises:
    UserError: a file is missing, cut, outside the set's folder, or without random access.
  """
  refuse_outside(str(builder.data_path), builder.info.splits[split].filepaths)
  kind = builder.info.file_format.value
  if kind == 'array_record':
    return _from_array_records(builder, split, video)
  if kind == 'tfrecord':
    return _from_tfrecords(tf, builder, split, video)
  raise errors.UserError(
    f'{builder.info.full_name} is stored as {kind}; bigjax reads array_record and tfrecord: '
    'prepare it again with one of them (file_format=).'
  )


def refuse_outside(folder: str, paths: Iterable[Any]) -> None:
  """Refuse shards that lie elsewhere: their names come from the set's dataset_info.json.

  Raises:
    UserError: names the first.
  """
  inside = os.path.normpath(folder)
  for path in map(str, paths):
    if os.path.dirname(os.path.normpath(path)) != inside:
      raise errors.UserError(
        f'the dataset_info.json in {folder!r} asks for {path!r}, which is outside that folder; '
        'prepare the set again.'
      )


@dataclasses.dataclass(frozen=True)
class InBatches:
  """A Read of records that Python reads, many in one call.

  Attributes:
    records: int64 [n] -> their bytes.
    labelled: whether a label is asked for; else it is 0.
    video: see `open_split`; of videos only one is read at a time.
  """

  records: Callable[[np.ndarray], Sequence[bytes]]
  labelled: bool
  video: str = ''

  def __call__(self, tf: Any, index: Any) -> tuple[Any, Any]:
    if self.video:
      return _video_in(tf, self._read(tf, index[None])[0], self.video, self.labelled)
    encoded, labels = self.many(tf, index[None])
    return encoded[0], labels[0]

  def many(self, tf: Any, indices: Any) -> tuple[Any, Any]:
    """The encoded images and the labels, string and int64 [n], of these records, int64 [n]."""
    wanted = {'image': tf.io.FixedLenFeature([], tf.string)}
    if self.labelled:
      wanted['label'] = tf.io.FixedLenFeature([], tf.int64)
    found = tf.io.parse_example(self._read(tf, indices), wanted)
    return found['image'], found['label'] if self.labelled else tf.zeros_like(indices)

  def _read(self, tf: Any, indices: Any) -> Any:
    def read(numbers):
      return np.array([*self.records(numbers), None], object)[:-1]  # of bytes alone: fixed widths

    return tf.ensure_shape(
      tf.numpy_function(read, [indices], tf.string, stateful=False), indices.shape
    )


def _has_labels(builder: Any) -> bool:
  return hasattr(dict(builder.info.features.items()).get('label'), 'names')


def _from_array_records(builder: Any, split: str, video: str) -> Read:
  import tensorflow_datasets as tfds

  raw = tfds.decode.DeserializeMethod.RAW_BYTES
  try:
    rows = builder.as_data_source(split, deserialize_method=raw)
  except (OSError, RuntimeError, ValueError) as error:  # as it is raised where a shard is missing
    raise errors.UserError(
      f'{builder.info.full_name}, split {split!r}, cannot be read: {" ".join(str(error).split())}; '
      'prepare it again.'
    ) from None

  info = builder.info.splits[split]
  paths = [str(path) for path in info.filepaths]
  counts = lambda: {'counts': np.array([_num_records(path) for path in paths])}
  for path, num, expected in zip(
    paths,
    cached('arrayrecord', fingerprint(paths), counts)['counts'],
    info.shard_lengths,
    strict=True,
  ):
    refuse_other_number(path, num, expected)
  # Not by `__getitems__`, whose threads cost three times as much for records of a few kB.
  records = lambda numbers: [rows[i] for i in numbers.tolist()]
  return InBatches(records, _has_labels(builder), video)


def _video_in(tf: Any, record: Any, video: str, labelled: bool) -> tuple[Any, Any]:
  """The encoded frames [T] and the label of a record, an example of TensorFlow's; 0 without one."""
  wanted = {video: tf.io.VarLenFeature(tf.string)}
  if labelled:
    wanted['label'] = tf.io.FixedLenFeature([], tf.int64)
  found = tf.io.parse_single_example(record, wanted)
  return found[video].values, found.get('label', tf.constant(0, tf.int64))


def _num_records(path: str) -> int:
  """Return how many records an ArrayRecord file has; 0 where it is cut."""
  from array_record.python import array_record_module

  try:
    reader = array_record_module.ArrayRecordReader(path)
    return reader.num_records() if reader.ok() else 0
  except RuntimeError:
    return 0


def _from_tfrecords(tf: Any, builder: Any, split: str, video: str) -> Read:
  import tensorflow_datasets as tfds

  info = builder.info.splits[split]
  paths = [str(path) for path in info.filepaths]
  known = cached('tfrecord', fingerprint(paths), lambda: index(paths, info.shard_lengths))
  remote = any(map(_remote, paths))
  if shards.able() and not remote:
    of_all = shards.Shards(paths, known['shards'], known['offsets'])
    return InBatches(of_all.read, _has_labels(builder), video)
  least = REMOTE_READ if remote else SMALL_READ
  buffer = max(least, sum(map(_size, paths)) // max(len(known['offsets']), 1))  # a record's size
  if not video:
    names = {'image', 'label'} & set(builder.info.features)
    wanted = tfds.decode.PartialDecoding(dict.fromkeys(names, True))
    features = wanted.extract_features(builder.info.features)

  def read(tf, index):
    with tf.init_scope():
      names, of, offsets = map(tf.constant, (paths, known['shards'], known['offsets']))
    # The one operation that reads at an offset, and it verifies the record's checksum.
    record = tf.raw_ops.TFRecordDatasetV2(
      filenames=[names[of[index]]],
      compression_type='',
      buffer_size=buffer,
      byte_offsets=[offsets[index]],
    )
    one = {'output_types': [tf.string], 'output_shapes': [[]]}
    record = tf.raw_ops.TakeDataset(input_dataset=record, count=1, **one)
    # Not within a dataset that ignores errors: over a file that is gone, that one never ends.
    (record,) = tf.raw_ops.DatasetToSingleElement(dataset=record, **one)
    if video:
      return _video_in(tf, record, video, _has_labels(builder))
    example = features.deserialize_example(record, decoders={'image': tfds.decode.SkipDecoding()})
    return example['image'], example.get('label', tf.constant(0, tf.int64))

  return read


def place_of(builder: Any, split: str) -> Callable[[int], str]:
  """Index of a split: number of a record -> its shard, and its place in that."""
  info = builder.info.splits[split]
  paths, ends = [str(path) for path in info.filepaths], np.cumsum(info.shard_lengths)

  def place(number):
    shard = int(np.searchsorted(ends, number, side='right'))
    return f'{paths[shard]}, record {number - ends[shard] + info.shard_lengths[shard]}'

  return place


def refuse_other_number(path: str, num: int, expected: int) -> None:
  """Refuse a shard that has not as many records as its set says.

  Raises:
    UserError: it has not.
  """
  if num != expected:
    raise errors.UserError(
      f'{path!r} has {num} records, but its dataset_info.json says {expected}; it is cut, or of '
      'another set: copy or prepare it again.'
    )


def files_of(builder: Any, split: str) -> str:
  """The fingerprint of a split's files: another where one changes."""
  return fingerprint([str(path) for path in builder.info.splits[split].filepaths])


def index(paths: list[str], lengths: list[int]) -> dict[str, np.ndarray]:
  """Return the shard (int32 [n]) and the offset (int64 [n]) of every record, in stored order.

  Raises:
    UserError: a shard is missing, cut, or has another number of records than it should.
  """
  offsets = []
  for path, expected in progress.counted(
    list(zip(paths, lengths, strict=True)), 'finding the records of TFRecord shards'
  ):
    found = record_offsets(path)
    refuse_other_number(path, len(found), expected)
    offsets.append(found)
  of = np.repeat(np.arange(len(paths), dtype=np.int32), [len(found) for found in offsets])
  return {'shards': of, 'offsets': np.concatenate(offsets)}


def record_offsets(path: str) -> np.ndarray:
  """Return the offset of every record of a TFRecord file, int64 [n].

  Raises:
    UserError: the file ends within a record.
  """
  size, at, offsets = _size(path), 0, []
  with _open(path) as f:
    while at < size:
      f.seek(at)
      head = f.read(HEADER)
      length = struct.unpack('<Q', head[:8])[0] if len(head) == HEADER else size
      if at + HEADER + length + FOOTER > size:
        raise errors.UserError(
          f'{path!r} is cut: it ends at byte {size:,}, within the record that begins at '
          f'{at:,}; copy or prepare it again.'
        )
      offsets.append(at)
      at += HEADER + length + FOOTER
  return np.array(offsets, np.int64)


def _remote(path: str) -> bool:
  return '://' in path


def _open(path: str) -> Any:
  if not _remote(path):
    return open(path, 'rb', buffering=0)
  import tensorflow as tf  # reads buckets

  return tf.io.gfile.GFile(path, 'rb')


def _size(path: str) -> int:
  return _stat(path)[0]


def _stat(path: str) -> tuple[int, ...]:
  """Return (bytes, nanoseconds of the last change), and of local files inode and change of status.

  Bytes and times can be kept when a file is replaced; the latter two cannot.

  Raises:
    UserError: there is no such file.
  """
  try:
    if not _remote(path):
      stat = os.stat(path)
      return stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns
    import tensorflow as tf

    stat = tf.io.gfile.stat(path)
    return stat.length, stat.mtime_nsec
  except Exception as error:
    if not isinstance(error, OSError) and type(error).__name__ != 'NotFoundError':
      raise
    raise errors.UserError(
      f'{path!r} is missing; copy or prepare the set again (all shards of a split are needed).'
    ) from None


def fingerprint(paths: list[str], need: bool = True) -> str:
  """Return a digest of what the file system says of these files: another where one changes.

  Raises:
    UserError: a file is missing, and `need` says that none may be.
  """
  words = hashlib.blake2b(digest_size=12)
  for path in paths:
    stat = _stat(path) if need or os.path.exists(path) else None
    words.update(os.fsencode(path) + f'\0{stat}\0'.encode())
  return words.hexdigest()


def cached(
  kind: str, digest: str, make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
  """Return the arrays that `make` makes, kept in bigjax's cache under this digest.

  A cache that cannot be written or read costs time only.
  """
  path = os.path.join(files.cache_dir(), 'data', f'{kind}-{digest}.npz')
  arrays = files.read_cache(path)
  if arrays is None:
    arrays = make()
    files.write_cache(path, arrays)
  return arrays
