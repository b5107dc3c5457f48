"""Real images, in an order that is a function of (seed, position) alone.

`load(config.data)` returns a Source with random access; `stream` turns it into minibatches. NumPy
and tf.data only; nothing here knows JAX. One file per kind of source, found by its name.
"""

import dataclasses
import functools
import importlib
import os
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import ml_collections
import numpy as np
from PIL import Image

from bigjax import utils

Batch = dict[str, np.ndarray]
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
    lookup: (tf, int64 tensor [n] of training indices) -> (uint8 [n, H, W, C], labels), traced by
      tf.data; `tf` is the TensorFlow module.
    train: () -> all training (or, for large sets, the first) images and labels, as NumPy.
    held_out: the same for images that training never sees.
  """

  num_train: int
  class_names: tuple[str, ...]
  license: str
  lookup: Callable[[Any, Any], tuple[Any, Any]]
  train: Callable[[], tuple[np.ndarray, np.ndarray]]
  held_out: Callable[[], tuple[np.ndarray, np.ndarray]]


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
  name, _, argument = config.source.partition(':')
  known = [module.name for module in pkgutil.iter_modules(__path__)]
  if name not in known:
    raise utils.UserError(
      f'data.source is {config.source!r}{utils.did_you_mean(name, known)}; '
      f'expected one of: {", ".join(known)}.'
    )
  source = importlib.import_module(f'{__name__}.{name}').load(config, argument)
  if len(source.class_names) != config.num_classes:
    raise utils.UserError(
      f'data.num_classes is {config.num_classes}, but {config.source!r} has '
      f'{len(source.class_names)} classes.'
    )
  return source


def one_label(labels: np.ndarray) -> np.ndarray:
  """Return the first label of each image, [n], of labels [n] or [n, m] padded with -1.

  For what needs one and the same label per image: held-out batches, evaluators, splits.
  """
  if labels.ndim == 1:
    return labels
  return labels[np.arange(len(labels)), (labels >= 0).argmax(1)]


def held_out_mask(labels: np.ndarray, share: float) -> np.ndarray:
  """Return which examples are held out: the same share of every class, the same in every run.

  A class of two or more has at least one on either side; a single example is trained on.
  """
  labels = one_label(labels)
  order = np.random.RandomState(0).permutation(len(labels))
  mask = np.zeros(len(labels), bool)
  for label in np.unique(labels):
    of_class = order[labels[order] == label]
    num = min(max(round(share * len(of_class)), 1), len(of_class) - 1)
    mask[of_class[:num]] = True
  return mask


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


def fit(image: np.ndarray, resolution: int, channels: int) -> np.ndarray:
  """Return uint8 [H, W, 1 or 3] as [resolution, resolution, channels]; the same where it fits.

  The centre square is averaged by area where it is larger (each pixel is the exact mean of what it
  covers, rounded: no Pillow filter does that at fractional ratios) and enlarged bicubically where
  it is smaller. Grey is repeated; colour becomes the luma of ITU-R 601.
  """
  h, w, given = image.shape
  size = min(h, w)
  top, left = (h - size) // 2, (w - size) // 2
  image = image[top : top + size, left : left + size]
  if channels < given:
    image = np.asarray(Image.fromarray(image).convert('L'))[..., None]
  if size > resolution:
    image = _average(image, resolution)
  elif size < resolution:
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture = picture.resize((resolution, resolution), Image.Resampling.BICUBIC)
    image = np.asarray(picture).reshape(resolution, resolution, -1)
  return np.repeat(image, channels, axis=-1) if channels > given else image


def _average(image: np.ndarray, resolution: int) -> np.ndarray:
  """Return the area averages of a square image [n, n, C] as [resolution, resolution, C]."""
  n, _, c = image.shape
  shares = _overlaps(n, resolution)
  # Integers, below 2^24 in the first product (n < 65794) and 2^53 in the second: both are exact, in
  # any order of summation, on every machine.
  rows = (shares @ image.reshape(n, n * c).astype(np.float32)).reshape(resolution, n, c)
  sums = np.tensordot(rows.astype(np.float64), shares, ([1], [1])).astype(np.int64)
  return ((2 * sums.transpose(0, 2, 1) + n * n) // (2 * n * n)).astype(np.uint8)


@functools.lru_cache(maxsize=16)
def _overlaps(n: int, resolution: int) -> np.ndarray:
  """Return how much of pixel j of n lies in pixel i of `resolution`, as integers with row sum n."""
  new, old = np.arange(resolution)[:, None] * n, np.arange(n)[None, :] * resolution
  overlaps = np.minimum(new + n, old + resolution) - np.maximum(new, old)
  return np.maximum(overlaps, 0).astype(np.float32)


def in_memory(
  train: tuple[np.ndarray, np.ndarray],
  held_out: tuple[np.ndarray, np.ndarray],
  class_names: tuple[str, ...],
  license: str,
) -> Source:
  """Return a source over arrays: uint8 [n, H, W, C], and int32 [n] or [n, m] padded with -1.

  Raises:
    UserError: there are no images to train on or to hold out, or one has no label.
  """
  for what, (images, labels) in (('training', train), ('held-out', held_out)):
    if not len(images):
      raise utils.UserError(f'the data has no {what} images; give it more images of every class.')
    missing = np.flatnonzero(one_label(labels) < 0)
    if len(missing):
      raise utils.UserError(
        f'{len(missing)} of the {len(labels)} {what} images have no label (the first is number '
        f'{missing[0]}); give each at least one, or leave it out.'
      )

  @functools.cache
  def tensors(tf):
    with tf.init_scope():  # outside the graph, whose constants may not exceed 2 GiB
      return tf.constant(train[0]), tf.constant(train[1])

  def lookup(tf, indices):
    images, labels = tensors(tf)
    return tf.gather(images, indices), tf.gather(labels, indices)

  return Source(len(train[0]), class_names, license, lookup, lambda: train, lambda: held_out)


def _draw_label(tf: Any, labels: Any, seed: int, visit: Any) -> Any:
  """Return one of the labels in each row, [n] of [n, m], as a function of (seed, visit)."""
  # By a hash that TensorFlow promises not to change. RandomIndexShuffle is no substitute: over so
  # few values its first element is far from uniform, and depends on that of the seed before.
  words = tf.strings.join([f'label of seed {seed} at ', tf.strings.as_string(visit)])
  number = tf.strings.to_hash_bucket_fast(words, 2**62)
  count = tf.reduce_sum(tf.cast(labels >= 0, tf.int64), axis=1)
  ahead = tf.sort(labels, axis=1, direction='DESCENDING')  # the padding last
  return tf.gather(ahead, number % count, batch_dims=1)


def stream(
  source: Source, seed: int, position: int, batch: tuple[int, int], rows: np.ndarray
) -> Iterator[Batch]:
  """Yield {'image': uint8 [k, rows, H, W, C], 'label': int32 [k, rows]} from `position` on.

  Image number g of the run is element g mod n of a permutation drawn from (seed, g div n): every
  epoch shows every image once, resuming replays nothing, and hosts that ask for other rows of the
  same minibatches together see what one host would. So is the label of an image that has several:
  a function of (seed, g).

  Args:
    source: where images come from.
    seed: of the order.
    position: number of images the run has consumed (may exceed 32 bits).
    batch: (k minibatches per step, B examples in each), global.
    rows: which of the B examples to yield, ascending.
  """
  tf = tensorflow()
  num_minibatches, num_examples = batch
  offsets = np.arange(num_minibatches)[:, None] * num_examples + np.asarray(rows)[None, :]

  @tf.autograph.experimental.do_not_convert
  def read(step):
    index = position + step * (num_minibatches * num_examples) + offsets.reshape(-1)
    epoch = index // source.num_train
    seeds = tf.stack(
      [tf.fill(tf.shape(epoch), tf.constant(seed, tf.int64)), epoch % 2**31, epoch // 2**31], axis=1
    )
    shuffled = tf.raw_ops.RandomIndexShuffle(
      index=index % source.num_train,
      seed=seeds,
      max_index=tf.fill(tf.shape(epoch), tf.constant(source.num_train - 1, tf.int64)),
      rounds=8,  # at TensorFlow's default of 4, sets of a thousand stay nearly sorted
    )
    images, labels = source.lookup(tf, shuffled)
    if labels.shape.rank == 2:
      labels = _draw_label(tf, labels, seed, index)
    shape = (num_minibatches, len(rows))
    return {
      'image': tf.reshape(images, (*shape, *images.shape[1:])),
      'label': tf.reshape(labels, shape),
    }

  dataset = (
    tf.data.Dataset.range(2**62)
    .map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    .prefetch(2)
  )
  options = tf.data.Options()
  options.threading.max_intra_op_parallelism = 1
  return dataset.with_options(options).as_numpy_iterator()
