"""Samples into files as they are made: a picture, a film, arrays, a folder; whole or not at all."""

import contextlib
import dataclasses
import json
import os
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from bigjax.core import errors, files, progress
from bigjax.sampling import clip_files, grids, options

BATCH = 64  # images made at a time, unless told
ENDINGS = ('.png', '.npz', *options.FILMS)
Make = Callable[[int], np.ndarray]  # start -> the images from there on, one batch of them


@dataclasses.dataclass(frozen=True)
class Wanted:
  """Images to be made and written.

  Attributes:
    num: how many.
    make: start -> the images from there on, a batch of them.
    labels: int32 [num], or None where classes are mixed.
    columns: of a grid.
    seeds: of the images in turn, again and again, where each has its own; else None.
    rows, heads, caption: names in a grid; see lettering.labelled.
    rate: frames per second of clips; 0 of still images.
    plain: whether frames of a strip have no numbers, either.
  """

  num: int
  make: Make
  labels: np.ndarray | None
  columns: int
  seeds: Sequence[int] | None = None
  rows: Sequence[str] = ()
  heads: Sequence[str] = ()
  caption: str = ''
  rate: float = 0.0
  plain: bool = False

  def classes(self) -> np.ndarray:
    """The labels, where no classes are mixed."""
    assert self.labels is not None
    return self.labels

  def seed(self, i: int) -> int:
    """Of image i, where each has its own."""
    assert self.seeds is not None
    return self.seeds[i % len(self.seeds)]

  def name(self, i: int) -> str:
    """Of image i's file in a folder."""
    first = f'{i:06d}' if self.seeds is None else f'seed{self.seed(i):04d}'
    label = '' if self.labels is None else f'_class{self.labels[i]}'
    return first + label + ('.webp' if self.rate else '.png')


def ready(images: np.ndarray, labels: np.ndarray | None, columns: int) -> Wanted:
  """Return images that are made already as Wanted."""
  return Wanted(len(images), lambda start: images[start : start + BATCH], labels, columns)


def told(starts: Sequence[int], num: int, batch: int) -> Iterator[int]:
  """Yield the starts, and say now and then how many images are done and how long the rest takes.

  The first batch, which compiles, is left out of the rate. Within a batch that takes long, as a
  walk of many steps does, it is said how long it has taken, and usually takes.
  """
  line, terminal = progress.Progress(0, 0, 0, sys.stderr), sys.stderr.isatty()
  left_out = num - sum(min(batch, num - start) for start in starts)
  done, began, said, usual = left_out, 0.0, 0.0, None
  for i, start in enumerate(starts):
    what = f'{done:,} of {num:,} images, the next' if i else 'making the first images'
    with progress.ticking(what, usual):
      yield start
    now, made = time.monotonic(), min(batch, num - start)
    done += made
    if not i:
      began = said = now
      left_out = done
      continue
    rate = (done - left_out) / (now - began)
    usual = batch / rate
    if now - said > (0.5 if terminal else 10) and done < num:
      said, left = now, progress.duration((num - done) / rate)
      line.say(f'{done:,} of {num:,} images, {rate:,.0f} per second, {left} left', temporary=True)
  if terminal and said > began:
    line.say('', temporary=True)


def write_npz(
  path: str, name: str, shape: tuple[int, ...], parts: Iterable[np.ndarray], **others: np.ndarray
) -> None:
  """Write arrays as .npz, whole or not at all; the first as its parts come.

  Args:
    path: of the file.
    name, shape: of the first array, uint8; its parts lie along the first axis.
    parts: of it.
    others: arrays that follow.
  """
  with files.whole(path) as whole, zipfile.ZipFile(whole, 'w') as archive:
    with archive.open(name + '.npy', 'w', force_zip64=True) as file:
      header = {'descr': '|u1', 'fortran_order': False, 'shape': shape}
      np.lib.format.write_array_header_1_0(file, header)
      for part in parts:
        file.write(np.ascontiguousarray(part, np.uint8).data)
    for other, array in others.items():
      with archive.open(other + '.npy', 'w') as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def save_one(image: np.ndarray, rate: float, path: str) -> None:
  """Write a uint8 image [H, W, C] as PNG, or a clip [T, H, W, C] as a film, whole or not at all."""
  pictures = [
    Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame)
    for frame in image.reshape(-1, *image.shape[-3:])
  ]
  if image.ndim == 4:
    clip_files.save(pictures, rate, path)
    return
  with files.whole(path) as file:
    pictures[0].save(file, format='png')


def write_folder(wanted: Wanted, batch: int, out: str, ask: Mapping[str, Any]) -> int:
  """Write a PNG per image, or a WebP per clip, that is missing; return how many were there already.

  Args:
    wanted: the images.
    batch: images of one `make`.
    out: the folder; what was asked for is kept in its samples.json.
    ask: all that decides the images, JSON-able.
  Raises:
    UserError: the folder holds other pictures.
  """
  note = os.path.join(out, 'samples.json')
  os.makedirs(out, exist_ok=True)
  present = set(os.listdir(out))
  if os.path.isfile(note):
    with open(note, encoding='utf-8') as file, contextlib.suppress(ValueError):
      before = json.load(file)
      other = [key for key in ask if before.get(key) != ask[key]]
      if other:
        raise errors.UserError(
          f'--out={out} holds samples of another {" and ".join(other)} (samples.json says which); '
          'give another folder, or remove it.'
        )
  elif any(name.endswith(('.png', '.webp')) for name in present):
    raise errors.UserError(
      f'--out={out} holds pictures that are not samples of ours; give another folder.'
    )
  files.write_json(note, ask)
  missing = np.fromiter((wanted.name(i) not in present for i in range(wanted.num)), bool)
  starts = [i for i in range(0, wanted.num, batch) if missing[i : i + batch].any()]
  for start in told(starts, wanted.num, batch):
    for i, image in enumerate(wanted.make(start), start):
      if missing[i]:
        save_one(image, wanted.rate, os.path.join(out, wanted.name(i)))
  return wanted.num - int(missing.sum())


def write(wanted: Wanted, batch: int, out: str, layout: str, ask: Mapping[str, Any]) -> str:
  """Write a picture, a film, arrays (.npz) or a file each (a folder); return what was written.

  Args:
    wanted: the images.
    batch: images of one `wanted.make`.
    out: where to.
    layout: of an .npz: 'bigjax' (arrays images, labels) or 'adm', the one that the evaluator of
      Dhariwal & Nichol 2021 reads (arr_0: uint8 [n, H, W, 3], arr_1: the labels).
    ask: see write_folder.
  """
  num, kind = wanted.num, files.ending('--out', out, ENDINGS, folder=True)
  if not kind:
    before = write_folder(wanted, batch, out, ask)
    what = 'films, .webp' if wanted.rate else 'PNGs'
    already = f', {before} of which were there already' if before else ''
    return f'{out.rstrip("/")}/: {num} {what}{already}'
  os.makedirs(os.path.dirname(out) or '.', exist_ok=True)
  made = (wanted.make(start) for start in told(range(0, num, batch), num, batch))
  if kind != '.npz':
    images, words = np.concatenate(list(made)), (wanted.rows, wanted.heads, wanted.caption)
    if kind == '.png':
      grids.sheet(images, wanted.columns, *words, wanted.plain).save(out)
      what = f'clips, a row each, {images.shape[1]} frames' if wanted.rate else 'images'
      return f'{out}: {num} {what}' + ('' if wanted.rate else f', {wanted.columns} in a row')
    clip_files.save(grids.film(images, wanted.columns, *words), wanted.rate, out)
    times = f'{images.shape[1]} frames, {wanted.rate:g} per second'
    return f'{out}: {num} clips, {wanted.columns} in a row, {times}'
  first = next(made)
  adm = layout == 'adm'
  shape = (num, *first.shape[1:-1], 3 if adm else first.shape[-1])
  parts = (
    np.broadcast_to(part, (*part.shape[:-1], shape[-1]))
    for rest in ((first,), made)
    for part in rest
  )
  others = {} if wanted.labels is None else {'arr_1' if adm else 'labels': wanted.labels}
  if wanted.seeds is not None and not adm:
    others['seeds'] = np.fromiter(map(wanted.seed, range(num)), np.int64)
  write_npz(out, 'arr_0' if adm else 'images', shape, parts, **others)
  return f'{out}: {num} {"clips" if wanted.rate else "images"}, uint8 {shape}'
