"""Images by their number, through tf.data: read, surveyed, watched; and whose fault an error is.

A lookup is traced by tf.data; what it returns depends on the number of the image, and on chance
where a crop is random. TensorFlow is imported when it is first needed.
"""

import atexit
import contextlib
import dataclasses
import hashlib
import math
import os
import re
import sys
import threading
import time
import unicodedata
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any

import ml_collections
import numpy as np

from bigjax.core import errors, progress
from bigjax.data.reading import decode

Labelled = tuple[np.ndarray, np.ndarray]  # uint8 [n, H, W, C], int32 [n] or [n, m]
Lookup = Callable[[Any, Any, Any], tuple[Any, Any]]
Picture = Callable[[Any, Any], tuple[Any, Any, Any]]
JOINERS = '\u200c\u200d'  # which scripts and emoji need within words
MOST_HASHED, HASHED = 100_000, 10_000  # pictures of which all, or so many, make a digest
MOST_AT_ONCE, PIXELS = 64, 2**18  # images that are looked up in one call, and pixels of these
PATIENCE = 60.0  # seconds until a stream says that it waits


@dataclasses.dataclass(frozen=True)
class Named:
  """A lookup that can say, of an image that cannot be read, which it is.

  Attributes:
    lookup: of the images.
    name_of: number of an image -> words, such as its path.
    most: images that are to be looked up in one call, where they are so small that a call for each
      would cost as much as they do.
  """

  lookup: Lookup
  name_of: Callable[[int], str]
  most: int = 1

  def __call__(self, tf: Any, indices: Any, chance: Any) -> tuple[Any, Any]:
    return self.lookup(tf, indices, chance)


def per_call(lookup: Lookup) -> int:
  """The number of images to look up in one call."""
  return lookup.most if isinstance(lookup, Named) else 1


def tensorflow() -> Any:
  """Import TensorFlow, keep it off the accelerators, and return it.

  Raises:
    UserError: TensorFlow is not installed.
  """
  # It only decodes here, and says much at length; JAX has set the first of these to 1 already.
  os.environ.update(TF_CPP_MIN_LOG_LEVEL='3', TF_ENABLE_ONEDNN_OPTS='0')
  try:
    import tensorflow as tf
  except ImportError:
    raise errors.UserError(
      'training reads data through TensorFlow, which is not installed; '
      "run: pip install 'bigjax[train]'"
    ) from None
  for kind in ('GPU', 'TPU'):
    tf.config.set_visible_devices([], kind)
  return tf


def from_pictures(
  picture: Picture, config: ml_collections.ConfigDict, name_of: Callable[[int], str]
) -> Lookup:
  """Return the lookup of images that are decoded, cropped and resized at every visit.

  Args:
    picture: (tf, scalar index) -> (encoded image, EXIF orientation, label). It may have `many`, the
      same of indices [n], where many are read in one call for little more than one.
    config: the group `data`: resolution, channels, crop, fit.
    name_of: see Named.
  """

  fit = config.get('fit', 'crop')

  def decoded(tf, encoded, orientation, label, chance=None):
    image = decode.decode(tf, encoded, orientation)
    image = decode.square(tf, image, config.resolution, config.channels, chance, fit)
    return image, tf.cast(label, tf.int32)

  def lookup(tf, indices, chance):
    chances = (chance,) if config.crop == 'random' and chance is not None else ()
    if indices.shape[0] == 1:  # without a loop, which takes longer to be made
      one = decoded(tf, *picture(tf, indices[0]), *(x[0] for x in chances))
      return tuple(x[None] for x in one)
    several = []  # the labels of an image, [] or [m]

    def one(given):
      index_or_picture, *chance = given
      of_one = index_or_picture if many else picture(tf, index_or_picture)
      image, label = decoded(tf, *of_one, *chance)
      several[:] = label.shape
      return image, label

    many = getattr(picture, 'many', None)
    given = (many(tf, indices) if many else indices, *chances)
    images, labels = tf.map_fn(one, given, fn_output_signature=(tf.uint8, tf.int32))
    shape = config.resolution, config.resolution, config.channels
    lead = indices.shape[0]
    return tf.ensure_shape(images, [lead, *shape]), tf.ensure_shape(labels, [lead, *several])

  return Named(lookup, name_of, max(min(MOST_AT_ONCE, PIXELS // config.resolution**2), 1))


def read(lookup: Lookup, indices: np.ndarray) -> Labelled:
  """Return these images, centred, and their labels, as NumPy.

  Raises:
    UserError: one cannot be read.
  """
  parts = list(in_batches(lookup, indices, 256))
  return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def in_batches(lookup: Lookup, indices: np.ndarray, size: int) -> Iterator[Labelled]:
  """Yield these images, centred, and their labels in their order, `size` at a time, as NumPy.

  Raises:
    UserError: one cannot be read.
  """
  tf = tensorflow()
  indices = np.asarray(indices, np.int64)

  together = math.gcd(size, per_call(lookup))  # or what cannot be read would end another batch

  @tf.autograph.experimental.do_not_convert
  def some(indices):
    return lookup(tf, indices, None)

  dataset = tf.data.Dataset.from_tensor_slices(indices)
  dataset = dataset.batch(together).map(
    some, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
  )
  dataset = dataset.unbatch().batch(size).prefetch(2)
  rows = readable(tf, with_options(tf, dataset))
  yield from blamed(rows, lookup, lambda i: indices[i * size : (i + 1) * size])


def survey(picture: Picture, indices: np.ndarray, what: str) -> np.ndarray:
  """Return (number, height, width, label, whether grey) of these pictures, int64 [n, 5].

  Every one is decoded as in training; what cannot be is left out. `what` is what the progress line
  calls it.
  """
  tf = tensorflow()

  @tf.autograph.experimental.do_not_convert
  def one(index):
    encoded, orientation, label = picture(tf, index)
    image = decode.decode(tf, encoded, orientation)
    shape = tf.cast(tf.shape(image), tf.int64)
    grey = tf.cast(tf.reduce_all(image == image[..., :1]), tf.int64)
    return tf.stack([index, shape[0], shape[1], tf.cast(label, tf.int64), grey])

  dataset = tf.data.Dataset.from_tensor_slices(np.asarray(indices, np.int64))
  dataset = dataset.map(one, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  rows = readable(tf, with_options(tf, dataset.ignore_errors()))
  found = [row for _, row in zip(progress.counted(indices, what), rows, strict=False)]
  return np.array(found, np.int64).reshape(-1, 5)


def read_labels(picture: Picture, numbers: np.ndarray, name_of: Callable[[int], str]) -> np.ndarray:
  """Return the labels of these pictures, int32 [n], decoding none of them; see Named for the last.

  Raises:
    UserError: one cannot be read.
  """
  rows = _undecoded(picture, numbers, name_of, lambda tf, encoded, label: tf.cast(label, tf.int32))
  return np.array([next(rows) for _ in progress.counted(numbers, 'reading labels')], np.int32)


def _undecoded(
  picture: Picture,
  numbers: np.ndarray,
  name_of: Callable[[int], str],
  what: Callable[[Any, Any, Any], Any],
) -> Iterator[Any]:
  """Yields `what` (tf, encoded, label) says of each of these pictures, in their order."""
  tf = tensorflow()
  many = getattr(picture, 'many', None)

  @tf.autograph.experimental.do_not_convert
  def some(i):
    encoded, _, label = many(tf, i) if many else picture(tf, i)
    return what(tf, encoded, label)

  dataset = tf.data.Dataset.from_tensor_slices(np.asarray(numbers, np.int64))
  dataset = dataset.batch(MOST_AT_ONCE) if many else dataset
  dataset = dataset.map(some, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  dataset = dataset.unbatch() if many else dataset
  lookup = Named(lambda tf, i, chance: (picture(tf, i[0])[2][None],) * 2, name_of)
  rows = readable(tf, with_options(tf, dataset))
  # Where some are read in one call, any of these may be to blame.
  return blamed(rows, lookup, lambda i: numbers[i : i + (MOST_AT_ONCE if many else 1)])


def pictures_digest(picture: Picture, num: int, name_of: Callable[[int], str]) -> str:
  """A digest of the encoded bytes and labels of pictures 0 to num - 1, decoding none of them.

  Of more than MOST_HASHED, it is that of HASHED ones, chosen at random and always the same: whoever
  changes fewer than one in a thousand of so many may not be seen. See Named for `name_of`.

  Raises:
    UserError: one cannot be read.
  """
  numbers = np.arange(num)
  if num > MOST_HASHED:
    numbers = np.sort(np.random.RandomState(0).permutation(num)[:HASHED])

  both = lambda tf, encoded, label: (encoded, tf.cast(label, tf.int64))
  rows = _undecoded(picture, numbers, name_of, both)
  words = hashlib.blake2b(f'{num} '.encode(), digest_size=12)
  for _ in progress.counted(numbers, 'reading contents'):
    encoded, label = next(rows)
    words.update(f'{len(encoded)} {label} '.encode())
    words.update(encoded)
  return words.hexdigest()


LIVE: weakref.WeakSet[Generator[Any, None, None]] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
  """Ends what still reads while Python can: later, readers in Python are waited for forever."""
  for rows in list(LIVE):
    with contextlib.suppress(ValueError):  # one that a thread is in
      rows.close()


def readable(tf: Any, dataset: Any) -> Iterator[Any]:
  """The elements of a tf.data.Dataset as NumPy.

  Raises:
    UserError: what TensorFlow could not read.
  """
  rows = _readable(tf, dataset)
  LIVE.add(rows)
  return rows


def _readable(tf: Any, dataset: Any) -> Generator[Any, None, None]:
  failures = tf.errors.OpError  # by now: when the interpreter ends, its modules go first
  try:
    yield from dataset.as_numpy_iterator()
  except failures as error:
    words = ' '.join((error.message or '').split()).partition(' Traceback (most')[0]
    words = words.removeprefix('assertion failed: ').replace('] [', ' ')
    words = re.sub(r'\{\{.*?\}\} ?|\[\[.*?\]\] ?|\[Op:.*', '', words).strip()
    raise Unreadable(printable(words)[:300]) from None


class Unreadable(errors.UserError):
  """Data that cannot be read: of which image, if that is known, and what the decoder says."""

  def __init__(self, words: str, image: str = ''):
    self.words = words
    where = f'{image}: ' if image and image not in words else ''
    super().__init__(f'the data cannot be read ({where}{words}); mend or remove what is damaged.')


def printable(text: str) -> str:
  """Return text on one line, with what would steer a terminal or reorder a line as escapes."""
  steers = lambda c: unicodedata.category(c) in ('Cc', 'Cf', 'Cs', 'Zl', 'Zp') and c not in JOINERS
  return ''.join(ascii(c)[1:-1] if steers(c) else c for c in text)


def blamed(
  rows: Iterator[Any], lookup: Lookup, numbers_of: Callable[[int], np.ndarray]
) -> Iterator[Any]:
  """Yield the batches; where one cannot be read, say which of its images is to blame.

  Args:
    rows: the batches.
    lookup: a Named one, or what is found stays without a name.
    numbers_of: number of a batch -> the images in it, as the lookup numbers them.
  Raises:
    UserError: one cannot be read.
  """
  done = 0
  try:
    for row in rows:
      yield row
      done += 1
  except Unreadable:
    if not isinstance(lookup, Named):
      raise
    bad = _first_unreadable(lookup, numbers_of(done))
    if bad is None:  # this time it could be
      raise
    raise Unreadable(bad[1], printable(lookup.name_of(bad[0]))) from None


def _first_unreadable(lookup: Lookup, numbers: np.ndarray) -> tuple[int, str] | None:
  """Return the first of these images that cannot be read, and why; None where all can."""
  tf = tensorflow()
  one = tf.autograph.experimental.do_not_convert(lambda i: lookup(tf, i[None], None)[0][0])
  dataset = tf.data.Dataset.from_tensor_slices(numbers).map(
    one, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
  )
  done = 0
  try:
    for _ in readable(tf, with_options(tf, dataset)):
      done += 1
  except Unreadable as error:
    return int(numbers[done]), error.words
  return None


def watched(rows: Iterator[Any], what: str) -> Iterator[Any]:
  """Yield the rows; say on stderr that the next is waited for, after PATIENCE, twice that, ..."""
  asked = [None]  # when the row that has not come yet was
  over = threading.Event()

  def watch():
    seen, due = None, PATIENCE
    while not over.wait(PATIENCE / 10):
      since = asked[0]
      if since != seen:
        seen, due = since, PATIENCE
      if since is not None and time.monotonic() - since >= due:
        waited = progress.duration(time.monotonic() - since)
        print(f'waiting for data since {waited}: {what}', file=sys.stderr, flush=True)
        due *= 2

  threading.Thread(target=watch, name='data-watch', daemon=True).start()
  try:
    while True:
      asked[0] = time.monotonic()
      row = next(rows, over)
      asked[0] = None
      if row is over:
        return
      yield row
  finally:
    over.set()


def with_options(tf: Any, dataset: Any) -> Any:
  options = tf.data.Options()
  options.threading.max_intra_op_parallelism = 1
  return dataset.with_options(options)
