"""GraN on the digits: its Lipschitz constant K against Adam's learning rates.

  nice -n 15 python benchmarks/gran_sweep.py             # a quarter of an hour on one CPU core

Nine runs at BigGAN's compute, one seed, scored as papers.py scores; G's rate is half of D's. Prints
a table. An interrupted sweep goes on.
"""

import itertools

import sweeps

K = (0.1, 1.0, 10.0)
RATES = (5e-4, 1e-3, 2e-3)  # of D


def main() -> None:
  points = {
    f'{k:g} {rate:g}': (
      'gran:digits',
      {'optim.gran_k': k, 'optim.disc_lr': rate, 'optim.gen_lr': rate / 2},
    )
    for k, rate in itertools.product(K, RATES)
  }
  rows = sweeps.swept(__doc__, 'gran_sweep', points)
  print(sweeps.table(('K', 'rate of D'), rows))


if __name__ == '__main__':
  main()
