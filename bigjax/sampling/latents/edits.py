"""Images of given latents, and along directions: `bigjax sample --latents`, `--direction`."""

import argparse
import dataclasses
from collections.abc import Sequence

import numpy as np

from bigjax.algorithms.base.contract import Spec
from bigjax.core import errors
from bigjax.sampling import options, pictures
from bigjax.sampling.image_files import Wanted, ready
from bigjax.sampling.latents import direction_files, latent_files
from bigjax.sampling.latents.directions import Directions
from bigjax.sampling.latents.latent_files import Latents
from bigjax.sampling.loaded import Loaded

UNIT = 'strengths in standard deviations of {space}'
COLUMNS = 10  # of a grid of latents


def check_still(loaded: Loaded, what: str) -> None:
  """Refuse what is of still images where a generator makes clips.

  Raises:
    UserError: says so.
  """
  if len(loaded.shape) == 4:
    raise errors.UserError(
      f'{what} is of still images, and this generator makes clips: give a generator of images.'
    )


def drawn(
  loaded: Loaded,
  space: str,
  spec: Spec,
  labels: np.ndarray,
  seed: int,
  num: int,
  seeds: Sequence[int] | None = None,
) -> Latents:
  """Those of samples 0 and on of a seed, or of the first of each seed, of these classes in turn."""
  sampler = loaded.sampler
  z = sampler.first_of_each(seeds, spec) if seeds else sampler.latents(seed, num, spec)
  y = labels[np.arange(len(z)) % len(labels)]
  if space == 'z':
    return Latents('z', z, y, z)
  return Latents('w', sampler.mapped(loaded.gen, z, y), y, z)


def swept(
  loaded: Loaded,
  latents: Latents,
  directions: Directions,
  number: int,
  strengths: Sequence[float],
  spec: Spec,
  batch: int,
) -> np.ndarray:
  """Images [n * k, ...] of n latents, each moved along a direction by k strengths."""
  num = len(latents)
  step = directions.vectors[number] * directions.scales[number]
  steps = np.asarray(strengths, np.float32)[:, None] * step.reshape(1, -1)  # [k, d]
  each = latents.at(np.repeat(np.arange(num), len(strengths)))
  steps = np.tile(steps, (num, 1)).reshape(-1, *step.shape)
  return latent_files.images(loaded, each.moved(steps), spec, batch)


def of_options(loaded: Loaded, args: argparse.Namespace, labels: np.ndarray) -> Wanted:
  """What --latents and --direction ask for, with names for a grid.

  Raises:
    UserError: a file or a number does not fit the generator.
  """
  latents = given = latent_files.read(args.latents, loaded) if args.latents else None
  # A file's own settings, as its statistics and its noise, unless the command line has others.
  words = {**(given.sampling if given else {}), **options.settings(args)}
  spec = loaded.spec(**words)
  loaded.prepare(spec, args.recalibrate)
  directions = None
  if args.direction is not None:
    check_still(loaded, '--direction')
    directions = direction_files.read(args.directions or options.DIRECTIONS, loaded)
    check_number(args.direction, directions)
  if latents is None:
    assert directions is not None  # one of both is asked for
    seeds = options.parse_seeds(args.seeds) if args.seeds else None
    num = args.num or len(labels)
    latents = drawn(loaded, directions.space, spec, labels, args.seed, num, seeds)
  elif latents.space == 'z' and (latents.labels is None or args.classes != 'all'):
    y = labels[np.arange(len(latents)) % len(labels)]
    latents = dataclasses.replace(latents, labels=y)
  names = latents.names or names_of(loaded, latents)
  if directions is None:
    return grid(loaded, latents, names, spec, args)
  return sweep(loaded, latents, directions, names, spec, args)


def heads(strengths: Sequence[float]) -> list[str]:
  """What columns of strengths are called."""
  return [f'{strength:+g}' if strength else '0' for strength in strengths]


def check_number(number: int, directions: Directions) -> None:
  """Refuse a direction that there is not.

  Raises:
    UserError: says how many there are.
  """
  if number >= len(directions):
    raise errors.UserError(
      f'--direction={number}: there are {len(directions)}, 0 to {len(directions) - 1}.'
    )


def names_of(loaded: Loaded, latents: Latents) -> Sequence[str]:
  """The classes of latents, where there are several to tell apart."""
  if latents.labels is None or loaded.num_classes == 1:
    return ()
  return [loaded.class_names[label] for label in latents.labels]


def grid(
  loaded: Loaded, latents: Latents, names: Sequence[str], spec: Spec, args: argparse.Namespace
) -> Wanted:
  """A grid of latents' images; a column of them has their names beside it."""
  num = len(latents)
  columns = min(num, COLUMNS)
  pictures.check_grid(num, columns, loaded, args.out)

  def make(start):
    stop = min(start + args.batch, num)
    first = max(stop - args.batch, 0)  # a last batch of another shape would be compiled anew
    part = latents.at(slice(first, stop))
    return latent_files.images(loaded, part, spec, args.batch)[start - first :]

  heads = names if columns == num else ()
  wanted = Wanted(num, make, latents.labels, columns)
  return dataclasses.replace(wanted, heads=heads, caption=f'latents of {args.latents}; {spec}')


def sweep(
  loaded: Loaded,
  latents: Latents,
  directions: Directions,
  names: Sequence[str],
  spec: Spec,
  args: argparse.Namespace,
) -> Wanted:
  """A row for each sample, a column for each strength.

  Raises:
    UserError: the latents are in another space than the directions.
  """
  if latents.space != directions.space:
    raise errors.UserError(
      f'--latents={args.latents} are in {latents.space}, and the directions in {directions.space}: '
      f'give --directions that were found with --space {latents.space}.'
    )
  strengths, number = options.parse_strengths(args.strength or options.STRENGTH), args.direction
  pictures.check_grid(len(latents) * len(strengths), len(strengths), loaded, args.out)
  images = swept(loaded, latents, directions, number, strengths, spec, args.batch)
  labels = None if latents.labels is None else np.repeat(latents.labels, len(strengths))
  name = f'direction {number} ({directions.explained[number]:.1%})'
  return dataclasses.replace(
    ready(images, labels, len(strengths)), rows=names,
    heads=heads(strengths),
    caption=f'{name}; {UNIT.format(space=directions.space)}; {spec}',
  )  # fmt: skip
