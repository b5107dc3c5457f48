"""Every module of the package can be imported with what the tests install."""

import importlib

import pytest

import places

MODULES = sorted(
  '.'.join(path.relative_to(places.ROOT).with_suffix('').parts).removesuffix('.__init__')
  for path in (places.ROOT / 'bigjax').rglob('*.py')
)


def test_modules_are_found():
  assert {'bigjax', 'bigjax.train', 'bigjax.algorithms.base.contract'} <= set(MODULES)


@pytest.mark.parametrize('name', MODULES)
def test_it_imports(name):
  importlib.import_module(name)
