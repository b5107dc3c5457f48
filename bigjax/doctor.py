"""`bigjax doctor`: what can be known of a config and its data before a run is paid for.

One line per check, and a contact sheet of what the networks will really see, with labels.
"""

import json
from collections.abc import Mapping
from typing import Any

import ml_collections

from bigjax.algorithms.base import configs
from bigjax.core import config as core_config
from bigjax.core import errors, files

USAGE = """usage: bigjax doctor [--config NAME[:variant] | FILE.py[:variant]] [--workdir DIR]
                     [--topology NAME] [--sheet FILE.png] [--json] [--config.group.key=value ...]

Checks a config against its data (classes and their counts, labels, sizes, unreadable files, copies,
batch size) and against this machine: versions, devices, host memory, room for checkpoints, weights
for scores, what --workdir holds, and with --topology, such as v3-128, the memory of a TPU slice.
Draws the images as training will see them, with their labels (default: contact_sheet.png).
Exits with 1 where a check fails, else with 0.
"""
OPTIONS = {
  'sheet': 'where to draw the contact sheet',
  'workdir': 'where the run would live',
  'topology': 'a TPU slice it would run on',
}
SWITCHES = {'json': 'print one JSON object instead of lines'}


def parse(argv: list[str]) -> tuple[ml_collections.ConfigDict, dict[str, Any]]:
  """(Config, options and switches) of the command line.

  Raises:
    UserError: it makes no sense.
  """
  config, _, given = configs.parse('doctor', argv, OPTIONS, SWITCHES, check)
  return config, given


def main(argv: list[str]) -> int:
  """`bigjax doctor`; returns the exit status."""
  if '--help' in argv or '-h' in argv:
    print(USAGE + '\nconfigs: ' + ', '.join(sorted(core_config.builtin())))
    return 0
  return run(*parse(argv))


def check(given: Mapping[str, Any]) -> None:
  """Refuse a sheet that is no picture, and a TPU slice without its compiler.

  Raises:
    UserError: as above.
  """
  if given['sheet']:
    files.ending('--sheet', given['sheet'], ('.png', '.jpg', '.jpeg', '.webp'))
  if given['topology']:
    errors.need('--topology', 'plan', 'libtpu')


def run(config: ml_collections.ConfigDict, given: dict[str, Any]) -> int:
  """Check what the options name, and print what was found; returns the exit status."""
  from bigjax.core import processes
  from bigjax.preflight import machine_checks
  from bigjax.preflight.data_checks import draw_sheet, examine

  processes.connect()
  found, counts, source = examine(config, given['workdir'], given['topology'])
  found += machine_checks.versions() + machine_checks.devices() + machine_checks.clocks()
  if source is not None:
    path = given['sheet'] or 'contact_sheet.png'
    try:
      draw_sheet(source, config, path)
      found.append(('ok', f'look at {path}: are these your images, and their labels?'))
    except (OSError, ValueError) as error:
      found.append(('fail', f'--sheet={path} cannot be written ({error}); give another .png'))
    except errors.UserError as error:
      found.append(('fail', str(error)))
  failed = any(level == 'fail' for level, _ in found)
  if given['json']:
    checks = [{'level': level, 'message': sentence} for level, sentence in found]
    print(json.dumps({'ok': not failed, 'checks': checks, 'counts': counts}, indent=2))
  else:
    for level, sentence in found:
      print(f'{level:8}{sentence}')
    if counts and len(counts) <= 50:
      print('\n' + '\n'.join(f'{count:8,}  {name}' for name, count in counts.items()))
  return errors.FAILED if failed else errors.DONE
