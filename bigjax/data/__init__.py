"""Real images, in an order that is a function of (seed, position) alone.

`load(config.data)` returns a Source with random access; `stream` turns it into minibatches. NumPy
and tf.data only; nothing here knows JAX. One file per kind of source, found by its name; what they
share of reading files is in `reading/`.
"""

import dataclasses
import functools
import hashlib
import importlib
import os
import pkgutil
import re
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

import ml_collections
import numpy as np

from bigjax import utils
from bigjax.data.reading import pictures

Batch = dict[str, np.ndarray]
Labelled = tuple[np.ndarray, np.ndarray]  # uint8 [n, H, W, C], int32 [n] or [n, m]
Lookup = Callable[[Any, Any, Any], tuple[Any, Any]]
Picture = Callable[[Any, Any], tuple[Any, Any, Any]]
JOINERS = '\u200c\u200d'  # which scripts and emoji need within words
SEEN = 256  # images whose labels are looked at before training
PATIENCE = 60.0  # seconds until a stream says that it waits
MOST_GIB = 4  # of a set held in memory (twice while it is streamed: NumPy's and TensorFlow's)


@dataclasses.dataclass(frozen=True)
class Source:
  """A labelled set of images with random access, split into train and held-out.

  Labels are int32 [n], or [n, m] padded with -1 where an image may have several, as in JFT:
  `stream` then draws one of them, uniformly, whenever it visits the image. Every image has one at
  least.

  Attributes:
    num_train: number of training images.
    class_names: one name per class.
    license: of the images, for the card of a generator trained on them.
    lookup: (tf, int64 indices [n] of training images, int64 chance [n] or None) -> (uint8
      [n, H, W, C], labels), traced by tf.data. `chance` is what a random crop is drawn from; None
      is the centre.
    at_once: whether a lookup costs so little that a whole step's goes in one call; where it is
      False, images are looked up one by one, in parallel.
    labels: () -> the labels of all training images.
    labels_known: whether these are at hand; otherwise all images are read for them.
    train: (most=None) -> all, or at most so many, evenly chosen, training images and their labels.
      Crops are central.
    held_out: the same for images that training never sees.
    num_held_out: number of those.
    held_out_lookup: as `lookup`, of those.
    digest: of what is trained on; another where an image, a label or their order is another.
    held_out_digest: the same of the held-out images.
    findings: (level, sentence) about the data, level 'ok' or 'warning'.
    name: what the config calls it.
  """

  num_train: int
  class_names: tuple[str, ...]
  license: str
  lookup: Lookup
  at_once: bool
  labels: Callable[[], np.ndarray]
  labels_known: bool
  train: Callable[..., Labelled]
  held_out: Callable[..., Labelled]
  num_held_out: int
  held_out_lookup: Lookup
  digest: str
  held_out_digest: str
  findings: tuple[tuple[str, str], ...] = ()
  name: str = 'a source without a name'


@dataclasses.dataclass(frozen=True)
class Named:
  """A lookup that can say, of an image that cannot be read, which it is.

  Attributes:
    lookup: of the images.
    name_of: number of an image -> words, such as its path.
  """

  lookup: Lookup
  name_of: Callable[[int], str]

  def __call__(self, tf: Any, indices: Any, chance: Any) -> tuple[Any, Any]:
    return self.lookup(tf, indices, chance)


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
    raise utils.UserError(
      'training reads data through TensorFlow, which is not installed; '
      "run: pip install 'bigjax[train]'"
    ) from None
  for kind in ('GPU', 'TPU'):
    tf.config.set_visible_devices([], kind)
  return tf


def load(config: ml_collections.ConfigDict) -> Source:
  """Return the source that `config.source` names: NAME or NAME:ARGUMENT, bigjax/data/NAME.py.

  Raises:
    UserError: no such source, or the data does not fit the config.
  """
  check(config)
  name, _, argument = config.source.partition(':')
  known = [module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg]
  if name not in known:
    raise utils.UserError(
      f'data.source is {config.source!r}{utils.did_you_mean(name, known)}; '
      f'expected one of: {", ".join(known)}.'
    )
  source = importlib.import_module(f'{__name__}.{name}').load(config, argument)
  num = len(source.class_names)
  if config.num_classes is not None and num != config.num_classes:
    raise utils.UserError(
      f'data.num_classes is {config.num_classes}, but {config.source!r} has '
      f'{num} class{"" if num == 1 else "es"}; give that number, or None to read it from the data.'
    )
  refuse_one_label(source, config)
  return dataclasses.replace(limit(source, config), name=config.source)


def check(config: ml_collections.ConfigDict) -> None:
  """Refuse settings that mean nothing.

  Raises:
    UserError: names the first.
  """
  if config.resolution < 1:
    raise utils.UserError(f'data.resolution is {config.resolution}; give a number of pixels.')
  if config.channels not in (1, 3):
    raise utils.UserError(f'data.channels is {config.channels}; give 1 (grey) or 3 (colour).')
  utils.pick(config.crop, {'center': 0, 'random': 0}, 'data.crop')
  if not 0 < config.fraction <= 1:
    raise utils.UserError(
      f'data.fraction is {config.fraction}; give a share of the images, above 0 and at most 1.'
    )
  if config.per_class < 0:
    raise utils.UserError(f'data.per_class is {config.per_class}; give a number, or 0 for all.')


def refuse_one_label(source: Source, config: ml_collections.ConfigDict) -> None:
  """Refuse a set of several classes whose images all have the same label.

  Raises:
    UserError: they do.
  """
  if len(source.class_names) == 1 or source.num_train < 2:
    return
  some = source.labels() if source.labels_known else source.train(SEEN)[1]
  if len(np.unique(one_label(some))) > 1:
    return
  labels = one_label(source.labels())
  if (labels == labels[0]).all():
    raise utils.UserError(
      f'{config.source!r} has {len(source.class_names)} classes, but all {len(labels):,} '
      f'training images have label {labels[0]} ({source.class_names[labels[0]]}); '
      'a wrong folder level or a broken conversion does that: mend the labels.'
    )


def limit(source: Source, config: ml_collections.ConfigDict) -> Source:
  """Return the source with `config.fraction` of its training images, at most `per_class` of each.

  A smaller share is part of a larger one, and every class keeps one image at least.
  """
  if config.fraction == 1 and config.per_class == 0:
    return source
  keep = []
  for of_class in _by_class(one_label(source.labels())):
    num = max(round(config.fraction * len(of_class)), 1)
    keep.append(of_class[: min(num, config.per_class or num)])
  keep = np.sort(np.concatenate(keep))
  lookup = _renumbered(source.lookup, keep)
  return dataclasses.replace(
    source,
    num_train=len(keep),
    lookup=lookup,
    labels=lambda: source.labels()[keep],
    train=lambda most=None: read(lookup, spread(len(keep), most)),
    digest=_digest(np.frombuffer(source.digest.encode(), np.uint8), keep),
  )


def one_label(labels: np.ndarray) -> np.ndarray:
  """Return the first label of each image, [n], of labels [n] or [n, m] padded with -1.

  For what needs one and the same label per image: held-out batches, evaluators, splits.
  """
  if labels.ndim == 1:
    return labels
  return labels[np.arange(len(labels)), (labels >= 0).argmax(1)]


def labelled(images: Callable[..., Labelled], most: int) -> Labelled:
  """Return at most so many images, of Source.train or held_out, with one label each."""
  some, labels = images(most)
  return some, one_label(labels)


def _by_class(labels: np.ndarray, order: np.ndarray | None = None) -> list[np.ndarray]:
  """Return the examples of each class in turn, in a fixed order (by default a random one)."""
  order = np.random.RandomState(0).permutation(len(labels)) if order is None else order
  order = order[np.argsort(labels[order], kind='stable')]
  return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def held_out_mask(labels: np.ndarray, share: float, order: np.ndarray | None = None) -> np.ndarray:
  """Return which examples are held out: the same share of every class, the same in every run.

  A class of two or more has at least one on either side; a single example is trained on.

  Args:
    labels: of all examples.
    share: of each class.
    order: in which examples are chosen; by default a fixed permutation. One that follows from each
      example's own name keeps the split of the others where some are added.
  """
  labels = one_label(labels)
  mask = np.zeros(len(labels), bool)
  for of_class in _by_class(labels, order):
    num = min(max(round(share * len(of_class)), 1), len(of_class) - 1)
    mask[of_class[:num]] = True
  return mask


def spread(num: int, most: int | None) -> np.ndarray:
  """Return `most` of the numbers below `num` (all for None), ascending, always the same ones.

  Chosen at random: evenly spaced ones would miss classes that alternate.
  """
  if most is None or most >= num:
    return np.arange(num)
  return np.sort(np.random.RandomState(0).permutation(num)[:most])


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

  @tf.autograph.experimental.do_not_convert
  def one(index):
    image, label = lookup(tf, index[None], None)
    return image[0], label[0]

  dataset = tf.data.Dataset.from_tensor_slices(indices).map(
    one, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
  )
  rows = readable(tf, _with_options(tf, dataset.batch(size).prefetch(2)))
  yield from _blamed(rows, lookup, lambda i: indices[i * size : (i + 1) * size])


def survey(picture: Picture, indices: np.ndarray, what: str) -> np.ndarray:
  """Return (number, height, width, label) of these pictures, int64 [n, 4], less what is unreadable.

  Every one is decoded as in training. `what` is what the progress line calls it.
  """
  tf = tensorflow()

  @tf.autograph.experimental.do_not_convert
  def one(index):
    encoded, orientation, label = picture(tf, index)
    shape = tf.cast(tf.shape(pictures.decode(tf, encoded, orientation)), tf.int64)
    return tf.stack([index, shape[0], shape[1], tf.cast(label, tf.int64)])

  dataset = tf.data.Dataset.from_tensor_slices(np.asarray(indices, np.int64))
  dataset = dataset.map(one, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  rows = readable(tf, _with_options(tf, dataset.ignore_errors()))
  found = [row for _, row in zip(utils.counted(indices, what), rows, strict=False)]
  return np.array(found, np.int64).reshape(-1, 4)


def read_labels(picture: Picture, numbers: np.ndarray, name_of: Callable[[int], str]) -> np.ndarray:
  """Return the labels of these pictures, int32 [n], decoding none of them; see Named for the last.

  Raises:
    UserError: one cannot be read.
  """
  tf = tensorflow()
  one = tf.autograph.experimental.do_not_convert(lambda i: tf.cast(picture(tf, i)[2], tf.int32))
  dataset = tf.data.Dataset.from_tensor_slices(np.asarray(numbers, np.int64)).map(
    one, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
  )
  lookup = Named(lambda tf, i, chance: (picture(tf, i[0])[2][None],) * 2, name_of)
  rows = readable(tf, _with_options(tf, dataset))
  rows = _blamed(rows, lookup, lambda i: numbers[i : i + 1])
  return np.array([next(rows) for _ in utils.counted(numbers, 'reading labels')], np.int32)


def readable(tf: Any, dataset: Any) -> Iterator[Any]:
  """Yield the elements of a tf.data.Dataset as NumPy.

  Raises:
    UserError: what TensorFlow could not read.
  """
  failures = tf.errors.OpError  # by now: when the interpreter ends, its modules go first
  try:
    yield from dataset.as_numpy_iterator()
  except failures as error:
    words = ' '.join((error.message or '').split()).partition(' Traceback (most')[0]
    words = words.removeprefix('assertion failed: ').replace('] [', ' ')
    words = re.sub(r'\{\{.*?\}\} ?|\[\[.*?\]\] ?|\[Op:.*', '', words).strip()
    raise Unreadable(printable(words)[:300]) from None


class Unreadable(utils.UserError):
  """Data that cannot be read: of which image, if that is known, and what the decoder says."""

  def __init__(self, words: str, image: str = ''):
    self.words = words
    where = f'{image}: ' if image and image not in words else ''
    super().__init__(f'the data cannot be read ({where}{words}); mend or remove what is damaged.')


def printable(text: str) -> str:
  """Return text on one line, with what would steer a terminal or reorder a line as escapes."""
  steers = lambda c: unicodedata.category(c) in ('Cc', 'Cf', 'Cs', 'Zl', 'Zp') and c not in JOINERS
  return ''.join(ascii(c)[1:-1] if steers(c) else c for c in text)


def _blamed(
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
    for _ in readable(tf, _with_options(tf, dataset)):
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
        waited = utils.duration(time.monotonic() - since)
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


def _with_options(tf: Any, dataset: Any) -> Any:
  options = tf.data.Options()
  options.threading.max_intra_op_parallelism = 1
  return dataset.with_options(options)


def from_pictures(
  picture: Picture, config: ml_collections.ConfigDict, name_of: Callable[[int], str]
) -> Lookup:
  """Return the lookup of images that are decoded, cropped and resized at every visit.

  Args:
    picture: (tf, scalar index) -> (encoded image, EXIF orientation, label).
    config: the group `data`: resolution, channels, crop.
    name_of: see Named.
  """

  def lookup(tf, indices, chance):
    encoded, orientation, label = picture(tf, indices[0])
    image = pictures.decode(tf, encoded, orientation)
    chance = chance[0] if config.crop == 'random' and chance is not None else None
    image = pictures.square(tf, image, config.resolution, config.channels, chance)
    return image[None], tf.cast(label, tf.int32)[None]

  return Named(lookup, name_of)


def small_images(sizes: np.ndarray, resolution: int) -> tuple[str, str]:
  """Return the finding about images of these heights and widths, int [n, 2]."""
  shorter = sizes.min(1)
  at = int(shorter.argmin())
  smallest = f'the smallest of {len(sizes):,} images looked at is {sizes[at, 1]}x{sizes[at, 0]}'
  fewer = int((shorter < resolution).sum())
  if fewer:
    return 'warning', (
      f'{smallest}, and {fewer:,} are below data.resolution={resolution}: they are enlarged'
    )
  return 'ok', f'{smallest} pixels, for data.resolution={resolution}'


def check_memory(num: int, config: ml_collections.ConfigDict) -> None:
  """Refuse to hold more images than fit in memory.

  Raises:
    UserError: `num` images of the config's size exceed MOST_GIB.
  """
  gib = num * config.resolution**2 * config.channels / 2**30
  if gib > MOST_GIB:
    raise utils.UserError(
      f'{config.source!r} has {num:,} images, {gib:.1f} GiB at this data.resolution, but is held '
      f'in memory, at most {MOST_GIB} GiB; use a smaller set or resolution.'
    )


def _refuse_none(what: str, num: int) -> None:
  if not num:
    raise utils.UserError(f'the data has no {what} images; give it more images of every class.')


def _renumbered(lookup: Lookup, numbers: np.ndarray) -> Lookup:
  """Return the lookup of which image i is image numbers[i] of this one."""

  def renumbered(tf, indices, chance):
    with tf.init_scope():  # outside the graph, whose constants may not exceed 2 GiB
      table = tf.constant(numbers, tf.int64)
    return lookup(tf, tf.gather(table, indices), chance)

  if isinstance(lookup, Named):
    return Named(renumbered, lambda i: lookup.name_of(numbers[i]))
  return renumbered


def in_memory(
  train: Labelled,
  held_out: Labelled,
  class_names: tuple[str, ...],
  license: str,
  digest: str = '',
  held_out_digest: str = '',
  findings: tuple[tuple[str, str], ...] = (),
) -> Source:
  """Return a source over arrays: uint8 [n, H, W, C], and int32 [n] or [n, m] padded with -1.

  Digests that are not given are those of the arrays.

  Raises:
    UserError: there are no images to train on or to hold out, or one has no label.
  """
  for what, (images, labels) in (('training', train), ('held-out', held_out)):
    _refuse_none(what, len(images))
    missing = np.flatnonzero(one_label(labels) < 0)
    if len(missing):
      raise utils.UserError(
        f'{len(missing)} of the {len(labels)} {what} images have no label (the first is number '
        f'{missing[0]}); give each at least one, or leave it out.'
      )

  def lookup_in(arrays):
    @functools.cache
    def tensors(tf):
      with tf.init_scope():  # outside the graph, whose constants may not exceed 2 GiB
        return tuple(map(tf.constant, arrays))

    def lookup(tf, indices, chance):
      del chance
      images, labels = tensors(tf)
      return tf.gather(images, indices), tf.gather(labels, indices)

    return lookup

  def some(arrays, most=None):
    pick = spread(len(arrays[0]), most)
    return arrays if len(pick) == len(arrays[0]) else tuple(array[pick] for array in arrays)

  return Source(
    num_train=len(train[0]),
    class_names=class_names,
    license=license,
    lookup=lookup_in(train),
    at_once=True,
    labels=lambda: train[1],
    labels_known=True,
    train=functools.partial(some, train),
    held_out=functools.partial(some, held_out),
    num_held_out=len(held_out[0]),
    held_out_lookup=lookup_in(held_out),
    digest=digest or _digest(*train),
    held_out_digest=held_out_digest or _digest(*held_out),
    findings=findings,
  )


def _digest(*arrays: np.ndarray) -> str:
  words = hashlib.blake2b(digest_size=12)
  for array in arrays:
    words.update(np.ascontiguousarray(array).data)
  return words.hexdigest()


def by_number(
  train: tuple[Lookup, np.ndarray],
  held_out: tuple[Lookup, np.ndarray],
  class_names: tuple[str, ...],
  license: str,
  labels: Callable[[], np.ndarray],
  labels_known: bool,
  digest: str,
  held_out_digest: str,
  findings: tuple[tuple[str, str], ...] = (),
) -> Source:
  """Return a source that reads an image at every visit.

  Args:
    train, held_out: a lookup, and which of its numbers (int64 [n]) are these images.
    class_names, license, labels, labels_known, digest, held_out_digest, findings: see Source.
  Raises:
    UserError: there are no images to train on or to hold out.
  """
  for what, (_, numbers) in (('training', train), ('held-out', held_out)):
    _refuse_none(what, len(numbers))

  def some(lookup, numbers, most=None):
    return read(lookup, numbers[spread(len(numbers), most)])

  return Source(
    num_train=len(train[1]),
    class_names=class_names,
    license=license,
    lookup=_renumbered(*train),
    at_once=False,
    labels=labels,
    labels_known=labels_known,
    train=functools.partial(some, *train),
    held_out=functools.partial(some, *held_out),
    num_held_out=len(held_out[1]),
    held_out_lookup=_renumbered(*held_out),
    digest=digest,
    held_out_digest=held_out_digest,
    findings=findings,
  )


def _hash(tf: Any, what: str, seed: int, visit: Any) -> Any:
  """Return 62 bits for each visit, int64 [n], as a function of (what for, seed, visit)."""
  # By a hash that TensorFlow promises not to change. RandomIndexShuffle is no substitute: over so
  # few values its first element is far from uniform, and depends on that of the seed before.
  words = tf.strings.join([f'{what} of seed {seed} at ', tf.strings.as_string(visit)])
  return tf.strings.to_hash_bucket_fast(words, 2**62)


def _draw_label(tf: Any, labels: Any, seed: int, visit: Any) -> Any:
  """Return one of the labels in each row, [n] of [n, m], as a function of (seed, visit)."""
  count = tf.reduce_sum(tf.cast(labels >= 0, tf.int64), axis=1)
  ahead = tf.sort(labels, axis=1, direction='DESCENDING')  # the padding last
  return tf.gather(ahead, _hash(tf, 'label', seed, visit) % count, batch_dims=1)


def _maybe_flip(tf: Any, images: Any, seed: int, visit: Any) -> Any:
  """Mirror each image left to right or not, as a function of (seed, visit)."""
  mirrored = _hash(tf, 'flip', seed, visit) % 2 == 1
  return tf.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def _shuffled(tf: Any, num: int, seed: int, visit: Any) -> Any:
  """Return which of `num` images each visit (int64 [n]) is of: a permutation in every epoch."""
  epoch = visit // num
  seeds = tf.stack(
    [tf.fill(tf.shape(epoch), tf.constant(seed, tf.int64)), epoch % 2**31, epoch // 2**31], axis=1
  )
  return tf.raw_ops.RandomIndexShuffle(
    index=visit % num,
    seed=seeds,
    max_index=tf.fill(tf.shape(epoch), tf.constant(num - 1, tf.int64)),
    rounds=8,  # at TensorFlow's default of 4, sets of a thousand stay nearly sorted
  )


def stream(
  source: Source,
  seed: int,
  position: int,
  batch: tuple[int, int],
  rows: np.ndarray,
  flip: bool = False,
) -> Iterator[Batch]:
  """Yield {'image': uint8 [k, rows, H, W, C], 'label': int32 [k, rows]} from `position` on.

  Image number g of the run is element g mod n of a permutation drawn from (seed, g div n): every
  epoch shows every image once, resuming replays nothing, and hosts that ask for other rows of the
  same minibatches together see what one host would. So are a random crop, a flip, and the label of
  an image that has several: functions of (seed, g). A minibatch larger than an epoch holds parts
  of several, each shuffled anew. A source that stalls is waited for, which is said on stderr once a
  minute, then less and less often.

  Args:
    source: where images come from.
    seed: of the order.
    position: number of images the run has consumed (may exceed 32 bits).
    batch: (k minibatches per step, B examples in each), global.
    rows: which of the B examples to yield, ascending.
    flip: mirror half of the images, another half at every visit.
  Raises:
    UserError: an image cannot be read; it is named where the source can.
  """
  tf = tensorflow()
  num_minibatches, num_examples = batch
  offsets = np.arange(num_minibatches)[:, None] * num_examples + np.asarray(rows)[None, :]
  offsets = offsets.reshape(-1).astype(np.int64)
  per_call = len(offsets) if source.at_once else 1
  calls = len(offsets) // per_call  # per step

  @tf.autograph.experimental.do_not_convert
  def look(call):
    mine = tf.constant(offsets.reshape(calls, per_call))[call % calls]
    visit = position + (call // calls) * (num_minibatches * num_examples) + mine
    shuffled = _shuffled(tf, source.num_train, seed, visit)
    images, labels = source.lookup(tf, shuffled, _hash(tf, 'crop', seed, visit))
    if labels.shape.rank == 2:
      labels = _draw_label(tf, labels, seed, visit)
    return _maybe_flip(tf, images, seed, visit) if flip else images, labels

  def shaped(images, labels):
    shape = (num_minibatches, len(rows))
    return {
      'image': tf.reshape(images, (*shape, *images.shape[-3:])),
      'label': tf.reshape(labels, shape),
    }

  dataset = tf.data.Dataset.range(2**62 // len(offsets) * calls)
  dataset = dataset.map(look, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  dataset = dataset.batch(calls, drop_remainder=True).map(shaped).prefetch(2)

  def numbers_of(step):
    visit = position + step * (num_minibatches * num_examples) + offsets
    return _shuffled(tf, source.num_train, seed, tf.constant(visit)).numpy()

  rows = _blamed(readable(tf, _with_options(tf, dataset)), source.lookup, numbers_of)
  return watched(rows, source.name)
