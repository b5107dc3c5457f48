"""Peak memory of `bigjax evaluate` over the number of samples, 256 px a side.

  python benchmarks/evaluation_memory.py
  python benchmarks/evaluation_memory.py --sizes classifier:5000,classifier:50000

A generator of few channels makes the samples; the features are those of the small classifier (96
numbers) or of Inception with random weights (2048 numbers). Precision and recall keep all features;
images and everything between pixels and features go as they come.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

SIZES = 'classifier:1000,classifier:10000,inception:100,inception:1000'
METRICS = 'fid,is,pr'

MAKE = """
import sys, numpy as np
from bigjax.algorithms.base import configs
from bigjax.models.pretrained import registry, torch_layout
from bigjax.training import loop
folder = sys.argv[1]
config = configs.read('imagenet256:tiny')  # tiny is at 32 px
config.run.steps = 1
config.data.resolution = 256
config.model.update({'ch': 4, 'z_dim': 14, 'gen_attention': (32,), 'disc_attention': (32,)})
loop.train(config, folder + '/run')
shapes = torch_layout.shapes(registry.NETWORKS['inception'].make())
rng = np.random.RandomState(0)
scale = lambda shape: (2 / max(np.prod(shape[:-1]), 1)) ** 0.5
tensor = lambda shape: 1 + 0.1 * rng.rand(*shape) if len(shape) < 2 else rng.randn(*shape)
weights = {
  torch_layout.torch_name(path): (
    tensor(torch_layout.torch_shape(path, shape)) * (scale(shape) if len(shape) > 1 else 1)
  ).astype(np.float32)
  for path, shape in shapes.items()
}
np.savez(folder + '/inception.npz', **weights)
"""


def peak(command: list[str]) -> tuple[float, float]:
  """Run a command and return (its peak resident memory in MiB, seconds)."""
  began = time.monotonic()
  process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
  _, status, usage = os.wait4(process.pid, 0)
  if status:
    sys.exit(f'{" ".join(command)} ended with status {status}.')
  return usage.ru_maxrss / 2**10, time.monotonic() - began


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--sizes', default=SIZES, help='FEATURES:SAMPLES, separated by commas')
  args = parser.parse_args()
  folder = tempfile.mkdtemp(prefix='bigjax-evaluation-')
  subprocess.run([sys.executable, '-c', MAKE, folder], check=True)
  print('| features | samples | peak memory, MiB | seconds |\n|---|---|---|---|', flush=True)
  for size in args.sizes.split(','):
    features, num = size.split(':')
    weights = ['--weights', f'{folder}/inception.npz'] if features == 'inception' else []
    command = [sys.executable, '-m', 'bigjax', 'evaluate', '--workdir', f'{folder}/run']
    command += ['--metrics', METRICS, '--num', num, '--features', features, '--seeds', '0']
    command += ['--batch', '64', '--out', folder, '--no_floor', *weights]
    mib, seconds = peak(command)
    print(f'| {features} | {int(num):,} | {mib:,.0f} | {seconds:.0f} |', flush=True)


if __name__ == '__main__':
  main()
