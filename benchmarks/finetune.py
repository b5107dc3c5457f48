"""Fashion-MNIST from scratch and from a digits run: scores against step, in one picture.

  bigjax train && python benchmarks/finetune.py --data_dir /data/tfds
  bigjax train --config stylegan2:digits --workdir runs/stylegan2
  python benchmarks/finetune.py --system stylegan2 --digits runs/stylegan2 --data_dir /data/tfds

BigGAN on all of it; StyleGAN2 on a hundred images of each class, as ADA's paper trains on from
other weights: p moves fast, the average is as long from the start, and the first layers of D stay.
Needs a digits run and Fashion-MNIST as TFDS prepares it. About ten minutes on two CPU cores.
"""

import argparse
import os

from bigjax.algorithms.base import configs
from bigjax.core import config as core_config
from bigjax.core import device, files
from bigjax.training import loop

SHOWN = ('agreement', 'precision', 'coverage', 'std_ratio')
FREEZE = {'stylegan2': {'optim.freeze_disc': 2}}  # where training goes on from digits


def config_of(system):
  """A system on Fashion-MNIST at 16 px, with the networks that its digits run has."""
  biggan = configs.read('fashion_mnist:16px')
  if system == 'biggan':
    biggan.optim.ema_start = 0
    return biggan
  of_set = {
    key: value for key, value in core_config.flatten(biggan).items()
    if key.split('.')[0] in ('data', 'eval') and 'standing' not in key
  }  # fmt: skip
  ada = {'augment.name': 'ada_bgc', 'augment.target': 0.6, 'augment.kimg': 100.0}
  return core_config.changed(
    configs.read('stylegan2:digits'), of_set | ada | {'data.per_class': 100}
  )


def run(workdir, init_from, args):
  """Train unless the workdir is done; return the rows of metrics.jsonl that have scores."""
  config = config_of(args.system)
  config.init_from, config.seed, config.data.data_dir = init_from, args.seed, args.data_dir
  config.run.update({'steps': args.steps, 'eval_every': args.every, 'checkpoint_every': args.steps})
  if init_from:
    config = core_config.changed(config, FREEZE.get(args.system, {}))
  summary = loop.train(config, workdir)
  rows = files.read_rows(os.path.join(workdir, 'metrics.jsonl'))
  return [row for row in rows if 'coverage' in row], summary['real']


def draw(path, curves, real, title):
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
  figure.suptitle(title)
  figure.savefig(path, dpi=110)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--system', default='biggan', choices=('biggan', 'stylegan2'))
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
  images = 'a hundred images of each class' if args.system != 'biggan' else 'all images'
  title = f'Fashion-MNIST, 16 px, {images}: from scratch and from the weights of a digits run'
  draw(args.out, curves, real, title)
  print(f'wrote {args.out}')


if __name__ == '__main__':
  main()
