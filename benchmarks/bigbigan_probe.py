"""BigBiGAN's encoder, frozen, beside raw pixels and beside itself untrained, by the same probes.

  nice -n 15 python benchmarks/bigbigan_probe.py --data_dir DIR               # CIFAR-10 at 32 px
  nice -n 15 python benchmarks/bigbigan_probe.py --data_dir DIR --set digits  # one label per class

Three seeds: of the run, and of what a probe draws. Of the digits, probes know one label of each
class, of which LABELS draws are averaged; with all labels raw pixels reach 0.98. Prints a table of
linear probes (avepool, BN and CReLU) and of neighbours, of test images, with what generation and
reconstructions score, and draws each trained probe beside the untrained one and the pixels. An
interrupted comparison goes on.
"""

import argparse
import functools
import os
import sys
from typing import Any

import jax
import ml_collections
import numpy as np
import recipes

from bigjax import data
from bigjax.algorithms.base import configs
from bigjax.core import files, plotting
from bigjax.evaluation import image_sets
from bigjax.evaluation.metrics import probes
from bigjax.evaluation.quick import classifier
from bigjax.sampling import loaded as loading
from bigjax.training import batches
from bigjax.training.program import make_program

SETS = {'cifar10': (3000, 0, 1), 'digits': (2000, 1, 20)}  # steps, labels of each class, draws
KINDS = ('avepool', 'bncrelu', 'knn')


def real_images(config: ml_collections.ConfigDict) -> tuple[data.Labelled, data.Labelled]:
  """Training and test images with the data's own labels, at the size that the encoder takes."""
  given, size = config.data, (config.data.resolution,) * 2 + (config.data.channels,)
  known = {'held_out': given.held_out, 'per_class': given.per_class, 'fraction': given.fraction}
  found = image_sets.open_source(given.source, size, given.data_dir, known)
  both = []
  for split in ('train', 'test'):
    parts = list(found[split].batches(1024))
    both.append(tuple(np.concatenate(part) for part in zip(*parts, strict=True)))
  return both[0], both[1]


def untrained(config: ml_collections.ConfigDict, images: np.ndarray) -> loading.Loaded:
  """The run's networks as they begin, the encoder with the moments of these images."""
  config, source = batches.load_data(config)
  program = make_program(config)
  stage = program.stage(0)
  state = program.init(jax.random.key(config.seed), {})
  algorithm, weights = program.algorithm, state['players']['ge']['params']['enc']
  batch = {'image': images, 'enc_image': images}
  seen = batch[next(name for name in ('enc_image', 'image') if name in dict(stage.inputs))]
  _, sown = jax.jit(
    lambda weights, x: algorithm.enc_net.apply(
      {'params': weights}, x / 127.5 - 1, train=True, mutable=['moments']
    )
  )(weights, seen.astype(np.float32))
  gen = {**program.gen(state, stage), 'enc_stats': sown['moments']}
  card = {'class_names': list(source.class_names), 'sampling': {}, 'algorithm': config.algorithm}
  return loading.Loaded(program.sampler(stage), gen, card)


def probed(
  train: probes.Seen, test: probes.Seen, per_class: int, draws: int, seed: int
) -> dict[str, float]:
  """{kind: share right}, a mean over draws of the labels."""
  each = []
  for draw in range(draws):
    pick = probes.few(train[1], per_class, 1000 * seed + draw)
    known = train[0][pick], train[1][pick]
    split = lambda x: probes.bncrelu(x, train[0])
    each.append({
      'avepool': probes.linear(known, test, seed)[1],
      'bncrelu': probes.linear((split(known[0]), known[1]), (split(test[0]), test[1]), seed)[1],
      'knn': probes.neighbours(known, test),
    })  # fmt: skip
  return {kind: float(np.mean([one[kind] for one in each])) for kind in KINDS}


def reconstructed(loaded: loading.Loaded, train: Any, test: Any) -> dict[str, float]:
  """Share of reconstructions of test images that show their class, and how far they are away."""
  side = loaded.shape[-3]
  small = lambda images: data.shrunk(images, side)
  trained, _ = classifier.trained_on(
    lambda most: classifier.evenly((small(train[0]), train[1]), most)
  )
  made = loaded.reconstruct(test[0])
  told = lambda images: trained.known[trained.look(images)[0][:, : len(trained.known)].argmax(1)]
  return {
    'agreement': float((told(made) == test[1]).mean()),
    'agreement of real images': float((told(small(test[0])) == test[1]).mean()),
    'mse': float(np.square(made / 255.0 - small(test[0]) / 255.0).mean()),
  }


def look(
  config: ml_collections.ConfigDict, workdir: str, per_class: int, draws: int
) -> dict[str, Any]:
  """What probes find in the trained encoder, in the untrained one, and in raw pixels."""
  train, test = real_images(config)
  trained = loading.load(workdir)
  features = {
    'trained': trained.features,
    'untrained': untrained(config, train[0][:1024]).features,
    'pixels': lambda images: images.reshape(len(images), -1).astype(np.float32) / 255,
  }
  found: dict[str, Any] = {}
  for name, see in features.items():
    seen = [(see(images), labels) for images, labels in (train, test)]
    found[name] = probed(*seen, per_class, draws, config.seed)
  found['reconstructions'] = reconstructed(trained, train, test)
  summary = files.read_json(os.path.join(workdir, 'summary.json'))
  return {**found, 'summary': summary}


def draw(runs: list[dict[str, Any]], path: str) -> None:
  names = ('trained', 'untrained', 'pixels')
  figure, axes = plotting.figure(len(KINDS), 'Share of test images that a probe gets right')
  for axis, kind in zip(axes, KINDS, strict=True):
    for i, name in enumerate(names):
      values = [run[name][kind] for run in runs]
      axis.plot([i] * len(values), values, 'o')
      axis.plot([i - 0.2, i + 0.2], [np.mean(values)] * 2, color='black')
    axis.set(xticks=range(len(names)), title=kind)
    axis.set_xticklabels(names)
    axis.grid(alpha=0.3)
  plotting.save(figure, path)


def table(runs: list[dict[str, Any]]) -> str:
  """A Markdown table: what was looked at, by probe, means and deviations over seeds."""
  lines = ['| features | ' + ' | '.join(KINDS) + ' |', '|---' * (len(KINDS) + 1) + '|']
  for name in ('trained', 'untrained', 'pixels'):
    cells = []
    for kind in KINDS:
      values = [run[name][kind] for run in runs]
      cells.append(f'{np.mean(values):.3f} ± {np.std(values, ddof=len(values) > 1):.3f}')
    lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
  for key in runs[0]['reconstructions']:
    values = [run['reconstructions'][key] for run in runs]
    lines.append(f'\nreconstructions, {key}: {np.mean(values):.3f} ({", ".join(map(str, values))})')
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(add_help=False)
  parser.add_argument('--set', choices=tuple(SETS), default='cifar10')
  args, sys.argv[1:] = parser.parse_known_args()
  steps, per_class, draws = SETS[args.set]
  config = configs.read(f'bigbigan:{args.set}')
  seen = functools.partial(look, per_class=per_class, draws=draws)
  every = lambda recipe, steps: {'run.checkpoint_every': max(steps // 4, 1)}
  runs, picture = recipes.measured(
    __doc__, f'bigbigan_{args.set}', steps, {args.set: config}, seen, every
  )
  print(table(runs))
  draw(runs, picture)


if __name__ == '__main__':
  main()
