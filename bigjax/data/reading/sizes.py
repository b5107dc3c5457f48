"""One source at several sizes: images averaged down, and small ones kept from their first visit on.

A pixel of a smaller image is the mean of a whole square of them, rounded half to even, as PGGAN's
data tool makes its levels of detail (Karras et al. 2018). A run that grows visits photos of 1,024
px a million times at 4 to 64 px: they are decoded once for all of these.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bigjax.core import errors
from bigjax.data.reading.random_access import Lookup

MOST_KEPT = 2**30  # bytes of small images that are kept
SMALLEST = 4  # px of those, a side

Sized = Callable[[Any, Any, Any], tuple[dict[str, Any], Any]]  # a lookup of {name: images}, labels


def sizes(inputs: Sequence[tuple[str, Any]]) -> dict[str, int]:
  """Pixels a side of the inputs (name, of a given shape) that are images or clips."""
  return {name: one.shape[-3] for name, one in inputs if len(one.shape) >= 3}


def check_size(have: int, wanted: int, what: str) -> None:
  """Refuse a size that images cannot be averaged down to.

  Raises:
    UserError: `wanted` does not divide `have` pixels a side.
  """
  if have % wanted:
    raise errors.UserError(
      f'{what} has {wanted} px, to which images of data.resolution={have} cannot be averaged '
      f'down; set data.resolution to a multiple of {wanted}.'
    )


def shrunk(images: np.ndarray, side: int) -> np.ndarray:
  """uint8 images [..., H, W, C] averaged over whole squares of pixels to `side`."""
  *lead, height, _, channels = images.shape
  if height == side:
    return images
  times = height // side
  squares = images.reshape(*lead, side, times, side, times, channels)
  return np.rint(squares.sum((-4, -2), dtype=np.int32) / times**2).astype(np.uint8)


def averaged(tf: Any, images: Any, sides: Sequence[int]) -> list[Any]:
  """`shrunk` to each of these sides, the largest first, in TensorFlow.

  Sums are of integers, exact at any size. Those of one side begin from those of the side before
  where that is a multiple of it.
  """
  sums, found = images, []
  for side in sides:
    if sums.shape[-3] % side:
      sums = images
    sums = _sums(tf, sums, side)
    times = images.shape[-3] // side
    mean = tf.cast(sums, tf.float64) / times**2
    found.append(images if times == 1 else tf.cast(tf.round(mean), tf.uint8))
  return found


def _sums(tf: Any, images: Any, side: int) -> Any:
  """int32 sums over squares of images [..., H, W, C] to `side`: rows first, which is faster."""
  *rest, height, width, channels = images.shape.as_list()
  lead, times = tf.shape(images)[:-3], height // side
  shaped = lambda x, *shape: tf.reshape(x, tf.concat([lead, shape], 0))
  rows = tf.cast(shaped(images, side, times, width * channels), tf.int32)
  rows = shaped(tf.reduce_sum(rows, axis=-2), side, side, times, channels)
  return tf.ensure_shape(tf.reduce_sum(rows, axis=-2), [*rest, side, side, channels])


def by_decoding(lookup: Lookup, wanted: Mapping[str, int]) -> Sized:
  """The lookup of these sizes of the same images, {name: px a side}; of none, 'image' as it is."""
  sides = sorted({*wanted.values()}, reverse=True)

  def looked_up(tf, indices, chance):
    images, labels = lookup(tf, indices, chance)
    if not wanted:
      return {'image': images}, labels
    of_side = dict(zip(sides, averaged(tf, images, sides), strict=True))
    return {name: of_side[side] for name, side in wanted.items()}, labels

  return looked_up


class SmallCopies:
  """Images of a source averaged down to small sizes, each kept from its first visit on.

  Kept are the halves of its resolution, from SMALLEST px up to what MOST_KEPT bytes hold. An image
  and its label must be the same at every visit: no random crops.

  Attributes:
    sides: pixels a side of what is kept, the largest first; () where nothing fits.
    num_bytes: of all.
  """

  def __init__(self, num: int, resolution: int, channels: int, several: tuple[int, ...] = ()):
    """`several` are the labels of an image, (m,) where that may be more than one."""
    halves = [resolution >> i for i in range(1, 32) if resolution % 2**i == 0]
    self.sides, self.num_bytes = (), 0
    for side in sorted(side for side in halves if side >= SMALLEST):
      more = num * side**2 * channels
      if self.num_bytes + more > MOST_KEPT:
        break
      self.sides, self.num_bytes = (side, *self.sides), self.num_bytes + more
    # Pages of memory are the system's until something is written to them.
    self._images = {side: np.zeros((num, side, side, channels), np.uint8) for side in self.sides}
    self._labels = np.zeros((num, *several), np.int32)
    self._known = np.zeros(num, bool)

  def have(self, wanted: Mapping[str, int]) -> bool:
    """Whether all of these sizes, {name: px a side}, are kept ones."""
    return bool(wanted) and {*wanted.values()} <= {*self.sides}

  @property
  def complete(self) -> bool:
    """Whether every image has been visited."""
    return bool(self._known.all())

  def lookup(self, lookup: Lookup, wanted: Mapping[str, int]) -> Sized:
    """The lookup of these sizes, {name: px a side}; decodes what has not been visited yet."""
    sides = sorted({*wanted.values()}, reverse=True)
    channels = self._images[sides[0]].shape[-1]

    def get(indices):
      return self._labels[indices], *(self._images[side][indices] for side in sides)

    def known(indices):
      return self._known[indices].all()

    def put(indices, labels, *images):
      for side, some in zip(self.sides, images, strict=True):
        self._images[side][indices] = some
      self._labels[indices] = labels
      self._known[indices] = True  # last: other threads read
      return labels

    def looked_up(tf, indices, chance):
      del chance

      def kept():
        return tuple(tf.numpy_function(get, [indices], ['int32', *['uint8'] * len(sides)]))

      def visited():
        images, labels = lookup(tf, indices, None)
        small = averaged(tf, images, self.sides)
        labels = tf.numpy_function(put, [indices, labels, *small], 'int32')
        return labels, *(small[self.sides.index(side)] for side in sides)

      at_hand = tf.ensure_shape(tf.numpy_function(known, [indices], 'bool'), [])
      labels, *images = kept() if self.complete else tf.cond(at_hand, kept, visited)
      shapes = {side: [*indices.shape, side, side, channels] for side in sides}
      images = [tf.ensure_shape(x, shapes[side]) for side, x in zip(sides, images, strict=True)]
      of_side = dict(zip(sides, images, strict=True))
      labels = tf.ensure_shape(labels, [*indices.shape, *self._labels.shape[1:]])
      return {name: of_side[side] for name, side in wanted.items()}, labels

    return looked_up
