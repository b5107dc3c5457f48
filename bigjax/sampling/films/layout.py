"""What films of still images have in common: how many pictures, which images, where, what beside.

A picture of a film is a grid of images.
"""

import argparse
import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from bigjax.core import errors, ranges
from bigjax.sampling import clip_files, grids
from bigjax.sampling.loaded import Loaded

IMAGES = 6  # side by side, about, of fewer classes
SIDE_BY_SIDE = ranges.Range(1, 10_000)  # images


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where images lie in each picture, and what stands beside them.

  Attributes:
    places: the class of each image, row by row: its place among those asked for, int32 [images].
    columns: of the grid.
    rows, heads: names of rows and columns; see lettering.labelled.
    names: above the images, [images] or none.
  """

  places: np.ndarray
  columns: int
  rows: Sequence[str] = ()
  heads: Sequence[str] = ()
  names: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Movie:
  """A film to be written.

  Attributes:
    num: pictures.
    frames: the images of each in turn, uint8 [images, H, W, C]; made when they are taken.
    layout: of every picture.
    captions: below each, [num].
    names: above the images of each, [num][images] or none, where these change.
  """

  num: int
  frames: Iterable[np.ndarray]
  layout: Layout
  captions: Sequence[str]
  names: Sequence[Sequence[str]] = ()


def num_of(args: argparse.Namespace, each: int, shown: int, what: str) -> int:
  """How many pictures there are: --frames, or `each` for each of the `shown` samples or settings.

  Raises:
    UserError: one of them would have none, or they are too many.
  """
  num = args.frames or each * shown
  ranges.FRAMES.check('the number of frames is ', num)
  if num < shown:
    raise errors.UserError(
      f'--frames={num} leaves no picture for some of the {shown} {what}; give at least {shown}.'
    )
  return num


def names_of(loaded: Loaded, labels: Iterable[int]) -> list[str]:
  """What classes are called, '' where there is but one."""
  return [loaded.class_names[label] if loaded.num_classes > 1 else '' for label in labels]


def arranged(loaded: Loaded, labels: np.ndarray, num: int, heads: Sequence[str] = ()) -> Layout:
  """A row for each class, where there are several of each; else about a square.

  Args:
    loaded: the generator.
    labels: the classes asked for.
    num: images, shared evenly among these.
    heads: what the images of each class are called, or none.
  """
  classes, names = len(labels), names_of(loaded, labels)
  each = num // classes + (np.arange(classes) < num % classes)
  places = np.repeat(np.arange(classes, dtype=np.int32), each)
  if classes > 1 and num > classes and num % classes == 0:
    return Layout(places, num // classes, names if any(names) else (), heads)
  above = [names[place] for place in places] if classes > 1 and any(names) else heads
  side = math.ceil(math.sqrt(num))
  columns = min(range(side, 2 * side), key=lambda columns: (-num % columns, columns))
  return Layout(places, columns, names=above)


def images_of(args: argparse.Namespace, labels: np.ndarray, each: int = 0) -> int:
  """How many images lie side by side: `each` of a class, or --num, or about a handful.

  Raises:
    UserError: they are too many.
  """
  num = each * len(labels) or args.num or len(labels) * max(1, IMAGES // len(labels))
  SIDE_BY_SIDE.check('the number of images side by side is ', num)
  return num


def check_size(
  args: argparse.Namespace,
  loaded: Loaded,
  layout: Layout,
  num: int,
  names: Iterable[str] = (),
) -> None:
  """Refuse a film that is too large, before its images are made; `names` are all above images."""
  streamed = args.out.lower().endswith(clip_files.STREAMED)
  names = () if args.plain else (*layout.names, *names)
  times = 1 if streamed else num
  grids.check_film(len(layout.places), layout.columns, loaded.shape, times, names)
