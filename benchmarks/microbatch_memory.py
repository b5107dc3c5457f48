"""Memory of a training step per TPU core, by `run.microbatches` and `run.remat`; needs no TPU.

  python benchmarks/microbatch_memory.py --config imagenet128 --slice v4-8 --batch_size 2048

Compiles the step that `bigjax train` runs, ahead of time, and prints what the compiler reserves. A
step that does not fit is an error of the compiler, which names what it would need. `bigjax plan
--fit` looks for the first setting that fits; this shows all.
"""

import argparse

from bigjax.algorithms.base import configs
from bigjax.core.progress import size
from bigjax.preflight import plan_search, tpu_slices


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--config', default='imagenet128')
  parser.add_argument('--slice', default='v3-8')
  parser.add_argument('--batch_size', type=int, default=2048)
  parser.add_argument('--microbatches', default='1,4,16')
  parser.add_argument('--remat', default='0,1')
  args = parser.parse_args()
  of = tpu_slices.find(args.slice)
  print(f'{args.config}, batch {args.batch_size} on {of.num_devices} devices of {of.name}')
  print('| microbatches | remat | per device | of | compiled in |\n|---|---|---|---|---|')
  run = plan_search.watched()
  for remat in args.remat.split(','):
    for num in args.microbatches.split(','):
      config = configs.read(args.config)
      config.optim.batch_size = args.batch_size
      config.run.update({'microbatches': int(num), 'remat': remat == '1'})
      found = run(config, of)
      needs = size(found['peak_bytes']) + ('' if found['fits'] else ', does not fit')
      usable, seconds = size(found['usable_bytes']), found['compile_seconds']
      print(f'| {num} | {remat} | {needs} | {usable} | {seconds:.0f} s |', flush=True)


if __name__ == '__main__':
  main()
