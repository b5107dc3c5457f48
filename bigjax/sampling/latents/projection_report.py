"""What `bigjax project` writes: strips, latents, figures, and whether images came from a generator.

A generator finds its own images again, and others less well (StyleGAN2, Section 5): the distance of
an image from what its projection looks like tells whose it is. How well, is the share of pairs of a
generated and a real image of which the real one stays farther away: 1 tells all, 0.5 nothing.
"""

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigjax.algorithms.base.contract import Spec
from bigjax.algorithms.base.generators.parts import searchable_of, styles_of
from bigjax.core import buckets, errors, files, plotting
from bigjax.models.pretrained import taps
from bigjax.sampling import grids, lettering, options
from bigjax.sampling.latents import latent_files, photos, random_samples
from bigjax.sampling.latents.descent import VERB, Descent
from bigjax.sampling.latents.latent_files import Latents
from bigjax.sampling.latents.projection import Projected, Projector
from bigjax.sampling.latents.random_samples import RandomSamples, psnr, squares
from bigjax.sampling.latents.search import Found, LatentSearch
from bigjax.sampling.loaded import Loaded, generator_digest, of_options, parse_classes

MOST_ROWS = 100  # of a strip
SIDE = 96  # pixels of an image in it, at least, under what its column is called
PIXEL_WEIGHT = 1.0  # of a search for z, unless told
STARTS = 4


@dataclasses.dataclass(frozen=True)
class Begun:
  """What images are looked for with.

  Attributes:
    loaded: the generator.
    space: z or w.
    search: in it, a Projector or a LatentSearch.
    random: samples to compare with.
    pixel_weight: what makes a sample the nearest, beside the distance.
    labels: the classes asked for.
    words: sampling options as they were given.
  """

  loaded: Loaded
  space: str
  search: Descent
  random: RandomSamples
  pixel_weight: float
  labels: np.ndarray
  words: Mapping[str, str]

  def latents(self, found: Projected | Found, names: Sequence[str]) -> Latents:
    """What was found, as it is written."""
    how: dict[str, Any] = {'names': names, 'sampling': self.words}
    how |= {'generator': generator_digest(self.loaded)}
    if isinstance(found, Projected):
      return Latents('w', found.w, maps=found.noise, **how)
    return Latents('z', found.z, found.labels, found.noise_of, **how)


def begin(args: argparse.Namespace, loaded: Loaded) -> Begun:
  """What the options of `bigjax project` ask for.

  Raises:
    UserError: this generator's latents cannot be looked for.
  """
  check(args, loaded)
  labels = parse_classes(args.classes, loaded.class_names)
  words = options.settings(args)
  spec, distance = loaded.spec(**words), taps.image_distance(args.distance, args.distance_weights)
  if args.space == 'w':
    projector = Projector(loaded, distance, args.steps, args.seed, labels, spec)
    random = RandomSamples(loaded, distance, args.random, args.seed, labels, spec)
    return Begun(loaded, args.space, projector, random, 0.0, labels, words)
  weight = PIXEL_WEIGHT if args.pixel_weight is None else args.pixel_weight
  given = labels, spec, args.random, args.starts or STARTS, weight
  search = LatentSearch(loaded, distance, args.steps, args.seed, *given)
  return Begun(loaded, args.space, search, search.random, weight, labels, words)


def check(args: argparse.Namespace, loaded: Loaded) -> None:
  """Refuses what cannot be looked for; says where to look where the options do not.

  Raises:
    UserError: says why.
  """
  generator = loaded.sampler.generator
  if len(loaded.shape) == 4:
    raise errors.UserError(
      f'{VERB} finds still images, and this generator makes clips: give a generator of images.'
    )
  args.space = args.space or ('w' if getattr(generator, 'styles', None) else 'z')
  (styles_of if args.space == 'w' else searchable_of)(generator, VERB)
  for name in ('starts', 'pixel_weight'):
    if args.space == 'w' and getattr(args, name) is not None:
      raise errors.UserError(
        f'--{name} is of a search for z, and this one is for w: leave it out, or add --space z.'
      )


# --- Figures


def told_apart(generated: np.ndarray, real: np.ndarray) -> float:
  """The share of pairs whose real image is farther away than the generated; ties are half."""
  more = (real[:, None] > generated[None]).mean(dtype=np.float64)
  return float(more + (real[:, None] == generated[None]).mean(dtype=np.float64) / 2)


def figures(begun: Begun, found: Projected | Found, batch: int) -> list[dict[str, Any]]:
  """Of each image: how far random latents, the best of them and the result are from it."""
  rows: list[dict[str, Any]] = []
  for start in range(0, len(found.targets), batch):
    stop = min(start + batch, len(found.targets))
    first = max(stop - batch, 0)  # a last batch of another shape would be compiled anew
    near = begun.random.near(found.targets[first:stop])
    rows += random_samples.summary(near, begun.pixel_weight)[start - first :]
  ratios = psnr(squares(found.results, found.targets))
  for i, row in enumerate(rows):
    row['result'] = {'distance': float(found.after[i]), 'psnr': float(ratios[i])}
    if isinstance(found, Found):
      row['class'] = begun.loaded.class_names[found.labels[i]]
      row['length'] = float(found.lengths[i])
  return rows


def averages(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
  """The means over images of what `figures` has of each."""
  mean = lambda name, of: float(np.mean([row[name][of] for row in rows]))
  names = [name for name in rows[0] if isinstance(rows[0][name], dict)]
  return {name: {of: mean(name, of) for of in ('distance', 'psnr')} for name in names}


def write_figures(
  path: str, begun: Begun, args: argparse.Namespace, names: Sequence[str], rows: Sequence[dict]
) -> None:
  """Write what `figures` has, its means, and how they were measured, as JSON."""
  protocol = {
    'distance': begun.search.name, 'distance_digest': begun.random.distance.digest,
    'psnr': 'dB, of uint8 images', 'space': begun.space, 'steps': args.steps, 'seed': args.seed,
    'pixel_weight': begun.pixel_weight, 'sampling': dict(begun.words),
    'classes': [begun.loaded.class_names[i] for i in begun.labels],
    'generator': generator_digest(begun.loaded),
  }  # fmt: skip
  if isinstance(begun.search, LatentSearch):
    protocol['starts'] = begun.search.num_starts
  images = [{'name': name, **row} for name, row in zip(names, rows, strict=True)]
  files.write_json(path, {'protocol': protocol, 'mean': averages(rows), 'images': images})


def sentence(row: Mapping[str, Mapping[str, float]]) -> str:
  """The figures of an image, or of several on average, in a line."""
  named = {name: value for name, value in row.items() if isinstance(value, dict)}
  said = lambda name: name.replace('_', ' ')
  distances = ', '.join(f'{said(name)} {value["distance"]:.4g}' for name, value in named.items())
  ratios = ', '.join(f'{value["psnr"]:.1f}' for value in named.values())
  return f'{distances}; PSNR {ratios} dB'


# --- Pictures


def difference(images: np.ndarray, others: np.ndarray) -> np.ndarray:
  """How far uint8 images are from others in each number, uint8: black where they are equal."""
  return np.abs(images.astype(np.int16) - others.astype(np.int16)).astype(np.uint8)


def draw_strip(
  path: str, found: Projected | Found, begun: str, names: Sequence[str], caption: str
) -> None:
  """Draw a row for each image: target, start, result, difference; of the first hundred.

  `begun` is what the start is called.
  """
  columns = found.targets, found.starts, found.results, difference(found.results, found.targets)
  rows = np.stack(columns, 1)[:MOST_ROWS]
  heads = 'target', begun, 'result', 'lost'
  sheet = grids.grid(rows.reshape(-1, *rows.shape[2:]), len(heads), SIDE)
  names = names[: len(rows)]
  lettering.labelled(sheet, len(rows), len(heads), names, heads, caption).save(path, format='png')


def draw_histogram(path: str, generated: np.ndarray, real: np.ndarray, name: str) -> None:
  """Draw how far from their targets the projections of both kinds of images stay."""
  figure, (axis,) = plotting.figure(1, 'generated and given images, projected')
  both = np.concatenate([generated, real])
  bins = np.linspace(both.min(), max(both.max(), both.min() + 1e-9), 21).tolist()
  for values, label, colour in ((generated, 'generated', 'C1'), (real, 'given', 'C0')):
    weights = np.full(len(values), 1 / len(values))
    axis.hist(values, bins, weights=weights, alpha=0.6, color=colour, label=label)
  axis.set_ylabel('share of images')
  hint = f'told apart: {told_apart(generated, real):.3f} of pairs (0.5: not at all)'
  plotting.finish(axis, 'how far projections stay from their images', hint, x=name)
  plotting.save(figure, path)


# --- Whose images they are


def generated_images(
  loaded: Loaded, num: int, seed: int, labels: np.ndarray, spec: Spec | None = None
) -> np.ndarray:
  """As many images of the generator, uint8 [n, H, W, C], of these classes in turn.

  They are untruncated unless the settings say otherwise, and none of those that RandomSamples of
  the same seed has.
  """
  spec = loaded.spec() if spec is None else spec
  z = loaded.sampler.latents((seed + 1) % 2**32, num, spec)
  loaded.prepare(spec)
  return loaded.images(z, labels[np.arange(num) % len(labels)], spec)


def attribute(args: argparse.Namespace, begun: Begun, real: Projected | Found) -> str:
  """Projects generated images, too; writes the histogram and its numbers; returns what they say."""
  num = args.num or len(real.targets)
  spec = begun.loaded.spec(**begun.words)
  images = generated_images(begun.loaded, num, args.seed, begun.labels, spec)
  own = begun.search.in_parts(images, args.batch, 'generated')
  base, name = os.path.splitext(args.out)[0], begun.search.name
  names = [f'generated {i}' for i in range(num)]
  caption = f'{name}, {args.steps:,} steps: {own.after.mean():.4g} on average'
  draw_strip(f'{base}_generated.png', own, begun.search.begins_with, names, caption)
  draw_histogram(f'{base}_attribution.png', own.after, real.after, name)
  share = told_apart(own.after, real.after)
  numbers = {
    'distance': name, 'steps': args.steps, 'told_apart': share,
    'generated': own.after.tolist(), 'given': real.after.tolist(),
  }  # fmt: skip
  files.write_json(f'{base}_attribution.json', numbers)
  middle = lambda one: f'{np.median(one.after):.4g}'
  return (
    f'{base}_attribution.png, .json: median distance {middle(own)} of {num} generated images, '
    f'{middle(real)} of the {len(real.targets)} given; told apart in {share:.1%} of pairs'
  )


def run(args: argparse.Namespace) -> None:
  """Projects what the options of `bigjax project` name, and prints what was written.

  Raises:
    UserError: that cannot be done.
  """
  args.workdir = args.workdir and buckets.local(args.workdir)
  loaded = of_options(args)
  check(args, loaded)
  names, paths, store = photos.find(args.images)
  images = np.stack([photos.read(path, loaded.shape, loaded.fit, store) for path in paths])
  files.prepare_folder('--out', args.out)
  begun = begin(args, loaded)
  found = begun.search.in_parts(images, args.batch, 'given')
  latents = begun.latents(found, names)
  # As `bigjax sample --latents` will draw them: in batches of the same shape.
  again = latent_files.images(loaded, latents, loaded.spec(**begun.words))
  found = dataclasses.replace(found, results=again)
  rows = figures(begun, found, args.batch)
  base, distance = os.path.splitext(args.out)[0], begun.search.name
  try:
    start = begun.search.begins_with
    average = f'{found.before.mean():.3g} -> {found.after.mean():.3g}'
    draw_strip(args.out, found, start, names, f'{distance}, {args.steps:,} steps: {average}')
    given = {'before': found.before, 'after': found.after, 'distance': distance}
    latent_files.write(base + '.npz', latents, **given, steps=args.steps)
    write_figures(base + '.json', begun, args, names, rows)
    for name, row in list(zip(names, rows, strict=True))[:MOST_ROWS]:
      of = f', class {row["class"]}' if 'class' in row and loaded.num_classes > 1 else ''
      print(f'{name}: {distance} {sentence(row)}{of}')
    print(f'mean of {len(rows)}: {distance} {sentence(averages(rows))}')
    shape = f'{begun.space} {list(latents.values.shape)}'
    print(f'{args.out}, .npz, .json: {len(names)} images, {shape}')
    if args.attribute:
      print(attribute(args, begun, found))
  except OSError as error:
    raise errors.UserError(f'--out={args.out} cannot be written ({error.strerror}).') from None
