"""Fashion-MNIST from scratch and from a digits run: scores against step, in one picture.

  bigjax train && python benchmarks/finetune.py --data_dir /data/tfds

Needs runs/digits and Fashion-MNIST as TFDS prepares it. About ten minutes on two CPU cores.
"""

import argparse
import os

from bigjax.algorithms.base import configs
from bigjax.core import device, files
from bigjax.training import loop

SHOWN = ('agreement', 'precision', 'coverage', 'std_ratio')


def run(workdir, init_from, args):
  """Train unless the workdir is done; return the rows of metrics.jsonl that have scores."""
  config = configs.read('fashion_mnist:16px')
  config.init_from, config.seed, config.data.data_dir = init_from, args.seed, args.data_dir
  config.run.update({'steps': args.steps, 'eval_every': args.every, 'checkpoint_every': args.steps})
  config.optim.ema_start = 0
  summary = loop.train(config, workdir)
  rows = files.read_rows(os.path.join(workdir, 'metrics.jsonl'))
  return [row for row in rows if 'coverage' in row], summary['real']


def draw(path, curves, real):
  """Draw a panel per score, a line per run, real images dashed."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(15, 3.6), layout='constrained')
  for axis, name in zip(figure.subplots(1, len(SHOWN)), SHOWN, strict=True):
    for label, rows in curves.items():
      steps = [row['step'] for row in rows]
      axis.plot(steps, [row[name] for row in rows], marker='o', markersize=3, label=label)
    axis.axhline(real[name], color='grey', linestyle='--', linewidth=0.8)
    axis.set_title(name)
    axis.set_xlabel('step')
    axis.grid(alpha=0.3)
  axis.legend(fontsize=8)
  figure.suptitle('Fashion-MNIST, 16 px: from scratch and from the weights of a digits run')
  figure.savefig(path, dpi=110)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--data_dir', default='', help='of TFDS')
  parser.add_argument('--digits', default='runs/digits', help='the run to begin from')
  parser.add_argument('--workdir', default='runs/finetune', help='for both runs')
  parser.add_argument('--out', default='docs/images/finetune.png')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--steps', type=int, default=500)
  parser.add_argument('--every', type=int, default=50)
  args = parser.parse_args()
  device.use_compilation_cache()
  curves = {}
  for label, init_from in (('from scratch', ''), ('from digits', args.digits)):
    workdir = os.path.join(args.workdir, label.replace(' ', '_'))
    curves[label], real = run(workdir, init_from, args)
  draw(args.out, curves, real)
  print(f'wrote {args.out}')


if __name__ == '__main__':
  main()
