"""Images into files as they are made: a grid, arrays, or a folder of PNGs, whole or not at all."""

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
from bigjax.sampling import lettering

BATCH = 64  # images made at a time, unless told
MIN_SIDE = 48  # pixels of an image in a grid
MOST_PIXELS = 2**29  # of a grid
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
  """

  num: int
  make: Make
  labels: np.ndarray | None
  columns: int
  seeds: Sequence[int] | None = None
  rows: Sequence[str] = ()
  heads: Sequence[str] = ()
  caption: str = ''

  def seed(self, i: int) -> int:
    """Of image i, where each has its own."""
    return self.seeds[i % len(self.seeds)]

  def name(self, i: int) -> str:
    """Of image i's file in a folder."""
    first = f'{i:06d}' if self.seeds is None else f'seed{self.seed(i):04d}'
    return first + ('' if self.labels is None else f'_class{self.labels[i]}') + '.png'


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


def save_png(image: np.ndarray, path: str) -> None:
  """Write one uint8 image [H, W, C], or the frames [T, H, W, C] of a clip, whole or not at all."""
  if image.ndim == 4:
    image = np.concatenate(list(image), axis=1)  # side by side
  picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
  with files.whole(path) as file:
    picture.save(file, format='png')


def write_folder(wanted: Wanted, batch: int, out: str, ask: Mapping[str, Any]) -> int:
  """Write a PNG per image, those that are missing; return how many were there already.

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
  elif any(name.endswith('.png') for name in present):
    raise errors.UserError(
      f'--out={out} holds pictures that are not samples of ours; give another folder.'
    )
  files.write_json(note, ask)
  missing = np.fromiter((wanted.name(i) not in present for i in range(wanted.num)), bool)
  starts = [i for i in range(0, wanted.num, batch) if missing[i : i + batch].any()]
  for start in told(starts, wanted.num, batch):
    for i, image in enumerate(wanted.make(start), start):
      if missing[i]:
        save_png(image, os.path.join(out, wanted.name(i)))
  return wanted.num - int(missing.sum())


def write(wanted: Wanted, batch: int, out: str, layout: str, ask: Mapping[str, Any]) -> str:
  """Write a grid (.png), arrays (.npz) or one PNG per image (a folder); return what was written.

  Args:
    wanted: the images.
    batch: images of one `wanted.make`.
    out: where to.
    layout: of an .npz: 'bigjax' (arrays images, labels) or 'adm', the one that the evaluator of
      Dhariwal & Nichol 2021 reads (arr_0: uint8 [n, H, W, 3], arr_1: the labels).
    ask: see write_folder.
  """
  num, kind = wanted.num, files.ending('--out', out, ('.png', '.npz'), folder=True)
  if not kind:
    before = write_folder(wanted, batch, out, ask)
    return f'{out.rstrip("/")}/: {num} PNGs' + (
      f', {before} of which were there already' if before else ''
    )
  os.makedirs(os.path.dirname(out) or '.', exist_ok=True)
  made = (wanted.make(start) for start in told(range(0, num, batch), num, batch))
  if kind == '.png':
    images = np.concatenate(list(made))
    size, names = (-(-num // wanted.columns), wanted.columns), (wanted.rows, wanted.heads)
    lettering.labelled(grid(images, wanted.columns), *size, *names, wanted.caption).save(out)
    return f'{out}: {num} images, {wanted.columns} in a row'
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
  return f'{out}: {num} images, uint8 {shape}'


def check_grid(num: int, columns: int, shape: tuple[int, ...]) -> None:
  """Refuse a grid that is no picture any more, before its images are made.

  Args:
    num: of images.
    columns: of the grid.
    shape: of an image, or of a clip, whose frames lie side by side.
  Raises:
    UserError: it has more than MOST_PIXELS.
  """
  h, w = shape[-3], shape[-2] * (shape[0] if len(shape) == 4 else 1)
  if -(-num // columns) * columns * h * w * max(1, MIN_SIDE // h) ** 2 > MOST_PIXELS:
    raise errors.UserError(
      f'{num:,} images of {w}x{h} are too many for one picture; ask for fewer with --num or '
      '--classes, or give an --out ending in .npz, or a folder.'
    )


def grid(images: np.ndarray, columns: int, min_side: int = MIN_SIDE) -> Image.Image:
  """Return uint8 images [n, H, W, C] as one picture, row by row, enlarged to `min_side`."""
  if images.ndim == 5:  # the frames of a clip side by side
    columns *= images.shape[1]
    images = images.reshape(-1, *images.shape[2:])
  num, h, w, c = images.shape
  rows = -(-num // columns)
  gap = max(1, h // 16)
  sheet = np.full((rows * (h + gap) + gap, columns * (w + gap) + gap, c), 255, np.uint8)
  for i, image in enumerate(images):
    top, left = gap + i // columns * (h + gap), gap + i % columns * (w + gap)
    sheet[top : top + h, left : left + w] = image
  picture = Image.fromarray(sheet[..., 0] if c == 1 else sheet)
  enlarge = -(-min_side // h)
  return picture.resize(
    (picture.width * enlarge, picture.height * enlarge), Image.Resampling.NEAREST
  )
