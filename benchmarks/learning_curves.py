"""Agreement and Frechet distance against step, of finished runs, in one picture.

  python benchmarks/learning_curves.py runs/fashion_mnist runs/cifar10-laptop

Each run must have been scored by a classifier of its own (eval.name=classifier). Distances are in
that classifier's features: lines of one data set compare, of two they do not.
"""

import argparse
import json
import os

from matplotlib.figure import Figure

from bigjax.core import files

SHOWN = {
  'agreement': 'share of samples that a classifier takes for the class asked for',
  'fd_held_out_classifier': "Frechet distance in the classifier's features",
}


def read(workdir):
  """Return (data source, rows with scores, what real images score)."""
  with open(os.path.join(workdir, 'config.json')) as f:
    source = json.load(f)['data.source']
  with open(os.path.join(workdir, 'summary.json')) as f:
    real = json.load(f)['real']
  rows = files.read_rows(os.path.join(workdir, 'metrics.jsonl'))
  return source, [row for row in rows if 'fd_held_out_classifier' in row], real


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('workdirs', nargs='+')
  parser.add_argument('--out', default='docs/images/learning_curves.png')
  args = parser.parse_args()
  runs = [read(workdir) for workdir in args.workdirs]
  figure = Figure(figsize=(11, 3.8), layout='constrained')
  for axis, (name, title) in zip(figure.subplots(1, len(SHOWN)), SHOWN.items(), strict=True):
    for i, (source, rows, real) in enumerate(runs):
      points = [(row['step'], row[name]) for row in rows]
      axis.plot(*zip(*points, strict=True), color=f'C{i}', marker='o', markersize=3, label=source)
      axis.axhline(real[name], color=f'C{i}', linestyle='--', linewidth=0.8)
    axis.set_title(title + ' (dashed: real images)', fontsize=9)
    axis.set_xlabel('step')
    axis.grid(alpha=0.3)
  axis.set_yscale('log')
  axis.legend(fontsize=8)
  figure.savefig(args.out, dpi=110)
  print(f'wrote {args.out}')


if __name__ == '__main__':
  main()
