"""Real images, in an order that is a function of (seed, position) alone.

`load(config.data)` returns a Source with random access; `stream` turns it into minibatches. NumPy
and tf.data only; nothing here knows JAX. One file per kind of source in `sources/`; what they
share, and the order of a run, is in `reading/`; zips and files of labels are known to `files/`.
"""

import dataclasses
import functools
import hashlib
import importlib
import os
import pkgutil
from collections.abc import Callable

import ml_collections
import numpy as np

from bigjax.core import config as core_config
from bigjax.core import errors
from bigjax.data import sources
from bigjax.data.reading import shares
from bigjax.data.reading.random_access import (
  Labelled,
  Lookup,
  Named,
  Picture,
  from_pictures,
  in_batches,
  pictures_digest,
  printable,
  read,
  read_labels,
  survey,
  tensorflow,
)
from bigjax.data.reading.shares import held_out_mask, one_label, subset
from bigjax.data.reading.sizes import SmallCopies, check_size, shrunk, sizes
from bigjax.data.reading.stream import stream

__all__ = [
  'Finding',
  'Labelled',
  'Lookup',
  'Named',
  'Picture',
  'SmallCopies',
  'Source',
  'by_number',
  'check',
  'check_memory',
  'check_size',
  'from_pictures',
  'held_out_mask',
  'in_batches',
  'in_memory',
  'labelled',
  'limit',
  'load',
  'one_label',
  'pictures_digest',
  'printable',
  'read',
  'read_labels',
  'shrunk',
  'sizes',
  'stream',
  'subset',
  'survey',
  'tensorflow',
]  # fmt: skip
Finding = tuple[str, str]  # ('ok', 'warning' or 'fail', a sentence for people)

ALL = ('all',)  # the class of images whose labels are not looked at
SEEN = 256  # images whose labels are looked at before training
MOST_GIB = 4  # of a set held in memory (twice while it is streamed: NumPy's and TensorFlow's)


@dataclasses.dataclass(frozen=True)
class Source:
  """A labelled set of images, or of clips, with random access, split into train and held-out.

  Labels are int32 [n], or [n, m] padded with -1 where an image may have several, as in JFT:
  `stream` then draws one of them, uniformly, whenever it visits the image. Every image has one at
  least.

  Attributes:
    num_train: number of training images.
    class_names: one name per class.
    license: of the images, for the card of a generator trained on them.
    lookup: (tf, int64 indices [n] of training images, int64 chance [n] or None) -> (uint8
      [n, H, W, C], or clips [n, T, H, W, C], labels), traced by tf.data. `chance` is what a random
      crop, and which frames of a video are a clip, are drawn from; None is the centre of both.
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
    findings: about the data, 'ok' or 'warning'.
    name: what the config calls it.
    size: pixels a side of its images.
    even: the source before `data.imbalance`, where that is on; else None.
    small: small copies of the training images; None where these are in memory as they are, or are
      others at every visit.
    frame_rate: frames per second of its clips as they are delivered, after `data.frame_stride`; 0
      for still images, and where nothing says it.
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
  findings: tuple[Finding, ...] = ()
  name: str = 'a source without a name'
  size: int = 0
  even: 'Source | None' = None
  small: SmallCopies | None = None
  frame_rate: float = 0.0

  def reference(self, most: int | None = None) -> Labelled:
    """As `train`, for scores to learn from and compare with: the images before `data.imbalance`.

    So rare classes are known as well as frequent ones, and compared at equal numbers.
    """
    return (self.even or self).train(most)

  def class_counts(self) -> list[int]:
    """Training images of each class; reads all of them where labels are not at hand."""
    return np.bincount(one_label(self.labels()), minlength=len(self.class_names)).tolist()


def load(config: ml_collections.ConfigDict) -> Source:
  """Return the source that `config.source` names: NAME or NAME:ARGUMENT, sources/NAME.py.

  Raises:
    UserError: no such source, or the data does not fit the config.
  """
  check(config)
  name, _, argument = config.source.partition(':')
  known = [module.name for module in pkgutil.iter_modules(sources.__path__)]
  if name not in known:
    is_path = config.source and (os.path.exists(config.source) or os.sep in config.source)
    hint = f'folder:{config.source}' if is_path else ''
    hint = f' (did you mean {hint}?)' if hint else errors.did_you_mean(name, known)
    raise errors.UserError(
      f'data.source is {config.source!r}{hint}; expected one of: {", ".join(known)}.'
    )
  module = importlib.import_module(f'{sources.__name__}.{name}')
  if config.frames and not getattr(module, 'CLIPS', False):
    raise errors.UserError(
      f'data.frames is {config.frames}, but {config.source!r} has still images; set data.frames=0.'
    )
  if config.get('split', '') and not getattr(module, 'SPLITS', False):
    raise errors.UserError(
      f'data.split is {config.split!r}, but only sets of tfds have splits by name, and data.source '
      f"is {config.source!r}; set data.split=''."
    )
  if config.get('label_column', '') and not getattr(module, 'LABELS', False):
    raise errors.UserError(
      f'data.label_column is {config.label_column!r}, but only folder: and hf: have columns of '
      f"labels, and data.source is {config.source!r}; set data.label_column=''."
    )
  source = module.load(config, argument)
  if config.num_classes == 1:
    source = without_labels(source)
  num = len(source.class_names)
  if config.num_classes is not None and num != config.num_classes:
    raise errors.UserError(
      f'data.num_classes is {config.num_classes}, but {config.source!r} has '
      f'{num} class{"" if num == 1 else "es"}; give that number, or None to read it from the data.'
    )
  refuse_one_label(source, config)
  source = limit(fitted(source, config), config)
  small = None
  if not (source.at_once or config.frames) and config.crop == 'center':
    several = source.labels().shape[1:] if source.labels_known else ()
    small = SmallCopies(source.num_train, config.resolution, config.channels, several)
  return dataclasses.replace(source, name=config.source, size=config.resolution, small=small)


def check(config: ml_collections.ConfigDict) -> None:
  """Refuse settings that mean nothing.

  Raises:
    UserError: names the first.
  """
  for name, key in core_config.SHARED.items():
    group, _, short = name.partition('.')
    if group == 'data' and short in config:
      core_config.refuse(name, key, config[short])
  if config.channels not in (1, 3):
    raise errors.UserError(f'data.channels is {config.channels}; give 1 (grey) or 3 (colour).')
  errors.pick(config.crop, {'center': 0, 'random': 0}, 'data.crop')
  if config.crop == 'random' and config.get('fit', 'crop') != 'crop':
    raise errors.UserError(
      f'data.crop is random, but data.fit={config.fit} crops nothing; set data.crop=center, or '
      'data.fit=crop.'
    )
  if 0 < config.imbalance < 1:
    raise errors.UserError(
      f'data.imbalance is {config.imbalance:g}; give the images of the first class over those of '
      'the last, as 100 where others have a factor of 0.01, or 1 for the images as they are.'
    )
  if config.num_classes == 1 and config.imbalance > 1:
    raise errors.UserError(
      f'data.imbalance is {config.imbalance:g}, but data.num_classes=1 makes one class of all '
      'images; a long tail needs two or more: set data.imbalance=1, or give the number of classes.'
    )


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
    raise errors.UserError(
      f'{config.source!r} has {len(source.class_names)} classes, but all {len(labels):,} '
      f'training images have label {labels[0]} ({source.class_names[labels[0]]}); '
      'a wrong folder level or a broken conversion does that: mend the labels.'
    )


def fitted(source: Source, config: ml_collections.ConfigDict) -> Source:
  """The source, other images by its digests where these are not cropped."""
  fit = config.get('fit', 'crop')
  if fit == 'crop':
    return source
  return dataclasses.replace(
    source,
    digest=f'{source.digest} {fit}',
    held_out_digest=f'{source.held_out_digest} {fit}',
  )


def limit(source: Source, config: ml_collections.ConfigDict) -> Source:
  """Return the source with those of its training images that the config asks for.

  In this order: `config.fraction` of each class (one image at least), at most `per_class` of it,
  and with an `imbalance` R above 1 the long tail whose first class has R times the images of its
  last, as CIFAR-10-LT (Cui et al. 2019; Cao et al. 2019). A smaller share is part of a larger one.

  Raises:
    UserError: a long tail of one class, or with a class of no images.
  """
  share = config.fraction != 1 or config.per_class
  if not share and config.imbalance <= 1:
    return source
  labels = one_label(source.labels())
  nums = shares.of_each(labels, len(source.class_names), config.fraction, config.per_class)
  even = _only(source, shares.first(labels, nums)) if share else source
  if config.imbalance <= 1:
    return even
  tail = shares.long_tail(nums, config.imbalance, config.source)
  return dataclasses.replace(_only(source, shares.first(labels, tail)), even=even)


def _only(source: Source, keep: np.ndarray) -> Source:
  """The source with these of its training images alone."""
  lookup, labels = _renumbered(source.lookup, keep), source.labels()[keep]
  return dataclasses.replace(
    source,
    num_train=len(keep),
    lookup=lookup,
    labels=lambda: labels,
    labels_known=True,
    train=lambda most=None: read(lookup, subset(len(keep), most)),
    digest=_digest(np.frombuffer(source.digest.encode(), np.uint8), keep),
  )


def without_labels(source: Source) -> Source:
  """The same images as one class: what an unconditional generator learns."""
  if len(source.class_names) == 1:
    return source

  def blind(lookup: Lookup) -> Lookup:
    def looked_up(tf, indices, chance):
      images, _ = lookup(tf, indices, chance)
      return images, tf.zeros(tf.shape(images)[:1], tf.int32)

    if isinstance(lookup, Named):
      return dataclasses.replace(lookup, lookup=looked_up)
    return looked_up

  def plain(images: Callable[..., Labelled]) -> Callable[..., Labelled]:
    def some(most=None):
      found, _ = images(most)
      return found, np.zeros(len(found), np.int32)

    return some

  digest = lambda of: _digest(np.frombuffer(f'{of} without labels'.encode(), np.uint8))
  return dataclasses.replace(
    source,
    class_names=ALL,
    lookup=blind(source.lookup),
    labels=lambda: np.zeros(source.num_train, np.int32),
    labels_known=True,
    train=plain(source.train),
    held_out=plain(source.held_out),
    held_out_lookup=blind(source.held_out_lookup),
    digest=digest(source.digest),
    held_out_digest=digest(source.held_out_digest),
  )


def labelled(images: Callable[..., Labelled], most: int) -> Labelled:
  """Return at most so many images, of Source.train or held_out, with one label each."""
  some, labels = images(most)
  return some, one_label(labels)


def check_memory(num: int, config: ml_collections.ConfigDict) -> None:
  """Refuse to hold more images or clips than fit in memory.

  Raises:
    UserError: `num` of the config's size exceed MOST_GIB.
  """
  gib = num * config.resolution**2 * config.channels * max(config.frames, 1) / 2**30
  if gib > MOST_GIB:
    what = f'clips of {config.frames} frames' if config.frames else 'images'
    fewer = ', resolution or number of frames' if config.frames else ' or resolution'
    raise errors.UserError(
      f'{config.source!r} has {num:,} {what}, {gib:.1f} GiB at this data.resolution, but is held '
      f'in memory, at most {MOST_GIB} GiB; use a smaller set{fewer}.'
    )


def _refuse_none(what: str, num: int) -> None:
  if not num:
    raise errors.UserError(f'the data has no {what} images; give it more images of every class.')


def _renumbered(lookup: Lookup, numbers: np.ndarray) -> Lookup:
  """Return the lookup of which image i is image numbers[i] of this one."""

  def renumbered(tf, indices, chance):
    with tf.init_scope():  # outside the graph, whose constants may not exceed 2 GiB
      table = tf.constant(numbers, tf.int64)
    return lookup(tf, tf.gather(table, indices), chance)

  if isinstance(lookup, Named):
    name_of = lambda i: lookup.name_of(numbers[i])
    return dataclasses.replace(lookup, lookup=renumbered, name_of=name_of)
  return renumbered


def in_memory(
  train: Labelled,
  held_out: Labelled,
  class_names: tuple[str, ...],
  license: str,
  digest: str = '',
  held_out_digest: str = '',
  findings: tuple[Finding, ...] = (),
  frame_rate: float = 0.0,
) -> Source:
  """Return a source over arrays: uint8 [n, H, W, C], and int32 [n] or [n, m] padded with -1.

  Or clips, uint8 [n, T, H, W, C], and their frame rate.

  Digests that are not given are those of the arrays.

  Raises:
    UserError: there are no images to train on or to hold out, or one has no label.
  """
  for what, (images, labels) in (('training', train), ('held-out', held_out)):
    _refuse_none(what, len(images))
    missing = np.flatnonzero(one_label(labels) < 0)
    if len(missing):
      raise errors.UserError(
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
    pick = subset(len(arrays[0]), most)
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
    frame_rate=frame_rate,
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
  findings: tuple[Finding, ...] = (),
  frame_rate: float = 0.0,
) -> Source:
  """Return a source that reads an image at every visit.

  Args:
    train, held_out: a lookup, and which of its numbers (int64 [n]) are these images.
    class_names, license, labels, labels_known, digest, held_out_digest, findings, frame_rate: see
      Source.
  Raises:
    UserError: there are no images to train on or to hold out.
  """
  for what, (_, numbers) in (('training', train), ('held-out', held_out)):
    _refuse_none(what, len(numbers))

  def some(lookup, numbers, most=None):
    return read(lookup, numbers[subset(len(numbers), most)])

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
    frame_rate=frame_rate,
  )
