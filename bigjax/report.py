"""What a run shows people: a progress line, metrics on disk, a grid of images."""

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from bigjax import utils


class JsonLines:
  """A file of one JSON object per line, each with a step, in ascending order.

  Args:
    path: of the file; it may exist.
    last_step: rows after this step are dropped, because they will be written again.
  """

  def __init__(self, path: str, last_step: int):
    rows = [row for row in read_rows(path) if row['step'] <= last_step]
    partial = path + '.partial'
    with open(partial, 'w') as f:
      f.writelines(json.dumps(row) + '\n' for row in rows)
    os.replace(partial, path)
    self._file = open(path, 'a', buffering=1)  # noqa: SIM115 - closed by close()

  def write(self, row: Mapping[str, Any]) -> None:
    self._file.write(json.dumps(row) + '\n')

  def close(self) -> None:
    self._file.close()


def read_rows(path: str) -> list[dict[str, Any]]:
  """Return the rows of a JSON-lines file; a last line that was cut off is left out.

  Raises:
    UserError: a line within it is damaged.
  """
  rows = []
  if os.path.isfile(path):
    with open(path, errors='replace') as f:
      for line in f:
        if not line.endswith('\n'):
          break
        try:
          rows.append(json.loads(line))
        except (ValueError, RecursionError):
          rows.append(None)
        if not isinstance(rows[-1], dict):
          raise utils.UserError(f'{path!r} is damaged at: {line[:40]!r}; mend or remove it.')
  return rows


def write_json(path: str, value: Any) -> None:
  """Write a JSON file whole or not at all."""
  partial = path + '.partial'
  with open(partial, 'w') as f:
    json.dump(value, f, indent=2)
    f.write('\n')
  os.replace(partial, path)


def read_json(path: str) -> Any:
  """Return what a JSON file of a workdir holds.

  Raises:
    UserError: it cannot be read.
  """
  try:
    with open(path) as f:
      return json.load(f)
  except (OSError, ValueError, RecursionError) as error:
    raise utils.UserError(
      f'{path!r} cannot be read ({error}); mend it, or use another --workdir.'
    ) from None


class TensorBoard:
  """TensorBoard events through clu, which is imported when the first row is written."""

  def __init__(self, logdir: str):
    self._logdir, self._writer = logdir, None

  def write(self, row: Mapping[str, Any]) -> None:
    if self._writer is None:
      from clu import metric_writers  # imports TensorFlow

      self._writer = metric_writers.SummaryWriter(self._logdir)
    self._writer.write_scalars(row['step'], {k: v for k, v in row.items() if k != 'step'})

  def close(self) -> None:
    if self._writer is not None:
      self._writer.close()


class Null:
  """A writer that writes nothing: for processes other than the first."""

  def write(self, row: Mapping[str, Any]) -> None:
    del row

  def close(self) -> None:
    pass


class Progress:
  """One line about a run: step, rate, time left, losses. Rewritten in place on a terminal.

  Args:
    first, last: the steps between which this process works.
    images_per_step: real images consumed by a step.
    out: where to, None for nowhere.
  """

  def __init__(self, first: int, last: int, images_per_step: int, out: Any = sys.stderr):
    self._last, self._images, self._out = last, images_per_step, out
    self._step, self._time = first, time.monotonic()
    self.rate = 0.0  # images per second between the last two updates

  def restart(self, step: int) -> None:
    """Count from here on: the first step, which compiles, is no measure of the rate."""
    self._step, self._time = step, time.monotonic()

  def skip(self, seconds: float) -> None:
    """Leave this much time, spent on something else than steps, out of the rate."""
    self._time += seconds

  def update(self, step: int, losses: Mapping[str, float]) -> None:
    """Show that `step` steps are done."""
    now = time.monotonic()
    words = ' '.join(f'{name} {value:.3f}' for name, value in losses.items())
    steps, seconds = step - self._step, now - self._time
    if steps > 0 and seconds > 0:
      self.rate = steps * self._images / seconds
      left = utils.duration((self._last - step) * seconds / steps)
      words = f'{self.rate:,.0f} images/s  {left} left  {words}'
      self._step, self._time = step, now
    done = int(20 * step / max(self._last, 1))
    self.say(f'[{"#" * done}{"." * (20 - done)}] step {step}/{self._last}  {words}', temporary=True)

  def say(self, text: str, temporary: bool = False) -> None:
    """Print a line; a temporary one gives way to the next on a terminal."""
    if self._out is None:
      return
    if self._out.isatty():
      self._out.write(f'\r\033[K{text}' + ('' if temporary else '\n'))
    else:
      self._out.write(text + '\n')
    self._out.flush()


def grid(images: np.ndarray, columns: int, min_side: int = 48) -> Image.Image:
  """Return uint8 images [n, H, W, C] as one picture, row by row, enlarged to `min_side`."""
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
