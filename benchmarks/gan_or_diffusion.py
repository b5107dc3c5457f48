"""A GAN and a diffusion: scores against FLOPs of training, and against what an image costs.

  nice -n 15 python benchmarks/gan_or_diffusion.py          # digits: half an hour of a CPU core
  python benchmarks/gan_or_diffusion.py --set cifar10 --data_dir /data/tfds  # two hours

The claim that it is about is that of ADM's abstract: diffusion comes near BigGAN-deep with 25 calls
of its network. BigGAN is the set's own config for a laptop, the diffusion `iddpm:digits` on the
same images; their steps are such that each takes a core about as long. Scores are in the features
of the evaluators' classifier. Every way of sampling is scored on the same number of samples of all
classes; what an image costs is told in FLOPs, which are the same everywhere, and in seconds here,
the least of three batches. Prints a table, draws one picture. An interrupted run goes on, a
finished one is read.
"""

import argparse
import functools
import os
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import recipes

from bigjax import data
from bigjax.algorithms.base import configs
from bigjax.core import config as core_config
from bigjax.core import files, plotting
from bigjax.evaluation import quick
from bigjax.preflight import flops, step_cost
from bigjax.sampling import grids, loaded

DISTANCE = 'fd_held_out_classifier'
SCORES = ('agreement', 'precision', 'coverage', DISTANCE)
CALLS = (5, 10, 25, 50)
WAYS = {  # of sampling, by system: {words: options}
  'gan': {'untruncated': {}, 'truncation 0.5': {'truncation': '0.5'}},
  'diffusion': {
    f'{sampler}, {calls} steps': {'sampler': sampler, 'steps': f'{law}{calls}'}
    for sampler, law in (('ancestral', ''), ('ddim', 'ddim'), ('dpm', 'logsnr'))
    for calls in CALLS
  },
}
SHARED = {
  'run.keep': 1, 'run.keep_every': 0, 'run.best': '', 'eval.name': 'classifier',
  'eval.num_samples': 450,
}  # fmt: skip
# What each set trains: {system: (config, keys)}; so many steps of each take about as long.
SETS = {
  'digits': {'gan': ('digits', {}), 'diffusion': ('iddpm:digits', {})},
  'cifar10': {
    'gan': ('cifar10:laptop', {}),
    'diffusion': (
      'iddpm:digits',
      {
        'data.source': 'tfds:cifar10', 'data.resolution': 32, 'data.channels': 3,
        'data.flip': True, 'model.widths': (1, 2, 2),
      },
    ),
  },
}  # fmt: skip
STEPS = {
  'digits': {'gan': 2800, 'diffusion': 1900},
  'cifar10': {'gan': 2000, 'diffusion': 1900},
}
EVALS = 8
BATCH = 50  # images at a time
SHOWN = 10  # samples of each way


def config_of(system: str, of: str) -> ml_collections.ConfigDict:
  """A system's config on a set of images."""
  given, keys = SETS[of][system]
  return core_config.changed(configs.read(given), SHARED | keys)


def length(system: str, steps: int, of: str) -> dict[str, int]:
  """Keys by which a system takes as long as the GAN does for so many steps."""
  found = round(steps * STEPS[of][system] / STEPS[of]['gan'])
  every = max(found // EVALS, 1)
  keys = {'run.steps': found, 'run.eval_every': every, 'run.checkpoint_every': every}
  keys |= {'run.log_every': max(found // 100, 1)}
  if system == 'diffusion':  # its rate falls in the second half
    keys |= {'optim.schedule_start': found // 2}
  return keys


def cost_of(gen: loaded.Loaded, options: dict[str, str], labels: np.ndarray) -> dict[str, float]:
  """What an image costs: FLOPs, and seconds on this machine."""
  spec = gen.spec(**options)
  gen.prepare(spec)
  z, y = gen.sampler.latents(0, BATCH, spec), labels[:BATCH]
  one = [jax.ShapeDtypeStruct((1, *x.shape[1:]), jnp.asarray(x[:1]).dtype) for x in (z, y)]
  make = lambda gen_, z, y: gen.sampler.generator.generate(gen_, z, y, spec)
  spent = []
  gen.images(z, y, spec, BATCH)  # compiles
  for _ in range(3):
    began = time.perf_counter()
    gen.images(z, y, spec, BATCH)
    spent.append(time.perf_counter() - began)
  return {'flops': flops.needed(make, gen.gen, *one), 'seconds': min(spent) / BATCH}


def look(config: ml_collections.ConfigDict, workdir: str, system: str) -> dict[str, Any]:
  """Scores and cost of every way to sample a finished run."""
  gen = loaded.load(os.path.join(workdir, 'export', 'generator.safetensors'))
  source = data.load(config.data)
  score, floor = quick.load('classifier', source.train, source.held_out)
  labels = np.arange(config.eval.num_samples, dtype=np.int32) % gen.num_classes
  ways = {}
  for words, options in WAYS[system].items():
    images = gen(labels, seed=1, batch=BATCH, **options)
    found = score((images, labels))
    ways[words] = {name: found[name] for name in SCORES} | cost_of(gen, options, labels)
  return {'real': {name: floor[name] for name in SCORES}, 'ways': ways}


def curve(run: dict[str, Any], of: str) -> list[tuple[float, float]]:
  """[(FLOPs of training, a distance then)] of a finished run."""
  rows = files.read_rows(os.path.join(run['workdir'], 'metrics.jsonl'))
  cost = step_cost.run_flops(config_of(run['recipe'], of))
  total = np.cumsum([0, *map(cost, range(rows[-1]['step']))])
  return [(float(total[row['step']]), row[DISTANCE]) for row in rows if DISTANCE in row]


def table(runs: list[dict[str, Any]]) -> str:
  """A Markdown table: each way to sample, its cost and scores."""
  line = lambda *cells: '| ' + ' | '.join(cells) + ' |'
  cells = lambda found: [f'{found[name]:.3f}' for name in SCORES]
  lines = [line('', 'MFLOP an image', 'ms an image', *SCORES), '|---' * (3 + len(SCORES)) + '|']
  lines.append(line('real images', '', '', *cells(runs[0]['real'])))
  for run in runs:
    for words, way in run['ways'].items():
      costs = f'{way["flops"] / 1e6:,.0f}', f'{way["seconds"] * 1e3:.1f}'
      lines.append(line(f'{run["recipe"]}, {words}', *costs, *cells(way)))
  return '\n'.join(lines)


def draw(runs: list[dict[str, Any]], of: str, path: str) -> None:
  """Draws distances against training and against an image's cost, and samples."""
  figure, axes = plotting.figure(2 + len(runs), f'A GAN and a diffusion on {of}')
  for run, panel in zip(runs, axes[2:], strict=True):
    flops, distances = zip(*curve(run, of), strict=True)
    axes[0].plot([f / 1e12 for f in flops], distances, marker='.', label=run['recipe'])
    by_sampler = {}
    for words, way in run['ways'].items():
      by_sampler.setdefault(words.partition(', ')[0], []).append(way)
    for words, ways in by_sampler.items():
      points = [[way[name] for way in ways] for name in ('flops', DISTANCE)]
      axes[1].plot([f / 1e6 for f in points[0]], points[1], marker='.', label=words)
    gen = loaded.load(os.path.join(run['workdir'], 'export', 'generator.safetensors'))
    options = list(WAYS[run['recipe']].values())[:: max(len(WAYS[run['recipe']]) // 4, 1)]
    labels = np.arange(SHOWN) % gen.num_classes
    rows = np.concatenate([gen(labels, seed=0, **one) for one in options])
    panel.imshow(grids.grid(rows, SHOWN), cmap='gray')
    panel.set(title=f'{run["recipe"]}: ' + ', '.join(map(named, options)), xticks=[], yticks=[])
    panel.title.set_fontsize(7)
  for axis, what in zip(axes, ('TFLOP of training', 'MFLOP an image'), strict=False):
    axis.axhline(runs[0]['real'][DISTANCE], color='k', linestyle=':', label='real images')
    axis.set(xlabel=what, ylabel="Frechet distance, the classifier's features")
    plotting.log_scale(axis)
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
  axes[1].set_xscale('log')
  axes[1].xaxis.set_major_formatter('{x:g}')
  plotting.save(figure, path)


def named(options: dict[str, str]) -> str:
  """Options in few words."""
  return ' '.join(options.values()) or 'untruncated'


def main() -> None:
  parser = argparse.ArgumentParser(add_help=False)
  parser.add_argument('--set', choices=tuple(SETS), default='digits')
  args, sys.argv[1:] = parser.parse_known_args()
  of = args.set
  by_workdir = lambda config, workdir: look(
    config, workdir, 'gan' if config.algorithm == 'biggan' else 'diffusion'
  )
  built_in = {'placed': None} if of == 'digits' else {}
  runs, picture = recipes.measured(
    __doc__, f'gan_or_diffusion_{of}', STEPS[of]['gan'],
    {system: config_of(system, of) for system in SETS[of]},
    by_workdir, functools.partial(length, of=of), seeds=1, **built_in,
  )  # fmt: skip
  print(table(runs))
  draw(runs, of, picture)


if __name__ == '__main__':
  main()
