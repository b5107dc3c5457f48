"""docs/commands.md: exit statuses and JSON, held to what the code writes and to a run's files."""

import ast
import importlib
import json
import re

import pytest

from bigjax import __main__
from bigjax.core import errors

import places

ROOT = places.ROOT
PAGE = ROOT / 'docs' / 'commands.md'
ROOMS = ('training', 'evaluation', 'sampling', 'preflight')  # and the verbs: who writes for users


def rows(heading):
  """The cells of the table below a heading of the page, without backticks."""
  part = PAGE.read_text(encoding='utf-8').partition(f'\n## {heading}\n')[2].partition('\n## ')[0]
  table = [line for line in part.splitlines() if line.startswith('|')][2:]
  return [[cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1]] for line in table]


def fields(cell):
  """Top-level names in a cell of fields: those in brackets are deeper."""
  return re.findall(r'`([\w.]+)`', re.sub(r'\([^()]*\)', '', cell))


def named_files():
  """The names of JSON files in texts of the code, with * where a name is put in."""
  paths = [path for room in ROOMS for path in (ROOT / 'bigjax' / room).rglob('*.py')]
  paths = [path for path in paths if 'importers' not in path.parts]
  for path in [*paths, *(ROOT / 'bigjax').glob('*.py')]:
    tree = ast.parse(path.read_text(encoding='utf-8'))
    aside = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    aside |= {id(part) for text in texts for part in text.values}
    for node in ast.walk(tree):
      if id(node) in aside:
        continue
      text = ''
      if isinstance(node, ast.JoinedStr):
        text = ''.join(p.value if isinstance(p, ast.Constant) else '*' for p in node.values)
      elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
      if re.fullmatch(r'[\w*]*\.jsonl?', text):
        yield path, text


def test_statuses_are_those_of_the_code():
  told = {int(row[0]) for row in rows('Exit status')}
  assert told == set(errors.STATUSES) == {0, 1, 2, 130, 141}
  assert all(str(status) in __main__.usage() for status in told)
  for _, _, of in rows('Exit status'):
    assert of == 'every verb' or of.strip('`') in __main__.VERBS


def test_every_json_file_that_the_code_names_is_on_the_page():
  told = ' '.join(row[1] for row in rows('JSON'))
  found = {text for _, text in named_files()}
  assert {'summary.json', 'metrics.jsonl', 'by_class.jsonl', '*_attribution.json'} <= found
  bare = {'.json', '.jsonl', '*.json'}  # of an ending that is put behind another name
  untold = [name for name in found - bare if name.replace('*', '') not in told]
  assert not untold


def test_every_option_for_json_is_on_the_page():
  told = {row[0].strip('`') for row in rows('JSON') if '--json' in row[1]}
  tables = {verb: importlib.import_module(f'bigjax.{verb}') for verb in __main__.VERBS}
  found = {
    verb
    for verb, module in tables.items()
    if 'json' in {**getattr(module, 'OPTIONS', {}), **getattr(module, 'SWITCHES', {})}
    or (hasattr(module, 'arguments') and '--json' in module.arguments().format_help())
  }
  assert told == found
  assert {row[0].strip('`') for row in rows('JSON')} <= set(__main__.VERBS)


def test_a_run_leaves_these_files_with_these_fields(workdir):
  """Of the tiny run; files that it has not are those that a key asks for."""
  table = {row[1].strip('`'): row[3] for row in rows('JSON') if row[0] == '`train`'}
  paths = [path for path in workdir.rglob('*.json*') if 'checkpoints' not in path.parts]
  found = {str(path.relative_to(workdir)): path for path in paths}
  assert not set(found) - set(table)
  assert set(table) - set(found) <= {'scores.jsonl', 'gradinit.json', 'writers.json'}
  read = 0
  for name, path in found.items():
    text = path.read_text(encoding='utf-8')
    if not text:  # no alarm
      continue
    value = json.loads(text.splitlines()[0] if name.endswith('.jsonl') else text)
    value = value[0] if isinstance(value, list) else value
    told = set(fields(table[name])) - {'group.key', 'card.json'}
    assert told <= set(value), name
    assert '...' in table[name] or 'card.json' in table[name] or told == set(value), name
    read += 1
  assert read >= 7


@pytest.mark.parametrize('verb', ['doctor', 'plan'])
def test_objects_of_json_options_have_these_fields(verb):
  """Read from the texts of the code, as plans take minutes: the dict that is dumped."""
  (row,) = (row for row in rows('JSON') if row[0] == f'`{verb}`')
  tree = ast.parse((ROOT / 'bigjax' / f'{verb}.py').read_text(encoding='utf-8'))
  dumped = [
    {key.value for key in argument.keys}
    for call in ast.walk(tree)
    if isinstance(call, ast.Call) and getattr(call.func, 'attr', '') in ('dumps', 'write_json')
    for argument in call.args
    if isinstance(argument, ast.Dict)
  ]
  assert dumped and all(keys == set(fields(row[3])) for keys in dumped)
