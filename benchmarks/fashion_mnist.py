"""Fashion-MNIST at 32 px: BigGAN, PGGAN, MSG-GAN and StyleGAN2 at equal cost.

  nice -n 15 python benchmarks/fashion_mnist.py --data_dir /data/tfds

BigGAN is the config `fashion_mnist`; the others are their `digits` at twice the resolution, with as
many steps as cost the FLOPs of BigGAN's (traced; penalties and spectral norm included). All are
scored as that config scores itself, by one classifier. Prints a table and draws samples. An
interrupted run goes on; a finished one is read.
"""

import os

import ml_collections
import numpy as np
import recipes

from bigjax.algorithms.base import configs
from bigjax.core import config as core_config
from bigjax.core import files, plotting
from bigjax.preflight import step_cost
from bigjax.sampling import grids, loaded
from bigjax.training.batches import load_data

YARDSTICK = 'biggan'
CONFIGS = {YARDSTICK: 'fashion_mnist'} | {
  name: f'{name}:digits' for name in ('pggan', 'msggan', 'stylegan2')
}
STEPS = 640  # of BigGAN
WIDER = {'model.fmap_base': 512, 'model.fmap_max': 64, 'model.z_dim': 64}  # than at 16 px
PARTS = 9  # of a growing run: 4 px, a fade and a hold of 8 and of 16 px, a fade and three of 32 px
SCORES = ('agreement', 'precision', 'coverage', 'fd_held_out_classifier', 'std_ratio')
SHOWN = 4  # samples of each class


def config_of(system: str) -> ml_collections.ConfigDict:
  """A system's config, but for the number of its steps."""
  biggan = configs.read(CONFIGS[YARDSTICK])
  biggan.data.num_classes = 10
  if system == YARDSTICK:
    return biggan
  config = core_config.changed(configs.read(CONFIGS[system]), WIDER)
  own, given = core_config.flatten(config), core_config.flatten(biggan)
  shared = [key for key in own if key.split('.')[0] in ('data', 'eval') and key in given]
  return core_config.changed(config, {key: given[key] for key in shared})


def length(system: str, steps: int) -> dict[str, float]:
  """Keys by which a system costs as much as so many steps of BigGAN."""
  cost = step_cost.run_flops(config_of(YARDSTICK))
  config, unit = config_of(system), sum(map(cost, range(steps)))
  keys = {'run.steps': steps}
  for _ in range(4):  # what a growing run costs hangs on how long it is at each resolution
    found = recipes.steps_for(core_config.changed(config, keys), unit)
    keys = {'run.steps': found, 'run.eval_every': max(found // 20, 1)}
    keys['run.checkpoint_every'] = max(found // 8, 1)
    if 'hold_kimg' in config.optim:
      part = found * config.optim.batch_size / 1000 / PARTS
      keys |= {'optim.hold_kimg': part, 'optim.fade_kimg': part}
  return keys


def summary(config: ml_collections.ConfigDict, workdir: str) -> dict:
  """The last scores of a run, beside those of real images, its steps and its seconds."""
  del config
  return files.read_json(os.path.join(workdir, 'summary.json'))


def draw(runs: list[dict], path: str) -> None:
  """Draws samples of each system beside real images, a column per class."""
  labels = np.tile(np.arange(10), SHOWN)
  config = configs.complete(files.read_json(os.path.join(runs[0]['workdir'], 'config.json')))
  images, classes = load_data(config)[1].train()
  of_class = [images[classes == k][:SHOWN] for k in range(10)]
  sheets = {'real': np.stack(of_class, 1).reshape(-1, *images.shape[1:])}
  for run in runs:
    if run['seed'] == 0:
      gen = loaded.load(os.path.join(run['workdir'], 'export', 'generator.safetensors'))
      sheets[run['recipe']] = gen(labels, seed=0)
  figure, axes = plotting.figure(len(sheets), 'Fashion-MNIST at 32 px, equal FLOPs')
  for axis, (name, sheet) in zip(axes, sheets.items(), strict=True):
    axis.imshow(grids.grid(sheet, 10), cmap='gray')
    axis.set(title=name, xticks=[], yticks=[])
  plotting.save(figure, path)


def main() -> None:
  of_systems = {system: config_of(system) for system in CONFIGS}
  runs, picture = recipes.measured(
    __doc__, 'fashion_mnist_systems', STEPS, of_systems, summary, length, seeds=1
  )
  print(recipes.scores_table(runs, SCORES))
  draw(runs, picture)


if __name__ == '__main__':
  main()
