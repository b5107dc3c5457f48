"""The training images nearest to samples, in pixels and in features: learnt by heart, or not?

A distance means little by itself. It is shown as a ratio to what is usual among the training
images: the median distance of one of them to its nearest other. About 1 is an image like any new
one; near 0 is a copy. In pixels, a copy moved by one pixel is far away; hence the features.

All training images are looked at once, block by block: memory holds one block, the samples, and
those that the usual distance is measured on.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from bigjax import data
from bigjax.core import errors, progress
from bigjax.evaluation import image_sets
from bigjax.evaluation.metrics.distances import squared_distances
from bigjax.evaluation.quick import classifier
from bigjax.sampling import lettering

FeatureFn = Callable[[np.ndarray], np.ndarray]  # uint8 [n, H, W, C] -> float32 [n, d]

BLOCK_BYTES = 2**26  # of images looked at together
USUAL = 500  # training images that the usual distance is measured on, fewer where they are large
USUAL_BYTES = 2**27  # of their pixels, as float32
CLOSE = 0.5  # times the usual distance: worth a look
LISTED = 20  # samples, by line
SIDE, STRIP, GAP = 48, 14, 4  # pixels: of a cell at least, of the words below, between


@dataclasses.dataclass(frozen=True)
class Found:
  """The nearest training images of samples in one space.

  Attributes:
    space: its name.
    numbers: int64 [samples, k], of training images, nearest first.
    images: uint8 [samples, k, H, W, C], these.
    ratios: [samples, k], distances over the usual one.
    usual: the median distance of a training image to its nearest other.
  """

  space: str
  numbers: np.ndarray
  images: np.ndarray
  ratios: np.ndarray
  usual: float


class Nearest:
  """The k nearest rows of each query, of all rows shown so far.

  Args:
    queries: float32 [n, d].
    k: how many of each.
    own: int64 [n], the number of the row that a query is itself, and which does not count; -1 for
      none.
  """

  def __init__(self, queries: np.ndarray, k: int, own: np.ndarray):
    self._queries, self._own, self._k = queries, own, k
    self._squares = np.zeros((len(queries), 0), np.float32)
    self._numbers = np.zeros((len(queries), 0), np.int64)

  def show(self, numbers: np.ndarray, rows: np.ndarray) -> None:
    """Look at rows float32 [m, d] with these numbers [m]."""
    squares = np.array(squared_distances(self._queries, rows))
    squares[self._own[:, None] == numbers[None, :]] = np.inf
    numbers = np.broadcast_to(numbers, squares.shape)
    squares = np.concatenate([self._squares, squares], axis=1)
    numbers = np.concatenate([self._numbers, numbers], axis=1)
    best = np.argsort(squares, axis=1, kind='stable')[:, : self._k]
    self._squares = np.take_along_axis(squares, best, 1)
    self._numbers = np.take_along_axis(numbers, best, 1)

  def found(self) -> tuple[np.ndarray, np.ndarray]:
    """Return (distances [n, k], numbers [n, k]), nearest first."""
    return np.sqrt(self._squares), self._numbers


def reference(
  name: str,
  data_dir: str | None,
  shape: tuple[int, int, int],
  workdir: str | None = None,
  fit: str = 'crop',
) -> data.Source:
  """Return the training images of a source as a generator sees them.

  Where the source is that of the run in `workdir`, it is split, limited and cropped as there. Of
  another one without a test split of its own, one image of each class is left out.

  Args:
    name: as data.source.
    data_dir: as data.data_dir; None for the run's, or TFDS's own.
    shape: (H, W, C) of the generator's images.
    workdir: of a run, or None.
    fit: as data.fit, of the generator.
  Raises:
    UserError: there is no such source, or too few images in it.
  """
  if not name:
    raise errors.UserError(
      'the card does not say what this generator was trained on; name it, as in '
      '--neighbours tfds:cifar10.'
    )
  source = image_sets.as_of_run(name, shape, data_dir, workdir, held_out=1e-9, fit=fit)
  if source.num_train < 2:
    raise errors.UserError(f'{name!r} has one training image only; neighbours need two at least.')
  return source


def blocks(source: data.Source, numbers: np.ndarray, size: int) -> list[np.ndarray]:
  """Return the numbers in blocks that are read together; `size` is the bytes of an image."""
  return np.array_split(numbers, -(-len(numbers) * size // BLOCK_BYTES))


def pixels(images: np.ndarray) -> np.ndarray:
  """Return uint8 images [n, H, W, C] as float32 rows in [-0.5, 0.5]."""
  return images.reshape(len(images), -1).astype(np.float32) / 255 - np.float32(0.5)


def of_classifier(source: data.Source) -> FeatureFn:
  """Return the features of the evaluators' classifier, which is trained on `source` once."""
  trained, _ = classifier.trained_on(functools.partial(data.labelled, source.train))
  return lambda images: trained.look(images)[1]


def search(
  samples: np.ndarray, source: data.Source, spaces: Mapping[str, FeatureFn], k: int
) -> list[Found]:
  """Return the `k` nearest training images of each sample, in each space.

  Args:
    samples: uint8 [n, H, W, C].
    source: whose training images have that shape.
    spaces: {name: features}.
    k: how many; fewer where there are not so many images.
  """
  size, num = samples[0].nbytes, source.num_train
  k = min(k, num - 1)
  usual = data.subset(num, max(2, min(USUAL, USUAL_BYTES // (4 * size))))
  queries = np.concatenate([samples, data.read(source.lookup, usual)[0]])
  own = np.concatenate([np.full(len(samples), -1), usual])
  nearest = {name: Nearest(features(queries), k, own) for name, features in spaces.items()}
  for numbers in progress.counted(
    blocks(source, np.arange(num), size), f'blocks of {num:,} training images'
  ):
    images, _ = data.read(source.lookup, numbers)
    for name, features in spaces.items():
      nearest[name].show(numbers, features(images))
  found = []
  for name, one in nearest.items():
    distances, numbers = one.found()
    unit = float(np.median(distances[len(samples) :, 0]))
    numbers = numbers[: len(samples)]
    wanted, where = np.unique(numbers, return_inverse=True)
    images = data.read(source.lookup, wanted)[0][where.reshape(numbers.shape)]
    ratios = distances[: len(samples)] / max(unit, 1e-9)
    found.append(Found(name, numbers, images, ratios, unit))
  return found


def words(source: data.Source, found: Sequence[Found]) -> str:
  """Summary in words: how near the samples' nearest training images are."""
  num, k = found[0].numbers.shape
  lines = [
    f'{num} samples, each with its {k} nearest of {source.num_train:,} training images; distances '
    'are over the median one of a training image to its nearest other'
  ]
  for one in found:
    nearest = one.ratios[:, 0]
    close = int((nearest < CLOSE).sum())
    lines.append(
      f'in {one.space}: median {np.median(nearest):.2f}, smallest {nearest.min():.2f} (sample '
      f'{int(nearest.argmin())}); {close or "none"} below {CLOSE:g}'
      + (', look at them: they may be copies' if close else '')
    )
  return '\n'.join(lines)


def draw(samples: np.ndarray, names: Sequence[str], found: Sequence[Found]) -> Image.Image:
  """Draw a row per sample, uint8 [n, H, W, C], with its class and then its neighbours by space.

  Below each neighbour is its distance as a ratio, red where that is below CLOSE.
  """
  times = -(-SIDE // samples.shape[1])
  side, k = times * samples.shape[1], found[0].images.shape[1]
  across, down, apart = side + GAP, side + STRIP + GAP, 3 * GAP
  lefts = [GAP] + [GAP + across + apart + i * (k * across + apart) for i in range(len(found))]
  sheet = Image.new('RGB', (lefts[-1] + k * across, STRIP + 2 * GAP + down * len(samples)), 'white')
  pen = ImageDraw.Draw(sheet)

  def put(image, left, top, text, colour):
    image = np.broadcast_to(image, (*image.shape[:2], 3)).repeat(times, 0).repeat(times, 1)
    sheet.paste(Image.fromarray(image), (left, top))
    text = lettering.fitting(text, side)
    lettering.write(pen, left + (side - lettering.width(text)) / 2, top + side, text, colour)

  for left, text in zip(lefts, ['sample', *(f'nearest in {f.space}' for f in found)], strict=True):
    lettering.write(pen, left, GAP, text, 'black')
  for i, (sample, name) in enumerate(zip(samples, names, strict=True)):
    top = STRIP + 2 * GAP + i * down
    put(sample, lefts[0], top, name, 'black')
    for left, one in zip(lefts[1:], found, strict=True):
      for j, (image, ratio) in enumerate(zip(one.images[i], one.ratios[i], strict=True)):
        colour = 'red' if ratio < CLOSE else 'gray'
        put(image, left + j * across, top, f'{ratio:.2f}', colour)
  return sheet


def report(
  samples: np.ndarray, names: Sequence[str], source: data.Source, nearest: int, path: str
) -> str:
  """Draws samples beside the training images nearest to them into a PNG.

  Args:
    samples: uint8 [n, H, W, C].
    names: of their classes, [n].
    source: whose training images have that shape.
    nearest: how many of each sample.
    path: of the picture.
  Returns:
    What is to be said of them, in lines.
  """
  found = search(samples, source, {'pixels': pixels, 'features': of_classifier(source)}, nearest)
  os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
  draw(samples, names, found).save(path)
  return '\n'.join([f'{path}: {words(source, found)}', *distances(names, found)])


def distances(names: Sequence[str], found: Sequence[Found]) -> list[str]:
  """A line per sample, of LISTED at most: its class, and how near its nearest training image is."""
  if len(names) > LISTED:
    return []
  width = max(len('class'), *(len(name) for name in names)) + 2
  head = f'{"sample":8}{"class":{width}}' + ''.join(f'{one.space:>10}' for one in found)
  return [head] + [
    f'{i:<8}{name:{width}}' + ''.join(f'{one.ratios[i, 0]:10.2f}' for one in found)
    for i, name in enumerate(names)
  ]
