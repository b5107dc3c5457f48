"""Measured training steps on whatever is here: CPU, GPU or TPU; beside PyTorch where asked.

  python benchmarks/train_step.py                             # 32 px, ch 32, batch 32
  python benchmarks/train_step.py --config imagenet128 --config.optim.batch_size=64
  python benchmarks/train_step.py --peer                      # needs the [oracle] extra
  python benchmarks/train_step.py --config imagenet128 --config.optim.batch_size=512 --only=peer

Prints images per second and achieved FLOP/s (those of the model, counted by bigjax plan) against a
matrix product measured in the same run. With --peer, ours and benchmarks/peer_torch.py (on a CPU in
both memory layouts, on a GPU channels_last and compiled) take turns, and every round is shown:
machines are noisy, ratios within a round less so. `--only` measures one side where the memory of a
device does not hold both; JAX must then not reserve it (XLA_PYTHON_CLIENT_PREALLOCATE=false, with
--peer too).
"""

import dataclasses
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.algorithms.base import configs
from bigjax.core import parallel
from bigjax.models import biggan
from bigjax.preflight import step_cost
from bigjax.training.program import make_program

OPTIONS = {
  'rounds': 'of measurements (default 5)',
  'seconds': 'of each measurement (default 8)',
  'only': 'one side: bigjax or peer',
  'profile': 'a folder for a profile of three steps of ours',
}
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
  program = make_program(config)
  stage, rng = program.stage(0), np.random.RandomState(0)
  lead = stage.minibatches, len(parallel.local_rows(program.mesh, stage.examples))
  batch = parallel.to_global(
    program.mesh,
    {
      'image': rng.randint(0, 256, (*lead, *stage.image)).astype(np.uint8),
      'label': rng.randint(0, config.data.num_classes, lead).astype(np.int32),
    },
  )
  state = [program.init(jax.random.key(0), {})]

  def step():
    state[0], metrics = program.step(state[0], batch)
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


def theirs(config):
  """Return {name: function that runs one step in PyTorch, and waits for it}."""
  import peer_torch

  model, opt, size = config.model, config.optim, config.data.resolution
  same = model.network == 'biggan' and model.skip_z and model.shared_dim and not model.bn_group
  same = same and config.data.channels == 3 and config.augment.name == 'none'
  if not same or opt.r1_gamma or model.disc_dropout or opt.sigma_tool != 'none':
    raise SystemExit(
      'benchmarks/peer_torch.py has BigGAN in colour with skip_z, a shared embedding and BatchNorm '
      'over the batch, and none of the extras: choose another config, or leave out --peer.'
    )
  widths, num_down = biggan.DISC_WIDTHS[size]
  setup = peer_torch.Setup(
    resolution=size,
    gen_widths=biggan.GEN_WIDTHS[size],
    disc_widths=tuple(model.disc_widths) or widths,
    num_down=num_down,
    gen_attention=tuple(model.gen_attention),
    disc_attention=tuple(model.disc_attention),
    ch=model.ch,
    batch=config.optim.batch_size,
    d_steps=config.optim.d_steps,
    num_classes=config.data.num_classes,
    z_dim=model.z_dim,
    shared_dim=model.shared_dim,
    ortho_beta=config.optim.ortho_beta,
    betas=(config.optim.b1, config.optim.b2),
    bfloat16=model.dtype == 'bfloat16',
    device='cuda' if jax.default_backend() == 'gpu' else 'cpu',
  )
  if setup.device == 'cuda':
    kernels = {'torch, channels_last, compiled': {'channels_last': True, 'compiled': True}}
  else:
    kernels = {'torch': {}, 'torch, channels_last': {'channels_last': True}}
  return {name: peer_torch.Step(dataclasses.replace(setup, **how)) for name, how in kernels.items()}


def gib_at_peak(side):
  """Return how much device memory a side has held at once, '' where it is not known."""
  if jax.default_backend() == 'cpu':
    return ''
  if side == 'bigjax':
    num = jax.local_devices()[0].memory_stats()['peak_bytes_in_use']
  else:
    import torch

    num = torch.cuda.max_memory_allocated()
  return f', {num / 2**30:.1f} GiB at its peak'


def main(argv):
  if '--help' in argv or '-h' in argv:
    print(__doc__)
    return
  small = not any(word.startswith('--config=') or word == '--config' for word in argv)
  if small:  # before what is given, which wins
    argv = [*(f'--config.{key}={value}' for key, value in SMALL.items()), *argv]
  config, name, given = configs.parse('train_step', argv, OPTIONS, SWITCHES)
  name = '32 px, ch 32' if small else name
  only = given['only'] or ('both' if given['peer'] else 'bigjax')
  if only not in ('bigjax', 'peer', 'both'):
    raise SystemExit(f'--only={only}: give bigjax or peer.')
  rounds, seconds = int(given['rounds'] or 5), float(given['seconds'] or 8)
  sides = {} if only == 'peer' else {'bigjax': ours(config)}
  sides |= {} if only == 'bigjax' else theirs(config)
  for side, step in sides.items():
    began = time.monotonic()
    step()
    print(f'{name}: first step of {side}: {time.monotonic() - began:.0f} s', file=sys.stderr)
  if given['profile'] and 'bigjax' in sides:
    with jax.profiler.trace(given['profile'], create_perfetto_trace=True):
      for _ in range(3):
        sides['bigjax']()
  times = {side: [] for side in sides}
  print('| round | ' + ' | '.join(f'{side}, s' for side in sides) + ' |')
  print('|---' * (len(sides) + 1) + '|')
  for i in range(rounds):
    for side, step in sides.items():
      times[side].append(timed(step, seconds))
    row = ' | '.join(f'{values[-1]:.4f}' for values in times.values())
    print(f'| {i + 1} | {row} |', flush=True)
  report(config, times)


def report(config, times):
  """Print rates of every side, and how it compares with ours."""
  flops = step_cost.model_flops(config)
  images = config.optim.batch_size * config.optim.d_steps
  dtype = jnp.dtype(config.model.dtype)
  top = ceiling(dtype, 2048 if jax.default_backend() == 'cpu' else 8192)
  print(
    f'\n{jax.devices()[0].device_kind} x {jax.device_count()}: '
    f'a {dtype} matrix product runs at {top / 1e9:,.0f} GFLOP/s'
  )
  for side, values in times.items():
    mine = statistics.median(values)
    print(
      f'{side}: {mine:.4f} s per step, {images / mine:,.1f} images/s, '
      f'{flops / mine / 1e9:,.1f} GFLOP/s of the model, {flops / mine / top:.2f} of the product'
      + gib_at_peak(side)
    )
  for side, values in times.items():
    if side != 'bigjax' and 'bigjax' in times:
      ratio = statistics.median(t / o for t, o in zip(values, times['bigjax'], strict=True))
      print(f'{side}: {ratio:.2f} x the time of bigjax')


if __name__ == '__main__':
  main(sys.argv[1:])
