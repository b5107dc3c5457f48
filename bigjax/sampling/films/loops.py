"""Closed loops: each image goes from sample to sample, and from the last one to the first."""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bigjax.algorithms.base.contract import Spec
from bigjax.algorithms.base.generators.parts import styles_of
from bigjax.core import errors
from bigjax.sampling import image_files, options, pictures
from bigjax.sampling.films.layout import (
  Movie,
  arranged,
  check_size,
  images_of,
  names_of,
  num_of,
)
from bigjax.sampling.interpolation import between
from bigjax.sampling.loaded import Loaded

WAY = 24  # pictures from one sample to the next, unless told
KEYS = 4  # samples that a loop goes through, unless the seeds or the classes say


def stations(num: int, keys: int) -> tuple[np.ndarray, np.ndarray]:
  """Where `num` points in even steps on a closed way through key points are.

  Each key point is one of them: where num is no multiple of keys, the first ways have one more.

  Returns:
    the key points that they come from, int32 [num], and how much of the way to the next one is
    behind them, float32 [num], from 0 on and below 1.
  """
  counts = num // keys + (np.arange(keys) < num % keys)
  shares = [np.arange(count, dtype=np.float32) / np.float32(count) for count in counts]
  return np.repeat(np.arange(keys, dtype=np.int32), counts), np.concatenate(shares)


@dataclasses.dataclass(frozen=True)
class Loop:
  """Closed ways of several images at once: from one sample to the next, from the last to the first.

  Attributes:
    kind: what changes: z, class, both, w.
    z: latents of the key points, float32 [keys, images, ...].
    y: their classes, int32 [keys, images].
    w: their styles, float32 [keys, images, w_dim], where the way goes through these.
  """

  kind: str
  z: np.ndarray
  y: np.ndarray
  w: np.ndarray | None = None

  def make(
    self, loaded: Loaded, which: np.ndarray, share: np.ndarray, spec: Spec, batch: int
  ) -> np.ndarray:
    """uint8 images [n, images, H, W, C] at n points of the ways; `loaded` is prepared for `spec`.

    The noise of the layers is the first key point's, all the way.

    Args:
      loaded: the generator.
      which, share: see `stations`, [n].
      spec: sampling settings.
      batch: images at a time.
    """
    noise_of = np.concatenate([self.z[0]] * len(which))
    following = (which + 1) % len(self.z)
    if self.w is not None:
      weight = share[:, None, None]
      w = (1 - weight) * self.w[which] + weight * self.w[following]
      w = w.reshape(-1, w.shape[-1])
      made = loaded.sampler.synthesized(loaded.gen, w, noise_of, spec, batch=batch)
    else:
      ends = zip(which, following, share, strict=True)
      ways = [self._between(*one, loaded.num_classes) for one in ends]
      z, y = (np.concatenate(parts) for parts in zip(*ways, strict=True))
      made = loaded.sampler.images_with_noise_of(loaded.gen, z, y, spec, noise_of, batch)
    return made.reshape(len(which), -1, *made.shape[1:])

  def _between(self, k: int, following: int, share: float, num_classes: int) -> Any:
    """Latents and classes of all images at one point."""
    ends, way = [k, following], np.array([share], np.float32)
    each = range(self.y.shape[1])
    ways = [between(self.kind, self.z[ends, i], self.y[ends, i], way, num_classes) for i in each]
    return tuple(np.concatenate(parts) for parts in zip(*ways, strict=True))


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


def words_of(
  args: argparse.Namespace,
  loaded: Loaded,
  seeds: Sequence[int],
  y: np.ndarray,
  ends: Sequence[tuple[int, int]],
) -> tuple[list[list[str]], list[str]]:
  """What each picture shows: names of all images' classes, and the seed.

  Args:
    args, loaded: the options, and the generator.
    seeds: that the loop goes through, or none.
    y: classes int32 [keys, images] of the key points.
    ends: the key points that each picture lies between, the same one twice where it is there.
  """
  classes = [names_of(loaded, labels) for labels in y]
  names = [arrows(classes[a], classes[b]) for a, b in ends]
  if not seeds:
    return names, [f'seed {args.seed}'] * len(ends)
  to = [f'{seed}' for seed in seeds]
  return names, [f'seed {to[a]}' + ('' if a == b else f' → {to[b]}') for a, b in ends]


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
  names, moving = words_of(args, loaded, seeds, y, ends)
  names = names if turning else []
  if turning:
    layout = dataclasses.replace(layout, rows=(), names=names[0])
  captions = [', '.join([*pictures.about(loaded, spec), words]) for words in moving]
  check_size(args, loaded, layout, num, {name for some in names for name in some})
  loaded.prepare(spec, args.recalibrate)
  way = key_points(loaded, args, kind, seeds, y, spec)
  frames = on_the_way(loaded, way, which, share, spec, args.batch)
  return Movie(num, frames, layout, captions, names)
