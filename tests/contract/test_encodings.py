"""Text is UTF-8 wherever it is read or written, and no terminal lacks a letter."""

import ast
import importlib
import io
import sys

import pytest

from bigjax import __main__
from bigjax.core import errors

from places import ROOT


def without_encoding(tree):
  """Line numbers of calls that read or write text in whatever encoding the system has."""
  found = []
  for node in ast.walk(tree):
    if not isinstance(node, ast.Call) or any(k.arg == 'encoding' for k in node.keywords):
      continue
    name = getattr(node.func, 'id', getattr(node.func, 'attr', ''))
    words = [a.value for a in node.args if isinstance(a, ast.Constant)]
    own = isinstance(node.func, ast.Name) and name == 'open'
    if name in ('read_text', 'write_text') or (own and not any(w in ('rb', 'wb') for w in words)):
      found.append(node.lineno)
  return found


def test_every_text_file_has_an_encoding():
  for path in sorted((ROOT / 'bigjax').rglob('*.py')):
    assert not without_encoding(ast.parse(path.read_text(encoding='utf-8'))), path


def test_the_check_sees_one():
  code = "open(p)\nopen(p, 'rb')\nopen(p, 'w', encoding='utf-8')\nopen(p, 'a')\np.read_text()"
  assert without_encoding(ast.parse(code)) == [1, 4, 5]


@pytest.mark.parametrize('verb', __main__.VERBS)
def test_a_terminal_without_the_letters_ends_no_verb(monkeypatch, verb):
  def main(argv):
    del argv
    print('класс ', '花', '\udcff')
    print('ü', file=sys.stderr)
    raise errors.UserError('there is no class Жук')

  monkeypatch.setattr(importlib.import_module(f'bigjax.{verb}'), 'main', main)
  streams = {name: io.TextIOWrapper(io.BytesIO(), 'ascii') for name in ('stdout', 'stderr')}
  for name, stream in streams.items():
    monkeypatch.setattr(sys, name, stream)
  assert __main__.main([verb]) == 2
  said = {}
  for name, stream in streams.items():
    stream.flush()
    said[name] = stream.buffer.getvalue().decode('ascii')
  assert '\\u82b1' in said['stdout'] and '\\udcff' in said['stdout']
  assert '\\xfc' in said['stderr'] and 'there is no class \\u0416' in said['stderr']
