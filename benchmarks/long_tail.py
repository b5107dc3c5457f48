"""CIFAR-10 with a long tail: do the rare classes' BatchNorms blow up, and does gSR hold them?

  nice -n 15 python benchmarks/long_tail.py --data_dir /data/tfds   # an hour on one CPU core

`gsr:cifar10_lt100` at 16 channels with and without gSR, three seeds each. What is measured is the
largest singular value of the five rarest classes' gains and biases, reshaped as gSR does, averaged
over layers: of the largest of them, and relative to that of step 0. An interrupted run goes on; a
finished one is read.
"""

import jax
import numpy as np
import recipes

from bigjax.algorithms.base import configs
from bigjax.core import checkpoint, plotting, trees
from bigjax.core import config as core_config
from bigjax.nn.objectives import class_affines
from bigjax.training.batches import load_data
from bigjax.training.program import make_program

RECIPES = {'without gSR': {'optim.gsr_weight': 0.0}, 'with gSR': {}}
POINTS = 8  # checkpoints that are looked at
RAREST = 5
SMALL = {
  'model.ch': 16, 'optim.batch_size': 32, 'optim.d_steps': 2, 'optim.ema_start': 100,
  'optim.gen_lr': 5e-4, 'optim.disc_lr': 1e-3,
  'optim.ema_decay': 0.99, 'run.log_every': 20, 'run.keep': POINTS + 1, 'eval.name': 'none',
  'eval.num_samples': 100, 'eval.standing_passes': 2, 'eval.standing_batch': 128,
}  # fmt: skip


def sigmas(weights, rarest: np.ndarray) -> float:
  """The mean over gains and biases of all layers of the largest among the rarest classes'."""
  tables = class_affines.exact_sigmas(class_affines.affines(weights))
  return float(np.mean([np.asarray(table)[rarest].max() for table in tables.values()]))


def over_time(config, workdir: str) -> dict[str, list]:
  """(Step, sigmas) before the first step and at each checkpoint of a run."""
  config, source = load_data(config)
  rarest = np.argsort(source.class_counts(), kind='stable')[:RAREST]
  program = make_program(config, jax.devices()[:1], source.class_counts)
  player = program.algorithm.gen
  state = program.init(jax.random.key(config.seed), {})
  found = [(0, sigmas(player.weights(state['players']['gen']), rarest))]
  like = program.shapes()['players']['gen']
  for step in checkpoint.list_steps(workdir):
    gen = checkpoint.restore_part(workdir, step, lambda path: path.startswith('players/gen/'))
    plain = trees.nest({p.removeprefix('players/gen/'): x for p, x in gen.items()})
    found.append((step, sigmas(player.weights(checkpoint.from_plain(plain, like)), rarest)))
  return {'sigmas': found}


def periods(recipe: str, steps: int) -> dict[str, int]:
  del recipe
  return {'run.eval_every': steps, 'run.checkpoint_every': max(steps // POINTS, 1)}


def draw(runs: list[dict], path: str) -> None:
  figure, (axis,) = plotting.figure(1, 'CIFAR-10-LT, imbalance 100: the five rarest classes')
  for run in runs:
    color = f'C{list(RECIPES).index(run["recipe"])}'
    label = run['recipe'] if run['seed'] == runs[0]['seed'] else None
    axis.plot(*zip(*run['sigmas'], strict=True), color=color, label=label, marker='.')
  axis.set(xlabel='step', ylabel='largest singular value of gains and biases', ylim=(0, None))
  axis.grid(alpha=0.3)
  axis.legend()
  plotting.save(figure, path)


def main() -> None:
  base = core_config.changed(configs.read('gsr:cifar10_lt100'), SMALL)
  of_recipes = {name: core_config.changed(base, keys) for name, keys in RECIPES.items()}
  runs, picture = recipes.measured(__doc__, 'long_tail', 600, of_recipes, over_time, periods)
  print('| | seed | start | end | end / start |\n|---|---|---|---|---|')
  for run in runs:
    (_, start), *_, (_, end) = run['sigmas']
    print(f'| {run["recipe"]} | {run["seed"]} | {start:.3f} | {end:.3f} | {end / start:.3f} |')
  draw(runs, picture)


if __name__ == '__main__':
  main()
