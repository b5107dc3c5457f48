"""Clips of bouncing digits: what DVD-GAN and TrIVD-GAN make of them, and how well they predict.

  nice -n 15 python benchmarks/moving_digits.py --part classes      # half an hour of a CPU core
  nice -n 15 python benchmarks/moving_digits.py --part prediction   # three quarters of an hour
  nice -n 15 python benchmarks/moving_digits.py --part units        # an hour

`classes`: one digit of 16 px in 8 frames, of the class that is asked for, scored by a classifier of
clips. `prediction`: two digits of 32 px, 4 frames given and 4 predicted, for held-out clips, whose
digits were never trained on, beside predictions that need no network; a clip's centroid is that of
its light. `units`: ConvGRU and TSRU's three orders at equal images, predicting one digit of 16 px,
three seeds. Prints a table and draws one picture. An interrupted run goes on, a finished one is
read.
"""

import argparse
import os
import sys
from typing import Any

import ml_collections
import numpy as np
import recipes

from bigjax import data
from bigjax.algorithms.base import configs
from bigjax.core import config as core_config
from bigjax.core import files, plotting
from bigjax.evaluation.of_networks import predicted_frames
from bigjax.nn.video.recurrent import UNITS
from bigjax.sampling import grids, loaded

NUM = 1000  # held-out clips
NEAR = 2  # px, of two centroids
SHOWN = 5  # clips in the picture
SCORES = ('agreement', 'precision', 'coverage', 'fd_held_out_classifier', 'std_ratio')
SHARED = {'run.keep': 1, 'run.keep_every': 0, 'run.best': ''}
SMALL = {
  'data.source': 'moving_digits', 'data.num_classes': 1, 'data.frames': 8, 'model.num_given': 4,
  'model.ch': 4, 'model.critics': ('frames:2', 'clip'), 'optim.batch_size': 16,
}  # fmt: skip
PARTS = {  # {recipe: (config, keys)}, steps, seeds
  'classes': ({'dvdgan': ('dvdgan:moving_digits', {})}, 2400, 1),
  'prediction': ({'trivdgan': ('trivdgan:moving_digits_fp', {})}, 2900, 1),
  'units': (
    {
      'gru': ('dvdgan:moving_digits', SMALL),
      **{unit: ('trivdgan:moving_digits', {**SMALL, 'model.unit': unit}) for unit in UNITS[1:]},
    },
    800, 3,
  ),
}  # fmt: skip


def config_of(given: str, keys: dict[str, Any], scored: bool) -> ml_collections.ConfigDict:
  """A recipe's config, scored while it trains by a classifier, or else by what it predicts."""
  of_eval = {'eval.name': 'classifier', 'eval.num_samples': 450}
  if not scored:
    of_eval = {'eval.name': 'prediction', 'eval.num_samples': 200}
  return core_config.changed(configs.read(given), SHARED | of_eval | keys)


def length(recipe: str, steps: int) -> dict[str, int]:
  """Keys that follow from the number of steps."""
  del recipe
  every = max(steps // 8, 1)
  return {'run.eval_every': every, 'run.checkpoint_every': every, 'run.log_every': 20}


def summary(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Any]:
  """The last scores of a run, beside those of real clips, its steps and its seconds."""
  del config
  return files.read_json(os.path.join(workdir, 'summary.json'))


def centroids(frames: np.ndarray) -> np.ndarray:
  """Rows and columns of the centroids of light of frames uint8 [n, T, H, W, 1], [n, T, 2]."""
  light = frames[..., 0].astype(float) + 1e-6
  at = [np.arange(side) for side in light.shape[2:]]
  total = light.sum((2, 3))
  rows, columns = (light.sum(axis) @ where / total for axis, where in zip((3, 2), at, strict=True))
  return np.stack([rows, columns], -1)


def predicted(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Any]:
  """Scores of predictions of held-out clips, a list over the frames each."""
  gen = loaded.load(os.path.join(workdir, 'export', 'generator.safetensors'))
  source, given = data.load(config.data), config.model.num_given
  clips, _ = source.held_out(NUM)
  after = clips[:, given:]
  mean = predicted_frames.mean_image(source.train(NUM)[0])
  of = {'predicted': gen.predict(clips[:, :given])[:, given:]}
  of |= predicted_frames.baselines(clips, given, mean)
  found = {}
  for name, frames in of.items():
    away = np.linalg.norm(centroids(frames) - centroids(after), axis=-1)
    found[name] = {score: fn(frames, after).mean(0).tolist() for score, fn in SCORERS.items()}
    found[name] |= {'near': (away < NEAR).mean(0).tolist(), 'away': np.median(away, 0).tolist()}
  return summary(config, workdir) | {'of': found}


SCORERS = predicted_frames.SCORES
WORDS = {'psnr': 'PSNR, dB', 'ssim': 'SSIM', 'near': f'centroid within {NEAR} px'}


def prediction_table(runs: list[dict[str, Any]]) -> str:
  """A Markdown table: scores of each frame after the given ones."""
  line = lambda *cells: '| ' + ' | '.join(cells) + ' |'
  frames = range(len(runs[0]['of']['black']['psnr']))
  heads = [f'{WORDS[score]}: {t + 1}' for score in WORDS for t in frames]
  lines = [line('', 'seed', *heads), '|---' * (2 + len(heads)) + '|']
  rows = [(run['recipe'], str(run['seed']), run['of']['predicted']) for run in runs]
  rows += [(name, '', of) for name, of in runs[0]['of'].items() if name != 'predicted']
  for name, seed, of in rows:
    lines.append(line(name, seed, *(f'{of[score][t]:.3f}' for score in WORDS for t in frames)))
  return '\n'.join(lines)


def draw(runs: list[dict[str, Any]], of: str, path: str) -> None:
  """Draws curves over the frames, and clips of each recipe's first seed."""
  first = [run for run in runs if run['seed'] == 0]
  figure, axes = plotting.figure(len(first) + (0 if of == 'classes' else 2), f'Clips: {of}')
  if of != 'classes':
    for axis, score in zip(axes, ('psnr', 'ssim'), strict=False):
      for i, run in enumerate(first):
        seeds = [one['of']['predicted'][score] for one in runs if one['recipe'] == run['recipe']]
        at = np.arange(1, len(seeds[0]) + 1)
        axis.plot(at, np.mean(seeds, 0), marker='.', color=f'C{i}', label=run['recipe'])
        axis.fill_between(at, np.min(seeds, 0), np.max(seeds, 0), color=f'C{i}', alpha=0.2)
      for style, (name, found) in zip('-:', list(first[0]['of'].items())[1:3], strict=False):
        axis.plot(at, found[score], 'k' + style, label=name.replace('_', ' '))
      axis.set(xlabel='frames after the given ones', ylabel=WORDS[score], xticks=at)
      axis.legend(fontsize=8)
  for run, panel in zip(first, axes[len(axes) - len(first) :], strict=True):
    gen = loaded.load(os.path.join(run['workdir'], 'export', 'generator.safetensors'))
    if of == 'classes':
      shown = grids.strips(gen(np.arange(10), seed=0))
    else:
      config = configs.complete(files.read_json(os.path.join(run['workdir'], 'config.json')))
      clips, _ = data.load(config.data).held_out(SHOWN)
      made = gen.predict(clips[:, : config.model.num_given])
      marked = np.zeros(2 * SHOWN * clips.shape[1], bool).reshape(-1, clips.shape[1])
      marked[:, : config.model.num_given] = True
      shown = grids.strips(np.stack([clips, made], 1).reshape(-1, *clips.shape[1:]), marked=marked)
    panel.imshow(shown)
    panel.set(title=run['recipe'], xticks=[], yticks=[])
  plotting.save(figure, path)


def main() -> None:
  parser = argparse.ArgumentParser(add_help=False)
  parser.add_argument('--part', choices=tuple(PARTS), default='classes')
  args, sys.argv[1:] = parser.parse_known_args()
  of = args.part
  recipes_of, steps, seeds = PARTS[of]
  scored = of == 'classes'
  runs, picture = recipes.measured(
    __doc__, f'moving_digits_{of}', steps,
    {name: config_of(given, keys, scored) for name, (given, keys) in recipes_of.items()},
    summary if scored else predicted, length, seeds=seeds, placed=None,
  )  # fmt: skip
  print(recipes.scores_table(runs, SCORES) if scored else prediction_table(runs))
  draw(runs, of, picture)


if __name__ == '__main__':
  main()
