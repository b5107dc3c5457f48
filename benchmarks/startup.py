"""Seconds from a command to what it is for: help, import, first step, first image.

  python benchmarks/startup.py [--rounds 3]

Cold is with an empty compilation cache, warm with the one that the cold run left. The first step is
that of `digits`; sampling is from the parameters that such a run exports.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

BIGJAX = (sys.executable, '-m', 'bigjax')
TRAIN = (
  *BIGJAX,
  'train',
  '--config.run.steps=1',
  '--config.eval.name=none',
  '--config.run.best=',
  '--config.export.truncations=none',
)


def timed(command, cache, cwd):
  """Return the seconds that a command takes, with its compilation cache in a folder."""
  env = {**os.environ, 'BIGJAX_CACHE': cache}
  start = time.monotonic()
  subprocess.run(command, check=True, cwd=cwd, env=env, capture_output=True)
  return time.monotonic() - start


def one_round(folder):
  """Return {what: seconds}, each command cold and, where it compiles, warm."""
  cache = os.path.join(folder, 'cache')
  export = os.path.join('runs', 'digits', 'export', 'generator.safetensors')
  sample = (*BIGJAX, 'sample', '--params', export, '--out', 'grid.png')
  took = {
    'bigjax --help': timed((*BIGJAX, '--help'), cache, folder),
    'import bigjax': timed((sys.executable, '-c', 'import bigjax'), cache, folder),
  }
  for how in ('cold', 'warm'):
    shutil.rmtree(os.path.join(folder, 'runs'), ignore_errors=True)
    took[f'one step of digits, its pictures and export, {how}'] = timed(TRAIN, cache, folder)
  cache = os.path.join(folder, 'another')
  for how in ('cold', 'warm'):
    took[f'a class grid from the export, {how}'] = timed(sample, cache, folder)
  return took


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=3)
  args = parser.parse_args()
  rounds = []
  for _ in range(args.rounds):
    with tempfile.TemporaryDirectory() as folder:
      rounds.append(one_round(folder))
  print('| | seconds, median | all |\n|---|---|---|')
  for what in rounds[0]:
    values = [took[what] for took in rounds]
    shown = ', '.join(f'{value:.2f}' for value in values)
    print(f'| {what} | {statistics.median(values):.2f} | {shown} |')


if __name__ == '__main__':
  main()
