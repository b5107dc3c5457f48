"""The order of a run: which image, crop, flip and label each of its visits has.

All are functions of (seed, number of the visit), and none of what ran before.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bigjax.data.reading.random_access import (
  blamed,
  per_call,
  readable,
  tensorflow,
  watched,
  with_options,
)
from bigjax.data.reading.sizes import Sized, by_decoding

Batch = dict[str, np.ndarray]


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
  every = tf.reshape(mirrored, [-1] + [1] * (images.shape.rank - 1))
  return tf.where(every, tf.reverse(images, axis=[-2]), images)


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


def _sized(source: Any, wanted: Mapping[str, int]) -> tuple[Sized, bool, int]:
  """(The lookup of these sizes, whether a whole step's go in one call, or else how many do.)

  Small images that the source keeps are not decoded again.
  """
  small, lookup = source.small, source.lookup
  if small and small.have(wanted):
    return small.lookup(lookup, wanted), small.complete, 1
  return by_decoding(lookup, wanted), source.at_once, per_call(lookup)


def stream(
  source: Any,
  seed: int,
  position: int,
  batch: tuple[int, int],
  rows: np.ndarray,
  flip: bool = False,
  sizes: Mapping[str, int] | None = None,
) -> Iterator[Batch]:
  """Yield {'image': uint8 [k, rows, ..., H, W, C], 'label': int32 [k, rows]} from `position` on.

  Image number g of the run is element g mod n of a permutation drawn from (seed, g div n): every
  epoch shows every image once, resuming replays nothing, and hosts that ask for other rows of the
  same minibatches together see what one host would. So are a random crop, a flip, and the label of
  an image that has several: functions of (seed, g). A minibatch larger than an epoch holds parts
  of several, each shuffled anew. A source that stalls is waited for, which is said on stderr once a
  minute, then less and less often.

  Args:
    source: a data.Source, where images come from.
    seed: of the order.
    position: number of images the run has consumed (may exceed 32 bits).
    batch: (k minibatches per step, B examples in each), global.
    rows: which of the B examples to yield, ascending.
    flip: mirror half of the images, another half at every visit.
    sizes: {name: pixels a side} of the same images, averaged down; default: `image` as it is.
  Raises:
    UserError: an image cannot be read; it is named where the source can.
  """
  tf = tensorflow()
  num_minibatches, num_examples = batch
  offsets = np.arange(num_minibatches)[:, None] * num_examples + np.asarray(rows)[None, :]
  offsets = offsets.reshape(-1).astype(np.int64)
  look_up, at_once, most = _sized(source, sizes or {})
  # Each step is looked up in so many calls of one size, the last of which may begin it again.
  calls = 1 if at_once else -(-len(offsets) // most)
  together = -(-len(offsets) // calls)
  parts = np.resize(offsets, (calls, together))

  @tf.autograph.experimental.do_not_convert
  def look(call):
    mine = tf.constant(parts)[call % calls]
    visit = position + (call // calls) * (num_minibatches * num_examples) + mine
    shuffled = _shuffled(tf, source.num_train, seed, visit)
    images, labels = look_up(tf, shuffled, _hash(tf, 'crop', seed, visit))
    if labels.shape.rank == 2:
      labels = _draw_label(tf, labels, seed, visit)
    if flip:  # the mean of what is mirrored is the mean, mirrored
      images = {name: _maybe_flip(tf, x, seed, visit) for name, x in images.items()}
    return images, labels

  def shaped(images, labels):
    def one(x):  # [calls, together, ...]
      x = tf.reshape(x, (calls * together, *x.shape[2:]))[: len(offsets)]
      return tf.reshape(x, (num_minibatches, len(rows), *x.shape[1:]))

    return {**{name: one(x) for name, x in images.items()}, 'label': one(labels)}

  dataset = tf.data.Dataset.range(2**62 // len(offsets) * calls)
  dataset = dataset.map(look, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  dataset = dataset.batch(calls, drop_remainder=True).map(shaped).prefetch(2)

  def numbers_of(step):
    visit = position + step * (num_minibatches * num_examples) + offsets
    return _shuffled(tf, source.num_train, seed, tf.constant(visit)).numpy()

  rows = blamed(readable(tf, with_options(tf, dataset)), source.lookup, numbers_of)
  return watched(rows, source.name)
