"""Real images, in an order that is a function of (seed, position) alone.

`load(config.data)` returns a Source with random access; `stream` turns it into minibatches. NumPy
and tf.data only; nothing here knows JAX. One file per kind of source, found by its name.
"""

import dataclasses
import importlib
import os
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import ml_collections
import numpy as np

from bigjax import utils

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Source:
  """A labelled set of images with random access, split into train and held-out.

  Attributes:
    num_train: number of training images.
    class_names: one name per class.
    license: of the images, for the card of a generator trained on them.
    lookup: (tf, int64 tensor [n] of training indices) -> (uint8 [n, H, W, C], int32 [n]), traced by
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


def in_memory(
  train: tuple[np.ndarray, np.ndarray],
  held_out: tuple[np.ndarray, np.ndarray],
  class_names: tuple[str, ...],
  license: str,
) -> Source:
  """Return a source over arrays (uint8 [n, H, W, C], int32 [n])."""

  def lookup(tf, indices):
    return tf.gather(train[0], indices), tf.gather(train[1], indices)

  return Source(len(train[0]), class_names, license, lookup, lambda: train, lambda: held_out)


def stream(
  source: Source, seed: int, position: int, batch: tuple[int, int], rows: np.ndarray
) -> Iterator[Batch]:
  """Yield {'image': uint8 [k, rows, H, W, C], 'label': int32 [k, rows]} from `position` on.

  Image number g of the run is element g mod n of a permutation drawn from (seed, g div n): every
  epoch shows every image once, resuming replays nothing, and hosts that ask for other rows of the
  same minibatches together see what one host would.

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
