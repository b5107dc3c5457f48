"""Paths as people give them, with a ~ that no shell replaced."""

import os
import re


def expanded(path: str) -> str:
  """A path with the home folder in place of a ~ that no shell replaced: `--workdir='~/x'`.

  In `folder:~/x`, too: what follows the name of a source of data is a path.
  """
  source, colon, rest = path.rpartition(':')
  return source + colon + os.path.expanduser(rest) if re.match('~(/|$)', rest) else path
