"""Seconds of tests by family: what each family and its networks add to `pytest`."""

import collections
import re
from collections.abc import Iterable

import places


def names() -> list[str]:
  """Families and networks: the files of algorithms/ and models/, longest name first."""
  folders = (places.ROOT / 'bigjax' / folder for folder in ('algorithms', 'models'))
  found = {path.stem for folder in folders for path in folder.glob('*.py')} - {'__init__'}
  return sorted(found, key=lambda name: (-len(name), name))


def heading(nodeid: str, families: list[str]) -> str:
  """What a test is counted under: the family or network that its id names, 'toys', or its folder.

  Args:
    nodeid: of pytest, as 'tests/models/test_biggan.py::test_a[biggan_deep]'.
    families: longest first, so that 'biggan_deep' is not 'biggan'.
  """
  if re.search(r'(?<![a-z])toys?(?![a-z])', nodeid):
    return 'toys'
  for name in families:
    if re.search(rf'(?<![a-z0-9]){re.escape(name)}(?![a-z])', nodeid):
      return name
  parts = nodeid.partition('::')[0].split('/')
  return '/'.join(parts[:2]) if len(parts) > 2 else parts[0]


def by_family(reports: Iterable, families: list[str]) -> list[tuple[str, float, int]]:
  """(Heading, seconds of setup, call and teardown, tests), the longest first."""
  seconds, tests = collections.Counter(), collections.defaultdict(set)
  for report in reports:
    at = heading(report.nodeid, families)
    seconds[at] += report.duration
    tests[at].add(report.nodeid)
  return [(at, spent, len(tests[at])) for at, spent in seconds.most_common()]
