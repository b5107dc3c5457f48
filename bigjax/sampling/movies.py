"""Films of a generator of still images: closed loops through samples, settings there and back.

A picture of the film is a grid of images. On a loop each of these goes from sample to sample and
from the last to the first; in a sweep the same samples are shown at one setting after the other.
"""

import argparse
import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from bigjax.algorithms.base.contract import Spec
from bigjax.algorithms.base.generators.parts import styles_of
from bigjax.core import errors, ranges
from bigjax.sampling import clip_files, grids, image_files, options, pictures
from bigjax.sampling.interpolation import Loop, stations
from bigjax.sampling.loaded import Loaded

RATE = 24.0  # pictures per second, unless told
WAY = 24  # pictures from one sample to the next, unless told
HELD = 12  # pictures of each setting, unless told
KEYS = 4  # samples that a loop goes through, unless the seeds or the classes say
IMAGES = 6  # side by side, about, of fewer classes
CLASSES = 25  # shown, unless they or the number of images are given
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


def wanted(args: argparse.Namespace, shape: tuple[int, ...]) -> bool:
  """Whether the options ask for a film of a generator of still images."""
  return len(shape) == 3 and args.out.lower().endswith(options.FILMS)


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


def loop(loaded: Loaded, args: argparse.Namespace, labels: np.ndarray) -> Movie:
  """Closed ways: of all images through the first samples of --seeds, or of each through its own.

  The first picture is of samples 0 and on of --seed, which `gen(labels, seed=seed)` makes. In z and
  w an image keeps its class; else it goes round all of them.

  Raises:
    UserError: nothing would move, or there are fewer pictures than samples.
  """
  kind, spec = args.interpolate or 'z', pictures.spec_of(loaded, args, args.truncation)
  seeds, classes = options.parse_seeds(args.seeds) if args.seeds else (), len(labels)
  turning = kind in ('class', 'both') and len(set(labels.tolist())) > 1
  check_loop(loaded, args, kind, seeds, turning)
  keys = len(seeds) or (classes if kind == 'class' else max(classes * turning, KEYS))
  num = num_of(args, WAY, keys, 'samples on the way')
  layout = arranged(loaded, labels, images_of(args, labels, bool(seeds)))
  y = labels[(layout.places + turning * np.arange(keys)[:, None]) % classes]  # [keys, images]
  which, share = stations(num, keys)
  ends = [(k, (k + 1) % keys if part else k) for k, part in zip(which.tolist(), share, strict=True)]
  names = []
  if turning:
    names = [arrows(names_of(loaded, y[a]), names_of(loaded, y[b])) for a, b in ends]
    layout = dataclasses.replace(layout, rows=(), names=names[0])
  if seeds:
    named = [f'seed {seed}' for seed in seeds]
    moving = [arrows([named[a]], [f'{seeds[b]}'])[0] if a != b else named[a] for a, b in ends]
  else:
    moving = [f'seed {args.seed}'] * num
  about = pictures.about(loaded, spec)
  captions = [', '.join([*about, words]) for words in moving]
  check_size(args, loaded, layout, num, {name for some in names for name in some})
  loaded.prepare(spec, args.recalibrate)
  way = key_points(loaded, args, kind, seeds, y, spec)
  frames = on_the_way(loaded, way, which, share, spec, args.batch)
  return Movie(num, frames, layout, captions, names)


def check_loop(
  loaded: Loaded, args: argparse.Namespace, kind: str, seeds: Sequence[int], turning: bool
) -> None:
  """Refuse a loop on which nothing moves, or one through styles that there are not.

  Raises:
    UserError: says which.
  """
  if kind == 'w':
    styles_of(loaded.sampler.generator, '--interpolate=w')
  if kind == 'class' and not turning:
    raise errors.UserError('--interpolate=class goes from class to class: give two --classes.')
  if len(seeds) == 1:
    raise errors.UserError(f'--seeds={args.seeds} is one seed, and nothing moves: give more.')


def arrows(first: Sequence[str], then: Sequence[str]) -> list[str]:
  """Names of what changes from one to the other, 'a → b', or stays."""
  return [a if a == b else f'{a} → {b}' for a, b in zip(first, then, strict=True)]


def key_points(
  loaded: Loaded,
  args: argparse.Namespace,
  kind: str,
  seeds: Sequence[int],
  y: np.ndarray,
  spec: Spec,
) -> Loop:
  """The samples that a loop goes through, of classes int32 [keys, images]; see `loop`."""
  keys, images = y.shape
  if seeds:
    z = loaded.sampler.first_of_each(seeds, spec)[:, None]
  else:
    z = loaded.sampler.latents(args.seed, images * (1 if kind == 'class' else keys), spec)
    z = z.reshape(-1, images, *z.shape[1:])
  z = np.broadcast_to(z, (keys, images, *z.shape[2:]))
  if kind != 'w':
    return Loop(kind, z, y)
  flat = z.reshape(-1, *z.shape[2:]), y.reshape(-1)
  w = loaded.sampler.mapped(loaded.gen, *flat, args.batch)
  return Loop(kind, z, y, w.reshape(keys, images, -1))


def on_the_way(
  loaded: Loaded, way: Loop, which: np.ndarray, share: np.ndarray, spec: Spec, batch: int
) -> Iterator[np.ndarray]:
  """Yields the images of each picture of a loop; a batch of them is made at a time."""
  num, images = len(which), way.y.shape[1]
  each = min(max(1, batch // images), num)  # pictures at a time
  for start in image_files.told(range(0, num * images, each * images), num * images, each * images):
    stop = min(start // images + each, num)
    some = slice(stop - each, stop)  # a last batch of another shape would be compiled anew
    made = way.make(loaded, which[some], share[some], spec, batch)
    yield from made[start // images - some.start :]


def sweep(loaded: Loaded, args: argparse.Namespace, labels: np.ndarray) -> Movie:
  """The same samples at one setting after the other, there and back, each for a while.

  Raises:
    UserError: there is but one setting, or there are fewer pictures than settings there and back.
  """
  settings = pictures.swept(loaded, args)
  if len(settings) < 2:
    raise errors.UserError(f'--sweep={args.sweep} is one setting, and nothing moves: give more.')
  order = [*range(len(settings)), *range(len(settings) - 2, 0, -1)]
  num = num_of(args, HELD, len(order), 'settings, there and back')
  which = stations(num, len(order))[0]
  seeds = options.parse_seeds(args.seeds) if args.seeds else ()
  count = images_of(args, labels, len(seeds))
  layout = arranged(loaded, labels, count, [f'seed {seed}' for seed in seeds])
  y = labels[layout.places]
  words = pictures.about(loaded) + ([] if seeds else [f'seed {args.seed}'])
  if len(labels) == 1:
    words += [f'class {name}' for name in names_of(loaded, labels) if name]
  captions = [', '.join([*words, settings[order[stop]][0]]) for stop in which]
  check_size(args, loaded, layout, num)

  def frames() -> Iterator[np.ndarray]:
    made: dict[int, np.ndarray] = {}
    for i in (order[stop] for stop in which):
      if i not in made:
        spec = settings[i][1]
        loaded.prepare(spec, args.recalibrate)
        if seeds:
          z = loaded.sampler.first_of_each(seeds, spec)
          z = np.concatenate([z] * len(labels))
        else:
          z = loaded.sampler.latents(args.seed, len(y), spec)
        made[i] = loaded.images(z, y, spec, args.batch)
      yield made[i]

  return Movie(num, frames(), layout, captions)


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


def write(movie: Movie, args: argparse.Namespace) -> str:
  """Write a film as --out; return what was written."""
  rate, layout, num = args.fps or RATE, movie.layout, movie.num
  os.makedirs(os.path.dirname(args.out) or '.', exist_ok=True)
  above = movie.names or ([layout.names] * num if layout.names else ())
  words = ((), (), (), ()) if args.plain else (layout.rows, layout.heads, above, movie.captions)
  clip_files.save(grids.moving(movie.frames, layout.columns, *words), rate, args.out, num)
  images = f'{len(layout.places)} images side by side, {layout.columns} in a row'
  return f'{args.out}: {num} frames, {rate:g} per second, {num / rate:.3g} s, {images}'


def run(loaded: Loaded, args: argparse.Namespace, labels: np.ndarray) -> str:
  """Make and write the film that the options ask for; return what is to be said of it.

  Raises:
    UserError: there is none.
  """
  said, num = '', len(labels)
  if args.classes == 'all' and args.num is None and num > CLASSES:
    labels, said = labels[np.arange(CLASSES) * num // CLASSES], f', {CLASSES} of {num:,} classes'
  make = sweep if args.sweep else loop
  return write(make(loaded, args, labels), args) + said
