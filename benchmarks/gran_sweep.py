"""GraN on the digits: its Lipschitz constant K against Adam's learning rates.

  nice -n 15 python benchmarks/gran_sweep.py             # a quarter of an hour on one CPU core

Nine runs at BigGAN's compute, one seed, scored as papers.py scores; G's rate is half of D's. Prints
a table. An interrupted sweep goes on.
"""

import argparse
import itertools
import os

from bigjax import data
from bigjax.core import device, files, progress

import papers
from papers_scores import Referee

K = (0.1, 1.0, 10.0)
RATES = (5e-4, 1e-3, 2e-3)  # of D


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--folder', default='runs/gran_sweep', help='of the workdirs')
  args = parser.parse_args()
  device.use_compilation_cache()
  referee = Referee(data.load(papers.system(papers.BIGGAN, papers.YARDSTICK).config.data))
  base, unit, rows = papers.system('gran', 'gran:digits'), papers.yardstick(), []
  steps = base.steps(unit)
  for k, rate in itertools.product(K, RATES):
    config = base.config.copy_and_resolve_references()
    config.optim.update({'gran_k': k, 'disc_lr': rate, 'gen_lr': rate / 2})
    system = papers.System('gran', f'gran:digits,K={k:g},rate={rate:g}', config, base.cost)
    path = os.path.join(args.folder, f'{k:g}_{rate:g}.json')
    if not os.path.exists(path):
      progress.say(f'K = {k:g}, rate {rate:g}')
      row = papers.row_of(papers.Run(system, 0, 1, steps, unit), args.folder, referee)
      if row is None:
        raise SystemExit(1)  # told to end: the next start goes on
      row.pop('strip', None)
      files.write_json(path, row)
    rows.append((k, rate, files.read_json(path)))
  print('| K | rate of D | agreement | precision | coverage | Frechet distance |')
  print('|---' * 6 + '|')
  for k, rate, row in rows:
    names = ('agreement', 'precision', 'coverage', 'fd_held_out_classifier')
    scores = [f'{row[name]:.3f}' if name in row else 'failed' for name in names]
    print(f'| {k:g} | {rate:g} | {" | ".join(scores)} |')


if __name__ == '__main__':
  main()
