"""What the tests promise of themselves: lists that are current, small files, seconds by family."""

import ast
import types

import pytest

import places
import schedule
import seconds

TESTS = places.ROOT / 'tests'
MEGABYTES = 8  # of golden files, all together


def lines(name):
  found = [line.strip() for line in (TESTS / name).read_text().splitlines()]
  return [line for line in found if line]


def missing(name):
  """What a list's line names and the tests have not: the file, or the function in it; else None."""
  path, _, test = name.partition('::')
  if not (places.ROOT / path).is_file():
    return path
  tree = ast.parse((places.ROOT / path).read_text())
  functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
  return test if test and test.partition('[')[0] not in functions else None


@pytest.mark.parametrize('name', ['must_run.txt', 'short.txt'])
def test_lists_name_tests_that_exist(name):
  found = lines(name)
  assert found == sorted(set(found)) and [missing(line) for line in found] == [None] * len(found)


def test_a_stale_line_is_seen():
  assert missing('tests/contract/test_nothing.py') == 'tests/contract/test_nothing.py'
  here = 'tests/system/test_suite.py'
  assert missing(f'{here}::test_a_stale_line_is_seen[x]') is None
  assert missing(f'{here}::test_that_was_renamed') == 'test_that_was_renamed'


def test_every_contract_test_must_run():
  contract = {f'tests/contract/{path.name}' for path in (TESTS / 'contract').glob('test_*.py')}
  assert contract <= {line.partition('::')[0] for line in lines('must_run.txt')}


def test_golden_files_are_small():
  sizes = {path.name: path.stat().st_size for path in places.GOLDEN.rglob('*') if path.is_file()}
  assert 0 < sum(sizes.values()) <= MEGABYTES * 1e6, sizes


def test_families_are_found():
  assert {'biggan', 'biggan_deep'} <= set(seconds.names())
  assert '__init__' not in seconds.names()


def test_what_a_test_is_counted_under():
  expected = {
    'tests/algorithms/test_biggan.py::test_a': 'biggan',
    'tests/models/test_biggan_deep.py::test_a[8]': 'biggan_deep',
    'tests/contract/test_contract.py::test_a[biggan-biggan_deep]': 'biggan_deep',
    'tests/contract/test_golden.py::test_a[biggan32_ch8]': 'biggan',
    'tests/contract/test_contract.py::test_a[toy_video]': 'toys',
    'tests/contract/test_toys.py::test_a[biggan]': 'toys',
    'tests/nn/test_losses.py::test_bigganish': 'tests/nn',
    'tests/models/pretrained/test_inception.py::test_a': 'tests/models',
    'test_a.py::test_a': 'test_a.py',
  }
  assert {x: seconds.heading(x, ['biggan_deep', 'biggan']) for x in expected} == expected


def test_seconds_are_summed_over_the_parts_of_a_test_and_sorted():
  reports = [
    types.SimpleNamespace(nodeid=nodeid, duration=duration)
    for nodeid, duration in [
      ('tests/nn/test_losses.py::test_a', 0.5),
      ('tests/models/test_biggan.py::test_a', 2.0),  # setup, call
      ('tests/models/test_biggan.py::test_a', 1.0),
      ('tests/algorithms/test_biggan.py::test_b', 4.0),
      ('tests/contract/test_toys.py::test_a', 0.75),
    ]
  ]
  assert seconds.by_family(reports, seconds.names()) == [
    ('biggan', 7.0, 2), ('toys', 0.75, 1), ('tests/nn', 0.5, 1),
  ]  # fmt: skip


def test_what_shares_programs_is_one_group():
  contract = 'tests/contract/test_contract.py'
  group = schedule.together
  assert group(f'{contract}::test_a[biggan-sagan]') == group(f'{contract}::test_b[biggan-sagan]')
  assert group(f'{contract}::test_a[biggan-sagan]') != group(f'{contract}::test_a[sngan]')
  assert group('tests/core/test_a.py::test_a[x]') == group('tests/core/test_a.py::test_b')
  assert group('tests/core/test_a.py::test_a') != group('tests/nn/test_a.py::test_a')


def test_a_group_in_two_processes_is_seen():
  """As it was when a new pytest switched off how the groups were said."""
  ran = lambda test, process: types.SimpleNamespace(nodeid=f't.py::{test}', worker_id=process)
  assert schedule.apart([ran('a', 'gw0'), ran('b', 'gw0')]) == []
  assert schedule.apart([ran('a', 'gw0'), ran('b', 'gw1')]) == ['t.py']
