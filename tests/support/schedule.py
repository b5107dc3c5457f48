"""Which tests go to one process of several: those that share compiled programs and fixtures."""

import collections
from collections.abc import Iterable

from xdist.scheduler import LoadScopeScheduling

CONTRACT = 'tests/contract/test_contract.py'


def together(nodeid: str) -> str:
  """The group of a test: its file, or, in the contract of all families, the pair that it is of."""
  path, _, test = nodeid.partition('::')
  return path + ''.join(test.partition('[')[1:]) if path.endswith(CONTRACT) else path


class Together(LoadScopeScheduling):
  """Sends tests of a group to one process, groups in the order of their first tests."""

  def _split_scope(self, nodeid: str) -> str:
    return together(nodeid)


def apart(reports: Iterable) -> list[str]:
  """Groups of which several processes ran tests, so that each compiled their programs."""
  processes = collections.defaultdict(set)
  for report in reports:
    processes[together(report.nodeid)].add(getattr(report, 'worker_id', ''))
  return sorted(group for group, found in processes.items() if len(found) > 1)
