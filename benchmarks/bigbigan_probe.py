"""BigBiGAN's encoder, frozen, beside raw pixels and beside itself untrained, by the same probes.

  nice -n 15 python benchmarks/bigbigan_probe.py --data_dir DIR               # CIFAR-10 at 32 px
  nice -n 15 python benchmarks/bigbigan_probe.py --data_dir DIR --set digits  # one label per class

Three seeds: of the run, and of what a probe draws. Of the digits, probes know one label of each
class, of which some draws are averaged; with all labels raw pixels reach 0.98. Prints a table of
linear probes (avepool, BN and CReLU) and of neighbours, of test images; what reconstructions show,
and how well the encoder finds latents again; and what generation scores beside a BigGAN without
labels and without an encoder, at equal FLOPs. Draws the probes, and reconstructions of test images.
What is asked for: BN and CReLU above pixels by 5 points and above untrained by 3, in the mean; of
the digits, reconstructions that show their class in 70 of 100. An interrupted comparison goes on;
`--only bigbigan` leaves BigGAN out.
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
from bigjax.core import config as core_config
from bigjax.core import files, plotting
from bigjax.evaluation import image_sets
from bigjax.evaluation.metrics import probes
from bigjax.evaluation.quick import classifier
from bigjax.preflight import step_cost
from bigjax.sampling import grids
from bigjax.sampling import loaded as loading
from bigjax.training import batches
from bigjax.training.program import make_program

SETS = {'cifar10': (3000, 0, 1), 'digits': (2000, 1, 20)}  # steps, labels of each class, draws
BIGGAN = {'cifar10': 'cifar10:laptop', 'digits': 'digits'}
KINDS = ('avepool', 'bncrelu', 'knn')
ASKED = 'bncrelu'  # the better of the paper's two
FEATURES = ('trained', 'untrained', 'pixels')
ABOVE = {'pixels': 0.05, 'untrained': 0.03}  # of the mean
SHOWN = 20  # test images that are drawn with their reconstructions


def biggan_of(set_name: str) -> ml_collections.ConfigDict:
  """BigGAN on the same data without labels, scored alike."""
  scored = core_config.flatten(configs.read(f'bigbigan:{set_name}'))
  keys = {key: value for key, value in scored.items() if key.startswith('eval.')}
  return core_config.changed(configs.read(BIGGAN[set_name]), keys | {'data.num_classes': 1})


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


def untrained(
  config: ml_collections.ConfigDict, images: np.ndarray, card: dict[str, Any]
) -> loading.Loaded:
  """The run's networks as they begin, the encoder with the moments of these images."""
  config, _ = batches.load_data(config)
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
  return loading.Loaded(program.sampler(stage), gen, card)


def probed(
  train: probes.Seen, test: probes.Seen, per_class: int, draws: int, seed: int
) -> dict[str, float]:
  """{kind: share right}, a mean over draws of the labels."""
  each, split = [], probes.bncrelu(train[0])
  for draw in range(draws):
    pick = probes.few(train[1], per_class, 1000 * seed + draw)
    known = train[0][pick], train[1][pick]
    each.append({
      'avepool': probes.linear(known, test, seed=seed)[1],
      'bncrelu': probes.linear(known, test, split, seed)[1],
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


def recovered(loaded: loading.Loaded, num: int = 512) -> float:
  """Mean cosine of latents and what the encoder says of their images, which it never sees."""
  spec = loaded.spec()
  loaded.prepare(spec)
  z = loaded.sampler.latents(0, num, spec)
  found = loaded.encode(loaded.images(z, np.zeros(num, np.int32), spec))
  norms = np.linalg.norm(z, axis=1) * np.linalg.norm(found, axis=1)
  return float(((z * found).sum(1) / norms).mean())


def look(
  config: ml_collections.ConfigDict, workdir: str, per_class: int, draws: int
) -> dict[str, Any]:
  """What probes find in the trained encoder, the untrained one and pixels, beside its scores."""
  summary = files.read_json(os.path.join(workdir, 'summary.json'))
  if config.algorithm != 'bigbigan':
    return summary
  train, test = real_images(config)
  trained = loading.load(workdir)
  begun = untrained(config, train[0][:1024], trained.card)
  features = {
    'trained': trained.features,
    'untrained': begun.features,
    'pixels': lambda images: images.reshape(len(images), -1).astype(np.float32) / 255,
  }
  found: dict[str, Any] = {}
  for name, see in features.items():
    seen = [(see(images), labels) for images, labels in (train, test)]
    found[name] = probed(*seen, per_class, draws, config.seed)
  found['reconstructions'] = reconstructed(trained, train, test)
  found['cosine'] = {'trained': recovered(trained), 'untrained': recovered(begun)}
  return summary | found


def draw(runs: list[dict[str, Any]], path: str) -> None:
  """Draws the probes of all runs, and test images above what the first run makes of them."""
  figure, axes = plotting.figure(len(KINDS) + 1, 'Share of test images that a probe gets right')
  for axis, kind in zip(axes, KINDS, strict=False):
    for i, name in enumerate(FEATURES):
      values = [run[name][kind] for run in runs]
      axis.plot([i] * len(values), values, 'o')
      axis.plot([i - 0.2, i + 0.2], [np.mean(values)] * 2, color='black')
    axis.set(xticks=range(len(FEATURES)), title=kind)
    axis.set_xticklabels(FEATURES)
    axis.grid(alpha=0.3)
  config = configs.complete(files.read_json(os.path.join(runs[0]['workdir'], 'config.json')))
  trained, (images, _) = loading.load(runs[0]['workdir']), real_images(config)[1]
  images = images[:: max(len(images) // SHOWN, 1)][:SHOWN]
  shown, made = data.shrunk(images, trained.shape[-3]), trained.reconstruct(images)
  half = SHOWN // 2
  sheet = np.concatenate([shown[:half], made[:half], shown[half:], made[half:]])
  axes[-1].imshow(grids.grid(sheet, half), cmap='gray')
  axes[-1].set(title='test images, each above G(E(x))', xticks=[], yticks=[])
  plotting.save(figure, path)


def verdict(runs: list[dict[str, Any]]) -> str:
  """How far the probe that is asked for is above the others, in the mean."""
  mean = {name: np.mean([run[name][ASKED] for run in runs]) for name in FEATURES}
  lines = []
  for name, least in ABOVE.items():
    by = mean['trained'] - mean[name]
    lines.append(
      f'{ASKED} above {name}: {by:+.3f} (asked: {least}): {"yes" if by >= least else "no"}'
    )
  return '\n'.join(lines)


def table(runs: list[dict[str, Any]]) -> str:
  """A Markdown table: what was looked at, by probe, means and deviations over seeds."""
  lines = ['| features | ' + ' | '.join(KINDS) + ' |', '|---' * (len(KINDS) + 1) + '|']
  for name in FEATURES:
    cells = []
    for kind in KINDS:
      values = [run[name][kind] for run in runs]
      cells.append(f'{np.mean(values):.3f} ± {np.std(values, ddof=len(values) > 1):.3f}')
    lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
  for key in runs[0]['reconstructions']:
    values = [run['reconstructions'][key] for run in runs]
    lines.append(f'\nreconstructions, {key}: {np.mean(values):.3f} ({", ".join(map(str, values))})')
  for name in ('trained', 'untrained'):
    values = [run['cosine'][name] for run in runs]
    lines.append(f'\ncosine of E(G(z)) and z, {name}: {np.mean(values):.3f}')
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(add_help=False)
  parser.add_argument('--set', choices=tuple(SETS), default='cifar10')
  args, sys.argv[1:] = parser.parse_known_args()
  steps, per_class, draws = SETS[args.set]
  tried = {'bigbigan': configs.read(f'bigbigan:{args.set}'), 'biggan': biggan_of(args.set)}
  seen = functools.partial(look, per_class=per_class, draws=draws)

  def length(recipe: str, steps: int) -> dict[str, int]:
    """As many steps as cost what so many of BigBiGAN do."""
    unit = step_cost.run_flops(tried['bigbigan'])
    steps = recipes.steps_for(tried[recipe], sum(unit(step) for step in range(steps)))
    return {'run.steps': steps, 'run.checkpoint_every': max(steps // 4, 1)}

  runs, picture = recipes.measured(__doc__, f'bigbigan_{args.set}', steps, tried, seen, length)
  real = runs[0]['real']
  print(recipes.scores_table(runs, [name for name in real if isinstance(real[name], float)]))
  if runs := [run for run in runs if run['recipe'] == 'bigbigan']:
    print(table(runs))
    print(verdict(runs))
    draw(runs, picture)


if __name__ == '__main__':
  main()
