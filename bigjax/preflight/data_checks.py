"""What can be said of the data before a run: labels, sizes, a sheet to look at."""

from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
import numpy as np
from PIL import Image, ImageDraw

from bigjax import data
from bigjax.algorithms.base import configs, contract
from bigjax.algorithms.base.contract import Stage
from bigjax.core import errors
from bigjax.data import Finding
from bigjax.preflight import machine_checks
from bigjax.sampling import lettering
from bigjax.training import ready
from bigjax.training.program import make_program

SHOWN = 40  # images on the contact sheet
CELL = 96  # pixels of each, at least
STRIP = 4  # frames of a clip that are shown
UNEVEN = 20  # times as many images in the largest class as in the smallest


def examine(
  config: ml_collections.ConfigDict, workdir: str | None = None, topology: str | None = None
) -> tuple[list[Finding], dict[str, Any], data.Source | None]:
  """Return (findings, {class: count}, the data or None where it cannot be read).

  Args:
    config: of the run.
    workdir: where it would live; None checks the room in runs/ only.
    topology: a TPU slice whose memory is asked of its compiler.
  """
  found: list[Finding] = []
  try:
    configs.check(config)
  except errors.UserError as error:
    return [('fail', str(error))], {}, None
  for refuse in ready.CHECKS:
    found += failure(refuse, config)
  assumed = config.data.num_classes is None
  config, source, why = ready.data_of(config)
  counts: dict[str, int] = {}
  if source is None:
    found.append(('fail', str(why)))
    if assumed:
      found.append(('warning', f'what follows assumes {config.data.num_classes} classes'))
  else:
    words = f'{source.num_train:,} training images, {len(source.class_names)} classes'
    found.append(('ok', f'{config.data.source}: {words}'))
    found += source.findings
    about_labels, counts = of_labels(source)
    found.append(about_labels)
  found += of_program(config, source, workdir or 'runs')
  if source:
    found += machine_checks.duplicates(source)
  found += machine_checks.weights(config)
  if workdir:
    found += machine_checks.workdir(workdir, config, source)
  if topology:
    found += machine_checks.hbm(config, topology)
  return found, counts, source


def failure(refuse: Callable[..., Any], *args: Any) -> list[Finding]:
  """Turns the refusal of a check into a finding; none where it does not refuse."""
  try:
    refuse(*args)
  except errors.UserError as error:
    return [('fail', str(error))]
  return []


def of_program(
  config: ml_collections.ConfigDict, source: data.Source | None, workdir: str
) -> list[Finding]:
  """Whether what a config computes fits the devices, the data, this machine's memory and disk."""
  try:
    program = make_program(config, class_counts=source.class_counts if source else None)
  except errors.UserError as error:
    return [('fail', str(error))]
  num_train = source.num_train if source else None
  found = [of_batch(num_train, stage, program.mesh.size) for _, stage in program.stages]
  found += failure(ready.check_program, program, source, config)
  found += failure(contract.frozen_card, program.algorithm)
  if source:
    found += machine_checks.memory(source, program)
  found += machine_checks.disk(config, program, workdir)
  names = source.class_names if source else ()
  return found + machine_checks.begins_with(config, program, workdir, names)


def of_labels(source: data.Source) -> tuple[Finding, dict[str, int]]:
  """(Whether the labels of all training images are sound, {class: count})."""
  names = source.class_names
  try:
    counts = np.bincount(data.one_label(source.labels()), minlength=len(names))
  except errors.UserError as error:
    return ('fail', str(error)), dict.fromkeys(names, 0)
  twice = len(set(names)) < len(names)  # two classes of one name are still two
  keys = [f'{i}: {name}' for i, name in enumerate(names)] if twice else names
  about = of_counts(counts, names, source.even is not None)
  return about, dict(zip(keys, counts.tolist(), strict=True))


def of_counts(counts: np.ndarray, names: Sequence[str], long_tail: bool = False) -> Finding:
  """Return whether every class has images, and about as many as the others.

  Args:
    counts: training images of each class.
    names: of the classes.
    long_tail: whether it is the config that makes them uneven, which is nobody's mistake.
  """
  absent = [name for name, count in zip(names, counts, strict=True) if not count]
  if len(absent) == len(names) - 1 > 0:
    return 'fail', (
      f'all images have the label {names[int(counts.argmax())]!r} of {len(names)} classes: '
      'a wrong folder level or a broken conversion does that; mend the labels'
    )
  if absent:
    some = ', '.join(absent[:5]) + (', ...' if len(absent) > 5 else '')
    return 'warning', (
      f'{len(absent)} of {len(names)} classes have no training image ({some}): the generator '
      'will be asked for them all the same'
    )
  least, most = int(counts.argmin()), int(counts.argmax())
  words = (
    f'{counts[least]:,} ({names[least]}) to {counts[most]:,} ({names[most]}) training images per '
    'class'
    if counts[least] < counts[most]
    else f'{counts[most]:,} training image{"" if counts[most] == 1 else "s"} in every class'
  )
  if long_tail:
    return 'ok', f'{words}: the long tail of data.imbalance'
  if counts[most] > UNEVEN * counts[least]:
    return 'warning', f'{words}: fakes are drawn evenly, so rare classes are seen far less real'
  return 'ok', words


def of_batch(num_train: int | None, stage: Stage, num_devices: int) -> Finding:
  """Whether the images, None where they are absent, fill a batch of a stage."""
  batch, plural = stage.examples, '' if num_devices == 1 else 's'
  words = f'batches of {batch} on {num_devices} device{plural}'
  if num_train is not None and num_train < batch:
    return 'fail', f'{words}, but there are {num_train} training images: lower the batch size'
  return 'ok', words


def draw_sheet(source: data.Source, config: ml_collections.ConfigDict, path: str) -> None:
  """Draw the first training images of a run, as the networks will see them, with their labels.

  Of a clip, STRIP of its frames side by side.
  """
  num = min(SHOWN, source.num_train)
  stream = data.stream(source, config.seed, 0, (1, num), np.arange(num), config.data.flip)
  batch = next(stream)
  cells = [enlarged(image) for image in batch['image'][0]]
  (width, height), line = cells[0].size, 16
  columns = max(1, min(num, 1280 // (width + 4)))
  rows = -(-num // columns)
  sheet = Image.new('RGB', (columns * (width + 4) + 4, rows * (height + line + 4) + 4), 'white')
  draw = ImageDraw.Draw(sheet)
  for i, (cell, label) in enumerate(zip(cells, batch['label'][0], strict=True)):
    left, top = 4 + i % columns * (width + 4), 4 + i // columns * (height + line + 4)
    sheet.paste(cell, (left, top))
    name = lettering.fitting(str(source.class_names[label]), width)
    lettering.write(draw, left, top + height + 1, name, 'black')
  sheet.save(path)


def enlarged(image: np.ndarray) -> Image.Image:
  """uint8 [H, W, 1 or 3] as a colour picture of at least CELL pixels, in whole multiples.

  Of a clip [T, H, W, 1 or 3], STRIP frames from its first to its last, or all, side by side.
  """
  if image.ndim == 4:
    shown = np.linspace(0, len(image) - 1, min(STRIP, len(image))).round().astype(int)
    image = np.concatenate(image[shown], axis=1)
  picture = Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)))
  times = -(-CELL // picture.height)
  return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
