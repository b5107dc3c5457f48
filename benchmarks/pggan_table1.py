"""PGGAN's Table 1 and Figure 4 on CIFAR-10 at 32 px: what each row of the paper switches, at home.

  nice -n 15 python benchmarks/pggan_table1.py --data_dir /data/tfds   # an hour on one CPU core

Rows a to g of `pggan:table1_...` with small networks, the same number of images each, one seed;
and row g without growing. Prints sliced Wasserstein distances and MS-SSIM in the paper's layout,
beside the paper's on LSUN bedrooms, and draws the distance over seconds of training for row g,
growing and not. Samples of an unfinished growing run are enlarged by repetition: all distances are
to real images of 32 px. An interrupted run goes on; a finished one is read.
"""

import argparse
import os

import numpy as np

from bigjax.algorithms.base import configs
from bigjax.core import checkpoint, device, files, plotting, progress
from bigjax.core import config as core_config
from bigjax.evaluation import patch_scores
from bigjax.sampling.loaded import of_workdir
from bigjax.training import loop
from bigjax.training.batches import load_data

PAPER = {  # row: average distance x 1e3 and MS-SSIM of LSUN bedrooms
  'a': (11.25, 0.0587), 'b': (7.60, 0.0615), 'c': (49.52, 0.1061), 'd': (6.54, 0.0662),
  'e_star': (8.43, 0.0648), 'e': (6.48, 0.0671), 'f': (4.02, 0.0668), 'g': (4.01, 0.0640),
}  # fmt: skip
AT_ONCE = 'g, not growing'
SIZE = 32
POINTS = 8  # checkpoints of the two runs that are drawn
SCORED = 2048  # samples
SMALL = {
  'data.source': 'tfds:cifar10', 'data.resolution': SIZE, 'data.num_classes': 1,
  'model.fmap_base': 256, 'model.fmap_max': 48, 'model.z_dim': 64, 'model.dtype': 'float32',
  'run.log_every': 50, 'run.keep': POINTS + 1, 'eval.name': 'none', 'eval.num_samples': 64,
}  # fmt: skip
FASTER = 3  # times the table's learning rates, for thousands of images instead of millions


def config_of(row: str, kimg: float, data_dir: str):
  config = configs.read(f'pggan:table1_{row.partition(",")[0]}')
  first = SIZE if row in ('a', AT_ONCE) else 4
  images = config.optim.batch_size * config.optim.d_steps
  steps = max(int(1000 * kimg / images), POINTS)
  changes = {**SMALL, 'data.data_dir': data_dir, 'model.first_resolution': first}
  if config.model.gen_norm == 'batch':
    changes |= {'eval.standing_passes': 2, 'eval.standing_batch': 128}
  return core_config.changed(config, {
    **changes, 'run.steps': steps,
    'run.checkpoint_every': steps // POINTS, 'run.eval_every': steps,
    # 4 px, then a fade and a hold at 8, 16 and 32 px, the last one three times as long
    'optim.hold_kimg': kimg / 9, 'optim.fade_kimg': kimg / 9,
    'optim.gen_lr': FASTER * config.optim.gen_lr, 'optim.disc_lr': FASTER * config.optim.disc_lr,
    'optim.ema_decay': 0.99 ** (images / 16),
  })  # fmt: skip


def samples(workdir: str, step: int) -> np.ndarray:
  """Images [SCORED, SIZE, SIZE, 3] of a checkpoint."""
  loaded = of_workdir(workdir, str(step))
  spec = loaded.spec()
  loaded.prepare(spec)
  z = loaded.sampler.latents(0, SCORED, spec)
  images = loaded.images(z, np.zeros(SCORED, np.int32), spec)
  times = SIZE // images.shape[1]
  return images.repeat(times, 1).repeat(times, 2)


def measured(row: str, kimg: float, data_dir: str, folder: str) -> dict:
  """Trains one row and scores its end; of row g, growing or not, each of its checkpoints."""
  workdir = os.path.join(folder, row.replace(', ', '_').replace(' ', '_'))
  path = os.path.join(workdir, 'table1.json')
  if not os.path.exists(path):
    config = config_of(row, kimg, data_dir)
    if not loop.train(config, workdir):
      raise SystemExit(1)  # told to end: the next start goes on
    real = load_data(config)[1].train()[0][:SCORED]
    clock = {
      r['step']: r['seconds'] for r in files.read_rows(os.path.join(workdir, 'timing.jsonl'))
    }
    steps = checkpoint.list_steps(workdir)
    found = []
    for step in steps if row.startswith('g') else steps[-1:]:
      progress.say(f'{row}: scores at step {step}')
      seconds = clock[max(at for at in clock if at <= step)]
      found.append({'seconds': seconds, **patch_scores.of_images(samples(workdir, step), real)})
    files.write_json(path, {'row': row, 'found': found})
  return files.read_json(path)


def average(scores: dict) -> float:
  """The sliced Wasserstein distance over all levels."""
  return next(v for k, v in scores.items() if k.startswith('swd') and k.count('_') == 1)


def draw(runs: list[dict], path: str) -> None:
  figure, (axis,) = plotting.figure(1, 'CIFAR-10 at 32 px, row g of Table 1')
  for run in runs:
    points = [(one['seconds'], average(one)) for one in run['found']]
    axis.plot(*zip(*points, strict=True), marker='.', label=run['row'])
  axis.set(xlabel='seconds of training', ylabel='sliced Wasserstein distance x 1e3')
  axis.set(ylim=(0, None))
  axis.grid(alpha=0.3)
  axis.legend()
  plotting.save(figure, path)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--data_dir', required=True, help="where TFDS' CIFAR-10 lies")
  parser.add_argument('--kimg', type=float, default=48, help='thousands of images of each row')
  parser.add_argument('--folder', default='runs/pggan_table1', help='of the workdirs')
  parser.add_argument('--picture', default='docs/images/growing_or_not.png')
  args = parser.parse_args()
  device.use_compilation_cache()
  wanted = [*(row for row in PAPER if row != 'g'), 'g', AT_ONCE]  # what is timed, together
  runs = {row: measured(row, args.kimg, args.data_dir, args.folder) for row in wanted}
  rows = {row: run['found'][-1] for row, run in runs.items()}
  print(patch_scores.table([
    (row, {k: f'{v:.4f}' if 'ssim' in k else f'{v:.2f}' for k, v in scores.items()})
    for row, scores in sorted(rows.items())
  ]))  # fmt: skip
  order = lambda of: ' < '.join(sorted(PAPER, key=of))
  print(f'order of distances here:     {order(lambda row: average(rows[row]))}')
  print(f'order of distances in paper: {order(lambda row: PAPER[row][0])}')
  draw([runs['g'], runs[AT_ONCE]], args.picture)


if __name__ == '__main__':
  main()
