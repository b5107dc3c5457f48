"""Several recipes on one data set, some seeds each: what such benchmarks share."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from bigjax.core import config as core_config
from bigjax.core import device, files
from bigjax.preflight import step_cost
from bigjax.training import loop


def measured(
  doc: str,
  name: str,
  steps: int,
  recipes: Mapping[str, ml_collections.ConfigDict],
  look: Callable[[ml_collections.ConfigDict, str], dict[str, Any]],
  changes: Callable[[str, int], dict[str, Any]] = lambda recipe, steps: {},
  seeds: int = 3,
  placed: Callable[[str], dict[str, Any]] | None = lambda path: {'data.data_dir': path},
) -> tuple[list[dict[str, Any]], str]:
  """Reads the command line, trains what is missing and looks at each run once.

  Args:
    doc: of the benchmark.
    name: of it: runs/NAME, WORKDIR/NAME.json and docs/images/NAME.png.
    steps: of each run, by default.
    recipes: configs by name.
    look: (config, workdir of a finished run) -> what is kept of it, JSON-able.
    changes: (recipe, steps) -> config keys that follow from these.
    seeds: of each, by default.
    placed: where the data lies -> config keys; by default, of a set of TFDS; None: it is built in.
  Returns:
    ([what was kept, with 'recipe', 'seed' and 'workdir'], where the picture goes).
  """
  parser = argparse.ArgumentParser(description=doc.splitlines()[0])
  if placed:
    parser.add_argument('--data_dir', required=True, help='where the data lies')
  parser.add_argument('--steps', type=int, default=steps)
  parser.add_argument('--seeds', type=int, default=seeds)
  parser.add_argument('--only', help='recipes, by commas (default: all)')
  parser.add_argument('--folder', default=f'runs/{name}', help='of the workdirs')
  parser.add_argument('--picture', default=f'docs/images/{name}.png')
  args = parser.parse_args()
  only = args.only.split(',') if args.only else list(recipes)
  if unknown := set(only) - set(recipes):
    parser.error(f'no recipe {", ".join(unknown)}; there are {", ".join(recipes)}')
  recipes = {recipe: recipes[recipe] for recipe in only}
  device.use_compilation_cache()
  runs = []
  for seed in range(args.seeds):
    for recipe, config in recipes.items():
      workdir = os.path.join(args.folder, f'{recipe.replace(" ", "_")}_{seed}')
      path = os.path.join(workdir, f'{name}.json')
      if not os.path.exists(path):
        given = {'seed': seed, 'run.steps': args.steps}
        given |= placed(args.data_dir) if placed else {}
        config = core_config.changed(config, given | changes(recipe, args.steps))
        if not loop.train(config, workdir):
          raise SystemExit(1)  # told to end: the next start goes on
        files.write_json(path, look(config, workdir))
      about = {'recipe': recipe, 'seed': seed, 'workdir': workdir}
      runs.append({**files.read_json(path), **about})
  return runs, args.picture


def curve_of(workdir: str, score: str) -> list[tuple[float, float]]:
  """[(seconds of training, compilation included, a score then)] of a run."""
  clock = files.read_rows(os.path.join(workdir, 'timing.jsonl'))
  steps, seconds = (np.array([row[name] for row in clock]) for name in ('step', 'seconds'))
  rows = [r for r in files.read_rows(os.path.join(workdir, 'metrics.jsonl')) if score in r]
  at = np.interp([row['step'] for row in rows], steps, seconds)
  return [(float(when), row[score]) for when, row in zip(at, rows, strict=True)]


def steps_for(config: ml_collections.ConfigDict, flops: float) -> int:
  """How many steps of a config cost so much: the first number that does not cost less."""
  cost, spent, steps = step_cost.run_flops(config), 0, 0
  while spent < flops:
    spent, steps = spent + cost(steps), steps + 1
  return steps


def scores_table(runs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
  """A Markdown table of some scores of runs with their summaries, below those of real images."""
  line = lambda *cells: '| ' + ' | '.join(cells) + ' |'
  cells = lambda found: [f'{found[name]:.3f}' for name in names]
  lines = [line('', 'seed', 'steps', 'seconds', *names), '|---' * (4 + len(names)) + '|']
  lines.append(line('real images', '', '', '', *cells(runs[0]['real'])))
  for run in runs:
    about = (run['recipe'], str(run['seed']), f'{run["step"]:,}', f'{run["seconds"]:.0f}')
    lines.append(line(*about, *cells(run)))
  return '\n'.join(lines)
