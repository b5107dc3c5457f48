"""The floors of the house: a file imports only from lower ones, and never a sibling family."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent / 'bigjax'
FLOORS = {
  'utils': 0, 'parallel': 0.5, 'linalg': 0, 'config': 0.5,  # both use utils
  'layers': 1, 'spectral': 1, 'losses': 1, 'regularizers': 1, 'augment': 1, 'optim': 1,
  'forms': 0.7, 'latents': 1, 'singular': 0.7, 'published': 1, 'flops': 0, 'hlo': 1, 'tpu': 1,
  'layouts': 1,
  'hosts': 0.5, 'remote': 0.6, 'watch': 1, 'history': 2.5, 'log': 3, 'rollback': 3.2,
  'writing': 2.5,
  'models': 2, 'data': 2, 'checkpoint': 2, 'report': 2, 'plots': 2, 'pth': 2,
  'algorithms': 3, 'evaluators': 3, 'card': 3, 'features': 3, 'transfer': 3.5, 'neighbours': 3.5,
  'build': 4,
  'sample': 4.5,  # what export writes is what it makes
  'train': 5, 'doctor': 5, 'plan': 4.8, 'surroundings': 4.9, 'export': 5, 'convert': 5,
  '__main__': 5,
  'evaluate': 5, 'scoring': 4.7, 'looker': 4.5, 'real': 3,
}  # fmt: skip
FAMILIES = ('algorithms', 'models')  # rooms of files that know nothing of each other
FILES = sorted(p for p in ROOT.rglob('*.py') if p != ROOT / '__init__.py')


def room(path: pathlib.Path) -> str:
  return path.relative_to(ROOT).parts[0].removesuffix('.py')


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


def violations(path: pathlib.Path, source: str) -> list[str]:
  mine, wrong = room(path), []
  for other, *rest in imported(source):
    if other not in FLOORS:
      wrong.append(f'{other} is in no floor')
    elif other != mine and FLOORS[other] >= FLOORS[mine]:
      wrong.append(f'{mine} (floor {FLOORS[mine]}) imports {other} (floor {FLOORS[other]})')
    elif other == mine in FAMILIES and rest and rest[0] not in ('base', path.stem):
      wrong.append(f'family {path.stem} imports its sibling {rest[0]}')
  return wrong


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
  assert room(path) in FLOORS, f'give {path.name} a floor'
  assert violations(path, path.read_text()) == []


@pytest.mark.parametrize(
  ('path', 'source'),
  [
    ('spectral.py', 'from bigjax import train'),
    ('spectral.py', 'def f():\n  import bigjax.build'),
    ('evaluators/pixels.py', 'from bigjax.algorithms import biggan'),
    ('algorithms/sngan.py', 'from bigjax.algorithms import biggan'),
    ('models/biggan_deep.py', 'from bigjax.models.biggan import Generator'),
    ('layers.py', 'from bigjax.spectral import track'),
    ('linalg.py', 'from bigjax import singular'),
  ],
)
def test_the_walk_sees_a_wrong_import(path, source):
  assert violations(ROOT / path, source)


def test_only_parallel_names_the_mesh_axes():
  named = [p.name for p in FILES if re.search(r'PartitionSpec|\bSLICE\b', p.read_text())]
  assert named == ['parallel.py']


def test_trainer_and_build_name_no_family():
  families = {p.stem for p in (ROOT / 'algorithms').glob('*.py')} - {'base', '__init__'}
  for name in ('train.py', 'build.py'):
    words = set((ROOT / name).read_text().replace('.', ' ').replace("'", ' ').split())
    assert not families & words


def test_only_data_and_report_import_tensorflow():
  found = set()
  for path in FILES:
    for node in ast.walk(ast.parse(path.read_text())):
      names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
      names += [node.module or ''] if isinstance(node, ast.ImportFrom) else []
      if any(name.split('.')[0] in ('tensorflow', 'tensorflow_datasets') for name in names):
        found.add(room(path))
  assert found and found <= {'data', 'report'}


MODULES = ['bigjax', 'bigjax.sample', 'bigjax.build', 'bigjax.export', 'bigjax.convert']


@pytest.mark.parametrize('module', MODULES)
def test_no_training_library_where_only_images_are_wanted(module):
  unwanted = {'tensorflow', 'sklearn', 'torch'}
  code = f'import {module}, sys; sys.exit(len({unwanted} & set(sys.modules)))'
  assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
