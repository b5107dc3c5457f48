"""Fifty images of each class of CIFAR-10: does the discriminator learn them by heart?

  nice -n 15 python benchmarks/limited_data.py --data_dir /data/tfds   # three hours on one CPU core

BigGAN at 16 channels without augmentation, with DiffAugment and with ADA, three seeds each. Prints
of each run the share of D's right signs on all training images and on as many held-out ones, not
augmented, how often it scores the first above the second, and what ADA's probability p and its
measure r_t did; draws them over the images shown. An interrupted run goes on; a finished one is
read.
"""

import os
import statistics

import jax
import ml_collections
import numpy as np
import recipes

from bigjax.algorithms.base import configs
from bigjax.core import checkpoint, files, plotting, progress
from bigjax.core import config as core_config
from bigjax.training.batches import load_data
from bigjax.training.program import make_program

FIXED = {'augment.target': 0.0, 'augment.kimg': 500.0}  # as by default: nothing adapts
RECIPES = {
  'no augmentation': {'augment.name': 'none', **FIXED},
  'DiffAugment': {'augment.name': 'color,translation,cutout', **FIXED},
  'ADA': {},
}
# What `ada:cifar10_500` is cut down to, for two CPU cores. D learns fast: at the config's 2e-4 it
# has not begun to know 500 images after 40,000 were shown, and ADA has nothing to do.
SMALL = {
  'model.ch': 16,
  'optim.batch_size': 32, 'optim.d_steps': 4, 'optim.disc_lr': 1e-3, 'optim.ema_start': 100,
  'optim.ema_decay': 0.99, 'run.log_every': 10, 'run.eval_every': 40, 'run.checkpoint_every': 200,
  'run.keep': 1, 'eval.name': 'none', 'eval.num_samples': 100, 'eval.standing_passes': 2,
  'eval.standing_batch': 128,
}  # fmt: skip
LATELY = 10  # rows at the end that ADA's r_t is averaged over: of 100 steps


def memory(config, workdir: str) -> dict[str, float]:
  """How D scores all training images and as many held-out ones at the end, not augmented.

  Its shares of right signs, and how often it scores a training image above a held-out one: 0.5
  where it cannot tell them apart, whatever its offset.
  """
  config, source = load_data(config)
  program = make_program(config, jax.devices()[:1], source.class_counts)
  checkpoints = checkpoint.Checkpoints(workdir)
  state, _ = checkpoints.restore_latest(program.shapes(), progress.say)
  checkpoints.close()
  game = program.algorithm
  weights = jax.jit(game.disc.weights)(state['players']['disc'])
  judge = jax.jit(lambda x, y: game.disc_net.apply({'params': weights}, x, y))
  sets = source.train(), source.held_out(source.num_train)
  train, held_out = (
    np.asarray(judge(images.astype(np.float32) / 127.5 - 1, labels)) for images, labels in sets
  )
  above = np.sign(train[:, None] - held_out).mean()
  return {
    'train': float((train > 0).mean()), 'held_out': float((held_out > 0).mean()),
    'told_apart': float(above) / 2 + 0.5,
  }  # fmt: skip


def line_of(run: dict) -> str:
  cells = [run['recipe'], run['seed'], f'{run["train"]:.3f}', f'{run["held_out"]:.3f}']
  cells += [f'{run["train"] - run["held_out"]:.3f}', f'{run["told_apart"]:.3f}']
  logged = [row for row in run['rows'] if 'augment_p' in row]
  if len(logged) > LATELY:
    passed = next((row['step'] for row in logged if row['augment_p'] > 0.05), None)
    r_t = statistics.fmean(row['augment_r_t'] for row in logged[-LATELY:])
    cells += [passed, f'{logged[-1]["augment_p"]:.2f}', f'{r_t:.2f}']
  return f'| {" | ".join(map(str, [*cells, *[""] * (9 - len(cells))]))} |'


def draw(runs: list[dict], path: str, images: int) -> None:
  """Draws p, r_t and D's signs over thousands of images shown; `images` are those of a step."""
  figure, axes = plotting.figure(4, 'CIFAR-10, fifty images of each class, three seeds')
  titles = ('ADA: p', "ADA: r_t, D's mean sign on training images",
            "D's right signs on training images", "D's right signs on held-out images")  # fmt: skip
  names = ('augment_p', 'augment_r_t', 'probe_accuracy_train', 'probe_accuracy_held_out')
  for axis, title, name in zip(axes, titles, names, strict=True):
    for run in runs:
      found = [(row['step'] * images / 1000, row[name]) for row in run['rows'] if name in row]
      if found:
        color = f'C{list(RECIPES).index(run["recipe"])}'
        label = run['recipe'] if run['seed'] == runs[0]['seed'] else None
        axis.plot(*zip(*found, strict=True), color=color, alpha=0.8, label=label)
    axis.set(title=title, xlabel='thousand images', ylim=(0, 1) if 'r_t' not in name else (-0.2, 1))
    axis.grid(alpha=0.3)
    if name == 'augment_r_t':
      axis.axhline(0.6, color='k', linestyle=':', label='target')
    axis.legend()
  plotting.save(figure, path)


def measured(doc: str, name: str, steps: int, base: ml_collections.ConfigDict, tried: dict) -> None:
  """Trains a config with some recipes, three seeds each; prints the table and draws it.

  Args:
    doc, name, steps: as recipes.measured has them.
    base: the config.
    tried: {recipe: config keys}, some of RECIPES'.
  """
  of_recipes = {recipe: core_config.changed(base, keys) for recipe, keys in tried.items()}
  runs, picture = recipes.measured(doc, name, steps, of_recipes, memory)
  for run in runs:
    run['rows'] = files.read_rows(os.path.join(run['workdir'], 'metrics.jsonl'))
  print('| | seed | train | held out | gap | told apart | p > 0.05 at step | p | r_t |')
  print('|---' * 9 + '|')
  print('\n'.join(map(line_of, runs)))
  draw(runs, picture, base.optim.batch_size * base.optim.get('d_steps', 1))


def main() -> None:
  base = core_config.changed(configs.read('ada:cifar10_500'), SMALL)
  measured(__doc__, 'limited_data', 900, base, RECIPES)


if __name__ == '__main__':
  main()
