"""What a run has left so far, for people to look at: pictures, scores, config, events.

Read afresh at every look, as a run may still be writing. Only files that are found in the workdir's
own folders can be asked for, and none that a link leads out of it.
"""

import dataclasses
import functools
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bigjax.core import checkpoint, errors, files

FOLDERS = ('', 'samples', 'evaluation')  # of a workdir, in which there are pictures
PICTURE = re.compile(r'[\w.-]+\.(png|webp)', re.ASCII)
MEDIA = {'.png': 'image/png', '.webp': 'image/webp'}
MOST_BYTES = 2**26  # of a picture
EVENTS = 50  # of events.jsonl, the newest
TITLES = {  # what pictures show, by their names without the ending
  'curves': 'losses and scores',
  'vital_signs': 'singular values, norms, speed, memory',
  'growth': 'the same latents at every resolution',
  'scores': 'scores by protocol',
  'truncation': 'what truncation trades for what',
  'by_class': 'scores of each class',
  'reconstructions': 'images and their reconstructions',
  'prediction': 'predicted frames',
  'gradinit': 'scales learned at the start',
}


@dataclasses.dataclass(frozen=True)
class Picture:
  """A picture of a run.

  Attributes:
    name: its path in the workdir, with slashes.
    path: of the file itself, no link.
    step: of a class grid of an evaluation; else None.
    changed: when it was last, in nanoseconds.
  """

  name: str
  path: str
  step: int | None
  changed: int

  @property
  def stem(self) -> str:
    return os.path.splitext(os.path.basename(self.name))[0]

  @property
  def title(self) -> str:
    if self.step is not None:
      return f'Step {self.step:,}'
    words = TITLES.get(self.stem, self.stem.replace('_', ' '))
    return words[:1].upper() + words[1:]

  @property
  def media(self) -> str:
    return MEDIA[os.path.splitext(self.name)[1]]

  def read(self) -> bytes:
    """Its bytes.

    Raises:
      OSError: it is gone, or no file any more.
    """
    number = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(number, 'rb') as file:
      if not stat.S_ISREG(os.fstat(number).st_mode):
        raise OSError(f'{self.name} is no file')
      return file.read(MOST_BYTES)


def pictures(workdir: str) -> dict[str, Picture]:
  """{name: picture} of all that there are now: class grids by step, then others by name."""
  root, found = os.path.realpath(workdir), []
  for folder in FOLDERS:
    try:
      names = sorted(os.listdir(os.path.join(root, folder)))
    except OSError:
      continue
    for name in filter(PICTURE.fullmatch, names):
      path = os.path.realpath(os.path.join(root, folder, name))
      try:
        about = os.stat(path)
      except OSError:
        continue
      inside = os.path.commonpath([root, path]) == root
      if inside and stat.S_ISREG(about.st_mode) and 0 < about.st_size <= MOST_BYTES:
        digits = os.path.splitext(name)[0]
        step = int(digits) if folder == 'samples' and digits.isdecimal() else None
        found.append(Picture(f'{folder}/{name}'.lstrip('/'), path, step, about.st_mtime_ns))
  order = list(TITLES)
  key = lambda one: (
    one.step is None,
    one.step or 0,
    order.index(one.stem) if one.stem in order else len(order),
    one.name,
  )
  return {one.name: one for one in sorted(found, key=key)}


def grids(found: Mapping[str, Picture]) -> list[Picture]:
  """Class grids of evaluations, a film rather than its strips."""
  films = {one.step for one in found.values() if one.name.endswith('.webp')}
  grids = [one for one in found.values() if one.step is not None]
  return [one for one in grids if one.name.endswith('.webp') or one.step not in films]


@dataclasses.dataclass(frozen=True)
class Table:
  """Scores: a row each, with its name first.

  Attributes:
    title: of it.
    head: of its columns.
    rows: texts.
  """

  title: str
  head: Sequence[str]
  rows: Sequence[Sequence[str]]


def _tolerant(read: Any, *args: Any) -> Any:
  """What a reader finds, None where a file is missing, damaged or half written."""
  try:
    return read(*args)
  except (errors.UserError, OSError, ValueError, RecursionError):
    return None


@functools.lru_cache(maxsize=4)
def _rows_of(path: str, size: int, changed: int) -> list[dict[str, Any]]:
  del size, changed  # which say whether it is still the same
  return _tolerant(files.read_rows, path) or []


def _rows(path: str) -> list[dict[str, Any]]:
  about = _tolerant(os.stat, path)
  return _rows_of(path, about.st_size, about.st_mtime_ns) if about else []


def _object(path: str) -> dict[str, Any]:
  found = _tolerant(files.read_json, path)
  return found if isinstance(found, dict) else {}


def number(value: Any) -> str:
  """A score for people: four digits."""
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  return f'{value:.4g}' if is_number else '–'


STEPS = 8  # of which scores are shown, at most


def score_tables(workdir: str) -> list[Table]:
  """Scores of a run's evaluations, and those by protocol that it or `bigjax evaluate` computed."""
  found, rows = [], _rows(os.path.join(workdir, 'metrics.jsonl'))
  summary = _object(os.path.join(workdir, 'summary.json'))
  metas = [
    _tolerant(checkpoint.read_meta, workdir, step) for step in checkpoint.list_steps(workdir)
  ]
  kept = [meta['scores'] for meta in metas if isinstance((meta or {}).get('scores'), dict)]
  given = summary.get('real')
  real = given if isinstance(given, dict) else {}
  names = list(dict.fromkeys([*real, *(name for scores in kept for name in scores)]))
  by_step = {row['step']: row for row in rows if any(name in row for name in names)}
  if by_step:
    steps = sorted(by_step)
    chosen = sorted({*steps[-STEPS + 1 :], *steps[:1]})
    head = ['score', *(f'step {step:,}' for step in chosen)]
    body = [[name, *(number(by_step[step].get(name)) for step in chosen)] for name in names]
    if real:
      head.append(str(summary.get('floor_of', 'real images')))
      body = [[*row, number(real.get(row[0]))] for row in body]
    found.append(Table('Scores of evaluations', head, body))
  for folder in ('', 'evaluation'):
    newest = _rows(os.path.join(workdir, folder, 'scores.jsonl'))[-STEPS:]
    newest = [row for row in newest if isinstance(row.get('scores'), dict)]
    names = list(dict.fromkeys(name for row in newest for name in row['scores']))
    if newest:
      value = lambda row, name: number((row['scores'].get(name) or {}).get('value'))
      floor = newest[-1].get('floor') or {}
      head = ['score', *(str(row.get('what', row.get('step'))) for row in newest), 'real images']
      body = [[n, *(value(row, n) for row in newest), number(floor.get(n))] for n in names]
      title = 'Scores by protocol' + (', of bigjax evaluate' if folder else '')
      found.append(Table(title, head, body))
  return found


def events(workdir: str) -> list[tuple[int, str]]:
  """(Step, sentence) of a run's alarms, changes and roll-backs."""
  found = []
  for row in _rows(os.path.join(workdir, 'events.jsonl'))[-EVENTS:]:
    words = row.get('words') or json.dumps(row)
    found.append((int(row.get('step', 0)), str(words)))
  history = _tolerant(files.read_json, os.path.join(workdir, 'history.json'))
  for entry in history[1:] if isinstance(history, list) else []:
    found.append((int(entry.get('from_step', 0)), str(entry.get('reason', ''))))
  return sorted(found)


def config(workdir: str) -> dict[str, Any]:
  """The config that the run has, by key."""
  return _object(os.path.join(workdir, 'config.json'))


def card(workdir: str) -> dict[str, Any]:
  """The card of the run, {} where there is none yet."""
  return _object(os.path.join(workdir, 'card.json'))


def progress(workdir: str) -> tuple[int, int]:
  """(The last step that was written down, the steps that the run shall have)."""
  path, last = os.path.join(workdir, 'metrics.jsonl'), 0
  for row in tail(path):
    last = max(last, int(row.get('step', 0)))
  steps = config(workdir).get('run.steps', 0)
  return last, steps if isinstance(steps, int) else 0


def tail(path: str, most: int = 2**16) -> Iterator[dict[str, Any]]:
  """The last rows of a JSON-lines file, however long that is."""
  try:
    with open(path, 'rb') as file:
      file.seek(max(os.path.getsize(path) - most, 0))
      lines = file.read(most).splitlines()
  except OSError:
    return
  for line in lines:
    try:
      row = json.loads(line)
    except (ValueError, RecursionError):  # the first and the last may be cut off
      continue
    if isinstance(row, dict):
      yield row


def about(workdir: str) -> dict[str, Any]:
  """All of it for a page, JSON-able."""
  found, (step, steps) = pictures(workdir), progress(workdir)
  shown = lambda one: {
    'url': f'run/{one.name}?{one.changed}', 'name': one.name, 'title': one.title, 'step': one.step
  }  # fmt: skip
  return {
    'grids': [shown(one) for one in grids(found)],
    'pictures': [shown(one) for one in found.values() if one.step is None],
    'tables': [dataclasses.asdict(table) for table in score_tables(workdir)],
    'events': [list(event) for event in events(workdir)],
    'checkpoints': checkpoint.list_steps(workdir),
    'step': step,
    'steps': steps,
  }


def summary(workdir: str) -> dict[str, Any]:
  """summary.json of a run that has ended, else {}."""
  return _object(os.path.join(workdir, 'summary.json'))


def seconds(workdir: str) -> float:
  """The run's wall clock, over all its sessions; 0 where it has none."""
  found = _object(os.path.join(workdir, 'clock.json')).get('seconds')
  return float(found) if isinstance(found, int | float) and 0 <= found < math.inf else 0.0
