"""Diffusion on the digits: samplers, guidance by a classifier, a cascade; tables and a picture.

  nice -n 15 python benchmarks/diffusion_digits.py      # an hour and a half of a CPU core

The walk is papers.py's own run of `iddpm`, at four times BigGAN's compute. `adm_classifier:digits`,
of a cosine as the walk's, guides it. The cascade is `cdm:digits` at 8 px and a network that
enlarges its samples to 16 px, beside the same samples enlarged bilinearly. Scores are those of
papers_scores.py, of one set of samples for each half of the held-out digits. An interrupted run
goes on, a finished one is read. Bits per dimension are `bigjax evaluate --workdir WALK
--metrics nll_bpd`.
"""

import argparse
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from bigjax import data
from bigjax.algorithms.base import configs
from bigjax.core import config as core_config
from bigjax.core import device, files, plotting, progress
from bigjax.nn.resizing import resize
from bigjax.sampling import grids, loaded
from bigjax.training import loop

import papers
from papers_scores import Referee

CALLS = (5, 10, 25, 50)
SAMPLERS = {'ancestral': '', 'ddim': 'ddim', 'dpm': 'logsnr'}  # with the law of their steps
SCALES = (0, 1, 2, 4)
LEVELS = (0, 100, 300)  # of the noise that the cascade's small images get
SCORES = ('agreement', 'precision', 'coverage', 'fd_held_out_classifier')
TRAINED = {  # what is trained beside the walk
  'classifier': ('adm_classifier:digits', {'model.schedule': 'cosine'}),  # the walk's
  'small': ('cdm:digits', {'data.resolution': 8, 'run.steps': 2000}),
  'larger': ('cdm:sr32_64,digits', {'run.steps': 1200, 'optim.schedule_start': 600}),
}
SHOWN = 10

Draw = Callable[[np.ndarray, int], np.ndarray]  # (labels, seed) -> uint8 [n, 16, 16, 1]


def walk_of(folder: str, referee: Referee) -> str:
  """The workdir of papers.py's run of iddpm, trained where it was not."""
  system = papers.system('iddpm', 'iddpm:digits')
  unit = papers.yardstick()
  run = papers.Run(system, 0, 4, system.steps(4 * unit), 4 * unit)
  papers.refuse_other_images(system.config, referee)
  workdir = os.path.join(folder, run.name)
  if papers.train(run, workdir) is None:
    raise SystemExit(1)  # told to end: the next start goes on
  return workdir


def trained(name: str, folder: str) -> str:
  """The workdir of another run."""
  given, keys = TRAINED[name]
  config = core_config.changed(configs.read(given), keys)
  every = max(config.run.steps // 4, 1)
  config.run.update({'eval_every': every, 'checkpoint_every': every})
  workdir = os.path.join(folder, name)
  summary = os.path.join(workdir, 'summary.json')
  done = os.path.exists(summary) and files.read_json(summary)['step'] == config.run.steps
  if not done and not loop.train(config, workdir):
    raise SystemExit(1)
  return workdir


def drawn_by(gen: loaded.Loaded, **options: Any) -> Draw:
  return lambda labels, seed: gen(labels, seed=seed, **options)


def enlarged(gen: loaded.Loaded, side: int) -> Draw:
  """Samples of a smaller generator, enlarged bilinearly."""

  def draw(labels: np.ndarray, seed: int) -> np.ndarray:
    large = resize(jnp.asarray(gen(labels, seed=seed), jnp.float32), side, 'torch_bilinear')
    return np.asarray(jnp.round(large).clip(0, 255)).astype(np.uint8)

  return draw


def ways_of(folder: str, walk: str) -> dict[str, dict[str, Draw]]:
  """{table: {row: what draws its samples}}."""
  at = {name: trained(name, folder) for name in TRAINED}
  plain = loaded.load(walk)
  guided = loaded.load(walk, classifier=at['classifier'])
  cascade, small = loaded.of_cascade([at['small'], at['larger']], {}), loaded.load(at['small'])
  return {
    'samplers': {
      f'{sampler}, {num} calls': drawn_by(plain, sampler=sampler, steps=f'{law}{num}')
      for sampler, law in SAMPLERS.items()
      for num in CALLS
    },
    'guidance, 25 ancestral steps': {
      f'guidance {scale}': drawn_by(guided, guidance=scale) for scale in SCALES
    },
    'cascade': {
      '8 px, enlarged bilinearly': enlarged(small, 16),
      **{
        f'8 to 16 px, noise of level {level}': drawn_by(cascade, augmentation=level)
        for level in LEVELS
      },
    },
  }


def table(name: str, rows: Mapping[str, Mapping[str, float]]) -> str:
  """Scores in Markdown."""
  lines = [f'| {name} | ' + ' | '.join(SCORES) + ' |', '|---' * (1 + len(SCORES)) + '|']
  for words, found in rows.items():
    lines.append(f'| {words} | ' + ' | '.join(f'{found[score]:.3f}' for score in SCORES) + ' |')
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--folder', default='runs/diffusion_digits', help='of the workdirs')
  parser.add_argument('--papers', default='runs/papers', help="of papers.py's workdirs")
  parser.add_argument('--picture', default='docs/images/diffusion_digits.png')
  args = parser.parse_args()
  device.use_compilation_cache()
  referee = Referee(data.load(configs.read(papers.YARDSTICK).data))
  ways = ways_of(args.folder, walk_of(args.papers, referee))
  kept = pathlib.Path(args.folder) / 'scores.json'
  found = files.read_json(str(kept)) if kept.exists() else {}
  found['real'] = referee.made_of(None)
  for name, rows in ways.items():
    for words, draw in rows.items():
      if words not in found:
        progress.say(words)
        found[words] = referee.samples(draw, sets=1)
        files.write_json(str(kept), found)
    print(table(name, {'real images': found['real']} | {words: found[words] for words in rows}))
    print()
  figure, axes = plotting.figure(len(ways), 'Diffusion on the digits, a row each')
  for axis, (name, rows) in zip(axes, ways.items(), strict=True):
    sheet = np.concatenate([draw(np.arange(SHOWN), 0) for draw in rows.values()])
    grid = grids.grid(sheet, SHOWN)
    axis.imshow(grid, cmap='gray')
    height = grid.height / len(rows)
    axis.set_yticks([height * (i + 0.5) for i in range(len(rows))], list(rows), fontsize=6)
    axis.set(title=name, xticks=[])
  plotting.save(figure, args.picture)


if __name__ == '__main__':
  main()
