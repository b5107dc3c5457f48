"""Five hundred photos of flowers at 64 px: Projected GAN, BigGAN and StyleGAN2 in the same time.

  nice -n 15 python benchmarks/flowers.py --data_dir /data/flowers   # an hour on one CPU core

Projected GAN is `projected_gan:flowers`, whose critics see features of EfficientNet-Lite0 of 64 px;
BigGAN is `flowers` with smaller batches; StyleGAN2 has the networks of `stylegan2:digits`, wider,
and DiffAugment. Each has as many steps as take a core twenty minutes. Scores are in the features of
the evaluators' classifier, which learnt these photos and which no system sees, and in none of
EfficientNet-Lite0. Prints them; draws the distance against time, and samples. An interrupted run
goes on; a finished one is read.
"""

import os

import ml_collections
import numpy as np
import recipes

from bigjax.algorithms.base import configs
from bigjax.core import config as core_config
from bigjax.core import files, plotting
from bigjax.sampling import grids, loaded

SHARED = {
  'run.log_every': 20, 'run.keep': 1, 'run.best': '', 'data.resolution': 64, 'data.channels': 3,
  'data.num_classes': 5, 'data.flip': True, 'eval.name': 'classifier', 'eval.num_samples': 500,
}  # fmt: skip
OWN = {
  'projected_gan': ('projected_gan:flowers', {'eval.standing_passes': 4}),
  'biggan': (
    'flowers', {'optim.batch_size': 32, 'optim.ema_start': 100, 'eval.standing_passes': 4},
  ),
  'stylegan2': (
    'stylegan2:digits',
    {
      'model.fmap_base': 1024, 'model.fmap_max': 64, 'model.z_dim': 64, 'model.w_dim': 64,
      'optim.batch_size': 16, 'optim.r1_gamma': 0.2, 'optim.pl_weight': 0.0,
      'optim.gen_lr': 2.5e-3, 'optim.disc_lr': 2.5e-3, 'augment.name': 'color,translation,cutout',
    },
  ),
}  # fmt: skip
STEPS = {'projected_gan': 800, 'biggan': 360, 'stylegan2': 420}  # in as long
EVALS = 10
DISTANCE = 'fd_held_out_classifier'
SCORES = ('agreement', 'precision', 'coverage', DISTANCE, 'std_ratio')
SHOWN = 8  # samples of each class


def config_of(system: str) -> ml_collections.ConfigDict:
  """A system's config, but for where the photos lie and how long it trains."""
  given, own = OWN[system]
  return core_config.changed(configs.read(given), SHARED | own)


def length(system: str, steps: int) -> dict[str, int]:
  """Keys by which a system takes as long as Projected GAN does for so many steps."""
  found = round(steps * STEPS[system] / STEPS['projected_gan'])
  every = max(found // EVALS, 1)
  return {'run.steps': found, 'run.eval_every': every, 'run.checkpoint_every': every}


def summary(config: ml_collections.ConfigDict, workdir: str) -> dict:
  """The last scores of a run, beside those of real images, and its curve against seconds."""
  del config
  found = files.read_json(os.path.join(workdir, 'summary.json'))
  curve = recipes.curve_of(workdir, DISTANCE)
  return found | {'curve': curve, 'seconds': curve[-1][0]}


def draw(runs: list[dict], path: str) -> None:
  """Draws each system's distance against time, and samples of it, a row per class."""
  figure, axes = plotting.figure(1 + len(runs), 'Five hundred flowers at 64 px')
  for run, axis in zip(runs, axes[1:], strict=True):
    seconds, distances = zip(*run['curve'], strict=True)
    minutes = [second / 60 for second in seconds]
    axes[0].plot(minutes, distances, marker='.', label=run['recipe'])
    gen = loaded.load(os.path.join(run['workdir'], 'export', 'generator.safetensors'))
    axis.imshow(grids.grid(gen(np.repeat(np.arange(5), SHOWN), seed=0), SHOWN))
    axis.set(title=run['recipe'], xticks=[], yticks=[])
  axes[0].axhline(runs[0]['real'][DISTANCE], color='k', linestyle=':', label='real images')
  axes[0].set(xlabel='minutes of a core', ylabel="Frechet distance, the classifier's features")
  plotting.log_scale(axes[0])
  axes[0].legend()
  axes[0].grid(alpha=0.3)
  plotting.save(figure, path)


def main() -> None:
  runs, picture = recipes.measured(
    __doc__, 'flowers', STEPS['projected_gan'], {system: config_of(system) for system in OWN},
    summary, length, seeds=1, placed=lambda path: {'data.source': f'folder:{path}'},
  )  # fmt: skip
  print('| | steps | minutes | first distance | ' + ' | '.join(SCORES) + ' |')
  print('|---' * (4 + len(SCORES)) + '|')
  line = lambda *cells: print('| ' + ' | '.join(cells) + ' |')
  cells = lambda found: [f'{found[name]:.3f}' for name in SCORES]
  line('real images', '', '', '', *cells(runs[0]['real']))
  for run in runs:
    about = (run['recipe'], f'{run["step"]:,}', f'{run["seconds"] / 60:.0f}')
    line(*about, f'{run["curve"][0][1]:.1f}', *cells(run))
  draw(runs, picture)


if __name__ == '__main__':
  main()
