"""`bigjax train`: trains from a config, or resumes a run."""

import os
import time

import ml_collections

from bigjax.algorithms.base import configs
from bigjax.core import config as core_config

USAGE = """usage: bigjax train [--config NAME[:variant,...] | FILE.py[:variant,...]] [--workdir DIR]
                    [--dry_run] [--change] [--config.group.key=value ...]

Trains from a config, or resumes the run that DIR holds (default: digits, in runs/NAME).
Variants are composed from left to right; any config has `tiny` (seconds) and `digits` (minutes).
--dry_run prints the config, the parameters of every player and the stages, and exits; what a start
would refuse, it refuses, but for what only the data can tell where that is absent.
--change goes on with other values than the run in DIR began with, and writes that in its history.
Config files are Python and are executed: run only those you trust.
"""
OPTIONS = {'workdir': 'where the run lives'}
SWITCHES = {'dry_run': 'show what would run', 'change': 'go on with other values'}


def parse(argv: list[str]) -> tuple[ml_collections.ConfigDict, str, dict[str, bool]]:
  """Return (config with overrides, workdir, switches) from the command line.

  Raises:
    UserError: it makes no sense.
  """
  config, name, given = configs.parse('train', argv, OPTIONS, SWITCHES)
  return config, given['workdir'] or os.path.join('runs', name), given


def main(argv: list[str]) -> None:
  """`bigjax train`."""
  if '--help' in argv or '-h' in argv:
    print(USAGE + '\nconfigs: ' + ', '.join(sorted(core_config.builtin())))
    return
  began = time.monotonic()
  run(*parse(argv), began)


def run(
  config: ml_collections.ConfigDict,
  workdir: str,
  given: dict[str, bool],
  began: float | None = None,
) -> None:
  """Train, or show what would be trained; `began` is time.monotonic() of the process's start."""
  from bigjax.core import device, errors, processes
  from bigjax.training import loop, ready

  if given['dry_run']:
    ready.dry_run(config, workdir, given['change'])
    return
  errors.need('training', 'train', 'tensorflow', 'clu', 'matplotlib')
  processes.connect()
  device.use_compilation_cache()
  with processes.together():
    loop.train(config, workdir, change=given['change'], began=began)
