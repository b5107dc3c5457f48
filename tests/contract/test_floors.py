"""The floors of the house: a file imports only from lower ones, never a sibling family."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

import places

ROOT = places.ROOT / 'bigjax'
FLOORS = {  # by folder; the files beside them are the verbs, on top
  'core': 0, 'data': 1, 'nn': 1, 'models': 2, 'algorithms': 3, 'sampling': 4, 'evaluation': 5,
  'training': 6, 'preflight': 7,
}  # fmt: skip
VERBS = 8
FAMILIES = ('algorithms', 'models')  # folders of files that know nothing of each other
FILES = sorted(p for p in ROOT.rglob('*.py') if p != ROOT / '__init__.py')


def imported(source: str) -> list[tuple[str, ...]]:
  """Return the parts below bigjax of every module a file imports, anywhere in it."""
  found = []
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names = [f'{node.module}.{alias.name}' for alias in node.names]
    else:
      continue
    found += [tuple(name.split('.')[1:]) for name in names if name.split('.')[0] == 'bigjax']
  return [parts for parts in found if parts and not parts[0].startswith('__')]


def module(parts: tuple[str, ...]) -> pathlib.Path | None:
  """Return the file that an import names, or that defines what it names."""
  for end in range(len(parts), 0, -1):
    path = ROOT.joinpath(*parts[:end])
    for file in (path.with_suffix('.py'), path / '__init__.py'):
      if file.is_file():
        return file
  return None


def violations(path: pathlib.Path, source: str) -> list[str]:
  room, *inner = path.relative_to(ROOT).parts
  mine, wrong = FLOORS.get(room, VERBS), []
  for other, *rest in imported(source):
    theirs = FLOORS.get(other, VERBS)
    if other != room and theirs >= mine:
      wrong.append(f'{path.name} (floor {mine}) imports {other} (floor {theirs})')
    elif (
      other == room in FAMILIES
      and len(inner) == 1  # a family, not what families share
      and rest
      and (ROOT / room / f'{rest[0]}.py').is_file()
      and rest[0] != path.stem
    ):
      wrong.append(f'family {path.stem} imports its sibling {rest[0]}')
  return wrong


def circles() -> list[str]:
  """Return the files that import themselves by way of others."""
  arrows = {
    path: {module(parts) for parts in imported(path.read_text())} - {None, path} for path in FILES
  }
  found = []
  for start in FILES:
    seen, ahead = set(), list(arrows[start])
    while ahead:
      path = ahead.pop()
      if path not in seen:
        seen.add(path)
        ahead += arrows.get(path, ())
    if start in seen:
      found.append(str(start.relative_to(ROOT)))
  return found


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
  folder = path.relative_to(ROOT).parts[0]
  assert folder in FLOORS or path.parent == ROOT, f'give the folder {folder} a floor'
  assert violations(path, path.read_text()) == []


def test_no_circles():
  assert circles() == []


@pytest.mark.parametrize(
  ('path', 'source'),
  [
    ('nn/spectral_norm.py', 'from bigjax import train'),
    ('nn/spectral_norm.py', 'def f():\n  import bigjax.training.program'),
    ('nn/layers.py', 'from bigjax.data import Source'),
    ('evaluation/quick/pixels.py', 'from bigjax.training import loop'),
    ('algorithms/sngan.py', 'from bigjax.algorithms import biggan'),
    ('models/biggan_deep.py', 'from bigjax.models.biggan import Generator'),
    ('core/trees.py', 'from bigjax.nn import linalg'),
    ('export.py', 'from bigjax import sample'),
  ],
)
def test_the_walk_sees_a_wrong_import(path, source):
  assert violations(ROOT / path, source)


def test_only_parallel_names_the_mesh_axes():
  named = [p.name for p in FILES if re.search(r'PartitionSpec|\bSLICE\b', p.read_text())]
  assert named == ['parallel.py']


def test_no_family_is_named_where_all_are_served():
  """Comments apart, in no file above algorithms/ but the readers of other people's weights."""
  families = {p.stem for p in (ROOT / 'algorithms').glob('*.py')} - {'__init__'}
  for path in FILES:
    room, *inner = path.relative_to(ROOT).parts
    if room in ('core', 'data', 'nn', 'models', 'algorithms') or 'importers' in inner:
      continue
    code = re.sub(r'""".*?"""|#.*', '', path.read_text(), flags=re.DOTALL)
    words = set(re.findall(r"(?<=')\w+(?=')|(?<=algorithms\.)\w+|(?<=algorithms import )\w+", code))
    assert not families & words, path


def test_only_data_and_the_log_import_tensorflow():
  found = set()
  for path in FILES:
    for node in ast.walk(ast.parse(path.read_text())):
      names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
      names += [node.module or ''] if isinstance(node, ast.ImportFrom) else []
      if any(name.split('.')[0] in ('tensorflow', 'tensorflow_datasets', 'clu') for name in names):
        found.add(path.relative_to(ROOT).parts[0])
  assert found and found <= {'data', 'training', 'train.py'}


def test_no_folder_is_crowded():
  for folder in {path.parent for path in FILES}:
    num = len([path for path in FILES if path.parent == folder])
    assert num <= 15 or folder in (ROOT / 'algorithms', ROOT / 'models'), (folder, num)


MODULES = [
  'bigjax', 'bigjax.sampling.loaded', 'bigjax.sampling.pictures', 'bigjax.sampling.stablehlo',
  'bigjax.sampling.importers.conversion',
]  # fmt: skip


@pytest.mark.parametrize('module', MODULES)
def test_no_training_library_where_only_images_are_wanted(module):
  unwanted = {'tensorflow', 'sklearn', 'torch'}
  code = f'import {module}, sys; sys.exit(len({unwanted} & set(sys.modules)))'
  assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
