"""What a run shows people: a progress line, metrics on disk, grids and curves as PNG."""

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
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
  if os.path.exists(path):
    with open(path) as f:
      for line in f:
        if not line.endswith('\n'):
          break
        try:
          rows.append(json.loads(line))
        except ValueError:
          raise utils.UserError(
            f'{path!r} is damaged at: {line[:40]!r}; mend or remove it.'
          ) from None
  return rows


def write_json(path: str, value: Any) -> None:
  """Write a JSON file whole or not at all."""
  partial = path + '.partial'
  with open(partial, 'w') as f:
    json.dump(value, f, indent=2)
    f.write('\n')
  os.replace(partial, path)


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


def curves(
  path: str, rows: Iterable[Mapping[str, Any]], floor: Mapping[str, float], title: str
) -> None:
  """Draw losses, the discriminator's accuracies and the scores against step into a PNG.

  Args:
    path: of the PNG.
    rows: of metrics.jsonl.
    floor: what real images score, drawn dashed.
    title: of the picture.
  """
  from matplotlib.figure import Figure  # slow to import

  rows = list(rows)
  names = {name for row in rows for name in row}
  panels = [
    ('losses', sorted(n for n in names if n.endswith('_loss'))),
    (
      "share of images a discriminator's sign gets right",
      sorted(n for n in names if '_accuracy_' in n),
    ),
    ('scores (dashed: real images)', sorted(names & set(floor))),
  ]
  figure = Figure(figsize=(15, 4), layout='constrained')
  for axis, (heading, shown) in zip(figure.subplots(1, 3), panels, strict=True):
    for i, name in enumerate(shown):
      points = [(row['step'], row[name]) for row in rows if name in row]
      axis.plot(
        *zip(*points, strict=True),
        color=f'C{i}',
        label=name,
        linewidth=1.2,
        marker='o' if len(points) < 40 else '',
        markersize=3,
      )
      if name in floor:
        axis.axhline(floor[name], color=f'C{i}', linestyle='--', linewidth=0.8)
    axis.set_title(heading)
    axis.set_xlabel('step')
    axis.grid(alpha=0.3)
    if shown:
      axis.legend(fontsize=8)
  figure.suptitle(title)
  figure.savefig(path, dpi=110)
