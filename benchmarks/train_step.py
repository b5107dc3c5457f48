"""Measured training steps on whatever is here: CPU, GPU or TPU; beside PyTorch where asked.

  python benchmarks/train_step.py                             # 32 px, ch 32, batch 32
  python benchmarks/train_step.py --config imagenet128 --config.optim.batch_size=64
  python benchmarks/train_step.py --peer                      # needs the [oracle] extra

Prints images per second and achieved FLOP/s (those of the model, counted by bigjax plan) against a
matrix product measured in the same run. With --peer, ours and benchmarks/peer_torch.py (both memory
layouts) take turns, and every round is shown: machines are noisy, ratios within a round less so.
"""

import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from bigjax import build, parallel, plan
from bigjax import config as configs

OPTIONS = {'rounds': 'of measurements (default 5)', 'seconds': 'of each measurement (default 8)'}
SWITCHES = {'peer': 'measure PyTorch in turn'}
SMALL = {  # where no config is given: BigGAN-PyTorch's CIFAR networks, one D and one G step
  'data.channels': 3,
  'data.resolution': 32,
  'model.ch': 32,
  'model.z_dim': 80,
  'model.shared_dim': 128,
  'optim.batch_size': 32,
  'optim.d_steps': 1,
}


def ours(config):
  """Return a function that runs one step of a config on noise, and waits for it."""
  program = build.make(config)
  stage = program.algorithm.stage(0)
  rng = np.random.RandomState(0)
  rows = parallel.local_rows(program.mesh, stage.batch[1])
  shape = (stage.batch[0], len(rows), stage.resolution, stage.resolution, config.data.channels)
  batch = parallel.to_global(
    program.mesh,
    {
      'image': rng.randint(0, 256, shape).astype(np.uint8),
      'label': (rng.randint(0, config.data.num_classes, shape[:2])).astype(np.int32),
    },
  )
  state = [program.init(jax.random.key(0), {})]

  def step():
    state[0], metrics = program.step(state[0], batch, stage)
    return float(metrics['g_loss'])

  return step


def timed(step, seconds):
  """Return seconds per call, the best of those that fit."""
  best, began = float('inf'), time.monotonic()
  while time.monotonic() - began < seconds:
    start = time.monotonic()
    step()
    best = min(best, time.monotonic() - start)
  return best


def ceiling(dtype, side):
  """Return the FLOP/s of a large matrix product on all devices together."""
  product = jax.jit(lambda a: a @ a)
  a = jnp.ones((side, side), dtype)
  seconds = timed(lambda: product(a).block_until_ready(), 2)
  return 2 * side**3 / seconds * jax.device_count()


def main(argv):
  config, name, given = configs.parse('train_step', argv, OPTIONS, SWITCHES)
  if not any(word.startswith('--config=') or word == '--config' for word in argv):
    config.update_from_flattened_dict(SMALL)
    name = '32 px, ch 32'
  rounds, seconds = int(given['rounds'] or 5), float(given['seconds'] or 8)
  sides = {'bigjax': ours(config)}
  if given['peer']:
    import peer_torch

    setup = {
      'ch': config.model.ch,
      'batch': config.optim.batch_size,
      'd_steps': config.optim.d_steps,
      'num_classes': config.data.num_classes,
      'z_dim': config.model.z_dim,
      'shared_dim': config.model.shared_dim,
      'device': 'cuda' if jax.default_backend() == 'gpu' else 'cpu',
      'bfloat16': config.model.dtype == 'bfloat16',
    }
    sides['torch'] = peer_torch.Step(peer_torch.Setup(**setup))
    sides['torch, channels_last'] = peer_torch.Step(peer_torch.Setup(**setup, channels_last=True))
  began = time.monotonic()
  for step in sides.values():
    step()
  print(f'{name}: first steps took {time.monotonic() - began:.0f} s', file=sys.stderr)
  times = {side: [] for side in sides}
  print('| round | ' + ' | '.join(f'{side}, s' for side in sides) + ' |')
  print('|---' * (len(sides) + 1) + '|')
  for i in range(rounds):
    for side, step in sides.items():
      times[side].append(timed(step, seconds))
    row = ' | '.join(f'{values[-1]:.3f}' for values in times.values())
    print(f'| {i + 1} | {row} |', flush=True)
  mine = statistics.median(times['bigjax'])
  flops = plan.model_flops(config)
  images = config.optim.batch_size * config.optim.d_steps
  dtype = jnp.dtype(config.model.dtype)
  top = ceiling(dtype, 2048 if jax.default_backend() == 'cpu' else 8192)
  print(
    f'\n{jax.devices()[0].device_kind} x {jax.device_count()}: {mine:.3f} s per step, '
    f'{images / mine:,.1f} images/s, {flops / mine / 1e9:,.1f} GFLOP/s of the model, '
    f'{flops / mine / top:.2f} of a {dtype} matrix product ({top / 1e9:,.0f} GFLOP/s)'
  )
  for side, values in times.items():
    if side != 'bigjax':
      ratio = statistics.median(t / o for t, o in zip(values, times['bigjax'], strict=True))
      print(f'{side}: {ratio:.2f} x the time of bigjax')


if __name__ == '__main__':
  main(sys.argv[1:])
