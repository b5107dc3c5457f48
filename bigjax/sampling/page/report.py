"""A run, or an exported generator, as one file of HTML that needs nothing else.

Pictures lie in it as data, and its policy forbids whatever is not in it: it has no script.
"""

import base64
import html
import importlib.resources
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import bigjax
from bigjax.algorithms.base import configs
from bigjax.core import errors, files
from bigjax.core.progress import duration, size
from bigjax.sampling import generator_file
from bigjax.sampling.page import run_files
from bigjax.sampling.page.explorer import Shelf

EARLIER = 5  # class grids before the newest, at most
HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="bigjax {version}">
<title>{title} – bigjax</title>
<style>
{style}
</style>
</head>
<body>
<header><div><h1>{title}</h1><p class="quiet">{subtitle}</p></div></header>
<main>
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
TAIL = '</main>\n</body>\n</html>\n'

told = html.escape  # as it stands in HTML, in quotes too


def picture(body: bytes, media: str, title: str) -> str:
  """A picture with its caption above it."""
  data = base64.b64encode(body).decode()
  return (
    f'<figure class="picture panel"><figcaption>{told(title)}</figcaption>'
    f'<img alt="{told(title)}" src="data:{media};base64,{data}"></figure>\n'
  )


def panel(title: str, content: str, folded: bool = False) -> str:
  """A part of the report; '' where it has nothing to say."""
  if not content:
    return ''
  if folded:
    return f'<details class="panel"><summary>{told(title)}</summary>\n{content}</details>\n'
  return f'<section class="panel"><h3>{told(title)}</h3>\n{content}</section>\n'


def beside(*contents: str) -> str:
  """Contents side by side, where the window is wide enough."""
  return ''.join(
    ['<div class="beside">', *(f'<div>{one}</div>' for one in contents if one), '</div>']
  )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], wide: int | None = None) -> str:
  """A table; `wide` is the number of a column of sentences."""
  cell = lambda i, word: f'<td{" class=wide" if i == wide else ""}>{told(word)}</td>'
  lines = [''.join(cell(i, word) for i, word in enumerate(row)) for row in rows]
  top = ''.join(f'<th>{told(word)}</th>' for word in head)
  body = '\n'.join(f'<tr>{line}</tr>' for line in lines)
  whole = f'<table><thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table>'
  return f'<div class="scroll">{whole}</div>\n'


def facts(pairs: Mapping[str, Any]) -> str:
  """A list of what is known by its names; what is not known is left out."""
  known = {name: value for name, value in pairs.items() if value not in (None, '')}
  return (
    '<dl class="facts">'
    + ''.join(f'<dt>{told(name)}</dt><dd>{told(str(value))}</dd>' for name, value in known.items())
    + '</dl>\n'
  )


def of_card(card: Mapping[str, Any]) -> dict[str, Any]:
  """What a generator's card says, for people."""
  step, seen = card.get('step'), card.get('images_seen')
  names = card.get('class_names', [])
  return {
    'algorithm': card.get('algorithm'),
    'data': card.get('data'),
    'resolution': f'{r} px' if (r := card.get('architecture', {}).get('resolution')) else None,
    'classes': f'{len(names):,}: {", ".join(names[:12])}{", …" if len(names) > 12 else ""}'
    if len(names) > 1 else None,
    'training images': f'{sum(counts):,}' if (counts := card.get('class_counts')) else None,
    'step': f'{step:,}' if step is not None else None,
    'images seen': f'{seen:,}' if seen is not None else None,
    'licence': card.get('license'),
    'config hash': card.get('config_hash'),
  }  # fmt: skip


def of_config(values: Mapping[str, Any]) -> str:
  """All keys of a run's config with their values; those that are no defaults in bold."""
  try:
    known = configs.keys(values)
  except errors.UserError:  # of an algorithm that is not here
    known = {}
  rows = []
  for name, value in values.items():
    key = known.get(name)
    own = key is None or json.dumps(value) != json.dumps(key.default)  # a tuple is a list there
    cells = f'<td>{told(name)}</td><td>{told(json.dumps(value))}</td>'
    words = f'<td class=wide>{told(key.description if key else "")}</td>'
    rows.append(f'<tr{" class=own" if own else ""}>{cells}{words}</tr>')
  return (
    '<p class="quiet">In bold: what is not the default.</p><div class="scroll"><table><tbody>\n'
    + '\n'.join(rows)
    + '\n</tbody></table></div>\n'
  )


def as_json(value: Any) -> str:
  return f'<pre>{told(json.dumps(value, indent=2, ensure_ascii=False))}</pre>\n' if value else ''


def document(title: str, subtitle: str, parts: Iterable[str]) -> str:
  """The whole file."""
  style = importlib.resources.files(__package__).joinpath('page.css').read_text(encoding='utf-8')
  head = HEAD.format(
    policy=POLICY, version=bigjax.__version__, title=told(title), subtitle=told(subtitle),
    style=style,
  )  # fmt: skip
  return head + ''.join(parts) + TAIL


def grids_of(found: Mapping[str, run_files.Picture]) -> tuple[str, str]:
  """(The newest class grid, some of the earlier ones), '' where there are none."""
  grids = run_files.grids(found)
  if not grids:
    return '', ''
  *earlier, last = grids
  num = min(len(earlier), EARLIER)
  some = [earlier[i * len(earlier) // num] for i in range(num)]
  return drawn([last]), drawn(some)


def drawn(found: Iterable[run_files.Picture]) -> str:
  """Pictures of a run; one that is gone meanwhile is left out."""
  parts = []
  for one in found:
    title = one.title if one.step is None else f'Samples of step {one.step:,}'
    try:
      parts.append(picture(one.read(), one.media, title))
    except OSError:
      continue
  return ''.join(parts)


def of_run(workdir: str, shelf: Shelf | None) -> tuple[str, list[str]]:
  """(A subtitle, the parts of a report of a run).

  Args:
    workdir: of the run.
    shelf: makes samples where the run has drawn none; None where it has no checkpoint.
  """
  found, card = run_files.pictures(workdir), run_files.card(workdir)
  if not card:
    raise errors.UserError(f'{workdir!r} is not the workdir of a run: it has no card.json.')
  generator_file.check(card, os.path.join(workdir, 'card.json'))
  values, (step, steps) = run_files.config(workdir), run_files.progress(workdir)
  summary, clock = run_files.summary(workdir), run_files.seconds(workdir)
  newest, earlier = grids_of(found)
  if not newest and shelf:
    newest = picture(*shelf.at().grid(), f'Samples of step {shelf.first:,}')
  known = of_card({**card, 'step': step}) | {
    'batch size': values.get('optim.batch_size'), 'seed': values.get('seed'),
    'wall clock': duration(clock) if clock else None, 'bigjax': summary.get('bigjax'),
  }  # fmt: skip
  tables = [panel(one.title, table(one.head, one.rows)) for one in run_files.score_tables(workdir)]
  others = [one for one in found.values() if one.step is None]
  alarms = [(f'{at:,}', words) for at, words in run_files.events(workdir)]
  subtitle = f'{card["algorithm"]} on {card.get("data", "")}, step {step:,} of {steps:,}'
  return subtitle, [
    beside(newest, ''.join(tables) + panel('The run', facts(known))),
    drawn(others),
    panel('Events', table(['step', ''], alarms, 1) if alarms else ''),
    panel('Samples of earlier evaluations', earlier, folded=True),
    panel('Config', of_config(values), folded=True),
    panel('Card', as_json(card), folded=True),
  ]


def of_generator(shelf: Shelf) -> tuple[str, list[str]]:
  """(A subtitle, the parts of a report of an exported generator)."""
  explorer = shelf.at()
  card = explorer.loaded.card
  scores = card.get('scores')
  scores = scores if isinstance(scores, dict) else {}
  rows = [(name, run_files.number(value)) for name, value in scores.items()]
  return f'{card["algorithm"]}, an exported generator', [
    beside(
      picture(*explorer.grid(), 'Samples made for this report'),
      panel('Scores', table(['score', 'samples'], rows) if rows else '')
      + panel('The generator', facts(of_card(card))),
    ),
    panel('Card', as_json(card), folded=True),
  ]


def write(path: str, title: str, subtitle: str, parts: Iterable[str]) -> str:
  """Write a report; return what is to be said of it.

  Raises:
    UserError: it cannot be written.
  """
  try:
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    whole = document(title, subtitle, parts).encode(
      errors='replace'
    )  # names of files may be no text
    with files.whole(path) as file:
      file.write(whole)
    return f'{path}: a report, {size(os.path.getsize(path))}, all of it in this file'
  except OSError as error:
    raise errors.UserError(f'--html={path} cannot be written ({error.strerror}).') from None
