"""What `bigjax project` writes: strips, w, and whether images came from a generator.

A generator finds its own images again, and others less well (StyleGAN2, Section 5): the distance of
an image from what its projection looks like tells whose it is. How well, is the share of pairs of a
generated and a real image of which the real one stays farther away: 1 tells all, 0.5 nothing.
"""

import argparse
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from bigjax.algorithms.base.generators.parts import styles_of
from bigjax.core import buckets, errors, files, plotting
from bigjax.models.pretrained import taps
from bigjax.sampling import grids, lettering, photos
from bigjax.sampling.loaded import Loaded, of_options, parse_classes
from bigjax.sampling.projection import VERB, Projected, Projector

HEADS = ('target', 'start', 'result')
MOST_ROWS = 100  # of a strip


def told_apart(generated: np.ndarray, real: np.ndarray) -> float:
  """The share of pairs whose real image is farther away than the generated; ties are half."""
  more = (real[:, None] > generated[None]).mean(dtype=np.float64)
  return float(more + (real[:, None] == generated[None]).mean(dtype=np.float64) / 2)


def draw_strip(path: str, found: Projected, names: Sequence[str], caption: str) -> None:
  """Draw a row for each image: target, start, result; of the first hundred."""
  rows = np.stack([found.targets, found.starts, found.results], 1)[:MOST_ROWS]
  sheet = grids.grid(rows.reshape(-1, *rows.shape[2:]), len(HEADS))
  names = names[: len(rows)]
  lettering.labelled(sheet, len(rows), len(HEADS), names, HEADS, caption).save(path, format='png')


def draw_histogram(path: str, generated: np.ndarray, real: np.ndarray, name: str) -> None:
  """Draw how far from their targets the projections of both kinds of images stay."""
  figure, (axis,) = plotting.figure(1, 'generated and given images, projected')
  both = np.concatenate([generated, real])
  bins = np.linspace(both.min(), max(both.max(), both.min() + 1e-9), 21)
  for values, label, colour in ((generated, 'generated', 'C1'), (real, 'given', 'C0')):
    weights = np.full(len(values), 1 / len(values))
    axis.hist(values, bins.tolist(), weights=weights, alpha=0.6, color=colour, label=label)
  axis.set_ylabel('share of images')
  hint = f'told apart: {told_apart(generated, real):.3f} of pairs (0.5: not at all)'
  plotting.finish(axis, 'how far projections stay from their images', hint, x=name)
  plotting.save(figure, path)


def save_w(path: str, found: Projected, names: Sequence[str], distance: str, steps: int) -> None:
  """Write w and the noise maps, and how far from its target each image is, as .npz."""
  noise: dict[str, Any] = {f'noise{i:02d}': maps for i, maps in enumerate(found.noise)}
  with files.whole(path) as file:
    np.savez(
      file, w=found.w, before=found.before, after=found.after, names=np.array(names),
      distance=np.array(distance), steps=np.array(steps), **noise,
    )  # fmt: skip


def generated_images(loaded: Loaded, num: int, seed: int, labels: np.ndarray) -> np.ndarray:
  """As many images of the generator, uint8 [n, H, W, C], untruncated, of these classes in turn."""
  spec = loaded.spec()
  z = loaded.sampler.latents(seed, num, spec)
  return loaded.images(z, labels[np.arange(num) % len(labels)], spec)


def attribute(
  args: argparse.Namespace,
  loaded: Loaded,
  projector: Projector,
  labels: np.ndarray,
  real: Projected,
) -> str:
  """Projects generated images, too; writes the histogram and its numbers; returns what they say."""
  num = args.num or len(real.targets)
  images = generated_images(loaded, num, args.seed, labels)
  own = projector.in_parts(images, args.batch, 'generated')
  base = os.path.splitext(args.out)[0]
  names = [f'generated {i}' for i in range(num)]
  caption = f'{projector.name}, {args.steps:,} steps: {own.after.mean():.4g} on average'
  draw_strip(f'{base}_generated.png', own, names, caption)
  draw_histogram(f'{base}_attribution.png', own.after, real.after, projector.name)
  share = told_apart(own.after, real.after)
  numbers = {
    'distance': projector.name, 'steps': args.steps, 'told_apart': share,
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
  styles_of(loaded.sampler.generator, VERB)
  labels = parse_classes(args.classes, loaded.class_names)
  paths = photos.files(args.images)
  images = np.stack([photos.read(path, loaded.shape) for path in paths])
  distance = taps.image_distance(args.distance, args.distance_weights)
  projector = Projector(loaded, distance, args.steps, args.seed, labels)
  found = projector.in_parts(images, args.batch, 'given')
  names = [os.path.basename(path) for path in paths]
  try:
    os.makedirs(os.path.dirname(args.out) or '.', exist_ok=True)
    average = f'{found.before.mean():.3g} -> {found.after.mean():.3g}'
    caption = f'{projector.name}, {args.steps:,} steps: {average}'
    draw_strip(args.out, found, names, caption)
    save_w(os.path.splitext(args.out)[0] + '.npz', found, names, projector.name, args.steps)
    for name, before, after in list(zip(names, found.before, found.after, strict=True))[:MOST_ROWS]:
      print(f'{name}: {projector.name} {before:.4g} -> {after:.4g}')
    print(f'{args.out}, .npz: {len(names)} images, w {list(found.w.shape)}')
    if args.attribute:
      print(attribute(args, loaded, projector, labels, found))
  except OSError as error:
    raise errors.UserError(f'--out={args.out} cannot be written ({error.strerror}).') from None
