"""MSG-GAN on the digits: learning rates of its robustness claim, and how still its samples stand.

  nice -n 15 python benchmarks/msggan_rates.py           # a quarter of an hour on one CPU core

Runs at BigGAN's compute, one seed, scored as papers.py scores: MSG-GAN at the paper's four rates,
the same for both players, and PGGAN as it is on the digits. Prints a table, and draws how far the
samples of fixed latents move from one evaluation to the next (MSG-GAN, Fig. 6), of PGGAN from its
last resolution on. An interrupted sweep goes on.
"""

import os

import sweeps

from bigjax.core import files, plotting

RATES = (1e-3, 3e-3, 5e-3, 1e-2)
EVALS = 20  # of a run
PICTURE = 'docs/images/msggan_rates.png'


def draw(rows: dict, path: str) -> None:
  figure, (axis,) = plotting.figure(1, 'Samples of fixed latents on the digits')
  for label, row in rows.items():
    logged = files.read_rows(os.path.join(row['workdir'], 'metrics.jsonl'))
    found = [(r['step'] / row['steps'], r['samples_moved']) for r in logged if 'samples_moved' in r]
    axis.plot(*zip(*found, strict=True), marker='.', label=label)
  axis.set(xlabel='share of the run', ylabel='mean squared change since the last')
  plotting.log_scale(axis)
  axis.grid(alpha=0.3)
  axis.legend()
  plotting.save(figure, path)


def main() -> None:
  points = {
    f'msggan {rate:g}': ('msggan:digits', {'optim.gen_lr': rate, 'optim.disc_lr': rate})
    for rate in RATES
  }
  points['pggan 0.002'] = ('pggan:digits', {})
  rows = sweeps.swept(__doc__, 'msggan_rates', points, EVALS)
  print(sweeps.table(('system', 'rate'), rows))
  draw(rows, PICTURE)


if __name__ == '__main__':
  main()
